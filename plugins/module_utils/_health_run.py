# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting until guests are healthy, all of them at once.

Private to the collection: it may change at any time.

A round is one look at all units and one at all journals.  Guests are asked in threads, so none waits for another;
everything that judges is in the thread that waits.
"""

from __future__ import annotations

import json
import re
import signal
import time
import typing as t
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from ansible_collections.microvm.fleet.plugins.module_utils import _systemd
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError
from ansible_collections.microvm.fleet.plugins.module_utils._health import (
    Answer,
    Judge,
    TooSlow,
    Verdict,
)
from ansible_collections.microvm.fleet.plugins.module_utils._health import (
    search as search_without_limit,
)
from ansible_collections.microvm.fleet.plugins.module_utils._health_probe import HostKeys, ask
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import Health, Probe
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import Unit, plain

# Seconds between two looks at units and journals.
ROUND: t.Final = 0.5
# Guests that are asked at the same time: threads that wait cost little.
THREADS: t.Final = 128
# Seconds of the processor that a pattern may take on what came since the last look.
PATTERN_TIME: t.Final = 2.0
# Lines of all journals that are read at the first look, the newest; a guest may have run for months.
LINES: t.Final = 50000


def await_healthy(
    commands: Commands,
    healths: t.Mapping[str, Health],
    *,
    started: t.Mapping[str, float],
    paths: Paths | None = None,
    progress: t.Callable[[str, str | None], None] | None = None,
    note: t.Callable[[str], None] | None = None,
    clock: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
    pool: Executor | None = None,
) -> dict[str, str | None]:
    """Wait until each guest of *healths* is healthy or will not be: None, or the reason in words.

    *started* says when each was started, in seconds of CLOCK_MONOTONIC: right before systemd was asked to.  *progress*
    is called for each guest as soon as it is decided about, *note* with what the operator should know besides.  Ends
    in any case when the last `healthy_deadline` is over.  Has to be called in the main thread, whose signals bound the
    time of patterns.
    """
    guests = {
        name: _Guest(name, health, Judge(health, started[name], search_within)) for name, health in healths.items()
    }
    wait = _Wait(commands, guests, HostKeys(paths or Paths()), clock)
    own = None if pool is not None else ThreadPoolExecutor(max_workers=THREADS)
    verdicts: dict[str, str | None] = {}
    last = clock()
    try:
        while True:
            wait.look()
            wait.ask(pool or t.cast("Executor", own))
            now = clock()
            for guest in wait.pending():
                verdict = guest.judge.verdict(now)
                limit = guest.health.progress_deadline
                if verdict is None and limit and now - last >= limit:
                    verdict = Verdict(f"no guest has become healthy for {limit} s")
                if verdict is None:
                    continue
                guest.decided = True
                verdicts[guest.name] = verdict.reason
                if verdict.reason is None:
                    last = now
                if progress is not None:
                    progress(guest.name, verdict.reason)
            if len(verdicts) == len(guests):
                break
            sleep(ROUND)
    finally:
        if own is not None:
            # What is still asked ends within its own timeout, and nobody waits for it.
            own.shutdown(wait=False)
    for name in sorted(guests) if note is not None else ():
        if guests[name].contacted and wait.keys.changed(name):
            t.cast("t.Callable[[str], None]", note)(
                f"guest {name} has another SSH host key than in its last start; to have it fixed, give host_key"
            )
    return {name: verdicts[name] for name in healths}


@dataclass
class _Asked:
    """When a probe is due, and its question while nobody has answered."""

    due: float = 0.0
    future: Future[Answer] | None = None


@dataclass
class _Guest:
    """One guest that is waited for."""

    name: str
    health: Health
    judge: Judge
    asked: dict[int, _Asked] = field(default_factory=dict)
    invocation: str = ""
    up: bool = False
    contacted: bool = False
    decided: bool = False

    def __post_init__(self) -> None:
        self.asked = {number: _Asked() for number, probe in enumerate(self.health.probes) if probe.asks}


class _Wait:
    """What is seen of guests, round by round."""

    def __init__(
        self, commands: Commands, guests: t.Mapping[str, _Guest], keys: HostKeys, clock: t.Callable[[], float]
    ) -> None:
        self.keys = keys
        self._commands = commands
        self._guests = guests
        self._clock = clock
        self._journal = Journal(commands)

    def pending(self) -> list[_Guest]:
        """Guests that are not decided about."""
        return [guest for guest in self._guests.values() if not guest.decided]

    def look(self) -> None:
        """Tell the judges what units and journals say."""
        pending = self.pending()
        lines: t.Mapping[str, t.Sequence[tuple[str, str]]] = {}
        unread = None
        try:
            lines = self._journal.read([guest.name for guest in pending])
        except CommandError as error:
            unread = error.seen
        try:
            units = _systemd.show(self._commands)
        except CommandError:
            # Perhaps systemd is busy.  The time of those who wait runs on.
            return
        now = self._clock()
        for guest in pending:
            unit = units.get(guest.name, Unit())
            guest.up, guest.invocation = unit.active, unit.invocation
            # First, since a guest that has told why it ends has ended for that.
            if unread is not None:
                guest.judge.unread(f"the journal cannot be read: {unread}")
            else:
                own = [text for invocation, text in lines.get(guest.name, ()) if invocation == unit.invocation]
                guest.judge.lines(own, now)
            guest.judge.unit(unit, now)

    def ask(self, pool: Executor) -> None:
        """Take answers, and ask what is due."""
        for guest in self.pending():
            for number, asked in guest.asked.items():
                probe = guest.health.probes[number]
                if asked.future is not None and asked.future.done():
                    answer = asked.future.result()
                    asked.future = None
                    guest.contacted = guest.contacted or (probe.kind == "ssh" and answer.wrong is None)
                    guest.judge.answer(number, answer, self._clock())
                now = self._clock()
                if asked.future is None and guest.up and now >= asked.due:
                    asked.due = now + probe.interval
                    # When all is over, no thread is to be waited for.
                    left = max(1, int(guest.judge.started + guest.health.healthy_deadline - now))
                    asked.future = self._question(pool, guest, replace(probe, timeout=min(probe.timeout, left)))

    def _question(self, pool: Executor, guest: _Guest, probe: Probe) -> Future[Answer]:
        hosts_file = None
        if probe.access is not None:
            try:
                hosts_file = self.keys.prepare(guest.name, guest.invocation, probe.access)
            except OSError as error:
                done: Future[Answer] = Future()
                done.set_result(Answer(wrong=f"{error.filename}: {error.strerror}"))
                return done
        return pool.submit(ask, self._commands, probe, hosts_file, guest.name)


class Journal:
    """The journals of guests, read on from where the last look ended."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._cursor: str | None = None

    def read(self, names: t.Iterable[str]) -> dict[str, list[tuple[str, str]]]:
        """What has come since the last time: invocation of the unit and text of each line, by the guest's name.

        Raises CommandError.
        """
        units = {_systemd.unit(name): name for name in names}
        if not units:
            return {}
        # systemd.journal-fields(7); what these processes themselves have written, and not what systemd says of them.
        argv = ["journalctl", "--quiet", "--no-pager", "--output", "json"]
        argv += ["--output-fields", "MESSAGE,_SYSTEMD_UNIT,_SYSTEMD_INVOCATION_ID"]
        argv += ["--lines", str(LINES)] if self._cursor is None else ["--after-cursor", self._cursor]
        done = self._commands.run([*argv, *(f"_SYSTEMD_UNIT={unit}" for unit in units)], timeout=30)
        found: dict[str, list[tuple[str, str]]] = {}
        for line in done.stdout.split("\n"):
            entry = _entry(line)
            if entry is None:
                continue
            self._cursor = str(entry.get("__CURSOR") or self._cursor or "") or None
            text = _text(entry.get("MESSAGE"))
            name = units.get(str(entry.get("_SYSTEMD_UNIT")))
            if name is not None and text is not None:
                found.setdefault(name, []).append((str(entry.get("_SYSTEMD_INVOCATION_ID")), text))
        return found


def _entry(line: str) -> dict[str, t.Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _text(message: t.Any) -> str | None:
    """The text of a field: journalctl gives what is not printable as a list of bytes, and what is long as null."""
    if isinstance(message, list) and all(isinstance(byte, int) for byte in message):
        message = bytes(message).decode("utf-8", "replace")
    return plain(message) if isinstance(message, str) else None


class _Alarm(Exception):
    """The time of a pattern is up."""


def search_within(pattern: re.Pattern[str], texts: t.Sequence[str]) -> str | None:
    """The `Search` of `_health` with a limit, for patterns whose time grows beyond all bounds with the text.

    Python's matcher looks after signals while it matches (SRE_CHECK_SIGNALS of _sre.c), and only a signal can end it.
    The limit is one of this process's time on the processor, so a busy host makes no pattern slow.
    """

    def over(_number: int, _frame: t.Any) -> None:
        raise _Alarm

    before = signal.signal(signal.SIGVTALRM, over)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, PATTERN_TIME)
        try:
            return search_without_limit(pattern, texts)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except _Alarm:
        raise TooSlow from None
    finally:
        signal.signal(signal.SIGVTALRM, before)
