#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find out whether guests of a host are healthy."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microvm_health
short_description: Find out whether MicroVM guests of a host are healthy
version_added: 0.2.0
description:
  - Judges guests that run as M(microvm.fleet.microvm_guests) judges a guest that it has given a new runner, and changes
    nothing. It fails when one of them is not healthy.
  - A guest is healthy when it stays up and all its probes pass for O(guests[].min_healthy_time) in a row. All guests
    are judged at once.
  - A guest that is down is not healthy, and is not waited for. Neither is one whose unit is started again meanwhile, or
    whose console says that it has come up in emergency mode, has not mounted a filesystem, or has panicked.
author:
  - microvm.fleet contributors (@microvm-fleet)
extends_documentation_fragment:
  - microvm.fleet.attributes.info
  - microvm.fleet.attributes.action_group
options:
  guests:
    description:
      - The guests to judge.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the guest.
        type: str
        required: true
      interfaces:
        description:
          - Interfaces of the guest, as O(microvm.fleet.microvm_guests#module:guests[].interfaces) takes them. What
            counts is the first of their C(addresses), at which the guest is asked.
          - Of a guest that is described in C(/etc/microvm-fleet) on the host, the description says them, when this
            does not.
        type: list
        elements: dict
      health:
        description:
          - Probes, all of which have to pass.
          - Without any, the guest has to stay up for O(guests[].min_healthy_time).
        type: list
        elements: dict
        suboptions:
          kind:
            description:
              - With V(tcp), the guest takes connections on a port.
              - With V(http), it answers a GET, with a status and, if wished, a page that matches a pattern.
                Redirections are answers like others.
              - With V(ssh), a command ends with 0 in it.
              - With V(journal), a line of its journal matches a pattern, or none does. Its console is part of that.
                Lines of earlier starts do not count.
              - With V(notify), the guest has told its host that it is ready, as hypervisors do that have a socket for
                that.
              - V(active) is that the unit stays active, which always counts.
            type: str
            choices: [active, notify, tcp, http, ssh, journal]
            required: true
          interval:
            description:
              - Seconds from one question to the next, V(5) when not given.
            type: int
          timeout:
            description:
              - Seconds for an answer, V(5) when not given.
            type: int
          retries:
            description:
              - How many failures in a row are forgiven once the probe has passed, V(0) when not given.
            type: int
          deadline:
            description:
              - Seconds after which it has to have passed once, O(guests[].healthy_deadline) when not given.
            type: int
          address:
            description:
              - Address of the guest, the first one of O(guests[].interfaces) when not given.
            type: str
          port:
            description:
              - Port of the guest. V(80) for HTTP and V(22) for SSH when not given.
            type: int
          path:
            description:
              - Path of the page for V(http), V(/) when not given.
            type: str
          status:
            description:
              - Status codes that are well, as V(200) or V(200-299). V([200]) when not given.
            type: list
            elements: str
          body:
            description:
              - Regular expression of Python that is to be found in the first 64 KiB of the page.
            type: str
          command:
            description:
              - Words of the command for V(ssh).
            type: list
            elements: str
          user:
            description:
              - User of the guest, V(root) when not given.
            type: str
          key_file:
            description:
              - Absolute path of a private key on the host. The keys that root of the host has when not given.
            type: str
          host_key:
            description:
              - Public SSH host key of the guest, as in its C(/etc/ssh/ssh_host_ed25519_key.pub). The guest may have
                that one and no other.
              - When not given, the key is learned with the first contact in each start of the guest, and held for as
                long as it runs. A key that differs from that of the start before is warned of.
            type: str
          pattern:
            description:
              - Regular expression of Python for V(journal).
            type: str
          absent:
            description:
              - Whether no line may match, V(false) when not given.
            type: bool
      min_healthy_time:
        description:
          - Seconds for which everything has to be well in a row, V(10) when not given.
        type: int
      healthy_deadline:
        description:
          - Seconds after which the guest has to be healthy, V(300) when not given.
        type: int
      progress_deadline:
        description:
          - Seconds that may pass without any of the guests becoming healthy. Those that are left fail then. V(600) or
            O(guests[].healthy_deadline) when not given, whichever is more; V(0) is no such limit.
        type: int
notes:
  - Runs as root on the host, from which guests are asked.
  - Which SSH host keys guests have shown is kept in C(/var/lib/microvm-fleet/ssh).
seealso:
  - module: microvm.fleet.microvm_guests
  - module: microvm.fleet.microvm_guest_info
"""

EXAMPLES = r"""
- name: Have a web server that answers, and a database that runs
  microvm.fleet.microvm_health:
    guests:
      - name: web1
        interfaces:
          - {id: vm-web1, addresses: [10.0.0.11/24]}
        health:
          - {kind: http, path: /ready, body: '"status": *"ok"'}
          - {kind: journal, pattern: Out of memory, absent: true}
      - name: db1
        interfaces:
          - {id: vm-db1, addresses: [10.0.0.12/24]}
        health:
          - kind: ssh
            command: [pg_isready]
            key_file: /root/.ssh/guests
        min_healthy_time: 30

- name: See that nothing of a guest has ended or is in an emergency
  microvm.fleet.microvm_health:
    guests:
      - {name: web1, min_healthy_time: 0}
"""

RETURN = r"""
results:
  description: An entry for each guest of O(guests), in their order.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: Name of the guest.
      type: str
      returned: always
      sample: web1
    healthy:
      description: Whether it is healthy.
      type: bool
      returned: always
      sample: false
    failed:
      description: The opposite.
      type: bool
      returned: always
      sample: true
    reason:
      description: Why it is not.
      type: str
      returned: when it is not
      sample: "not within 300 s: tcp 10.0.0.11:80: connection refused"
    msg:
      description: The reason as a message that names the guest.
      type: str
      returned: when it is not
      sample: "guest web1, health: is not healthy: not within 300 s: tcp 10.0.0.11:80: connection refused."
    subject:
      description: The guest in words.
      type: str
      returned: when it is not
      sample: guest web1
    field:
      description: The option that the message is about.
      type: str
      returned: when it is not
      sample: health
"""

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._health_check import (
    check,
    checks_spec,
    described_addresses,
    read_checks,
)
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths


def main() -> t.NoReturn:
    """Judge the guests of the list."""
    module = FleetModule(
        noun="guest", entries="guests", argument_spec={"guests": checks_spec()}, supports_check_mode=True
    )
    paths = Paths()
    try:
        healths = read_checks(module.params["guests"], lambda: described_addresses(paths))
        result = check(healths, paths=paths, commands=Commands())
    except FleetError as error:
        module.fail(error)
    for warning in result.warnings:
        module.warn(warning)
    values = {"changed": False, "results": result.results}
    failures = result.failures
    if failures:
        count = f"{len(failures)} of {len(result.results)} guests are not healthy."
        failures = ["\n".join((count, *failures))]
    module.finish_one(values, failures=failures)


if __name__ == "__main__":
    main()
