# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests as an inventory describes them, through guests.json to what the static flake sets: all in one evaluation."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _describe, _hypervisors, _net_wish
from ansible_collections.microvm.fleet.tests.nix.fleet import HERE, NixError, evaluate, lay, nix, runner
from ansible_collections.microvm.fleet.tests.nix.listed import faults_of_networkd, unlisted

Tree = dict[str, Any]

NETWORKS = {
    "lan": _net_wish.parse(
        {
            "name": "lan",
            "addresses": ["10.0.0.1/24", "fd00:5::1/64"],
            "dhcp": {"enabled": True, "range_start": "10.0.0.200", "range_end": "10.0.0.250"},
        }
    ),
    "back": _net_wish.parse({"name": "back", "addresses": ["10.9.0.1/16"]}),
}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6uoTmGiqzTnOAdTZMQ8iWVoBcTAWmLErcAR2Xhd6Fx a@b"
# wish of the inventory -> what the evaluated guest has of it, by path; MISSING for what must not be set.
MISSING = object()
VOLUME = {"image": "data.img", "size": 64, "mount_point": "/data"}
TAP = {"type": "tap", "id": "vm-x", "mac": "02:00:00:00:00:0a"}
MAC = _describe.mac_of("lan", 11)

TABLE: dict[str, tuple[Tree, dict[str, Any]]] = {
    **{
        f"on-{hypervisor}": (
            {"hypervisor": hypervisor, "vcpu": 2, "mem": 300 + place, "network": {"name": "lan", "index": 20 + place}},
            {
                "microvm.hypervisor": hypervisor,
                "microvm.vcpu": 2,
                "microvm.mem": 300 + place,
                "microvm.storeOnDisk": True,
                "microvm.interfaces": [
                    {"type": "tap", "id": f"vm-lan-{20 + place}", "mac": _describe.mac_of("lan", 20 + place)}
                ],
                "microvm.vsock.cid": (
                    _describe.cid_of("lan", 20 + place) if hypervisor in _hypervisors.SOCKET_VSOCK else None
                ),
                "microvm.volumes": [],
                "microvm.shares": [],
                "microvm.forwardPorts": [],
                "networking.hostName": f"on-{hypervisor}",
            },
        )
        for place, hypervisor in enumerate(_hypervisors.CHOICES)
    },
    "network": (
        {"network": {"name": "lan", "index": 11}},
        {
            "systemd.network.networks": {
                "10-fleet-net0": {
                    "matchConfig": {"MACAddress": MAC, "Type": "ether", "Kind": "!*"},
                    "address": ["10.0.0.11/24", "fd00:5::b/64"],
                    "gateway": ["10.0.0.1", "fd00:5::1"],
                    "dns": ["10.0.0.1", "fd00:5::1"],
                    "networkConfig": {"DHCP": "no", "IPv6AcceptRA": False},
                }
            },
            "systemd.network.links": {
                "10-fleet-net0": {
                    "matchConfig": {"MACAddress": MAC, "Type": "ether", "Kind": "!*"},
                    "linkConfig": {"Name": "net0"},
                }
            },
            "networking.useNetworkd": True,
        },
    ),
    "leased": (
        {"interfaces": [{**TAP, "network": "lan"}]},
        {
            "systemd.network.networks.10-fleet-net0.networkConfig.DHCP": "ipv4",
            "systemd.network.networks.10-fleet-net0.dhcpV4Config": {"ClientIdentifier": "mac"},
            "systemd.network.networks.10-fleet-net0.linkConfig": MISSING,
            "systemd.network.networks.10-fleet-net0.address": [],
        },
    ),
    "silent": (
        {"interfaces": [{**TAP, "network": "back"}]},
        {
            "systemd.network.networks.10-fleet-net0.networkConfig.DHCP": "no",
            "systemd.network.networks.10-fleet-net0.linkConfig": {"RequiredForOnline": "no"},
        },
    ),
    "macvtap": (
        {"interfaces": [{**TAP, "type": "macvtap", "link": "eth0", "mode": "private"}]},
        {"microvm.interfaces": [{**TAP, "type": "macvtap", "macvtap": {"link": "eth0", "mode": "private"}}]},
    ),
    "user": (
        {
            "hypervisor": "qemu",
            "interfaces": [{"type": "user"}],
            "forward_ports": [{"host_port": 2222, "guest_port": 22}],
        },
        {
            "microvm.interfaces.0.type": "user",
            "microvm.forwardPorts": [
                {
                    "from": "host",
                    "proto": "tcp",
                    "host": {"address": "127.0.0.1", "port": 2222},
                    "guest": {"port": 22},
                }
            ],
        },
    ),
    "several": (
        {"network": {"name": "lan", "index": 30}, "interfaces": [{"network": "back", "index": 31}, TAP]},
        {
            "microvm.interfaces.0.id": "vm-lan-30",
            "microvm.interfaces.1.id": "vm-back-31",
            "microvm.interfaces.2.id": "vm-x",
            "systemd.network.networks.10-fleet-net1.address": ["10.9.0.31/16"],
            "systemd.network.networks.10-fleet-net2.networkConfig.DHCP": "ipv4",
        },
    ),
    "volumes": (
        {
            "volumes": [
                VOLUME,
                {"image": "/dev/vg/x", "auto_create": False, "mount_point": "/x", "fs_type": "xfs", "read_only": True},
                {"image": "raw.img", "size": 5, "label": "raw"},
            ]
        },
        {
            "microvm.volumes": [
                {
                    "image": "data.img",
                    "label": None,
                    "mountPoint": "/data",
                    "fsType": "ext4",
                    "readOnly": False,
                    "autoCreate": True,
                    "size": 64,
                },
                {
                    "image": "/dev/vg/x",
                    "label": None,
                    "mountPoint": "/x",
                    "fsType": "xfs",
                    "readOnly": True,
                    "autoCreate": False,
                },
                {
                    "image": "raw.img",
                    "label": "raw",
                    "mountPoint": None,
                    "fsType": "ext4",
                    "readOnly": False,
                    "autoCreate": True,
                    "size": 5,
                },
            ],
            "fileSystems./x.options": ["ro"],
            "fileSystems./data.options": MISSING,
        },
    ),
    "shares": (
        {
            "hypervisor": "qemu",
            "shares": [
                {"tag": "data", "source": "/srv/data", "mount_point": "/data"},
                {"tag": "more", "source": "/srv/more", "mount_point": "/more", "proto": "9p", "read_only": True},
            ],
        },
        {
            "microvm.shares": [
                {
                    "tag": "data",
                    "source": "/srv/data",
                    "mountPoint": "/data",
                    "proto": "virtiofs",
                    "readOnly": False,
                },
                {"tag": "more", "source": "/srv/more", "mountPoint": "/more", "proto": "9p", "readOnly": True},
            ],
            "fileSystems./more.options": ["ro"],
        },
    ),
    "host-store": (
        {"store": "host"},
        {
            "microvm.storeOnDisk": False,
            "microvm.shares": [
                {
                    "tag": "ro-store",
                    "source": "/nix/store",
                    "mountPoint": "/nix/.ro-store",
                    "proto": "virtiofs",
                    "readOnly": True,
                }
            ],
        },
    ),
    "secret-qemu": (
        {"hypervisor": "qemu", "credentials": {"token": {"path": "/x"}}},
        {
            "microvm.credentialFiles": {"token": "/run/credentials/microvm@secret-qemu.service/token"},
            "fleet.credentials": {"token": "/run/credentials/@system/token"},
            "microvm.shares": [],
        },
    ),
    **{
        f"secret-{hypervisor}": (
            {"hypervisor": hypervisor, "credentials": {"token": {"path": "/x"}}},
            {
                "microvm.credentialFiles": MISSING,
                "fleet.credentials": {"token": "/run/fleet-credentials/token"},
                "microvm.shares": [
                    {
                        "tag": "fleet-credentials",
                        "source": f"/run/credentials/microvm-virtiofsd@secret-{hypervisor}.service",
                        "mountPoint": "/run/fleet-credentials",
                        "proto": "virtiofs",
                        "readOnly": True,
                    }
                ],
                "fileSystems./run/fleet-credentials.options": ["ro", "nosuid", "nodev", "noexec"],
            },
        )
        for hypervisor in ("cloud-hypervisor", "crosvm")
    },
    "key": (
        {"ssh_keys": [KEY], "credentials": {"ssh_host_ed25519_key": {"path": "/x"}}},
        {
            "users.users.root.openssh.authorizedKeys.keys": [KEY],
            "services.openssh.enable": True,
            "services.openssh.hostKeys": [{"type": "ed25519", "path": "/run/fleet-credentials/ssh_host_ed25519_key"}],
            "services.openssh.settings.PasswordAuthentication": False,
        },
    ),
    "named.with_dots": (
        {"release": "25.05", "vsock_cid": 77},
        {"networking.hostName": "named-with-dots", "system.stateVersion": "25.05", "microvm.vsock.cid": 77},
    ),
    "own-name": ({"host_name": "web"}, {"networking.hostName": "web", "microvm.vsock.cid": None}),
    "options": (
        {
            "hypervisor": "qemu",
            "microvm_options": {"balloon": True, "microvm.qemu.extraArgs": ["-a"], "cpu": None},
        },
        {"microvm.balloon": True, "microvm.qemu.extraArgs": ["-a"], "microvm.cpu": None},
    ),
    "modules": (
        {"network": {"name": "lan", "index": 40}, "modules": ["nixos/extra.nix", "more"]},
        {
            "environment.etc.extra.text": "modules net0",
            "environment.etc.more.text": "10.0.0.40",
            "networking.firewall.allowedTCPPorts": [80, 443],
        },
    ),
}
MODULES = {
    "nixos/extra.nix": """
        { fleet, lib, ... }:
        {
          environment.etc.extra.text = "${fleet.name} ${fleet.interface}";
          networking.firewall.allowedTCPPorts = lib.mkBefore [ 80 ];
        }
    """,
    "more/default.nix": """
        { fleet, ... }:
        { environment.etc.more.text = fleet.ipv4; networking.firewall.allowedTCPPorts = [ 443 ]; }
    """,
    "broken.nix": "{ networking.hostName = ; }",
    "later.nix": "{\n  a = 1;\n  b = [ 1;\n}\n",
    "undefined.nix": "{ ... }:\n{\n  networking.hostName = domain;\n}\n",
    "type.nix": "{ services.openssh.ports = 5; }",
    "clash.nix": '{ networking.hostName = "other"; }',
    "assertion.nix": '{ assertions = [ { assertion = false; message = "not like this"; } ]; }',
    "wrong.nix": '{ networking.hostname = "x"; }',
}


