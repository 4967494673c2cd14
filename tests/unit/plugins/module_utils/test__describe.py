# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Descriptions: what follows from a network and an index, every key of an entry, and every message."""

from __future__ import annotations

import base64
import copy
import ipaddress
import json
import re
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.microvm.fleet.plugins.module_utils._describe import (
    CID,
    INDEX,
    Description,
    Surroundings,
    addresses_by_name,
    addresses_of,
    cid_of,
    describe_all,
    key_fault,
    mac_of,
    tap_of,
)
from ansible_collections.microvm.fleet.plugins.module_utils._descriptions import networks_of
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import (
    DESCRIPTION,
    INTERFACE_LIMIT,
    interface_faults,
    mac_fault,
)
from ansible_collections.microvm.fleet.plugins.module_utils._hypervisors import CHOICES

Tree = dict[str, t.Any]

NETWORKS = {
    name: network
    for entry in (
        {"name": "lan", "addresses": ["10.0.0.1/24", "fd00::1/64"]},
        {"name": "back", "addresses": ["10.9.0.254/16"], "taps": ["back-*", "vm-back-*"]},
        {
            "name": "leased",
            "addresses": ["10.7.0.1/24"],
            "dhcp": {"enabled": True, "range_start": "10.7.0.100", "range_end": "10.7.0.199", "dns": ["9.9.9.9"]},
        },
        {"name": "pair", "addresses": ["10.6.0.0/31"]},
        {"name": "bare"},
    )
    # One by one: together they would have to divide the names of taps among them.
    for name, network in networks_of([entry]).items()
}
AROUND = Surroundings(networks=NETWORKS)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6uoTmGiqzTnOAdTZMQ8iWVoBcTAWmLErcAR2Xhd6Fx a@b"


def wish(**fields: t.Any) -> Tree:
    """A wish as the argument spec leaves it: what is not given is None."""
    entry = dict.fromkeys(("flake", "runner", *DESCRIPTION))
    return {**entry, "name": "web1", "hypervisor": "qemu", "state": "present", **fields}


def read(around: Surroundings = AROUND, **fields: t.Any) -> Description:
    (answer,) = describe_all([wish(**fields)], around).values()
    assert isinstance(answer, Description), [error.text() for error in answer]
    return answer


def entry_of(**fields: t.Any) -> Tree:
    return dict(read(**fields).entry)


def interface_of(**fields: t.Any) -> Tree:
    (one,) = entry_of(**fields)["interfaces"]
    return dict(one)


def wrong(around: Surroundings = AROUND, **fields: t.Any) -> list[str]:
    (answer,) = describe_all([wish(**fields)], around).values()
    assert isinstance(answer, list)
    return [error.text() for error in answer]


# What follows from a network and an index


def test_the_same_on_every_host() -> None:
    """Numbers that other hosts and other releases rely on: a guest that moves keeps them."""
    assert mac_of("lan", 11) == "02:09:4a:00:00:0b"
    assert tap_of("lan", 11) == "vm-lan-11"
    assert tap_of("backend-of-all", 11) == "vm-2083a8-11"
    assert cid_of("lan", 11) == (1 + (0x094A >> 1)) * 65536 + 11
    assert addresses_of(NETWORKS["lan"], 11) == ("10.0.0.11/24", "fd00::b/64")


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,11}", fullmatch=True)
INDEXES = st.integers(*INDEX)


@given(NAMES, INDEXES)
def test_all_that_follows_is_valid(name: str, index: int) -> None:
    assert mac_fault(mac_of(name, index)) is None
    assert int(mac_of(name, index)[:2], 16) == 2
    assert len(tap_of(name, index)) <= INTERFACE_LIMIT
    assert list(interface_faults(tap_of(name, index))) == []
    assert tap_of(name, index).startswith("vm-")
    assert CID[0] <= cid_of(name, index) <= CID[1]


