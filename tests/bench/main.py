# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the collection takes, beside what one would do without it; see README.md beside this file."""

import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - this is what says so
    sys.exit("bench: needs Python 3.11 or newer")
sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

from microvm_bench.cli import main  # noqa: E402

sys.exit(main())
