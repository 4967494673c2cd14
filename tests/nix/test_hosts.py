# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NixOS hosts: what host.json and networks.json make of a host is what hosts without NixOS have as files."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _net_wish, _networkd, _nft
from ansible_collections.microvm.fleet.tests.nix.fleet import HERE, NixError, evaluate, lay
from ansible_collections.microvm.fleet.tests.nix.listed import faults_of_networkd, unlisted

Tree = dict[str, Any]
Settings = Counter[tuple[str, str, str]]

UNITS = HERE.parents[1] / "roles" / "host" / "files" / "units"
GUEST_UNITS = sorted(path.name for path in UNITS.glob("*.service"))
BASE = """
  ({ nixpkgs, ... }: {
    inputs = { inherit nixpkgs; };
    nixosConfigurations.tower = nixpkgs.lib.nixosSystem {
      system = "x86_64-linux";
      modules = [
        {
          networking.hostName = "tower";
          users.users.me = { isNormalUser = true; extraGroups = [ "wheel" ]; };
          systemd.services.mine = { serviceConfig.ExecStart = "/bin/true"; wantedBy = [ "multi-user.target" ]; };
          %s
        }
      ];
    };
  })
"""
HOST: Tree = {
    "name": "tower",
    "autostart": ["web1", "web.2"],
    "start_timeout": 77,
    "stop_timeout": 88,
    "writable_paths": ["/srv/images"],
    "kernel_modules": ["tun", "vhost_vsock"],
    "guests": {
        "web1": {
            "settings": [["Service", "TimeoutStopSec", "60"], ["Service", "LoadCredential", "a:/x"],
                         ["Service", "LoadCredential", "b:/y"], ["Unit", "After", "late.service"]],
            "virtiofsd_settings": [["Service", "LoadCredential", "c:/z"]],
        },
    },
}  # fmt: skip
NETWORKS = [
    _net_wish.parse(
        {
            "name": "lan",
            "addresses": ["10.0.0.1/24", "fd00:5::1/64"],
            "mac": "02:00:00:00:00:01",
            "mtu": 1400,
            "nat": True,
            "router_advertisements": {"enabled": True},
            "dhcp": {
                "enabled": True,
                "range_start": "10.0.0.100",
                "range_end": "10.0.0.199",
                "leases": [
                    {"name": "a", "mac": "02:00:00:00:01:01", "address": "10.0.0.51"},
                    {"name": "b", "mac": "02:00:00:00:01:02", "address": "10.0.0.52"},
                ],
            },
        }
    ),
    _net_wish.parse({"name": "back", "addresses": ["10.9.0.1/16"], "taps": ["vm-back-*", "vm-b-*"]}),
    _net_wish.parse(
        {
            "name": "two",
            "addresses": ["10.8.0.1/24", "10.8.1.1/24", "fd00:8::1/64", "fd00:9::1/64"],
            "taps": [],
            "router_advertisements": {"enabled": True, "dns": ["fd00:8::53", "fd00:8::54"]},
            "dhcp": {
                "enabled": True,
                "range_start": "10.8.0.100",
                "range_end": "10.8.0.199",
                "dns": ["10.8.0.53", "10.8.0.54"],
                "router": "10.8.0.254",
            },
        }
    ),
]


def networks(*, foreign: bool = False) -> Tree:
    files: Tree = {}
    for network in NETWORKS:
        files.update(_networkd.sections(network, forwards_ipv4=network.nat, forwards_ipv6=False))
    if foreign:
        files[_networkd.UNMANAGED] = _networkd.unmanaged_sections(["eth0", "wlan0"])
    return {
        "files": files,
        "foreign": foreign,
        "sets": _nft.document({}),
        "sysctl": [["net.ipv4.conf.lan.forwarding", "1"]],
        "dhcp": ["lan"],
    }


def system(tmp_path: Path, *, extra: str = "", **data: Tree) -> Tree:
    """Of the host that is made of *data*: what it sets, and the texts of its /etc by path."""
    place = lay(tmp_path, **{"host": HOST, **data})
    found: Tree = evaluate(
        place,
        """let config = fleet.nixosConfigurations.tower.config; in {
          inherit (config.system.build) said files;
          system = config.system.build.toplevel.outPath;
          scripts = lib.mapAttrs (_: unit: unit.serviceConfig) config.systemd.services;
        }""",
        BASE % extra,
    )
    found["texts"] = {entry["target"]: entry.get("text") for entry in found["files"]}
    found["links"] = {entry["target"]: entry["link"] for entry in found["files"] if "link" in entry}
    return found