@given(NAMES, INDEXES, INDEXES)
def test_two_guests_of_a_network_have_nothing_alike(name: str, one: int, other: int) -> None:
    alike = one == other
    for derive in (mac_of, tap_of, cid_of):
        assert (derive(name, one) == derive(name, other)) is alike


def test_an_interface_of_a_network() -> None:
    assert interface_of(network={"name": "lan", "index": 11}) == {
        "type": "tap",
        "id": "vm-lan-11",
        "mac": "02:09:4a:00:00:0b",
        "network": "lan",
        "addresses": ["10.0.0.11/24", "fd00::b/64"],
        "gateways": ["10.0.0.1", "fd00::1"],
        "dns": ["10.0.0.1", "fd00::1"],
        "dhcp": False,
        "link": None,
        "mode": None,
    }


def test_a_network_that_tells_its_clients_of_servers() -> None:
    one = interface_of(network={"name": "leased", "index": 11})
    assert (one["gateways"], one["dns"], one["dhcp"]) == (["10.7.0.1"], ["9.9.9.9"], False)


@pytest.mark.parametrize("index", [2, 253, 255, 65533])
def test_numbers_of_a_large_network(index: int) -> None:
    (address,) = interface_of(network={"name": "back", "index": index})["addresses"]
    assert ipaddress.ip_interface(address).ip == ipaddress.ip_address("10.9.0.0") + index


def test_the_other_end_of_a_pair() -> None:
    assert interface_of(network={"name": "pair", "index": 1})["addresses"] == ["10.6.0.1/31"]


BAD_NUMBERS: list[tuple[str, int, str]] = [
    ("lan", 0, "network.index: 0 is out of range. Give a number from 1 to 65533."),
    ("lan", -1, "network.index: -1 is out of range. Give a number from 1 to 65533."),
    ("lan", 65534, "network.index: 65534 is out of range. Give a number from 1 to 65533."),
    ("lan", 255, "network.index: 255 is outside 10.0.0.0/24 of network lan. Give a number from 1 to 254."),
    ("lan", 300, "network.index: 300 is outside 10.0.0.0/24 of network lan. Give a number from 1 to 254."),
    ("pair", 2, "network.index: 2 is outside 10.6.0.0/31 of network pair. Give a number from 1 to 1."),
    ("lan", 1, "network.index: 1 gives 10.0.0.1, which is the host's own address there. Give another number."),
    (
        "leased",
        150,
        (
            "network.index: 150 gives 10.7.0.150, which the DHCP server of network leased hands out "
            "(10.7.0.100 to 10.7.0.199). Give another number, or move the pool."
        ),
    ),
    (
        "wan",
        2,
        "network.name: there is no network wan; there are: back, bare, lan, leased, pair. Name one of them.",
    ),
]


@pytest.mark.parametrize(("network", "index", "said"), BAD_NUMBERS)
def test_a_number_that_cannot_be(network: str, index: int, said: str) -> None:
    assert wrong(network={"name": network, "index": index}) == [f"guest web1, {said}"]


@pytest.mark.parametrize(("network", "index"), [("leased", 99), ("leased", 200), ("lan", 254), ("bare", 9)])
def test_a_number_that_can_be(network: str, index: int) -> None:
    assert interface_of(network={"name": network, "index": index})["network"] == network


def test_networks_that_are_not_known() -> None:
    """On the controller, without `microvm_networks`: the host knows its own, and checks all again."""
    (one,) = read(Surroundings(), network={"name": "wan", "index": 300}).entry["interfaces"]
    assert (one["id"], one["addresses"], one["gateways"]) == ("vm-wan-300", [], [])


def test_a_tap_that_no_bridge_takes() -> None:
    assert wrong(network={"name": "lan", "index": 9}, interfaces=[{"network": "back", "id": "y", "mac": MAC}]) == [
        (
            "guest web1, interfaces[0].network: the bridge of network back takes no tap with the name y; "
            "its taps are back-*, vm-back-*. Give the interface another id, or the network another pattern in taps."
        )
    ]


