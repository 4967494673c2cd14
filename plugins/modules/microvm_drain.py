#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Drain a host of its guests, or bring them back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microvm_drain
short_description: Stop all MicroVM guests of a host and hold them, or bring them back
version_added: 0.2.0
description:
  - Stops all guests of a host, whoever made them, in an order that their labels say, and lets none start again until
    the host is brought back, not even by a reboot. Which guests start with the host stays as it is.
  - The label C(stop_order) of a guest is a number from 0 to 999, V(50) for guests without one. Guests are stopped from
    the lowest number to the highest, and started the other way round. Those with the same number go together, and a
    number has its turn when all guests of the one before are down, or up.
  - Each guest has as long as its unit says, and is killed then, which RV(results[].killed) says.
  - The mark C(/var/lib/microvm-fleet/drained.json) is written before the first guest is stopped. A run that was killed
    is finished by the next one.
author:
  - microvm.fleet contributors (@microvm-fleet)
extends_documentation_fragment:
  - microvm.fleet.attributes
  - microvm.fleet.attributes.action_group
attributes:
  idempotent:
    support: full
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
options:
  state:
    description:
      - V(drained) stops all guests and holds them.
      - V(undrained) starts those that ran when the host was drained, and holds none any more. A guest that does not
        start fails the module after the others were started; the next run tries it again.
    type: str
    choices: [drained, undrained]
    default: drained
  reason:
    description:
      - Why the host is drained, a line for those who wonder. When not given, one that is there stays.
    type: str
  protected:
    description:
      - Stop guests that are protected too. Otherwise nothing is done while one of them runs.
    type: bool
    default: false
  guests:
    description:
      - Entries as M(microvm.fleet.microvm_health) takes them, which say of guests when they are healthy. Those of
        M(microvm.fleet.microvm_guests) will do.
      - With V(undrained), a guest whose entry has C(health) is waited for until it is healthy, before those that come
        after it are started. Of other guests it is enough that they stay up for three seconds.
    type: list
    elements: dict
    default: []
  lock_timeout:
    description:
      - Seconds to wait for other runs on this host.
    type: int
    default: 60
notes:
  - Runs as root on the host, which the role P(microvm.fleet.host#role) has set up.
  - Guests of a drained host can be created, and prepared for an update. What would start one is an error.
seealso:
  - module: microvm.fleet.microvm_guests
  - module: microvm.fleet.microvm_guest_info
"""

EXAMPLES = r"""
- name: Stop all guests before the host gets new memory
  microvm.fleet.microvm_drain:
    reason: new memory, ticket 4711

- name: Bring them back
  microvm.fleet.microvm_drain:
    state: undrained
    guests: "{{ microvm_guests }}"
"""

RETURN = r"""
actions:
  description: What was done, or would be, a line each.
  returned: always
  type: list
  elements: str
  sample: [let no guest start, "web1: stop (stop_order 10)", "db1: stop (stop_order 90)"]
drained:
  description: The mark of the host, V(null) when it is not drained.
  returned: always
  type: dict
  contains:
    since:
      description: When it was drained, in UTC.
      type: str
      returned: always
      sample: "2026-11-23T17:05:00Z"
    reason:
      description: Why, if somebody said.
      type: str
      returned: always
      sample: new memory, ticket 4711
    guests:
      description: The guests that ran, with name and order.
      type: list
      elements: dict
      returned: always
      sample: [{name: web1, order: 10}, {name: db1, order: 90}]
    returning:
      description: Whether it is being brought back, so that guests may start.
      type: bool
      returned: always
      sample: false
results:
  description: The guests that were stopped or started, in that order.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the guest.
      type: str
      returned: always
      sample: web1
    order:
      description: Its place in the order of stops.
      type: int
      returned: always
      sample: 10
    changed:
      description: Whether it was stopped or started, or would be.
      type: bool
      returned: always
      sample: true
    failed:
      description: Whether that failed.
      type: bool
      returned: always
      sample: false
    killed:
      description: Whether it had to be killed, because it did not end within its time.
      type: bool
      returned: always
      sample: false
    msg:
      description: Why it failed.
      type: str
      returned: on failure
      sample: "guest web1, state: did not stay up: the unit is failed (exit-code). Its journal ends with: ..."
"""

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._drain_run import converge, read_healths, read_wish
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths


def main() -> t.NoReturn:
    """Drain the host, or bring it back."""
    module = FleetModule(
        noun="host",
        entries=None,
        argument_spec={
            "state": {"type": "str", "choices": ["drained", "undrained"], "default": "drained"},
            "reason": {"type": "str"},
            "protected": {"type": "bool", "default": False},
            "guests": {"type": "list", "elements": "dict", "default": []},
            "lock_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    paths = Paths()
    try:
        result = converge(
            read_wish(module.params),
            paths=paths,
            healths=read_healths(module.params["guests"], paths),
            commands=Commands(),
            lock_timeout=module.params["lock_timeout"],
            check=module.check_mode,
        )
    except FleetError as error:
        module.fail(error)
    for warning in result.warnings:
        module.warn(warning)
    module.finish(result.values(), noun="guests", failures=result.failures)


if __name__ == "__main__":
    main()
