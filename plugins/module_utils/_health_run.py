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
from contextlib import closing
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

    *started* says when each was started.  *progress* is called for each guest as soon as it is decided about.  Ends in
    any case when the last `healthy_deadline` is over.  The rest is as of `Waiting`.
    """
    verdicts: dict[str, str | None] = {}
    with closing(Waiting(commands, paths=paths, note=note, clock=clock, pool=pool)) as waiting:
        for name, health in healths.items():
            waiting.add(name, health, started[name])
        while waiting.pending:
            for name, reason in waiting.look().items():
                verdicts[name] = reason
                if progress is not None:
                    progress(name, reason)
            if waiting.pending:
                sleep(ROUND)
    return {name: verdicts[name] for name in healths}


@dataclass
class _Asked:
    """When a probe is due, and its question while nobody has answered."""

    due: float = 0.0
    future: Future[Answer] | None = None


@dataclass
class _Guest:
    """One guest that is waited for, since *added*."""

    name: str
    health: Health
    judge: Judge
    added: float
    asked: dict[int, _Asked] = field(default_factory=dict)
    invocation: str = ""
    up: bool = False
    contacted: bool = False

    def __post_init__(self) -> None:
        self.asked = {number: _Asked() for number, probe in enumerate(self.health.probes) if probe.asks}


class Waiting:
    """Guests that are waited for.  More may come at any time, and one that was decided about may come again.

    *note* is called with what the operator should know besides.  Has to be used in the main thread, whose signals
    bound the time of patterns.
    """

    def __init__(
        self,
        commands: Commands,
        *,
        paths: Paths | None = None,
        note: t.Callable[[str], None] | None = None,
        clock: t.Callable[[], float] = time.monotonic,
        pool: Executor | None = None,
    ) -> None:
        self._commands = commands
        self._keys = HostKeys(paths or Paths())
        self._note = note
        self._clock = clock
        self._pool = pool or ThreadPoolExecutor(max_workers=THREADS)
        self._own = pool is None
        self._journal = Journal(commands)
        self._guests: dict[str, _Guest] = {}
        self._last = clock()
        self._noted: set[str] = set()

    def close(self) -> None:
        """Ask nobody any more.  What is still asked ends within its own timeout, and nobody waits for it."""
        if self._own:
            self._pool.shutdown(wait=False)

    @property
    def pending(self) -> bool:
        """Whether anybody is waited for."""
        return bool(self._guests)

    def add(self, name: str, health: Health, started: float, *, coming: bool = False) -> None:
        """Wait for guest *name*, too; with *coming* it is not up yet, and systemd is about to start it.

        *started* is in seconds of the clock (CLOCK_MONOTONIC): right before systemd was asked to start it.
        """
        now = self._clock()
        judge = Judge(health, started, search_within, begun=now, coming=coming)
        self._guests[name] = _Guest(name, health, judge, now)

    def look(self) -> dict[str, str | None]:
        """Have one look at all guests.  Those that are decided about by now are not waited for any more.

        None is for one that is healthy, else it is the reason.
        """
        if not self._guests:
            return {}
        self._see()
        self._ask()
        now = self._clock()
        verdicts: dict[str, str | None] = {}
        for guest in list(self._guests.values()):
            verdict = guest.judge.verdict(now)
            limit = guest.health.progress_deadline
            if verdict is None and limit and now - max(self._last, guest.added) >= limit:
                verdict = Verdict(f"no guest has become healthy for {limit} s")
            if verdict is None:
                continue
            del self._guests[guest.name]
            verdicts[guest.name] = verdict.reason
            if verdict.reason is None:
                self._last = now
            self._tell(guest)
        return verdicts

    def _tell(self, guest: _Guest) -> None:
        """Note, once, a guest that has shown another SSH host key than before."""
        if self._note is None or not guest.contacted or guest.name in self._noted:
            return
        if self._keys.changed(guest.name):
            self._noted.add(guest.name)
            self._note(
                f"guest {guest.name} has another SSH host key than in its last start; to have it fixed, give host_key"
            )

    def _see(self) -> None:
        """Tell the judges what units and journals say."""
        lines: t.Mapping[str, t.Sequence[tuple[str, str]]] = {}
        unread = None
        try:
            lines = self._journal.read(self._guests)
        except CommandError as error:
            unread = error.seen
        try:
            units = _systemd.show(self._commands)
        except CommandError:
            # Perhaps systemd is busy.  The time of those who wait runs on.
            return
        now = self._clock()
        for guest in self._guests.values():
            unit = units.get(guest.name, Unit())
            guest.up, guest.invocation = unit.active, unit.invocation
            # First, since a guest that has told why it ends has ended for that.
            if unread is not None:
                guest.judge.unread(f"the journal cannot be read: {unread}")
            else:
                # Until systemd comes to its job, a unit has the invocation of its last start.
                current = None if unit.active_state == "inactive" and unit.queued else unit.invocation
                own = [text for invocation, text in lines.get(guest.name, ()) if invocation == current]
                guest.judge.lines(own, now)
            guest.judge.unit(unit, now)

    def _ask(self) -> None:
        """Take answers, and ask what is due."""
        for guest in self._guests.values():
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
                    left = max(1, int(guest.judge.since + guest.health.healthy_deadline - now))
                    asked.future = self._question(guest, replace(probe, timeout=min(probe.timeout, left)))

    def _question(self, guest: _Guest, probe: Probe) -> Future[Answer]:
        hosts_file = None
        if probe.access is not None:
            try:
                hosts_file = self._keys.prepare(guest.name, guest.invocation, probe.access)
            except OSError as error:
                done: Future[Answer] = Future()
                done.set_result(Answer(wrong=f"{error.filename}: {error.strerror}"))
                return done
        return self._pool.submit(ask, self._commands, probe, hosts_file, guest.name)


class Journal:
    """The journals of guests, read on from where the last look ended."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._cursor: str | None = None
        self._followed: set[str] = set()

    def read(self, names: t.Iterable[str]) -> dict[str, list[tuple[str, str]]]:
        """What has come since the last time: invocation of the unit and text of each line, by the guest's name.

        Of a guest of which was not read the last time, all that there is; some of its lines may come twice.  Raises
        CommandError.
        """
        units = {_systemd.unit(name): name for name in names}
        found: dict[str, list[tuple[str, str]]] = {}
        if not units:
            return found
        new = {unit: name for unit, name in units.items() if name not in self._followed}
        if self._cursor is not None and new:
            # First, so that no line comes in between: what is read then is read on for all.
            for _cursor, name, line in self._entries(new, ["--lines", str(LINES)]):
                found.setdefault(name, []).extend(line)
        where = ["--lines", str(LINES)] if self._cursor is None else ["--after-cursor", self._cursor]
        for cursor, name, line in self._entries(units, where):
            self._cursor = cursor or self._cursor
            found.setdefault(name, []).extend(line)
        self._followed = set(units.values())
        return {name: entries for name, entries in found.items() if entries}

    def _entries(
        self, units: t.Mapping[str, str], where: t.Sequence[str]
    ) -> t.Iterator[tuple[str, str, list[tuple[str, str]]]]:
        """Cursor and guest of each entry of *units* that journalctl finds, and its line, if it has one."""
        # systemd.journal-fields(7); what these processes themselves have written, and not what systemd says of them.
        argv = ["journalctl", "--quiet", "--no-pager", "--output", "json"]
        argv += ["--output-fields", "MESSAGE,_SYSTEMD_UNIT,_SYSTEMD_INVOCATION_ID", *where]
        done = self._commands.run([*argv, *(f"_SYSTEMD_UNIT={unit}" for unit in units)], timeout=30)
        for said in done.stdout.split("\n"):
            entry = _entry(said)
            name = units.get(str(entry.get("_SYSTEMD_UNIT"))) if entry is not None else None
            if entry is None or name is None:
                continue
            text = _text(entry.get("MESSAGE"))
            line = [] if text is None else [(str(entry.get("_SYSTEMD_INVOCATION_ID")), text)]
            yield str(entry.get("__CURSOR") or ""), name, line


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
