# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Draining and bringing back: tables of what was observed to what is done."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _drain_plan as planner
from ansible_collections.microvm.fleet.plugins.module_utils._drain_plan import DrainPlan, DrainWish
from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Guest, Host, Record
from ansible_collections.microvm.fleet.plugins.module_utils._holds import Drained, Moving, Ran
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import Unit

NOW = "2026-11-23T17:05:00Z"
EARLIER = "2026-11-20T00:00:00Z"
UP = Unit(active_state="active", sub_state="running")
TRYING = Unit(active_state="activating", sub_state="auto-restart")
ENDING = Unit(active_state="deactivating", sub_state="stop")


def guest(name: str, order: str | None = None, *, unit: Unit = UP, **fields: t.Any) -> Guest:
    record = Record(labels={} if order is None else {"stop_order": order}, protect=fields.pop("protect", False))
    return Guest(name, exists=True, directory=True, record=record, unit=unit, **fields)


def on(*guests: Guest, drained: Drained | None = None, **fields: t.Any) -> Host:
    return Host(guests={each.name: each for each in guests}, drained=drained, **fields)


def drain(host: Host, **wish: t.Any) -> DrainPlan:
    return planner.plan(DrainWish(**wish), host, now=NOW, holding=True)


def undrain(host: Host) -> DrainPlan:
    return planner.plan(DrainWish(drained=False), host, now=NOW, holding=True)


def mark(*guests: tuple[str, int], **fields: t.Any) -> Drained:
    return Drained(EARLIER, guests=tuple(Ran(*each) for each in guests), **fields)


# Draining


@pytest.mark.parametrize(
    ("guests", "groups", "listed"),
    [
        ((), (), ()),
        ((guest("a"),), ((50, ("a",)),), (("a", 50),)),
        ((guest("a", unit=Unit()),), (), ()),
        # The order is one of numbers; those with the same go together.
        (
            (guest("c", "9"), guest("b", "100"), guest("a", "9"), guest("d")),
            ((9, ("a", "c")), (50, ("d",)), (100, ("b",))),
            (("a", 9), ("c", 9), ("d", 50), ("b", 100)),
        ),
        # What systemd is at counts as running.
        ((guest("a", unit=TRYING), guest("b", unit=ENDING)), ((50, ("a", "b")),), (("a", 50), ("b", 50))),
        # A run that was killed had stopped it, to start it again.
        ((guest("a", unit=Unit(), interrupted=True),), (), (("a", 50),)),
        # Those of the host's configuration and of the microvm command too.
        ((Guest("n", exists=True, toplevel="/nix/store/x", unit=UP),), ((50, ("n",)),), (("n", 50),)),
    ],
)
def test_drain(guests: tuple[Guest, ...], groups: t.Any, listed: t.Any) -> None:
    plan = drain(on(*guests), reason="memory")
    assert plan.mark == Drained(NOW, "memory", tuple(Ran(*each) for each in listed))
    assert plan.groups == groups
    assert not plan.lift
    assert plan.changed


@pytest.mark.parametrize(
    ("host", "reason", "expected"),
    [
        # Nothing to do, whatever was or is.
        (on(drained=mark(("a", 50))), None, (None, ())),
        (on(guest("a", unit=Unit()), drained=mark(("a", 50), reason="memory")), "memory", (None, ())),
        (on(guest("a", unit=Unit()), drained=mark(("a", 50), reason="memory")), None, (None, ())),
        # A run that was killed after the mark, or between two groups.
        (on(guest("a"), drained=mark(("a", 50))), None, (None, ((50, ("a",)),))),
        (
            on(guest("a", "1", unit=Unit()), guest("b", "2"), drained=mark(("a", 1), ("b", 2))),
            None,
            (None, ((2, ("b",)),)),
        ),
        # Another reason, and a guest that came up in spite of the mark.
        (on(drained=mark(reason="memory")), "disk", (mark(reason="disk"), ())),
        (on(guest("b"), drained=mark(("a", 50))), None, (mark(("a", 50), ("b", 50)), ((50, ("b",)),))),
        # A host that was being brought back: those that did not run yet are remembered.
        (
            on(guest("a"), guest("b", unit=Unit()), drained=mark(("a", 50), ("b", 50), returning=True)),
            "disk",
            (Drained(NOW, "disk", (Ran("a", 50), Ran("b", 50))), ((50, ("a",)),)),
        ),
    ],
)
def test_drain_again(host: Host, reason: str | None, expected: t.Any) -> None:
    plan = drain(host, reason=reason)
    assert (plan.mark, plan.groups) == expected
    assert plan.changed is (expected != (None, ()))


