# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Wishes for networks: what is read from options, and what is refused, with which words."""

from __future__ import annotations

import ipaddress
import itertools
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import (
    DEFAULT_TAPS,
    Network,
    check_name,
    overlap,
    parse,
    parse_all,
)

Entry = dict[str, t.Any]
LEASE: Entry = {"name": "web1", "mac": "02:00:00:00:00:0b", "address": "10.0.0.11"}


def wish(**options: t.Any) -> Entry:
    return {"name": "lan", "addresses": ["10.0.0.1/24"], **options}


def leases(*changes: Entry) -> Entry:
    return wish(dhcp={"leases": [LEASE, *({**LEASE, **one} for one in changes)]})


def refused(entry: Entry) -> InvalidWish:
    with pytest.raises(InvalidWish) as caught:
        parse(entry)
    return caught.value


def test_least() -> None:
    network = parse({"name": "lan"})
    assert network == Network(name="lan", bridge="lan", addresses=())
    assert network.taps == DEFAULT_TAPS == ("vm-*",)
    assert network.prefixes == ()
    assert network.subject == "network lan"
    assert (network.dhcp, network.advertisements, network.mac, network.mtu) == (None, None, None, None)


def test_most() -> None:
    network = parse(
        {
            "name": "lan",
            "kind": "bridge",
            "bridge": "br-lan",
            "addresses": ["10.0.0.1/24", "fd00::1/64", "fe80::1/64", "10.0.0.2/24"],
            "mac": "02-00-00-00-00-0A",
            "mtu": 9000,
            "taps": ["vm-a*", "vm-b?"],
            "nat": True,
            "nat_ipv6": True,
            "uplink": "eth0.100",
            "reach": ["dmz", "dmz", "back"],
            "dhcp": {
                "enabled": True,
                "range_start": "10.0.0.100",
                "range_end": "10.0.0.110",
                "lease_time": 60,
                "dns": ["10.0.0.1", "9.9.9.9"],
                "router": "10.0.0.254",
                "leases": [{**LEASE, "name": "b", "mac": "02:00:00:00:00:0C", "address": "10.0.0.12"}, LEASE],
            },
            "router_advertisements": {"enabled": True, "dns": ["fd00::53"]},
            "state": "present",
        }
    )
    assert network.bridge == "br-lan"
    assert network.mac == "02:00:00:00:00:0a"
    assert network.uplink == "eth0.100"
    assert network.reach == ("dmz", "back")
    assert [str(one) for one in network.ipv4] == ["10.0.0.1/24", "10.0.0.2/24"]
    assert [str(one) for one in network.ipv6] == ["fd00::1/64"]
    assert [str(one) for one in network.prefixes] == ["10.0.0.0/24", "fd00::/64"]
    assert network.dhcp is not None
    assert [one.name for one in network.dhcp.leases] == ["web1", "b"]
    assert network.dhcp.leases[1].mac == "02:00:00:00:00:0c"
    assert network.dhcp.router == ipaddress.IPv4Address("10.0.0.254")
    assert network.dhcp.dns == (ipaddress.IPv4Address("10.0.0.1"), ipaddress.IPv4Address("9.9.9.9"))
    assert network.advertisements is not None
    assert network.advertisements.dns == (ipaddress.IPv6Address("fd00::53"),)
    assert parse(network.options()) == network


@pytest.mark.parametrize(
    ("dhcp", "first", "last"),
    [
        ({}, "10.0.0.128", "10.0.0.254"),
        ({"pool_offset": 1}, "10.0.0.1", "10.0.0.254"),
        ({"pool_offset": 254}, "10.0.0.254", "10.0.0.254"),
        ({"pool_offset": 10, "pool_size": 5}, "10.0.0.10", "10.0.0.14"),
        ({"pool_size": 1}, "10.0.0.128", "10.0.0.128"),
        ({"range_start": "10.0.0.7", "range_end": "10.0.0.7"}, "10.0.0.7", "10.0.0.7"),
        ({"range_start": "10.0.0.1", "range_end": "10.0.0.9"}, "10.0.0.1", "10.0.0.9"),
    ],
)
def test_pool(dhcp: Entry, first: str, last: str) -> None:
    read = parse(wish(dhcp=dhcp)).dhcp
    assert read is not None
    assert (str(read.first), str(read.last)) == (first, last)
    assert read.lease_time == 3600
    assert read.dns is None


def test_pool_of_the_smallest_network() -> None:
    read = parse({"name": "lan", "addresses": ["10.0.0.1/30"], "dhcp": {}}).dhcp
    assert read is not None
    assert (str(read.first), str(read.last)) == ("10.0.0.2", "10.0.0.2")


