# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests that are decided about one after the other: each is taken back as soon as it is known to be no good."""

from __future__ import annotations

import itertools
import os
import threading
import time
import typing as t
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _guest_settle, _systemd
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Guest, observe
from ansible_collections.microvm.fleet.plugins.module_utils._guest_run import Result
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost, Killer, Spec
from ansible_collections.microvm.fleet.tests.unit.support.scenes import run, wish

NAMES = ("bad", "slow")
REASON = "tcp 10.0.0.11:80: connection refused"
# What the test waits for at most, when nothing else ends it.
LIMIT = 30.0
# Between two looks.
SHORT = 0.01


def see(host: FakeHost, name: str) -> Guest:
    return observe(host.paths, host).guest(name)


def is_good(host: FakeHost, name: str, path: str) -> bool:
    guest = see(host, name)
    assert guest.record is not None
    runs = guest.unit.active and guest.booted == guest.current == path
    return runs and guest.record.healthy == path and guest.record.judging is None and not guest.interrupted


def marks(host: FakeHost) -> list[str]:
    place = Path(host.paths.marks)
    return sorted(entry.name for entry in place.iterdir()) if place.is_dir() else []


def update(host: FakeHost, *names: str, **options: t.Any) -> Result:
    return run(host, [wish(name) for name in names or NAMES], **{"update": "activate", **options})


def outdated(host: FakeHost, *names: str) -> tuple[dict[str, str], dict[str, str]]:
    """Guests that run, with a new version in their flake: the runners that they have, and those that they would get."""
    names = names or NAMES
    host.offer(*(Spec(name) for name in names))
    run(host, [wish(name, state="started") for name in names])
    return {name: Spec(name).path for name in names}, {name: host.renew(name).path for name in names}


class Looks:
    """In place of the wait: decides about guests by what they run, and in turn.

    *bad* runners are decided about at once, and those that guests go back to.  All others are when *until* says so.
    """

    def __init__(self, host: FakeHost, bad: t.Container[str], until: t.Callable[[], bool]) -> None:
        self.host = host
        self.bad = bad
        self.until = until
        self.waiting: dict[str, str] = {}
        # What is waited for at each look, and who was decided about then.
        self.seen: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        self.closed = False

    def __call__(self, _commands: t.Any, **_options: t.Any) -> Looks:
        self.closed = False
        self.waiting.clear()
        return self

    def add(self, name: str, _health: t.Any, _started: float, **_options: t.Any) -> None:
        assert name not in self.waiting
        self.waiting[name] = os.readlink(self.host.guest(name, "current"))

    def look(self) -> dict[str, str | None]:
        verdicts: dict[str, str | None] = {}
        waiting = tuple(self.waiting)
        for name, runner in list(self.waiting.items()):
            if runner in self.bad:
                verdicts[name] = REASON
            elif see(self.host, name).record.rejected or self.until():  # type: ignore[union-attr]
                verdicts[name] = None
        for name in verdicts:
            del self.waiting[name]
        self.seen.append((waiting, tuple(verdicts)))
        return verdicts

    def close(self) -> None:
        self.closed = True