def texts_of(made: Tree, name: str) -> set[str]:
    """The lines of the file *name* below /etc."""
    return {line for line in made["texts"][name].splitlines() if line}


LISTS = {"After", "Before", "Requires", "Wants", "PartOf", "Documentation"}


def settings(text: str) -> Settings:
    """The settings of a unit or a file of networkd; a list of units as its words."""
    found: Settings = Counter()
    section = ""
    for line in text.splitlines():
        title = re.fullmatch(r"\[(\w+)\]", line)
        if title:
            section = title[1]
        elif line and not line.startswith("#"):
            key, _equals, value = line.partition("=")
            for word in value.split() if section == "Unit" and key in LISTS else [value]:
                found[section, key, word] = 1
    return found


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return system(tmp_path_factory.mktemp("tower"), networks=networks())


# What only the file of a host without NixOS says: its [Install] is systemd.targets.microvms.wants, what a role's
# variable sets, and paths that are the store's on NixOS.
def plain(name: str) -> Settings:
    found = settings((UNITS / name).read_text(encoding="utf-8"))
    return Counter({key: count for key, count in found.items() if key[0] != "Install"})


@pytest.mark.parametrize("name", GUEST_UNITS)
def test_a_unit_is_that_of_hosts_without_nixos(name: str, tower: Tree) -> None:
    made = settings(tower["texts"][f"systemd/system/{name}"])
    store = re.compile(r"/nix/store/[a-z0-9]{32}-microvm-fleet-")
    python = re.compile(r"/nix/store/[a-z0-9]{32}-python3-0/bin/python3")
    coreutils = re.compile(r"/nix/store/[a-z0-9]{32}-coreutils-0/bin/")
    normal: Settings = Counter()
    for (section, key, value), count in made.items():
        shown = store.sub("/usr/local/lib/microvm-fleet/", value)
        shown = coreutils.sub("/bin/", python.sub("/usr/bin/python3", shown))
        normal[section, key, shown] = count
    missing = {key for key in plain(name) if key not in normal}
    added = {key for key in normal if key not in plain(name)}
    assert {key[:2] for key in missing} == set()
    allowed = {("Service", "Environment"), ("Service", "X-RestartIfChanged")}
    if name == "microvm@.service":
        allowed |= {("Service", key) for key in ("TimeoutStartSec", "TimeoutStopSec", "BindPaths", "ReadWritePaths")}
    # The host module of microvm.nix adds its own to what are lists.
    assert {key[:2] for key in added} - allowed <= {("Unit", key) for key in LISTS}
    assert ("Service", "X-RestartIfChanged", "false") in made


def test_what_the_role_sets_is_in_the_unit(tower: Tree) -> None:
    made = settings(tower["texts"]["systemd/system/microvm@.service"])
    assert made["Service", "TimeoutStartSec", "77"]
    assert made["Service", "TimeoutStopSec", "88"]
    assert made["Service", "BindPaths", "-/srv/images"]
    assert made["Service", "BindPaths", "/var/lib/microvms/%i"]
    assert made["Service", "ReadWritePaths", "-/srv/images"]
    modules = tower["texts"]["modules-load.d/nixos.conf"].split()
    assert set(modules) == {"tun", "vhost_vsock", "tap", "vhost_net"}


def test_drop_ins_have_the_settings_of_one_guest(tower: Tree) -> None:
    assert settings(tower["texts"]["systemd/system/microvm@web1.service.d/overrides.conf"]) == Counter(
        {
            ("Unit", "After", "late.service"): 1,
            ("Service", "TimeoutStopSec", "60"): 1,
            ("Service", "LoadCredential", "a:/x"): 1,
            ("Service", "LoadCredential", "b:/y"): 1,
            ("Service", "X-RestartIfChanged", "false"): 1,
        }
    )
    assert settings(tower["texts"]["systemd/system/microvm-virtiofsd@web1.service.d/overrides.conf"]) == Counter(
        {("Service", "LoadCredential", "c:/z"): 1, ("Service", "X-RestartIfChanged", "false"): 1}
    )
    assert not [name for name in tower["texts"] if "web.2" in name]


