# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The two halves of a profile, its table and its NixOS module, are of one mind, and it evaluates wherever it may."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _describe, _hypervisors, _net_wish
from ansible_collections.microvm.fleet.plugins.module_utils._profile_frame import Option, Profile
from ansible_collections.microvm.fleet.plugins.module_utils._profiles import PROFILES
from ansible_collections.microvm.fleet.tests.nix.fleet import evaluate, lay
from ansible_collections.microvm.fleet.tests.nix.listed import faults_of_networkd, unlisted

Tree = dict[str, Any]

LAN = _net_wish.parse({"name": "lan", "addresses": ["10.0.0.1/24"]})
# Options that a guest must give, and others that change what a profile sets.
GIVEN: dict[str, Any] = {"server": "10.0.0.1", "manager": "10.0.0.1", "master": "10.0.0.1", "address": "10.0.0.1"}


def wish(profile: Profile, hypervisor: str, index: int) -> Tree:
    """A guest with that profile and no more than it needs."""
    options = {
        name: GIVEN.get(name, option.choices[0] if option.choices else None)
        for name, option in profile.options.items()
        if option.required
    }
    return {
        "name": f"{profile.name}-{hypervisor}",
        "hypervisor": hypervisor,
        "network": {"name": "lan", "index": index},
        "profiles": [profile.name],
        "profile_options": {profile.name: options},
        "credentials": {one.name: {"path": "/x"} for one in profile.credentials},
    }


def allowed(profile: Profile) -> list[str]:
    """The hypervisors that *profile* runs on and that can hand its credentials over."""
    return [
        hypervisor
        for hypervisor in _hypervisors.CHOICES
        if (not profile.hypervisors or hypervisor in profile.hypervisors)
        and (not profile.credentials or hypervisor in _hypervisors.FEATURES["credentials"])
    ]


# Guests with options that change what their profile sets: profile, options, the optional credentials, modules.
VARIANTS: dict[str, tuple[str, Tree, list[str], list[str]]] = {
    "k3s-first": (
        "k3s_server",
        {
            "cluster_init": True,
            "flannel_backend": "none",
            "disable": ["traefik", "servicelb"],
            "tls_sans": ["k3s.example"],
        },
        ["k3s-token"],
        [],
    ),
    "k3s-further": (
        "k3s_server",
        {
            "server": "fd00::2",
            "flannel_backend": "wireguard-native",
            "disable_agent": True,
            "node_labels": ["role=control", "example.org/rack=a1"],
            "node_taints": ["dedicated=control:NoSchedule"],
        },
        ["k3s-token"],
        [],
    ),
    "k3s-alone": ("k3s_server", {}, [], ["nftables.nix"]),
    "master-pinned": (
        "kubernetes_master",
        {
            "run_pods": True,
            "allow_privileged": True,
            "tls_sans": ["api.example"],
            "node_labels": ["role=all"],
            "node_taints": ["a=b:PreferNoSchedule", "c=:NoExecute"],
        },
        ["kubernetes-ca", "kubernetes-ca-key"],
        [],
    ),
    "node-pinned": ("kubernetes_node", {"node_labels": ["a=b"], "shutdown_grace": 300}, ["kubernetes-ca"], []),
    "manager-further": (
        "docker_swarm_manager",
        {"manager": "10.0.0.1", "encrypted_networks": True, "data_path_port": 4789},
        ["swarm-manager-token"],
        [],
    ),
    "manager-nftables": ("docker_swarm_manager", {"encrypted_networks": True}, [], ["nftables.nix"]),
    "worker-encrypted": ("docker_swarm_worker", {"encrypted_networks": True}, [], []),
    "portainer-file": (
        "portainer_server",
        {
            "image_file": "/nix/store/00000000000000000000000000000000-portainer.tar",
            "tunnel_port": 8000,
        },
        ["portainer-admin-password"],
        [],
    ),
    "portainer-digest": ("portainer_agent", {"digest": f"sha256:{'0' * 64}"}, [], []),
    "spice-tcp": (
        "spice_desktop",
        {
            "address": "127.0.0.1",
            "clipboard": False,
            "file_transfer": False,
            "resize": False,
            "usb_ports": 2,
            "packages": [],
        },
        ["spice-ticket"],
        [],
    ),
    "spice-none": ("spice_desktop", {"desktop": "none", "group_access": True}, [], []),
}
MODULES = {"nftables.nix": "{ networking.nftables.enable = true; }"}
PAIRS = [(profile, hypervisor) for profile in PROFILES.values() for hypervisor in allowed(profile)]


REFUSED = [
    (profile, hypervisor)
    for profile in PROFILES.values()
    for hypervisor in _hypervisors.CHOICES
    if hypervisor not in allowed(profile)
]


def variant(name: str, index: int) -> Tree:
    profile, options, credentials, modules = VARIANTS[name]
    one = wish(PROFILES[profile], "qemu", index)
    one["profile_options"][profile].update(options)
    one["credentials"].update({credential: {"path": "/x"} for credential in credentials})
    one["credentials"] = {
        credential: source
        for credential, source in one["credentials"].items()
        if credential in credentials or any(c.required and c.name == credential for c in PROFILES[profile].credentials)
    }
    return {**one, "name": name, "modules": modules}


@cache
def described() -> dict[str, _describe.Description]:
    """Each profile on each hypervisor that can have it, and the variants."""
    wishes = [wish(profile, hypervisor, 10 + place) for place, (profile, hypervisor) in enumerate(PAIRS)]
    wishes += [variant(name, 100 + place) for place, name in enumerate(VARIANTS)]
    found = _describe.describe_all(wishes, _describe.Surroundings(networks={"lan": LAN}))
    result = {}
    for place, one in found.items():
        assert isinstance(one, _describe.Description), [str(error) for error in one]
        result[str(wishes[place]["name"])] = one
    return result


