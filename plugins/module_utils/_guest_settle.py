# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting until guests are healthy, and taking back those that are not, each as soon as that is known.

Private to the collection: it may change at any time.

One loop waits for all guests of a call.  Who is not healthy is taken back in a thread of its own, so that a stop that
takes its time keeps nobody waiting, and is waited for again in the same loop, with what it has gone back to.  What is
decided, and noted of those that are healthy, is in the main thread.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import typing as t
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from ansible_collections.microvm.fleet.plugins.module_utils import _guest_judge as judge
from ansible_collections.microvm.fleet.plugins.module_utils import _systemd
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError, FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._guest_apply import Apply, not_up, started
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import GuestPlan, Outcome
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import Await, Discard, Judged, Reject, Step
from ansible_collections.microvm.fleet.plugins.module_utils._health_run import ROUND, Waiting
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import Unit

# How much of the journal is shown of a guest that is not healthy.
JOURNAL_LINES: t.Final = 30
# Guests that are taken back at the same time.
THREADS: t.Final = 64


@dataclass
class _Case:
    """A guest that is waited for, or is taken back.  *work* carries its plan out, and has its outcome.

    *back* is the plan by which it is taken back; a guest that has been, and is waited for again, is a case *of* that.
    *broken*: its way back has not come to its end, and the mark of the guest stays for the next run.
    """

    plan: GuestPlan
    work: Apply
    of: _Case | None = None
    back: GuestPlan | None = None
    broken: bool = False
    journal: str = ""

    @property
    def outcome(self) -> Outcome:
        """What became of the plan."""
        return self.work.outcomes[self.plan.name]


