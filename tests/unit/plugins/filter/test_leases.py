# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests' wishes to leases, names and networks."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.microvm.fleet.plugins.filter.leases import (
    FilterModule,
    host_entries,
    leases,
    network_wishes,
)

Guest = dict[str, t.Any]


def guest(name: str = "web1", **interface: t.Any) -> Guest:
    values = {"id": f"vm-{name}", "mac": "02:00:00:00:00:0b", "network": "lan", "addresses": ["10.0.0.11/24"]}
    return {"name": name, "interfaces": [{**values, **interface}]}


LEASE = {"name": "web1", "mac": "02:00:00:00:00:0b", "address": "10.0.0.11"}


@pytest.mark.parametrize(
    ("guests", "only", "found"),
    [
        (None, False, []),
        ([], False, []),
        ([guest()], False, [LEASE]),
        ([guest(addresses=["10.0.0.11"])], False, [LEASE]),
        ([guest(addresses=["fd00::b/64", "10.0.0.11/24", "10.0.0.12/24"])], False, [LEASE]),
        ([guest(mac="02-00-00-00-00-0B")], False, [LEASE]),
        ([guest(mac="02000000000B")], False, [LEASE]),
        ([guest(network="dmz")], False, []),
        ([guest(network="dmz")], True, []),
        ([guest(network=None)], False, []),
        ([guest(network=None)], True, [LEASE]),
        ([guest(mac=None)], False, []),
        ([guest(addresses=None)], False, []),
        ([guest(addresses=["fd00::b/64"])], False, []),
        ([guest() | {"state": "absent"}], False, []),
        ([{"name": "bare"}], False, []),
        ([{"name": "bare", "interfaces": None}], False, []),
    ],
)
def test_leases(guests: t.Any, only: bool, found: list[dict[str, str]]) -> None:
    assert leases(guests, "lan", only=only) == found


def test_leases_go_by_address() -> None:
    guests = [guest("b", addresses=["10.0.0.100"]), guest("a", addresses=["10.0.0.20"], mac="02:00:00:00:00:0c")]
    assert [one["name"] for one in leases(guests, "lan")] == ["a", "b"]


@pytest.mark.parametrize(
    ("guests", "says"),
    [
        ("web1", "guests: 'web1' is no list"),
        (5, "guests: 5 is no list"),
        ({"a": 1}, "is no list"),
        (["web1"], "guest number 1 of the list has no name"),
        ([guest(), {"interfaces": []}], "guest number 2 of the list has no name"),
        ([{"name": "web1", "interfaces": {}}], "guest web1, interfaces: {} is no list"),
        ([{"name": "web1", "interfaces": ["eth0"]}], "guest web1, interfaces: 'eth0' is no dictionary"),
        ([guest(addresses="10.0.0.11")], "guest web1, addresses: '10.0.0.11' is no list"),
        ([guest(addresses=["web"])], "guest web1, addresses: 'web' is no address. Write it as 10.0.0.11"),
        ([guest(addresses=["10.0.0.11/99"])], "guest web1, addresses: '10.0.0.11/99' is no address"),
        ([guest(mac="zz")], "guest web1, mac: 'zz' is no MAC address. Write it as"),
        ([guest(mac=5)], "guest web1, mac: 5 is no MAC address"),
    ],
)
def test_leases_refused(guests: t.Any, says: str) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        leases(guests, "lan")
    assert says in str(caught.value)


def test_host_entries() -> None:
    guests = [
        guest("b", addresses=["10.0.0.100/24", "fd00::100/64"]),
        guest("a", addresses=["10.0.0.20"], network="dmz"),
        guest("c", addresses=None),
        guest("d") | {"state": "absent"},
        {"name": "e"},
    ]
    assert host_entries(guests) == ["10.0.0.20 a", "10.0.0.100 b", "fd00::100 b"]
    assert host_entries(None) == []


def test_network_wishes() -> None:
    networks = [{"name": "lan", "dhcp": {"lease_time": 60}}]
    assert network_wishes(networks, [guest(network=None)]) == [
        {"name": "lan", "dhcp": {"lease_time": 60, "leases": [LEASE]}}
    ]
    assert networks == [{"name": "lan", "dhcp": {"lease_time": 60}}]


def test_network_wishes_of_two_networks() -> None:
    networks = [{"name": "lan", "dhcp": {}}, {"name": "dmz", "dhcp": {}}]
    guests = [guest(), guest("db1", network="dmz"), guest("x", network=None)]
    wishes = network_wishes(networks, guests)
    assert [[lease["name"] for lease in one["dhcp"]["leases"]] for one in wishes] == [["web1"], ["db1"]]


def test_network_wishes_count_those_that_go_for_none() -> None:
    networks = [{"name": "lan", "dhcp": {}}, {"name": "dmz", "state": "absent", "dhcp": {}}]
    wishes = network_wishes(networks, [guest(network=None)])
    assert wishes[0]["dhcp"]["leases"] == [LEASE]
    assert wishes[1] == networks[1]


def test_a_lease_that_is_written_down_stands() -> None:
    written = {"name": "web1", "mac": "02:00:00:00:00:99", "address": "10.0.0.99"}
    networks = [{"name": "lan", "dhcp": {"leases": [written]}}]
    (wish,) = network_wishes(networks, [guest(), guest("b", addresses=["10.0.0.12"])])
    assert [(one["name"], one["address"]) for one in wish["dhcp"]["leases"]] == [
        ("web1", "10.0.0.99"),
        ("b", "10.0.0.12"),
    ]


@pytest.mark.parametrize("networks", [[{"name": "lan"}], [{"name": "lan", "dhcp": None}], ["lan"], []])
def test_networks_without_dhcp_stay_as_they_are(networks: list[t.Any]) -> None:
    assert network_wishes(networks, [guest()]) == networks


def test_network_wishes_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="networks: 'lan' is no list"):
        network_wishes("lan", [])
    with pytest.raises(AnsibleFilterError, match=r"network lan, dhcp\.leases: 5 is no list"):
        network_wishes([{"name": "lan", "dhcp": {"leases": 5}}], [])


def test_filters_have_their_names() -> None:
    assert FilterModule().filters() == {
        "leases": leases,
        "host_entries": host_entries,
        "network_wishes": network_wishes,
    }
