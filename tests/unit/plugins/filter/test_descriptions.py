# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests that are described, checked on the controller."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.microvm.fleet.plugins.filter.descriptions import (
    FilterModule,
    description_faults,
    descriptions,
    guest_peers,
)

Guest = dict[str, t.Any]

NETWORKS = [{"name": "lan", "addresses": ["10.0.0.1/24"]}]


def guest(name: str = "web1", **fields: t.Any) -> Guest:
    return {"name": name, "hypervisor": "qemu", **fields}


def wrong(guests: t.Any, *arguments: t.Any) -> list[str]:
    """What both filters say."""
    with pytest.raises(AnsibleFilterError) as caught:
        descriptions(guests, *arguments)
    faults = description_faults(guests, *arguments)
    assert str(caught.value.message).split("\n") == faults
    return faults


def test_descriptions_by_name() -> None:
    guests = [
        guest(network={"name": "lan", "index": 11}),
        {"name": "web2", "flake": "/srv/flake"},
        guest("web3", state="absent"),
    ]
    found = descriptions(guests, NETWORKS)
    assert list(found) == ["web1"]
    assert found["web1"]["interfaces"][0]["addresses"] == ["10.0.0.11/24"]
    assert found["web1"]["host_name"] == "web1"


@pytest.mark.parametrize("guests", [None, [], [{"name": "web2", "flake": "/srv/flake"}]])
def test_none_are_described(guests: t.Any) -> None:
    assert descriptions(guests) == {}


def test_null_is_what_is_not_given() -> None:
    assert descriptions([guest(mem=None, network=None)])["web1"]["mem"] == 512


def test_values_are_of_the_types_of_the_module() -> None:
    assert descriptions([guest(mem="1024", autostart="yes")])["web1"]["mem"] == 1024


BAD: list[tuple[t.Any, str]] = [
    ("web1", "guests: 'web1' is no list."),
    (["web1"], "guest number 1 of the list: 'web1' is no dictionary of options."),
    ([{"hypervisor": "qemu"}], "guest number 1 of the list: missing required arguments: name"),
    ([guest(memory=1)], "guest web1: memory. Supported parameters include"),
    ([guest(mem="lots")], "guest web1: argument 'mem' is of type str"),
    ([guest(hypervisor="bhyve")], "guest web1: value of hypervisor must be one of"),
    ([guest(mem=1)], "guest web1, mem: 1 is out of range."),
    ([guest(network={"name": "wan", "index": 3})], "guest web1, network.name: there is no network wan"),
    ([guest(flake="/srv/flake")], "guest web1, flake: given together with hypervisor."),
    ([guest(), guest()], "guest web1, name: name web1 is already that of guest web1."),
    ([{"name": "web1", "mem": 512}], "guest web1, mem: describes the guest, and nothing says"),
]


@pytest.mark.parametrize(("guests", "said"), BAD)
def test_what_cannot_be(guests: t.Any, said: str) -> None:
    assert wrong(guests, NETWORKS)[0].startswith(said)


def test_all_that_is_wrong_is_said() -> None:
    assert len(wrong([guest(mem=1), guest("web2", vcpu=0), guest("web3", release="x")])) == 3


def test_networks_that_cannot_be() -> None:
    assert wrong([guest()], [{"name": "lan", "addresses": ["x"]}])[0].startswith("network lan, addresses")
    assert wrong([guest()], "lan") == ["networks: 'lan' is no list."]


def test_without_networks_nothing_is_said_about_them() -> None:
    assert descriptions([guest(network={"name": "wan", "index": 3})])["web1"]["interfaces"][0]["addresses"] == []


# Files of the controller


@pytest.fixture(name="here")
def files(tmp_path: Path) -> Path:
    (tmp_path / "nixos").mkdir()
    (tmp_path / "nixos/web.nix").write_text("{ }", encoding="utf-8")
    (tmp_path / "token").write_text("t", encoding="utf-8")
    (tmp_path / "empty").touch()
    return tmp_path


def test_files_that_are_there(here: Path) -> None:
    one = guest(modules=["nixos/web.nix"], credentials={"token": {"src": "token"}, "key": {"path": "/nowhere"}})
    assert description_faults([one], search=[str(here / "nixos"), str(here)]) == []


FILES: list[tuple[Guest, str]] = [
    (
        {"modules": ["nixos/no.nix"]},
        "modules: nixos/no.nix is not there; looked for {here}/nixos/no.nix.",
    ),
    ({"modules": ["nixos"]}, "modules: the directory {here}/nixos has no default.nix. Name a file in it."),
    ({"credentials": {"a": {"src": "no"}}}, "credentials.a.src: no is not there; looked for {here}/no."),
    ({"credentials": {"a": {"src": "empty"}}}, "credentials.a.src: empty is empty. Put the secret into it."),
    (
        {"credentials": {"a": {"src": "nixos"}}},
        "credentials.a.src: {here}/nixos cannot be read: Is a directory. See that you may read it.",
    ),
]


@pytest.mark.parametrize(("fields", "said"), FILES)
def test_files_that_are_not(here: Path, fields: Guest, said: str) -> None:
    (message,) = description_faults([guest(**fields)], search=[str(here)])
    assert message.startswith("guest web1, " + said.format(here=here))


def test_every_file_that_is_not_there_is_said(here: Path) -> None:
    one = guest(modules=["a.nix", "b.nix"], credentials={"a": {"src": "c"}, "b": {"src": "d"}})
    gone = guest("web2", state="absent", modules=["a.nix"])
    assert len(description_faults([one, gone], search=[str(here)])) == 4
    assert description_faults([one]) == [], "without directories nothing is looked for"
    assert description_faults([one], search="here") == ["search: 'here' is no list."]


# Guests of other hosts


def host(**fields: t.Any) -> dict[str, t.Any]:
    return {"microvm_networks": NETWORKS, **fields}


def test_peers() -> None:
    variables = {
        "h1": host(microvm_guests=[guest(network={"name": "lan", "index": 11})]),
        "h2": host(microvm_guests=[{"name": "web2", "interfaces": [{"id": "vm-a", "addresses": ["10.0.0.12"]}]}]),
        "h3": {},
        "h4": host(microvm_guests=[{"mem": 1}]),
        "h5": host(microvm_guests=[guest("web5")], microvm_networks=["x"]),
        "h6": host(microvm_guests="x"),
    }
    assert guest_peers(variables, list(variables)) == {"web1": ["10.0.0.11/24"], "web2": ["10.0.0.12"]}
    assert guest_peers(variables, list(variables), "h1") == {"web2": ["10.0.0.12"]}


def test_peers_of_no_list() -> None:
    with pytest.raises(AnsibleFilterError, match="hosts: 'all' is no list"):
        guest_peers({}, "all")


def test_the_filters() -> None:
    assert set(FilterModule().filters()) == {"description_faults", "descriptions", "guest_peers"}
