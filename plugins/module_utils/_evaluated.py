# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests that one host has evaluated for others: as it is sent, and as it is read.

Private to the collection: it may change at any time.

``{REFERENCE: {"identity": IDENTITY, "guests": {NAME: FACTS}}}``, where FACTS are those of `Runner.as_dict` with the
``derivation``, which may be missing, or ``{"error": SEEN, "field": OPTION, "hint": WORDS}``.  Of the static flake the
identity is the hash of its files, and its guests go by the identities of their descriptions: guests of several hosts
may have the same name there.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._contract import Runner, is_store_path, runner_of_dict
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish

HINT: t.Final = "Give what microvm.fleet.microvm_build has returned."


@dataclass(frozen=True)
class Found:
    """A guest that was evaluated: its runner, and the derivation that makes it where that is known."""

    runner: Runner
    derivation: str | None = None


@dataclass(frozen=True)
class Elsewhere:
    """A flake that was evaluated on another host: what it was then, and its guests or why they have no runner."""

    identity: str
    guests: t.Mapping[str, Found | FleetError]

    def as_dict(self) -> dict[str, t.Any]:
        """To be sent; the inverse is `read`."""
        return {"identity": self.identity, "guests": {name: _sent(guest) for name, guest in self.guests.items()}}


def _sent(guest: Found | FleetError) -> dict[str, t.Any]:
    if isinstance(guest, FleetError):
        return {"error": guest.seen, "field": guest.field, "hint": guest.hint}
    return {**guest.runner.as_dict(), "derivation": guest.derivation}


def read(value: t.Mapping[str, t.Any] | None) -> dict[str, Elsewhere]:
    """What was sent.  Raises InvalidWish for what nobody would have sent."""
    return {str(reference): _flake(str(reference), entry) for reference, entry in (value or {}).items()}


def _flake(reference: str, entry: t.Any) -> Elsewhere:
    if not isinstance(entry, t.Mapping):
        raise InvalidWish(f"{entry!r} is no dictionary.", field=f"evaluated.{reference}", hint=HINT)
    identity, guests = entry.get("identity"), entry.get("guests")
    if not isinstance(identity, str) or not identity:
        raise InvalidWish(f"{identity!r} is no text.", field=f"evaluated.{reference}.identity", hint=HINT)
    if not isinstance(guests, t.Mapping):
        raise InvalidWish(f"{guests!r} is no dictionary.", field=f"evaluated.{reference}.guests", hint=HINT)
    return Elsewhere(
        identity=identity,
        guests={str(name): _guest(f"evaluated.{reference}.guests.{name}", facts) for name, facts in guests.items()},
    )


def _guest(field: str, facts: t.Any) -> Found | FleetError:
    if not isinstance(facts, t.Mapping):
        raise InvalidWish(f"{facts!r} is no dictionary.", field=field, hint=HINT)
    if facts.get("error"):
        return FleetError(str(facts["error"]), field=facts.get("field") or "flake", hint=facts.get("hint"))
    path, derivation = facts.get("path"), facts.get("derivation")
    if not isinstance(path, str) or not is_store_path(path):
        raise InvalidWish(f"{path!r} is no path of a package in /nix/store.", field=f"{field}.path", hint=HINT)
    if derivation is not None and not (
        isinstance(derivation, str) and is_store_path(derivation) and derivation.endswith(".drv")
    ):
        raise InvalidWish(f"{derivation!r} is no derivation.", field=f"{field}.derivation", hint=HINT)
    try:
        return Found(runner=runner_of_dict(facts), derivation=derivation)
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidWish(
            f"its facts are not those of a runner ({type(error).__name__}: {error}).", field=field, hint=HINT
        ) from None
