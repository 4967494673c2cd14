# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The static flake with the real microvm.nix and nixpkgs, where copies are given: ``tests/nix/real`` says how."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _hypervisors
from ansible_collections.microvm.fleet.plugins.module_utils._profiles import PROFILES
from ansible_collections.microvm.fleet.tests.nix import test_facts, test_guests, test_hosts, test_profiles
from ansible_collections.microvm.fleet.tests.nix.fleet import HERE, NixError, lay, nix, runner, string

Tree = dict[str, Any]

MICROVM = os.environ.get("MICROVM_NIX", "")
NIXPKGS = os.environ.get("NIXPKGS", "")
LIB = os.environ.get("NIXPKGS_LIB", "")
MODULES = os.environ.get("NIXOS_MODULES", "")

if not MICROVM or not (NIXPKGS or LIB):
    pytest.skip("no copies of microvm.nix and nixpkgs were given: tests/nix/real --help", allow_module_level=True)

# Systems in one evaluation; those of the whole of nixpkgs are large.
TOGETHER = 1 if NIXPKGS else 12

# What a guest has of what is expected of it: the attributes that are named, and lists whole.
SHAPED = """
  shaped = expected: actual:
    if builtins.isAttrs expected then
      if builtins.isAttrs actual then builtins.mapAttrs (name: one: shaped one actual.${name}) expected else actual
    else if builtins.isList expected && lib.all builtins.isAttrs expected then
      if builtins.length expected == builtins.length actual then lib.zipListsWith shaped expected actual
      else "a list of ${toString (builtins.length actual)}"
    else if lib.isDerivation actual then "${actual}"
    else actual;
  at = value: key: if builtins.isInt key then builtins.elemAt value key else value.${key};
"""


def sources() -> str:
    """The arguments of real.nix for what was given."""
    found = [f"microvm = {MICROVM};"]
    if NIXPKGS:
        found.append(f"nixpkgs = {NIXPKGS};")
    else:
        found.append(f"lib = {LIB};")
        found.append(f"modules = [ {MODULES.replace(':', ' ')} ];")
    return " ".join(found)


def evaluate(place: Path, what: str) -> Any:
    """The value of *what*, in which `fleet` is the static flake in *place* with the real inputs.  Raises NixError."""
    return nix(
        f"let flakes = import {HERE}/real.nix {{ directory = {place}; {sources()} }};"
        f" inherit (flakes) fleet nixpkgs microvm; inherit (nixpkgs) lib; {SHAPED} in {what}"
    )


def guests(place: Path, wanted: Mapping[str, Sequence[tuple[list[str | int], Any]]]) -> dict[str, Tree | NixError]:
    """Of each guest in *wanted* its runner and the values at the paths that are given with it, or the error."""

    def some(names: Sequence[str]) -> dict[str, Tree]:
        asked = {name: [{"path": path, "value": value} for path, value in wanted[name]] for name in names}
        found: dict[str, Tree] = evaluate(
            place,
            f"""builtins.mapAttrs (name: asked: let inherit (fleet.nixosConfigurations.${{name}}) config; in {{
              runner = config.microvm.declaredRunner.outPath;
              inherit (config.microvm.declaredRunner.passthru) canShutdown tapMultiQueue;
              values = map (one: shaped one.value (builtins.foldl' at config one.path)) asked;
            }}) (builtins.fromJSON {string(json.dumps(asked))})""",
        )
        return found

    result: dict[str, Tree | NixError] = {}
    names = list(wanted)
    for first in range(0, len(names), TOGETHER):
        part = names[first : first + TOGETHER]
        try:
            result.update(some(part))
        except NixError:
            for name in part:
                try:
                    result.update(some([name]))
                except NixError as error:
                    result[name] = error
    return result


def must(found: Mapping[str, Tree | NixError], name: str) -> Tree:
    one = found[name]
    if isinstance(one, NixError):
        pytest.fail(str(one))
    return one


# --- what the engine asks ----------------------------------------------------------------


def test_what_is_known_of_guests(tmp_path: Path) -> None:
    test_facts.check(test_facts.ask(tmp_path, evaluate))


# --- described guests ---------------------------------------------------------------


def keys(path: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in path.split(".")]


def asked(name: str) -> list[tuple[list[str | int], Any]]:
    """The paths of the table of guests and what is expected there, but for what must not be set."""
    _wish, expected = test_guests.TABLE[name]
    found = []
    for path, value in expected.items():
        if value is test_guests.MISSING or path.startswith("services.openssh.hostKeys"):
            continue
        found.append((keys(path), value))
    return found


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree | NixError]:
    entries = test_guests.described({name: wish for name, (wish, _expected) in test_guests.TABLE.items()})
    place = lay(tmp_path_factory.mktemp("guests"), guests=entries, modules=test_guests.MODULES)
    return guests(place, {name: asked(name) for name in entries})