# Interfaces

MAC = "02:00:00:00:00:0a"


def one_interface(**fields: t.Any) -> Tree:
    return interface_of(interfaces=[fields])


def test_interfaces_after_the_network() -> None:
    found = read(
        network={"name": "lan", "index": 11},
        interfaces=[{"type": "user"}, {"network": "leased", "id": "vm-b", "mac": MAC.upper()}],
    )
    assert [one["id"] for one in found.entry["interfaces"]] == ["vm-lan-11", "user1", "vm-b"]
    assert [one["dhcp"] for one in found.entry["interfaces"]] == [False, True, True]
    assert [(each.said, each.index) for each in found.interfaces] == [
        ("network", 11),
        ("interfaces[0]", None),
        ("interfaces[1]", None),
    ]
    assert [each.addresses for each in found.interfaces] == [("10.0.0.11", "fd00::b"), (), ()]
    assert found.interfaces[2].mac == MAC


def test_a_further_interface_by_its_number() -> None:
    assert one_interface(network="lan", index=12) == {
        **interface_of(network={"name": "lan", "index": 12}),
        "network": "lan",
    }


def test_what_follows_can_be_said() -> None:
    one = one_interface(network="lan", index=12, id="vm-own", mac=MAC, addresses=["10.0.0.99"])
    assert (one["id"], one["mac"], one["addresses"]) == ("vm-own", MAC, ["10.0.0.99/24"])
    assert one["gateways"] == ["10.0.0.1", "fd00::1"]


def test_an_interface_in_no_network() -> None:
    one = one_interface(id="vm-own", mac=MAC, addresses=["192.0.2.7/28", "2001:db8::7/64"])
    assert (one["addresses"], one["gateways"], one["dns"]) == (["192.0.2.7/28", "2001:db8::7/64"], [], [])
    assert one_interface(id="vm-own", mac=MAC)["dhcp"] is True


def test_an_interface_without_addresses_in_a_network_without_dhcp() -> None:
    assert one_interface(network="lan", id="vm-own", mac=MAC)["dhcp"] is False


def test_a_macvtap() -> None:
    one = one_interface(type="macvtap", id="mv0", mac=MAC, link="eth0.7")
    assert (one["link"], one["mode"], one["dhcp"]) == ("eth0.7", "bridge", True)
    assert one_interface(type="macvtap", id="mv0", mac=MAC, link="eth0", mode="vepa")["mode"] == "vepa"


def test_a_user_interface_has_a_mac_of_its_own() -> None:
    one = one_interface(type="user")
    assert one["id"] == "user0"
    assert mac_fault(one["mac"]) is None
    (other,) = read(name="web2", interfaces=[{"type": "user"}]).entry["interfaces"]
    assert other["mac"] != one["mac"]