@pytest.mark.parametrize("off", [None, {"enabled": False, "lease_time": -1}])
def test_servers_that_are_off_are_not_looked_at(off: Entry | None) -> None:
    network = parse({"name": "lan", "dhcp": off, "router_advertisements": off})
    assert network.dhcp is None
    assert network.advertisements is None


@pytest.mark.parametrize("name", ["lan", "br-lan", "L_1", "a", "a23456789012345"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "it is empty"),
        (None, "it is empty"),
        ("a234567890123456", "it has 16 characters; an interface has 15 at most"),
        ("1lan", "is no name for an interface"),
        ("-lan", "is no name for an interface"),
        (".", "is no name for an interface"),
        ("..", "is no name for an interface"),
        ("a/b", "is no name for an interface"),
        ("a b", "is no name for an interface"),
        ("a.b", "is no name for an interface"),
        ("a\n", "is no name for an interface"),
        ("a:b", "is no name for an interface"),
        ("a%d", "is no name for an interface"),
        ("läns", "is no name for an interface"),
        ("all", "that the kernel keeps for itself"),
        ("default", "that the kernel keeps for itself"),
        ("lo", "that the kernel keeps for itself"),
    ],
)
def test_bad_names(name: str | None, says: str) -> None:
    with pytest.raises(InvalidWish, match=says) as caught:
        check_name(name)
    assert caught.value.field == "name"
    error = refused({"name": "lan", "bridge": name if name is not None else ""})
    assert says in str(error)
    assert (error.subject, error.field) == ("network lan", "bridge")


