# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests as they are: what the modules call that only read.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish, explaining
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import name_faults
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import describe, observe
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths


@explaining()
def inspect(names: t.Sequence[str] | None, *, paths: Paths, commands: Commands) -> list[dict[str, t.Any]]:
    """The structure of guests *names*, or of all of the host.  Raises InvalidWish for a name that cannot be one."""
    for name in names or ():
        for seen in name_faults(name):
            raise InvalidWish(seen, subject="guest " + repr(name), field="names", hint="Give the names of guests.")
    host = observe(paths, commands, names or None)
    found = sorted(host.guests) if not names else list(names)
    return [describe(host.guest(name)) for name in found]