BAD_INTERFACES: list[tuple[Tree, list[str]]] = [
    ({}, ["id: is missing.", "mac: is missing"]),
    ({"id": "vm-a"}, ["mac: is missing, and others on the same link must not have it."]),
    ({"id": "a" * 16, "mac": MAC}, ["id: 'aaaaaaaaaaaaaaaa' has 16 characters, and the kernel takes 15."]),
    ({"id": "vt-a", "mac": MAC}, ["id: 'vt-a' begins with vt-"]),
    ({"id": "a b", "mac": MAC}, ["id: 'a b' is no name of an interface."]),
    ({"id": "vm-a", "mac": "02:00"}, ["mac: '02:00' is no MAC address."]),
    ({"id": "vm-a", "mac": "03:00:00:00:00:00"}, ["mac: '03:00:00:00:00:00' is a group address."]),
    ({"id": "vm-a", "mac": MAC, "index": 3}, ["index: 3 is a number in no network. Give network too."]),
    ({"network": "wan", "index": 3}, ["network: there is no network wan"]),
    ({"network": "lan", "index": 0}, ["index: 0 is out of range."]),
    ({"type": "user", "network": "lan"}, ["network: a user interface is in no network of the host. Leave it out."]),
    (
        {"type": "macvtap", "id": "m", "mac": MAC, "link": "eth0", "network": "lan"},
        ["network: a macvtap interface is in no network of the host."],
    ),
    ({"type": "macvtap", "id": "m", "mac": MAC}, ["link: is missing."]),
    ({"type": "macvtap", "id": "m", "mac": MAC, "link": "a/b"}, ["link: 'a/b' is no name of an interface."]),
    ({"type": "macvtap", "id": "m", "mac": MAC, "link": "a" * 16}, ["link: 'aaaaaaaaaaaaaaaa' is no name of an"]),
    ({"id": "vm-a", "mac": MAC, "link": "eth0"}, ["link: a tap interface has none."]),
    ({"id": "vm-a", "mac": MAC, "mode": "vepa"}, ["mode: is for a macvtap interface."]),
    ({"id": "vm-a", "mac": MAC, "addresses": ["10.0.0"]}, ["addresses[0]: '10.0.0' is no IP address."]),
    (
        {"id": "vm-a", "mac": MAC, "addresses": ["192.0.2.1"]},
        ["addresses[0]: 192.0.2.1 has no length of its network. Give it as 192.0.2.1/24, or the like."],
    ),
    (
        {"network": "lan", "index": 3, "addresses": ["10.0.0.1"]},
        ["addresses[0]: 10.0.0.1 is the host's own address there. Give another."],
    ),
    (
        {"network": "lan", "index": 3, "addresses": ["192.0.2.1/24"]},
        ["addresses[0]: 192.0.2.1 is outside network lan, 10.0.0.0/24, fd00::/64. Give one inside it."],
    ),
]


@pytest.mark.parametrize(("fields", "said"), BAD_INTERFACES)
def test_an_interface_that_cannot_be(fields: Tree, said: list[str]) -> None:
    found = wrong(interfaces=[fields])
    assert len(found) == len(said), found
    for message, words in zip(found, said, strict=True):
        assert message.startswith(f"guest web1, interfaces[0].{words}"), message


def test_two_interfaces_of_the_same_name_and_address() -> None:
    twin = {"id": "vm-a", "mac": MAC}
    assert wrong(interfaces=[twin, dict(twin)]) == [
        "guest web1, interfaces[1].id: vm-a is already that of another interface. Give each its own.",
        f"guest web1, interfaces[1].mac: {MAC} is already that of another interface. Give each its own.",
    ]


# An entry


def test_the_least() -> None:
    assert entry_of() == {
        "hypervisor": "qemu",
        "vcpu": 1,
        "mem": 512,
        "host_name": "web1",
        "release": None,
        "interfaces": [],
        "volumes": [],
        "shares": [],
        "forward_ports": [],
        "store": "disk",
        "vsock_cid": None,
        "credentials": [],
        "ssh_keys": [],
        "profiles": {},
        "modules": [],
        "options": {},
    }


EVERYTHING: Tree = {
    "vcpu": 2,
    "mem": 1024,
    "host_name": "www",
    "release": "25.11",
    "network": {"name": "lan", "index": 11},
    "interfaces": [{"type": "user", "addresses": ["10.0.2.15/24"]}],
    "volumes": [{"image": "./data.img", "size": 64, "mount_point": "/data/", "label": "data"}],
    "shares": [{"tag": "etc", "source": "/etc/", "mount_point": "/host-etc", "read_only": True}],
    "forward_ports": [{"host_port": 2222, "guest_port": 22}],
    "store": "host",
    "vsock_cid": 42,
    "credentials": {"token": {"src": "a"}, "key": {"path": "/root/b"}},
    "ssh_keys": [f"  {KEY}\n"],
    "modules": ["nixos/a.nix", "nixos/b"],
    "microvm_options": {"balloon": True, "microvm.kernelParams": ["quiet"]},
}


