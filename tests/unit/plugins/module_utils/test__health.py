# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The judge, by what it is told and when."""

from __future__ import annotations

import re
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _health
from ansible_collections.microvm.fleet.plugins.module_utils._health import Answer, Judge, TooSlow, Verdict
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import Health, Probe
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import Unit

STARTED = 1000.0
UP = Unit("active", "running", "success", 0, int((STARTED + 1) * 1e6), "aa")
TCP = Probe("tcp", address="10.1.0.11", port=80)
HTTP = Probe("http", address="10.1.0.11", port=80, body="ok")
REFUSED = Answer(wrong="connection refused")
FINE = Answer()

# What happens, and when: seconds since the start, and a unit, an answer of the first probe, or lines of the journal.
Event: t.TypeAlias = "tuple[float, Unit | Answer | tuple[int, Answer] | list[str]]"


def judged(health: Health, *events: Event, until: float = 1000.0) -> tuple[float, str | None] | None:
    """When a guest was judged, in seconds since its start, and the reason; None when it was not until *until*.

    It is looked at every half second, and its unit then is the one of the last event that had one.
    """
    judge = Judge(health, STARTED)
    waiting = list(events)
    unit = Unit("activating", "start")
    passed = 0.0
    while passed <= until:
        now = STARTED + passed
        lines: list[str] = []
        while waiting and waiting[0][0] <= passed:
            what = waiting.pop(0)[1]
            if isinstance(what, Unit):
                unit = what
            elif isinstance(what, Answer):
                judge.answer(0, what, now)
            elif isinstance(what, tuple):
                judge.answer(*what, now)
            else:
                lines += what
        judge.lines(lines, now)
        judge.unit(unit, now)
        verdict = judge.verdict(now)
        if verdict is not None:
            return passed, verdict.reason
        passed += 0.5
    return None


def after(unit: Unit, state: str, sub: str = "", result: str = "success", **changes: t.Any) -> Unit:
    return replace(unit, active_state=state, sub_state=sub or state, result=result, **changes)


