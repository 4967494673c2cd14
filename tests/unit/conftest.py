# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lets the tests import the collection by its full name, wherever the checkout is."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSIDE = ("ansible_collections", "microvm", "fleet")


def _namespace() -> Path:
    """A directory that has the collection at ansible_collections/microvm/fleet: above the checkout, or with a link."""
    if ROOT.parts[-3:] == INSIDE:
        return ROOT.parents[2]
    directory = Path(tempfile.mkdtemp(prefix="microvm-fleet-tests-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    link = directory.joinpath(*INSIDE)
    link.parent.mkdir(parents=True)
    link.symlink_to(ROOT)
    return directory


sys.path.insert(0, str(_namespace()))
# Parts of Ansible's controller set the locale of the process by the environment: what the system says stays English,
# also when a test sets LANGUAGE.
os.environ.pop("LC_ALL", None)
os.environ.update(LANG="C.UTF-8", LC_MESSAGES="C")