def test_everything() -> None:
    before = copy.deepcopy(EVERYTHING)
    entry = entry_of(**EVERYTHING)
    assert before == EVERYTHING
    del entry["interfaces"]
    assert entry == {
        "hypervisor": "qemu",
        "vcpu": 2,
        "mem": 1024,
        "host_name": "www",
        "release": "25.11",
        "volumes": [
            {
                "image": "data.img",
                "mount_point": "/data",
                "size": 64,
                "fs_type": "ext4",
                "label": "data",
                "read_only": False,
                "auto_create": True,
            }
        ],
        "shares": [
            {"tag": "etc", "source": "/etc", "mount_point": "/host-etc", "proto": "virtiofs", "read_only": True}
        ],
        "forward_ports": [{"proto": "tcp", "host_address": "127.0.0.1", "host_port": 2222, "guest_port": 22}],
        "store": "host",
        "vsock_cid": 42,
        "credentials": ["key", "token"],
        "ssh_keys": [KEY],
        "profiles": {},
        "modules": ["nixos/a.nix", "nixos/b"],
        "options": {"microvm.balloon": True, "microvm.kernelParams": ["quiet"]},
    }
    assert entry == json.loads(json.dumps(entry))


@pytest.mark.parametrize("hypervisor", CHOICES)
def test_every_hypervisor_has_a_guest(hypervisor: str) -> None:
    entry = entry_of(hypervisor=hypervisor, network={"name": "lan", "index": 11})
    assert entry["hypervisor"] == hypervisor
    derived = cid_of("lan", 11) if hypervisor in ("cloud-hypervisor", "firecracker") else None
    assert entry["vsock_cid"] == derived
    assert entry_of(hypervisor=hypervisor, network={"name": "lan", "index": 11}, vsock_cid=0)["vsock_cid"] is None


def test_the_cid_follows_from_the_first_number() -> None:
    interfaces = [{"id": "vm-a", "mac": MAC}, {"network": "lan", "index": 12}, {"network": "bare", "index": 13}]
    assert entry_of(hypervisor="firecracker", interfaces=interfaces)["vsock_cid"] == cid_of("lan", 12)


@pytest.mark.parametrize(("name", "host_name"), [("web.example_1", "web-example-1"), ("Web1", "Web1")])
def test_host_names_that_are_made_of_names(name: str, host_name: str) -> None:
    assert entry_of(name=name)["host_name"] == host_name


