# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files for systemd-networkd, by wish."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _networkd
from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import parse

LAN: dict[str, t.Any] = {"name": "lan", "addresses": ["10.0.0.1/24"]}


def texts(forwards: tuple[bool, bool] = (False, False), **options: t.Any) -> dict[str, str]:
    network = parse({**LAN, **options})
    return _networkd.files(network, forwards_ipv4=forwards[0], forwards_ipv6=forwards[1])


def section(text: str, title: str) -> list[list[str]]:
    """The lines of each section of that title."""
    found: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("["):
            inside = line == f"[{title}]"
            if inside:
                found.append([])
        elif inside and line:
            found[-1].append(line)
    return found


def network_file(*args: t.Any, **options: t.Any) -> str:
    return texts(*args, **options)["50-microvm-fleet-lan.network"]


def test_least() -> None:
    files = texts()
    assert list(files) == [
        "50-microvm-fleet-lan.netdev",
        "50-microvm-fleet-lan.network",
        "50-microvm-fleet-lan.taps.network",
    ]
    assert all(text.startswith("# Kept by the Ansible collection") for text in files.values())
    assert section(files["50-microvm-fleet-lan.netdev"], "NetDev") == [["Name=lan", "Kind=bridge"]]
    text = files["50-microvm-fleet-lan.network"]
    assert section(text, "Match") == [["Name=lan", "Kind=bridge"]]
    assert section(text, "Link") == [["RequiredForOnline=no"]]
    assert section(text, "Network") == [
        [
            "ConfigureWithoutCarrier=yes",
            "IgnoreCarrierLoss=yes",
            "LinkLocalAddressing=no",
            "IPv6AcceptRA=no",
            "LLMNR=no",
            "MulticastDNS=no",
            "Address=10.0.0.1/24",
            "DHCPServer=no",
            "IPv6SendRA=no",
        ]
    ]
    assert section(text, "DHCPServer") == section(text, "IPv6SendRA") == []
    taps = files["50-microvm-fleet-lan.taps.network"]
    assert section(taps, "Match") == [["Name=vm-*", "Kind=tun"]]
    assert section(taps, "Network") == [["Bridge=lan", "LinkLocalAddressing=no", "IPv6AcceptRA=no"]]


def test_no_patterns_match_no_tap() -> None:
    taps = texts(taps=[])["50-microvm-fleet-lan.taps.network"]
    assert section(taps, "Match") == [["Name=!*", "Kind=tun"]]


def test_bridge_of_another_name_with_mac_and_mtu() -> None:
    files = texts(bridge="br0", mac="02:00:00:00:00:01", mtu=1400, taps=["vm-a*", "vm-b"], dhcp={})
    assert section(files["50-microvm-fleet-lan.netdev"], "NetDev") == [
        ["Name=br0", "Kind=bridge", "MACAddress=02:00:00:00:00:01"]
    ]
    text = files["50-microvm-fleet-lan.network"]
    assert section(text, "Match") == [["Name=br0", "Kind=bridge"]]
    assert section(text, "Link") == [["RequiredForOnline=no", "MTUBytes=1400", "MACAddress=02:00:00:00:00:01"]]
    assert "SendOption=26:uint16:1400" in section(text, "DHCPServer")[0]
    taps = files["50-microvm-fleet-lan.taps.network"]
    assert section(taps, "Match") == [["Name=vm-a* vm-b", "Kind=tun"]]
    # A tap has its guest's MAC only inside the guest; outside it keeps its own.
    assert section(taps, "Link") == [["RequiredForOnline=no", "MTUBytes=1400"]]
    assert section(taps, "Network")[0][0] == "Bridge=br0"


@pytest.mark.parametrize(
    ("dhcp", "forwards", "has", "lacks"),
    [
        (
            {},
            False,
            ["PoolOffset=128", "PoolSize=127", "DefaultLeaseTimeSec=3600", "EmitDNS=yes", "EmitRouter=no"],
            ["DNS=", "Router=", "ServerAddress="],
        ),
        ({}, True, ["EmitRouter=yes"], ["Router="]),
        ({"router": "10.0.0.2"}, False, ["EmitRouter=yes", "Router=10.0.0.2"], []),
        ({"dns": []}, False, ["EmitDNS=no"], ["DNS="]),
        ({"dns": ["10.0.0.1", "9.9.9.9"]}, False, ["EmitDNS=yes", "DNS=10.0.0.1 9.9.9.9"], []),
        (
            {"range_start": "10.0.0.10", "range_end": "10.0.0.19", "lease_time": 60},
            False,
            ["PoolOffset=10", "PoolSize=10", "DefaultLeaseTimeSec=60", "MaxLeaseTimeSec=60"],
            [],
        ),
    ],
)
def test_dhcp(dhcp: dict[str, t.Any], forwards: bool, has: list[str], lacks: list[str]) -> None:
    text = network_file((forwards, False), dhcp=dhcp)
    assert "DHCPServer=yes" in section(text, "Network")[0]
    (lines,) = section(text, "DHCPServer")
    assert set(has) <= set(lines)
    assert not [line for line in lines if line.startswith(tuple(lacks))]


def test_dhcp_serves_the_first_of_two_addresses() -> None:
    text = network_file(addresses=["10.0.0.1/24", "10.0.9.1/24"], dhcp={})
    assert "ServerAddress=10.0.0.1/24" in section(text, "DHCPServer")[0]


def test_leases_in_the_order_of_their_addresses() -> None:
    one = {"name": "a", "mac": "02:00:00:00:00:0a", "address": "10.0.0.12"}
    other = {"name": "b", "mac": "02:00:00:00:00:0b", "address": "10.0.0.9"}
    text = network_file(dhcp={"leases": [one, other]})
    assert section(text, "DHCPServerStaticLease") == [
        ["MACAddress=02:00:00:00:00:0b", "Address=10.0.0.9"],
        ["MACAddress=02:00:00:00:00:0a", "Address=10.0.0.12"],
    ]


@pytest.mark.parametrize(
    ("wish", "forwards", "lines"),
    [
        ({}, True, ["EmitDNS=yes"]),
        ({}, False, ["RouterLifetimeSec=0", "EmitDNS=yes"]),
        ({"dns": []}, True, ["EmitDNS=no"]),
        ({"dns": ["fd00::53", "fd00::54"]}, True, ["EmitDNS=yes", "DNS=fd00::53 fd00::54"]),
    ],
)
def test_advertisements(wish: dict[str, t.Any], forwards: bool, lines: list[str]) -> None:
    text = network_file((False, forwards), addresses=["fd00::1/64", "fd00::2/64"], router_advertisements=wish)
    assert {"LinkLocalAddressing=ipv6", "IPv6SendRA=yes"} <= set(section(text, "Network")[0])
    assert section(text, "IPv6SendRA") == [lines]
    assert section(text, "IPv6Prefix") == [["Prefix=fd00::/64"]]


def test_unmanaged() -> None:
    text = _networkd.unmanaged(["eth0", "wlan0"])
    assert section(text, "Match") == [["Name=eth0 wlan0"]]
    assert section(text, "Link") == [["Unmanaged=yes"]]


def test_manager() -> None:
    assert section(_networkd.MANAGER, "Network") == [
        ["ManageForeignRoutes=no", "ManageForeignRoutingPolicyRules=no", "ManageForeignNextHops=no"]
    ]
