# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an operator wishes of a network: from options to dataclasses, with every check that needs no host.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish

if t.TYPE_CHECKING:  # pragma: no cover
    Interface = t.Union[ipaddress.IPv4Interface, ipaddress.IPv6Interface]
    Address = t.Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
    Prefix = t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

DEFAULT_TAPS: t.Final = ("vm-*",)
DEFAULT_LEASE_TIME: t.Final = 3600
LEASE_TIME: t.Final = (60, 365 * 24 * 3600)
# IFNAMSIZ of the kernel is 16, with the final NUL (linux/if.h).
NAME_LENGTH: t.Final = 15
# RFC 791: every link carries 68 bytes; RFC 8200: 1280 with IPv6.
MTU_IPV4: t.Final = 68
MTU_IPV6: t.Final = 1280
MTU_MOST: t.Final = 65535
# RFC 3021: a /31 has two hosts and no pool to speak of; DHCP needs a network, a broadcast and two hosts.
DHCP_PREFIX_MOST: t.Final = 30

# No dot (sysctl(8) separates with it), no digit first, nothing that networkd, nft or a shell reads as more than a name.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*\Z")
_LEASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_UPLINK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*\Z")
_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.*?-]*\Z")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
# Entries of /proc/sys/net/*/conf that are no interface, and the one that every host has.
_RESERVED: t.Final = ("all", "default", "lo")


@dataclass(frozen=True)
class Lease:
    """A fixed address for one MAC address."""

    name: str
    mac: str
    address: ipaddress.IPv4Address


@dataclass(frozen=True)
class Dhcp:
    """The DHCP server of a network.  *first* and *last* bound the pool; *lease_time* in seconds.

    *dns* None means the servers that the host itself uses, empty means none; *router* None means the host, if the
    network leads anywhere.
    """

    first: ipaddress.IPv4Address
    last: ipaddress.IPv4Address
    lease_time: int
    dns: tuple[ipaddress.IPv4Address, ...] | None
    router: ipaddress.IPv4Address | None
    leases: tuple[Lease, ...]


@dataclass(frozen=True)
class Advertisements:
    """IPv6 router advertisements (RFC 4861).  *dns* as for Dhcp."""

    dns: tuple[ipaddress.IPv6Address, ...] | None


@dataclass(frozen=True)
class Network:
    """One network that is to be there."""

    name: str
    bridge: str
    addresses: tuple[Interface, ...]
    mac: str | None = None
    mtu: int | None = None
    taps: tuple[str, ...] = DEFAULT_TAPS
    nat: bool = False
    nat_ipv6: bool = False
    uplink: str | None = None
    reach: tuple[str, ...] = ()
    dhcp: Dhcp | None = None
    advertisements: Advertisements | None = None
    kind: str = "bridge"

    @property
    def subject(self) -> str:
        """How messages call it."""
        return f"network {self.name}"

    @property
    def ipv4(self) -> tuple[ipaddress.IPv4Interface, ...]:
        """The host's IPv4 addresses."""
        return tuple(one for one in self.addresses if isinstance(one, ipaddress.IPv4Interface))

    @property
    def ipv6(self) -> tuple[ipaddress.IPv6Interface, ...]:
        """The host's IPv6 addresses that reach beyond the link."""
        return tuple(
            one for one in self.addresses if isinstance(one, ipaddress.IPv6Interface) and not one.ip.is_link_local
        )

    @property
    def prefixes(self) -> tuple[Prefix, ...]:
        """The networks that the addresses are in, each once."""
        found: list[Prefix] = [*(one.network for one in self.ipv4), *(one.network for one in self.ipv6)]
        return tuple(dict.fromkeys(found))

    def options(self) -> dict[str, t.Any]:
        """The wish as options, normal and complete: what is recorded, and what `parse` reads back as the same."""
        dhcp: dict[str, t.Any] | None = None
        if self.dhcp:
            dhcp = {
                "enabled": True,
                "range_start": str(self.dhcp.first),
                "range_end": str(self.dhcp.last),
                "lease_time": self.dhcp.lease_time,
                "dns": None if self.dhcp.dns is None else [str(one) for one in self.dhcp.dns],
                "router": None if self.dhcp.router is None else str(self.dhcp.router),
                "leases": [{"name": one.name, "mac": one.mac, "address": str(one.address)} for one in self.dhcp.leases],
            }
        advertisements: dict[str, t.Any] | None = None
        if self.advertisements:
            dns = self.advertisements.dns
            advertisements = {"enabled": True, "dns": None if dns is None else [str(one) for one in dns]}
        return {
            "name": self.name,
            "kind": self.kind,
            "bridge": self.bridge,
            "addresses": [str(one) for one in self.addresses],
            "mac": self.mac,
            "mtu": self.mtu,
            "taps": list(self.taps),
            "nat": self.nat,
            "nat_ipv6": self.nat_ipv6,
            "uplink": self.uplink,
            "reach": list(self.reach),
            "dhcp": dhcp,
            "router_advertisements": advertisements,
        }