def described(wishes: Mapping[str, Tree]) -> dict[str, Tree]:
    """Entries of guests.json."""
    entries = [{"hypervisor": "cloud-hypervisor", **wish, "name": name} for name, wish in wishes.items()]
    found = _describe.describe_all(entries, _describe.Surroundings(networks=NETWORKS))
    result = {}
    for place, one in found.items():
        assert isinstance(one, _describe.Description), [str(error) for error in one]
        result[str(entries[place]["name"])] = dict(one.entry)
    return result


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree]:
    guests = described({name: wish for name, (wish, _expected) in TABLE.items()})
    place = lay(tmp_path_factory.mktemp("guests"), guests=guests, modules=MODULES)
    found: dict[str, Tree] = evaluate(
        place,
        "builtins.mapAttrs (_: guest: { inherit (guest.config.system.build) said;"
        " runner = guest.config.microvm.declaredRunner.outPath; }) fleet.nixosConfigurations",
    )
    return found


def at(tree: Any, path: str) -> Any:
    """What is at *path*, whose names may have dots; MISSING."""
    if path == "":
        return tree
    if isinstance(tree, list):
        head, _dot, rest = path.partition(".")
        return at(tree[int(head)], rest)
    for name in tree if isinstance(tree, dict) else ():
        if path == name:
            return tree[name]
        if path.startswith(f"{name}."):
            return at(tree[name], path[len(name) + 1 :])
    return MISSING