@pytest.mark.parametrize(
    ("health", "events", "expected"),
    [
        # The unit alone.
        (Health(), [(1.0, UP)], (11.0, None)),
        (Health(min_healthy_time=0), [(1.0, UP)], (1.0, None)),
        (Health(healthy_deadline=20), [], (20.0, "not within 20 s: its unit is activating")),
        # One that is asked.
        (Health((TCP,)), [(1.0, UP), (2.0, FINE)], (12.0, None)),
        (Health((TCP,)), [(1.0, UP), (2.0, REFUSED), (7.0, FINE)], (17.0, None)),
        (Health((TCP,)), [(1.0, UP), (2.0, FINE), (7.0, REFUSED), (12.0, FINE)], (22.0, None)),
        (Health((replace(TCP, retries=1),)), [(1.0, UP), (2.0, FINE), (7.0, REFUSED), (11.0, FINE)], (12.0, None)),
        (
            Health((replace(TCP, retries=1),)),
            [(1.0, UP), (2.0, FINE), (4.0, REFUSED), (6.0, REFUSED), (8.0, FINE)],
            (18.0, None),
        ),
        # What has never passed is not forgiven.
        (Health((replace(TCP, retries=5),)), [(1.0, UP), (2.0, REFUSED), (7.0, FINE)], (17.0, None)),
        (
            Health((TCP,)),
            [(1.0, UP), (2.0, REFUSED)],
            (300.0, "not within 300 s: tcp 10.1.0.11:80: connection refused"),
        ),
        (
            Health((replace(TCP, deadline=20),)),
            [(1.0, UP), (2.0, REFUSED)],
            (20.0, "not within 20 s: tcp 10.1.0.11:80: connection refused"),
        ),
        (
            Health((replace(TCP, deadline=20),)),
            [(1.0, UP)],
            (20.0, "not within 20 s: tcp 10.1.0.11:80: it was not answered yet"),
        ),
        # It passed in time, and has until the guest's own deadline then.
        (
            Health((replace(TCP, deadline=20),)),
            [(1.0, UP), (2.0, FINE), (4.0, REFUSED)],
            (300.0, "not within 300 s: tcp 10.1.0.11:80: connection refused"),
        ),
        (
            Health((TCP,), healthy_deadline=20),
            [(1.0, UP), *((float(second), (REFUSED, FINE)[second % 2]) for second in range(2, 20)), (19.5, FINE)],
            (20.0, "not within 20 s: not for 10 s in a row"),
        ),
        # All of them, not one.
        (
            Health((TCP, replace(TCP, port=81))),
            [(1.0, UP), (2.0, (0, FINE)), (5.0, (1, REFUSED)), (8.0, (1, FINE))],
            (18.0, None),
        ),
        (
            Health((TCP, replace(TCP, port=81))),
            [(1.0, UP), (2.0, (0, FINE)), (5.0, (1, REFUSED))],
            (300.0, "not within 300 s: tcp 10.1.0.11:81: connection refused"),
        ),
        # Pages.
        (Health((HTTP,)), [(1.0, UP), (2.0, Answer(page="it is ok"))], (12.0, None)),
        (Health((replace(HTTP, body=None),)), [(1.0, UP), (2.0, Answer(page="anything"))], (12.0, None)),
        (
            Health((HTTP,), healthy_deadline=20),
            [(1.0, UP), (2.0, Answer(page="down"))],
            (20.0, "not within 20 s: http://10.1.0.11:80/: the page does not match 'ok'"),
        ),
        # The unit is active when it has notified.
        (Health((Probe("notify"),)), [(7.0, UP)], (17.0, None)),
        (Health((Probe("notify"),), healthy_deadline=20), [], (20.0, "not within 20 s: its unit is activating")),
    ],
)
def test_time(health: Health, events: list[Event], expected: tuple[float, str | None]) -> None:
    assert judged(health, *events) == expected


ENDED = "it has ended and is started again"


@pytest.mark.parametrize(
    ("unit", "reason"),
    [
        (after(UP, "failed", result="exit-code"), "its unit has failed (exit-code)"),
        (after(UP, "inactive", "dead"), "it has ended: its unit is inactive (success)"),
        (after(UP, "deactivating", "stop-sigterm"), "it has ended: its unit is deactivating (success)"),
        (after(UP, "activating", "auto-restart", "exit-code"), f"{ENDED} (exit-code)"),
        # systemd 254 and later.
        (after(UP, "activating", "auto-restart-queued", "exit-code"), f"{ENDED} (exit-code)"),
        (replace(UP, invocation="bb"), ENDED),
        (after(UP, "activating", "start", invocation="bb"), ENDED),
        (replace(UP, restarts=1), f"{ENDED} (success)"),
        # systemd has forgotten the unit.
        (Unit(), "it has ended: its unit is inactive (success)"),
    ],
)
def test_a_guest_that_does_not_stay_up(unit: Unit, reason: str) -> None:
    assert judged(Health((TCP,)), (1.0, UP), (2.0, FINE), (5.0, unit)) == (5.0, reason)


@pytest.mark.parametrize(
    ("unit", "reason"),
    [
        (Unit("failed", "failed", "timeout"), "its unit has failed (timeout)"),
        (Unit("activating", "auto-restart", "exit-code", 1), f"{ENDED} (exit-code)"),
        # It was started again before anybody looked.
        (replace(UP, restarts=1), f"{ENDED} (success)"),
    ],
)
def test_a_guest_that_never_was_up(unit: Unit, reason: str) -> None:
    assert judged(Health(), (0.0, unit)) == (0.0, reason)


def test_restarts_of_long_ago() -> None:
    unit = replace(UP, active_since=int((STARTED - 500) * 1e6), restarts=2)
    assert judged(Health(), (0.0, unit)) == (10.0, None)
    assert judged(Health(), (0.0, unit), (5.0, replace(unit, restarts=3))) == (5.0, f"{ENDED} (success)")