class Settling:
    """Brings guests, whose steps *work* has carried out as far as they go without waiting, to a state that is good."""

    def __init__(self, work: Apply) -> None:
        self._work = work
        self._back = Apply(work.paths, work.commands, build_timeout=work.build_timeout, lock_timeout=work.lock_timeout)
        self._waiting = Waiting(work.commands, paths=work.paths, note=work.warnings.append)
        self._threads = ThreadPoolExecutor(max_workers=THREADS)
        self._cases: dict[str, _Case] = {}
        self._returning: dict[Future[None], _Case] = {}

    def run(self, plans: t.Sequence[GuestPlan], known: t.Mapping[str, str]) -> None:
        """Wait for those of *plans* that are to be waited for; *known* says of others why they are not healthy.

        The outcome of a guest that is not healthy is an error, whatever it went back to.
        """
        with contextlib.closing(self._waiting), self._threads:
            for plan in plans:
                if plan.name in known:
                    self._take_back(_Case(plan, self._work), known[plan.name])
            awaited = [
                plan
                for plan in plans
                if plan.name not in known
                and self._work.outcomes[plan.name].error is None
                and any(isinstance(step, Await) for step in plan.steps)
            ]
            self._wait_for([_Case(plan, self._work) for plan in awaited])
            while self._cases or self._returning:
                verdicts = self._waiting.look()
                self._decide(verdicts)
                back = [future for future in self._returning if future.done()]
                self._wait_for([case for case in map(self._arrived, back) if case is not None])
                if not verdicts and not back:
                    self._pause()
        self._work.warnings += self._back.warnings

    def _pause(self) -> None:
        """Until the next look; shorter when somebody is back before."""
        if self._returning:
            wait(self._returning, timeout=ROUND, return_when=FIRST_COMPLETED)
        else:
            time.sleep(ROUND)

    def _wait_for(self, cases: t.Sequence[_Case]) -> None:
        """Wait for the health of guests, and decide about those for which there is nothing to wait for."""
        if not cases:
            return
        now = time.monotonic()
        units: t.Mapping[str, Unit] | None = None
        # Perhaps systemd is busy; then what ails them is found while they are waited for.
        with contextlib.suppress(CommandError):
            units = _systemd.show(self._work.commands)
        verdicts: dict[str, str | None] = {}
        for case in cases:
            name = case.plan.name
            self._cases[name] = case
            unit = units.get(name, Unit()) if units is not None else None
            if name in case.work.not_live:
                verdicts[name] = case.work.not_live[name]
            elif unit is not None and started(unit, now) is False:
                verdicts[name] = not_up(unit)
            else:
                coming = unit is not None and unit.waiting
                self._waiting.add(name, case.plan.wish.health, case.work.started.get(name, now), coming=coming)
        self._decide(verdicts)

    def _decide(self, verdicts: t.Mapping[str, str | None]) -> None:
        """Note who is healthy, and take the others back."""
        healthy = []
        for name, reason in verdicts.items():
            case = self._cases.pop(name)
            if reason is None:
                healthy.append(case)
            else:
                self._take_back(case, reason)
        for case in healthy:
            case.outcome.done += [step for step in case.plan.steps if isinstance(step, Await)]
        for work in (self._work, self._back):
            plans = [case.plan for case in healthy if case.work is work]
            work.together([(plan, _after(plan)) for plan in plans])
        for case in healthy:
            if case.of is not None:
                self._finish(case.of)
            else:
                self._work.unmark([case.plan])

    def _take_back(self, case: _Case, reason: str) -> None:
        case.outcome.reason = reason
        self._returning[self._threads.submit(self._go_back, case)] = case

    def _go_back(self, case: _Case) -> None:
        """Carry out the way back of one guest, where it has one, as far as that goes without waiting; in a thread."""
        plan, outcome, revert = case.plan, case.outcome, case.plan.revert
        commands = self._work.commands
        case.journal = _systemd.journal(commands, plan.name, lines=JOURNAL_LINES)
        if revert is None or not os.path.lexists(self._work.paths.store(revert.back.runner)):
            return
        outcome.reverted = revert
        steps = tuple(
            replace(step, reason=outcome.reason or "") if isinstance(step, Reject) else step for step in revert.steps
        )
        undone = self._back.outcomes[plan.name] = Outcome()
        try:
            guest = replace(plan.guest, unit=_systemd.show(commands).get(plan.name, Unit()))
            case.back = replace(plan, steps=steps, guest=guest, revert=None)
            self._back.carry_out([case.back])
        except FleetError as error:
            undone.error = undone.error or error
        case.broken = undone.error is not None

    def _arrived(self, future: Future[None]) -> _Case | None:
        """What is to be waited for next of a guest that has gone back, None when it is at its end."""
        case = self._returning.pop(future)
        future.result()
        back = case.back
        if (
            back is not None
            and self._back.outcomes[back.name].error is None
            and any(isinstance(step, Await) for step in back.steps)
        ):
            return _Case(back, self._back, of=case)
        self._finish(case)
        return None

    def _finish(self, case: _Case) -> None:
        """Say of a guest that is not healthy what was done about it, and how that ended."""
        plan, outcome = case.plan, case.outcome
        undone = Outcome() if outcome.reverted is None else self._back.outcomes[plan.name]
        outcome.undone, outcome.killed = undone.done, outcome.killed or undone.killed
        outcome.restored = outcome.reverted is not None and undone.error is None
        outcome.error = _unhealthy(plan, outcome, undone, case.journal)
        if case.of is not None:
            self._finish(case.of)
        elif not case.broken:
            self._work.unmark([plan])


def _after(plan: GuestPlan) -> list[Step]:
    """The steps for a guest that is healthy, without what comes last of all."""
    rest = itertools.dropwhile(lambda step: not isinstance(step, Await), plan.steps)
    return [step for step in rest if not isinstance(step, (Await, Discard))]


def _unhealthy(plan: GuestPlan, outcome: Outcome, undone: Outcome, journal: str) -> FleetError:
    """What is said of a guest that is not healthy, and of what was done about that."""
    revert = outcome.reverted
    if revert is None:
        runner = next((step.runner for step in plan.steps if isinstance(step, Judged)), plan.guest.current)
        origin = judge.place_of(plan.guest, str(runner), plan.steps).words()
        seen = f"{origin} is not healthy: {outcome.reason}\nThere is nothing that it could go back to, so it stays."
    else:
        origin, back = revert.origin.words(), revert.back.words()
        seen = f"{origin} is not healthy: {outcome.reason}\nIt went back to {back}, which "
        if undone.error is not None:
            seen += f"failed too: {undone.error.seen}"
        elif any(isinstance(step, Await) for step in undone.done):
            seen += "is healthy."
        else:
            seen += "does not run."
    return FleetError(
        f"{seen}\nIts journal ended with:\n{journal or '(nothing)'}", subject=plan.wish.subject, field="health"
    )