@dataclass(frozen=True)
class Wishes:
    """All that one call asks for."""

    present: tuple[Network, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Every network that is named."""
        return frozenset((*(one.name for one in self.present), *self.absent))


class _Refuse:
    """Makes the errors of one network."""

    def __init__(self, name: str) -> None:
        self.subject = f"network {name}"

    def __call__(self, field: str, seen: str, hint: str | None = None) -> InvalidWish:
        return InvalidWish(seen, subject=self.subject, field=field, hint=hint)


def parse_all(entries: t.Sequence[t.Mapping[str, t.Any]]) -> Wishes:
    """The wishes of a call.  Raises InvalidWish for the first that cannot be, or that another contradicts."""
    present: list[Network] = []
    absent: list[str] = []
    seen: set[str] = set()
    for entry in entries:
        name = check_name(entry.get("name"))
        if name in seen:
            raise InvalidWish(
                "two entries have this name.", subject=f"network {name}", field="name", hint="Remove or rename one."
            )
        seen.add(name)
        if entry.get("state") == "absent":
            absent.append(name)
        else:
            present.append(parse(entry))
    check_together(present)
    return Wishes(tuple(present), tuple(absent))


def check_name(value: t.Any) -> str:
    """The name of a network, which is the name of its bridge unless another is given."""
    text = str(value if value is not None else "")
    _check_interface(text, "name", _Refuse(repr(text)[:80]))
    return text


def _check_interface(text: str, field: str, refuse: _Refuse) -> None:
    if not text:
        raise refuse(field, "it is empty.", "Give a name that an interface can have, such as lan.")
    if len(text) > NAME_LENGTH:
        raise refuse(field, f"it has {len(text)} characters; an interface has {NAME_LENGTH} at most.", "Shorten it.")
    if not _NAME.match(text):
        raise refuse(
            field,
            f"{text!r} is no name for an interface.",
            "Begin with a letter, and use letters, digits, - and _ only.",
        )
    if text in _RESERVED:
        raise refuse(field, f"{text} is a name that the kernel keeps for itself.", "Choose another.")


def parse(entry: t.Mapping[str, t.Any]) -> Network:
    """One network.  *entry* has the keys of the modules' options; missing ones have their defaults."""
    name = check_name(entry.get("name"))
    refuse = _Refuse(name)
    bridge = name
    if entry.get("bridge") is not None:
        bridge = str(entry["bridge"])
        _check_interface(bridge, "bridge", refuse)
    addresses = _addresses(entry.get("addresses") or (), refuse)
    network = Network(
        name=name,
        kind=str(entry.get("kind") or "bridge"),
        bridge=bridge,
        addresses=addresses,
        mac=None if entry.get("mac") is None else parse_mac(str(entry["mac"]), "mac", refuse),
        mtu=_mtu(entry.get("mtu"), addresses, refuse),
        taps=_taps(entry.get("taps"), refuse),
        nat=bool(entry.get("nat")),
        nat_ipv6=bool(entry.get("nat_ipv6")),
        uplink=_uplink(entry.get("uplink"), bridge, refuse),
        reach=_reach(entry.get("reach") or (), name, refuse),
        dhcp=_dhcp(entry.get("dhcp"), addresses, refuse),
        advertisements=_advertisements(entry.get("router_advertisements"), addresses, refuse),
    )
    if network.nat and not network.ipv4:
        raise refuse("nat", "the network has no IPv4 address.", "Add one to addresses, or use nat_ipv6.")
    if network.nat_ipv6 and not network.ipv6:
        raise refuse("nat_ipv6", "the network has no IPv6 address.", "Add one to addresses.")
    return network


def parse_mac(text: str, field: str, refuse: t.Callable[..., InvalidWish]) -> str:
    """A unicast MAC address in lower case with colons; dashes are understood."""
    mac = text.strip().lower().replace("-", ":")
    if not _MAC.match(mac):
        raise refuse(field, f"{text!r} is no MAC address.", "Write six pairs such as 02:00:00:00:00:01.")
    if int(mac[:2], 16) & 1:
        raise refuse(
            field,
            f"{mac} is the address of a group, not of one interface.",
            "The second digit is even in an address of one interface, such as 02:...",
        )
    if mac == "00:00:00:00:00:00":
        raise refuse(field, "a MAC address of zeros is none.", "Write one such as 02:00:00:00:00:01.")
    return mac


def _addresses(values: t.Iterable[t.Any], refuse: _Refuse) -> tuple[Interface, ...]:
    found: list[Interface] = []
    for value in values:
        text = str(value).strip()
        _address, slash, length = text.partition("/")
        if not slash or not length.isdigit() or "%" in text:
            raise refuse(
                "addresses",
                f"{text!r} is not an address with the length of its network.",
                "Write it as 10.0.0.1/24 or fd00::1/64.",
            )
        try:
            one = ipaddress.ip_interface(text)
        except ValueError as error:
            raise refuse("addresses", f"{error}.", "Write it as 10.0.0.1/24 or fd00::1/64.") from None
        _check_host_address(one, refuse)
        if one in found:
            raise refuse("addresses", f"{one} is there twice.", "Remove one.")
        found.append(one)
    return tuple(found)


def _check_host_address(one: Interface, refuse: _Refuse) -> None:
    ip, network = one.ip, one.network
    if ip.is_multicast or ip.is_unspecified or ip.is_loopback:
        raise refuse("addresses", f"{one} is no address that a host can have on a network.")
    if network.prefixlen == 0:
        raise refuse("addresses", f"{one} takes the whole internet as its network.", "Give a longer prefix.")
    if network.num_addresses > 2:
        if ip == network.network_address:
            raise refuse(
                "addresses",
                f"{one} is the address of the network itself.",
                f"Give the host one inside it, such as {network.network_address + 1}/{network.prefixlen}.",
            )
        if network.version == 4 and ip == network.broadcast_address:
            raise refuse("addresses", f"{one} is the broadcast address of its network.", "Give the host another.")


def _mtu(value: t.Any, addresses: tuple[Interface, ...], refuse: _Refuse) -> int | None:
    if value is None:
        return None
    least = MTU_IPV6 if any(one.version == 6 for one in addresses) else MTU_IPV4
    mtu = int(value)
    if not least <= mtu <= MTU_MOST:
        why = " with IPv6" if least == MTU_IPV6 else ""
        raise refuse("mtu", f"{mtu} is not between {least} and {MTU_MOST}{why}.", "1500 is usual.")
    return mtu


def _taps(values: t.Any, refuse: _Refuse) -> tuple[str, ...]:
    if values is None:
        return DEFAULT_TAPS
    found: list[str] = []
    for value in values:
        text = str(value)
        if not _PATTERN.match(text):
            raise refuse(
                "taps",
                f"{text!r} is no pattern for the name of a tap.",
                "Begin with a letter or digit; * stands for any characters and ? for one.",
            )
        if text.startswith("vt-"):
            raise refuse(
                "taps",
                f"{text}: systemd-networkd takes interfaces called vt-* for itself (80-vm-vt.network).",
                "Begin the names of taps with vm-.",
            )
        if overlap(text, "vt-*"):
            raise refuse("taps", f"{text} also matches vt-*, which systemd-networkd takes for itself.", "Narrow it.")
        if len(text.replace("*", "")) > NAME_LENGTH:
            raise refuse(
                "taps", f"{text} is longer than the {NAME_LENGTH} characters that an interface can have.", "Shorten it."
            )
        if text in found:
            raise refuse("taps", f"{text} is there twice.", "Remove one.")
        found.append(text)
    return tuple(found)


def _uplink(value: t.Any, bridge: str, refuse: _Refuse) -> str | None:
    if value is None:
        return None
    text = str(value)
    if not _UPLINK.match(text) or len(text) > NAME_LENGTH:
        raise refuse("uplink", f"{text!r} is no name of an interface.", "See ip link for those of the host.")
    if text in (bridge, *_RESERVED):
        raise refuse("uplink", f"{text} leads nowhere.", "Name the interface that has the way out.")
    return text


def _reach(values: t.Iterable[t.Any], name: str, refuse: _Refuse) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(str(value) for value in values))
    if name in found:
        raise refuse("reach", "a network always reaches itself.", "Name other networks only.")
    return found


