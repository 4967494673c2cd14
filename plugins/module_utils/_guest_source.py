# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where guests that are missing, or that are to be updated, get their runners: resolved and evaluated.

Private to the collection: it may change at any time.  A run in which no guest needs a runner does not load it.
"""

from __future__ import annotations

import dataclasses
import os
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils import _guest_plan as planner
from ansible_collections.microvm.fleet.plugins.module_utils import _nix
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._contract import read_runner, runner_of_dict
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError, FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._evaluated import Elsewhere, Found
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import DESCRIBED
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Guest, Host, Record, merge
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import Target
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import GuestWish, Limits
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths

if t.TYPE_CHECKING:  # pragma: no cover
    from ansible_collections.microvm.fleet.plugins.module_utils._descriptions import Static


class Sources:
    """Runners of guests by their sources: every flake is resolved and evaluated once, whatever the number of guests.

    Of a flake and guest in *elsewhere*, by the flake's reference, another host has done both.
    """

    def __init__(
        self,
        paths: Paths,
        commands: Commands,
        limits: Limits,
        *,
        keep: bool,
        elsewhere: t.Mapping[str, Elsewhere] | None = None,
    ) -> None:
        self.elsewhere = elsewhere or {}
        self.paths = paths
        self.commands = commands
        self.limits = limits
        self.keep = keep
        self._flakes: dict[str, _nix.Flake | FleetError] = {}
        self._targets: dict[tuple[str, str], Target | FleetError] = {}

    def targets(self, wishes: t.Iterable[GuestWish], host: Host) -> dict[str, Target | FleetError]:
        """The target, or the error, of each guest that needs a runner in this run."""
        answers: dict[str, Target | FleetError] = {}
        unknown: dict[_nix.Flake, list[GuestWish]] = {}
        described = []
        going = set()
        for wish in wishes:
            if wish.state == "absent":
                going.add(wish.name)
            guest = host.guest(wish.name)
            try:
                there = planner.kept(wish, guest)
                source = planner.source(wish, guest) if there is None else None
            except FleetError as error:
                answers[wish.name] = error
                continue
            if there is not None:
                if _is_described(wish, guest):
                    described.append(wish)
                else:
                    answers[wish.name] = self._there(wish, guest, there)
                continue
            if source is None:
                continue
            if source.runner is not None:
                answers[wish.name] = Target(runner=read_runner(self.paths, source.runner), source=source.runner)
            elif source.flake == DESCRIBED:
                described.append(wish)
            elif source.flake is not None:
                sent = self._elsewhere(source.flake, wish, guest)
                if sent is not None:
                    answers[wish.name] = sent
                    continue
                flake = self._flake(source.flake, wish)
                if isinstance(flake, FleetError):
                    answers[wish.name] = flake
                    continue
                recorded = planner.recorded(guest, source.flake, flake.identity)
                if recorded is not None:
                    answers[wish.name] = recorded
                else:
                    unknown.setdefault(flake, []).append(wish)
        for flake, some in unknown.items():
            answers.update(self._evaluated(flake, some))
        if described:
            answers.update(self._described(described, host, going))
        return answers

    def _elsewhere(self, reference: str, wish: GuestWish, guest: Guest) -> Target | FleetError | None:
        """What another host has found of the guest; None when it was not asked."""
        flake = self.elsewhere.get(reference)
        if flake is None:
            return None
        known = planner.recorded(guest, reference, flake.identity)
        if known is not None or wish.name not in flake.guests:
            return known
        return self._found(flake.guests[wish.name], wish, reference, flake.identity)

    def _found(self, found: Found | FleetError, wish: GuestWish, reference: str, identity: str) -> Target | FleetError:
        if isinstance(found, FleetError):
            return _of(wish, found)
        derivation = found.derivation
        there = derivation is not None and os.path.lexists(self.paths.store(derivation))
        source = derivation if derivation is not None and there else found.runner.path
        return Target(runner=found.runner, source=source, flake=reference, locked=identity)

    def _there(self, wish: GuestWish, guest: Guest, path: str) -> Target | FleetError:
        """The target of a guest that is to have the runner *path*, which is on the host: a generation, or staged."""
        record = guest.record or Record()
        runner = read_runner(self.paths, path)
        if not runner.runs:
            return InvalidWish(
                f"{path} is not in the store.",
                subject=wish.subject,
                field="update" if wish.generation is None else "generation",
                hint="Stage it again (update: stage)." if wish.generation is None else "Give another generation.",
            )
        if path in record.facts:
            runner = merge(runner, runner_of_dict(record.facts[path]))
        if wish.generation is not None:
            return Target(runner=runner, source=path, flake=None, kept=True)
        return Target(runner=runner, source=path, flake=record.flake, locked=record.locked)

    def _flake(self, reference: str, wish: GuestWish) -> _nix.Flake | FleetError:
        if reference not in self._flakes:
            try:
                self._flakes[reference] = _nix.resolve(self.commands, reference, timeout=self.limits.evaluate)
            except FleetError as error:
                self._flakes[reference] = error
        flake = self._flakes[reference]
        if isinstance(flake, FleetError):
            return FleetError(flake.seen, subject=wish.subject, field="flake", hint=flake.hint)
        return flake

    def _evaluated(self, flake: _nix.Flake, wishes: t.Sequence[GuestWish]) -> dict[str, Target | FleetError]:
        names = [wish.name for wish in wishes if (flake.reference, wish.name) not in self._targets]
        if names:
            answers = _nix.evaluate(self.commands, flake, names, timeout=self.limits.evaluate, keep=self.keep)
            for name, answer in answers.items():
                self._targets[flake.reference, name] = (
                    Target(runner=answer.runner, source=answer.derivation, flake=flake.reference, locked=flake.identity)
                    if isinstance(answer, _nix.Evaluated)
                    else answer
                )
        return {wish.name: self._targets[flake.reference, wish.name] for wish in wishes}

    def _described(
        self, wishes: t.Sequence[GuestWish], host: Host, going: t.Container[str]
    ) -> dict[str, Target | FleetError]:
        """The same for guests of the static flake, by descriptions that are not written there yet.

        Guests *going* are removed in this run: what they have is free.
        """
        # Loaded for those who describe guests only: most runs never need it.
        from ansible_collections.microvm.fleet.plugins.module_utils import (  # noqa: PLC0415
            _descriptions,
            _hypervisors,
        )

        answers: dict[str, Target | FleetError] = {}
        try:
            static = _descriptions.observe(self.paths)
        except FleetError as error:
            return {wish.name: _of(wish, error) for wish in wishes}
        staying = {name: entry for name, entry in static.guests.items() if name not in going}
        staying.update({wish.name: wish.description for wish in wishes if wish.description is not None})
        entries: dict[str, t.Mapping[str, t.Any]] = {}
        unknown: dict[str, str] = {}
        for wish in wishes:
            name, before = wish.name, static.guests.get(wish.name)
            entry = wish.description or before
            if entry is None:
                answers[name] = InvalidWish(
                    f"{_descriptions.FILE} has no description of it.",
                    subject=wish.subject,
                    field="hypervisor",
                    hint="Describe it: give hypervisor, and what else it is to have.",
                )
                continue
            clash = _claimed(wish, staying, static.host)
            if clash is not None:
                answers[name] = clash
                continue
            entries[name] = entry
            identity = static.identity(name, entry)
            known = planner.recorded(host.guest(name), DESCRIBED, identity)
            if known is None and planner.kept(wish, host.guest(name)) is not None:
                answers[name] = InvalidWish(
                    "what is staged was made of another description, or of other files of /etc/microvm-fleet.",
                    subject=wish.subject,
                    field="update",
                    hint="Stage it again (update: stage).",
                )
                del entries[name]
                continue
            answer = known if known is not None else self._targets.get((identity, name))
            if answer is None and DESCRIBED in self.elsewhere:
                answer = self._described_elsewhere(wish, identity, static)
            if answer is None:
                unknown[name] = identity
            else:
                answers[name] = answer
        if unknown:
            answers.update(self._candidates(static, {**static.guests, **entries}, unknown))
        for name, entry in entries.items():
            answer = answers[name]
            if isinstance(answer, Target):
                unit = _hypervisors.CREDENTIAL_UNITS.get(entry["hypervisor"])
                answers[name] = dataclasses.replace(
                    answer,
                    description=entry,
                    described=static.guests.get(name),
                    credentials={} if unit is None else {unit: tuple(entry["credentials"])},
                )
        return answers

    def _described_elsewhere(self, wish: GuestWish, identity: str, static: Static) -> Target | FleetError | None:
        """What another host has found of a guest by its description; None when it was not asked."""
        flake = self.elsewhere[DESCRIBED]
        if flake.identity != static.content:
            return InvalidWish(
                "it is to be built on another host, whose static flake in /etc/microvm-fleet is another one.",
                subject=wish.subject,
                field="hypervisor",
                hint="Run the role microvm.fleet.flake on both hosts with the same variables, and references that say a"
                " revision, or have this host build its described guests itself.",
            )
        if identity not in flake.guests:
            return None
        return self._found(flake.guests[identity], wish, DESCRIBED, identity)

    def _candidates(
        self, static: Static, guests: t.Mapping[str, t.Mapping[str, t.Any]], unknown: t.Mapping[str, str]
    ) -> dict[str, Target | FleetError]:
        """Targets of the guests *unknown* (name to identity) of the flake *static*, if it described *guests*."""
        from ansible_collections.microvm.fleet.plugins.module_utils import _descriptions  # noqa: PLC0415

        try:
            with _descriptions.candidate(self.paths, static, guests, timeout=max(self.limits.lock, 10)) as directory:
                try:
                    copy = _nix.resolve(self.commands, f"path:{directory}", timeout=self.limits.evaluate)
                except CommandError as error:
                    raise _descriptions.unreadable(self.paths, error, directory) from error
                flake = dataclasses.replace(copy, reference=DESCRIBED)
                found = _nix.evaluate(self.commands, flake, list(unknown), timeout=self.limits.evaluate, keep=self.keep)
        except FleetError as error:
            return {
                name: FleetError(error.seen, subject=f"guest {name}", field=error.field, hint=error.hint)
                for name in unknown
            }
        for name, answer in found.items():
            identity = unknown[name]
            self._targets[identity, name] = (
                Target(runner=answer.runner, source=answer.derivation, flake=DESCRIBED, locked=identity)
                if isinstance(answer, _nix.Evaluated)
                else _descriptions.unbuildable(self.paths, answer, name)
            )
        return {name: self._targets[identity, name] for name, identity in unknown.items()}


def _is_described(wish: GuestWish, guest: Guest) -> bool:
    """Whether what is staged, and is to be activated, is of a guest that is described."""
    described = guest.record is not None and guest.record.flake == DESCRIBED
    return wish.generation is None and wish.runner is None and described


def _of(wish: GuestWish, error: FleetError) -> FleetError:
    """The *error* of all as one of this guest."""
    return FleetError(error.seen, subject=wish.subject, field=error.field, hint=error.hint)


def _claimed(wish: GuestWish, staying: t.Mapping[str, t.Mapping[str, t.Any]], host: str | None) -> FleetError | None:
    """What of *wish* another guest of those *staying*, by their descriptions, has, or the *host* itself.

    Most of it is compared with the runners of all guests; addresses are in no runner.
    """
    if wish.name == host:
        return InvalidWish(
            "the host itself has this name in its flake.",
            subject=wish.subject,
            field="name",
            hint="Give the guest another name.",
        )
    mine = {address for interface in wish.interfaces for address in interface.addresses}
    for other, entry in sorted(staying.items()) if mine else ():
        for interface in entry.get("interfaces", ()) if other != wish.name else ():
            for address in interface.get("addresses", ()):
                if address.partition("/")[0] in mine:
                    return InvalidWish(
                        f"its address {address.partition('/')[0]} is also that of guest {other} on this host.",
                        subject=wish.subject,
                        field="interfaces",
                        hint="Give each guest its own.",
                    )
    return None
