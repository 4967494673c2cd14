# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host drained, or brought back: observe, plan, lock, observe and plan again, apply.  What the module calls.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import os
import time
import typing as t
from dataclasses import dataclass, field
from types import MappingProxyType

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.microvm.fleet.plugins.module_utils import _drain_plan as planner
from ansible_collections.microvm.fleet.plugins.module_utils import _files, _systemd
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._drain_plan import DrainPlan, DrainWish
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish, explaining
from ansible_collections.microvm.fleet.plugins.module_utils._guest_apply import Apply
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Host, observe
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import GuestPlan
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import Start, Step, Stop
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import GuestWish
from ansible_collections.microvm.fleet.plugins.module_utils._health_check import check as check_health
from ansible_collections.microvm.fleet.plugins.module_utils._health_check import (
    checks_spec,
    described_addresses,
    read_checks,
)
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import Health
from ansible_collections.microvm.fleet.plugins.module_utils._holds import CONDITIONS, Drained, write_mark
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths

REASON_LIMIT: t.Final = 500


@dataclass
class Result:
    """What a run did, or would do."""

    changed: bool = False
    actions: list[str] = field(default_factory=list)
    drained: dict[str, t.Any] | None = None
    results: list[dict[str, t.Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    before: dict[str, t.Any] = field(default_factory=dict)
    after: dict[str, t.Any] = field(default_factory=dict)

    def values(self) -> dict[str, t.Any]:
        """What the module returns, the diff included."""
        return {
            "changed": self.changed,
            "actions": self.actions,
            "drained": self.drained,
            "results": self.results,
            "diff": {"before": self.before, "after": self.after},
        }

    @property
    def failures(self) -> list[str]:
        """The messages of the guests that failed."""
        return [result["msg"] for result in self.results if result["failed"]]


def read_wish(params: t.Mapping[str, t.Any]) -> DrainWish:
    """The wish of a module's *params*.  Raises InvalidWish for a reason that is no line of text."""
    reason = params["reason"]
    if reason is not None and (len(reason) > REASON_LIMIT or not reason.isprintable()):
        raise InvalidWish(
            f"{reason[:40]!r} is no line of {REASON_LIMIT} characters at most.",
            subject="host",
            field="reason",
            hint="Say in a few words why the host is drained.",
        )
    if not 0 <= params["lock_timeout"] <= 86400:
        raise InvalidWish(
            f"{params['lock_timeout']} is out of range.", field="lock_timeout", hint="Give seconds from 0 to 86400."
        )
    return DrainWish(drained=params["state"] == "drained", reason=reason or None, protected=params["protected"])


def read_healths(entries: t.Any, paths: Paths) -> dict[str, Health]:
    """What healthy means of the guests of *entries*, which say more that does not matter here.

    Without probes nothing is waited for.  Raises InvalidWish with what is wrong.
    """
    spec = checks_spec()["options"]
    asked = [entry for entry in entries or () if isinstance(entry, dict) and entry.get("health")]
    healths = {}
    for entry in asked:
        kept = {key: value for key, value in entry.items() if key in spec and value is not None}
        checked = ArgumentSpecValidator(spec).validate(kept)
        for message in checked.error_messages:
            raise InvalidWish(f"{message}.", subject=f"guest {entry.get('name')}", field="health")
        healths.update(read_checks([checked.validated_parameters], lambda: described_addresses(paths)))
    return healths


@explaining()
def converge(
    wish: DrainWish,
    *,
    paths: Paths,
    commands: Commands,
    lock_timeout: float,
    check: bool,
    healths: t.Mapping[str, Health] = MappingProxyType({}),
) -> Result:
    """Drain the host, or bring it back, or (with *check*) say what would be done.

    Guests of *healths* are waited for until they are healthy, before those that come after them are started.

    Raises FleetError when nothing could be done at all; what fails for one guest is in its result.
    """
    host = observe(paths, commands)
    plan = _plan(wish, host, commands)
    if check or not plan.changed:
        return _report(host, plan, {}, plan.mark_after(host.drained))
    # No other run may be between what it has seen and what it starts.
    with _files.lock(os.path.join(paths.locks, "host"), what="host", timeout=lock_timeout):
        host = observe(paths, commands)
        plan = _plan(wish, host, commands)
        work = _Work(paths, commands, lock_timeout, healths)
        outcomes = work.carry_out(plan, host)
        after = observe(paths, commands, [])
    result = _report(host, plan, outcomes, after.drained)
    result.warnings += work.warnings
    return result


def _plan(wish: DrainWish, host: Host, commands: Commands) -> DrainPlan:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return planner.plan(wish, host, now=now, holding=not wish.drained or holding(commands))


def holding(commands: Commands) -> bool:
    """Whether the unit of guests, drop-ins included, has the conditions that hold guests (systemctl(1), cat)."""
    done = commands.run(["systemctl", "cat", "microvm@.service"], check=False)
    lines = done.stdout.splitlines()
    return all(condition in lines for condition in CONDITIONS)


class _Work:
    """Carries a plan out, one group of guests after the other."""

    def __init__(self, paths: Paths, commands: Commands, lock_timeout: float, healths: t.Mapping[str, Health]) -> None:
        self.paths = paths
        self.commands = commands
        self.healths = healths
        self.warnings: list[str] = []
        # Nothing is built.
        self.apply = Apply(paths, commands, build_timeout=0, lock_timeout=lock_timeout)

    def carry_out(self, plan: DrainPlan, host: Host) -> dict[str, dict[str, t.Any]]:
        """What became of each guest, by name.  A guest that does not end keeps those after it from being stopped."""
        if plan.mark is not None:
            self._mark(plan.mark)
        found: dict[str, dict[str, t.Any]] = {}
        for _order, names in plan.groups:
            found.update(self._group(names, host, drain=plan.wish.drained))
            if plan.wish.drained and any(each["error"] is not None for each in found.values()):
                break
        if plan.lift and all(each["error"] is None for each in found.values()):
            _files.remove(self.paths.returning)
        return found

    def _mark(self, mark: Drained) -> None:
        if mark.returning:
            # One rename: the host is never without a mark, nor with two.
            os.rename(self.paths.drained, self.paths.returning)
            _files.sync_directory(os.path.dirname(self.paths.drained))
            return
        unflushed = _files.Unflushed()
        _files.make_directory(os.path.dirname(self.paths.drained), unflushed=unflushed, mode=0o700)
        _files.flush_now(unflushed)
        write_mark(self.paths.drained, mark.as_dict())
        _files.remove(self.paths.returning)

    def _group(self, names: t.Sequence[str], host: Host, *, drain: bool) -> dict[str, dict[str, t.Any]]:
        timeouts = _systemd.timeouts(self.commands, names)
        plans = []
        for name in names:
            start, stop = timeouts.get(name, (None, None))
            step: Step = Stop(name) if drain else Start(name)
            wish = GuestWish(
                name,
                state="stopped" if drain else "started",
                start_timeout=start,
                stop_timeout=stop,
            )
            plans.append(GuestPlan(wish, host.guest(name), steps=(step,)))
        self.apply.finish(plans)
        found: dict[str, dict[str, t.Any]] = {
            name: {"error": self.apply.outcomes[name].error, "killed": self.apply.outcomes[name].killed}
            for name in names
        }
        if not drain:
            self._judge(found)
        return found

    def _judge(self, found: dict[str, dict[str, t.Any]]) -> None:
        """Wait for those that were started and that somebody says how to ask."""
        up = {
            name: self.healths[name]
            for name, outcome in found.items()
            if outcome["error"] is None and name in self.healths
        }
        if not up:
            return
        judged = check_health(up, paths=self.paths, commands=self.commands)
        self.warnings += judged.warnings
        for entry in judged.results:
            if entry["failed"]:
                found[entry["name"]]["error"] = FleetError(
                    f"was started, and is not healthy: {entry['reason']}.",
                    subject=f"guest {entry['name']}",
                    field="health",
                )


def _report(
    host: Host, plan: DrainPlan, outcomes: t.Mapping[str, t.Mapping[str, t.Any]], mark: Drained | None
) -> Result:
    """The result; without *outcomes* of a plan that was not carried out, or had nothing to do."""
    result = Result(changed=plan.changed, actions=plan.words(), drained=mark.shown() if mark is not None else None)
    for order, names in plan.groups:
        for name in names:
            outcome = outcomes.get(name)
            entry: dict[str, t.Any] = {"name": name, "order": order, "changed": True, "failed": False, "killed": False}
            if outcome is not None:
                error: FleetError | None = outcome["error"]
                entry.update(failed=error is not None, killed=outcome["killed"], changed=error is None)
                if error is not None:
                    entry.update(error.as_dict())
                if outcome["killed"]:
                    result.actions.append(f"{name}: kill, for it did not end within its time")
                    result.warnings.append(f"guest {name} did not end within its time, and had to be killed.")
            elif outcomes:
                # The run ended before it.
                entry.update(changed=False)
            result.results.append(entry)
    result.warnings += [f"guest {name} ran before and is not there any more." for name in plan.gone]
    running = sorted(name for name, guest in host.guests.items() if guest.unit.up)
    moved = {entry["name"] for entry in result.results if entry["changed"]}
    after = sorted(set(running) - moved if plan.wish.drained else set(running) | moved)
    result.before = {"drained": host.drained.shown() if host.drained is not None else None, "running": running}
    result.after = {"drained": result.drained, "running": after}
    return result
