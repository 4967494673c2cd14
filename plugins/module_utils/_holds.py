# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds guests from starting: a host that is drained, and a guest that moves to another host.

Private to the collection: it may change at any time.

Both are files that the units of guests have as conditions (``ConditionPathExists=!``, systemd.unit(5)), so they hold
through reboots, for starts by hand and for restarts after a crash.  A condition of ``microvms.target`` would not do:
systemd starts what a target wants whether or not the target's own condition holds.
"""

from __future__ import annotations

import json
import os
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.microvm.fleet.plugins.module_utils._files import TEMPORARY, read_text, sweep, write_file
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths

# The conditions as the unit of guests has them (roles/host/files/units).
CONDITIONS: t.Final = (
    "ConditionPathExists=!/var/lib/microvm-fleet/drained.json",
    "ConditionPathExists=!/var/lib/microvm-fleet/moving/%i.json",
)


@dataclass(frozen=True)
class Ran:
    """A guest that ran when its host was drained, and its place in the order of stops."""

    name: str
    order: int

    def as_dict(self) -> dict[str, t.Any]:
        """As it is kept on the host."""
        return {"name": self.name, "order": self.order}


@dataclass(frozen=True)
class Drained:
    """A host that is drained.  *since* is a time of UTC as ISO 8601 has it.

    With *returning* the guests are being started again, and nothing is held any more.
    """

    since: str
    reason: str | None = None
    guests: tuple[Ran, ...] = ()
    returning: bool = False
    # What the file says could be read.
    readable: bool = True

    def as_dict(self) -> dict[str, t.Any]:
        """As it is kept on the host."""
        return {"since": self.since, "reason": self.reason, "guests": [each.as_dict() for each in self.guests]}

    def shown(self) -> dict[str, t.Any]:
        """As modules return it."""
        return {**self.as_dict(), "returning": self.returning}

    @property
    def words(self) -> str:
        """Since when and why, for messages."""
        return f"drained since {self.since}" + (f" ({self.reason})" if self.reason else "")


def drained_of_text(text: str) -> Drained:
    """The mark in *text*.  What cannot be read is a mark all the same: units look at the file's name only."""
    try:
        values = json.loads(text)
        return Drained(
            since=str(values["since"]),
            reason=values["reason"],
            guests=tuple(Ran(name=str(each["name"]), order=int(each["order"])) for each in values["guests"]),
        )
    except (ValueError, KeyError, TypeError):
        return Drained(since="a time that its mark does not say", readable=False)


def write_mark(path: str, values: t.Mapping[str, t.Any]) -> None:
    """Have *values* in the mark *path*, and nothing beside it that a killed run left."""
    write_file(path, json.dumps(values, indent=1) + "\n", mode=0o600)
    sweep(path)


def read_drained(paths: Paths) -> Drained | None:
    """The mark of the host, None when it is not drained."""
    text = read_text(paths.drained)
    if text is not None:
        return drained_of_text(text)
    text = read_text(paths.returning)
    return replace(drained_of_text(text), returning=True) if text is not None else None


@dataclass(frozen=True)
class Moving:
    """A guest that moves between this host and *other*.

    *phase*: ``arriving`` (it is being copied to this host), ``leaving`` (it is being copied from this host), ``trying``
    (it is whole on the other host too, which may start it; this one may only when the other holds it again), ``moved``
    (it is on the other host).
    """

    name: str
    phase: str
    other: str
    # Of one move, the same on both hosts.
    move: str
    since: str = ""
    # What it was before: running, and started with the host.
    ran: bool = False
    autostart: bool = False
    readable: bool = True

    def as_dict(self) -> dict[str, t.Any]:
        """As it is kept on the host."""
        return {
            "phase": self.phase,
            "other": self.other,
            "move": self.move,
            "since": self.since,
            "ran": self.ran,
            "autostart": self.autostart,
        }

    def shown(self) -> dict[str, t.Any]:
        """As modules return it."""
        return {"name": self.name, "phase": self.phase, "other": self.other, "since": self.since}

    @property
    def words(self) -> str:
        """What is going on, for messages."""
        if not self.readable:
            return "is marked as moving, by a file that cannot be read"
        if self.phase == "moved":
            return f"was moved to {self.other} ({self.since})"
        return f"is being moved {'from' if self.phase == 'arriving' else 'to'} {self.other} (since {self.since})"


def moving_of_text(name: str, text: str) -> Moving:
    """The mark in *text*; one that cannot be read holds the guest all the same."""
    try:
        values = json.loads(text)
        return Moving(
            name=name,
            phase=str(values["phase"]),
            other=str(values["other"]),
            move=str(values["move"]),
            since=str(values["since"]),
            ran=bool(values["ran"]),
            autostart=bool(values["autostart"]),
        )
    except (ValueError, KeyError, TypeError):
        return Moving(name=name, phase="unknown", other="another host", move="", readable=False)


def read_moving(paths: Paths) -> dict[str, Moving]:
    """The guests that move, by name."""
    found = {}
    try:
        entries = os.listdir(paths.moving())
    except FileNotFoundError:
        return {}
    for entry in sorted(entries):
        if entry.endswith(".json") and not entry.startswith(TEMPORARY):
            name = entry[: -len(".json")]
            text = read_text(paths.moving(name))
            if text is not None:
                found[name] = moving_of_text(name, text)
    return found
