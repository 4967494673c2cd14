# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, subnets and what is written about them."""

from __future__ import annotations

import configparser
import ipaddress

import pytest

from microvm_testbed import net
from microvm_testbed.errors import TestbedError


@pytest.mark.parametrize("name", ["lab", "a", "bench2", "site-d12", "abcdefghijklmnop"])
def test_lab_names(name: str) -> None:
    assert net.check_lab_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "Lab", "1lab", "-lab", "lab-", "la--b", "la_b", "a/b", "..", "lab\n", "abcdefghijklmnopq"]
)
def test_bad_lab_names_are_named(name: str) -> None:
    with pytest.raises(TestbedError, match=r"^lab name ") as error:
        net.check_lab_name(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("lab-1", ("lab", 1)),
        ("site-d12-3", ("site-d12", 3)),
        ("7", ("mine", 7)),
        ("lab-200", ("lab", 200)),
    ],
)
def test_host_names(host: str, expected: tuple[str, int]) -> None:
    assert net.split_host(host, "mine") == expected


@pytest.mark.parametrize("host", ["", "lab", "lab-", "lab-0", "lab-01", "0", "-1", "lab-1x", "../lab-1", "lab-1234"])
def test_bad_host_names(host: str) -> None:
    with pytest.raises(TestbedError, match=r"must be LAB-NUMBER, such as mine-1"):
        net.split_host(host, "mine")


def test_a_labs_subnet_is_always_the_same() -> None:
    assert net.choose_subnet("lab", []) == net.choose_subnet("lab", [])
    assert net.choose_subnet("lab", []) != net.choose_subnet("other", [])


def test_labs_never_share_a_subnet() -> None:
    taken: set[int] = set()
    for index in range(net.SUBNETS):
        number = net.choose_subnet(f"l{index}", taken)
        assert number not in taken
        assert 1 <= number <= net.SUBNETS
        taken.add(number)
    with pytest.raises(TestbedError, match="all 254 subnets are taken"):
        net.choose_subnet("one-more", taken)


@pytest.mark.parametrize("number", [1, 120, net.SUBNETS])
def test_addresses_are_in_their_subnet_and_distinct(number: int) -> None:
    subnet = net.Subnet(number)
    ipv4 = ipaddress.ip_network(f"10.231.{number}.0/24")
    ipv6 = ipaddress.ip_network(f"fd4d:564d:6674:{number:x}::/64")
    hosts = range(1, net.MAX_HOSTS + 1)
    addresses = [subnet.controller_ipv4, *(subnet.host_ipv4(host) for host in hosts)]
    assert all(ipaddress.ip_address(address) in list(ipv4.hosts()) for address in addresses)
    assert len(set(addresses)) == len(addresses)
    addresses = [subnet.controller_ipv6, *(subnet.host_ipv6(host) for host in hosts)]
    assert all(ipaddress.ip_address(address) in ipv6 for address in addresses)
    assert len(set(addresses)) == len(addresses)


def test_the_outside_is_in_no_subnet_of_a_lab() -> None:
    assert ipaddress.ip_address(net.OUTSIDE_IPV4) not in ipaddress.ip_network("10.231.0.0/16")
    assert ipaddress.ip_address(net.OUTSIDE_IPV6) not in ipaddress.ip_network("fd4d:564d:6674::/48")


def test_networkd_uplink() -> None:
    text = net.networkd_file(net.Subnet(5), 2)
    assert text.splitlines() == [
        "[Match]",
        "Name=host0",
        "",
        "[Network]",
        "Address=10.231.5.12/24",
        "Address=fd4d:564d:6674:5::c/64",
        "Gateway=10.231.5.1",
        "Gateway=fd4d:564d:6674:5::1",
        "IPv6AcceptRA=no",
    ]
    parsed = configparser.ConfigParser(strict=False)
    parsed.read_string(text)
    assert parsed.sections() == ["Match", "Network"]


def test_ifupdown_uplink() -> None:
    lines = [line.strip() for line in net.ifupdown_file(net.Subnet(5), 2).splitlines()]
    assert "auto host0" in lines
    assert lines[lines.index("iface host0 inet static") + 1] == "address 10.231.5.12/24"
    assert lines[lines.index("iface host0 inet6 static") + 1] == "address fd4d:564d:6674:5::c/64"
    assert lines.count("gateway 10.231.5.1") == 1


def test_networkmanager_uplink() -> None:
    parsed = configparser.ConfigParser()
    parsed.read_string(net.networkmanager_file(net.Subnet(5), 2))
    assert parsed["connection"]["interface-name"] == "host0"
    assert dict(parsed["ipv4"]) == {"method": "manual", "address1": "10.231.5.12/24,10.231.5.1"}
    assert dict(parsed["ipv6"]) == {"method": "manual", "address1": "fd4d:564d:6674:5::c/64,fd4d:564d:6674:5::1"}


def test_namespace_commands_end_with_the_bridge_up() -> None:
    lines = net.netns_batch(net.Subnet(5)).splitlines()
    assert lines[0] == "link set lo up"
    assert lines[-1] == "link set br-lab up"
    assert "address add 10.231.5.1/24 dev br-lab" in lines
    assert "address add 198.51.100.1/32 dev lo" in lines


def test_hosts_file_names_the_host_and_the_rest() -> None:
    lines = net.hosts_file("lab-2", net.Subnet(5), 2).splitlines()
    assert "10.231.5.12 lab-2" in lines
    assert "10.231.5.1 controller" in lines
    assert "198.51.100.1 outside" in lines
