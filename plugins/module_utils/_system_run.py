# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's own system converged: evaluate, observe, plan, lock, observe and plan again, apply.  What the module calls.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import signal
import time
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _nix
from ansible_collections.microvm.fleet.plugins.module_utils import _system_plan as planner
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy, FleetError, explaining
from ansible_collections.microvm.fleet.plugins.module_utils._nixos import is_nixos
from ansible_collections.microvm.fleet.plugins.module_utils._system_apply import Apply
from ansible_collections.microvm.fleet.plugins.module_utils._system_observe import (
    Observed,
    Pending,
    SystemPaths,
    facts,
    observe,
    seconds_left,
)
from ansible_collections.microvm.fleet.plugins.module_utils._system_plan import Plan, Wished
from ansible_collections.microvm.fleet.plugins.module_utils._system_source import difference, evaluate
from ansible_collections.microvm.fleet.plugins.module_utils._system_wish import Limits, SystemWish

# Seconds between two looks at an activation that somebody else has begun.
_LOOK: t.Final = 0.5


@dataclass
class Result:
    """What a run did, or would do."""

    changed: bool
    actions: list[str]
    before: dict[str, t.Any]
    after: dict[str, t.Any]
    warnings: list[str] = field(default_factory=list)
    closures: str = ""
    # What the action plugin needs to follow an activation.
    confirm: dict[str, t.Any] | None = None

    def values(self) -> dict[str, t.Any]:
        """What the module returns, the diff included."""
        diff: list[dict[str, t.Any]] = [{"before": self.before, "after": self.after}]
        if self.closures:
            diff.append({"prepared": self.closures})
        answer: dict[str, t.Any] = {
            "changed": self.changed,
            "actions": self.actions,
            "before": self.before,
            "after": self.after,
            "reboot_needed": self.after["reboot_needed"],
            "reverted": self.before["reverted"],
            "diff": diff,
        }
        if self.warnings:
            answer["warnings"] = self.warnings
        if self.confirm is not None:
            answer["confirm"] = self.confirm
        return answer


@explaining()
def converge(
    wish: SystemWish,
    *,
    paths: SystemPaths,
    commands: Commands,
    limits: Limits,
    token: str,
    check: bool,
    diff: bool,
) -> Result:
    """Bring the host's system to what is wished, or (with *check*) say what would be done.

    With a ``confirm_timeout`` the result's ``confirm`` says how the activation that was begun is followed; *token* is
    its name.  Raises FleetError for all that cannot be done, after the host was put back to what it had.
    """
    _require_nixos(paths, wish.subject)
    wished = evaluate(paths, commands, wish, timeout=limits.evaluate, keep=not check)
    if check:
        plan = _plan(wish, wished, paths, commands)
        return _planned(plan, commands, diff=diff)
    _outlive_the_session()
    with _files.lock(paths.lock, what=wish.subject, timeout=limits.lock):
        plan = _plan_in_time(wish, wished, paths, commands, limits)
        work = Apply(paths, commands, limits, subject=wish.subject, boot_id=plan.observed.boot_id)
        if not plan.changed:
            work.tidy(plan.observed)
            return _planned(plan, commands, diff=False)
        work.root(paths.next_root, wished.path)
        done = [step for step in plan.steps if isinstance(step, planner.Build)]
        if done:
            work.build(wished)
            # A system that is there says more of itself than its path.
            plan = _plan(wish, wished, paths, commands)
            plan = replace(plan, steps=(*done, *plan.steps))
        result = _planned(plan, commands, diff=diff)
        pending = _apply(work, plan, token)
        result.warnings = work.warnings
        if pending is not None:
            result.confirm = {
                "token": pending.token,
                "seconds": seconds_left(pending),
                "goes_back_at": pending.goes_back_at,
                "system": pending.new,
                "previous": pending.old,
                "actions": _actions_until_confirmed(plan),
            }
            return result
        after = observe(paths, commands)
        work.tidy(after)
        result.after = replace(plan, observed=observe(paths, commands), steps=()).after
    return result


def _require_nixos(paths: SystemPaths, subject: str) -> None:
    if not is_nixos(paths.root):
        raise FleetError(
            "the host does not run NixOS: /etc/os-release has another ID.",
            subject=subject,
            hint="Use this module on NixOS hosts only.",
        )