@pytest.fixture(name="looks")
def _looks(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Looks:
    """A wait in which nobody is healthy before the test says so, and nobody sleeps."""
    looks = Looks(host, set(), lambda: True)
    monkeypatch.setattr(_guest_settle, "Waiting", looks)
    monkeypatch.setattr(_guest_settle, "ROUND", SHORT)
    return looks


def test_who_fails_early_is_back_before_others_are_decided_about(host: FakeHost, looks: Looks) -> None:
    old, new = outdated(host)
    looks.bad = {new["bad"]}
    looks.until = lambda: is_good(host, "bad", old["bad"]) and marks(host) == ["slow"]
    result = update(host)
    assert looks.seen == [
        (("bad", "slow"), ("bad",)),
        (("slow", "bad"), ("bad",)),
        (("slow",), ("slow",)),
    ]
    assert looks.closed
    bad, slow = result.results
    assert (bad["failed"], slow["failed"]) == (True, False)
    assert bad["reverted"]["healthy"] is True
    assert bad["reverted"]["to"]["runner"] == old["bad"]
    assert f"It went back to generation 1 ({old['bad']}), which is healthy." in bad["msg"]
    assert is_good(host, "slow", new["slow"])
    assert marks(host) == []


def test_a_stop_that_takes_its_time_keeps_nobody_waiting(
    host: FakeHost, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_guest_settle, "ThreadPoolExecutor", ThreadPoolExecutor)
    old, new = outdated(host, "bad", "slow", "worse")
    looks.bad = {new["bad"], new["worse"]}
    stopping, ended = threading.Event(), threading.Event()

    def stop(argv: tuple[str, ...]) -> None:
        if argv[:3] == ("systemctl", "stop", _systemd.unit("bad")) and see(host, "bad").current == new["bad"]:
            stopping.set()
            assert ended.wait(LIMIT)

    def others() -> bool:
        """Whether it is the turn of the guest that is well: once the one is back, and the other still is stopped."""
        return stopping.is_set() and is_good(host, "worse", old["worse"])

    host.before = stop
    looks.until = others
    noted: list[list[str]] = []
    work = _guest_settle.Settling._decide

    def decide(this: t.Any, verdicts: t.Mapping[str, str | None]) -> None:
        work(this, verdicts)
        if "slow" in verdicts:
            noted.append([name for name in ("bad", "slow", "worse") if see(host, name).record.judging is None])  # type: ignore[union-attr]
            ended.set()

    monkeypatch.setattr(_guest_settle.Settling, "_decide", decide)
    result = update(host, "bad", "slow", "worse")
    assert noted == [["slow", "worse"]]
    assert [each["failed"] for each in result.results] == [True, False, True]
    assert all(is_good(host, name, old[name]) for name in ("bad", "worse"))
    assert marks(host) == []


def test_nobody_sleeps_while_somebody_is_on_the_way_back(
    host: FakeHost, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on when a guest is back; a pause of its own is for when all that is left is to wait."""
    _old, new = outdated(host)
    looks.bad = {new["bad"]}
    pauses: list[float] = []
    looks.until = lambda: bool(pauses)
    monkeypatch.setattr(time, "sleep", pauses.append)
    update(host)
    assert pauses == [SHORT]
    # One look more than there are pauses and guests that came back.
    assert len(looks.seen) == 4


def test_a_way_back_that_breaks_off_is_that_guest_s_own(
    host: FakeHost, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = outdated(host)
    looks.bad = {new["bad"]}
    real = _systemd.journal

    def journal(commands: t.Any, name: str, **options: t.Any) -> str:
        def busy(argv: tuple[str, ...]) -> None:
            if argv[:2] == ("systemctl", "show"):
                host.before = lambda _argv: None
                raise CommandError("systemctl show did not end within 60 s.", argv=argv)

        text = real(commands, name, **options)
        host.before = busy
        return text

    with monkeypatch.context() as patch:
        patch.setattr(_systemd, "journal", journal)
        result = update(host)
    bad, slow = result.results
    assert f"It went back to generation 1 ({old['bad']}), which failed too: systemctl show did not end" in bad["msg"]
    assert bad["reverted"]["healthy"] is False
    assert not slow["failed"]
    assert is_good(host, "slow", new["slow"])
    # Nobody knows how far it came, so the next run sees to it.
    assert marks(host) == ["bad"]
    update(host, update="never")
    assert is_good(host, "bad", old["bad"])
    assert marks(host) == []


def test_a_way_back_that_fails_is_gone_on_by_the_next_run(
    host: FakeHost, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest is down then, and no wish but this says that it is to run."""
    old, new = outdated(host)
    looks.bad = {new["bad"]}
    real = os.rename

    def rename(source: t.Any, place: t.Any, **options: t.Any) -> None:
        if str(place) == str(host.guest("bad", "current")) and see(host, "bad").record.rejected:  # type: ignore[union-attr]
            raise OSError(28, "No space left on device", str(place))
        real(source, place, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        result = update(host)
    assert "failed too: switch to" in result.failures[0]
    assert "No space left on device" in result.failures[0]
    assert (see(host, "bad").current, see(host, "bad").unit.active, marks(host)) == (new["bad"], False, ["bad"])
    update(host, update="never")
    assert is_good(host, "bad", old["bad"])
    assert marks(host) == []


def test_systemd_is_busy_when_it_is_asked_who_is_up(host: FakeHost, looks: Looks) -> None:
    _old, new = outdated(host)
    started: list[str] = []

    def busy(argv: tuple[str, ...]) -> None:
        started.extend(argv[:2] if argv[1] == "start" else ())
        if started and argv[:2] == ("systemctl", "show"):
            host.before = lambda _argv: None
            raise CommandError("systemctl show did not end within 60 s.", argv=argv)

    host.before = busy
    assert not update(host).failures
    assert looks.seen == [(NAMES, NAMES)]
    assert all(is_good(host, name, new[name]) for name in NAMES)


def test_what_ends_the_process_is_not_taken_for_an_answer(
    host: FakeHost, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_guest_settle, "ThreadPoolExecutor", ThreadPoolExecutor)
    _old, new = outdated(host)
    looks.bad = {new["bad"]}
    looks.until = lambda: False

    def ended(*_arguments: t.Any, **_options: t.Any) -> t.NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(_systemd, "journal", ended)
    with pytest.raises(KeyboardInterrupt):
        update(host)
    assert looks.closed
    assert marks(host) == ["bad", "slow"]


def test_a_run_killed_anywhere_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count(1000)
    monkeypatch.setattr(_guest_settle, "ROUND", 0.0)

    def fresh(number: str) -> tuple[FakeHost, dict[str, str], dict[str, str]]:
        place = tmp_path / number
        place.mkdir()
        host = FakeHost(place)
        old, new = outdated(host)
        turns = deque([False, False, True])
        looks = Looks(host, {new["bad"]}, lambda: turns.popleft() if turns else True)
        monkeypatch.setattr(_guest_settle, "Waiting", looks)
        next_process()
        return host, old, new

    def next_process() -> None:
        pid = next(numbers)
        monkeypatch.setattr(os, "getpid", lambda: pid)

    whole, _old, _new = fresh("whole")
    with Killer(whole, None) as counter:
        update(whole)
    for at in range(counter.count):
        host, old, new = fresh(str(at))
        with Killer(host, at) as killer:
            update(host)
        assert killer.dead
        next_process()
        update(host, update="never")
        assert all(see(host, name).unit.active for name in NAMES), f"killed at {at}"
        update(host)
        assert is_good(host, "bad", old["bad"]), f"killed at {at}"
        assert is_good(host, "slow", new["slow"]), f"killed at {at}"
        assert marks(host) == [], f"killed at {at}"
        assert not host.temporary(), f"killed at {at}"
        assert not update(host).changed, f"killed at {at}"
