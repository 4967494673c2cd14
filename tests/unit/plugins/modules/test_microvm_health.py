# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module that judges guests, from its arguments to what it prints."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _health_check
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import Health
from ansible_collections.microvm.fleet.plugins.modules import microvm_health
from ansible_collections.microvm.fleet.tests.unit.plugins.conftest import Play
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost, Spec

TCP = {"kind": "tcp", "port": 80}
INTERFACES = [{"id": "vm-web1", "mac": "02:00:00:00:00:01", "addresses": ["10.1.0.11/24", "2001:db8::11"]}]


class Waited:
    """What was waited for, and what came of it."""

    def __init__(self) -> None:
        self.healths: dict[str, Health] = {}
        self.verdicts: dict[str, str] = {}
        self.notes: list[str] = []

    def __call__(
        self,
        _commands: t.Any,
        healths: t.Mapping[str, Health],
        *,
        started: t.Mapping[str, float],
        note: t.Callable[[str], None],
        **_options: t.Any,
    ) -> dict[str, str | None]:
        assert set(started) == set(healths)
        self.healths = dict(healths)
        for text in self.notes:
            note(text)
        return {name: self.verdicts.get(name) for name in healths}


@pytest.fixture(name="waited")
def _waited(monkeypatch: pytest.MonkeyPatch) -> Waited:
    waited = Waited()
    monkeypatch.setattr(_health_check, "await_healthy", waited)
    return waited


@pytest.fixture(name="up")
def _up(host: FakeHost) -> FakeHost:
    """A host with two guests that run."""
    for name in ("web1", "web2"):
        host.microvm_create(Spec(name))
        host.start(name)
    return host


@pytest.mark.parametrize("check", [True, False])
def test_healthy(up: FakeHost, play: Play, waited: Waited, check: bool) -> None:
    before = up.tree()
    guests = [{"name": "web1", "interfaces": INTERFACES, "health": [TCP]}, {"name": "web2", "min_healthy_time": 0}]
    done = play(microvm_health, guests=guests, check=check)
    assert not done["changed"]
    assert done["results"] == [
        {"name": "web1", "healthy": True, "failed": False},
        {"name": "web2", "healthy": True, "failed": False},
    ]
    assert [probe.words() for probe in waited.healths["web1"].probes] == ["tcp 10.1.0.11:80"]
    assert waited.healths["web2"] == Health(min_healthy_time=0)
    assert up.tree() == before


def test_some_are_not(up: FakeHost, play: Play, waited: Waited) -> None:
    up.microvm_create(Spec("web3"))
    waited.verdicts["web2"] = "not within 5 s: tcp 10.1.0.12:80: connection refused"
    done = play(microvm_health, guests=[{"name": name} for name in ("none", "web3", "web2", "web1")])
    assert done["failed"]
    assert done["msg"].split("\n") == [
        "3 of 4 guests are not healthy.",
        *(
            f"guest {name}, health: is not healthy: {reason}."
            for name, reason in (
                ("none", "it does not run: its unit is inactive (success)"),
                ("web3", "it does not run: its unit is inactive (success)"),
                ("web2", waited.verdicts["web2"]),
            )
        ),
    ]
    assert [(each["name"], each["healthy"]) for each in done["results"]] == [
        ("none", False),
        ("web3", False),
        ("web2", False),
        ("web1", True),
    ]
    assert done["results"][2]["reason"] == waited.verdicts["web2"]
    assert done["results"][2]["subject"] == "guest web2"
    # Who is down is not waited for.
    assert set(waited.healths) == {"web1", "web2"}


def test_warnings(up: FakeHost, play: Play, waited: Waited) -> None:
    waited.notes.append("guest web1 has another SSH host key than in its last start")
    done = play(microvm_health, guests=[{"name": "web1"}])
    assert "another SSH host key" in str(done["warnings"])
    assert up.calls


DESCRIBED = """{"version": 1, "guests": {"web1": {"interfaces": [{"addresses": ["10.9.0.5/16", "fd00::5/64"]}, {}]}}}"""


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"health": [TCP]}, "tcp 10.9.0.5:80"),
        ({"health": [TCP], "interfaces": INTERFACES}, "tcp 10.1.0.11:80"),
        ({"health": [{**TCP, "address": "10.1.0.77"}]}, "tcp 10.1.0.77:80"),
        ({"health": [TCP], "interfaces": [{"id": "vm-web1"}]}, "tcp 10.9.0.5:80"),
    ],
)
def test_where_it_is_asked(up: FakeHost, play: Play, waited: Waited, entry: dict[str, t.Any], expected: str) -> None:
    path = up.root / "etc/microvm-fleet/guests.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(DESCRIBED, "utf-8")
    play(microvm_health, guests=[{"name": "web1", **entry}])
    assert [probe.words() for probe in waited.healths["web1"].probes] == [expected]


@pytest.mark.parametrize(
    ("guests", "said"),
    [
        ([{"name": "web1", "health": [TCP]}], "guest web1, health[0].address: is missing"),
        ([{"name": "web1", "health": [{"kind": "tcp"}], "interfaces": INTERFACES}], "health[0].port: is missing"),
        ([{"name": "../x"}], "guest number 1 of the list, name: '../x' is no name of a guest"),
        ([{"name": "web1"}, {"name": "web1"}], "guest web1, name: is in the list twice"),
        ([{"name": "web1", "min_healthy_time": 400}], "guest web1, healthy_deadline: 300 s are over"),
        ([{"name": "web1", "health": [{}]}], "guest web1: missing required arguments: kind"),
        ([{"name": "web1", "health": [{"kind": "icmp"}]}], "guest web1: value of kind must be one of: active"),
        ([{"name": "web1", "flake": "x"}], "guest web1: flake. Supported parameters include"),
    ],
)
def test_bad_arguments(host: FakeHost, play: Play, guests: list[t.Any], said: str) -> None:
    done = play(microvm_health, guests=guests)
    assert done["failed"]
    assert said in done["msg"]
    assert host.calls == []


def test_all_that_is_wrong_is_said(play: Play) -> None:
    guests = [{"name": "a", "health": [TCP]}, {"name": "b", "health": [{"kind": "journal", "pattern": "("}]}]
    done = play(microvm_health, guests=guests)
    assert [line.split(":")[0] for line in done["msg"].split("\n")] == [
        "guest a, health[0].address",
        "guest b, health[0].pattern",
    ]
