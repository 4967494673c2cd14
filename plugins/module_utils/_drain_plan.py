# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What it takes to drain a host, or to bring it back: pure functions of what was observed.

Private to the collection: it may change at any time.

The mark of the host is written before the first guest is stopped, and says which guests ran.  A run that is killed
leaves it, so the next one stops what still runs; on the way back, it starts what of that list does not run yet.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Guest, Host
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import ORDER_LIMIT, STOP_ORDER, place_of
from ansible_collections.microvm.fleet.plugins.module_utils._holds import CONDITIONS, Drained, Ran

# The place of guests whose labels say none.
DEFAULT_ORDER: t.Final = 50


@dataclass(frozen=True)
class DrainWish:
    """What the operator wishes of a host.  *reason* None is "not said": one that is there stays."""

    drained: bool = True
    reason: str | None = None
    # Guests that are protected are stopped too.
    protected: bool = False


@dataclass(frozen=True)
class DrainPlan:
    """What is to be done, in this order: the mark, the groups of guests one after the other, the end of the mark."""

    wish: DrainWish
    # The mark that is to be written, None when it is as it should be, or there is to be none.
    mark: Drained | None = None
    # Guests that are stopped, or started, together; with the number that they have in common.
    groups: tuple[tuple[int, tuple[str, ...]], ...] = ()
    # The mark goes when all guests of the groups are up.
    lift: bool = False
    # Guests that ran, and are not there any more.
    gone: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.mark is not None or self.groups or self.lift)

    def words(self) -> list[str]:
        """The steps for `actions`, the same in check mode."""
        said = []
        if self.mark is not None:
            said.append("let no guest start" if self.wish.drained else "let guests start")
        verb = "stop" if self.wish.drained else "start"
        said += [f"{name}: {verb} ({STOP_ORDER} {order})" for order, names in self.groups for name in names]
        if self.lift:
            said.append("be drained no more")
        return said

    def mark_after(self, before: Drained | None) -> Drained | None:
        """The mark once the plan is carried out, of a host that had *before*."""
        return None if self.lift else self.mark or before


def order_of(guest: Guest) -> int:
    """The guest's place in the order of stops.  Raises InvalidWish when its label is no such number."""
    text = guest.record.labels.get(STOP_ORDER) if guest.record is not None else None
    if text is None:
        return DEFAULT_ORDER
    place = place_of(text)
    if place is None:
        raise InvalidWish(
            f"{text!r} is no place in an order.",
            subject=guest.subject,
            field=f"labels.{STOP_ORDER}",
            hint=f"Give a whole number from 0 to {ORDER_LIMIT} to microvm_guests, and run that first.",
        )
    return place


def plan(wish: DrainWish, host: Host, *, now: str, holding: bool) -> DrainPlan:
    """What is to be done on *host*.

    *now* is the time for a mark that is new, in UTC as ISO 8601 has it.  *holding* says whether the units of guests
    look at the mark.  Raises InvalidWish when nothing may be done.
    """
    _check_mark(host)
    return _drain(wish, host, now=now, holding=holding) if wish.drained else _undrain(wish, host)


def _check_mark(host: Host) -> None:
    if host.drained is not None and not host.drained.readable:
        place = "returning" if host.drained.returning else "drained"
        raise InvalidWish(
            f"/var/lib/microvm-fleet/{place}.json says nothing that can be read.",
            subject="host",
            field="state",
            hint="Remove it, and start the guests that are to run.",
        )


def _drain(wish: DrainWish, host: Host, *, now: str, holding: bool) -> DrainPlan:
    running = [guest for _name, guest in sorted(host.guests.items()) if guest.unit.up]
    before = host.drained
    if host.guests and not holding and (before is None or before.returning or running):
        raise InvalidWish(
            f"the units of guests do not have {CONDITIONS[0]}, so a reboot would start them again.",
            subject="host",
            field="state",
            hint="Run the role microvm.fleet.host on it first.",
        )
    protected = [guest.name for guest in running if guest.record is not None and guest.record.protect]
    if protected and not wish.protected:
        raise InvalidWish(
            f"{', '.join(protected)} {'is' if len(protected) == 1 else 'are'} protected, and would be stopped.",
            subject="host",
            field="protected",
            hint="Say protected: true to stop protected guests too. Nothing was changed.",
        )
    ran = {guest.name: Ran(guest.name, order_of(guest)) for guest in running}
    # A run that was killed in the middle of a restart has left a mark on its guest.
    ran.update({guest.name: Ran(guest.name, order_of(guest)) for guest in host.guests.values() if guest.interrupted})
    known = {each.name: each for each in before.guests} if before is not None else {}
    mark = Drained(
        since=before.since if before is not None and not before.returning else now,
        reason=wish.reason if wish.reason is not None else (before.reason if before is not None else None),
        guests=tuple(sorted({**known, **ran}.values(), key=lambda each: (each.order, each.name))),
    )
    groups = _groups([ran[guest.name] for guest in running])
    return DrainPlan(wish, mark=None if mark == before else mark, groups=groups)


def _undrain(wish: DrainWish, host: Host) -> DrainPlan:
    before = host.drained
    if before is None:
        return DrainPlan(wish)
    down = [each for each in before.guests if _is_to_start(each.name, host)]
    return DrainPlan(
        wish,
        mark=None if before.returning else replace(before, returning=True),
        groups=tuple(reversed(_groups(down))),
        lift=True,
        gone=tuple(each.name for each in before.guests if not host.guest(each.name).exists),
    )


def _is_to_start(name: str, host: Host) -> bool:
    guest = host.guest(name)
    # One that moves is started by the move, here or there.
    return guest.exists and not guest.unit.active and name not in host.moving


def _groups(guests: t.Iterable[Ran]) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Names by their number, lowest first; of a group in the order of names."""
    together: dict[int, list[str]] = {}
    for each in guests:
        together.setdefault(each.order, []).append(each.name)
    return tuple((order, tuple(sorted(names))) for order, names in sorted(together.items()))
