#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keep all networks of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microvm_nets
short_description: Keep the networks for the MicroVM guests of a host
version_added: 0.1.0
description:
  - Makes bridges for guests with the host's addresses, DHCP, router advertisements and NAT, and puts guests' taps into
    them, again after each restart of a guest. systemd-networkd keeps them, so they are there at once and after a
    reboot.
  - Takes all networks of the host at once, and compares them with each other and with what else the host has before
    anything is changed.
  - Before it says that all is well, it reads back from the kernel what it has made and compares.
author:
  - microvm.fleet contributors (@microvm-fleet)
extends_documentation_fragment:
  - microvm.fleet.attributes
  - microvm.fleet.attributes.action_group
  - microvm.fleet.network
attributes:
  idempotent:
    support: full
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
      - This assumes that the system controlled or queried by the module has not changed in a relevant way.
seealso:
  - module: microvm.fleet.microvm_net
  - module: microvm.fleet.microvm_net_info
  - name: systemd.network
    description: How systemd-networkd is told about networks.
    link: https://www.freedesktop.org/software/systemd/man/latest/systemd.network.html
options:
  networks:
    description:
      - Networks that are wished for on this host.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the network, which is also that of its bridge unless O(networks[].bridge) is given.
          - Letters, digits, C(-) and C(_), beginning with a letter, 15 characters at most.
        type: str
        required: true
      kind:
        description:
          - How guests are joined. V(bridge) is a bridge of the host.
        type: str
        choices: [bridge]
        default: bridge
      bridge:
        description:
          - Name of the bridge's interface, if it shall be another than O(networks[].name).
        type: str
      addresses:
        description:
          - Addresses of the host on the bridge, each with the length of its network, such as V(10.0.0.1/24) or
            V(fd00::1/64).
          - The networks must not overlap those of other networks, nor those that the host has addresses in or routes
            to on other interfaces. A wider route through a gateway is no obstacle.
          - Without any, guests reach each other and not the host.
        type: list
        elements: str
        default: []
      mac:
        description:
          - MAC address of the bridge. Without it, systemd-networkd makes one that stays the same on this host.
        type: str
      mtu:
        description:
          - Largest packet in bytes, for the bridge, the taps, and clients of DHCP. Without it the kernel's 1500 stays.
          - From 68, or from 1280 with an IPv6 address, to 65535.
        type: int
      taps:
        description:
          - Patterns of the names of guests' taps, which are put into the bridge whenever they appear. C(*) stands for
            any characters and C(?) for one. Only taps are taken; interfaces of other kinds with such a name are left
            alone.
          - V(["vm-*"]) when nothing is given. With more than one network on a host each needs patterns of its own,
            such as V(["vm-lan-*"]), because no tap may match the patterns of two.
          - An empty list takes none.
        type: list
        elements: str
      nat:
        description:
          - Whether guests reach the outside over IPv4, with the host's address in place of their own.
          - Opens forwarding for the bridge and its uplinks, and for no other interface. Nothing gets from outside to
            the guests but answers.
        type: bool
        default: false
      nat_ipv6:
        description:
          - The same over IPv6.
          - The kernel forwards IPv6 for all interfaces or for none. If it did not before, what other interfaces would
            forward is dropped, and interfaces that take router advertisements go on taking them.
        type: bool
        default: false
      uplink:
        description:
          - Interface through which guests reach the outside. Without it, all interfaces that have a default route when
            the module runs.
        type: str
      reach:
        description:
          - Other networks of the host that guests of this one may open connections to. Without it they reach none.
        type: list
        elements: str
        default: []
      dhcp:
        description:
          - DHCP server for IPv4, on the first IPv4 address of O(networks[].addresses).
        type: dict
        suboptions:
          enabled:
            description:
              - Whether there is one.
            type: bool
            default: true
          range_start:
            description:
              - First address of the pool for clients without a lease of their own. Needs O(networks[].dhcp.range_end).
              - Without a range and without O(networks[].dhcp.pool_offset) the pool is the upper half of the network.
            type: str
          range_end:
            description:
              - Last address of the pool.
            type: str
          pool_offset:
            description:
              - First address of the pool, counted from the start of the network. Excludes
                O(networks[].dhcp.range_start).
            type: int
          pool_size:
            description:
              - Number of addresses in the pool. All to the end of the network when not given.
            type: int
          lease_time:
            description:
              - How long a lease is valid, in seconds, from a minute to a year.
            type: int
            default: 3600
          dns:
            description:
              - DNS servers for clients. Without it those that the host uses; an empty list gives them none.
            type: list
            elements: str
          router:
            description:
              - Default router for clients. Without it the host, if O(networks[].nat) or O(networks[].reach) make it
                lead anywhere.
            type: str
          leases:
            description:
              - Fixed addresses. An address of the pool can be among them; no other client gets it then.
              - systemd-networkd knows a client by the identifier that it sends. A guest whose identifier is its MAC
                address, as with C(ClientIdentifier=mac) of systemd.network, always gets its address. A guest with
                another is not known to systemd before 255, and newer ones refuse an address to a second identifier
                until the lease of the first has ended.
            type: list
            elements: dict
            default: []
            suboptions:
              name:
                description:
                  - Name of the guest, for messages.
                type: str
                required: true
              mac:
                description:
                  - MAC address of the guest's interface.
                type: str
                required: true
              address:
                description:
                  - IPv4 address that it gets.
                type: str
                required: true
      router_advertisements:
        description:
          - IPv6 router advertisements, from which guests make addresses in each IPv6 network of
            O(networks[].addresses). These have to be /64. The host says that it is a default router only if
            O(networks[].nat_ipv6) or O(networks[].reach) make it lead anywhere.
        type: dict
        suboptions:
          enabled:
            description:
              - Whether they are sent.
            type: bool
            default: true
          dns:
            description:
              - DNS servers for guests. Without it those that the host uses; an empty list gives them none.
            type: list
            elements: str
      state:
        description:
          - V(absent) takes away the bridge, its files, and what it opened. With the last network also the table of
            nftables and the unit go, and forwarding and systemd-networkd are put back to what they were before the
            first one.
        type: str
        choices: [present, absent]
        default: present
  prune:
    description:
      - Whether to take away networks that the collection made and that no entry of O(networks) names. They are reported
        in any case.
    type: bool
    default: false
  stage:
    description:
      - On a NixOS host, only write down the networks that the host's next system is to be made with, and change nothing
        of what runs. The role P(microvm.fleet.network#role) does so, switches the host, and calls this module again
        without it.
      - An error on other hosts.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Keep two networks, of which one reaches the outside and the other
  microvm.fleet.microvm_nets:
    networks:
      - name: front
        addresses: [10.0.0.1/24]
        taps: [vm-web*]
        nat: true
        reach: [back]
        dhcp: {}
      - name: back
        addresses: [10.0.1.1/24]
        taps: [vm-db*]
        dhcp: {}
    prune: true

- name: Take all networks of the collection away
  microvm.fleet.microvm_nets:
    networks: []
    prune: true
"""

RETURN = r"""
changed:
  description: Whether anything was done, or would be.
  type: bool
  returned: always
  sample: true
actions:
  description: What was done, or would be in check mode, a line each.
  type: list
  elements: str
  returned: success
  sample:
    - "network lan: write /etc/systemd/network/50-microvm-fleet-lan.network"
    - "host: load the table of nftables and open forwarding"
networks:
  description: All networks of the collection on the host, as they are or would be in check mode, by name.
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
orphans:
  description:
    - Networks that the collection made on the host and that no entry names, each with its name and whether it was, or
      would be, taken away.
  type: list
  elements: dict
  returned: success
  sample:
    - name: old
      pruned: false
switch_needed:
  description:
    - On NixOS, whether the system that the host runs was made with other networks than these.
  type: bool
  returned: success
  sample: false
diff:
  description:
    - With C(--diff), the networks and what the host does for them, before and after.
  type: dict
  returned: success
  sample:
    before: {networks: {}}
    after: {networks: {lan: {bridge: lan, addresses: [10.0.0.1/24]}}}
"""

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule
from ansible_collections.microvm.fleet.plugins.module_utils._net_files import NetPaths
from ansible_collections.microvm.fleet.plugins.module_utils._net_run import (
    converge,
    limits_of,
    limits_spec,
    network_options,
)
from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import parse_all


def main() -> t.NoReturn:
    """Converge the networks of the list."""
    module = FleetModule(
        noun="network",
        entries="networks",
        argument_spec={
            "networks": {"type": "list", "elements": "dict", "required": True, "options": network_options()},
            "prune": {"type": "bool", "default": False},
            "stage": {"type": "bool", "default": False},
            **limits_spec(),
        },
        supports_check_mode=True,
    )
    try:
        result = converge(
            parse_all(module.params["networks"]),
            commands=Commands(),
            paths=NetPaths(),
            limits=limits_of(module.params),
            check=module.check_mode,
            prune=module.params["prune"],
            stage=module.params["stage"],
        )
    except FleetError as error:
        module.fail(error)
    for warning in result.warnings:
        module.warn(warning)
    module.finish_one(result.values())


if __name__ == "__main__":
    main()