@pytest.mark.parametrize(
    ("entry", "field", "says"),
    [
        (wish(addresses=["10.0.0.1"]), "addresses", "'10.0.0.1' is not an address with the length of its network"),
        (wish(addresses=["10.0.0.1/255.255.255.0"]), "addresses", "is not an address with the length"),
        (wish(addresses=["10.0.0.1/-1"]), "addresses", "is not an address with the length"),
        (wish(addresses=["fe80::1%eth0/64"]), "addresses", "is not an address with the length"),
        (wish(addresses=["10.0.0.1/33"]), "addresses", "33"),
        (wish(addresses=["10.0.0.256/24"]), "addresses", "256"),
        (wish(addresses=["lan/24"]), "addresses", "lan"),
        (wish(addresses=["fd00::1/129"]), "addresses", "129"),
        (wish(addresses=["10.0.0.0/24"]), "addresses", "10.0.0.0/24 is the address of the network itself"),
        (wish(addresses=["fd00::/64"]), "addresses", "fd00::/64 is the address of the network itself"),
        (wish(addresses=["10.0.0.255/24"]), "addresses", "10.0.0.255/24 is the broadcast address of its network"),
        (wish(addresses=["10.0.0.1/0"]), "addresses", "takes the whole internet"),
        (wish(addresses=["127.0.0.2/24"]), "addresses", "is no address that a host can have"),
        (wish(addresses=["224.0.0.1/24"]), "addresses", "is no address that a host can have"),
        (wish(addresses=["ff02::1/64"]), "addresses", "is no address that a host can have"),
        (wish(addresses=["0.0.0.0/8"]), "addresses", "is no address that a host can have"),
        (wish(addresses=["10.0.0.1/24", "10.0.0.1/24"]), "addresses", "10.0.0.1/24 is there twice"),
        (wish(mac="02:00:00:00:00"), "mac", "is no MAC address"),
        (wish(mac="02:00:00:00:00:zz"), "mac", "is no MAC address"),
        (wish(mac="02:00:00:00:00:01\n x"), "mac", "is no MAC address"),
        (wish(mac="01:00:00:00:00:01"), "mac", "is the address of a group"),
        (wish(mac="00:00:00:00:00:00"), "mac", "of zeros is none"),
        (wish(mtu=67), "mtu", "67 is not between 68 and 65535."),
        (wish(mtu=-1), "mtu", "-1 is not between"),
        (wish(mtu=65536), "mtu", "65536 is not between"),
        (wish(mtu=1279, addresses=["fd00::1/64"]), "mtu", "1279 is not between 1280 and 65535 with IPv6"),
        (wish(taps=["vt-a"]), "taps", "vt-a: systemd-networkd takes interfaces called vt-"),
        (wish(taps=["v*"]), "taps", "also matches vt-"),
        (wish(taps=["v?-a"]), "taps", "also matches vt-"),
        (wish(taps=["*"]), "taps", "is no pattern"),
        (wish(taps=["!vm"]), "taps", "is no pattern"),
        (wish(taps=["vm a"]), "taps", "is no pattern"),
        (wish(taps=["vm-[ab]"]), "taps", "is no pattern"),
        (wish(taps=[""]), "taps", "is no pattern"),
        (wish(taps=["vm-4567890123456*"]), "taps", "is longer than the 15 characters"),
        (wish(taps=["vm-a", "vm-a"]), "taps", "vm-a is there twice"),
        (wish(addresses=[], nat=True), "nat", "the network has no IPv4 address"),
        (wish(addresses=["fd00::1/64"], nat=True), "nat", "the network has no IPv4 address"),
        (wish(nat_ipv6=True), "nat_ipv6", "the network has no IPv6 address"),
        (wish(addresses=["fe80::1/64"], nat_ipv6=True), "nat_ipv6", "the network has no IPv6 address"),
        (wish(uplink="eth 0"), "uplink", "is no name of an interface"),
        (wish(uplink="a234567890123456"), "uplink", "is no name of an interface"),
        (wish(uplink="lan"), "uplink", "lan leads nowhere"),
        (wish(uplink="lo"), "uplink", "lo leads nowhere"),
        (wish(reach=["dmz", "lan"]), "reach", "a network always reaches itself"),
        (wish(addresses=["fd00::1/64"], dhcp={}), "dhcp", "the network has no IPv4 address"),
        (wish(addresses=["10.0.0.0/31"], dhcp={}), "dhcp", "10.0.0.0/31 has no room"),
        (wish(dhcp={"lease_time": 59}), "dhcp.lease_time", "59 seconds is not between 60 and 31536000"),
        (wish(dhcp={"lease_time": 31536001}), "dhcp.lease_time", "is not between"),
        (wish(dhcp={"dns": ["dns.example.org"]}), "dhcp.dns", "dns.example.org"),
        (wish(dhcp={"dns": ["fd00::1"]}), "dhcp.dns", "fd00::1"),
        (wish(dhcp={"router": "10.0.1.1"}), "dhcp.router", "10.0.1.1 is outside 10.0.0.0/24"),
        (wish(dhcp={"router": "x"}), "dhcp.router", "x"),
        (wish(dhcp={"range_start": "10.0.0.9"}), "dhcp.range_end", "it is missing"),
        (wish(dhcp={"range_end": "10.0.0.9"}), "dhcp.range_start", "it is missing"),
        (
            wish(dhcp={"range_start": "10.0.0.5", "range_end": "10.0.0.9", "pool_size": 3}),
            "dhcp.range_start",
            "the pool is given twice",
        ),
        (
            wish(dhcp={"range_start": "10.0.0.9", "range_end": "10.0.0.5"}),
            "dhcp.range_end",
            "10.0.0.5 comes before range_start, 10.0.0.9",
        ),
        (wish(dhcp={"range_start": "10.0.1.5", "range_end": "10.0.1.9"}), "dhcp.range_start", "is outside 10.0.0.0/24"),
        (wish(dhcp={"range_start": "10.0.0.0", "range_end": "10.0.0.9"}), "dhcp.range_start", "network or broadcast"),
        (wish(dhcp={"range_start": "10.0.0.9", "range_end": "10.0.0.255"}), "dhcp.range_end", "network or broadcast"),
        (wish(dhcp={"range_start": "a", "range_end": "10.0.0.9"}), "dhcp.range_start", "a"),
        (wish(dhcp={"pool_offset": 0}), "dhcp.pool_offset", "0 is not between 1 and 254"),
        (wish(dhcp={"pool_offset": -5}), "dhcp.pool_offset", "-5 is not between 1 and 254"),
        (wish(dhcp={"pool_offset": 255}), "dhcp.pool_offset", "255 is not between 1 and 254"),
        (wish(dhcp={"pool_size": 0}), "dhcp.pool_size", "0 is not between 1 and 127"),
        (wish(dhcp={"pool_size": -1}), "dhcp.pool_size", "-1 is not between"),
        (wish(dhcp={"pool_offset": 250, "pool_size": 6}), "dhcp.pool_size", "6 is not between 1 and 5"),
        (wish(dhcp={"pool_offset": 1, "pool_size": 1}), "dhcp.pool_offset", "the host has it"),
        (wish(dhcp={"leases": [{**LEASE, "name": ""}]}), "dhcp.leases.name", "is no name of a guest"),
        (wish(dhcp={"leases": [{**LEASE, "name": "a b"}]}), "dhcp.leases.name", "is no name of a guest"),
        (wish(dhcp={"leases": [{**LEASE, "mac": "x"}]}), "dhcp.leases[web1].mac", "is no MAC address"),
        (wish(dhcp={"leases": [{**LEASE, "mac": "ff:00:00:00:00:01"}]}), "dhcp.leases[web1].mac", "of a group"),
        (wish(dhcp={"leases": [{**LEASE, "address": "10.0.1.1"}]}), "dhcp.leases[web1].address", "is outside"),
        (wish(dhcp={"leases": [{**LEASE, "address": "10.0.0.1"}]}), "dhcp.leases[web1].address", "of the host itself"),
        (
            wish(dhcp={"leases": [{**LEASE, "address": "10.0.0.0"}]}),
            "dhcp.leases[web1].address",
            "network or broadcast",
        ),
        (wish(dhcp={"leases": [{**LEASE, "address": "10.0.0.11/24"}]}), "dhcp.leases[web1].address", "10.0.0.11/24"),
        (leases({}), "dhcp.leases[web1].name", "web1 is there twice"),
        (leases({"name": "b"}), "dhcp.leases[b].mac", "there twice (the other is the lease of web1)"),
        (leases({"name": "b", "mac": "02:00:00:00:00:0c"}), "dhcp.leases[b].address", "10.0.0.11 is there twice"),
        (wish(router_advertisements={}), "router_advertisements", "the network has no IPv6 address"),
        (
            wish(addresses=["fd00::1/80"], router_advertisements={}),
            "router_advertisements",
            "fd00::/80 is no /64",
        ),
        (
            wish(addresses=["fd00::1/64"], router_advertisements={"dns": ["9.9.9.9"]}),
            "router_advertisements.dns",
            "9.9.9.9",
        ),
    ],
)
def test_refused(entry: Entry, field: str, says: str) -> None:
    error = refused(entry)
    assert error.subject == "network lan"
    assert error.field == field
    assert says in error.seen
    assert str(error).startswith(f"network lan, {field}: ")