def entries() -> dict[str, Tree]:
    """The same guests as entries of guests.json."""
    return {name: dict(one.entry) for name, one in described().items()}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree]:
    place = lay(tmp_path_factory.mktemp("profiles"), guests=entries(), modules=MODULES)
    found: dict[str, Tree] = evaluate(
        place,
        """builtins.mapAttrs (_: guest: {
          inherit (guest.config.system.build) said;
          runner = guest.config.microvm.declaredRunner.outPath;
          options = builtins.mapAttrs (_: builtins.mapAttrs (_: option: {
            type = option.type.description;
            inherit (option) description;
            defaulted = option ? default;
          })) guest.options.fleet.profiles;
        }) fleet.nixosConfigurations""",
    )
    return found


def type_of(option: Option) -> str:
    """How Nix describes the type that _profile_frame.py says an option has."""
    if option.choices:
        one = f"one of {', '.join(json.dumps(choice) for choice in option.choices)}"
    elif option.pattern is not None:
        one = f"string matching the pattern {option.pattern}"
    else:
        one = "string"
    described = {
        "bool": "boolean",
        "int": f"integer between {option.least} and {option.most} (both inclusive)",
        "str": one,
        "list": f"list of {one if ' ' not in one else f'({one})'}",
        "dict": "attribute set of string",
    }.get(option.kind, "string")
    if not option.required and option.default is None:
        return f"null or {described if ' ' not in described else f'({described})'}"
    return described


def test_the_static_flake_has_the_profiles_of_the_table(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = lay(tmp_path_factory.mktemp("names"))
    assert evaluate(place, f"builtins.attrNames (import {place}/nix/profiles)") == sorted(PROFILES)


@pytest.mark.parametrize("name", list(PROFILES))
def test_options_are_those_of_the_table(name: str, evaluated: dict[str, Tree]) -> None:
    profile = PROFILES[name]
    declared = evaluated[f"{name}-{allowed(profile)[0]}"]["options"]
    assert set(declared) == {name}
    assert {key: option["type"] for key, option in declared[name].items()} == {
        key: type_of(option) for key, option in profile.options.items()
    }
    assert [key for key, option in declared[name].items() if not option["description"].endswith(".")] == []
    # Python hands every option over, so that there is one place for defaults.
    assert [key for key, option in declared[name].items() if option["defaulted"]] == []


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{profile.name}-{hypervisor}" for profile, hypervisor in PAIRS])
def test_a_guest_with_the_profile_evaluates(pair: tuple[Profile, str], evaluated: dict[str, Tree]) -> None:
    profile, hypervisor = pair
    name = f"{profile.name}-{hypervisor}"
    host_name = name.replace("_", "-")
    assert evaluated[name]["runner"].endswith(f"-microvm-{hypervisor}-{host_name}")
    said = evaluated[name]["said"]
    assert said["microvm"]["mem"] == profile.mem
    assert said["microvm"]["vcpu"] == profile.vcpu
    mounted = {volume["mountPoint"]: volume["size"] for volume in said["microvm"]["volumes"]}
    assert unlisted(said) == []
    assert faults_of_networkd(said) == []
    assert mounted == {volume.mount_point: volume.size for volume in profile.volumes}


@pytest.mark.parametrize("pair", REFUSED, ids=[f"{profile.name}-{hypervisor}" for profile, hypervisor in REFUSED])
def test_a_hypervisor_that_cannot_is_refused_with_those_that_can(pair: tuple[Profile, str]) -> None:
    profile, hypervisor = pair
    found = _describe.describe_all([wish(profile, hypervisor, 10)], _describe.Surroundings(networks={"lan": LAN}))[0]
    assert not isinstance(found, _describe.Description)
    said = " ".join(str(error) for error in found)
    assert f"guest {profile.name}-{hypervisor}, " in said
    assert [name for name in allowed(profile) if name not in said] == []


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_guest_with_other_options_evaluates(name: str, evaluated: dict[str, Tree]) -> None:
    said = evaluated[name]["said"]
    assert evaluated[name]["runner"].endswith(f"-microvm-qemu-{name}")
    assert unlisted(said) == []
    assert faults_of_networkd(said) == []
    profile, options, _credentials, _modules = VARIANTS[name]
    assert {key: said["fleet"]["profiles"][profile][key] for key in options} == options


def test_every_profile_has_its_time_to_stop() -> None:
    assert [name for name, one in described().items() if one.stop_timeout is None] == []


@pytest.mark.parametrize("name", list(PROFILES))
def test_open_ports_are_some_of_the_table(name: str, evaluated: dict[str, Tree]) -> None:
    profile = PROFILES[name]
    firewall = evaluated[f"{name}-{allowed(profile)[0]}"]["said"]["networking"].get("firewall", {})
    values = evaluated[f"{name}-{allowed(profile)[0]}"]["said"]["fleet"]["profiles"][name]
    told = set()
    for port in profile.ports:
        # A port that an option gives has the option's name; none of it, no port.
        ports = values.get(port.ports, port.ports)
        first, _dash, last = str(0 if ports is None else ports).partition("-")
        told |= {(port.proto, number) for number in range(int(first), int(last or first) + 1)}
    opened = {
        (proto, number)
        for proto in ("tcp", "udp")
        for number in [
            *firewall.get(f"allowed{proto.upper()}Ports", []),
            *(
                port
                for one in firewall.get(f"allowed{proto.upper()}PortRanges", [])
                for port in range(one["from"], one["to"] + 1)
            ),
        ]
    }
    assert opened <= told
    assert bool(opened) == bool(profile.ports) or name == "spice_desktop"
