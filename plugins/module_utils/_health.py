# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a guest is healthy, from what was seen of it and when: no I/O, no clock.

Private to the collection: it may change at any time.

A guest is healthy when its unit has stayed active in one start, and all its probes pass, for `min_healthy_time` in a
row.  It has failed when it never can be (its unit has ended or was started again, its console tells of an emergency,
a pattern is there that must not be) or when its time is up.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import Health, Probe
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import Unit

# What a guest says on its console when it has not come up as it should, and what that means.
EMERGENCIES: t.Final[t.Sequence[tuple[str, str]]] = (
    # systemd: src/sulogin-shell/sulogin-shell.c.
    (r"You are in (?:emergency|rescue) mode", "the guest is in an emergency shell"),
    # systemd: src/core/mount.c, the words of a mount unit that has failed.
    (
        r"\[FAILED\] Failed to mount |Failed to mount (?:\S+\.mount - )?/",
        "a filesystem of the guest was not mounted",
    ),
    # systemd: src/core/job.c, on the console and in the journal; units/local-fs.target has OnFailure=emergency.target.
    (r"Dependency failed for (?:Local File Systems|local-fs\.target)", "a filesystem of the guest is missing"),
    (r"Job local-fs\.target/start failed", "a filesystem of the guest is missing"),
    # systemd: src/core/crash-handler.c.
    (r"systemd\[1\]: Freezing execution", "systemd of the guest has crashed"),
    # Linux: kernel/panic.c.
    (r"Kernel panic - not syncing", "the kernel of the guest has panicked"),
    # NixOS: nixos/modules/system/boot/stage-1-init.sh.
    (r"An error occurred in stage 1 of the boot process", "the guest has not found its root filesystem"),
    # dracut's and systemd's initrd: modules.d/98dracut-systemd/emergency.service, units/initrd-emergency.
    (r"Entering emergency mode\. Exit the shell to continue", "the guest is in the emergency shell of its initrd"),
)
_EMERGENCY: t.Final = re.compile("|".join(f"({pattern})" for pattern, _words in EMERGENCIES))
# What of a line goes into a reason.
QUOTED: t.Final = 200

# Gives the first of some texts that a pattern is found in, or None.  Raises TooSlow.
Search = t.Callable[["re.Pattern[str]", t.Sequence[str]], t.Optional[str]]


class TooSlow(Exception):
    """A pattern took too long."""


@dataclass(frozen=True)
class Answer:
    """What a probe found: nothing wrong, or *wrong*.  A *page* is still to be compared with the probe's pattern."""

    wrong: str | None = None
    page: str | None = None


@dataclass(frozen=True)
class Verdict:
    """Healthy without a *reason*, else failed."""

    reason: str | None = None


@dataclass
class _State:
    """What is known of one probe.  *since* is when it began to pass, None while it does not."""

    probe: Probe
    since: float | None = None
    failures: int = 0
    ever: bool = False
    wrong: str = "it was not answered yet"


def search(pattern: re.Pattern[str], texts: t.Sequence[str]) -> str | None:
    """The `Search` without a limit."""
    return next((text for text in texts if pattern.search(text)), None)


def emergency(lines: t.Iterable[str]) -> str | None:
    """What the first line that tells of an emergency means, with the line; None when there is none."""
    for line in lines:
        match = _EMERGENCY.search(line)
        if match is not None:
            _pattern, words = EMERGENCIES[(match.lastindex or 1) - 1]
            return f"{words}; its console says: {line.strip()[:QUOTED].rstrip('.')}"
    return None


