# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which guests of a fleet need a builder, and what of its work is for which host."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.microvm.fleet.plugins.filter.build import (
    FilterModule,
    build_needs,
    build_share,
    build_sources,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import DESCRIBED
from ansible_collections.microvm.fleet.tests.unit.support.hostvars import Hostvars

FLAKE = "git+https://git.example.org/infra"


def there(name: str = "web1", **values: t.Any) -> dict[str, t.Any]:
    """What a host says of a guest."""
    return {"name": name, "exists": True, "owner": "fleet", "flake": FLAKE, "locked": "1", "problems": [], **values}


def source(guest: str = "web1", recorded: str | None = None, flake: str = FLAKE) -> dict[str, t.Any]:
    return {"flake": flake, "guest": guest, "recorded": recorded}


def together(*needs: t.Any) -> dict[str, t.Any]:
    """What hosts need together that need these."""
    hosts = {f"host{number}": {"needs": each, "other": 1} for number, each in enumerate(needs)}
    return build_sources(Hostvars(hosts), list(hosts), "needs")


@pytest.mark.parametrize(
    ("entry", "guest", "update", "found"),
    [
        ({"flake": FLAKE}, None, "never", [source()]),
        ({"flake": FLAKE}, there(exists=False, flake=None, locked=None), "never", [source()]),
        ({"flake": FLAKE}, there(), "never", []),
        ({"flake": FLAKE}, there(), "stage", [source(recorded="1")]),
        ({"flake": FLAKE}, there(), "activate", [source(recorded="1")]),
        ({"flake": FLAKE}, there(), "activate_staged", []),
        ({"flake": FLAKE, "update": "never"}, there(), "stage", []),
        ({"flake": FLAKE, "update": "stage"}, there(), "never", [source(recorded="1")]),
        ({"flake": FLAKE, "update": "stage", "generation": "previous"}, there(), "never", []),
        ({"flake": FLAKE}, there(problems=["missing runner: x is not in the store."]), "stage", [source()]),
        ({"flake": FLAKE, "state": "absent"}, None, "stage", []),
        ({"runner": "/nix/store/x"}, None, "stage", []),
        ({"flake": FLAKE}, there(owner="nixos"), "stage", []),
        # Where it came from.
        ({}, there(), "stage", [source(recorded="1")]),
        ({}, there(flake=None), "stage", []),
        ({}, None, "stage", []),
        ({}, there(flake=DESCRIBED), "stage", []),
        ({"flake": "/other"}, there(), "stage", [source(recorded="1", flake="/other")]),
    ],
)
def test_needs(entry: dict[str, t.Any], guest: dict[str, t.Any] | None, update: str, found: t.Any) -> None:
    needs = build_needs([{"name": "web1", **entry}], [guest] if guest else [], update)
    assert needs == {"sources": found, "described": []}


def test_needs_of_described_guests() -> None:
    entries = {"web1": {"mem": 1}, "web2": {"mem": 2}}
    guests = [{"name": name, "hypervisor": "qemu"} for name in entries]
    needs = build_needs(guests, [there("web2", flake=DESCRIBED, locked="sha256-x")], "stage", entries)
    assert needs == {
        "sources": [],
        "described": [
            {"name": "web1", "entry": {"mem": 1}, "recorded": None},
            {"name": "web2", "entry": {"mem": 2}, "recorded": "sha256-x"},
        ],
    }
    assert build_needs(guests, [there("web2")], "never", entries)["described"] == needs["described"][:1]


@pytest.mark.parametrize("guests", ["web1", ["web1"], [{}], 7])
def test_what_are_no_guests(guests: t.Any) -> None:
    with pytest.raises(AnsibleFilterError, match="guests: "):
        build_needs(guests, [])


def test_nothing_is_needed() -> None:
    assert build_needs(None, None) == {"sources": [], "described": []}
    assert together() == {"sources": [], "described": []}
    assert build_share({}, build_needs(None, None), together()) == {"evaluated": {}, "runners": []}


def test_sources_of_a_fleet() -> None:
    one = {"sources": [source("web1", "1"), source("web2", "1")], "described": [{"name": "a", "entry": {"x": 1}}]}
    two = {
        "sources": [source("web1", "2"), source("web2"), source("db", flake="/other")],
        "described": [{"name": "a", "entry": {"x": 2}}, {"name": "a", "entry": {"x": 1}}],
    }
    assert together(one, None, two) == {
        "sources": [
            {"flake": "/other", "guests": ["db"], "recorded": {}},
            # One host lacks web2, so it is evaluated whatever the other has.
            {"flake": FLAKE, "guests": ["web1", "web2"], "recorded": {"web1": ["1", "2"]}},
        ],
        "described": [{"name": "a", "entry": {"x": 1}}, {"name": "a", "entry": {"x": 2}}],
    }


def test_the_share_of_a_host() -> None:
    built = {
        "evaluated": {
            FLAKE: {"identity": "1", "guests": {"web1": {"path": "/nix/store/a"}, "web2": {"path": "/nix/store/b"}}},
            "/other": {"identity": "2", "guests": {"db": {"error": "it throws."}}},
            "/third": {"identity": "3", "guests": {"x": {"path": "/nix/store/x"}}},
        }
    }
    needs = {"sources": [source("web1"), source("web3"), source("db", flake="/other")], "described": []}
    assert build_share(built, needs, together(needs)) == {
        "evaluated": {
            FLAKE: {"identity": "1", "guests": {"web1": {"path": "/nix/store/a"}}},
            "/other": {"identity": "2", "guests": {"db": {"error": "it throws."}}},
        },
        "runners": ["/nix/store/a"],
    }


def test_the_share_of_a_host_with_described_guests() -> None:
    mine = {"name": "web1", "entry": {"x": 2}, "recorded": None}
    other = {"name": "web1", "entry": {"x": 1}, "recorded": None}
    known = {"name": "web2", "entry": {"x": 3}, "recorded": "i3"}
    needs = {"sources": [], "described": [mine, known]}
    wanted = together({"sources": [], "described": [other]}, needs)
    built = {
        "evaluated": {
            DESCRIBED: {"identity": "c", "guests": {"i1": {"path": "/nix/store/a"}, "i2": {"path": "/nix/store/b"}}}
        },
        "identities": ["i1", "i2", "i3"],
    }
    assert build_share(built, needs, wanted) == {
        "evaluated": {DESCRIBED: {"identity": "c", "guests": {"i2": {"path": "/nix/store/b"}}}},
        "runners": ["/nix/store/b"],
    }


def test_the_filters_are_found() -> None:
    assert sorted(FilterModule().filters()) == ["build_needs", "build_share", "build_sources"]