@pytest.mark.parametrize("name", list(test_guests.TABLE))
def test_a_described_guest_is_what_was_wished(name: str, described: dict[str, Tree | NixError]) -> None:
    one = must(described, name)
    for (path, expected), value in zip(asked(name), one["values"], strict=True):
        if path[-1] in {"options", "allowedTCPPorts"}:  # to which others add their own
            assert set(expected) <= set(value), path
        else:
            assert value == expected, path
    hypervisor = test_guests.TABLE[name][0].get("hypervisor", "cloud-hypervisor")
    assert re.fullmatch(rf"/nix/store/[a-z0-9]{{32}}-microvm-{hypervisor}-.*", one["runner"])


@pytest.mark.parametrize("hypervisor", _hypervisors.CHOICES)
def test_who_can_be_asked_to_shut_down_is_known(hypervisor: str, described: dict[str, Tree | NixError]) -> None:
    can = hypervisor in _hypervisors.FEATURES["a clean shutdown"]
    # stratovirt's runner has a shutdown that its README says does not work.
    assert must(described, f"on-{hypervisor}")["canShutdown"] in ({can, True} if hypervisor == "stratovirt" else {can})


@pytest.mark.parametrize("case", list(test_guests.OF_MODULES))
def test_an_error_in_a_users_module_names_its_place(case: str, tmp_path: Path) -> None:
    if MODULES and case == "unknown-option":
        pytest.skip("files of NixOS set options that are not listed, so none is refused")
    change, words = test_guests.OF_MODULES[case]
    entry = {**test_guests.described(test_guests.PLAIN_WISH)["plain"], **change}
    place = lay(tmp_path, guests={"plain": entry}, modules=test_guests.MODULES)
    with pytest.raises(NixError) as caught:
        evaluate(place, runner("plain"))
    assert [word for word in words if word not in str(caught.value)] == []


# --- features -----------------------------------------------------------------------

TAP = {"type": "tap", "id": "vm-x", "mac": "02:00:00:00:00:0a"}
WISHES: Mapping[str, Tree] = {
    "tap interfaces": {"interfaces": [TAP]},
    "macvtap interfaces": {"interfaces": [{**TAP, "type": "macvtap", "link": "eth0", "mode": "bridge"}]},
    "user interfaces": {"interfaces": [{"type": "user", "addresses": ["192.168.33.15/24"]}]},
    "user interfaces without addresses": {"interfaces": [{"type": "user"}]},
    "forwarded ports": {"interfaces": [{"type": "user"}], "forward_ports": [{"host_port": 80, "guest_port": 80}]},
    "9p shares": {"shares": [{"tag": "a", "source": "/a", "mount_point": "/a", "proto": "9p"}]},
    "read-only 9p shares": {
        "shares": [{"tag": "a", "source": "/a", "mount_point": "/a", "proto": "9p", "read_only": True}]
    },
    "virtiofs shares": {"shares": [{"tag": "a", "source": "/a", "mount_point": "/a", "read_only": True}]},
    "the host's store": {"store": "host"},
    "vsock": {"vsock_cid": 77},
    "credentials": {"credentials": {"a": {"path": "/a"}}},
    "a memory balloon": {"microvm_options": {"balloon": True}},
    "a balloon that is filled from the start": {"microvm_options": {"balloon": True, "initialBalloonMem": 64}},
    "memory that is plugged in while it runs": {
        "microvm_options": {"hotplugMem": 512, "hotpluggedMem": 128, "qemu.machine": "q35"}
    },
    "huge pages": {"microvm_options": {"hugepageMem": True}},
    "PCI devices": {"microvm_options": {"devices": [{"bus": "pci", "path": "0000:01:00.0"}]}},
    "USB devices": {"microvm_options": {"devices": [{"bus": "usb", "path": "vendorid=0x1,productid=0x2"}]}},
    "a user of its own": {"microvm_options": {"user": "nobody"}},
    "graphics": {"microvm_options": {"graphics.enable": True}},
    "a chosen CPU model": {"microvm_options": {"cpu": "max"}},
    "a clean shutdown": {},
}
CLAIMED = [(feature, hypervisor) for feature, able in _hypervisors.FEATURES.items() for hypervisor in able]


def with_feature(feature: str, hypervisor: str) -> Tree:
    wish = {**WISHES[feature], "hypervisor": hypervisor}
    if hypervisor != "qemu" and "microvm_options" in wish:
        wish["microvm_options"] = {
            key: value for key, value in wish["microvm_options"].items() if not key.startswith("qemu.")
        }
    return wish


def called(feature: str, hypervisor: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{feature.lower()}-{hypervisor}")


@pytest.fixture(scope="module")
def featured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree | NixError]:
    entries = test_guests.described({called(*pair): with_feature(*pair) for pair in CLAIMED})
    place = lay(tmp_path_factory.mktemp("features"), guests=entries)
    return guests(place, {name: [] for name in entries})


def test_every_feature_has_a_guest() -> None:
    assert set(WISHES) == set(_hypervisors.FEATURES)