@dataclass
class Judge:
    """Judges one guest that was started at *started*; all times are of one clock, in seconds.

    Whoever has it tells it what is seen, in the order of time, and asks for its `verdict`.  Who looks only since
    *begun*, for there was something else to do, gives the guest its time from then on.  *coming*: systemd was seen to
    be about to start it.
    """

    health: Health
    started: float
    search: Search = search
    begun: float = float("-inf")
    coming: bool = False
    _states: list[_State] = field(init=False)
    _failed: str | None = field(init=False, default=None)
    _up: float | None = field(init=False, default=None)
    _unit: Unit = field(init=False, default_factory=Unit)
    _invocation: str | None = field(init=False, default=None)
    _restarts: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._states = [_State(probe) for probe in self.health.probes]

    @property
    def since(self) -> float:
        """When its time began."""
        return max(self.started, self.begun)

    def unit(self, unit: Unit, now: float) -> None:
        """The guest's unit as it is."""
        self._unit = unit
        again = self._invocation is not None and unit.invocation not in ("", self._invocation)
        if self._restarts is None:
            # A start by hand begins to count anew (service_start of systemd), so these restarts came after it.
            self._restarts = 0 if unit.active_since / 1e6 > self.started else unit.restarts
        if unit.active_state == "failed":
            self._fail(f"its unit has failed ({unit.result})")
        elif again or unit.sub_state.startswith("auto-restart") or unit.restarts > self._restarts:
            self._fail("it has ended and is started again" + (f" ({unit.result})" if not again else ""))
        elif unit.active_state in ("active", "reloading"):
            if unit.invocation:
                self._invocation = unit.invocation
            if self._up is None:
                self._up = now
                for state in self._states:
                    if state.probe.kind == "notify":
                        # The unit is active when the guest has said that it is ready, and not before.
                        self._passes(state, now)
        elif self._up is not None or (self.coming and unit.active_state == "deactivating"):
            self._fail(f"it has ended: its unit is {unit.active_state} ({unit.result})")
        elif unit.waiting:
            self.coming = True
        elif self.coming:
            # Its job has ended: a condition or another unit has kept it from starting.
            self._fail(f"it has not started: its unit is {unit.active_state} ({unit.result})")

    def answer(self, number: int, answer: Answer, now: float) -> None:
        """What probe *number* of the health found."""
        state = self._states[number]
        wrong = answer.wrong
        if wrong is None and answer.page is not None and state.probe.body is not None:
            found = self._search(state.probe.body, (answer.page,), state.probe)
            wrong = None if found is not None else f"the page does not match {state.probe.body!r}"
        if wrong is None:
            self._passes(state, now)
            return
        state.wrong = wrong
        state.failures += 1
        if state.failures > state.probe.retries or not state.ever:
            state.since = None

    def lines(self, lines: t.Sequence[str], now: float) -> None:
        """Further lines of the guest's journal, of the start that is judged, without what colours them."""
        reason = emergency(lines)
        if reason is not None:
            self._fail(reason)
        for state in self._states:
            probe = state.probe
            if probe.kind != "journal" or (state.ever and not probe.absent):
                continue
            found = self._search(probe.pattern, lines, probe) if lines else None
            if probe.absent and found is not None:
                self._fail(f"{probe.words()}: there is {found.strip()[:QUOTED]!r}")
            elif probe.absent or found is not None:
                self._passes(state, now)
            else:
                state.wrong = "no line matches yet"

    def unread(self, wrong: str) -> None:
        """The journal could not be read, and why."""
        for state in self._states:
            if state.probe.kind == "journal" and not (state.ever and not state.probe.absent):
                state.since, state.wrong = None, wrong

    def fail(self, reason: str) -> None:
        """What ends the wait from outside."""
        self._fail(reason)

    def verdict(self, now: float) -> Verdict | None:
        """The verdict, None while there is none yet."""
        if self._failed is not None:
            return Verdict(self._failed)
        since = self._since()
        if since is not None and now - since >= self.health.min_healthy_time:
            return Verdict()
        waited = now - self.since
        if waited >= self.health.healthy_deadline:
            return Verdict(f"not within {self.health.healthy_deadline} s: {self._missing()}")
        for state in self._states:
            if not state.ever and waited >= state.probe.deadline:
                return Verdict(f"not within {state.probe.deadline} s: {state.probe.words()}: {state.wrong}")
        return None

    def _since(self) -> float | None:
        """When everything began to be well, None while something is not."""
        if self._up is None:
            return None
        since = self._up
        for state in self._states:
            if state.since is None:
                return None
            since = max(since, state.since)
        return since

    def _missing(self) -> str:
        """What is not well when the time is up."""
        if self._up is None:
            return f"its unit is {self._unit.active_state}"
        wrong = [f"{state.probe.words()}: {state.wrong}" for state in self._states if state.since is None]
        return "; ".join(wrong) or f"not for {self.health.min_healthy_time} s in a row"

    def _passes(self, state: _State, now: float) -> None:
        state.failures = 0
        state.ever = True
        if state.since is None:
            state.since = now

    def _search(self, pattern: str, texts: t.Sequence[str], probe: Probe) -> str | None:
        try:
            return self.search(re.compile(pattern), texts)
        except TooSlow:
            self._fail(f"{probe.words()}: the pattern {pattern!r} takes too long, so make it simpler")
            return None

    def _fail(self, reason: str) -> None:
        if self._failed is None:
            self._failed = reason
