#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One step of a move of a guest to another host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microvm_move
short_description: Do one step of a move of a MicroVM guest to another host
version_added: 0.2.0
description:
  - Does what one host has to do for a guest that moves to another host, one step a call. The playbook
    C(microvm.fleet.migrate) calls it on both hosts in the right order, and copies between them what has to be
    copied. Use that playbook.
  - Marks in C(/var/lib/microvm-fleet/moving) on both hosts see to it that the guest is never started on both, not even
    by a reboot. Each step looks whether the marks allow it, and may be done again.
author:
  - microvm.fleet contributors (@microvm-fleet)
extends_documentation_fragment:
  - microvm.fleet.attributes.action_group
attributes:
  check_mode:
    support: full
    description: Can run in check mode and return what would be done without changing anything on the host.
    details:
      - In check mode no step is done, and the guest is returned as it is. O(step=check) is what finds out whether a
        host can have the guest.
  diff_mode:
    support: none
    description: Will return details on what has changed, or possibly needs changing in check mode, when in diff mode.
  idempotent:
    support: full
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
    details:
      - V(place) is done again whenever it is asked for.
  platform:
    support: full
    platforms: linux
    description: Target systems that this module works on.
    details:
      - Needs systemd, and Python's standard library and no more.
options:
  name:
    description:
      - Name of the guest.
    type: str
    required: true
  step:
    description:
      - V(observe) changes nothing and returns how the guest is on this host.
      - On the old host, V(leave) marks the guest, so that it starts no more, V(stop) stops it, V(hand_over) lets the
        new host start it, V(release) takes it away. On the way back, V(take_back) undoes V(hand_over), and V(resume)
        takes the mark away and starts the guest if it ran.
      - On the new host, V(check) changes nothing and fails when the host cannot have the guest, V(announce) marks and
        roots what is to come, V(place) makes a guest of what was copied, V(accept) lets it start. On the way back,
        V(hold) marks and stops it, V(withdraw) takes it away.
    type: str
    choices:
      - observe
      - leave
      - stop
      - hand_over
      - release
      - take_back
      - resume
      - check
      - announce
      - place
      - accept
      - hold
      - withdraw
    required: true
  move:
    description:
      - What this move is called, 8 to 64 hexadecimal digits that no other move has.
    type: str
  other:
    description:
      - Name of the other host.
    type: str
  carry:
    description:
      - What the old host returned as C(carry) in RV(view), for steps of the new host.
    type: dict
  purge:
    description:
      - With V(release), delete the volumes on the old host. Otherwise they are kept in C(/var/lib/microvms/.kept).
    type: bool
    default: false
  protected:
    description:
      - With V(leave), move a guest that is protected.
    type: bool
    default: false
  elsewhere:
    description:
      - Volumes outside of the guest's directory are on the new host already, as on storage that both hosts have.
    type: bool
    default: false
  lock_timeout:
    description:
      - Seconds to wait for other runs that work on this guest.
    type: int
    default: 60
notes:
  - Runs as root on the host.
seealso:
  - module: microvm.fleet.microvm_stream
  - module: microvm.fleet.microvm_drain
"""

EXAMPLES = r"""
- name: See how the guest is on this host
  microvm.fleet.microvm_move:
    name: web1
    step: observe
  register: seen
"""

RETURN = r"""
actions:
  description: What was done, a line each.
  returned: always
  type: list
  elements: str
  sample: ["web1: hold it here"]
killed:
  description: Whether the guest had to be killed, because it did not end within its time.
  returned: always
  type: bool
  sample: false
kept:
  description: Where the volumes of the guest are, if it was taken away and they were kept.
  returned: always
  type: str
  sample: /var/lib/microvms/.kept/web1-20261123T170500Z
view:
  description:
    - How the guest is on this host now. The filter P(microvm.fleet.move_steps#filter) takes it.
  returned: always
  type: dict
  sample: {exists: true, up: true, phase: null}
"""

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule
from ansible_collections.microvm.fleet.plugins.module_utils._move_run import STEPS, read_request, run
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths


def main() -> t.NoReturn:
    """Do the step."""
    module = FleetModule(
        noun="guest",
        entries=None,
        argument_spec={
            "name": {"type": "str", "required": True},
            "step": {"type": "str", "required": True, "choices": list(STEPS)},
            "move": {"type": "str"},
            "other": {"type": "str"},
            "carry": {"type": "dict"},
            "purge": {"type": "bool", "default": False},
            "protected": {"type": "bool", "default": False},
            "elsewhere": {"type": "bool", "default": False},
            "lock_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    try:
        result = run(
            read_request(module.params),
            paths=Paths(),
            commands=Commands(),
            lock_timeout=module.params["lock_timeout"],
            check=module.check_mode,
        )
    except FleetError as error:
        module.fail(error)
    module.finish_one(result.values())


if __name__ == "__main__":
    main()