def test_autostart_is_what_the_target_wants(tower: Tree) -> None:
    assert settings(tower["texts"]["systemd/system/microvms.target"])["Unit", "Wants", "microvm@web1.service"]
    assert settings(tower["texts"]["systemd/system/microvms.target"])["Unit", "Wants", "microvm@web.2.service"]
    assert tower["links"]["systemd/system/multi-user.target.wants/microvms.target"] == "../microvms.target"


@pytest.mark.parametrize("network", NETWORKS, ids=[network.name for network in NETWORKS])
def test_networks_are_those_of_hosts_without_nixos(network: _net_wish.Network, tower: Tree) -> None:
    wanted = _networkd.files(network, forwards_ipv4=network.nat, forwards_ipv6=False)
    for name, text in wanted.items():
        assert settings(tower["texts"][f"systemd/network/{name}"]) == settings(text)


def test_a_host_with_networks(tower: Tree) -> None:
    texts = tower["texts"]
    assert texts["sysctl.d/90-microvm-fleet.conf"] == "net.ipv4.conf.lan.forwarding = 1\n"
    assert tower["said"]["networking"]["firewall"]["interfaces"] == {"lan": {"allowedUDPPorts": [67]}}
    service = settings(texts["systemd/system/microvm-fleet-network.service"])
    assert service["Service", "X-ReloadIfChanged", "true"]
    assert "systemd/networkd.conf.d/50-microvm-fleet.conf" not in texts


def test_the_state_directories_are_those_of_root(tower: Tree) -> None:
    rules = texts_of(tower, "tmpfiles.d/10-microvm.conf") | texts_of(tower, "tmpfiles.d/10-microvm-fleet.conf")
    assert {tuple(word.strip("'") for word in rule.split()[:5]) for rule in rules} == {
        ("d", "/var/lib/microvms", "0755", "root", "root"),
        ("d", "/var/lib/microvm-fleet", "0700", "root", "root"),
        ("d", "/var/lib/microvm-fleet/guests", "0700", "root", "root"),
        ("d", "/var/lib/microvm-fleet/networks", "0700", "root", "root"),
        ("d", "/nix/var/nix/gcroots/microvm", "0755", "root", "root"),
        ("d", "/nix/var/nix/gcroots/microvm-fleet", "0755", "root", "root"),
    }


def test_all_that_a_host_sets_is_listed(tower: Tree) -> None:
    assert unlisted(tower["said"]) == []
    assert faults_of_networkd(tower["said"]) == []


def test_the_users_own_configuration_stays(tower: Tree) -> None:
    said = tower["said"]
    assert said["networking"]["hostName"] == "tower"
    assert said["users"]["users"]["me"] == {"isNormalUser": True, "extraGroups": ["wheel"]}
    assert "systemd/system/mine.service" in tower["texts"]
    assert tower["system"].endswith("-nixos-system-tower-25.11.standin")


def test_a_host_without_networks_has_nothing_of_them(tmp_path: Path) -> None:
    made = system(tmp_path)
    assert not [name for name in made["texts"] if name.startswith("systemd/network/")]
    assert not [name for name in made["texts"] if "microvm-fleet-network" in name or "sysctl" in name]
    assert "network" not in made["said"]["systemd"]


def test_a_host_whose_uplink_something_else_keeps(tmp_path: Path) -> None:
    made = system(tmp_path, networks=networks(foreign=True))
    kept = settings(made["texts"][f"systemd/network/{_networkd.UNMANAGED}"])
    assert kept == settings(_networkd.unmanaged(["eth0", "wlan0"]))
    assert "systemd/networkd.conf.d/50-microvm-fleet.conf" in made["texts"]
    assert made["said"]["systemd"]["network"]["wait-online"] == {"enable": False}


def test_what_a_user_adds_to_the_units_is_kept(tmp_path: Path, tower: Tree) -> None:
    extra = """
      systemd.services."microvm@" = {
        after = [ "mine.service" ];
        serviceConfig.IOWeight = 50;
      };
      microvm.autostart = [ "own" ];
      boot.kernelModules = [ "kvm" ];
    """
    made = system(tmp_path, networks=networks(), extra=extra)
    added = settings(made["texts"]["systemd/system/microvm@.service"])
    added.subtract(settings(tower["texts"]["systemd/system/microvm@.service"]))
    assert {key for key, count in added.items() if count} == {
        ("Unit", "After", "mine.service"),
        ("Service", "IOWeight", "50"),
    }
    assert settings(made["texts"]["systemd/system/microvms.target"])["Unit", "Wants", "microvm@own.service"]
    assert "kvm" in made["texts"]["modules-load.d/nixos.conf"].split()