BAD: list[tuple[Tree, str]] = [
    ({"vcpu": 0}, "vcpu: 0 is out of range. Give a number from 1 to 512."),
    ({"mem": 31}, "mem: 31 is out of range. Give a number from 32 to 16777216."),
    ({"name": "a-"}, "host_name: 'a-', made of its name, is no host name."),
    ({"host_name": "a.b"}, "host_name: 'a.b' is no host name."),
    ({"host_name": ""}, "host_name: '' is no host name."),
    ({"release": "25.10"}, "release: '25.10' is no release of NixOS. Give one such as '25.11', in quotes."),
    ({"vsock_cid": 2}, "vsock_cid: 2 is out of range. Give a number from 3 to 4294967294, or 0."),
    ({"volumes": [{"image": "a"}]}, "volumes[0].size: is missing. Give MiB, or auto_create: false"),
    ({"volumes": [{"image": "a", "size": 0}]}, "volumes[0].size: 0 MiB is out of range."),
    ({"volumes": [{"image": "../a", "size": 1}]}, "volumes[0].image: '../a' leads out of where it begins."),
    ({"volumes": [{"image": "a b", "size": 1}]}, "volumes[0].image: 'a b' is no path of an image."),
    ({"volumes": [{"image": "$(a)", "size": 1}]}, "volumes[0].image: '$(a)' is no path of an image."),
    ({"volumes": [{"image": "a/", "size": 1}]}, "volumes[0].image: 'a/' is no path of an image."),
    ({"volumes": [{"image": "current", "size": 1}]}, "volumes[0].image: 'current' is a file of the guest's directory"),
    ({"volumes": [{"image": "./booted", "size": 1}]}, "volumes[0].image: './booted' is a file of the guest's"),
    ({"volumes": [{"image": "web1.sock", "size": 1}]}, "volumes[0].image: 'web1.sock' is a file of the guest's"),
    ({"volumes": [{"image": "/dev/sdb", "size": 1}]}, "volumes[0].image: '/dev/sdb' is a device, and cannot be made."),
    (
        {"volumes": [{"image": "a", "size": 1, "label": "seventeen-letters"}]},
        "volumes[0].label: 'seventeen-letters' is no label of ext4. Give letters, digits, - and _, 16 at most.",
    ),
    (
        {"volumes": [{"image": "a", "size": 1, "fs_type": "vfat", "label": "twelve-chars"}]},
        "volumes[0].label: 'twelve-chars' is no label of vfat. Give letters, digits, - and _, 11 at most.",
    ),
    ({"volumes": [{"image": "a", "size": 1, "mount_point": "data"}]}, "volumes[0].mount_point: 'data' is no directory"),
    ({"volumes": [{"image": "a", "size": 1, "mount_point": "/"}]}, "volumes[0].mount_point: / is what the guest"),
    ({"volumes": [{"image": "a", "size": 1, "mount_point": "/nix/./store/"}]}, "volumes[0].mount_point: /nix/store is"),
    ({"volumes": [{"image": "a", "size": 1, "mount_point": "/a/../b"}]}, "volumes[0].mount_point: '/a/../b' is no"),
    ({"volumes": [{"image": "a", "size": 1}] * 2}, "volumes[1].image: a is already that of volumes[0]. Give another."),
    (
        {"volumes": [{"image": str(number), "size": 1} for number in range(26)]},
        "volumes: 26, and a guest has 25 at most. Give fewer.",
    ),
    ({"shares": [{"tag": "a b", "source": "/a", "mount_point": "/b"}]}, "shares[0].tag: 'a b' is no tag."),
    ({"shares": [{"tag": "a" * 37, "source": "/a", "mount_point": "/b"}]}, f"shares[0].tag: '{'a' * 37}' is no tag."),
    (
        {"shares": [{"tag": "ro-store", "source": "/a", "mount_point": "/b"}]},
        "shares[0].tag: ro-store is kept for the collection.",
    ),
    ({"shares": [{"tag": "a", "source": "b", "mount_point": "/b"}]}, "shares[0].source: 'b' is no directory of the"),
    ({"shares": [{"tag": "a", "source": "/", "mount_point": "/b"}]}, "shares[0].source: / has the host's /nix/store"),
    (
        {"shares": [{"tag": "a", "source": "/nix/store/x", "mount_point": "/b"}]},
        "shares[0].source: /nix/store/x has the host's /nix/store",
    ),
    ({"shares": [{"tag": "a", "source": "/nix/", "mount_point": "/b"}]}, "shares[0].source: /nix has the host's"),
    (
        {
            "volumes": [{"image": "a", "size": 1, "mount_point": "/b"}],
            "shares": [{"tag": "a", "source": "/a", "mount_point": "/b/"}],
        },
        "shares[0].mount_point: /b is already that of volumes[0]. Give another.",
    ),
    ({"forward_ports": [{"host_port": 1, "guest_port": 1}]}, "forward_ports: they lead to an interface of type user"),
    ({"credentials": {"a b": {"src": "a"}}}, "credentials: 'a b' is no name of a credential."),
    ({"credentials": {"../a": {"src": "a"}}}, "credentials: '../a' is no name of a credential."),
    ({"credentials": {"a": "b"}}, "credentials.a: says not where its file is. Give src, a file on the controller"),
    ({"credentials": {"a": {}}}, "credentials.a: says not where its file is."),
    ({"credentials": {"a": {"src": "b", "path": "/c"}}}, "credentials.a: says not where its file is."),
    ({"credentials": {"a": {"path": "b"}}}, "credentials.a.path: 'b' is relative. Give an absolute path."),
    ({"ssh_keys": ["ssh-ed25519"]}, "ssh_keys[0]: 'ssh-ed25519' is no public key of SSH."),
    ({"modules": ["/a.nix"]}, "modules[0]: '/a.nix' is no path of a module."),
    ({"modules": ["../a.nix"]}, "modules[0]: '../a.nix' is no path of a module."),
    ({"modules": ["a/../../b.nix"]}, "modules[0]: 'a/../../b.nix' is no path of a module."),
    ({"modules": ["a.nix", "a.nix"]}, "modules[1]: a.nix is given twice. Give it once."),
    ({"microvm_options": {"balon": True}}, "microvm_options.balon: is no option that a description can set."),
    ({"microvm_options": {"balloon": 3}}, "microvm_options.balloon: 3 is of another type. Give: boolean."),
    ({"microvm_options": {"vcpu": 3}}, "microvm_options.vcpu: is said in another way here. Use vcpu."),
    (
        {"microvm_options": {"balloon": True, "microvm.balloon": True}},
        "microvm_options.microvm.balloon: is given twice. Give it once.",
    ),
    ({"profiles": ["k3s"]}, "profiles: "),
    ({"hypervisor": "vfkit"}, "hypervisor: vfkit runs on macOS only."),
    ({"hypervisor": "alioth", "store": "host"}, "store: alioth has no support for the host's store."),
]