@pytest.mark.parametrize("name", list(TABLE))
def test_a_described_guest_sets(name: str, evaluated: dict[str, Tree]) -> None:
    wish, expected = TABLE[name]
    said = evaluated[name]["said"]
    assert {path: at(said, path) for path in expected} == expected
    hypervisor = wish.get("hypervisor", "cloud-hypervisor")
    host_name = said["networking"]["hostName"]
    assert evaluated[name]["runner"].endswith(f"-microvm-{hypervisor}-{host_name}")


@pytest.mark.parametrize("name", list(TABLE))
def test_all_that_a_guest_sets_is_listed(name: str, evaluated: dict[str, Tree]) -> None:
    said = evaluated[name]["said"]
    assert unlisted(said) == []
    assert faults_of_networkd(said) == []


def test_a_guest_sets_nothing_that_it_was_not_described_with(evaluated: dict[str, Tree]) -> None:
    said = copy.deepcopy(evaluated["own-name"]["said"])
    # Its root file system is that of microvm.nix.
    assert set(said.pop("fileSystems")) == {"/"}
    assert set(said) == {"environment", "microvm", "networking", "services", "system", "systemd", "users"}
    assert said["systemd"] == {"network": {"enable": True}}
    assert set(said["services"]) == {"openssh"}
    assert said["services"]["openssh"]["enable"] is False


