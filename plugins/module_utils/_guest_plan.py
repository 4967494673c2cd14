# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From wishes and what was observed to steps, without any I/O.

Private to the collection: it may change at any time.

Steps are ordered so that a run that is killed between any two of them leaves a state from which planning again
gives what is left to do.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils import _guest_judge as judge
from ansible_collections.microvm.fleet.plugins.module_utils._contract import Runner, runner_of_dict
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_judge import Revert
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import DESCRIBED
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import (
    Generation,
    Guest,
    Host,
    Record,
    describe,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import (
    SHARES_UNIT,
    UNIT,
    Autostart,
    Await,
    Create,
    Describe,
    Discard,
    Forget,
    Judged,
    Keep,
    Live,
    Mark,
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
    Undescribe,
    Unstage,
    Write,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import GuestWish, interface_faults
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import unit as unit_of

# Where the role for guests puts credentials: DIRECTORY/GUEST/NAME.
CREDENTIALS: t.Final = "/var/lib/microvm-fleet/credentials"


@dataclass(frozen=True)
class Source:
    """Where the runner of a guest comes from: a flake, or a runner that is built already."""

    flake: str | None = None
    runner: str | None = None


@dataclass(frozen=True)
class Target:
    """The runner that a guest is to have.  *source* is the derivation that makes it, or the runner itself."""

    runner: Runner
    source: str
    flake: str | None = None
    locked: str | None = None
    # It is a generation, to which the guest goes without asking where it came from.
    kept: bool = False
    # Of a guest that is described: its entry of guests.json, as it is to be and as it is.
    description: t.Mapping[str, t.Any] | None = None
    described: t.Mapping[str, t.Any] | None = None
    # The credentials that each of its units loads.
    credentials: t.Mapping[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class GuestPlan:
    """What is to be done about one guest; with *error* nothing is."""

    wish: GuestWish
    guest: Guest
    steps: tuple[Step, ...] = ()
    error: FleetError | None = None
    target: Target | None = None
    # What is to be done when the guest is not healthy; with a reason, what is left of that (and of nothing else).
    revert: Revert | None = None
    # Why a guest that was to be switched live is restarted.
    why_not_live: str | None = None
    # What is not done, and why; the steps are what is done nevertheless.
    refusal: FleetError | None = None

    @property
    def name(self) -> str:
        """The guest's name."""
        return self.wish.name

    def words(self, steps: t.Iterable[Step]) -> list[str]:
        """*steps* for `actions`: what goes without saying beside a creation or a switch is left out."""
        spoken = [step for step in steps if step.changes]
        if any(isinstance(step, (Create, Switch)) for step in self.steps):
            spoken = [step for step in spoken if not isinstance(step, (Keep, Write, Root, Unstage, Describe))]
        return [step.words() for step in spoken]


@dataclass
class Outcome:
    """What became of one guest's plan."""

    error: FleetError | None = None
    # The hypervisor had to be killed, because the guest did not end within its time.
    killed: bool = False
    # Where its volumes are, if it was removed and had any.
    kept: str | None = None
    left: list[str] = field(default_factory=list)
    done: list[Step] = field(default_factory=list)
    # Why it is not healthy, what was done about it, and whether it is healthy then.
    reason: str | None = None
    undone: list[Step] = field(default_factory=list)
    reverted: Revert | None = None
    restored: bool = False
    # Of a guest that was to be switched live: whether it was, and why not.
    live: t.Mapping[str, t.Any] | None = None


def asks(wish: GuestWish, guest: Guest) -> bool:
    """Whether this run needs a runner: only for a guest that is missing, or that is to be updated."""
    if wish.state == "absent" or (guest.exists and judge.begun(guest) is not None):
        return False
    if wish.generation is not None:
        return True
    if guest.owner == "nixos":
        return False
    if wish.update == "activate_staged" and guest.exists:
        return guest.staged not in (None, guest.current)
    return not guest.exists or wish.update != "never"


def kept(wish: GuestWish, guest: Guest) -> str | None:
    """The runner on the host that this run is to use, whatever a flake says by now; None where a flake is asked.

    Raises InvalidWish when there is none such.
    """
    if not asks(wish, guest):
        return None
    if wish.generation is not None:
        return judge.generation(wish, guest)
    return judge.staged(wish, guest) if wish.update == "activate_staged" else None


def source(wish: GuestWish, guest: Guest) -> Source | None:
    """Where the runner comes from that this run needs, or None when it needs none.

    Raises InvalidWish when there is none to be had.
    """
    if not asks(wish, guest):
        return None
    if wish.runner is not None:
        return Source(runner=wish.runner)
    flake = wish.flake or (guest.source if guest.exists else None)
    if flake is None:
        raise InvalidWish(
            "is to be updated, and nothing says from what."
            if guest.exists
            else "does not exist, and nothing says what to create it from.",
            subject=wish.subject,
            field="flake",
            hint="Give a flake, a runner, or a description (hypervisor).",
        )
    return Source(flake=flake)


def recorded(guest: Guest, flake: str, identity: str) -> Target | None:
    """The target that the guest's record knows already, if its flake is still the same: then nothing is evaluated."""
    record = guest.record
    if record is None or not guest.exists or record.locked != identity or record.flake != flake:
        return None
    there = {each.runner for each in guest.generations if not each.missing}
    if record.runner is None or record.runner not in {guest.current, guest.staged, *there}:
        return None
    if record.runner not in record.facts:
        return None
    if _lost(guest):
        # To be built again, it takes the derivation.
        return None
    return Target(
        runner=runner_of_dict(record.facts[record.runner]), source=record.runner, flake=flake, locked=identity
    )


def _lost(guest: Guest) -> bool:
    """Whether the garbage collector has taken the runner of `current`."""
    return guest.runner is not None and guest.runner.missing


def plan(wish: GuestWish, guest: Guest, target: Target | None) -> GuestPlan:
    """The steps for one guest.  *target* is what `source` asked for, None where it asked for nothing."""
    back = judge.begun(guest) if wish.state != "absent" and guest.owner != "nixos" else None
    if back is not None:
        rest = judge.rest(wish, guest, back)
        return GuestPlan(wish, guest, steps=rest.steps, revert=rest)
    revert = refusal = None
    try:
        if wish.state == "absent":
            steps = tuple(_absent(wish, guest))
        else:
            way = course(wish, guest, target)
            if way.moving and guest.exists:
                refusal = judge.refusal(wish, guest, str(way.current))
                if refusal is not None:
                    if not guest.interrupted:
                        raise refusal
                    # What a killed run has left to be done is done nevertheless.
                    target, way = None, course(wish, guest, None)
            steps = tuple(_present(wish, guest, target, way))
            if way.judged:
                revert = judge.revert(wish, guest, str(way.current), steps)
            steps += tuple(_discard(wish, guest, steps))
        if steps:
            _refuse(wish, guest)
        if target is not None:
            _fit(wish, target)
        _hear(wish, target.runner if target is not None else guest.runner)
    except FleetError as error:
        return GuestPlan(wish, guest, error=error, target=target)
    return GuestPlan(wish, guest, steps=steps, target=target, revert=revert, refusal=refusal)


def _refuse(wish: GuestWish, guest: Guest) -> None:
    """Raise when the guest is not ours to change, or protected."""
    if guest.exists and guest.owner == "nixos":
        raise InvalidWish(
            "belongs to the NixOS configuration of this host"
            + (
                " (it has a link named toplevel)."
                if guest.toplevel
                else f" (install-microvm-{guest.name}.service sets its runner)."
            ),
            subject=wish.subject,
            field="state",
            hint="Change microvm.vms in that configuration, or take the guest out of the wishes.",
        )
    kept = guest.record is not None and guest.record.protect and wish.protect is not False
    if kept and wish.state in ("absent", "stopped"):
        raise InvalidWish(
            f"the guest was protected when it was last converged, and its state is to be {wish.state}.",
            subject=wish.subject,
            field="protect",
            hint="Say protect: false first.",
        )


def _fit(wish: GuestWish, target: Target) -> None:
    """Raise when the runner cannot be of this guest: names of interfaces, and what the wish says of them."""
    runner = target.runner
    if runner.hypervisor == "vfkit":
        raise InvalidWish(
            "vfkit runs on macOS only.", subject=wish.subject, field="flake", hint="Choose another hypervisor."
        )
    for interface in runner.interfaces:
        if interface.type in ("tap", "macvtap"):
            for seen in interface_faults(interface.id):
                raise InvalidWish(
                    f"its interface {seen}",
                    subject=wish.subject,
                    field="microvm.interfaces",
                    hint="Give it a name such as vm-web1 there.",
                )
    if runner.missing:
        return
    there = {interface.id: interface for interface in runner.interfaces}
    for position, wished in enumerate(wish.interfaces):
        found = there.get(wished.id)
        if found is None:
            raise InvalidWish(
                f"the guest has no interface {wished.id}; it has {', '.join(there) or 'none'}.",
                subject=wish.subject,
                field=f"interfaces[{position}].id",
                hint="Let the inventory and the guest's configuration name the same.",
            )
        if wished.mac and found.mac and wished.mac != found.mac.lower():
            raise InvalidWish(
                f"the inventory says {wished.mac}, and the guest's configuration says {found.mac}.",
                subject=wish.subject,
                field=f"interfaces[{position}].mac",
                hint="Let both name the same.",
            )


def _hear(wish: GuestWish, runner: Runner | None) -> None:
    """Raise when a guest is to say that it is ready, and its hypervisor does not pass that on.

    Of microvm.nix, that of cloud-hypervisor does, through a vsock (lib/runners/cloud-hypervisor.nix).
    """
    if not wish.health.notifies or wish.state == "absent" or runner is None or runner.missing:
        return
    if runner.hypervisor != "cloud-hypervisor" or runner.vsock_cid is None:
        why = "without a vsock CID" if runner.hypervisor == "cloud-hypervisor" else "which does not pass it on"
        raise InvalidWish(
            f"a probe of kind notify, and the guest runs under {runner.hypervisor}, {why}.",
            subject=wish.subject,
            field="health",
            hint="Ask it by tcp, http or ssh, or use cloud-hypervisor with a vsock CID.",
        )


def _absent(wish: GuestWish, guest: Guest) -> t.Iterator[Step]:
    if guest.unit.up:
        yield Stop(guest.name)
    if guest.autostart:
        yield Autostart(guest.name, enable=False)
    kept = guest.settings is not None or guest.share_settings is not None or guest.credentials
    if guest.directory or guest.known or guest.rooted or guest.roots or kept:
        # Of what a killed creation left there is no record yet.
        if guest.described or (guest.record is None and guest.rooted):
            yield Undescribe(guest.name)
        yield Remove(guest.name, purge=wish.purge)


@dataclass(frozen=True)
class Course:
    """What becomes of a guest that is to be there, beside its files: what all else of its plan follows from.

    *current* is the runner that it has then.  *moving*: it is another than now.  *stopping*, *starting*: so is the
    guest.  *judged*: whether it is healthy then is waited for.
    """

    current: str | None
    moving: bool = False
    interrupted: bool = False
    stopping: bool = False
    starting: bool = False
    judged: bool = False


def course(wish: GuestWish, guest: Guest, target: Target | None) -> Course:
    """The course of one guest that is not to be absent."""
    moving = target is not None and target.runner.path != guest.current
    moving = moving and (wish.update != "stage" or not guest.exists)
    current = target.runner.path if target is not None and moving else guest.current
    # A mark of a run that was killed speaks of a guest that is down, and to be up again.
    interrupted = guest.interrupted and guest.exists and not guest.unit.up and wish.state != "stopped"
    # So does one of a guest that was to be switched live.
    unfinished = wish.activates or (guest.interrupted and wish.state != "stopped")
    renewing = unfinished and guest.owner != "nixos" and guest.restart_needed
    stopping = guest.unit.up and (wish.state in ("stopped", "restarted") or (moving and guest.exists) or renewing)
    starting = wish.state != "stopped" and (
        stopping or interrupted or (wish.state in ("started", "restarted") and not guest.unit.active)
    )
    switched = moving and guest.exists
    if starting:
        judged = switched or renewing or wish.health.asked or (guest.judging and not moving)
    else:
        judged = guest.judging and not moving and guest.unit.up and not stopping
        judged = judged and (guest.interrupted or wish.activates)
    return Course(
        current=current,
        moving=moving,
        interrupted=interrupted,
        stopping=stopping,
        starting=starting,
        judged=judged,
    )


def _present(wish: GuestWish, guest: Guest, target: Target | None, way: Course) -> t.Iterator[Step]:
    name = guest.name
    if guest.litter or (guest.interrupted and not (way.interrupted or way.judged)):
        yield Sweep(name)
    if target is not None and way.moving:
        yield from _prepare(guest, target)
        yield from _describe(guest, target)
        if guest.described and target.description is None and not target.kept:
            # It comes from elsewhere now.
            yield Undescribe(name)
        yield from _stop(guest, way)
        if target.credentials is not None:
            # Before `current`: of a guest that exists, a later run does not look at the description again.
            yield from _settle(wish, guest, target.credentials)
        yield from _become(wish, guest, target, way)
    else:
        if target is not None and target.runner.path != guest.current:
            yield from _prepare(guest, target)
        elif target is not None and _lost(guest):
            yield from _prepare(guest, target)
            yield Unstage(name, target.runner.path)
        elif guest.staged is not None and guest.staged == guest.current:
            # A run that died right after the switch has left it.
            yield Unstage(name, guest.staged)
        yield from _describe(guest, target)
        yield from _stop(guest, way)
        yield from _record(wish, guest, target, way)
    ours = guest.record is not None or way.moving
    if ours and guest.roots != {name, f"booted-{name}"}:
        yield Root(name)
    if target is None or target.credentials is None or not way.moving:
        # What is only staged may ask for other credentials than what runs.
        credentials = target.credentials if target is not None and target.runner.path == way.current else None
        yield from _settle(wish, guest, credentials)
    if wish.autostart is not None and wish.autostart != guest.autostart:
        yield Autostart(name, enable=wish.autostart)
    if way.starting:
        yield Start(name)
    if way.judged:
        yield Await(name)
        if ours and (way.moving or not judge.is_judged(guest.record, way.current)):
            yield Judged(name, str(way.current))
    forgotten = _surplus(wish, guest, target, way) if ours else ()
    if forgotten:
        yield Forget(name, numbers=forgotten)


def _describe(guest: Guest, target: Target | None) -> t.Iterator[Step]:
    """What guests.json is to say, after the build and before anything else: see docs/architecture.md."""
    if target is not None and target.description is not None and target.description != target.described:
        yield Describe(guest.name, description=target.description, before=target.described)


def _stop(guest: Guest, way: Course) -> t.Iterator[Step]:
    if way.starting and (way.stopping or (way.judged and not guest.interrupted)):
        yield Mark(guest.name)
    if way.stopping:
        yield Stop(guest.name)


def _prepare(guest: Guest, target: Target) -> t.Iterator[Step]:
    """Have the runner on the host, rooted.

    The link `staged` is older than the build; only the record, which is written after it, says that it has ended.
    """
    if target.kept:
        return
    built = guest.record is not None and guest.record.runner == target.runner.path
    if guest.staged != target.runner.path or target.runner.missing or not built:
        yield Stage(guest.name, runner=target.runner.path, source=target.source)


def _become(wish: GuestWish, guest: Guest, target: Target, way: Course) -> t.Iterator[Step]:
    """Make the runner of *target* the guest's own.  Generation and record come first: see docs/architecture.md."""
    name, path = guest.name, target.runner.path
    for generation in _kept(guest, target, way)[len(guest.generations) :]:
        yield Keep(name, number=generation.number, runner=generation.runner)
    yield from _record(wish, guest, target, way)
    if guest.exists:
        yield Switch(name, runner=path, flake=target.flake)
    else:
        yield Create(name, runner=path, flake=target.flake, complete=guest.directory)
    if not target.kept:
        yield Unstage(name, runner=path)


def _kept(guest: Guest, target: Target | None, way: Course) -> list[Generation]:
    """The generations once the guest has the runner of *target*, the new ones last."""
    generations = list(guest.generations)
    if target is None or not way.moving:
        return generations
    number = max((each.number for each in generations), default=0)
    runners = {each.runner for each in generations}
    if guest.exists and guest.current is not None and guest.current not in runners:
        number += 1
        generations.append(Generation(number, guest.current))
    path = target.runner.path
    if path not in runners or (not target.kept and guest.generations[-1].runner != path):
        generations.append(Generation(number + 1, path))
    return generations


def _record(wish: GuestWish, guest: Guest, target: Target | None, way: Course) -> t.Iterator[Step]:
    """The record, where it is not what it should be.  A guest of another maker gets one with its first new runner."""
    changing = target is not None and target.runner.path != guest.current
    if guest.record is None and not changing and wish.protect is not True:
        return
    before = guest.record or Record(flake=guest.flake)
    after = before
    if target is not None and (changing or guest.record is not None):
        after = _noted(before, guest, target, changing=changing)
    if way.moving and (guest.exists or way.judged):
        after = judge.switching(after, str(way.current))
    if wish.protect is not None:
        after = dataclasses.replace(after, protect=wish.protect)
    if wish.labels is not None:
        after = dataclasses.replace(after, labels=dict(wish.labels))
    if guest.record != after:
        asked = dataclasses.replace(before, protect=after.protect, labels=after.labels)
        yield Write(guest.name, record=after, refresh=not changing and asked == guest.record)


def _noted(record: Record, guest: Guest, target: Target, *, changing: bool) -> Record:
    """The *record* with what is known of *target*, and of every runner that the guest may still go back to."""
    path = target.runner.path
    kept = {guest.current, path, record.runner if target.kept else None}
    kept.update(each.runner for each in guest.generations)
    facts = {runner: known for runner, known in record.facts.items() if runner in kept or not changing}
    # A runner that is not on the host yet says nothing of itself; what is known of it already says more.
    if path not in facts or not target.runner.missing:
        facts[path] = target.runner.as_dict()
    if target.kept:
        return dataclasses.replace(record, facts=facts)
    return dataclasses.replace(record, flake=target.flake, locked=target.locked, runner=path, facts=facts)


def _settle(wish: GuestWish, guest: Guest, credentials: t.Mapping[str, tuple[str, ...]] | None) -> t.Iterator[Step]:
    """The settings of the guest's units.  *credentials* are those that each loads, None where that stays as it is."""
    name = guest.name
    text = settings(wish, guest.settings, _loads(name, credentials, UNIT))
    shares = settings(GuestWish(name), guest.share_settings, _loads(name, credentials, SHARES_UNIT))
    if shares is not None and shares != (guest.share_settings or ""):
        yield Settings(name, text=shares, unit=SHARES_UNIT)
    if text is not None and text != (guest.settings or ""):
        yield Settings(name, text=text)
    elif guest.unit.needs_reload and guest.settings is not None:
        yield Reload(name)


def _discard(wish: GuestWish, guest: Guest, steps: t.Iterable[Step]) -> t.Iterator[Step]:
    """Credentials that nothing needs any more once *steps* are done.

    A guest that is left alone goes on loading those that it was made with, whatever is wished of it by now, and does
    not start without them.  A wish that says nothing of where the guest comes from says nothing of credentials.
    """
    if not guest.credentials or (wish.flake is None and wish.runner is None):
        return
    texts = {UNIT: guest.settings, SHARES_UNIT: guest.share_settings}
    texts.update({step.unit: step.text for step in steps if isinstance(step, Settings)})
    needed = {name for text in texts.values() for name, _file in _LOADED.findall(text or "")}
    needed.update(wish.description["credentials"] if wish.description is not None else ())
    names = tuple(name for name in guest.credentials if name not in needed)
    if names:
        yield Discard(guest.name, names)


def _surplus(wish: GuestWish, guest: Guest, target: Target | None, way: Course) -> tuple[int, ...]:
    """Generations to be dropped: the oldest beyond the number to keep, but none that the guest may need.

    That is what runs, or is to run, what was last found healthy, and what it would go back to.
    """
    generations = _kept(guest, target, way)
    needed = {way.current, guest.booted if guest.unit.up and not way.stopping else None}
    if not way.judged:
        needed.add(guest.record.healthy if guest.record is not None else None)
        if way.current is not None and (guest.judging or way.moving) and guest.exists:
            needed.add(judge.fallback(wish, guest, way.current))
    rejected = set(guest.record.rejected if guest.record is not None else ()) - {way.current}
    newest = guest.record is not None and (not way.moving or (target is not None and target.kept))
    if newest and guest.record is not None and guest.record.runner in rejected:
        # While the flake gives it, it is not evaluated again.
        needed.add(guest.record.runner)
    # What was rejected takes no place from what was not.
    ranked = sorted(generations, key=lambda generation: (generation.runner not in rejected, generation.number))
    old = sorted(
        generation.number for generation in ranked[: -wish.keep_generations] if generation.runner not in needed
    )
    return tuple(old)


def _loads(name: str, credentials: t.Mapping[str, tuple[str, ...]] | None, unit: str) -> t.Mapping[str, str] | None:
    """The files of the credentials that *unit* is to load, by the credential's name."""
    if credentials is None:
        return None
    return {credential: f"{CREDENTIALS}/{name}/{credential}" for credential in credentials.get(unit, ())}


_SETTING = re.compile(r"^(TimeoutStartSec|TimeoutStopSec)=(\d+)$", re.MULTILINE)
# The unit is active when the guest has said that it is ready, through its hypervisor (systemd.service(5), Type=).
_NOTIFY: t.Final = "Type=notify"
_LOADED = re.compile(r"^LoadCredential=([^:\n]+):(.+)$", re.MULTILINE)


def settings(wish: GuestWish, before: str | None, loads: t.Mapping[str, str] | None = None) -> str | None:
    """The drop-in that the wish asks for, None when it asks for none, empty when there is to be none.

    *loads* are the files of credentials by their names.  What nobody speaks of stays as *before*.
    """
    wished = {"TimeoutStartSec": wish.start_timeout, "TimeoutStopSec": wish.stop_timeout}
    notifies = wish.health.notifies if wish.health.asked else _NOTIFY in (before or "").splitlines()
    unsaid = all(value is None for value in wished.values()) and loads is None
    if unsaid and notifies is (_NOTIFY in (before or "").splitlines()):
        return None
    values = {key: int(value) for key, value in _SETTING.findall(before or "")}
    values.update({key: value for key, value in wished.items() if value is not None})
    files = dict(_LOADED.findall(before or "")) if loads is None else loads
    lines = [f"LoadCredential={name}:{files[name]}" for name in sorted(files)]
    lines += [f"{key}={values[key]}" for key in sorted(values)]
    if notifies:
        lines.append(_NOTIFY)
    return "".join(f"{line}\n" for line in ("[Service]", *lines)) if lines else ""


def conflicts(plans: t.Sequence[GuestPlan], host: Host) -> tuple[GuestPlan, ...]:
    """The plans, with an error in place of the steps of each guest that would claim what another guest has.

    Interfaces, MACs, vsock CIDs and images outside the state directory are compared over the whole host; microvm.nix
    itself looks within one guest only (nixos-modules/microvm/asserts.nix).
    """
    runners: dict[str, Runner | None] = {name: guest.runner for name, guest in host.guests.items()}
    runners.update({plan.name: _claimant(plan) for plan in plans})
    owners: dict[tuple[str, str], list[str]] = {}
    for name, runner in runners.items():
        for claim in _claims(runner):
            owners.setdefault(claim, []).append(name)

    def clash(plan: GuestPlan) -> FleetError | None:
        if plan.error is not None or not any(isinstance(step, (Stage, Create, Switch)) for step in plan.steps):
            return None
        for kind, value in _claims(_claimant(plan)):
            for other in owners[kind, value]:
                if other != plan.name:
                    return InvalidWish(
                        f"its {kind} {value} is also that of guest {other} on this host.",
                        subject=plan.wish.subject,
                        field=_FIELDS[kind],
                        hint="Give each guest its own.",
                    )
        return None

    clashes = {plan.name: clash(plan) for plan in plans}
    return tuple(
        dataclasses.replace(plan, steps=(), error=clashes[plan.name]) if clashes[plan.name] is not None else plan
        for plan in plans
    )


def _claimant(plan: GuestPlan) -> Runner | None:
    """The runner that the guest has once its plan is carried out, and whose claims count therefore."""
    if plan.error is not None or plan.target is None:
        return None if plan.wish.state == "absent" and plan.error is None else plan.guest.runner
    return plan.target.runner


_FIELDS: t.Final = {
    "interface": "microvm.interfaces",
    "MAC": "microvm.interfaces",
    "vsock CID": "microvm.vsock.cid",
    "image": "microvm.volumes",
}


def _claims(runner: Runner | None) -> t.Iterator[tuple[str, str]]:
    if runner is None:
        return
    for interface in runner.interfaces:
        if interface.type in ("tap", "macvtap"):
            yield "interface", interface.id
        if interface.mac:
            yield "MAC", interface.mac
    if runner.vsock_cid is not None:
        yield "vsock CID", str(runner.vsock_cid)
    for volume in runner.volumes:
        if volume.image.startswith("/") and not volume.read_only:
            yield "image", volume.image


def unprepared(plans: t.Sequence[GuestPlan], host: Host) -> tuple[GuestPlan, ...]:
    """The plans, with an error for each that needs a host that the role for hosts has set up, if it has not."""
    if host.prepared:
        return tuple(plans)
    return tuple(
        each
        if each.error is not None or not any(isinstance(step, (Create, Start, Autostart)) for step in each.steps)
        else dataclasses.replace(
            each,
            steps=(),
            error=InvalidWish(
                f"this host has no unit {unit_of('')} or no /var/lib/microvms.",
                subject=each.wish.subject,
                field="state",
                hint="Run the role microvm.fleet.host on it first.",
            ),
        )
        for each in plans
    )


def beyond(plans: t.Sequence[GuestPlan], host: Host, *, switch_ahead: bool = False) -> tuple[GuestPlan, ...]:
    """The plans, with an error for each that would change what a NixOS host's system says, as only a switch does.

    With *switch_ahead* without those changes instead: a switch that comes before makes them.
    """
    if not host.nixos:
        return tuple(plans)
    if switch_ahead:
        of_system = (Autostart, Settings)
        return tuple(
            dataclasses.replace(each, steps=tuple(step for step in each.steps if not isinstance(step, of_system)))
            for each in plans
        )
    return tuple(
        each if each.error is not None or error is None else dataclasses.replace(each, steps=(), error=error)
        for each, error in ((each, _beyond(each)) for each in plans)
    )


def _beyond(plan: GuestPlan) -> FleetError | None:
    for step in plan.steps:
        if isinstance(step, Autostart):
            seen = f"the system of this NixOS host {'does not start' if step.enable else 'starts'} the guest."
            return _of_system(plan, "autostart", seen)
        if isinstance(step, Settings):
            wished = ", ".join(step.text.split("\n")[1:-1]) or "nothing"
            return _of_system(plan, "settings", f"the system of this NixOS host does not set {wished} for it.")
        if isinstance(step, Remove) and (plan.guest.settings or plan.guest.share_settings):
            return _of_system(plan, "state", "the system of this NixOS host has settings for it.")
    return None


def _of_system(plan: GuestPlan, option: str, seen: str) -> FleetError:
    return FleetError(
        seen,
        subject=plan.wish.subject,
        field=option,
        hint="The roles microvm.fleet.guests and microvm.fleet.autostart describe such things in "
        "/etc/microvm-fleet/host.json and switch the host. Use them, or switch it to a system of its configuration.",
    )


def project(described: t.Mapping[str, t.Any], plan: GuestPlan) -> dict[str, t.Any]:
    """The structure of `describe` as it will be after the steps: what the diff shows, and check mode returns."""
    after = dict(described)
    generations = list(after["generations"])
    for step in plan.steps:
        if isinstance(step, Stage):
            after["staged"] = step.runner
        elif isinstance(step, Unstage):
            after["staged"] = None
        elif isinstance(step, Keep):
            generations.append({"number": step.number, "runner": step.runner, "created": None})
        elif isinstance(step, Forget):
            generations = [each for each in generations if each["number"] not in step.numbers]
        elif isinstance(step, (Create, Switch)):
            flake = step.flake or after["flake"]
            after.update(exists=True, current=step.runner, flake=flake, described=flake == DESCRIBED)
            if plan.target is not None:
                after.update(_facts(plan.target.runner))
        elif isinstance(step, Write):
            record = step.record
            after.update(owner="fleet", locked=record.locked, protect=record.protect, labels=dict(record.labels))
            after.update(healthy=record.healthy, judging=record.judging, rejected=dict(record.rejected))
        elif isinstance(step, Judged):
            rejected = {runner: why for runner, why in after["rejected"].items() if runner != step.runner}
            after.update(healthy=step.runner, judging=None, rejected=rejected)
        elif isinstance(step, Autostart):
            after["autostart"] = step.enable
        elif isinstance(step, Stop):
            after.update(active=False, booted=None, restart_needed=False)
        elif isinstance(step, Start):
            after.update(active=True, booted=after["current"], restart_needed=False)
        elif isinstance(step, Live):
            after["restart_needed"] = False
        elif isinstance(step, Remove):
            after = describe(Guest(plan.name))
            generations = []
    after["generations"] = generations
    numbers = [each["number"] for each in generations if each["runner"] == after["current"]]
    after["generation"] = max(numbers, default=None)
    return after


def _facts(runner: Runner) -> dict[str, t.Any]:
    return {
        "hypervisor": runner.hypervisor,
        "host_name": runner.host_name,
        "interfaces": [interface.as_dict() for interface in runner.interfaces],
        "volumes": [volume.as_dict() for volume in runner.volumes],
        "vsock_cid": runner.vsock_cid,
        "can_shutdown": runner.can_shutdown,
    }