def _outlive_the_session() -> None:
    """Go on when the terminal of this process is gone: what was begun is to be brought to its end, or back."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _plan(wish: SystemWish, wished: Wished, paths: SystemPaths, commands: Commands) -> Plan:
    valid = not _nix.invalid(commands, [wished.path])
    wished = replace(wished, facts=facts(paths, wished.path) if valid else None)
    return planner.make(wish, wished, observe(paths, commands))


def _plan_in_time(wish: SystemWish, wished: Wished, paths: SystemPaths, commands: Commands, limits: Limits) -> Plan:
    """The plan, as soon as nothing else is at work.  Raises Busy when that takes too long."""
    deadline = time.monotonic() + limits.lock
    while True:
        try:
            return _plan(wish, wished, paths, commands)
        except Busy:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_LOOK)


def _planned(plan: Plan, commands: Commands, *, diff: bool) -> Result:
    closures = ""
    old, new = plan.observed.running, plan.wished
    if diff and old is not None and new.facts is not None and old != new.path:
        closures = difference(commands, old, new.path)
    return Result(changed=plan.changed, actions=plan.actions, before=plan.before, after=plan.after, closures=closures)


def _actions_until_confirmed(plan: Plan) -> list[str]:
    """What is done when the connection is to be opened anew, in words."""
    steps = list(plan.steps)
    return [
        step.words() for step in steps[: next(n for n, step in enumerate(steps) if isinstance(step, planner.Confirm))]
    ]


def _apply(work: Apply, plan: Plan, token: str) -> Pending | None:
    """Carry out *plan*, up to what waits for a new connection: that is returned."""
    observed, wish = plan.observed, plan.wish
    for step in plan.steps:
        if isinstance(step, planner.SetProfile):
            work.set_profile(step.path)
        elif isinstance(step, planner.InstallBoot):
            work.activate(step.path, "boot", before=observed)
        elif isinstance(step, planner.Arm):
            pending = work.arm(step.old, plan.wished.path, mode=wish.mode, timeout=step.timeout, token=token)
            work.launch(plan.wished.path)
            return pending
        elif isinstance(step, planner.Activate):
            work.activate(step.path, step.verb, before=observed)
        elif isinstance(step, planner.Confirm):
            if wish.confirm_timeout:
                return work.adopt(mode=wish.mode)
            work.adopt(mode=wish.mode)
            verdict = work.wait_for_pending()
            if not verdict.ok:
                work.return_now(verdict)
            work.confirm()
        elif isinstance(step, planner.Disarm):
            work.disarm()
    return None


@explaining()
def follow(
    wish: SystemWish, *, paths: SystemPaths, commands: Commands, limits: Limits, token: str, confirm: bool
) -> dict[str, t.Any]:
    """Look at the activation *token* over another connection; with *confirm* stay with its system if it has ended well.

    ``state`` of the answer is activating, activated or confirmed.  Raises FleetError when it has failed, after the
    host went back, and when the host went back by itself.
    """
    _require_nixos(paths, wish.subject)
    _outlive_the_session()
    with _files.lock(paths.lock, what=wish.subject, timeout=limits.lock):
        observed = observe(paths, commands)
        work = Apply(paths, commands, limits, subject=wish.subject, boot_id=observed.boot_id)
        pending = observed.journal.pending
        if pending is None or pending.token != token:
            if observed.journal.confirmed == token and observed.running is not None:
                return _followed("confirmed", observed, _of(paths, wish, observed.running))
            raise FleetError(
                "the activation is not waiting any more: another run has taken its place.", subject=wish.subject
            )
        wished = _of(paths, wish, pending.new)
        _still_there(observed, pending, wish.subject)
        if observed.activation.running:
            return _followed("activating", observed, wished)
        verdict = work.verdict(observed.activation)
        if not verdict.ok:
            work.return_now(verdict)
        if not confirm:
            return _followed("activated", observed, wished)
        work.confirm()
        # When the boot loader fails, the host goes back to what it ran before.
        before = replace(observe(paths, commands), running=pending.old)
        settled = replace(wish, mode=pending.mode)
        for step in planner.boot_steps(settled, wished[1], before):
            if isinstance(step, planner.SetProfile):
                work.set_profile(step.path)
            else:
                work.activate(pending.new, "boot", before=before)
        work.tidy(observe(paths, commands))
        answer = _followed("confirmed", observe(paths, commands), wished)
        warnings = [*work.warnings, *([verdict.excuse] if verdict.excuse else [])]
        return {**answer, "changed": True, **({"warnings": warnings} if warnings else {})}


def _of(paths: SystemPaths, wish: SystemWish, system: str) -> tuple[SystemWish, Wished]:
    return wish, Wished(path=system, derivation="", facts=facts(paths, system))


def _followed(state: str, observed: Observed, wished: tuple[SystemWish, Wished]) -> dict[str, t.Any]:
    return {"changed": False, "state": state, "after": planner.picture(observed, *wished)}


def _still_there(observed: Observed, pending: Pending, subject: str) -> None:
    """Raise FleetError when the host has left the pending system, or is about to."""
    state = observed.pending_state
    if state in ("armed", "unarmed"):
        return
    seen = {
        "returning": f"nobody confirmed {pending.new} in time, and the host is going back to {pending.old}.",
        "returned": f"nobody confirmed {pending.new} in time, and the host went back to {pending.old} by itself.",
        "rebooted": f"the host was booted again before {pending.new} was confirmed, and runs {observed.running}.",
        "failed": f"nobody confirmed {pending.new} in time, and going back to {pending.old} failed.",
    }[state or "failed"]
    raise FleetError(
        seen,
        subject=subject,
        field="confirm_timeout",
        hint="See whether the host can be reached with that system, or raise confirm_timeout."
        if state != "failed"
        else f"See: systemctl status {pending.service}",
    )
