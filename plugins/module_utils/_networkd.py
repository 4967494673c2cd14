# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Settings for systemd-networkd: the files of a network, as plain keys and values.

Private to the collection: it may change at any time.

Facts are from systemd.netdev(5), systemd.network(5) and networkd.conf(5) of systemd 252 and 257.
"""

from __future__ import annotations

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import Network

PREFIX: t.Final = "50-microvm-fleet-"
# Sorts before the files of a distribution (80-*) and those that administrators usually number from 10.
UNMANAGED: t.Final = "05-microvm-fleet-unmanaged.network"

_KEPT: t.Final = "# Kept by the Ansible collection microvm.fleet; changes by hand are lost.\n"

Section = t.Tuple[str, t.List[t.Tuple[str, str]]]

# networkd puts away routes and rules that it did not make (networkd.conf(5)).  Where another program owns the uplink,
# it must not: ifupdown and NetworkManager would not put them back.  systemd before 256 does not know the last key and
# says so in its log, no more.
MANAGER: t.Final = (
    _KEPT
    + "# Routes and rules of the interfaces that something else manages stay as they are.\n"
    + "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\nManageForeignNextHops=no\n"
)
_UNMANAGED_NOTE: t.Final = (
    "# These were here, and systemd-networkd was not running, when the first network was made.\n"
    "# Remove a name to hand the interface to systemd-networkd.\n"
)


def _render(described: t.Iterable[Section], note: str = "") -> str:
    """One file.  Values were checked when the wish was read, so that none has a line break or a second meaning."""
    parts = [_KEPT + note]
    for title, keys in described:
        parts.append(f"[{title}]\n" + "".join(f"{key}={value}\n" for key, value in keys))
    return "\n".join(parts)


def files(network: Network, *, forwards_ipv4: bool, forwards_ipv6: bool) -> dict[str, str]:
    """The files of *network* by name.  The last two say whether the network leads anywhere, for its clients' routes."""
    described = sections(network, forwards_ipv4=forwards_ipv4, forwards_ipv6=forwards_ipv6)
    return {name: _render(one) for name, one in described.items()}


def sections(network: Network, *, forwards_ipv4: bool, forwards_ipv6: bool) -> dict[str, list[Section]]:
    """As `files`, as sections."""
    return {
        f"{PREFIX}{network.name}.netdev": _netdev(network),
        f"{PREFIX}{network.name}.network": _network(network, forwards_ipv4=forwards_ipv4, forwards_ipv6=forwards_ipv6),
        # With a dot, so that no other network's file can have this name: names of networks have none.
        f"{PREFIX}{network.name}.taps.network": _taps(network),
    }


def unmanaged(interfaces: t.Iterable[str]) -> str:
    """The file that keeps networkd off *interfaces*, which something else managed before networkd was started."""
    return _render(unmanaged_sections(interfaces), _UNMANAGED_NOTE)


def unmanaged_sections(interfaces: t.Iterable[str]) -> list[Section]:
    """As `unmanaged`, as sections."""
    return [("Match", [("Name", " ".join(interfaces))]), ("Link", [("Unmanaged", "yes")])]


def _netdev(network: Network) -> list[Section]:
    keys = [("Name", network.bridge), ("Kind", network.kind)]
    if network.mac:
        keys.append(("MACAddress", network.mac))
    return [("NetDev", keys)]


def _link(network: Network, *, mac: bool) -> list[tuple[str, str]]:
    # A bridge without a guest has no carrier; the boot must not wait for one (systemd-networkd-wait-online.service(8)).
    keys = [("RequiredForOnline", "no")]
    if network.mtu is not None:
        keys.append(("MTUBytes", str(network.mtu)))
    if mac and network.mac:
        keys.append(("MACAddress", network.mac))
    return keys


def _network(network: Network, *, forwards_ipv4: bool, forwards_ipv6: bool) -> list[Section]:
    plain = [
        # The host's addresses are there before the first guest and after the last.
        ("ConfigureWithoutCarrier", "yes"),
        ("IgnoreCarrierLoss", "yes"),
        ("LinkLocalAddressing", "ipv6" if network.ipv6 else "no"),
        # A guest must not configure its host.
        ("IPv6AcceptRA", "no"),
        ("LLMNR", "no"),
        ("MulticastDNS", "no"),
        *(("Address", str(one)) for one in network.addresses),
        ("DHCPServer", "yes" if network.dhcp else "no"),
        ("IPv6SendRA", "yes" if network.advertisements else "no"),
    ]
    found: list[Section] = [
        ("Match", [("Name", network.bridge), ("Kind", "bridge")]),
        ("Link", _link(network, mac=True)),
        ("Network", plain),
    ]
    found += _dhcp(network, forwards=forwards_ipv4)
    found += _advertisements(network, forwards=forwards_ipv6)
    return found


def _dhcp(network: Network, *, forwards: bool) -> list[Section]:
    dhcp = network.dhcp
    if dhcp is None:
        return []
    host = network.ipv4[0]
    keys = [
        ("PoolOffset", str(int(dhcp.first) - int(host.network.network_address))),
        ("PoolSize", str(int(dhcp.last) - int(dhcp.first) + 1)),
        ("DefaultLeaseTimeSec", str(dhcp.lease_time)),
        ("MaxLeaseTimeSec", str(dhcp.lease_time)),
    ]
    if len(network.ipv4) > 1:
        keys.append(("ServerAddress", str(host)))
    if dhcp.dns is None:
        keys.append(("EmitDNS", "yes"))
    elif dhcp.dns:
        keys += [("EmitDNS", "yes"), ("DNS", " ".join(str(one) for one in dhcp.dns))]
    else:
        keys.append(("EmitDNS", "no"))
    if dhcp.router is not None:
        keys += [("EmitRouter", "yes"), ("Router", str(dhcp.router))]
    else:
        keys.append(("EmitRouter", "yes" if forwards else "no"))
    if network.mtu is not None:
        # RFC 2132, 5.1: option 26, Interface MTU.
        keys.append(("SendOption", f"26:uint16:{network.mtu}"))
    leases: list[Section] = [
        ("DHCPServerStaticLease", [("MACAddress", one.mac), ("Address", str(one.address))]) for one in dhcp.leases
    ]
    return [("DHCPServer", keys), *leases]


def _advertisements(network: Network, *, forwards: bool) -> list[Section]:
    wish = network.advertisements
    if wish is None:
        return []
    # RFC 4861, 4.2: a lifetime of 0 says that the sender is no default router.
    keys = [] if forwards else [("RouterLifetimeSec", "0")]
    if wish.dns is None:
        keys.append(("EmitDNS", "yes"))
    elif wish.dns:
        keys += [("EmitDNS", "yes"), ("DNS", " ".join(str(one) for one in wish.dns))]
    else:
        keys.append(("EmitDNS", "no"))
    prefixes = dict.fromkeys(str(one.network) for one in network.ipv6)
    return [("IPv6SendRA", keys), *(("IPv6Prefix", [("Prefix", one)]) for one in prefixes)]


def _taps(network: Network) -> list[Section]:
    # A macvtap that is called like a tap must not go into the bridge, hence the kind.  No pattern matches no tap: a
    # [Match] without Name= would match all.
    return [
        ("Match", [("Name", " ".join(network.taps) or "!*"), ("Kind", "tun")]),
        ("Link", _link(network, mac=False)),
        ("Network", [("Bridge", network.bridge), ("LinkLocalAddressing", "no"), ("IPv6AcceptRA", "no")]),
    ]
