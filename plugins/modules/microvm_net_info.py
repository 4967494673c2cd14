#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the networks of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microvm_net_info
short_description: Read the networks for the MicroVM guests of a host
version_added: 0.1.0
description:
  - Tells what networks the collection keeps on a host, as the kernel has them.
author:
  - microvm.fleet contributors (@microvm-fleet)
extends_documentation_fragment:
  - microvm.fleet.attributes.info
  - microvm.fleet.attributes.action_group
seealso:
  - module: microvm.fleet.microvm_net
  - module: microvm.fleet.microvm_nets
  - name: systemd.network
    description: How systemd-networkd is told about networks.
    link: https://www.freedesktop.org/software/systemd/man/latest/systemd.network.html
options:
  names:
    description:
      - Networks to tell of. All when it is empty; those that do not exist are left out.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Read all networks
  microvm.fleet.microvm_net_info:
  register: read

- name: See that nothing is wrong with them
  ansible.builtin.assert:
    that: read.networks | map(attribute='problems') | flatten | length == 0
"""

RETURN = r"""
networks:
  description: The networks, by name.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Name of the network.
      type: str
      returned: always
      sample: lan
    kind:
      description: Kind of the network.
      type: str
      returned: always
      sample: bridge
    exists:
      description: Whether the kernel has the bridge.
      type: bool
      returned: always
      sample: true
    up:
      description: Whether the bridge is up.
      type: bool
      returned: always
      sample: true
    bridge:
      description: Name of the bridge.
      type: str
      returned: always
      sample: lan
    addresses:
      description: Addresses that the kernel has on the bridge, link-local ones left out.
      type: list
      elements: str
      returned: always
      sample: [10.0.0.1/24, "fd00::1/64"]
    mac:
      description: MAC address that the kernel has. V(null) while there is none.
      type: str
      returned: always
      sample: "02:00:00:00:00:01"
    mtu:
      description: MTU that the kernel has.
      type: int
      returned: always
      sample: 1500
    taps:
      description: Patterns of the taps that are put into the bridge.
      type: list
      elements: str
      returned: always
      sample: [vm-*]
    ports:
      description: Interfaces that are in the bridge.
      type: list
      elements: str
      returned: always
      sample: [vm-web1]
    nat:
      description: Whether IPv4 leaves with the host's address, as nftables has it.
      type: bool
      returned: always
      sample: true
    nat_ipv6:
      description: The same for IPv6.
      type: bool
      returned: always
      sample: false
    uplink:
      description: Uplink that was wished for.
      type: str
      returned: always
      sample: null
    uplinks:
      description: Interfaces through which guests reach the outside.
      type: list
      elements: str
      returned: always
      sample: [eth0]
    reach:
      description: Other networks that guests may open connections to.
      type: list
      elements: str
      returned: always
      sample: []
    dhcp:
      description: The DHCP server, with all of its defaults filled in. V(null) when there is none.
      type: dict
      returned: always
      sample:
        enabled: true
        range_start: 10.0.0.128
        range_end: 10.0.0.254
        lease_time: 3600
        dns: null
        router: null
        leases:
          - name: web1
            mac: "02:00:00:00:00:0b"
            address: 10.0.0.11
    router_advertisements:
      description: Router advertisements. V(null) when there are none.
      type: dict
      returned: always
      sample: null
    problems:
      description: What is not as wished, a sentence each.
      type: list
      elements: str
      returned: always
      sample: []
"""

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule
from ansible_collections.microvm.fleet.plugins.module_utils._net_files import NetPaths
from ansible_collections.microvm.fleet.plugins.module_utils._net_run import info


def main() -> t.NoReturn:
    """Read the networks."""
    module = FleetModule(
        noun="network",
        entries=None,
        argument_spec={"names": {"type": "list", "elements": "str", "default": []}},
        supports_check_mode=True,
    )
    try:
        networks = info(module.params["names"], commands=Commands(), paths=NetPaths())
    except FleetError as error:
        module.fail(error)
    module.finish_one({"changed": False, "networks": networks})


if __name__ == "__main__":
    main()