@pytest.mark.parametrize(("fields", "said"), BAD)
def test_what_cannot_be(fields: Tree, said: str) -> None:
    (message,) = wrong(**fields)
    assert message.startswith(f"guest {fields.get('name', 'web1')}, {said}"), message


def test_all_that_is_wrong_is_said() -> None:
    assert len(wrong(mem=1, vcpu=0, release="x", modules=["/a"])) == 4


def test_ports() -> None:
    ports = [
        {"host_port": 0, "guest_port": 70000},
        {"host_port": 80, "guest_port": 80, "host_address": "localhost"},
        {"host_port": 80, "guest_port": 81},
    ]
    said = wrong(interfaces=[{"type": "user"}], forward_ports=ports)
    assert [re.sub(r"^guest web1, forward_ports\[(\d)\]\.(\w+): (.*?)\. .*", r"\1 \2 \3", one) for one in said] == [
        "0 host_port 0 is no port",
        "0 guest_port 70000 is no port",
        "1 host_address 'localhost' is no IPv4 address",
        "2 host_port 80 is forwarded already",
    ]
    one = {"host_port": 80, "guest_port": 80, "proto": "udp", "host_address": ""}
    both = entry_of(interfaces=[{"type": "user"}], forward_ports=[one, {**one, "proto": "tcp"}])["forward_ports"]
    assert [port["host_address"] for port in both] == ["", ""]


def test_what_a_hypervisor_cannot_do_is_named_as_the_wish_has_it() -> None:
    """The first interface of an entry may be the one of `network`."""
    user = {"type": "user"}
    with_network = wrong(hypervisor="crosvm", network={"name": "lan", "index": 9}, interfaces=[user])
    without = wrong(hypervisor="crosvm", interfaces=[user])
    assert with_network == without
    assert without == [
        "guest web1, interfaces[0].type: crosvm has no support for user interfaces. qemu and kvmtool can do that."
    ]


def test_warnings_name_the_guest() -> None:
    assert read(mem=2048).warnings == ("guest web1, mem: qemu hangs with exactly 2048 MiB. Give one MiB more or less.",)


