# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Generations, and what is done about a runner that turns out not to be healthy; without any I/O.

Private to the collection: it may change at any time.

The record says how far a judgement has come (docs/architecture.md): `judging` is written before `current` moves, the
rejection of a runner before `current` moves back.  Whatever a run was killed at, the next one sees what is left to do.
"""

from __future__ import annotations

import dataclasses
import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import DESCRIBED
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Guest, Record
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import (
    SHARES_UNIT,
    UNIT,
    Await,
    Judged,
    Keep,
    Mark,
    Reject,
    Settings,
    Start,
    Step,
    Stop,
    Sweep,
    Switch,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import GuestWish

# How many runners that were rejected a record names.
REJECTED: t.Final = 10


@dataclass(frozen=True)
class Place:
    """A runner, and the number that it has among the generations."""

    runner: str
    number: int | None = None

    def words(self) -> str:
        """For messages."""
        return self.runner if self.number is None else f"generation {self.number} ({self.runner})"

    def as_dict(self) -> dict[str, t.Any]:
        """For results."""
        return {"number": self.number, "runner": self.runner}


@dataclass(frozen=True)
class Revert:
    """How a guest goes back from *origin* to *back*.  With *reason* an earlier run has begun it."""

    origin: Place
    back: Place
    steps: tuple[Step, ...]
    reason: str | None = None


# Records


def judged(record: Record, runner: str) -> Record:
    """The *record* once *runner* was found healthy."""
    rejected = {path: reason for path, reason in record.rejected.items() if path != runner}
    return dataclasses.replace(record, healthy=runner, judging=None, rejected=rejected)


def rejecting(record: Record, runner: str, reason: str, back: str) -> Record:
    """The *record* once *runner* was found not to be healthy, and the guest is to go *back* to another."""
    rejected = {path: why for path, why in record.rejected.items() if path != runner}
    rejected[runner] = reason
    newest = dict(list(rejected.items())[-REJECTED:])
    return dataclasses.replace(record, judging=back, rejected=newest)


def switching(record: Record, runner: str) -> Record:
    """The *record* before the guest is switched to *runner*, which is tried anew if it was rejected before."""
    rejected = {path: reason for path, reason in record.rejected.items() if path != runner}
    return dataclasses.replace(record, judging=runner, rejected=rejected)


def is_judged(record: Record | None, runner: str | None) -> bool:
    """Whether the *record* says of *runner* that it is healthy, and there is nothing left to be found out."""
    return record is not None and record.healthy == runner and record.judging is None


# Generations


def generation(wish: GuestWish, guest: Guest) -> str:
    """The runner of the generation that the wish names.  Raises InvalidWish where there is no such one."""
    asked = str(wish.generation)
    there = [each for each in guest.generations if not each.missing]
    known = ", ".join(f"{each.number} ({each.runner})" for each in there)
    hint = f"It has {known}." if known else "It gets its first one from the collection with its next update."
    seen = f"the guest has no generation {asked}."
    found: str | None = None
    if not guest.exists:
        seen, hint = "the guest does not exist.", "Create it first."
    elif guest.owner == "nixos":
        seen = "the guest belongs to the NixOS configuration of this host, and has no generations here."
        hint = "Go back to an earlier generation of the host."
    elif asked == "healthy":
        found = guest.record.healthy if guest.record is not None else None
        found = found if found == guest.current or any(each.runner == found for each in there) else None
        seen = "no generation that is kept was ever found healthy."
    elif asked == "previous":
        found = _previous(guest)
        seen = "there is no generation before the current one that was not rejected."
    else:
        found = next((each.runner for each in there if each.number == int(asked)), None)
    if found is None:
        raise InvalidWish(seen, subject=wish.subject, field="generation", hint=hint)
    return found


def _previous(guest: Guest) -> str | None:
    """The runner of the generation before the one that is current, as ``nix-env --rollback`` goes back."""
    number = guest.generation
    rejected = guest.record.rejected if guest.record is not None else {}
    for each in reversed(guest.generations):
        before = number is None or each.number < number
        if before and each.runner != guest.current and each.runner not in rejected and not each.missing:
            return each.runner
    return None


def staged(wish: GuestWish, guest: Guest) -> str | None:
    """The runner that is staged and to be activated, None when there is none.

    Raises InvalidWish when it is not what the wish speaks of.  That of a guest that is described is compared where
    descriptions are read.
    """
    if not guest.exists:
        raise InvalidWish(
            "does not exist, and only what is staged may be used.",
            subject=wish.subject,
            field="update",
            hint="Stage it first (update: stage), which creates a guest that is missing.",
        )
    path, record = guest.staged, guest.record
    if path is None or path == guest.current or guest.owner == "nixos":
        return None
    hint = "Stage it again (update: stage)."
    if record is None or record.runner != path:
        raise InvalidWish(
            f"{path} is staged, and no run has noted that it is complete.",
            subject=wish.subject,
            field="update",
            hint=hint,
        )
    if wish.runner is not None and wish.runner != path:
        raise InvalidWish(f"{path} is staged, and not that one.", subject=wish.subject, field="runner", hint=hint)
    flake = wish.flake if wish.runner is None else None
    if flake is not None and flake != record.flake:
        source = "a runner" if record.flake is None else record.flake
        raise InvalidWish(
            f"what is staged comes from {source}, and not from {flake}.",
            subject=wish.subject,
            field="hypervisor" if flake == DESCRIBED else "flake",
            hint=hint,
        )
    return path


# Judgements


def begun(guest: Guest) -> Place | None:
    """Where an earlier run, which was killed, wanted the guest to go back to."""
    record = guest.record
    if record is None or guest.current not in record.rejected or record.judging in (None, guest.current):
        return None
    return place_of(guest, str(record.judging), ())


def fallback(wish: GuestWish, guest: Guest, runner: str) -> str | None:
    """The runner to go back to when *runner* is not healthy, None where there is none.

    The one that was last found healthy, or the one that ran, or the newest generation before it; of a guest that was
    told a generation, the one that it had.  Only what is kept, and was not rejected itself.
    """
    record = guest.record
    rejected = record.rejected if record is not None else {}
    there = {each.runner for each in guest.generations if not each.missing}
    if guest.current is not None and guest.runner is not None and guest.runner.runs:
        there.add(guest.current)
    numbers = [each.number for each in guest.generations if each.runner == runner]
    before = [each.runner for each in reversed(guest.generations) if not numbers or each.number < max(numbers)]
    candidates = [
        guest.current if wish.generation is not None else None,
        record.healthy if record is not None else None,
        guest.booted if guest.unit.active else None,
        guest.current,
        *before,
    ]
    return next((each for each in candidates if each in there and each not in rejected and each != runner), None)


def revert(wish: GuestWish, guest: Guest, runner: str, steps: t.Sequence[Step]) -> Revert | None:
    """What is to be done when *runner*, to which *steps* bring the guest, is not healthy; None for nothing."""
    back = fallback(wish, guest, runner)
    if back is None:
        return None
    flakes = [step.flake for step in steps if isinstance(step, Switch)]
    return Revert(
        origin=place_of(guest, runner, steps),
        back=place_of(guest, back, steps),
        steps=(
            Stop(guest.name),
            Reject(guest.name, runner, back),
            Switch(guest.name, back, guest.flake if flakes and flakes[0] != guest.flake else None),
            *_settings_back(guest, steps),
            Start(guest.name),
            Await(guest.name),
            Judged(guest.name, back),
        ),
    )


def rest(wish: GuestWish, guest: Guest, back: Place) -> Revert:
    """What is left of a revert that an earlier run has begun: see `begun`."""
    record, current = guest.record, str(guest.current)
    reason = record.rejected[current] if record is not None else ""
    starting = wish.state != "stopped" and (guest.unit.up or guest.interrupted or wish.state != "present")
    steps: list[Step] = [Sweep(guest.name)] if guest.litter else []
    if starting and not guest.interrupted:
        steps.append(Mark(guest.name))
    if guest.unit.up:
        steps.append(Stop(guest.name))
    steps.append(Switch(guest.name, back.runner, None))
    if starting:
        steps += [Start(guest.name), Await(guest.name), Judged(guest.name, back.runner)]
    return Revert(origin=place_of(guest, current, ()), back=back, steps=tuple(steps), reason=reason)


def _settings_back(guest: Guest, steps: t.Sequence[Step]) -> t.Iterator[Step]:
    """The settings that the units had, where the new ones load other credentials."""
    before = {UNIT: guest.settings, SHARES_UNIT: guest.share_settings}
    for step in steps:
        if isinstance(step, Settings) and _loaded(step.text) != _loaded(before[step.unit]):
            yield Settings(guest.name, before[step.unit] or "", step.unit)


def _loaded(text: str | None) -> list[str]:
    return [line for line in (text or "").splitlines() if line.startswith("LoadCredential=")]


def place_of(guest: Guest, runner: str, steps: t.Sequence[Step]) -> Place:
    """*runner* with its number once *steps* are done."""
    numbers = [each.number for each in guest.generations if each.runner == runner]
    numbers += [step.number for step in steps if isinstance(step, Keep) and step.runner == runner]
    return Place(runner, max(numbers, default=None))


def refusal(wish: GuestWish, guest: Guest, runner: str) -> InvalidWish | None:
    """Why the guest may not be switched to *runner* again, None when it may."""
    reason = guest.record.rejected.get(runner) if guest.record is not None else None
    if reason is None or wish.retry:
        return None
    return InvalidWish(
        f"{place_of(guest, runner, ()).words()} was tried before, and the guest was taken back from it: {reason}",
        subject=wish.subject,
        field="update" if wish.generation is None else "generation",
        hint="Change the guest's configuration, or say retry: true to try it again.",
    )