def _ipv4(value: t.Any, field: str, refuse: _Refuse) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(str(value).strip())
    except ValueError as error:
        raise refuse(field, f"{error}.", "Write an IPv4 address such as 10.0.0.1.") from None


def _ipv6(value: t.Any, field: str, refuse: _Refuse) -> ipaddress.IPv6Address:
    try:
        return ipaddress.IPv6Address(str(value).strip())
    except ValueError as error:
        raise refuse(field, f"{error}.", "Write an IPv6 address such as fd00::1.") from None


def _dhcp(value: t.Any, addresses: tuple[Interface, ...], refuse: _Refuse) -> Dhcp | None:
    if value is None or value.get("enabled") is False:
        return None
    hosts = [one for one in addresses if isinstance(one, ipaddress.IPv4Interface)]
    if not hosts:
        raise refuse("dhcp", "the network has no IPv4 address.", "Add one to addresses, or leave dhcp out.")
    host = hosts[0]
    if host.network.prefixlen > DHCP_PREFIX_MOST:
        raise refuse("dhcp", f"{host.network} has no room for clients.", "Give the host a larger network.")
    first, last = _pool(value, host, refuse)
    lease_time = DEFAULT_LEASE_TIME if value.get("lease_time") is None else int(value["lease_time"])
    if not LEASE_TIME[0] <= lease_time <= LEASE_TIME[1]:
        raise refuse(
            "dhcp.lease_time",
            f"{lease_time} seconds is not between {LEASE_TIME[0]} and {LEASE_TIME[1]}.",
            f"{DEFAULT_LEASE_TIME} is usual.",
        )
    dns = value.get("dns")
    router: ipaddress.IPv4Address | None = None
    if value.get("router") is not None:
        router = _ipv4(value["router"], "dhcp.router", refuse)
        if router not in host.network:
            raise refuse("dhcp.router", f"{router} is outside {host.network}.", "Clients could not reach it.")
    return Dhcp(
        first=first,
        last=last,
        lease_time=lease_time,
        dns=None if dns is None else tuple(_ipv4(one, "dhcp.dns", refuse) for one in dns),
        router=router,
        leases=_leases(value.get("leases") or (), host, refuse),
    )