def test_claims() -> None:
    found = read(
        hypervisor="qemu",
        vsock_cid=7,
        interfaces=[{"type": "user"}],
        forward_ports=[{"host_port": 80, "guest_port": 81}],
        volumes=[
            {"image": "/srv/a.img", "size": 1},
            {"image": "/srv/b.img", "read_only": True, "auto_create": False},
            {"image": "c.img", "size": 1},
        ],
    )
    assert found.claims == (
        ("host name", "web1", "host_name"),
        ("vsock CID", "7", "vsock_cid"),
        ("image", "/srv/a.img", "volumes[0].image"),
        ("port", "127.0.0.1:80/tcp", "forward_ports[0].host_port"),
    )


# Keys


def key(kind: str, *, inside: str | None = None, rest: bytes = b"\0" * 36) -> str:
    name = (inside or kind).encode()
    return f"{kind} {base64.b64encode(len(name).to_bytes(4, 'big') + name + rest).decode()}"


@pytest.mark.parametrize("kind", ["ssh-rsa", "ecdsa-sha2-nistp256", "sk-ssh-ed25519@openssh.com"])
def test_keys(kind: str) -> None:
    assert key_fault(key(kind)) is None
    assert key_fault(key(kind) + " a comment") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no public key of SSH."),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "is a private key, which belongs to nobody else."),
        (f"{KEY}\n{KEY}", "has more than one line."),
        ("ssh-dss AAAA", "is no public key of SSH."),
        (f'command="a" {KEY}', "is no public key of SSH."),
        ("ssh-ed25519 AAA", "the key after ssh-ed25519 is cut or misspelt."),
        ("ssh-ed25519 ????", "the key after ssh-ed25519 is cut or misspelt."),
        (key("ssh-ed25519", inside="ssh-rsa"), "the key after ssh-ed25519 is cut or misspelt."),
        (key("ssh-ed25519", rest=b""), "the key after ssh-ed25519 is cut or misspelt."),
    ],
)
def test_what_is_no_key(text: str, said: str) -> None:
    assert (key_fault(text) or "").endswith(said)


def test_a_private_key_is_not_shown() -> None:
    (message,) = wrong(ssh_keys=["-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0"])
    assert "c2VjcmV0" not in message


# Profiles, and guests that they name


def test_what_a_profile_brings() -> None:
    found = read(
        network={"name": "lan", "index": 11},
        profiles=["k3s_server"],
        credentials={"k3s-token": {"src": "token"}},
    )
    assert found.entry["mem"] >= 1024
    assert found.entry["volumes"], "data of the cluster is on a disk"
    assert list(found.entry["profiles"]) == ["k3s_server"]
    assert entry_of(mem=8192, profiles=["k3s_server"], credentials={"k3s-token": {"src": "a"}})["mem"] == 8192


def test_a_profile_without_its_secret() -> None:
    said = wrong(network={"name": "lan", "index": 11}, profiles=["k3s_agent"])
    assert any("k3s-token" in one for one in said)


# All of a host


def test_only_guests_with_a_hypervisor_that_stay() -> None:
    entries = [wish(), wish(name="b", hypervisor=None), wish(name="c", state="absent"), wish(name="d", mem=1)]
    found = describe_all(entries, AROUND)
    assert {place: isinstance(answer, Description) for place, answer in found.items()} == {0: True, 3: False}


def test_addresses_by_name() -> None:
    entries = [
        wish(network={"name": "lan", "index": 11}),
        wish(name="b", hypervisor=None, interfaces=[{"id": "vm-b", "addresses": ["10.0.0.12"]}, {"id": "vm-c"}]),
        wish(name="c", hypervisor=None, interfaces=[{"id": "vm-b", "addresses": ["10.0.0.13"]}], state="absent"),
        wish(name="d", hypervisor=None),
    ]
    assert {name: list(found) for name, found in addresses_by_name(entries, AROUND).items()} == {
        "web1": ["10.0.0.11/24", "fd00::b/64"],
        "b": ["10.0.0.12"],
        "d": [],
    }