def test_a_start_that_waits_is_no_end() -> None:
    """As while an interface is made again and again, before its guest was ever up."""
    assert judged(Health(), (0.0, Unit()), (3.0, Unit("activating", "start")), (6.0, UP)) == (16.0, None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('You are in emergency mode. After logging in, type "journalctl -xb" to view', "emergency shell"),
        ("You are in rescue mode. After logging in, type", "emergency shell"),
        ("[FAILED] Failed to mount /data.", "was not mounted"),
        ("[FAILED] Failed to mount data.mount - /data.", "was not mounted"),
        ("[FAILED] Failed to mount The data of all.", "was not mounted"),
        ("systemd[1]: Failed to mount data.mount - /data.", "was not mounted"),
        ("[DEPEND] Dependency failed for Local File Systems.", "is missing"),
        ("[DEPEND] Dependency failed for local-fs.target - Local File Systems.", "is missing"),
        ("local-fs.target: Job local-fs.target/start failed with result 'dependency'.", "is missing"),
        ("[    2.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100", "kernel of the guest"),
        ("systemd[1]: Freezing execution.", "systemd of the guest has crashed"),
        ("An error occurred in stage 1 of the boot process, which must mount the", "root filesystem"),
        ("Entering emergency mode. Exit the shell to continue.", "of its initrd"),
    ],
)
@pytest.mark.parametrize("probes", [(), (TCP,)])
def test_emergencies(line: str, words: str, probes: tuple[Probe, ...]) -> None:
    reason = judged(Health(probes), (1.0, UP), (3.0, ["Starting", line, "Failed to mount /later"]))
    assert reason is not None
    assert reason[0] == 3.0
    assert words in str(reason[1])
    assert str(reason[1]).endswith(f"; its console says: {line.rstrip('.')}")


@pytest.mark.parametrize(
    "line",
    [
        "[  OK  ] Mounted /data.",
        "[  OK  ] Stopped target Emergency Mode.",
        "Mounting /data...",
        "podman: Failed to mount overlay, trying again",
        "[DEPEND] Dependency failed for Network.",
        "kernel: panic=-1",
    ],
)
def test_no_emergency(line: str) -> None:
    assert _health.emergency([line]) is None


def test_every_emergency_has_its_words() -> None:
    assert all(re.compile(pattern).groups == 0 for pattern, _words in _health.EMERGENCIES)


def test_why_it_ended_is_said_rather_than_that_it_did() -> None:
    panic = "Kernel panic - not syncing: VFS"
    ends = after(UP, "activating", "auto-restart")
    assert "panicked" in str(judged(Health(), (1.0, UP), (3.0, [panic]), (3.0, ends)))


JOURNAL = Probe("journal", pattern="is up, boot [0-9a-f]+")


@pytest.mark.parametrize(
    ("probe", "events", "expected"),
    [
        (JOURNAL, [(1.0, UP), (5.0, ["guest: web1 1 is up, boot 12"])], (15.0, None)),
        # Before the unit was seen to be active.
        (JOURNAL, [(0.0, ["web1 is up, boot 12"]), (1.0, UP)], (11.0, None)),
        (
            replace(JOURNAL, deadline=20),
            [(1.0, UP), (5.0, ["is up"])],
            (20.0, f"not within 20 s: journal with {JOURNAL.pattern!r}: no line matches yet"),
        ),
        (Probe("journal", pattern="oops", absent=True), [(1.0, UP), (5.0, ["fine"])], (11.0, None)),
        (
            Probe("journal", pattern="oops", absent=True),
            [(1.0, UP), (5.0, ["fine", "[1.2] oops: 0002 ", "fine"])],
            (5.0, "journal without 'oops': there is '[1.2] oops: 0002'"),
        ),
    ],
)
def test_journal(probe: Probe, events: list[Event], expected: tuple[float, str | None]) -> None:
    assert judged(Health((probe,)), *events) == expected


