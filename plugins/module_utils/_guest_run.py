# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests converged: observe, plan, lock, observe and plan again, apply, observe.  What the modules call.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import typing as t
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils import _files
from ansible_collections.microvm.fleet.plugins.module_utils import _guest_plan as planner
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._contract import read_runner
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish, explaining
from ansible_collections.microvm.fleet.plugins.module_utils._guest_held import held
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Guest, Host, describe, observe
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import GuestPlan, Outcome, Target
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import (
    Describe,
    Live,
    Remove,
    Start,
    Switch,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import (
    GuestWish,
    Limits,
    absent,
    read_wishes,
)
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths

if t.TYPE_CHECKING:  # pragma: no cover
    from ansible_collections.microvm.fleet.plugins.module_utils._guest_apply import Apply
    from ansible_collections.microvm.fleet.plugins.module_utils._guest_source import Sources


# MiB of /nix/store: less than this and the build of any system would fill the disk.
MIN_FREE: t.Final = 512
MIN_FREE_LIMIT: t.Final = 1 << 30


def limits_spec() -> dict[str, t.Any]:
    """The argument spec of `Limits`, shared by the modules."""
    return {
        "eval_timeout": {"type": "int", "default": Limits.evaluate},
        "build_timeout": {"type": "int", "default": Limits.build},
        "lock_timeout": {"type": "int", "default": Limits.lock},
        "min_free": {"type": "int", "default": MIN_FREE},
    }


def limits_of(params: t.Mapping[str, t.Any]) -> Limits:
    """The limits that a module was given.  Raises InvalidWish for one that is out of range."""
    for option, least in (("eval_timeout", 1), ("build_timeout", 1), ("lock_timeout", 0)):
        if not least <= params[option] <= 86400:
            raise InvalidWish(
                f"{params[option]} is out of range.", field=option, hint=f"Give seconds from {least} to 86400."
            )
    if not 0 <= params["min_free"] <= MIN_FREE_LIMIT:
        raise InvalidWish(
            f"{params['min_free']} is out of range.", field="min_free", hint=f"Give MiB from 0 to {MIN_FREE_LIMIT}."
        )
    return Limits(
        evaluate=params["eval_timeout"],
        build=params["build_timeout"],
        lock=params["lock_timeout"],
        min_free=params["min_free"],
    )


@dataclass
class Result:
    """What a run did, or would do."""

    changed: bool = False
    actions: list[str] = field(default_factory=list)
    results: list[dict[str, t.Any]] = field(default_factory=list)
    orphans: list[dict[str, t.Any]] = field(default_factory=list)
    before: dict[str, t.Any] = field(default_factory=dict)
    after: dict[str, t.Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def values(self) -> dict[str, t.Any]:
        """What a module returns, the diff included."""
        return {
            "changed": self.changed,
            "actions": self.actions,
            "results": self.results,
            "orphans": self.orphans,
            "diff": {"before": self.before, "after": self.after},
        }

    def value(self) -> dict[str, t.Any]:
        """What the module for one guest returns: the one entry, without what names it."""
        entry = {key: value for key, value in self.results[0].items() if key not in ("name", "failed", "msg")}
        return {
            **entry,
            "changed": self.changed,
            "actions": self.actions,
            "diff": {"before": self.before, "after": self.after},
        }

    @property
    def failures(self) -> list[str]:
        """The messages of the guests that failed."""
        return [result["msg"] for result in self.results if result["failed"]]


@explaining()
def converge(
    wishes: t.Sequence[GuestWish],
    *,
    paths: Paths,
    commands: Commands,
    limits: Limits,
    check: bool,
    all_guests: bool,
    prune: bool = False,
    switch_ahead: bool = False,
    evaluated: t.Mapping[str, t.Any] | None = None,
) -> Result:
    """Bring guests to what is wished of them, or (with *check*) say what would be done.

    With *all_guests* the wishes are those of the whole host: guests that no wish names are orphans, and with *prune*
    those that the collection made are removed.  With *check* and *switch_ahead* the system of a NixOS host counts as
    one that says of units what is wished.  *evaluated* is what another host has found of flakes and guests, in the
    shape that `_evaluated` reads.  Raises FleetError when nothing could be done at all; what fails for one
    guest is in its result.
    """

    @functools.lru_cache(maxsize=None)
    def sources() -> Sources:
        # Loaded for those that need a runner only: most runs need none.
        from ansible_collections.microvm.fleet.plugins.module_utils import _evaluated  # noqa: PLC0415
        from ansible_collections.microvm.fleet.plugins.module_utils._guest_source import (  # noqa: PLC0415
            Sources,
        )

        return Sources(paths, commands, limits, keep=not check, elsewhere=_evaluated.read(evaluated))

    names = None if all_guests else [wish.name for wish in wishes]
    host = observe(paths, commands, names)
    plans = _plans(wishes, host, sources, prune=prune, switch_ahead=check and switch_ahead)
    if check and names is not None and any(plan.target is not None for plan in plans):
        # What a new runner claims is compared with all guests of the host; what changes something does so once it has
        # its locks.
        host = observe(paths, commands)
        plans = _plans(wishes, host, sources, prune=prune, switch_ahead=switch_ahead)
    result = Result()
    leftovers = [entry for entry in host.leftovers if names is None or _left_by(entry) in names]
    if check:
        plans = _live(paths, commands, plans)
    plans = _volumes(paths, commands, plans)
    if check or not (leftovers or any(plan.steps for plan in plans)):
        _report(result, host, host, plans, {}, check=check)
    else:
        with _locks(paths, plans, leftovers, limits, exclusive=prune and all_guests):
            host = observe(paths, commands)
            plans = _volumes(paths, commands, _plans(wishes, host, sources, prune=prune))
            # Loaded for runs that change something only.
            from ansible_collections.microvm.fleet.plugins.module_utils._guest_apply import (  # noqa: PLC0415
                Apply,
            )

            work = Apply(
                paths, commands, build_timeout=limits.build, lock_timeout=limits.lock, min_free=limits.min_free
            )
            # What has come since may be the work of a run that is at it.
            outcomes = _apply(work, paths, host, plans, [entry for entry in host.leftovers if entry in leftovers])
            result.warnings += work.warnings
            _report(result, host, observe(paths, commands, names), plans, outcomes, check=check)
    result.warnings += [warning for plan in plans if plan.target is not None for warning in plan.wish.warnings]
    for entry in leftovers:
        result.changed = True
        result.actions.append(f"remove {entry}, which a run that was killed left")
    if all_guests:
        wished = {wish.name for wish in wishes}
        pruned = {plan.name for plan in plans if plan.name not in wished and plan.error is None}
        result.orphans = [
            {"name": name, "owner": guest.owner, "active": guest.unit.active, "pruned": name in pruned}
            for name, guest in sorted(host.guests.items())
            if name not in wished
        ]
    return result


def _plans(
    wishes: t.Sequence[GuestWish],
    host: Host,
    sources: t.Callable[[], Sources],
    *,
    prune: bool,
    switch_ahead: bool = False,
) -> tuple[GuestPlan, ...]:
    """All plans, wishes first, in their order; then the orphans that are to be removed."""
    wished = {wish.name for wish in wishes}
    everything = list(wishes)
    if prune:
        everything += [
            absent(name) for name, guest in sorted(host.guests.items()) if name not in wished and _prunable(guest)
        ]
    asking = any(planner.asks(wish, host.guest(wish.name)) for wish in everything)
    targets = sources().targets(everything, host) if asking else {}
    plans = []
    for wish in everything:
        guest, target = host.guest(wish.name), targets.get(wish.name)
        if isinstance(target, FleetError):
            plans.append(GuestPlan(wish, guest, error=target))
        else:
            plans.append(planner.plan(wish, guest, target))
    able = held(planner.unprepared(planner.conflicts(plans, host), host), host)
    return planner.beyond(able, host, switch_ahead=switch_ahead)


def _left_by(entry: str) -> str:
    """The guest whose directory a killed run was at, by what it left in the state root (`_files.beside`)."""
    return entry[len(_files.TEMPORARY) :].rpartition(".")[0]


def _prunable(guest: Guest) -> bool:
    if guest.record is None:
        # What is left of a removal that was killed.
        return (guest.known or bool(guest.credentials)) and not guest.directory
    return guest.owner == "fleet" and not guest.record.protect


@contextlib.contextmanager
def _locks(
    paths: Paths, plans: t.Sequence[GuestPlan], leftovers: t.Sequence[str], limits: Limits, *, exclusive: bool
) -> t.Iterator[None]:
    """The host's lock, and those of guests that are to change, in the order of names: no two runs wait in a circle."""
    names = {plan.name for plan in plans if plan.steps}
    names.update(map(_left_by, leftovers))
    _raise_file_limit()
    with contextlib.ExitStack() as stack:
        for name in ("host", *(f"guest-{name}" for name in sorted(names))):
            what = "host" if name == "host" else name.replace("-", " ", 1)
            stack.enter_context(
                _files.lock(
                    os.path.join(paths.locks, name),
                    what=what,
                    shared=name == "host" and not exclusive,
                    timeout=limits.lock,
                )
            )
        yield


def _raise_file_limit() -> None:
    """Let this process and its children have as many open files as they may (getrlimit(2)).

    A lock is an open file, and Nix opens some for each derivation that it builds: the soft limit of a session, 1024,
    ends a build of some hundred guests with "Too many open files".
    """
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _apply(
    work: Apply, paths: Paths, host: Host, plans: t.Sequence[GuestPlan], leftovers: t.Sequence[str]
) -> dict[str, Outcome]:
    planned = [plan for plan in plans if plan.error is None and plan.steps]
    work.prepare(planned)
    # A runner that was only a path says what it is once it is on the host: the rest is planned with that.
    known = _live(paths, work.commands, [_with_runner(paths, plan) for plan in planned])
    known = _volumes(paths, work.commands, known)
    for plan in planner.conflicts(known, host):
        if plan.error is not None:
            work.outcomes[plan.name].error = work.outcomes[plan.name].error or plan.error
    work.finish([plan for plan in known if work.outcomes[plan.name].error is None], leftovers)
    for plan in known:
        outcome = work.outcomes[plan.name]
        outcome.live = _lived(plan, outcome)
    return work.outcomes


def _lived(plan: GuestPlan, outcome: Outcome | None) -> dict[str, t.Any] | None:
    """Whether the guest was switched live, or would be (without *outcome*), if that was wished; and why not."""
    if plan.why_not_live is not None:
        return {"done": False, "why": plan.why_not_live}
    if not any(isinstance(step, Live) for step in plan.steps):
        return None
    if outcome is None or any(isinstance(step, Live) for step in outcome.done):
        return {"done": True}
    return {"done": False, "why": outcome.reason}


def _live(paths: Paths, commands: Commands, plans: t.Sequence[GuestPlan]) -> tuple[GuestPlan, ...]:
    """The plans, with what becomes of the restarts of guests that are to be switched live."""
    if all(plan.wish.switch != "live" for plan in plans):
        return tuple(plans)
    # Loaded for those who switch live only.
    from ansible_collections.microvm.fleet.plugins.module_utils import _guest_live  # noqa: PLC0415

    return _guest_live.decide(paths, commands, plans)


def _volumes(paths: Paths, commands: Commands, plans: t.Sequence[GuestPlan]) -> tuple[GuestPlan, ...]:
    """The plans, with the steps of the volumes of guests that start, get another runner, or go."""
    if not any(
        plan.wish.restore_volumes or any(isinstance(step, (Start, Switch, Remove)) for step in plan.steps)
        for plan in plans
    ):
        return tuple(plans)
    # Loaded for such runs only.
    from ansible_collections.microvm.fleet.plugins.module_utils import _volume_apply  # noqa: PLC0415

    return _volume_apply.add(plans, paths, commands)


def _with_runner(paths: Paths, plan: GuestPlan) -> GuestPlan:
    target = plan.target
    if target is None or not target.runner.missing:
        return plan
    runner = read_runner(paths, target.runner.path)
    return planner.plan(plan.wish, plan.guest, Target(runner=runner, source=target.source))


def _report(
    result: Result,
    before: Host,
    after: Host,
    plans: t.Sequence[GuestPlan],
    outcomes: t.Mapping[str, Outcome],
    *,
    check: bool,
) -> None:
    """Fill *result* with an entry a plan; in check mode, with what would be."""
    for plan in plans:
        outcome = outcomes.get(plan.name, Outcome(error=plan.error))
        # Told in the order of the plan, as check mode does, and not in the one in which all guests were worked on.
        order = {type(step): place for place, step in enumerate(plan.steps)}
        # What may have come in the place of the start.
        order.setdefault(Live, order.get(Start, len(order)))
        done = sorted(outcome.done, key=lambda step: order.get(type(step), len(order))) + outcome.undone
        steps = plan.steps if check or not outcomes else done
        described = describe(before.guest(plan.name))
        now = planner.project(described, plan) if check else describe(after.guest(plan.name))
        error = outcome.error or plan.error or plan.refusal
        changed = any(step.changes for step in steps)
        entry: dict[str, t.Any] = {
            "name": plan.name,
            "changed": changed,
            "failed": error is not None,
            "actions": plan.words(steps),
            "guest": now,
        }
        if error is not None:
            entry.update(error.as_dict())
        entry.update(_switched(plan, outcome))
        if outcome.killed:
            entry["killed"] = True
            entry["actions"].append(f"{plan.name}: kill, for it did not end within its time")
        if outcome.kept is not None:
            entry["kept"] = outcome.kept
        if outcome.left:
            entry["left"] = outcome.left
        result.results.append(entry)
        result.actions += entry["actions"]
        if changed:
            result.changed = True
            result.before[plan.name] = _shown(described)
            result.after[plan.name] = _shown(now)
            for step in steps:
                if isinstance(step, Describe):
                    if step.before is not None:
                        result.before[plan.name]["description"] = step.before
                    result.after[plan.name]["description"] = step.description


def _switched(plan: GuestPlan, outcome: Outcome) -> dict[str, t.Any]:
    """What a result says of a new runner: why it needs a restart, and how it went."""
    said: dict[str, t.Any] = {}
    if plan.target is not None and plan.guest.exists and plan.target.runner.path != plan.guest.current:
        # Loaded for runs that have a new runner only.
        from ansible_collections.microvm.fleet.plugins.module_utils._guest_reasons import (  # noqa: PLC0415
            reasons,
        )

        said["reasons"] = reasons(plan.guest.runner, plan.target.runner)
    live = outcome.live or _lived(plan, None)
    if live is not None:
        said["live"] = dict(live)
    if outcome.reason is not None:
        said["unhealthy"] = outcome.reason
    if outcome.reverted is not None:
        said["reverted"] = {
            "from": outcome.reverted.origin.as_dict(),
            "to": outcome.reverted.back.as_dict(),
            "healthy": outcome.restored,
            "reason": outcome.reason,
        }
    return said


def _shown(described: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The part of a guest's structure that a diff shows: what steps change, without what only ages."""
    if not described["exists"]:
        return {"exists": False}
    shown = {key: value for key, value in described.items() if key not in ("unit", "problems", "name")}
    shown["generations"] = {str(each["number"]): each["runner"] for each in described["generations"]}
    return shown


def wishes(
    entries: t.Sequence[t.Mapping[str, t.Any]], params: t.Mapping[str, t.Any], paths: Paths, *, update: str = "never"
) -> tuple[GuestWish, ...]:
    """The wishes of *entries*; *params* of the module say what descriptions refer to.  Raises as `read_wishes`."""

    def surroundings() -> t.Any:
        # Loaded for those who describe guests only: most runs never need it.
        from ansible_collections.microvm.fleet.plugins.module_utils import _descriptions  # noqa: PLC0415

        return _descriptions.surroundings(params, paths)

    with explaining():
        return read_wishes(entries, update=update, surroundings=surroundings)
