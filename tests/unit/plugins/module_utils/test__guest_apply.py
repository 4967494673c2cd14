# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Steps carried out: what is on the host after each, in what order, and how long a start is waited for."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import stat
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _guest_apply as applier
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError
from ansible_collections.microvm.fleet.plugins.module_utils._guest_apply import Apply, started
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Record, observe
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import (
    GuestPlan,
    Outcome,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import (
    Autostart,
    Create,
    Forget,
    Keep,
    Reload,
    Remove,
    Root,
    Settings,
    Stage,
    Start,
    Step,
    Stop,
    Sweep,
    Switch,
    Unstage,
    Write,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import GuestWish
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import Unit
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FLAKE, FakeHost, FakeUnit, Spec

WEB1 = Spec("web1")


def carry_out(host: FakeHost, *steps: Step, name: str = "web1", **wished: t.Any) -> Outcome:
    """Do *steps* for one guest."""
    guest = observe(host.paths, host).guest(name)
    plan = GuestPlan(GuestWish(name=name, **wished), guest, steps=steps)
    work = Apply(host.paths, host, build_timeout=60)
    work.prepare([plan])
    work.finish([plan])
    return work.outcomes[name]


def test_stage(host: FakeHost) -> None:
    host.offer(WEB1)
    outcome = carry_out(host, Stage("web1", WEB1.path, WEB1.derivation))
    assert outcome == Outcome(done=[Stage("web1", WEB1.path, WEB1.derivation)])
    assert os.readlink(host.paths.root_of("web1", "staged")) == WEB1.path
    assert (host.root / WEB1.path.lstrip("/")).exists()


def test_the_link_is_older_than_the_build(host: FakeHost) -> None:
    host.offer(WEB1)
    seen = []

    def watch(argv: tuple[str, ...]) -> None:
        if "--realise" in argv:
            seen.append(os.path.islink(host.paths.root_of("web1", "staged")))

    host.before = watch
    carry_out(host, Stage("web1", WEB1.path, WEB1.derivation))
    assert seen == [True]


def test_a_stage_that_fails_leaves_no_root(host: FakeHost) -> None:
    bad = Spec("web1", behaviour="unbuildable")
    host.offer(bad)
    outcome = carry_out(host, Stage("web1", bad.path, bad.derivation), Keep("web1", 1, bad.path))
    assert outcome.error is not None
    assert outcome.done == []
    assert not os.path.lexists(host.paths.root_of("web1"))


def test_a_stage_that_fails_keeps_generations(host: FakeHost) -> None:
    bad = Spec("web1", behaviour="unbuildable")
    host.offer(bad)
    carry_out(host, Keep("web1", 1, WEB1.path))
    carry_out(host, Stage("web1", bad.path, bad.derivation))
    assert os.listdir(host.paths.root_of("web1")) == ["1"]


def test_create(host: FakeHost, owners: dict[str, tuple[int, int]]) -> None:
    host.build(WEB1)
    outcome = carry_out(host, Create("web1", WEB1.path, FLAKE))
    assert outcome.error is None
    directory = host.guest("web1")
    assert sorted(os.listdir(directory)) == ["current", "flake"]
    assert os.readlink(directory / "current") == WEB1.path
    assert (directory / "flake").read_text(encoding="utf-8") == f"{FLAKE}\n"
    # Sticky and root's: the user of the hypervisors makes its sockets there, and cannot replace "current".
    assert stat.S_IMODE(directory.stat().st_mode) == 0o1775
    assert (0, 78) in owners.values()


def test_create_without_a_flake(host: FakeHost) -> None:
    carry_out(host, Create("web1", WEB1.path, None))
    assert os.listdir(host.guest("web1")) == ["current"]


def test_complete_keeps_what_is_there(host: FakeHost) -> None:
    host.guest("web1").mkdir()
    host.guest("web1", "data.img").write_text("data", encoding="utf-8")
    carry_out(host, Create("web1", WEB1.path, FLAKE, complete=True))
    assert sorted(os.listdir(host.guest("web1"))) == ["current", "data.img", "flake"]


def test_nobody_sees_half_a_guest(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = os.rename

    def rename(source: t.Any, target: t.Any) -> None:
        if str(target) == host.paths.guest("web1"):
            seen.append((sorted(os.listdir(source)), os.path.lexists(target)))
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    carry_out(host, Create("web1", WEB1.path, FLAKE))
    assert seen == [(["current", "flake"], False)]


def test_switch(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    carry_out(host, Switch("web1", Spec("web1", 2).path, "/other"))
    assert os.readlink(host.guest("web1", "current")) == Spec("web1", 2).path
    assert host.guest("web1", "flake").read_text(encoding="utf-8") == "/other\n"


def test_generations(host: FakeHost) -> None:
    carry_out(host, Keep("web1", 1, WEB1.path), Keep("web1", 2, Spec("web1", 2).path))
    assert sorted(os.listdir(host.paths.root_of("web1"))) == ["1", "2"]
    carry_out(host, Forget("web1", (1, 7)))
    assert os.listdir(host.paths.root_of("web1")) == ["2"]
    carry_out(host, Unstage("web1", WEB1.path))
    assert os.listdir(host.paths.root_of("web1")) == ["2"]


def test_write(host: FakeHost) -> None:
    record = Record(FLAKE, "r1", WEB1.path, {WEB1.path: {"path": WEB1.path}}, protect=True, labels={"ä": "ö"})
    carry_out(host, Write("web1", record))
    path = Path(host.paths.known("web1", "record.json"))
    assert json.loads(path.read_text(encoding="utf-8")) == record.as_dict()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert observe(host.paths, host).guest("web1").record == record


def test_root(host: FakeHost) -> None:
    host.microvm_create(WEB1, rooted=False)
    carry_out(host, Root("web1"))
    for entry, link in (("web1", "current"), ("booted-web1", "booted")):
        assert os.readlink(os.path.join(host.paths.microvm_roots, entry)) == str(host.guest("web1", link))


def test_settings_are_read_by_systemd_once(host: FakeHost) -> None:
    steps = {name: Settings(name, "[Service]\nTimeoutStopSec=5\n") for name in ("a", "b")}
    observed = observe(host.paths, host)
    plans = [GuestPlan(GuestWish(name=name), observed.guest(name), steps=(step,)) for name, step in steps.items()]
    work = Apply(host.paths, host, build_timeout=60)
    work.prepare(plans)
    work.finish(plans)
    assert Path(host.paths.settings("a")).read_text(encoding="utf-8") == "[Service]\nTimeoutStopSec=5\n"
    assert host.count("daemon-reload") == 1


def test_reload(host: FakeHost) -> None:
    carry_out(host, Reload("web1"))
    assert host.count("daemon-reload") == 1


@pytest.mark.parametrize("steps", [(Root("web1"),), (Stop("web1"),), (Sweep("web1"),)])
def test_nothing_else_reloads(host: FakeHost, steps: tuple[Step, ...]) -> None:
    host.microvm_create(WEB1)
    carry_out(host, *steps)
    assert host.count("daemon-reload") == 0


def test_sweep(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    carry_out(host, Keep("web1", 1, WEB1.path), Write("web1", Record()), Settings("web1", "[Service]\n"))
    before = host.tree()
    left = [
        host.paths.guest("web1", ".microvm-fleet.current.7"),
        host.paths.known("web1", ".microvm-fleet.record.json.7"),
        host.paths.root_of("web1", ".microvm-fleet.1.7"),
        os.path.join(os.path.dirname(host.paths.settings("web1")), ".microvm-fleet.50-microvm-fleet.conf.7"),
        os.path.join(host.paths.microvm_roots, ".microvm-fleet.booted-web1.7"),
    ]
    for path in left:
        os.symlink("x", path)
    of_another = os.path.join(host.paths.microvm_roots, ".microvm-fleet.web2.7")
    os.symlink("x", of_another)
    carry_out(host, Sweep("web1"))
    assert [path for path in left if os.path.lexists(path)] == []
    assert os.path.lexists(of_another)
    os.unlink(of_another)
    assert host.tree() == before


def fill(directory: Path) -> None:
    """Everything that may be in a state directory."""
    for name in ("data.img", "old.img", "supervisord.log", "supervisord.pid", ".microvm-fleet.x.7"):
        (directory / name).touch()
    (directory / "share").mkdir()
    (directory / "share" / "file").touch()
    for name in ("booted", "old", "new", "toplevel"):
        (directory / name).symlink_to("/nix/store/x")
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(directory)  # the name of a socket has 108 characters at most
        try:
            server.bind("web1.sock")
        finally:
            os.chdir(before)


def test_remove_keeps_only_data(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    fill(host.guest("web1"))
    outcome = carry_out(host, Remove("web1", purge=False))
    assert outcome.error is None
    assert outcome.kept is not None
    assert sorted(os.listdir(outcome.kept)) == ["data.img", "old.img", "share"]
    assert stat.S_IMODE(os.stat(host.paths.kept).st_mode) == 0o700
    assert not host.guest("web1").exists()


def test_remove_with_purge(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    fill(host.guest("web1"))
    outcome = carry_out(host, Remove("web1", purge=True))
    assert (outcome.error, outcome.kept) == (None, None)
    assert os.listdir(host.paths.guests) == []


def test_remove_follows_no_link(host: FakeHost, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    host.microvm_create(WEB1)
    host.guest("web1", "share").symlink_to(outside)
    carry_out(host, Remove("web1", purge=True))
    assert (outside / "precious").exists()


@pytest.mark.parametrize("purge", [True, False])
def test_remove_takes_everything_else(host: FakeHost, purge: bool) -> None:
    host.microvm_create(WEB1)
    carry_out(host, Keep("web1", 1, WEB1.path), Write("web1", Record()), Settings("web1", "[Service]\n"))
    carry_out(host, Remove("web1", purge=purge))
    assert [place for place in host.tree() if "web1" in place] == []
    assert host.count("daemon-reload") == 2


def test_the_settings_of_others_stay(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    carry_out(host, Settings("web1", "[Service]\n"))
    other = Path(os.path.dirname(host.paths.settings("web1")), "other.conf")
    other.touch()
    carry_out(host, Remove("web1", purge=False))
    assert other.exists()
    assert not os.path.exists(host.paths.settings("web1"))


def test_start_and_stop(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    assert carry_out(host, Start("web1")).done == [Start("web1")]
    assert host.units["web1"].active == "active"
    outcome = carry_out(host, Stop("web1"))
    assert (outcome.done, outcome.killed) == ([Stop("web1")], False)
    assert "web1" not in host.units


def test_a_stop_that_does_not_stop(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.microvm_create(WEB1)
    host.start("web1")
    monkeypatch.setattr(host, "stop", lambda name: None)
    outcome = carry_out(host, Stop("web1"), Forget("web1", (1,)))
    assert outcome.error is not None
    assert outcome.error.text() == (
        "guest web1, state: the unit is still active after systemctl stop: . See journalctl -u microvm@web1.service."
    )
    assert outcome.done == []


def test_a_stop_that_takes_too_long(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    host.start("web1")

    def late(argv: tuple[str, ...]) -> None:
        if "stop" in argv:
            raise CommandError("systemctl stop did not end within 480 s.")

    host.before = late
    outcome = carry_out(host, Stop("web1"))
    assert outcome.error is not None
    assert "still active after systemctl stop: systemctl stop did not end within 480 s." in outcome.error.text()


def test_a_killed_guest_is_said_to_be_killed(host: FakeHost) -> None:
    spec = Spec("web1", behaviour="hang")
    host.microvm_create(spec)
    host.start("web1")
    outcome = carry_out(host, Stop("web1"))
    assert (outcome.error, outcome.killed) == (None, True)
    assert host.units == {}


def test_a_guest_that_was_not_up_was_not_killed(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    host.units["web1"] = FakeUnit("activating", "auto-restart", "exit-code", restarts=1)
    outcome = carry_out(host, Stop("web1"))
    assert (outcome.error, outcome.killed) == (None, False)


@pytest.mark.parametrize("enable", [True, False])
def test_autostart(host: FakeHost, enable: bool) -> None:
    host._enable("web1")
    if enable:
        host._disable("web1")
    carry_out(host, Autostart("web1", enable=enable))
    assert os.path.lexists(os.path.join(host.paths.wants, "microvm@web1.service")) is enable


def test_an_error_ends_the_steps_of_its_guest(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.microvm_create(WEB1)

    def refuse(_path: t.Any, _mode: int) -> t.NoReturn:
        raise PermissionError(1, "Operation not permitted", "there")

    monkeypatch.setattr(os, "chmod", refuse)
    outcome = carry_out(host, Root("web1"), Switch("web1", "/nix/store/x", None), Settings("web1", "x"), Start("web1"))
    assert outcome.error is not None
    assert outcome.error.text() == (
        "guest web1, state: switch to /nix/store/x: Operation not permitted (there). "
        "See to it on the host and run again; what was done so far is kept."
    )
    assert outcome.done == [Root("web1")]
    assert host.units == {}


# Waiting


@pytest.mark.parametrize(
    ("unit", "answer"),
    [
        (Unit("active", "running", active_since=90_000_000), True),
        (Unit("active", "running", active_since=97_000_000), True),
        (Unit("active", "running", active_since=97_000_001), None),
        (Unit("active", "running", active_since=99_000_000), None),
        (Unit("active", "running", restarts=1, active_since=99_000_000), None),
        (Unit("active", "running", restarts=3, active_since=90_000_000), False),
        (Unit("activating", "start-pre"), None),
        (Unit("activating", "auto-restart", "exit-code", restarts=2), None),
        (Unit("activating", "auto-restart", "exit-code", restarts=3), False),
        (Unit("failed", "failed", "exit-code"), False),
        (Unit("inactive", "dead"), False),
        (Unit("inactive", "dead", queued=True), None),
    ],
)
def test_started(unit: Unit, answer: bool | None) -> None:
    assert started(unit, 100.0) is answer


class Clock:
    """Time that passes only while it is slept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: list[t.Callable[[float], object]] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for action in self.slept:
            action(self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_start_waits_until_the_guest_has_stayed_up(host: FakeHost, clock: Clock) -> None:
    host.microvm_create(WEB1)
    real = host.start

    def begin(name: str) -> None:
        real(name)
        host.units[name].since = clock.now

    host.start = begin  # type: ignore[method-assign]
    outcome = carry_out(host, Start("web1"))
    assert outcome.error is None
    assert applier.SETTLE <= clock.now - 1000.0 < applier.SETTLE + 1


def test_a_guest_that_ends_while_it_is_waited_for(host: FakeHost, clock: Clock) -> None:
    host.microvm_create(WEB1)
    real = host.start

    def begin(name: str) -> None:
        real(name)
        host.units[name].since = clock.now

    def end(now: float) -> None:
        if now > 1001:
            host.units["web1"] = FakeUnit("failed", "failed", "signal", restarts=1)

    host.start = begin  # type: ignore[method-assign]
    clock.slept.append(end)
    outcome = carry_out(host, Start("web1"))
    assert outcome.error is not None
    assert outcome.error.text().startswith(
        "guest web1, state: did not stay up: the unit is failed (signal) after 1 restarts. Its journal ends with:\n"
    )


@pytest.mark.parametrize(("timeout", "limit"), [(None, applier.UNIT_TIMEOUT), (20, 20)])
def test_a_start_that_never_comes_to_an_end(host: FakeHost, clock: Clock, timeout: int | None, limit: int) -> None:
    host.microvm_create(WEB1)
    host.start = lambda name: host.units.update({name: FakeUnit("activating", "start")})  # type: ignore[method-assign]
    outcome = carry_out(host, Start("web1"), start_timeout=timeout)
    assert outcome.error is not None
    assert "did not stay up: the unit is activating (success). Its journal" in outcome.error.text()
    assert limit <= clock.now - 1000.0 < limit + 1


def test_what_systemctl_said_is_told(host: FakeHost) -> None:
    host.microvm_create(WEB1)

    def late(argv: tuple[str, ...]) -> None:
        if "start" in argv:
            raise CommandError("systemctl start did not end within 180 s.")

    host.before = late
    outcome = carry_out(host, Start("web1"))
    assert outcome.error is not None
    assert "(success); systemctl said: systemctl start did not end within 180 s.. Its journal" in outcome.error.text()


def test_failures_are_forgotten_before_a_start(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    host.units["web1"] = FakeUnit("failed", "failed", "exit-code", restarts=5)
    carry_out(host, Start("web1"))
    verbs = [argv[1] for argv in host.calls if argv[0] == "systemctl" and argv[1] != "show"]
    assert verbs == ["reset-failed", "start"]


def test_outcomes_of_many_are_their_own(host: FakeHost) -> None:
    for name in ("a", "b"):
        host.microvm_create(Spec(name, behaviour="crash" if name == "a" else "ok"))
    observed = observe(host.paths, host)
    plans = [GuestPlan(GuestWish(name=name), observed.guest(name), steps=(Start(name),)) for name in ("a", "b")]
    work = Apply(host.paths, host, build_timeout=60)
    work.prepare(plans)
    work.finish(plans)
    assert work.outcomes["a"].error is not None
    assert work.outcomes["b"] == dataclasses.replace(Outcome(), done=[Start("b")])
    assert host.count("systemctl", "start") == 1