@pytest.mark.parametrize("pair", CLAIMED, ids=[called(*pair) for pair in CLAIMED])
def test_microvm_nix_takes_what_the_table_says(pair: tuple[str, str], featured: dict[str, Tree | NixError]) -> None:
    assert must(featured, called(*pair))["runner"].startswith("/nix/store/")


# --- profiles -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree | NixError]:
    entries = test_profiles.entries()
    place = lay(tmp_path_factory.mktemp("profiles"), guests=entries, modules=test_profiles.MODULES)
    return guests(place, {name: [(["microvm", "mem"], entry["mem"])] for name, entry in entries.items()})


@pytest.mark.parametrize("name", [f"{profile.name}-{hypervisor}" for profile, hypervisor in test_profiles.PAIRS])
def test_a_profile_evaluates(name: str, profiled: dict[str, Tree | NixError]) -> None:
    profile, _dash, hypervisor = name.partition("-")
    one = must(profiled, name)
    assert one["values"] == [PROFILES[profile].mem]
    assert one["runner"].endswith(f"-microvm-{hypervisor}-{name.replace('_', '-')}")


@pytest.mark.parametrize("name", list(test_profiles.VARIANTS))
def test_a_profile_with_other_options_evaluates(name: str, profiled: dict[str, Tree | NixError]) -> None:
    assert must(profiled, name)["runner"].endswith(f"-microvm-qemu-{name}")


# --- a NixOS host -------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["known", "foreign"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    place = lay(
        tmp_path_factory.mktemp("host"), host=test_hosts.HOST, networks=test_hosts.networks(foreign=request.param)
    )
    found: Tree = evaluate(
        place,
        """let inherit (fleet.nixosConfigurations.tower) config; in {
          system = config.system.build.toplevel.outPath;
          services = builtins.mapAttrs (_: unit: {
            inherit (unit) description unitConfig serviceConfig after before requires wants partOf;
            inherit (unit) restartIfChanged overrideStrategy;
          }) (lib.filterAttrs (name: _: lib.hasPrefix "microvm" name) config.systemd.services);
          targets = config.systemd.targets.microvms.wants;
          tmpfiles = builtins.mapAttrs (_: builtins.mapAttrs (_: rule: { inherit (rule) mode user group; }))
            { inherit (config.systemd.tmpfiles.settings) "10-microvm" "10-microvm-fleet"; }."10-microvm";
          networks = builtins.attrNames config.systemd.network.networks;
        }""",
    )
    return found


def said(unit: Tree) -> Iterator[tuple[str, str, str]]:
    """Section, key and value of all that *unit* has, as in a unit file."""
    for section, name in (("Unit", "unitConfig"), ("Service", "serviceConfig")):
        for key, values in unit[name].items():
            for value in values if isinstance(values, list) else [values]:
                yield section, key, {True: "true", False: "false"}.get(value, str(value))
    yield "Unit", "Description", unit["description"]
    for key in test_hosts.LISTS - {"Documentation"}:
        for word in unit[key[0].lower() + key[1:]]:
            yield "Unit", key, word


@pytest.mark.parametrize("name", test_hosts.GUEST_UNITS)
def test_a_unit_of_the_host_is_that_of_hosts_without_nixos(name: str, host: Tree) -> None:
    unit = host["services"][name.removesuffix(".service")]
    store = re.compile(r"/nix/store/[a-z0-9]{32}-microvm-fleet-")
    made = {
        (section, key, re.sub(r"/nix/store/[^/]+/bin/", "/bin/", store.sub("/usr/local/lib/microvm-fleet/", value)))
        for section, key, value in said(unit)
    }
    varied = {"TimeoutStartSec", "TimeoutStopSec"}
    wanted = {
        (section, key, value.replace("/usr/bin/python3", "/bin/python3"))
        for section, key, value in test_hosts.plain(name)
        if key not in varied and key != "Documentation"
    }
    assert wanted <= made
    own = {(section, key) for section, key, _value in wanted} | {("Service", key) for key in varied}
    assert {(s, k) for s, k, _v in made if (s, k) not in own and (s != "Unit" or k not in test_hosts.LISTS)} <= {
        ("Service", "BindPaths"),
        ("Service", "Environment"),
    }
    assert unit["restartIfChanged"] is False


def test_the_system_of_a_host_evaluates(host: Tree) -> None:
    assert host["system"].startswith("/nix/store/")
    assert set(host["targets"]) == {"microvm@web1.service", "microvm@web.2.service"}
    assert host["tmpfiles"]["/var/lib/microvms"]["d"] == {"mode": "0755", "user": "root", "group": "root"}
    assert host["services"]["microvm@web1"]["overrideStrategy"] == "asDropin"
    assert host["services"]["microvm@web1"]["serviceConfig"] == {
        "LoadCredential": ["a:/x", "b:/y"],
        "TimeoutStopSec": "60",
    }
    assert {"50-microvm-fleet-lan", "50-microvm-fleet-back"} <= set(host["networks"])