def test_a_host_that_the_collection_has_left_is_as_its_user_made_it(tmp_path: Path) -> None:
    made = system(tmp_path, host={**HOST, "bare": True}, networks=networks())
    assert "systemd/system/mine.service" in made["texts"]
    assert [name for name in made["texts"] if "microvm" in name] == []


def test_another_autostart_changes_the_target_and_no_unit_of_guests(tmp_path: Path, tower: Tree) -> None:
    other = system(tmp_path, host={**HOST, "autostart": ["web1"]}, networks=networks())
    changed = {name for name, text in other["texts"].items() if text != tower["texts"].get(name)}
    assert {name for name in changed if name.startswith("systemd/")} == {"systemd/system/microvms.target"}


@pytest.mark.parametrize(
    ("data", "extra", "words"),
    [
        ({"host": {**HOST, "name": "attic"}}, "", "the base flake has no nixosConfigurations.attic; it has: tower"),
        ({"host": HOST}, 'microvm.stateDir = "/srv/vms";', "microvm.stateDir is /srv/vms, and the collection"),
        ({"host": HOST}, "boot.kernelModules = 1;", "`boot.kernelModules' is not of type"),
        ({"host": HOST}, "services.nothing.enable = true;", "The option `services.nothing' does not exist"),
    ],
)
def test_what_is_wrong_with_a_host_is_said(data: Tree, extra: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(NixError) as caught:
        evaluate(
            lay(tmp_path, **data),
            f"fleet.nixosConfigurations.{data['host']['name']}.config.system.build.toplevel.outPath",
            BASE % extra,
        )
    assert words in str(caught.value)


def test_a_guest_with_the_name_of_its_host_is_refused(tmp_path: Path) -> None:
    place = lay(tmp_path, host=HOST, guests={"tower": {}})
    with pytest.raises(NixError, match=r"tower is the name of this host in host.json and of a guest"):
        evaluate(place, "fleet.nixosConfigurations.tower.config", BASE % "")


def test_a_configuration_without_a_flake(tmp_path: Path) -> None:
    own = tmp_path / "configuration.nix"
    own.write_text('{ networking.hostName = "old"; }', encoding="utf-8")
    place = lay(tmp_path, host={**HOST, "name": "old"}, guests={})
    base = f"""({{ nixpkgs, ... }}:
      (import {place}/bases/configuration/flake.nix).outputs {{
        inherit nixpkgs; configuration = toString {tmp_path};
      }})"""
    found = evaluate(place, "fleet.nixosConfigurations.old.config.system.build.toplevel.outPath", base)
    assert found.endswith("-nixos-system-old-25.11.standin")


def test_an_error_in_the_users_configuration_names_its_place(tmp_path: Path) -> None:
    (tmp_path / "configuration.nix").write_text('{\n  networking.hostName = "a"\n}\n', encoding="utf-8")
    place = lay(tmp_path, host={**HOST, "name": "old"})
    base = f"""({{ nixpkgs, ... }}:
      (import {place}/bases/configuration/flake.nix).outputs {{
        inherit nixpkgs; configuration = toString {tmp_path};
      }})"""
    with pytest.raises(NixError, match=r"syntax error(.|\n)*configuration\.nix:3:1:"):
        evaluate(place, "fleet.nixosConfigurations.old.config.system.build.toplevel.outPath", base)


def test_the_host_part_can_be_imported_from_a_users_own_flake(tmp_path: Path) -> None:
    place = lay(tmp_path, host=HOST, networks=networks())
    found = evaluate(
        place,
        f"""(lib.nixosSystem {{
          system = "x86_64-linux";
          modules = [ microvm.nixosModules.host {place}/nix/host.nix {{ networking.hostName = "mine"; }} ];
        }}).config.systemd.targets.microvms.wants""",
    )
    assert found == ["microvm@web1.service", "microvm@web.2.service"]