def _pool(
    value: t.Mapping[str, t.Any], host: ipaddress.IPv4Interface, refuse: _Refuse
) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]:
    network = host.network
    start, end = value.get("range_start"), value.get("range_end")
    offset, size = value.get("pool_offset"), value.get("pool_size")
    if (start is None) != (end is None):
        missing = "range_end" if end is None else "range_start"
        raise refuse(f"dhcp.{missing}", "it is missing.", "Give both ends of the range, or none.")
    if start is not None and (offset is not None or size is not None):
        raise refuse(
            "dhcp.range_start",
            "the pool is given twice, as a range and as an offset and a size.",
            "Leave one out.",
        )
    if start is not None:
        first = _ipv4(start, "dhcp.range_start", refuse)
        last = _ipv4(end, "dhcp.range_end", refuse)
        if first > last:
            raise refuse("dhcp.range_end", f"{last} comes before range_start, {first}.", "Swap them.")
        for field, one in (("dhcp.range_start", first), ("dhcp.range_end", last)):
            _check_client(one, field, host, refuse, own=True)
        return first, last
    # The upper half, so that the lower one is there for guests that set their addresses themselves.
    at = network.num_addresses // 2 if offset is None else int(offset)
    if not 1 <= at <= network.num_addresses - 2:
        raise refuse(
            "dhcp.pool_offset",
            f"{at} is not between 1 and {network.num_addresses - 2}, which is where {network} has hosts.",
        )
    most = network.num_addresses - 1 - at
    count = most if size is None else int(size)
    if not 1 <= count <= most:
        raise refuse("dhcp.pool_size", f"{count} is not between 1 and {most}, the hosts of {network} from {at} on.")
    first = network.network_address + at
    if count == 1 and first == host.ip:
        raise refuse("dhcp.pool_offset", f"the pool has one address, {first}, and the host has it.", "Move the pool.")
    return first, first + (count - 1)


def _check_client(
    one: ipaddress.IPv4Address, field: str, host: ipaddress.IPv4Interface, refuse: _Refuse, *, own: bool = False
) -> None:
    """Raise unless a client can have address *one*; with *own* the host's own will do, as an end of a range."""
    network = host.network
    if one not in network:
        raise refuse(field, f"{one} is outside {network}.", f"Choose one inside {network}.")
    if one in (network.network_address, network.broadcast_address):
        raise refuse(field, f"{one} is the network or broadcast address of {network}.", "Choose another.")
    if one == host.ip and not own:
        raise refuse(field, f"{one} is the address of the host itself.", "Choose another.")