PLAIN_WISH = {"plain": {"network": {"name": "lan", "index": 11}}}
WRONG: dict[str, tuple[Tree, str]] = {
    "hypervisor": ({"hypervisor": "virtualbox"}, '`microvm.hypervisor\' is not of type `one of "qemu"'),
    "vfkit": ({"hypervisor": "vfkit"}, "vfkit is for macOS"),
    "vcpu": ({"vcpu": 0}, "`microvm.vcpu' is not of type `positive integer"),
    "mem": ({"mem": "512"}, "`microvm.mem' is not of type `positive integer"),
    "host-name": ({"host_name": "a.b"}, "`networking.hostName' is not of type `string matching"),
    "interface-type": ({"interfaces": [{**TAP, "type": "veth"}]}, "`microvm.interfaces.[definition 1].type'"),
    "interface-id": ({"interfaces": [{**TAP, "id": "vm-more-than-fifteen"}]}, "longer than 15 characters"),
    "interface-twice": ({"interfaces": [TAP, TAP]}, "interface id is there twice"),
    "mode": (
        {"interfaces": [{**TAP, "type": "macvtap", "link": "eth0", "mode": "vlan"}]},
        '.macvtap.mode\' is not of type `one of "private"',
    ),
    "macvtap-there": (
        {
            "hypervisor": "firecracker",
            "interfaces": [{**TAP, "type": "macvtap", "link": "eth0", "mode": "bridge"}],
        },
        "firecracker cannot do this: macvtap",
    ),
    "volume-size": ({"volumes": [{"size": "64"}]}, ".size' is not of type `signed integer'"),
    "volume-twice": ({"volumes": [{}, {}]}, "volume image is there twice"),
    "mount-point": ({"volumes": [{"mount_point": "data"}]}, ".mountPoint' is not of type `null or (absolute path)'"),
    "share-there": (
        {"hypervisor": "firecracker", "shares": [{}]},
        "firecracker cannot do this: virtiofs",
    ),
    "proto": ({"shares": [{"proto": "nfs"}]}, '.proto\' is not of type `one of "9p", "virtiofs"\''),
    "store-there": ({"hypervisor": "kvmtool", "store": "host"}, "kvmtool cannot do this: virtiofs"),
    "vsock": ({"vsock_cid": "77"}, "`microvm.vsock.cid' is not of type `null or (signed integer)'"),
    "port": (
        {
            "hypervisor": "qemu",
            "interfaces": [{**TAP, "type": "user"}],
            "forward_ports": [{"proto": "tcp", "host_address": "", "host_port": 70000, "guest_port": 22}],
        },
        ".host.port' is not of type `16 bit unsigned integer",
    ),
    "ports-there": (
        {"forward_ports": [{"proto": "tcp", "host_address": "", "host_port": 80, "guest_port": 80}]},
        "forwardPorts works only with qemu",
    ),
    "option": ({"options": {"microvm.ballon": True}}, "The option `microvm.ballon' does not exist"),
    "option-type": ({"options": {"microvm.balloon": "yes"}}, "`microvm.balloon' is not of type `boolean'"),
    "option-gone": ({"options": {"microvm.balloonMem": 5}}, "removed or renamed"),
    "option-twice": ({"options": {"microvm.mem": 600}}, "`microvm.mem' has conflicting definition values"),
    "profile": ({"profiles": {"k3s": {}}}, "guest plain, profiles: there is no profile k3s; there are docker_swarm"),
    "profile-option": (
        {"profiles": {"k3s_server": {"nope": 1}}},
        "The option `fleet.profiles.k3s_server.nope' does not exist",
    ),
    "module": ({"modules": ["nope.nix"]}, "guest plain, modules: nope.nix is not in /etc/microvm-fleet/modules"),
}
# Modules of the user: what an error names, with the real lib as well.
OF_MODULES: dict[str, tuple[Tree, list[str]]] = {
    "broken": ({"modules": ["broken.nix"]}, ["syntax error", "modules/broken.nix:1:25:"]),
    "broken-later": ({"modules": ["later.nix"]}, ["syntax error", "modules/later.nix:3:10:"]),
    "undefined": ({"modules": ["undefined.nix"]}, ["undefined variable 'domain'", "modules/undefined.nix:3:25:"]),
    "unknown-option": (
        {"modules": ["wrong.nix"]},
        ["The option `networking.hostname' does not exist", "- In `", "modules/wrong.nix'"],
    ),
    "type": (
        {"modules": ["type.nix"]},
        ["A definition for option `services.openssh.ports' is not of type", "modules/type.nix'"],
    ),
    "conflict": (
        {"modules": ["clash.nix"]},
        [
            "The option `networking.hostName' has conflicting definition values:",
            '- In `/etc/microvm-fleet/guests.json (guest plain)\': "plain"',
            'modules/clash.nix\': "other"',
        ],
    ),
    "conflict-in-the-wish": (
        {"options": {"microvm.mem": 600}},
        [
            "The option `microvm.mem' has conflicting definition values:",
            "- In `/etc/microvm-fleet/guests.json (guest plain)': 600",
        ],
    ),
    "assertion": ({"modules": ["assertion.nix"]}, ["Failed assertions:\n", "- not like this"]),
}
FULL: dict[str, Tree] = {
    "volumes": {
        "image": "data.img",
        "mount_point": "/data",
        "size": 64,
        "fs_type": "ext4",
        "label": None,
        "read_only": False,
        "auto_create": True,
    },
    "shares": {
        "tag": "data",
        "source": "/srv/data",
        "mount_point": "/srv/data",
        "proto": "virtiofs",
        "read_only": False,
    },
    "interfaces": {
        "network": None,
        "addresses": [],
        "gateways": [],
        "dns": [],
        "dhcp": True,
        "link": None,
        "mode": None,
    },
}


