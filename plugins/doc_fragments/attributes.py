# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every module of the collection says of itself."""

from __future__ import annotations


class ModuleDocFragment:
    """Attributes that are the same everywhere; each module adds O(attributes.idempotent) of its own."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Can run in check mode and return what would be done without changing anything on the host.
    details:
      - Check mode is the plan that a run would carry out, so it names the same actions.
  diff_mode:
    support: full
    description: Will return details on what has changed, or possibly needs changing in check mode, when in diff mode.
  platform:
    support: full
    platforms: linux
    description: Target systems that this module works on.
    details:
      - Needs systemd, and Python's standard library and no more.
"""

    INFO = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Can run in check mode and return what would be done without changing anything on the host.
    details:
      - This module changes nothing.
  diff_mode:
    support: none
    description: Will return details on what has changed, or possibly needs changing in check mode, when in diff mode.
    details:
      - This module changes nothing.
  idempotent:
    support: full
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
      - This assumes that the system controlled or queried by the module has not changed in a relevant way.
  platform:
    support: full
    platforms: linux
    description: Target systems that this module works on.
    details:
      - Needs systemd, and Python's standard library and no more.
"""

    ACTION_GROUP = r"""
options: {}
attributes:
  action_group:
    support: full
    description: Use C(group/microvm.fleet.fleet) in C(module_defaults) to set defaults for this module.
    membership:
      - microvm.fleet.fleet
"""
