# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts drained and brought back: check mode, order, failures, and runs that are killed anywhere."""

from __future__ import annotations

import json
import os
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _systemd
from ansible_collections.microvm.fleet.plugins.module_utils._drain_plan import DrainWish
from ansible_collections.microvm.fleet.plugins.module_utils._drain_run import Result, converge, read_healths
from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_apply import Apply
from ansible_collections.microvm.fleet.plugins.module_utils._health_check import Result as Judgement
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import Health
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost, Killer, Spec
from ansible_collections.microvm.fleet.tests.unit.support.scenes import run, wish

ORDERS = {"web1": "10", "web2": "10", "db1": "90"}
DRAIN = DrainWish()
BACK = DrainWish(drained=False)


def furnish(host: FakeHost, **behaviours: str) -> FakeHost:
    """Three guests that run and start with the host, and one that does not."""
    host.offer(*(Spec(name, behaviour=behaviours.get(name, "ok")) for name in (*ORDERS, "idle")))
    wishes = [
        wish(name, state="started", autostart=True, labels={"stop_order": order}) for name, order in ORDERS.items()
    ]
    assert not run(host, [*wishes, wish("idle")]).failures
    return host


def go(host: FakeHost, wished: DrainWish, *, check: bool = False) -> Result:
    return converge(wished, paths=host.paths, commands=host, lock_timeout=0, check=check)


def verbs(host: FakeHost, verb: str) -> list[list[str]]:
    """The guests of each call of systemctl with *verb*."""
    return [
        [word[len("microvm@") : -len(".service")] for word in argv if word.startswith("microvm@")]
        for argv in host.calls
        if argv[:2] == ("systemctl", verb)
    ]