@pytest.mark.parametrize("label", ["", "-1", "1000", "1.5", "first", " 1", "1\n", "\u0661"])
def test_a_label_that_is_no_order(label: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        drain(on(guest("a", label)))
    assert caught.value.text() == (
        f"guest a, labels.stop_order: {label!r} is no place in an order. "
        "Give a whole number from 0 to 999 to microvm_guests, and run that first."
    )


@pytest.mark.parametrize(("label", "order"), [("0", 0), ("7", 7), ("007", 7), ("999", 999), (None, 50)])
def test_orders(label: str | None, order: int) -> None:
    assert planner.order_of(guest("a", label)) == order
    assert planner.order_of(Guest("a")) == 50


def test_the_label_of_a_guest_that_does_not_run_is_of_no_matter() -> None:
    assert drain(on(guest("a", "first", unit=Unit()))).groups == ()


@pytest.mark.parametrize(
    ("guests", "said"),
    [
        ((guest("a", protect=True), guest("b")), "a is protected, and would be stopped."),
        ((guest("a", protect=True), guest("b", protect=True)), "a, b are protected, and would be stopped."),
    ],
)
def test_protected_guests(guests: tuple[Guest, ...], said: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        drain(on(*guests))
    assert caught.value.text() == (
        f"host, protected: {said} Say protected: true to stop protected guests too. Nothing was changed."
    )
    assert drain(on(*guests), protected=True).groups == ((50, ("a", "b")),)


def test_a_protected_guest_that_does_not_run_is_no_obstacle() -> None:
    assert drain(on(guest("a", protect=True, unit=Unit()))).groups == ()


@pytest.mark.parametrize(
    ("host", "refused"),
    [
        (on(), False),
        (on(guest("a")), True),
        (on(guest("a", unit=Unit())), True),
        (on(guest("a"), drained=mark()), True),
        (on(guest("a", unit=Unit()), drained=mark()), False),
        (on(guest("a", unit=Unit()), drained=mark(returning=True)), True),
    ],
)
def test_a_host_with_units_that_do_not_hold(host: Host, refused: bool) -> None:
    if not refused:
        planner.plan(DrainWish(), host, now=NOW, holding=False)
        return
    with pytest.raises(InvalidWish, match=r"^host, state: the units of guests do not have Condition.*host on it first"):
        planner.plan(DrainWish(), host, now=NOW, holding=False)


# Bringing back


@pytest.mark.parametrize(
    ("host", "groups", "gone"),
    [
        (on(drained=mark()), (), ()),
        (
            on(
                guest("a", unit=Unit()),
                guest("b", unit=Unit()),
                guest("c", unit=Unit()),
                drained=mark(("a", 1), ("b", 2), ("c", 2)),
            ),
            ((2, ("b", "c")), (1, ("a",))),
            (),
        ),
        # One that did not run before stays down.
        (on(guest("a", unit=Unit()), drained=mark()), (), ()),
        # Where a run was killed, some are up again.
        (on(guest("a", unit=Unit()), guest("b"), drained=mark(("a", 1), ("b", 2))), ((1, ("a",)),), ()),
        # One that was removed meanwhile.
        (on(guest("a", unit=Unit()), drained=mark(("a", 1), ("b", 2))), ((1, ("a",)),), ("b",)),
        # One that moves.
        (
            on(
                guest("a", unit=Unit()),
                drained=mark(("a", 1)),
                moving={"a": Moving("a", "leaving", "host2", "4f")},
            ),
            (),
            (),
        ),
    ],
)
def test_undrain(host: Host, groups: t.Any, gone: tuple[str, ...]) -> None:
    plan = undrain(host)
    assert host.drained is not None
    assert plan.mark == dataclasses.replace(host.drained, returning=True)
    assert (plan.groups, plan.gone, plan.lift) == (groups, gone, True)
    # A run that was killed after the mark was renamed.
    again = undrain(dataclasses.replace(host, drained=plan.mark))
    assert again == dataclasses.replace(plan, mark=None)


def test_a_host_that_is_not_drained_stays_as_it_is() -> None:
    plan = undrain(on(guest("a", unit=Unit())))
    assert not plan.changed
    assert plan.words() == []


@pytest.mark.parametrize("drained", [True, False])
@pytest.mark.parametrize(("returning", "file"), [(True, "returning.json"), (False, "drained.json")])
def test_a_mark_that_cannot_be_read(drained: bool, returning: bool, file: str) -> None:
    host = on(drained=Drained(EARLIER, readable=False, returning=returning))
    with pytest.raises(InvalidWish, match=rf"^host, state: /var/lib/microvm-fleet/{file} says nothing .* Remove it,"):
        planner.plan(DrainWish(drained=drained), host, now=NOW, holding=True)


# Words


def test_words() -> None:
    host = on(guest("a", "1"), guest("b", "2"))
    plan = drain(host)
    assert plan.words() == ["let no guest start", "a: stop (stop_order 1)", "b: stop (stop_order 2)"]
    after = plan.mark_after(None)
    down = on(guest("a", "1", unit=Unit()), guest("b", "2", unit=Unit()), drained=after)
    back = undrain(down)
    assert back.words() == [
        "let guests start",
        "b: start (stop_order 2)",
        "a: start (stop_order 1)",
        "be drained no more",
    ]
    assert back.mark_after(after) is None
    assert drain(down).words() == []
    assert drain(down).mark_after(after) == after
