# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Generations and judgements, as tables."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _guest_judge as judge
from ansible_collections.microvm.fleet.plugins.module_utils import _guest_plan as planner
from ansible_collections.microvm.fleet.plugins.module_utils._contract import Runner
from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_judge import Place
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import DESCRIBED
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Generation, Guest, Record
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import Course, Target
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import (
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
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import Health
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import Unit

NAME = "web1"
FLAKE = "/srv/infra"
UP = Unit(active_state="active", sub_state="running", invocation="i1")
HOOKS = Unit(active_state="activating", sub_state="auto-restart")
ASKED = Health(asked=True)


def path(version: int) -> str:
    return f"/nix/store/{str(version).zfill(32)}-microvm-qemu-{NAME}"


def wish(**fields: t.Any) -> GuestWish:
    return GuestWish(NAME, **fields)


def guest(current: int = 2, *versions: int, unit: Unit = UP, **fields: t.Any) -> Guest:
    """A guest with generations of *versions*, 1 and 2 if there are none."""
    record = {key: fields.pop(key) for key in ("healthy", "judging", "rejected", "live") if key in fields}
    fields.setdefault("booted", path(current) if unit.active else None)
    fields.setdefault("runner", Runner(path(current)))
    fields.setdefault("record", Record(flake=FLAKE, locked="r", runner=path(current), **record))
    return Guest(
        NAME,
        exists=True,
        current=path(current),
        flake=FLAKE,
        unit=unit,
        generations=tuple(Generation(number, path(each)) for number, each in enumerate(versions or (1, 2), 1)),
        **fields,
    )


def lost(kept: Guest, *numbers: int) -> Guest:
    """The same without the runners of these generations."""
    generations = tuple(dataclasses.replace(each, missing=each.number in numbers) for each in kept.generations)
    return dataclasses.replace(kept, generations=generations)


# Records


def test_what_is_healthy_is_noted() -> None:
    record = Record(judging=path(2), healthy=path(1), rejected={path(2): "a", path(3): "b"})
    after = judge.judged(record, path(2))
    assert (after.healthy, after.judging, after.rejected) == (path(2), None, {path(3): "b"})
    assert judge.is_judged(after, path(2))
    assert not judge.is_judged(after, path(1))
    assert not judge.is_judged(record, path(1))
    assert not judge.is_judged(None, None)


def test_what_is_switched_to_is_to_be_judged() -> None:
    after = judge.switching(Record(rejected={path(2): "a", path(3): "b"}, healthy=path(1)), path(2))
    assert (after.healthy, after.judging, after.rejected) == (path(1), path(2), {path(3): "b"})


def test_the_newest_rejections_are_remembered() -> None:
    record = Record(judging=path(1))
    for version in range(20):
        record = judge.rejecting(record, path(version), f"reason {version}", path(99))
    record = judge.rejecting(record, path(15), "again", path(99))
    assert record.judging == path(99)
    assert list(record.rejected) == [path(version) for version in (10, 11, 12, 13, 14, 16, 17, 18, 19, 15)]
    assert record.rejected[path(15)] == "again"


# Generations


@pytest.mark.parametrize(
    ("asked", "kept", "found"),
    [
        ("1", guest(), 1),
        ("2", guest(), 2),
        ("previous", guest(), 1),
        ("previous", guest(3, 1, 2, 3), 2),
        # As nix-env goes back: from the highest number that the current one has.
        ("previous", guest(1, 1, 2, 1), 2),
        ("previous", guest(2, 1, 2, 2), 1),
        ("previous", guest(3, 1, 2, 3, rejected={path(2): "bad"}), 1),
        ("previous", lost(guest(3, 1, 2, 3), 2), 1),
        # One that another maker has switched: the newest that is kept.
        ("previous", guest(9, 1, 2), 2),
        ("healthy", guest(healthy=path(1)), 1),
        ("healthy", guest(2, 1, healthy=path(2)), 2),
    ],
)
def test_generations(asked: str, kept: Guest, found: int) -> None:
    assert judge.generation(wish(generation=asked), kept) == path(found)


@pytest.mark.parametrize(
    ("asked", "kept", "seen"),
    [
        ("3", guest(), f"the guest has no generation 3. It has 1 ({path(1)}), 2 ({path(2)})."),
        ("1", lost(guest(), 1), f"the guest has no generation 1. It has 2 ({path(2)})."),
        ("1", lost(guest(), 1, 2), "It gets its first one from the collection with its next update."),
        ("previous", guest(1, 1), "there is no generation before the current one that was not rejected."),
        ("previous", guest(1, 1, 2), "there is no generation before the current one that was not rejected."),
        ("healthy", guest(), "no generation that is kept was ever found healthy."),
        ("healthy", guest(healthy=path(7)), "no generation that is kept was ever found healthy."),
        ("healthy", lost(guest(healthy=path(1)), 1), "no generation that is kept was ever found healthy."),
        ("1", Guest(NAME), "the guest does not exist. Create it first."),
        (
            "1",
            guest(toplevel="/nix/store/x"),
            "belongs to the NixOS configuration of this host, and has no generations",
        ),
    ],
)
def test_generations_that_there_are_not(asked: str, kept: Guest, seen: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        judge.generation(wish(generation=asked), kept)
    assert caught.value.text().startswith("guest web1, generation: ")
    assert seen in caught.value.text()


# What is staged


@pytest.mark.parametrize(
    ("wished", "kept", "found"),
    [
        (wish(), guest(), None),
        (wish(), guest(staged=path(2)), None),
        (wish(), guest(staged=path(3), record=Record(flake=FLAKE, runner=path(3))), 3),
        (wish(flake=FLAKE), guest(staged=path(3), record=Record(flake=FLAKE, runner=path(3))), 3),
        (wish(runner=path(3)), guest(staged=path(3), record=Record(runner=path(3))), 3),
        (wish(flake=DESCRIBED), guest(staged=path(3), record=Record(flake=DESCRIBED, runner=path(3))), 3),
        (wish(), guest(staged=path(3), toplevel="/nix/store/x"), None),
    ],
)
def test_staged(wished: GuestWish, kept: Guest, found: int | None) -> None:
    assert judge.staged(wished, kept) == (None if found is None else path(found))


@pytest.mark.parametrize(
    ("wished", "kept", "seen"),
    [
        (wish(), Guest(NAME), "guest web1, update: does not exist, and only what is staged may be used."),
        (wish(), guest(staged=path(3)), f"guest web1, update: {path(3)} is staged, and no run has noted"),
        (wish(), guest(staged=path(3), record=None), f"guest web1, update: {path(3)} is staged, and no run has noted"),
        (
            wish(flake="/other"),
            guest(staged=path(3), record=Record(flake=FLAKE, runner=path(3))),
            "guest web1, flake: what is staged comes from /srv/infra, and not from /other. Stage it again",
        ),
        (
            wish(flake=DESCRIBED),
            guest(staged=path(3), record=Record(runner=path(3))),
            "guest web1, hypervisor: what is staged comes from a runner, and not from path:/etc/microvm-fleet.",
        ),
        (
            wish(runner=path(4)),
            guest(staged=path(3), record=Record(runner=path(3))),
            f"guest web1, runner: {path(3)} is staged, and not that one. Stage it again",
        ),
    ],
)
def test_what_is_staged_and_not_what_is_wished(wished: GuestWish, kept: Guest, seen: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        judge.staged(wished, kept)
    assert caught.value.text().startswith(seen)


# Where to go back to


@pytest.mark.parametrize(
    ("wished", "kept", "runner", "found"),
    [
        ("the last healthy one", guest(3, 1, 2, 3, healthy=path(1)), 4, 1),
        ("the one that ran", guest(3, 1, 2, 3, booted=path(2)), 4, 2),
        ("the one that it has", guest(3, 1, 2, 3, unit=Unit(), booted=path(2)), 4, 3),
        ("one that another maker made", guest(9, 1), 4, 9),
        ("the newest one before it", guest(3, 1, 2, 3), 3, 2),
        ("none that was rejected", guest(3, 1, 2, 3, healthy=path(2), rejected={path(2): "x"}), 3, 1),
        ("none that is gone", lost(guest(3, 1, 2, 3, healthy=path(2)), 2), 3, 1),
        ("none that is not kept", guest(3, 1, 3, healthy=path(2)), 3, 1),
        ("nothing", guest(1, 1), 1, None),
        ("nothing but what is gone", guest(1, 2, runner=Runner(path(1), runs=False)), 2, None),
        ("none that came later", guest(1, 1, 2), 1, None),
    ],
)
def test_fallback(wished: str, kept: Guest, runner: int, found: int | None) -> None:
    assert judge.fallback(wish(), kept, path(runner)) == (None if found is None else path(found)), wished


def test_from_a_generation_it_is_where_it_was() -> None:
    kept = guest(3, 1, 2, 3, healthy=path(2))
    assert judge.fallback(wish(generation="1"), kept, path(1)) == path(3)
    assert judge.fallback(wish(), kept, path(1)) == path(2)


def test_a_revert() -> None:
    steps = [Keep(NAME, 3, path(3)), Switch(NAME, path(3), FLAKE), Start(NAME), Await(NAME)]
    revert = judge.revert(wish(), guest(healthy=path(1)), path(3), steps)
    assert revert == judge.Revert(
        origin=Place(path(3), 3),
        back=Place(path(1), 1),
        steps=(
            Stop(NAME),
            Reject(NAME, path(3), path(1)),
            Switch(NAME, path(1), None),
            Start(NAME),
            Await(NAME),
            Judged(NAME, path(1)),
        ),
    )
    assert judge.revert(wish(), guest(1, 1), path(1), ()) is None
    assert revert.origin.words() == f"generation 3 ({path(3)})"
    assert revert.back.as_dict() == {"number": 1, "runner": path(1)}
    assert Place(path(1)).words() == path(1)


def test_a_revert_has_the_flake_and_the_credentials_that_there_were() -> None:
    loads = "[Service]\nLoadCredential=a:/a\n"
    more = "[Service]\nLoadCredential=a:/a\nLoadCredential=b:/b\n"
    shares = "[Service]\nLoadCredential=c:/c\n"
    steps = [
        Switch(NAME, path(3), "/other"),
        Settings(NAME, more),
        Settings(NAME, shares, "microvm-virtiofsd"),
    ]
    revert = judge.revert(wish(), guest(settings=loads), path(3), steps)
    assert revert is not None
    assert revert.steps[2:5] == (
        Switch(NAME, path(2), FLAKE),
        Settings(NAME, loads),
        Settings(NAME, "", "microvm-virtiofsd"),
    )
    times = [Settings(NAME, loads + "TimeoutStopSec=5\n")]
    kept = judge.revert(wish(), guest(settings=loads), path(3), times)
    assert kept is not None
    assert not any(isinstance(step, Settings) for step in kept.steps)


@pytest.mark.parametrize(
    ("fields", "wished", "steps"),
    [
        ({}, wish(), [Mark(NAME), Stop(NAME), "switch", "start"]),
        ({"interrupted": True}, wish(), [Stop(NAME), "switch", "start"]),
        ({"interrupted": True, "unit": Unit()}, wish(), ["switch", "start"]),
        ({"unit": Unit()}, wish(), ["switch"]),
        ({"unit": Unit()}, wish(state="started"), [Mark(NAME), "switch", "start"]),
        ({"unit": HOOKS}, wish(), [Mark(NAME), Stop(NAME), "switch", "start"]),
        ({"interrupted": True}, wish(state="stopped"), [Stop(NAME), "switch"]),
        ({"litter": True, "unit": Unit()}, wish(update="activate"), [Sweep(NAME), "switch"]),
    ],
)
def test_what_is_left_of_a_revert(fields: dict[str, t.Any], wished: GuestWish, steps: list[t.Any]) -> None:
    kept = guest(2, judging=path(1), rejected={path(2): "bad"}, **fields)
    back = judge.begun(kept)
    assert back == Place(path(1), 1)
    expected: list[Step] = []
    for step in steps:
        if step == "switch":
            expected.append(Switch(NAME, path(1), None))
        elif step == "start":
            expected += [Start(NAME), Await(NAME), Judged(NAME, path(1))]
        else:
            expected.append(step)
    plan = planner.plan(wished, kept, None)
    assert list(plan.steps) == expected
    assert plan.revert is not None
    assert (plan.revert.reason, plan.revert.origin, plan.error) == ("bad", Place(path(2), 2), None)
    assert not planner.asks(wished, kept)
    assert planner.kept(wished, kept) is None


@pytest.mark.parametrize(
    "kept",
    [
        guest(),
        guest(judging=path(2)),
        guest(judging=path(2), rejected={path(2): "bad"}),
        guest(judging=path(1)),
        guest(rejected={path(2): "bad"}),
        guest(record=None),
    ],
)
def test_reverts_that_nobody_has_begun(kept: Guest) -> None:
    assert judge.begun(kept) is None


def test_what_is_to_go_goes_whatever_was_begun() -> None:
    kept = guest(2, judging=path(1), rejected={path(2): "bad"}, directory=True)
    plan = planner.plan(wish(state="absent"), kept, None)
    assert plan.revert is None
    assert isinstance(plan.steps[0], Stop)


# Courses

AIM = Target(Runner(path(3)), source="x.drv", flake=FLAKE, locked="r3")
SAME = Target(Runner(path(2)), source="x.drv", flake=FLAKE, locked="r3")


@pytest.mark.parametrize(
    ("wished", "kept", "target", "course"),
    [
        (wish(), guest(), None, Course(path(2))),
        (wish(update="stage"), guest(), AIM, Course(path(2))),
        (
            wish(update="activate"),
            guest(),
            AIM,
            Course(path(3), moving=True, stopping=True, starting=True, judged=True),
        ),
        (wish(update="activate"), guest(unit=Unit()), AIM, Course(path(3), moving=True)),
        (wish(update="activate"), guest(), SAME, Course(path(2))),
        (
            wish(update="activate_staged"),
            guest(booted=path(1)),
            None,
            Course(path(2), stopping=True, starting=True, judged=True),
        ),
        (wish(update="activate"), guest(booted=path(1), toplevel="/nix/store/x"), None, Course(path(2))),
        (wish(state="restarted"), guest(), None, Course(path(2), stopping=True, starting=True)),
        (
            wish(state="restarted", health=ASKED),
            guest(),
            None,
            Course(path(2), stopping=True, starting=True, judged=True),
        ),
        (wish(state="started", health=ASKED), guest(), None, Course(path(2))),
        (wish(state="started"), guest(unit=Unit()), None, Course(path(2), starting=True)),
        (
            wish(state="started"),
            guest(unit=Unit(), judging=path(2)),
            None,
            Course(path(2), starting=True, judged=True),
        ),
        # After a run that was killed.
        (
            wish(),
            guest(unit=Unit(), interrupted=True, judging=path(2)),
            None,
            Course(path(2), interrupted=True, starting=True, judged=True),
        ),
        (
            wish(),
            guest(unit=Unit(), interrupted=True, judging=path(3)),
            None,
            Course(path(2), interrupted=True, starting=True),
        ),
        (wish(), guest(interrupted=True, judging=path(2)), None, Course(path(2), judged=True)),
        # It was to be switched live.
        (
            wish(),
            guest(interrupted=True, judging=path(2), booted=path(1)),
            None,
            Course(path(2), stopping=True, starting=True, judged=True),
        ),
        (
            wish(),
            guest(interrupted=True, judging=path(2), live={"runner": None, "invocation": "i1"}),
            None,
            Course(path(2), stopping=True, starting=True, judged=True),
        ),
        (
            wish(),
            guest(interrupted=True, judging=path(2), booted=path(1), live={"runner": path(2), "invocation": "i1"}),
            None,
            Course(path(2), judged=True),
        ),
        (wish(), guest(judging=path(2), booted=path(1)), None, Course(path(2))),
        (wish(), guest(judging=path(2)), None, Course(path(2))),
        (wish(update="stage"), guest(judging=path(2)), SAME, Course(path(2))),
        (wish(update="activate"), guest(judging=path(2)), SAME, Course(path(2), judged=True)),
        (wish(update="activate_staged"), guest(judging=path(2)), None, Course(path(2), judged=True)),
        (wish(generation="2"), guest(judging=path(2)), SAME, Course(path(2), judged=True)),
        (wish(state="stopped"), guest(interrupted=True, judging=path(2)), None, Course(path(2), stopping=True)),
        # One that is missing.
        (wish(), Guest(NAME), AIM, Course(path(3), moving=True)),
        (wish(state="started"), Guest(NAME), AIM, Course(path(3), moving=True, starting=True)),
        (
            wish(state="started", health=ASKED),
            Guest(NAME),
            AIM,
            Course(path(3), moving=True, starting=True, judged=True),
        ),
        (wish(), Guest(NAME, interrupted=True), AIM, Course(path(3), moving=True)),
    ],
)
def test_courses(wished: GuestWish, kept: Guest, target: Target | None, course: Course) -> None:
    assert planner.course(wished, kept, target) == course


def test_a_rejected_runner_is_refused_and_nothing_else_is_done() -> None:
    kept = guest(rejected={path(3): "port closed"})
    plan = planner.plan(wish(update="activate", labels={"a": "b"}), kept, AIM)
    assert plan.steps == ()
    assert plan.error is not None
    assert plan.error.text() == (
        f"guest web1, update: {path(3)} was tried before, and the guest was taken back from it: port closed. "
        "Change the guest's configuration, or say retry: true to try it again."
    )
    assert planner.plan(wish(update="activate", retry=True), kept, AIM).error is None
    assert planner.plan(wish(update="stage"), kept, AIM).error is None
    same = planner.plan(wish(update="activate"), guest(rejected={path(2): "bad"}), SAME)
    assert same.error is None


@pytest.mark.parametrize(
    ("booted", "live", "needed"),
    [
        (1, None, True),
        (1, {"runner": path(2), "invocation": "i1"}, False),
        (1, {"runner": path(2), "invocation": "i0"}, True),
        (1, {"runner": path(3), "invocation": "i1"}, True),
        (1, {"runner": None, "invocation": "i1"}, True),
        # It has come back to what it was started from, but for what is inside it.
        (2, None, False),
        (2, {"runner": path(2), "invocation": "i1"}, False),
        (2, {"runner": path(1), "invocation": "i1"}, True),
        (2, {"runner": None, "invocation": "i1"}, True),
        (2, {"runner": None, "invocation": "i0"}, False),
    ],
)
def test_what_is_inside_a_guest_says_whether_it_needs_a_restart(
    booted: int, live: dict[str, t.Any] | None, needed: bool
) -> None:
    assert guest(booted=path(booted), live=live).restart_needed is needed


@pytest.mark.parametrize(
    ("kept", "wished", "numbers"),
    [
        (guest(3, 1, 2, 3, healthy=path(1)), wish(keep_generations=1), (2,)),
        (guest(3, 1, 2, 3, judging=path(3)), wish(keep_generations=1), (1,)),
        (guest(3, 1, 2, 3), wish(keep_generations=1), (1, 2)),
        (guest(1, 1, 2, 3), wish(keep_generations=2), ()),
        # What was rejected goes first, but not while the flake gives it.
        (guest(4, 1, 2, 3, 4, rejected={path(2): "x", path(3): "x"}), wish(keep_generations=3), (2,)),
        (guest(4, 1, 2, 3, 4, rejected={path(2): "x", path(3): "x"}), wish(keep_generations=2), (2, 3)),
        (
            guest(1, 1, 2, record=Record(runner=path(2), rejected={path(2): "x"})),
            wish(keep_generations=1),
            (),
        ),
    ],
)
def test_what_may_be_needed_is_not_forgotten(kept: Guest, wished: GuestWish, numbers: tuple[int, ...]) -> None:
    way = planner.course(wished, kept, None)
    assert planner._surplus(wished, kept, None, way) == numbers
