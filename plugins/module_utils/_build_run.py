# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests of a whole fleet evaluated and built on one host: what the module calls.

Private to the collection: it may change at any time.

A flake is resolved once, evaluated once for all of its guests that need it, and everything is built in few processes.
What becomes of it is for others: see `_evaluated`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import typing as t
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils import _closure, _files, _nix, _space
from ansible_collections.microvm.fleet.plugins.module_utils._build_places import Places
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import (
    CommandError,
    FleetError,
    InvalidWish,
    explaining,
)
from ansible_collections.microvm.fleet.plugins.module_utils._evaluated import Elsewhere, Found
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import DESCRIBED, name_faults
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import (
    Limits,
    flake_faults,
)
from ansible_collections.microvm.fleet.plugins.module_utils._paths import STORE, Paths

if t.TYPE_CHECKING:  # pragma: no cover
    from ansible_collections.microvm.fleet.plugins.module_utils._descriptions import Static


@dataclass(frozen=True)
class Source:
    """Guests of one flake.  *recorded*: of guests, the identities of the flake by which their hosts have them."""

    flake: str
    guests: tuple[str, ...]
    recorded: t.Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A guest that is described: its entry of guests.json, and the identity by which its host has it."""

    name: str
    entry: t.Mapping[str, t.Any]
    recorded: str | None = None


@dataclass
class Built:
    """What was found and built.

    *sizes* are bytes of closures by runner; *identities* those of the descriptions, in their order.
    """

    flakes: dict[str, Elsewhere] = field(default_factory=dict)
    runners: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    identities: list[str] = field(default_factory=list)

    def values(self) -> dict[str, t.Any]:
        """What the module returns."""
        return {
            "changed": bool(self.missing),
            "evaluated": {reference: flake.as_dict() for reference, flake in sorted(self.flakes.items())},
            "runners": self.runners,
            "built": self.missing,
            "sizes": self.sizes,
            "identities": self.identities,
        }

    @property
    def failures(self) -> list[str]:
        """What is wrong with guests, a message each."""
        found = []
        for flake in self.flakes.values():
            found += [guest.text() for guest in flake.guests.values() if isinstance(guest, FleetError)]
        return list(dict.fromkeys(found))


def sources_spec() -> dict[str, t.Any]:
    """The argument spec of what is to be built."""
    return {
        "sources": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "flake": {"type": "str", "required": True},
                "guests": {"type": "list", "elements": "str", "required": True},
                "recorded": {"type": "dict", "default": {}},
            },
        },
        "described": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "name": {"type": "str", "required": True},
                "entry": {"type": "dict", "required": True},
                "recorded": {"type": "str"},
            },
        },
    }


def read_sources(entries: t.Iterable[t.Mapping[str, t.Any]]) -> tuple[Source, ...]:
    """The sources of *entries*, one a flake.  Raises InvalidWish with all that is wrong."""
    wrong: list[str] = []
    guests: dict[str, dict[str, None]] = {}
    recorded: dict[str, dict[str, tuple[str, ...]]] = {}
    for number, entry in enumerate(entries):
        flake, place = entry["flake"], f"sources[{number}]"
        faults = [(f"{place}.flake", seen) for seen in flake_faults(flake)]
        if flake == DESCRIBED:
            faults.append((f"{place}.flake", "is the static flake; its guests go by their descriptions."))
        for name in entry["guests"]:
            faults += [(f"{place}.guests", seen) for seen in name_faults(name)]
        wrong += [InvalidWish(seen, field=option).text() for option, seen in faults]
        guests.setdefault(flake, {}).update(dict.fromkeys(entry["guests"]))
        for name, said in (entry.get("recorded") or {}).items():
            known = recorded.setdefault(flake, {})
            known[name] = (*known.get(name, ()), *((said,) if isinstance(said, str) else tuple(said or ())))
    if wrong:
        raise InvalidWish("\n".join(wrong))
    return tuple(
        Source(flake=flake, guests=tuple(sorted(names)), recorded=recorded.get(flake, {}))
        for flake, names in guests.items()
    )


@explaining()
def build(
    sources: t.Sequence[Source],
    described: t.Sequence[Entry],
    *,
    places: Places,
    paths: Paths,
    commands: Commands,
    limits: Limits,
    make: bool,
    check: bool,
) -> Built:
    """Evaluate the guests of *sources* and those that are *described*, and with *make* build them.

    With *check* nothing is written.  What is wrong with one guest is in the result; raises FleetError when nothing
    could be done at all: no room, no static flake, no Nix.
    """
    result = Built()
    for source in sources:
        result.flakes[source.flake] = _evaluated(source, commands, limits, keep=make and not check)
    if described:
        static = _static(paths)
        result.identities = [static.identity(entry.name, entry.entry) for entry in described]
        result.flakes[DESCRIBED] = _described(
            static, dict(zip(result.identities, described)), paths, commands, limits, keep=make and not check
        )
    wanted = {
        guest.runner.path: guest.derivation or guest.runner.path
        for flake in result.flakes.values()
        for guest in flake.guests.values()
        if isinstance(guest, Found)
    }
    result.runners = sorted(wanted)
    if not make:
        return result
    if not check and not places.indirect:
        # Rooted before it is asked what is missing: what is there stays there.
        _root(result.flakes, places)
    result.missing = sorted(_nix.invalid(commands, wanted))
    if check:
        return result
    errors = _make({path: wanted[path] for path in result.missing}, paths, commands, limits)
    _blame(result, errors)
    if places.indirect:
        _root_indirectly(result.flakes, places, commands)
    argv = ["nix", *_nix.FEATURES, "path-info", "--closure-size", *result.runners]
    result.sizes = _closure.sizes_of_text(commands.run(argv).stdout) if result.runners else {}
    return result


def _evaluated(source: Source, commands: Commands, limits: Limits, *, keep: bool) -> Elsewhere:
    """One flake.  A guest that its hosts have by the identity of the flake is not evaluated again."""
    try:
        flake = _nix.resolve(commands, source.flake, timeout=limits.evaluate)
    except CommandError as error:
        failed = {name: _about(name, error) for name in source.guests}
        return Elsewhere(identity="unknown", guests=failed)
    names = [name for name in source.guests if set(source.recorded.get(name, ())) != {flake.identity}]
    answers = _nix.evaluate(commands, flake, names, timeout=limits.evaluate, keep=keep) if names else {}
    return Elsewhere(identity=flake.identity, guests={name: _found(name, each) for name, each in answers.items()})


def _found(name: str, answer: _nix.Evaluated | FleetError) -> Found | FleetError:
    if isinstance(answer, FleetError):
        return _about(name, answer)
    return Found(runner=answer.runner, derivation=answer.derivation)


def _about(name: str, error: FleetError, field: str | None = None) -> FleetError:
    """The *error* as one of guest *name*, without what only this host could do with it."""
    return FleetError(error.seen, subject=f"guest {name}", field=error.field or field or "flake", hint=error.hint)


def _static(paths: Paths) -> Static:
    """The static flake of this host.  Raises FleetError without one."""
    # Loaded for those who describe guests only.
    from ansible_collections.microvm.fleet.plugins.module_utils import _descriptions  # noqa: PLC0415

    try:
        return _descriptions.observe(paths)
    except FleetError as error:
        raise FleetError(
            f"guests that are described cannot be built here: {error.seen}",
            subject="builder",
            field="described",
            hint="Run the role microvm.fleet.flake on this host with the variables of the hosts that it builds for, or"
            " have those build their described guests themselves.",
        ) from None


def _described(
    static: Static,
    entries: t.Mapping[str, Entry],
    paths: Paths,
    commands: Commands,
    limits: Limits,
    *,
    keep: bool,
) -> Elsewhere:
    """Guests of the flake *static* by the identities of their descriptions.

    Guests of several hosts may have one name; each of those is evaluated in a candidate of its own.
    """
    rounds: list[dict[str, tuple[str, Entry]]] = []
    for identity, entry in entries.items():
        if identity == entry.recorded:
            continue
        free = next((each for each in rounds if entry.name not in each), None)
        if free is None:
            free = {}
            rounds.append(free)
        free[entry.name] = (identity, entry)
    guests: dict[str, Found | FleetError] = {}
    for some in rounds:
        guests.update(_candidate(static, some, paths, commands, limits, keep=keep))
    return Elsewhere(identity=static.content, guests=guests)


def _candidate(
    static: Static,
    some: t.Mapping[str, tuple[str, Entry]],
    paths: Paths,
    commands: Commands,
    limits: Limits,
    *,
    keep: bool,
) -> dict[str, Found | FleetError]:
    """Guests by identity, of a candidate that describes them and no others."""
    from ansible_collections.microvm.fleet.plugins.module_utils import _descriptions  # noqa: PLC0415

    wanted = {name: entry.entry for name, (_identity, entry) in some.items()}
    with _descriptions.candidate(paths, static, wanted, timeout=max(limits.lock, 10)) as directory:
        try:
            copy = _nix.resolve(commands, f"path:{directory}", timeout=limits.evaluate)
        except CommandError as error:
            raise _descriptions.unreadable(paths, error, directory) from error
        flake = dataclasses.replace(copy, reference=DESCRIBED)
        answers = _nix.evaluate(commands, flake, list(wanted), timeout=limits.evaluate, keep=keep)
    return {
        some[name][0]: _about(name, _descriptions.unbuildable(paths, answer, name))
        if isinstance(answer, FleetError)
        else Found(runner=answer.runner, derivation=answer.derivation)
        for name, answer in answers.items()
    }


def _make(wanted: t.Mapping[str, str], paths: Paths, commands: Commands, limits: Limits) -> t.Mapping[str, FleetError]:
    """Build what is *wanted*, if there is room; the errors by path."""
    if not wanted:
        return {}
    _space.require(
        [_space.Need(paths.store(STORE), limits.min_free * _space.MIB, "builds")],
        reserve=0,
        subject="builder",
        field="min_free",
        hint="Make room there, for example with nix-collect-garbage, or lower min_free. Nothing was built.",
    )
    return _nix.build(commands, wanted, timeout=limits.build)


def _blame(result: Built, errors: t.Mapping[str, FleetError]) -> None:
    """Give guests whose runners were not built the reason in place of a runner."""
    for reference, flake in result.flakes.items():
        guests = dict(flake.guests)
        for key, guest in flake.guests.items():
            if isinstance(guest, Found) and guest.runner.path in errors:
                name = key if reference != DESCRIBED else guest.runner.host_name or key
                guests[key] = _about(name, errors[guest.runner.path])
        result.flakes[reference] = dataclasses.replace(flake, guests=guests)
    result.runners = [path for path in result.runners if path not in errors]
    result.missing = [path for path in result.missing if path not in errors]


def _links(flakes: t.Mapping[str, Elsewhere], places: Places) -> dict[str, str]:
    """Links below the roots of the builder, and the runners that they lead to."""
    return {
        places.root_of(hashlib.sha256(reference.encode("utf-8")).hexdigest()[:16], name): guest.runner.path
        for reference, flake in flakes.items()
        for name, guest in flake.guests.items()
        if isinstance(guest, Found)
    }


def _root(flakes: t.Mapping[str, Elsewhere], places: Places) -> None:
    """Keep each runner from the garbage collector until its guest has another one."""
    unflushed = _files.Unflushed()
    for link, runner in _links(flakes, places).items():
        _files.make_directory(os.path.dirname(link), unflushed=unflushed)
        if _files.read_link(link) != runner:
            _files.write_link(link, runner, unflushed=unflushed)
    _files.flush_now(unflushed)


def _root_indirectly(flakes: t.Mapping[str, Elsewhere], places: Places, commands: Commands) -> None:
    """The same for a user, who cannot write among Nix' own roots: Nix notes where the links are."""
    for link, runner in _links(flakes, places).items():
        os.makedirs(os.path.dirname(link), mode=0o755, exist_ok=True)
        if _files.read_link(link) != runner:
            commands.run(["nix-store", "--realise", "--indirect", "--add-root", link, runner])