def test_all() -> None:
    wishes = parse_all(
        [
            wish(taps=["vm-a*"]),
            {"name": "old", "state": "absent", "addresses": ["nonsense"]},
            {"name": "dmz", "addresses": ["10.0.1.1/24"], "taps": ["vm-b*"], "state": "present"},
        ]
    )
    assert [one.name for one in wishes.present] == ["lan", "dmz"]
    assert wishes.absent == ("old",)
    assert wishes.names == {"lan", "dmz", "old"}


@pytest.mark.parametrize(
    ("other", "subject", "field", "says"),
    [
        ({"name": "lan"}, "network lan", "name", "two entries have this name"),
        ({"name": "lan", "state": "absent"}, "network lan", "name", "two entries have this name"),
        ({"name": "dmz", "bridge": "lan"}, "network dmz", "bridge", "network lan has the same bridge, lan"),
        ({"name": "dmz", "mac": "02:00:00:00:00:01"}, "network dmz", "mac", "network lan has the same address"),
        (
            {"name": "dmz", "addresses": ["10.0.0.129/25"]},
            "network dmz",
            "addresses",
            "10.0.0.128/25 overlaps 10.0.0.0/24 of network lan",
        ),
        (
            {"name": "dmz", "addresses": ["fd00:0:0:0:1::1/80"]},
            "network dmz",
            "addresses",
            "overlaps fd00::/64 of network lan",
        ),
        ({"name": "dmz"}, "network dmz", "taps", "vm-* and vm-a* of network lan can match the same tap"),
    ],
)
def test_two_that_contradict_each_other(other: Entry, subject: str, field: str, says: str) -> None:
    one = wish(mac="02:00:00:00:00:01", taps=["vm-a*"], addresses=["10.0.0.1/24", "fd00::1/64"])
    with pytest.raises(InvalidWish) as caught:
        parse_all([one, {"taps": [], **other} if field != "taps" else other])
    assert (caught.value.subject, caught.value.field) == (subject, field)
    assert says in caught.value.seen


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("vm-*", "vm-*", True),
        ("vm-*", "vm-a", True),
        ("vm-a*", "vm-b*", False),
        ("vm-a*", "vm-*b", True),
        ("vm-?", "vm-ab", False),
        ("vm-??", "vm-ab", True),
        ("vm-*", "vt-*", False),
        ("v*", "vt-*", True),
        ("a", "a", True),
        ("a", "b", False),
        ("a*b*c", "abc", True),
        ("a*b*c", "acb", False),
        ("a*", "a", True),
        ("a?", "a", False),
        ("", "", True),
        ("", "*", True),
        ("*", "?", True),
    ],
)
def test_overlap(one: str, other: str, *, common: bool) -> None:
    assert [overlap(*pair) for pair in itertools.permutations((one, other))] == [common, common]


@given(st.text("ab", max_size=6), st.lists(st.sampled_from(["*", "?", "a"]), max_size=4))
def test_overlap_of_a_pattern_with_what_it_was_made_to_match(name: str, marks: list[str]) -> None:
    pattern = name
    for mark in marks:
        if mark == "*":
            pattern = pattern[: len(pattern) // 2] + "*" + pattern[len(pattern) // 2 :]
    assert overlap(pattern, name)
    assert overlap(pattern.replace("b", "?"), name)