@pytest.mark.parametrize("absent", [False, True])
def test_a_journal_that_cannot_be_read(absent: bool) -> None:
    judge = Judge(Health((Probe("journal", pattern="x", absent=absent),), healthy_deadline=20), STARTED)
    judge.unit(UP, STARTED)
    judge.unread("the journal cannot be read: no such program")
    for second in range(20):
        assert judge.verdict(STARTED + second) is None
    reason = judge.verdict(STARTED + 20)
    assert "the journal cannot be read: no such program" in str(reason)
    found = Judge(Health((Probe("journal", pattern="x"),)), STARTED)
    found.unit(UP, STARTED)
    found.lines(["x"], STARTED)
    found.unread("later")
    assert found.verdict(STARTED + 10) == Verdict()


@pytest.mark.parametrize("probe", [JOURNAL, HTTP])
def test_a_pattern_that_takes_too_long(probe: Probe) -> None:
    def search(_pattern: re.Pattern[str], _texts: t.Sequence[str]) -> str | None:
        raise TooSlow

    judge = Judge(Health((probe,)), STARTED, search)
    judge.unit(UP, STARTED)
    judge.lines(["x"], STARTED)
    if probe.asks:
        judge.answer(0, Answer(page="x"), STARTED)
    verdict = judge.verdict(STARTED)
    assert verdict is not None
    assert f"the pattern {probe.body or probe.pattern!r} takes too long" in str(verdict.reason)


@pytest.mark.parametrize("coming", [Unit(queued=True), Unit("activating", "start-pre")])
def test_a_start_that_nothing_came_of(coming: Unit) -> None:
    """A dependency has failed, or a condition does not hold."""
    reason = "it has not started: its unit is inactive (success)"
    assert judged(Health(), (0.0, coming), (3.0, Unit())) == (3.0, reason)
    judge = Judge(Health(), STARTED, coming=True)
    judge.unit(Unit(), STARTED)
    assert judge.verdict(STARTED) == Verdict(reason)


def test_an_end_before_it_was_seen_to_run() -> None:
    ending = Unit("deactivating", "stop-sigterm", result="exit-code")
    assert judged(Health(), (0.0, Unit(queued=True)), (3.0, ending)) == (
        3.0,
        "it has ended: its unit is deactivating (exit-code)",
    )
    # That of the last start, before systemd was seen to come to this one.
    before = Judge(Health(), STARTED)
    before.unit(ending, STARTED)
    assert before.verdict(STARTED) is None


def test_nobody_loses_the_time_in_which_nobody_looked() -> None:
    """Not that of the guest, and not that of a probe; what happened in it counts."""
    probe = Probe("tcp", port=80, deadline=30)
    judge = Judge(Health((probe,), healthy_deadline=60), STARTED, begun=STARTED + 500)
    judge.unit(UP, STARTED + 500)
    judge.answer(0, Answer(wrong="refused"), STARTED + 500)
    assert judge.verdict(STARTED + 529) is None
    verdict = judge.verdict(STARTED + 530)
    assert verdict is not None
    assert str(verdict.reason).startswith("not within 30 s: tcp")
    crashed = Judge(Health(), STARTED, begun=STARTED + 500)
    crashed.unit(replace(UP, restarts=1, active_since=int((STARTED + 400) * 1e6)), STARTED + 500)
    verdict = crashed.verdict(STARTED + 500)
    assert verdict is not None
    assert "has ended and is started again" in str(verdict.reason)


def test_the_first_reason_counts() -> None:
    judge = Judge(Health(), STARTED)
    judge.fail("no guest has become healthy for 5 s")
    judge.fail("something else")
    assert judge.verdict(STARTED) == Verdict("no guest has become healthy for 5 s")


def test_search() -> None:
    assert _health.search(re.compile("b"), ["a", "ab", "b"]) == "ab"
    assert _health.search(re.compile("c"), ["a", "ab", "b"]) is None
