# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a hold forbids, and what it lets be."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_held import held
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Guest, Host, Record
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import GuestPlan
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import (
    Autostart,
    Create,
    Mark,
    Remove,
    Stage,
    Start,
    Step,
    Stop,
    Write,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import GuestWish
from ansible_collections.microvm.fleet.plugins.module_utils._holds import Drained, Moving

NAME = "web1"
RUNNER = "/nix/store/00000000000000000000000000000000-microvm-qemu-web1"
DRAINED = Drained("2026-11-23T17:05:00Z", "memory")
LEAVING = Moving(NAME, "leaving", "host2", "4f", since="2026-11-23T17:05:00Z")


def one(steps: t.Sequence[Step], host: Host) -> GuestPlan:
    plan = GuestPlan(GuestWish(NAME), Guest(NAME), steps=tuple(steps))
    (answer,) = held([plan], host)
    if answer.error is None:
        assert answer is plan
    else:
        assert answer.steps == ()
    return answer


@pytest.mark.parametrize(
    ("steps", "refused"),
    [
        ((), False),
        ((Start(NAME),), True),
        ((Create(NAME, RUNNER, None), Start(NAME)), True),
        ((Mark(NAME), Stop(NAME), Start(NAME)), True),
        ((Create(NAME, RUNNER, None),), False),
        ((Stage(NAME, RUNNER, RUNNER),), False),
        ((Autostart(NAME, enable=True),), False),
        ((Stop(NAME),), False),
        ((Remove(NAME, purge=False),), False),
    ],
)
def test_a_drained_host_starts_no_guest(steps: tuple[Step, ...], refused: bool) -> None:
    assert one(steps, Host(guests={})).error is None
    assert one(steps, Host(guests={}, drained=dataclasses.replace(DRAINED, returning=True))).error is None
    error = one(steps, Host(guests={}, drained=DRAINED)).error
    assert (error is not None) is refused
    if error is not None:
        assert error.text() == (
            "guest web1, state: this host is drained since 2026-11-23T17:05:00Z (memory), and starts no guest. "
            "Bring the host back first: playbook microvm.fleet.undrain, or microvm_drain with state undrained."
        )


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ("leaving", "it is being moved to host2 (since 2026-11-23T17:05:00Z). Run the playbook microvm.fleet.migrate"),
        ("trying", "it is being moved to host2 (since 2026-11-23T17:05:00Z). Run the playbook microvm.fleet.migrate"),
        ("arriving", "it is being moved from host2 (since 2026-11-23T17:05:00Z). Run the playbook"),
        ("moved", "it was moved to host2 (2026-11-23T17:05:00Z). Take it out of the guests of this host."),
    ],
)
@pytest.mark.parametrize(
    "step", [Create(NAME, RUNNER, None), Remove(NAME, purge=True), Start(NAME), Write(NAME, Record())]
)
def test_a_guest_that_moves_is_left_alone(phase: str, said: str, step: Step) -> None:
    host = Host(guests={}, moving={NAME: dataclasses.replace(LEAVING, phase=phase)})
    error = one([step], host).error
    assert error is not None
    assert said in error.text()
    assert one([], host).error is None


def test_of_a_guest_that_was_moved_it_says_how_to_have_another() -> None:
    error = one([Start(NAME)], Host(guests={}, moving={NAME: dataclasses.replace(LEAVING, phase="moved")})).error
    assert error is not None
    assert error.hint is not None
    assert error.hint.endswith("remove /var/lib/microvm-fleet/moving/web1.json first.")


def test_another_guest_may_move() -> None:
    assert one([Start(NAME)], Host(guests={}, moving={"web2": LEAVING})).error is None


def test_an_error_stays() -> None:
    error: FleetError = InvalidWish("seen", subject="guest web1")
    plan = GuestPlan(GuestWish(NAME), Guest(NAME), steps=(Start(NAME),), error=error)
    assert held([plan], Host(guests={}, drained=DRAINED)) == (plan,)