def up(host: FakeHost) -> list[str]:
    return sorted(name for name, unit in host.units.items() if unit.active == "active")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all marks be of the same second."""
    monkeypatch.setattr(time, "gmtime", lambda: (2026, 11, 23, 17, 5, 0, 0, 327, 0))


def test_drain_reboot_and_back(host: FakeHost) -> None:
    furnish(host)
    host.calls.clear()
    before = host.tree()
    said = go(host, DRAIN, check=True)
    assert host.tree() == before
    done = go(host, DRAIN)
    assert (said.changed, said.actions, said.drained, said.results) == (
        True,
        done.actions,
        done.drained,
        done.results,
    )
    assert (said.before, said.after) == (done.before, done.after)
    assert done.actions == [
        "let no guest start",
        "web1: stop (stop_order 10)",
        "web2: stop (stop_order 10)",
        "db1: stop (stop_order 90)",
    ]
    assert done.before["running"] == ["db1", "web1", "web2"]
    assert done.after["running"] == []
    assert verbs(host, "stop") == [["web1", "web2"], ["db1"]]
    assert up(host) == []
    assert not go(host, DRAIN).changed
    host.power_cut()
    assert up(host) == []
    host.calls.clear()
    said = go(host, BACK, check=True)
    back = go(host, BACK)
    assert (said.actions, said.results, said.drained, said.after) == (
        back.actions,
        back.results,
        back.drained,
        back.after,
    )
    assert back.drained is None
    assert verbs(host, "start") == [["db1"], ["web1", "web2"]]
    assert host.tree() == before
    assert not go(host, BACK).changed


def test_the_time_of_each_guest_is_that_of_its_unit(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(host)
    limits: list[tuple[str, int | None, int | None]] = []
    finish = Apply.finish

    def noted(self: t.Any, plans: t.Any) -> None:
        limits.extend((plan.name, plan.wish.start_timeout, plan.wish.stop_timeout) for plan in plans)
        finish(self, plans)

    monkeypatch.setattr(_systemd, "timeouts", lambda _commands, _names: {"db1": (70, 80)})
    monkeypatch.setattr(Apply, "finish", noted)
    go(host, DRAIN)
    assert limits == [("web1", None, None), ("web2", None, None), ("db1", 70, 80)]


def test_a_guest_that_had_to_be_killed_is_said(host: FakeHost) -> None:
    furnish(host, web2="hang")
    done = go(host, DRAIN)
    assert done.actions[-1] == "web2: kill, for it did not end within its time"
    assert done.warnings == ["guest web2 did not end within its time, and had to be killed."]
    assert [(each["name"], each["killed"]) for each in done.results] == [
        ("web1", False),
        ("web2", True),
        ("db1", False),
    ]
    assert not done.failures
    assert up(host) == []


def test_a_guest_that_does_not_end_is_the_last(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(host)
    monkeypatch.setattr(host, "_stop", lambda name: None if name == "web1" else host.stop(name))
    done = go(host, DRAIN)
    assert len(done.failures) == 1
    assert done.failures[0].startswith("guest web1, state: the unit is still active after systemctl stop")
    assert [(each["name"], each["changed"]) for each in done.results] == [
        ("web1", False),
        ("web2", True),
        ("db1", False),
    ]
    assert up(host) == ["db1", "web1"]
    assert done.after["running"] == ["db1", "web1"]
    assert done.drained is not None
    monkeypatch.undo()
    assert not go(host, DRAIN).failures
    assert up(host) == []
    assert [each["name"] for each in (go(host, DRAIN).drained or {})["guests"]] == ["web1", "web2", "db1"]


def test_a_guest_that_does_not_start_is_tried_again(host: FakeHost) -> None:
    furnish(host)
    go(host, DRAIN)
    runner = host.root / os.readlink(host.guest("db1", "current")).lstrip("/") / "bin/microvm-run"
    runner.rename(runner.with_name("aside"))
    done = go(host, BACK)
    assert [each["name"] for each in done.results if each["failed"]] == ["db1"]
    assert up(host) == ["web1", "web2"]
    assert done.drained is not None
    assert done.drained["returning"]
    # The engine may start it, for this is how it is mended.
    assert not run(host, [wish("web1", state="restarted")]).failures
    runner.with_name("aside").rename(runner)
    again = go(host, BACK)
    assert again.actions == ["db1: start (stop_order 90)", "be drained no more"]
    assert up(host) == ["db1", "web1", "web2"]
    assert again.drained is None


def test_guests_are_waited_for_until_they_are_healthy(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(host)
    go(host, DRAIN)
    entries = [
        {
            "name": "db1",
            "flake": "x",
            "health": [{"kind": "tcp", "port": 5432}],
            "interfaces": [{"addresses": ["10.0.0.2/24"]}],
        },
        {"name": "web1"},
        {"name": "web9", "health": [{"kind": "active"}]},
    ]
    healths = read_healths(entries, host.paths)
    assert sorted(healths) == ["db1", "web9"]
    judged = []

    def verdict(asked: dict[str, Health], **_options: t.Any) -> Judgement:
        judged.append((sorted(asked), up(host)))
        result = {"name": "db1", "healthy": False, "failed": True, "reason": "tcp port 5432: it refuses connections"}
        return Judgement(results=[result], warnings=["its key has changed"])

    monkeypatch.setattr("ansible_collections.microvm.fleet.plugins.module_utils._drain_run.check_health", verdict)
    done = converge(BACK, paths=host.paths, commands=host, lock_timeout=0, check=False, healths=healths)
    # It was asked before the others were started.
    assert judged == [(["db1"], ["db1"])]
    assert done.failures == [
        "guest db1, health: was started, and is not healthy: tcp port 5432: it refuses connections."
    ]
    assert done.warnings == ["its key has changed"]
    assert up(host) == ["db1", "web1", "web2"]
    assert (done.drained or {})["returning"]
    # It runs by now, so the next run is content.
    assert go(host, BACK).actions == ["be drained no more"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "a", "health": [{"kind": "tcp"}], "interfaces": [{"addresses": ["10.0.0.2"]}]}, "guest a, health"),
        ({"name": "a", "health": [{"kind": "x"}]}, "guest a, health: value of kind must be one of"),
        ({"health": [{"kind": "active"}]}, "guest None, health: missing required arguments: name"),
    ],
)
def test_what_healthy_means_is_checked_first(host: FakeHost, entry: dict[str, t.Any], said: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        read_healths([entry], host.paths)
    assert said in caught.value.text()


def test_the_engine_starts_nothing_on_a_drained_host(host: FakeHost) -> None:
    furnish(host)
    go(host, DRAIN)
    started = run(host, [wish("web1", state="started"), wish("idle")])
    assert started.failures == [
        (
            "guest web1, state: this host is drained since 2026-11-23T17:05:00Z, and starts no guest. "
            "Bring the host back first: playbook microvm.fleet.undrain, or microvm_drain with state undrained."
        )
    ]
    assert not started.changed


def test_guests_that_are_gone_are_said(host: FakeHost) -> None:
    furnish(host)
    go(host, DRAIN)
    assert not run(host, [wish("db1", state="absent")]).failures
    done = go(host, BACK)
    assert done.warnings == ["guest db1 ran before and is not there any more."]
    assert up(host) == ["web1", "web2"]


def test_the_whole_host_is_locked(host: FakeHost) -> None:
    furnish(host)
    place = os.path.join(host.paths.locks, "host")
    with _files.lock(place, what="host", shared=True), pytest.raises(Busy, match="another run"):
        go(host, DRAIN)
    assert up(host) == ["db1", "web1", "web2"]


def test_units_of_an_older_role_do_not_hold(host: FakeHost) -> None:
    furnish(host)
    Path(host.paths.units, "microvm@.service").write_text("[Service]\n", encoding="utf-8")
    before = host.tree()
    with pytest.raises(InvalidWish, match="a reboot would start them again"):
        go(host, DRAIN)
    assert host.tree() == before


@pytest.mark.parametrize("wished", [DRAIN, BACK])
def test_a_run_killed_anywhere_is_finished_by_the_next(
    wished: DrainWish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(1000, 9000))

    def next_process() -> None:
        number = next(numbers)
        monkeypatch.setattr(os, "getpid", lambda: number)

    def fresh(number: str) -> FakeHost:
        place = tmp_path / number
        place.mkdir()
        host = furnish(FakeHost(place))
        if not wished.drained:
            go(host, DRAIN)
        next_process()
        return host

    whole = fresh("whole")
    with Killer(whole, None) as counter:
        assert go(whole, wished).changed
    assert counter.count > 3
    for at in range(counter.count):
        host = fresh(str(at))
        with Killer(host, at) as killer:
            go(host, wished)
        assert killer.dead
        next_process()
        marked = os.path.exists(host.paths.drained)
        if marked:
            # What the mark says holds, wherever the run was killed.
            host.power_cut()
            assert up(host) == [], f"killed at {at}"
        go(host, wished)
        assert up(host) == up(whole), f"killed at {at}"
        assert json.dumps(_marks(host)) == json.dumps(_marks(whole)), f"killed at {at}"
        assert not go(host, wished).changed, f"killed at {at}"


def _marks(host: FakeHost) -> dict[str, str]:
    return {place: text for place, text in host.tree().items() if place.endswith(("drained.json", "returning.json"))}