@pytest.mark.parametrize("case", list(WRONG))
def test_what_is_wrong_in_guests_json_is_said(case: str, tmp_path: Path) -> None:
    change, words = WRONG[case]
    entry = described(PLAIN_WISH)["plain"]
    for key, value in change.items():
        entry[key] = [{**FULL[key], **one} for one in value] if key in FULL else value
    place = lay(tmp_path, guests={"plain": entry}, modules=MODULES)
    with pytest.raises(NixError) as caught:
        evaluate(place, runner("plain"))
    assert words in str(caught.value)


@pytest.mark.parametrize("case", list(OF_MODULES))
def test_an_error_in_a_users_module_names_its_place(case: str, tmp_path: Path) -> None:
    change, words = OF_MODULES[case]
    entry = {**described(PLAIN_WISH)["plain"], **change}
    with pytest.raises(NixError) as caught:
        evaluate(lay(tmp_path, guests={"plain": entry}, modules=MODULES), runner("plain"))
    assert [word for word in words if word not in str(caught.value)] == []


def test_an_error_of_one_guest_is_none_of_another(tmp_path: Path) -> None:
    good = described({"a": {}, "b": {}})
    bad = json.loads(json.dumps(good["b"]))
    bad["profiles"] = {"nope": {}}
    place = lay(tmp_path, guests={**good, "b": bad})
    assert evaluate(place, "builtins.attrNames fleet.nixosConfigurations") == ["a", "b"]
    assert evaluate(place, runner("a")).endswith("-microvm-cloud-hypervisor-a")
    with pytest.raises(NixError, match="there is no profile nope"):
        evaluate(place, runner("b"))


def test_the_same_description_is_the_same_runner_whoever_is_beside_it(tmp_path: Path) -> None:
    one = described({"a": {}})
    alone = evaluate(lay(tmp_path / "1", guests=one), runner("a"))
    beside = evaluate(lay(tmp_path / "2", guests={**one, **described({"b": {"mem": 700}})}), runner("a"))
    other = evaluate(lay(tmp_path / "3", guests=described({"a": {"mem": 700}})), runner("a"))
    assert alone == beside
    assert alone != other


def test_real_nix_takes_a_whole_nixpkgs_as_flakes_nix_does(tmp_path: Path) -> None:
    place = lay(tmp_path, guests=described(PLAIN_WISH), host={"name": "tower", "bare": True})
    flakes = f"""(import {HERE}/real.nix {{
      directory = {place};
      microvm = {HERE}/standin/microvm;
      nixpkgs = {HERE}/standin/nixpkgs;
    }})"""
    found = nix(f"""let inherit ({flakes}) fleet; in {{
      runner = {runner("plain")};
      host = fleet.nixosConfigurations.tower.config.networking.hostName;
    }}""")
    assert found == {"runner": evaluate(place, runner("plain")), "host": "tower"}


def test_no_data_at_all_is_no_guest(tmp_path: Path) -> None:
    assert evaluate(lay(tmp_path), "fleet.nixosConfigurations") == {}


def test_another_version_of_the_data_is_refused(tmp_path: Path) -> None:
    place = lay(tmp_path, guests={})
    (place / "guests.json").write_text('{"version": 2, "guests": {}}', encoding="utf-8")
    with pytest.raises(NixError, match=r"guests\.json has version 2, and these files read version 1"):
        evaluate(place, "fleet.nixosConfigurations")