def _leases(values: t.Iterable[t.Any], host: ipaddress.IPv4Interface, refuse: _Refuse) -> tuple[Lease, ...]:
    found: list[Lease] = []
    holders: dict[tuple[str, t.Any], str] = {}
    for value in values:
        name = str(value.get("name") or "")
        if not _LEASE_NAME.match(name):
            raise refuse(
                "dhcp.leases.name", f"{name!r} is no name of a guest.", "Use letters, digits, -, _ and dots only."
            )
        mac = parse_mac(str(value.get("mac") or ""), f"dhcp.leases[{name}].mac", refuse)
        address = _ipv4(value.get("address"), f"dhcp.leases[{name}].address", refuse)
        _check_client(address, f"dhcp.leases[{name}].address", host, refuse)
        keys: tuple[tuple[str, t.Any], ...] = (("name", name), ("mac", mac), ("address", address))
        for key in keys:
            if key in holders:
                raise refuse(
                    f"dhcp.leases[{name}].{key[0]}",
                    f"{key[1]} is there twice (the other is the lease of {holders[key]}).",
                    "Each lease needs its own.",
                )
            holders[key] = name
        found.append(Lease(name, mac, address))
    return tuple(sorted(found, key=lambda one: one.address))


def _advertisements(value: t.Any, addresses: tuple[Interface, ...], refuse: _Refuse) -> Advertisements | None:
    if value is None or value.get("enabled") is False:
        return None
    prefixes = [one for one in addresses if isinstance(one, ipaddress.IPv6Interface) and not one.ip.is_link_local]
    if not prefixes:
        raise refuse("router_advertisements", "the network has no IPv6 address.", "Add one such as fd00::1/64.")
    for one in prefixes:
        # RFC 4862, 5.5.3: with Ethernet's 64-bit identifiers no other length gives clients an address.
        if one.network.prefixlen != 64:
            raise refuse(
                "router_advertisements",
                f"{one.network} is no /64, so clients cannot make an address in it.",
                "Give the host an address in a /64.",
            )
    dns = value.get("dns")
    return Advertisements(
        dns=None if dns is None else tuple(_ipv6(one, "router_advertisements.dns", refuse) for one in dns)
    )


def check_together(networks: t.Sequence[Network]) -> None:
    """Raise InvalidWish when two networks want the same bridge, MAC, addresses or taps."""
    for index, one in enumerate(networks):
        refuse = _Refuse(one.name)
        for other in networks[:index]:
            if one.bridge == other.bridge:
                raise refuse("bridge", f"network {other.name} has the same bridge, {one.bridge}.", "Rename one.")
            if one.mac and one.mac == other.mac:
                raise refuse("mac", f"network {other.name} has the same address, {one.mac}.", "Change one.")
            for mine in one.prefixes:
                for theirs in other.prefixes:
                    if mine.version == theirs.version and mine.overlaps(t.cast("t.Any", theirs)):
                        raise refuse(
                            "addresses", f"{mine} overlaps {theirs} of network {other.name}.", "Use separate networks."
                        )
            for pattern in one.taps:
                for others in other.taps:
                    if overlap(pattern, others):
                        raise refuse(
                            "taps",
                            f"{pattern} and {others} of network {other.name} can match the same tap.",
                            f"Give each network its own patterns, such as vm-{one.name}-*.",
                        )


def overlap(one: str, other: str) -> bool:
    """Whether some name matches both patterns, where ``*`` stands for any characters and ``?`` for one."""
    pairs = {(0, 0)}
    seen: set[tuple[int, int]] = set()
    while pairs:
        pair = pairs.pop()
        if pair in seen:
            continue
        seen.add(pair)
        at, on = pair
        if at == len(one) and on == len(other):
            return True
        mine, theirs = one[at : at + 1], other[on : on + 1]
        if mine == "*":
            pairs.add((at + 1, on))
        if theirs == "*":
            pairs.add((at, on + 1))
        if mine and theirs and ("*" in (mine, theirs) or "?" in (mine, theirs) or mine == theirs):
            pairs.add((at if mine == "*" else at + 1, on if theirs == "*" else on + 1))
    return False
