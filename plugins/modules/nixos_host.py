#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Describe what a NixOS host's next system has for its guests."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nixos_host
short_description: Describe what a NixOS host's next system has for its MicroVM guests
version_added: 0.2.0
description:
  - Writes C(/etc/microvm-fleet/host.json), from which the static flake of the host makes a system. On NixOS, units,
    their settings and what starts with the host are parts of the system, and only a switch of the system changes them.
  - Changes nothing of what runs. M(microvm.fleet.nixos_system) switches the host to the system that is described.
  - The roles of the collection use it; playbooks seldom have to.
  - What no option speaks of stays as it was described.
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
      - This assumes that the system controlled or queried by the module has not changed in a relevant way.
options:
  name:
    description:
      - Attribute of C(nixosConfigurations) of the user's flake that is this host. The host's name, until something else
        is given.
    type: str
  bare:
    description:
      - With V(true), the host's next system is that of the user's flake, without anything of the collection.
    type: bool
  start_timeout:
    description:
      - How long the start of a guest may take, in seconds, unless the guest says otherwise. 150, until something else
        is given.
    type: int
  stop_timeout:
    description:
      - How long a guest has to shut down, in seconds, unless the guest says otherwise. 150, until something else is
        given.
    type: int
  writable_paths:
    description:
      - Absolute paths outside a guest's own directory that hypervisors may see and write to.
    type: list
    elements: str
  kernel_modules:
    description:
      - Kernel modules that are loaded at boot.
    type: list
    elements: str
  guests:
    description:
      - Guests, as M(microvm.fleet.microvm_guests) takes them. What they say of C(autostart), C(start_timeout),
        C(stop_timeout) and C(credentials) becomes part of the system.
    type: list
    elements: dict
    default: []
  networks:
    description:
      - Networks that descriptions of guests refer to, as M(microvm.fleet.microvm_nets) takes them. Those that were
        applied to the host are the default.
    type: list
    elements: dict
  peers:
    description:
      - Addresses of guests of other hosts, by name.
    type: dict
  update:
    description:
      - What is to be done about guests that exist, for entries of O(guests) that do not say so themselves. One that is
        left alone keeps the credentials that its runner was built for.
    type: str
    choices: [never, stage, activate, activate_staged]
    default: never
  prune:
    description:
      - Whether guests that the collection made and that O(guests) does not name are to be removed after the switch.
    type: bool
    default: false
  autostart:
    description:
      - Names of guests that start with the host, whoever made them. They have to exist.
    type: list
    elements: str
    default: []
  autostart_exclusive:
    description:
      - Whether no other guest starts with the host but those of O(autostart), and those that say so in O(guests).
    type: bool
    default: false
  lock_timeout:
    description:
      - How long to wait for another run that describes this host, in seconds.
    type: int
    default: 60
notes:
  - Runs as root on the host, which has to be NixOS.
seealso:
  - module: microvm.fleet.nixos_system
  - module: microvm.fleet.microvm_guests
"""

EXAMPLES = r"""
- name: Describe the host
  microvm.fleet.nixos_host:
    name: host1
    guests: "{{ microvm_guests }}"
  register: described

- name: Have the host run what is described
  microvm.fleet.nixos_system:
    name: host1
    confirm_timeout: 180
  when: described.switch_needed
"""

RETURN = r"""
changed:
  description: Whether the description was changed, or would be.
  type: bool
  returned: success
  sample: true
actions:
  description: What was done, or would be in check mode, a line each.
  type: list
  elements: str
  returned: success
  sample: ["host: change /etc/microvm-fleet/host.json"]
switch_needed:
  description: Whether the system that the host runs was made of another description.
  type: bool
  returned: success
  sample: true
description:
  description: The description.
  type: dict
  returned: success
  sample:
    version: 1
    name: host1
    system: x86_64-linux
    bare: false
    autostart: [web1]
    start_timeout: 150
    stop_timeout: 150
    writable_paths: []
    kernel_modules: [tun, vhost_net]
    guests:
      web1:
        settings:
          - [Service, TimeoutStopSec, "60"]
diff:
  description:
    - With C(--diff), the description before and after.
  type: dict
  returned: success
  sample:
    before: {autostart: []}
    after: {autostart: [web1]}
"""

import socket
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._guest_run import wishes
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import surroundings_spec
from ansible_collections.microvm.fleet.plugins.module_utils._host_description import (
    converge,
    entries_of,
    host_spec,
    read_wish,
)
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths


def main() -> t.NoReturn:
    """Describe the host."""
    module = FleetModule(
        noun="host",
        entries=None,
        argument_spec={**host_spec(), **surroundings_spec()},
        supports_check_mode=True,
    )
    paths = Paths()
    try:
        guests = wishes(entries_of(module.params["guests"]), module.params, paths, update=module.params["update"])
        result = converge(
            read_wish(module.params, guests),
            paths=paths,
            commands=Commands(),
            host_name=socket.gethostname().split(".")[0],
            lock_timeout=module.params["lock_timeout"],
            check=module.check_mode,
        )
    except FleetError as error:
        module.fail(error)
    module.finish_one(result.values())


if __name__ == "__main__":
    main()
