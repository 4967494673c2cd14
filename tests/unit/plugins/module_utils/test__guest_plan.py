# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans: tables of wish and observed to steps, without any I/O."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _guest_plan as planner
from ansible_collections.microvm.fleet.plugins.module_utils._contract import Interface, Runner, Volume
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import (
    Generation,
    Guest,
    Host,
    Record,
    describe,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import (
    GuestPlan,
    Source,
    Target,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import (
    Autostart,
    Await,
    Create,
    Forget,
    Judged,
    Keep,
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
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import GuestWish, InterfaceWish
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import Health, Probe
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import Unit

NOTIFY = Health((Probe("notify"),), asked=True)
FLAKE = "/srv/infra"
NAME = "web1"
UP = Unit(active_state="active", sub_state="running")
WAITING = Unit(active_state="activating", sub_state="auto-restart", restarts=1)
FAILED = Unit(active_state="failed", sub_state="failed", result="exit-code", restarts=5)
ROOTS = frozenset((NAME, f"booted-{NAME}"))


def path(version: int, name: str = NAME) -> str:
    return f"/nix/store/{str(version).zfill(32)}-microvm-qemu-{name}"


def runner(version: int, name: str = NAME, **fields: t.Any) -> Runner:
    fields.setdefault("interfaces", (Interface(f"vm-{name}", "tap", "02:00:00:00:00:01"),))
    return Runner(path=path(version, name), hypervisor="qemu", host_name=name, **fields)


def target(version: int, name: str = NAME, **fields: t.Any) -> Target:
    return Target(
        runner(version, name, **fields), source=f"{path(version, name)}.drv", flake=FLAKE, locked=f"r{version}"
    )


def record(version: int, *known: int, **fields: t.Any) -> Record:
    facts = {path(each): runner(each).as_dict() for each in (known or (version,))}
    return Record(flake=FLAKE, locked=f"r{version}", runner=path(version), facts=facts, **fields)


def generations(*versions: int) -> tuple[Generation, ...]:
    return tuple(Generation(number, path(version), 1.0) for number, version in enumerate(versions, 1))


def wish(**fields: t.Any) -> GuestWish:
    return GuestWish(name=NAME, **fields)


MISSING = Guest(NAME)
# One that this collection made, stopped.
OURS = Guest(
    NAME,
    exists=True,
    directory=True,
    current=path(1),
    flake=FLAKE,
    record=record(1),
    known=True,
    generations=generations(1),
    roots=ROOTS,
    rooted=True,
    runner=runner(1),
)
# One that the microvm command made, stopped.
FOREIGN = Guest(NAME, exists=True, directory=True, current=path(1), flake=FLAKE, roots=ROOTS, runner=runner(1))
NIXOS = Guest(NAME, exists=True, directory=True, current=path(1), toplevel="/nix/store/top", runner=runner(1))
INSTALLED = dataclasses.replace(NIXOS, toplevel=None, installer=True)


def up(guest: Guest, unit: Unit = UP, booted: int = 1) -> Guest:
    return dataclasses.replace(guest, unit=unit, booted=path(booted))


def change(guest: Guest, **fields: t.Any) -> Guest:
    return dataclasses.replace(guest, **fields)


CREATION = [
    Stage(NAME, path(1), f"{path(1)}.drv"),
    Keep(NAME, 1, path(1)),
    Write(NAME, record(1)),
    Create(NAME, path(1), FLAKE),
    Unstage(NAME, path(1)),
    Root(NAME),
]
BECOMING = [
    Keep(NAME, 2, path(2)),
    Write(NAME, record(2, 1, 2, judging=path(2))),
    Switch(NAME, path(2), FLAKE),
    Unstage(NAME, path(2)),
]
STAGING = Stage(NAME, path(2), f"{path(2)}.drv")
ADOPTION = [
    STAGING,
    Keep(NAME, 1, path(1)),
    Keep(NAME, 2, path(2)),
    Write(NAME, record(2, judging=path(2))),
    Switch(NAME, path(2), FLAKE),
    Unstage(NAME, path(2)),
]
NOTHING: list[Step] = []
RESTART = [Mark(NAME), Stop(NAME)]
# Started, and found healthy.
JUDGED = [Start(NAME), Await(NAME), Judged(NAME, path(2))]
GONE = [Remove(NAME, purge=False)]

TABLE: list[tuple[str, GuestWish, Guest, Target | None, t.Sequence[Step]]] = [
    # A guest that is missing.
    ("create", wish(flake=FLAKE), MISSING, target(1), CREATION),
    ("create, staged only", wish(flake=FLAKE, update="stage"), MISSING, target(1), CREATION),
    ("create and start", wish(flake=FLAKE, state="started"), MISSING, target(1), [*CREATION, Start(NAME)]),
    ("create, stopped", wish(flake=FLAKE, state="stopped"), MISSING, target(1), CREATION),
    ("create and restart", wish(flake=FLAKE, state="restarted"), MISSING, target(1), [*CREATION, Start(NAME)]),
    (
        "create with everything",
        wish(flake=FLAKE, autostart=True, start_timeout=9, stop_timeout=8, protect=True, labels={"a": "b"}),
        MISSING,
        target(1),
        [
            *CREATION[:2],
            Write(NAME, record(1, protect=True, labels={"a": "b"})),
            *CREATION[3:],
            Settings(NAME, "[Service]\nTimeoutStartSec=9\nTimeoutStopSec=8\n"),
            Autostart(NAME, enable=True),
        ],
    ),
    ("no autostart", wish(flake=FLAKE, autostart=False), MISSING, target(1), CREATION),
    (
        "complete a directory",
        wish(flake=FLAKE),
        change(MISSING, directory=True),
        target(1),
        [*CREATION[:3], Create(NAME, path(1), FLAKE, complete=True), *CREATION[4:]],
    ),
    (
        "create again after a kill before the build",
        wish(flake=FLAKE),
        change(MISSING, rooted=True, staged=path(1)),
        target(1),
        CREATION,
    ),
    (
        "create again after a kill before the directory",
        wish(flake=FLAKE),
        change(MISSING, rooted=True, staged=path(1), generations=generations(1), record=record(1), known=True),
        target(1),
        [Create(NAME, path(1), FLAKE), Unstage(NAME, path(1)), Root(NAME)],
    ),
    # A guest that exists, without an update.
    ("leave alone", wish(flake=FLAKE), OURS, None, NOTHING),
    ("leave alone, running", wish(flake=FLAKE), up(OURS), None, NOTHING),
    ("leave alone, stale", wish(flake=FLAKE), up(OURS, Unit()), None, NOTHING),
    ("leave alone, failed", wish(flake=FLAKE), up(OURS, FAILED), None, NOTHING),
    ("leave alone, looping", wish(flake=FLAKE), up(OURS, WAITING), None, NOTHING),
    ("leave alone, other runner booted", wish(flake=FLAKE), up(OURS, booted=0), None, NOTHING),
    ("leave alone a foreign one", wish(flake=FLAKE), FOREIGN, None, NOTHING),
    ("leave alone one of the host", wish(flake=FLAKE), NIXOS, None, NOTHING),
    ("leave alone what is up and to be started", wish(state="started"), up(OURS), None, NOTHING),
    ("leave alone what is down and to be stopped", wish(state="stopped"), OURS, None, NOTHING),
    ("leave alone what failed and is to be stopped", wish(state="stopped"), up(OURS, FAILED), None, NOTHING),
    ("start", wish(state="started"), OURS, None, [Start(NAME)]),
    ("start what failed", wish(state="started"), up(OURS, FAILED), None, [Start(NAME)]),
    ("start what loops", wish(state="started"), up(OURS, WAITING), None, [Start(NAME)]),
    ("stop", wish(state="stopped"), up(OURS), None, [Stop(NAME)]),
    ("stop what loops", wish(state="stopped"), up(OURS, WAITING), None, [Stop(NAME)]),
    ("restart", wish(state="restarted"), up(OURS), None, [*RESTART, Start(NAME)]),
    ("restart what is down", wish(state="restarted"), OURS, None, [Start(NAME)]),
    ("restart what failed", wish(state="restarted"), up(OURS, FAILED), None, [Start(NAME)]),
    ("restart what loops", wish(state="restarted"), up(OURS, WAITING), None, [*RESTART, Start(NAME)]),
    ("start a foreign one", wish(state="started"), FOREIGN, None, [Start(NAME)]),
    ("stop a foreign one", wish(state="stopped"), up(FOREIGN), None, [Stop(NAME)]),
    # A run that was killed.
    ("sweep", wish(), change(OURS, litter=True), None, [Sweep(NAME)]),
    ("start again", wish(), change(OURS, interrupted=True), None, [Start(NAME)]),
    ("start again once", wish(state="started"), change(OURS, interrupted=True), None, [Start(NAME)]),
    ("it runs already", wish(), change(up(OURS), interrupted=True), None, [Sweep(NAME)]),
    ("it is to be off", wish(state="stopped"), change(OURS, interrupted=True), None, [Sweep(NAME)]),
    (
        "switched, not unstaged",
        wish(flake=FLAKE, update="activate"),
        change(OURS, staged=path(1)),
        target(1),
        [Unstage(NAME, path(1))],
    ),
    # Settings, autostart, records.
    (
        "timeouts",
        wish(start_timeout=7),
        change(OURS, settings="[Service]\nTimeoutStopSec=8\n"),
        None,
        [Settings(NAME, "[Service]\nTimeoutStartSec=7\nTimeoutStopSec=8\n")],
    ),
    ("same timeouts", wish(stop_timeout=8), change(OURS, settings="[Service]\nTimeoutStopSec=8\n"), None, NOTHING),
    ("timeouts that nobody speaks of", wish(), change(OURS, settings="[Service]\nTimeoutStopSec=8\n"), None, NOTHING),
    (
        "settings that systemd has not read",
        wish(),
        change(OURS, settings="[Service]\n", unit=dataclasses.replace(UP, needs_reload=True)),
        None,
        [Reload(NAME)],
    ),
    (
        "settings of others that systemd has not read",
        wish(),
        change(OURS, unit=dataclasses.replace(UP, needs_reload=True)),
        None,
        NOTHING,
    ),
    ("enable", wish(autostart=True), OURS, None, [Autostart(NAME, enable=True)]),
    ("disable", wish(autostart=False), change(OURS, autostart=True), None, [Autostart(NAME, enable=False)]),
    ("enabled already", wish(autostart=True), change(OURS, autostart=True), None, NOTHING),
    ("autostart that nobody speaks of", wish(), change(OURS, autostart=True), None, NOTHING),
    ("protect", wish(protect=True), OURS, None, [Write(NAME, record(1, protect=True))]),
    ("protected already", wish(protect=True), change(OURS, record=record(1, protect=True)), None, NOTHING),
    ("free", wish(protect=False), change(OURS, record=record(1, protect=True)), None, [Write(NAME, record(1))]),
    ("labels", wish(labels={"a": "b"}), OURS, None, [Write(NAME, record(1, labels={"a": "b"}))]),
    ("no labels", wish(labels={}), change(OURS, record=record(1, labels={"a": "b"})), None, [Write(NAME, record(1))]),
    ("labels that nobody speaks of", wish(), change(OURS, record=record(1, labels={"a": "b"})), None, NOTHING),
    ("protect a foreign one", wish(protect=True), FOREIGN, None, [Write(NAME, Record(flake=FLAKE, protect=True))]),
    ("free a foreign one", wish(protect=False), FOREIGN, None, NOTHING),
    ("labels of a foreign one", wish(labels={"a": "b"}), FOREIGN, None, NOTHING),
    ("roots that are gone", wish(), change(OURS, roots=frozenset()), None, [Root(NAME)]),
    ("half of the roots", wish(), change(OURS, roots=frozenset((NAME,))), None, [Root(NAME)]),
    ("roots of a foreign one are its maker's", wish(), change(FOREIGN, roots=frozenset()), None, NOTHING),
    # Updates.
    ("nothing newer", wish(flake=FLAKE, update="activate"), up(OURS), target(1), NOTHING),
    ("nothing newer to stage", wish(flake=FLAKE, update="stage"), up(OURS), target(1), NOTHING),
    (
        "a newer flake with the same runner",
        wish(flake=FLAKE, update="activate"),
        up(OURS),
        dataclasses.replace(target(1), locked="r7"),
        [Write(NAME, dataclasses.replace(record(1), locked="r7"), refresh=True)],
    ),
    (
        "stage",
        wish(flake=FLAKE, update="stage"),
        up(OURS),
        target(2),
        [STAGING, Write(NAME, record(2, 1, 2))],
    ),
    (
        "staged already",
        wish(flake=FLAKE, update="stage"),
        change(up(OURS), staged=path(2), record=record(2, 1, 2)),
        target(2),
        NOTHING,
    ),
    (
        "staged, and never built",
        wish(flake=FLAKE, update="stage"),
        change(up(OURS), staged=path(2)),
        target(2),
        [STAGING, Write(NAME, record(2, 1, 2))],
    ),
    (
        "staged another",
        wish(flake=FLAKE, update="stage"),
        change(up(OURS), staged=path(3), record=record(3, 1, 3)),
        target(2),
        [STAGING, Write(NAME, record(2, 1, 2))],
    ),
    (
        "activate, running",
        wish(flake=FLAKE, update="activate"),
        up(OURS),
        target(2),
        [STAGING, *RESTART, *BECOMING, *JUDGED],
    ),
    ("activate, stopped", wish(flake=FLAKE, update="activate"), OURS, target(2), [STAGING, *BECOMING]),
    ("activate, failed", wish(flake=FLAKE, update="activate"), up(OURS, FAILED), target(2), [STAGING, *BECOMING]),
    (
        "activate, looping",
        wish(flake=FLAKE, update="activate"),
        up(OURS, WAITING),
        target(2),
        [STAGING, *RESTART, *BECOMING, *JUDGED],
    ),
    (
        "activate and start",
        wish(flake=FLAKE, update="activate", state="started"),
        OURS,
        target(2),
        [STAGING, Mark(NAME), *BECOMING, *JUDGED],
    ),
    (
        "activate and stop",
        wish(flake=FLAKE, update="activate", state="stopped"),
        up(OURS),
        target(2),
        [STAGING, Stop(NAME), *BECOMING],
    ),
    (
        "activate and restart",
        wish(flake=FLAKE, update="activate", state="restarted"),
        up(OURS),
        target(2),
        [STAGING, *RESTART, *BECOMING, *JUDGED],
    ),
    (
        "activate what is staged",
        wish(flake=FLAKE, update="activate"),
        change(OURS, staged=path(2), record=record(2, 1, 2)),
        target(2),
        BECOMING,
    ),
    (
        "activate after a kill before the switch",
        wish(flake=FLAKE, update="activate"),
        change(OURS, staged=path(2), record=record(2, 1, 2), generations=generations(1, 2), interrupted=True),
        target(2),
        [*BECOMING[1:], *JUDGED],
    ),
    (
        "restart only",
        wish(flake=FLAKE, update="activate"),
        up(OURS, booted=0),
        target(1),
        [*RESTART, Start(NAME), Await(NAME), Judged(NAME, path(1))],
    ),
    ("stage does not restart", wish(flake=FLAKE, update="stage"), up(OURS, booted=0), target(1), NOTHING),
    ("adopt and activate", wish(flake=FLAKE, update="activate"), FOREIGN, target(2), ADOPTION),
    (
        "adopt and activate, running",
        wish(flake=FLAKE, update="activate"),
        up(FOREIGN),
        target(2),
        [ADOPTION[0], *RESTART, *ADOPTION[1:], *JUDGED],
    ),
    (
        "adopt and activate without roots",
        wish(flake=FLAKE, update="activate"),
        change(FOREIGN, roots=frozenset()),
        target(2),
        [*ADOPTION, Root(NAME)],
    ),
    ("adopt and find nothing newer", wish(flake=FLAKE, update="activate"), FOREIGN, target(1), NOTHING),
    (
        "adopt and stage",
        wish(flake=FLAKE, update="stage"),
        FOREIGN,
        target(2),
        [STAGING, Write(NAME, record(2))],
    ),
    (
        "roll back",
        wish(flake=FLAKE, update="activate"),
        change(OURS, current=path(2), record=record(2, 1, 2), generations=generations(1, 2), runner=runner(2)),
        target(1),
        [
            Stage(NAME, path(1), f"{path(1)}.drv"),
            Keep(NAME, 3, path(1)),
            Write(NAME, record(1, 1, 2, judging=path(1))),
            Switch(NAME, path(1), FLAKE),
            Unstage(NAME, path(1)),
        ],
    ),
    # Generations.
    (
        "forget the oldest",
        wish(flake=FLAKE, update="activate", keep_generations=2),
        change(OURS, generations=generations(0, 1)),
        target(2),
        [STAGING, Keep(NAME, 3, path(2)), *BECOMING[1:], Forget(NAME, (1,))],
    ),
    (
        "forget, but never what runs",
        wish(keep_generations=1),
        change(up(OURS, booted=7), generations=generations(7, 8, 1)),
        None,
        [Forget(NAME, (2,))],
    ),
    (
        "forget what a stale link names",
        wish(keep_generations=1),
        change(OURS, booted=path(7), generations=generations(7, 1)),
        None,
        [Forget(NAME, (1,))],
    ),
    (
        "forget, but never what is current",
        wish(keep_generations=1),
        change(OURS, generations=generations(1, 8, 9)),
        None,
        [Forget(NAME, (2,))],
    ),
    ("keep as many", wish(keep_generations=3), change(OURS, generations=generations(8, 9, 1)), None, NOTHING),
    # Absent.
    ("absent already", wish(state="absent"), MISSING, None, NOTHING),
    ("remove", wish(state="absent"), OURS, None, GONE),
    ("remove, running", wish(state="absent"), up(OURS), None, [Stop(NAME), *GONE]),
    ("remove, looping", wish(state="absent"), up(OURS, WAITING), None, [Stop(NAME), *GONE]),
    ("remove, failed", wish(state="absent"), up(OURS, FAILED), None, GONE),
    (
        "remove, enabled",
        wish(state="absent"),
        change(OURS, autostart=True),
        None,
        [Autostart(NAME, enable=False), *GONE],
    ),
    ("remove with volumes", wish(state="absent", purge=True), OURS, None, [Remove(NAME, purge=True)]),
    ("remove a foreign one", wish(state="absent"), FOREIGN, None, GONE),
    ("remove a bare directory", wish(state="absent"), change(MISSING, directory=True), None, GONE),
    ("remove a record", wish(state="absent"), change(MISSING, known=True), None, GONE),
    ("remove roots", wish(state="absent"), change(MISSING, roots=ROOTS), None, GONE),
    ("remove generations", wish(state="absent"), change(MISSING, rooted=True), None, [Undescribe(NAME), *GONE]),
    ("remove settings", wish(state="absent"), change(MISSING, settings="[Service]\n"), None, GONE),
    ("remove a link", wish(state="absent"), change(MISSING, autostart=True), None, [Autostart(NAME, enable=False)]),
    ("remove a unit that runs", wish(state="absent"), change(MISSING, unit=UP), None, [Stop(NAME)]),
    (
        "remove what was set free in the same run",
        wish(state="absent", protect=False),
        change(OURS, record=record(1, protect=True)),
        None,
        GONE,
    ),
]


@pytest.mark.parametrize(("wished", "guest", "aim", "steps"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_plans(wished: GuestWish, guest: Guest, aim: Target | None, steps: t.Sequence[Step]) -> None:
    plan = planner.plan(wished, guest, aim)
    assert plan.error is None
    assert list(plan.steps) == list(steps)


@pytest.mark.parametrize("guest", [OURS, FOREIGN])
def test_a_runner_that_the_garbage_collector_took_is_built_again(guest: Guest) -> None:
    lost = change(guest, runner=runner(1, missing=True, runs=False))
    plan = planner.plan(wish(update="activate"), lost, target(1))
    assert plan.error is None
    assert plan.steps == (Stage(NAME, path(1), f"{path(1)}.drv"), Unstage(NAME, path(1)))
    assert planner.recorded(lost, FLAKE, "r1") is None
    assert planner.plan(wish(), lost, None).steps == ()


def test_the_names_of_the_table_are_its_own() -> None:
    names = [row[0] for row in TABLE]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("wished", "guest"),
    [
        (wish(state="started"), NIXOS),
        (wish(state="restarted"), NIXOS),
        (wish(state="stopped"), up(NIXOS)),
        (wish(state="absent"), NIXOS),
        (wish(autostart=True), NIXOS),
        (wish(start_timeout=5), NIXOS),
        (wish(protect=True), NIXOS),
    ],
)
def test_guests_of_the_host_s_configuration_are_refused(wished: GuestWish, guest: Guest) -> None:
    hint = "Change microvm.vms in that configuration, or take the guest out of the wishes."
    for owned, how in (
        (guest, "(it has a link named toplevel)"),
        (change(guest, toplevel=None, installer=True), "(install-microvm-web1.service sets its runner)"),
    ):
        plan = planner.plan(wished, owned, None)
        assert plan.steps == ()
        assert plan.error is not None
        assert plan.error.text() == (
            f"guest web1, state: belongs to the NixOS configuration of this host {how}. {hint}"
        )


@pytest.mark.parametrize("state", ["absent", "stopped"])
def test_protection_outlasts_the_run(state: str) -> None:
    guest = change(up(OURS), record=record(1, protect=True))
    plan = planner.plan(wish(state=state), guest, None)
    assert plan.steps == ()
    assert plan.error is not None
    assert plan.error.text() == (
        f"guest web1, protect: the guest was protected when it was last converged, and its state is to be {state}. "
        "Say protect: false first."
    )


def test_what_is_protected_and_stopped_is_no_error() -> None:
    plan = planner.plan(wish(state="stopped"), change(OURS, record=record(1, protect=True)), None)
    assert (plan.steps, plan.error) == ((), None)


@pytest.mark.parametrize(
    ("fields", "wished", "said"),
    [
        (
            {"hypervisor": "vfkit"},
            (),
            "guest web1, flake: vfkit runs on macOS only. Choose another hypervisor.",
        ),
        (
            {"interfaces": (Interface("vt-web1", "tap"),)},
            (),
            (
                "guest web1, microvm.interfaces: its interface 'vt-web1' begins with vt-, which systemd-networkd gives "
                "a network of its own (80-vm-vt.network). Give it a name such as vm-web1 there."
            ),
        ),
        (
            {"interfaces": (Interface("vm-too-long-a-name", "macvtap"),)},
            (),
            (
                "guest web1, microvm.interfaces: its interface 'vm-too-long-a-name' has 18 characters, and the kernel "
                "takes 15. Give it a name such as vm-web1 there."
            ),
        ),
        (
            {},
            (InterfaceWish("vm-other"),),
            (
                "guest web1, interfaces[0].id: the guest has no interface vm-other; it has vm-web1. "
                "Let the inventory and the guest's configuration name the same."
            ),
        ),
        (
            {"interfaces": ()},
            (InterfaceWish("vm-web1"),),
            (
                "guest web1, interfaces[0].id: the guest has no interface vm-web1; it has none. "
                "Let the inventory and the guest's configuration name the same."
            ),
        ),
        (
            {},
            (InterfaceWish("vm-web1", mac="02:00:00:00:00:02"),),
            (
                "guest web1, interfaces[0].mac: the inventory says 02:00:00:00:00:02, and the guest's configuration "
                "says 02:00:00:00:00:01. Let both name the same."
            ),
        ),
    ],
)
def test_runners_that_do_not_fit(fields: dict[str, t.Any], wished: tuple[InterfaceWish, ...], said: str) -> None:
    hypervisor = fields.pop("hypervisor", "qemu")
    aim = target(1, **fields)
    aim = dataclasses.replace(aim, runner=dataclasses.replace(aim.runner, hypervisor=hypervisor))
    plan = planner.plan(wish(flake=FLAKE, interfaces=wished), MISSING, aim)
    assert plan.steps == ()
    assert plan.error is not None
    assert plan.error.text() == said


@pytest.mark.parametrize(
    ("fields", "wished"),
    [
        ({"interfaces": (Interface("a-very-long-name-of-a-user-net", "user"),)}, ()),
        ({"interfaces": (Interface("vm-web1", "tap"),)}, (InterfaceWish("vm-web1", mac="02:00:00:00:00:02"),)),
        (
            {"interfaces": (Interface("vm-web1", "tap", "02:AB:00:00:00:01"),)},
            (InterfaceWish("vm-web1", "02:ab:00:00:00:01"),),
        ),
        ({"missing": True}, (InterfaceWish("vm-other"),)),
    ],
)
def test_runners_that_fit(fields: dict[str, t.Any], wished: tuple[InterfaceWish, ...]) -> None:
    assert planner.plan(wish(flake=FLAKE, interfaces=wished), MISSING, target(1, **fields)).error is None


# Sources


@pytest.mark.parametrize(
    ("wished", "guest", "expected"),
    [
        (wish(flake=FLAKE), MISSING, Source(flake=FLAKE)),
        (wish(runner=path(1)), MISSING, Source(runner=path(1))),
        (wish(flake=FLAKE), OURS, None),
        (wish(flake=FLAKE), FOREIGN, None),
        (wish(), OURS, None),
        (wish(flake=FLAKE, update="activate"), NIXOS, None),
        (wish(flake=FLAKE), INSTALLED, None),
        (wish(state="absent"), MISSING, None),
        (wish(flake=FLAKE, state="absent", update="activate"), OURS, None),
        (wish(flake=FLAKE, update="stage"), OURS, Source(flake=FLAKE)),
        (wish(flake="/other", update="activate"), OURS, Source(flake="/other")),
        (wish(update="activate"), OURS, Source(flake=FLAKE)),
        (wish(update="activate"), FOREIGN, Source(flake=FLAKE)),
        (wish(update="activate"), change(OURS, flake=None), Source(flake=FLAKE)),
        (wish(runner=path(2), update="activate"), OURS, Source(runner=path(2))),
    ],
)
def test_sources(wished: GuestWish, guest: Guest, expected: Source | None) -> None:
    assert planner.source(wished, guest) == expected


@pytest.mark.parametrize(
    ("wished", "guest", "said"),
    [
        (
            wish(),
            MISSING,
            (
                "guest web1, flake: does not exist, and nothing says what to create it from. "
                "Give a flake, a runner, or a description (hypervisor)."
            ),
        ),
        (
            wish(state="started"),
            change(MISSING, directory=True, flake=FLAKE, record=record(1)),
            (
                "guest web1, flake: does not exist, and nothing says what to create it from. "
                "Give a flake, a runner, or a description (hypervisor)."
            ),
        ),
        (
            wish(update="activate"),
            change(FOREIGN, flake=None),
            (
                "guest web1, flake: is to be updated, and nothing says from what. "
                "Give a flake, a runner, or a description (hypervisor)."
            ),
        ),
    ],
)
def test_no_source(wished: GuestWish, guest: Guest, said: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        planner.source(wished, guest)
    assert caught.value.text() == said


@pytest.mark.parametrize(
    ("guest", "flake", "identity", "version"),
    [
        (OURS, FLAKE, "r1", 1),
        (OURS, FLAKE, "r2", None),
        (OURS, "/other", "r1", None),
        (FOREIGN, FLAKE, "r1", None),
        (change(OURS, exists=False), FLAKE, "r1", None),
        (change(OURS, current=path(9)), FLAKE, "r1", 1),
        (change(OURS, current=path(9), generations=()), FLAKE, "r1", None),
        (change(OURS, current=path(9), generations=(Generation(1, path(1), missing=True),)), FLAKE, "r1", None),
        (change(OURS, record=record(2, 1, 2), staged=path(2)), FLAKE, "r2", 2),
        (change(OURS, record=record(2, 1, 2)), FLAKE, "r2", None),
        (change(OURS, record=dataclasses.replace(record(1), facts={})), FLAKE, "r1", None),
        (change(OURS, record=dataclasses.replace(record(1), runner=None)), FLAKE, "r1", None),
    ],
)
def test_a_flake_that_has_not_changed(guest: Guest, flake: str, identity: str, version: int | None) -> None:
    answer = planner.recorded(guest, flake, identity)
    if version is None:
        assert answer is None
    else:
        assert answer == Target(runner(version), source=path(version), flake=FLAKE, locked=identity)


# Settings


@pytest.mark.parametrize(
    ("wished", "before", "after"),
    [
        (wish(), None, None),
        (wish(), "[Service]\nTimeoutStopSec=8\n", None),
        (wish(start_timeout=1), None, "[Service]\nTimeoutStartSec=1\n"),
        (wish(stop_timeout=2), None, "[Service]\nTimeoutStopSec=2\n"),
        (wish(start_timeout=1, stop_timeout=2), None, "[Service]\nTimeoutStartSec=1\nTimeoutStopSec=2\n"),
        (wish(stop_timeout=2), "[Service]\nTimeoutStartSec=1\n", "[Service]\nTimeoutStartSec=1\nTimeoutStopSec=2\n"),
        (wish(stop_timeout=2), "[Service]\nTimeoutStopSec=1\n", "[Service]\nTimeoutStopSec=2\n"),
        (wish(stop_timeout=2), "", "[Service]\nTimeoutStopSec=2\n"),
        (wish(stop_timeout=2), "[Service]\nTimeoutStopSec=1min\nNice=5\n", "[Service]\nTimeoutStopSec=2\n"),
        (wish(health=NOTIFY), None, "[Service]\nType=notify\n"),
        (wish(health=NOTIFY), "[Service]\nType=notify\n", None),
        (wish(health=NOTIFY), "[Service]\nTimeoutStopSec=1\n", "[Service]\nTimeoutStopSec=1\nType=notify\n"),
        # Nobody speaks of it, and somebody says otherwise.
        (wish(), "[Service]\nType=notify\n", None),
        (wish(stop_timeout=2), "[Service]\nType=notify\n", "[Service]\nTimeoutStopSec=2\nType=notify\n"),
        (wish(health=Health(asked=True)), "[Service]\nType=notify\n", ""),
        (wish(health=Health(asked=True)), None, None),
    ],
)
def test_settings(wished: GuestWish, before: str | None, after: str | None) -> None:
    assert planner.settings(wished, before) == after


@pytest.mark.parametrize(
    ("hypervisor", "cid", "said"),
    [
        ("cloud-hypervisor", 7, None),
        ("cloud-hypervisor", None, "the guest runs under cloud-hypervisor, without a vsock CID."),
        ("qemu", 7, "the guest runs under qemu, which does not pass it on."),
    ],
)
def test_a_guest_that_is_to_say_that_it_is_ready(hypervisor: str, cid: int | None, said: str | None) -> None:
    new = target(2)
    new = dataclasses.replace(new, runner=dataclasses.replace(new.runner, hypervisor=hypervisor, vsock_cid=cid))
    for guest, told in ((OURS, new), (change(OURS, runner=new.runner), None)):
        plan = planner.plan(wish(health=NOTIFY, update="activate" if told else "never"), guest, told)
        if said is None:
            assert plan.error is None
        else:
            assert plan.error is not None
            assert plan.steps == ()
            assert said in plan.error.text()
            assert plan.error.field == "health"


# Conflicts


def existing(name: str, **fields: t.Any) -> Guest:
    return Guest(name, exists=True, directory=True, current=path(1, name), runner=runner(1, name, **fields))


def plan_of(name: str, guest: Guest | None = None, state: str = "present", **fields: t.Any) -> GuestPlan:
    wished = GuestWish(name=name, flake=FLAKE, state=state, update="activate")
    aim = None if state == "absent" else target(2, name, **fields)
    return planner.plan(wished, guest or Guest(name), aim)


def host(*guests: Guest) -> Host:
    return Host(guests={guest.name: guest for guest in guests})


CLASHES: list[tuple[dict[str, t.Any], str]] = [
    (
        {"interfaces": (Interface("vm-x", "tap"),)},
        "microvm.interfaces: its interface vm-x is also that of guest {} on this host.",
    ),
    (
        {"interfaces": (Interface("vm-x", "macvtap"),)},
        "microvm.interfaces: its interface vm-x is also that of guest {} on this host.",
    ),
    (
        {"interfaces": (Interface("net", "user", "02:00:00:00:00:09"),)},
        "microvm.interfaces: its MAC 02:00:00:00:00:09 is also that of guest {} on this host.",
    ),
    ({"vsock_cid": 7, "interfaces": ()}, "microvm.vsock.cid: its vsock CID 7 is also that of guest {} on this host."),
    (
        {"volumes": (Volume("/srv/a.img"),), "interfaces": ()},
        "microvm.volumes: its image /srv/a.img is also that of guest {} on this host.",
    ),
]


@pytest.mark.parametrize(("fields", "said"), CLASHES)
def test_what_another_guest_of_the_host_has(fields: dict[str, t.Any], said: str) -> None:
    (plan,) = planner.conflicts([plan_of("a", **fields)], host(existing("b", **fields)))
    assert plan.steps == ()
    assert plan.error is not None
    assert plan.error.text() == f"guest a, {said.format('b')} Give each guest its own."


@pytest.mark.parametrize(("fields", "said"), CLASHES)
def test_what_two_plans_want(fields: dict[str, t.Any], said: str) -> None:
    plans = planner.conflicts([plan_of("a", **fields), plan_of("b", **fields)], host())
    assert [plan.error.text() if plan.error else None for plan in plans] == [
        f"guest a, {said.format('b')} Give each guest its own.",
        f"guest b, {said.format('a')} Give each guest its own.",
    ]


@pytest.mark.parametrize(("fields", "said"), CLASHES)
def test_what_a_guest_has_that_goes_in_the_same_run(fields: dict[str, t.Any], said: str) -> None:
    going = existing("b", **fields)
    plans = planner.conflicts([plan_of("a", **fields), plan_of("b", going, state="absent")], host(going))
    assert [plan.error for plan in plans] == [None, None], said
    assert all(plan.steps for plan in plans)


@pytest.mark.parametrize(("fields", "said"), CLASHES)
def test_what_a_guest_has_that_cannot_go(fields: dict[str, t.Any], said: str) -> None:
    staying = change(existing("b", **fields), record=Record(protect=True))
    plans = planner.conflicts([plan_of("a", **fields), plan_of("b", staying, state="absent")], host(staying))
    errors = [plan.error.text().partition(". ")[0] if plan.error else None for plan in plans]
    assert errors[0] == f"guest a, {said.format('b')}".rstrip(".")
    assert errors[1] is not None
    assert errors[1].startswith("guest b, protect: the guest was protected")


@pytest.mark.parametrize(("fields", "said"), CLASHES)
def test_what_a_guest_gives_up_in_the_same_run(fields: dict[str, t.Any], said: str) -> None:
    changing = existing("b", **fields)
    plans = planner.conflicts(
        [plan_of("a", **fields), plan_of("b", changing, interfaces=(Interface("vm-b", "tap"),))], host(changing)
    )
    assert [plan.error for plan in plans] == [None, None], said


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"interfaces": (Interface("vm-a", "tap"),)}, {"interfaces": (Interface("vm-b", "tap"),)}),
        ({"interfaces": (Interface("net", "user"),)}, {"interfaces": (Interface("net", "user"),)}),
        ({"volumes": (Volume("data.img"),), "interfaces": ()}, {"volumes": (Volume("data.img"),), "interfaces": ()}),
        (
            {"volumes": (Volume("/srv/a.img", read_only=True),), "interfaces": ()},
            {"volumes": (Volume("/srv/a.img", read_only=True),), "interfaces": ()},
        ),
        ({"vsock_cid": 7, "interfaces": ()}, {"vsock_cid": 8, "interfaces": ()}),
        ({"interfaces": ()}, {"interfaces": ()}),
    ],
)
def test_no_conflicts(mine: dict[str, t.Any], theirs: dict[str, t.Any]) -> None:
    (plan,) = planner.conflicts([plan_of("a", **mine)], host(existing("b", **theirs)))
    assert plan.error is None
    assert plan.steps


def test_a_guest_does_not_clash_with_itself() -> None:
    fields = CLASHES[0][0]
    (plan,) = planner.conflicts([plan_of("a", existing("a", **fields), **fields)], host(existing("a", **fields)))
    assert plan.error is None


def test_guests_that_clash_already_are_left_alone() -> None:
    both = [existing(name, vsock_cid=7) for name in ("a", "b")]
    plan = planner.plan(GuestWish(name="a", state="started"), both[0], None)
    assert planner.conflicts([plan], host(*both)) == (plan,)


def test_an_error_stays_what_it_is() -> None:
    plan = GuestPlan(GuestWish(name="a"), Guest("a"), error=FleetError("broken"))
    assert planner.conflicts([plan], host()) == (plan,)


# Hosts that are not prepared


@pytest.mark.parametrize(
    ("steps", "refused"),
    [
        ((), False),
        ((Create(NAME, path(1), None),), True),
        ((Start(NAME),), True),
        ((Autostart(NAME, enable=True),), True),
        ((Remove(NAME, purge=False),), False),
        ((Stop(NAME),), False),
        ((Switch(NAME, path(1), None),), False),
    ],
)
def test_unprepared(steps: tuple[Step, ...], refused: bool) -> None:
    plan = GuestPlan(wish(), MISSING, steps=steps)
    assert planner.unprepared([plan], Host(guests={})) == (plan,)
    (answer,) = planner.unprepared([plan], Host(guests={}, prepared=False))
    if not refused:
        assert answer == plan
        return
    assert answer.steps == ()
    assert answer.error is not None
    assert answer.error.text() == (
        "guest web1, state: this host has no unit microvm@.service or no /var/lib/microvms. "
        "Run the role microvm.fleet.host on it first."
    )


# Words


@pytest.mark.parametrize(
    ("step", "words", "changes"),
    [
        (Stage(NAME, path(1), "x.drv"), f"web1: stage {path(1)}", True),
        (Unstage(NAME, path(1)), f"web1: unstage {path(1)}", True),
        (Sweep(NAME), "web1: sweep what an earlier run left", True),
        (Keep(NAME, 4, path(1)), "web1: keep generation 4", True),
        (Forget(NAME, (1, 2)), "web1: forget generation 1, 2", True),
        (Write(NAME, Record()), "web1: write the record", True),
        (Write(NAME, Record(), refresh=True), "web1: write the record", False),
        (Create(NAME, path(1), None), f"web1: create with {path(1)}", True),
        (Create(NAME, path(1), None, complete=True), f"web1: complete with {path(1)}", True),
        (Root(NAME), "web1: root current and booted", True),
        (Switch(NAME, path(1), None), f"web1: switch to {path(1)}", True),
        (
            Settings(NAME, "[Service]\nTimeoutStartSec=1\nTimeoutStopSec=2\n"),
            "web1: set TimeoutStartSec=1, TimeoutStopSec=2",
            True,
        ),
        (Reload(NAME), "web1: reload units", True),
        (Autostart(NAME, enable=True), "web1: enable autostart", True),
        (Autostart(NAME, enable=False), "web1: disable autostart", True),
        (Mark(NAME), "web1: note that it is to be started again", False),
        (Stop(NAME), "web1: stop", True),
        (Start(NAME), "web1: start", True),
        (Remove(NAME, purge=False), "web1: remove, keep its volumes", True),
        (Remove(NAME, purge=True), "web1: remove with its volumes", True),
    ],
)
def test_words(step: Step, words: str, changes: bool) -> None:
    assert step.words() == words
    assert step.changes is changes


def test_a_step_of_no_kind_has_no_words() -> None:
    with pytest.raises(NotImplementedError):
        Step(NAME).words()


def test_what_goes_without_saying_beside_a_creation_is_left_out() -> None:
    plan = planner.plan(wish(flake=FLAKE, state="started"), MISSING, target(1))
    assert plan.words(plan.steps) == [f"web1: stage {path(1)}", f"web1: create with {path(1)}", "web1: start"]


def test_what_goes_without_saying_beside_a_switch_is_left_out() -> None:
    plan = planner.plan(wish(flake=FLAKE, update="activate"), up(OURS), target(2))
    assert plan.words(plan.steps) == [
        f"web1: stage {path(2)}",
        "web1: stop",
        f"web1: switch to {path(2)}",
        "web1: start",
    ]


def test_what_is_said_alone_is_said() -> None:
    plan = planner.plan(wish(labels={"a": "b"}), change(OURS, roots=frozenset()), None)
    assert plan.words(plan.steps) == ["web1: write the record", "web1: root current and booted"]


# Projections


@pytest.mark.parametrize(
    ("step", "changed"),
    [
        (Stage(NAME, path(2), "x.drv"), {"staged": path(2)}),
        (Sweep(NAME), {}),
        (Keep(NAME, 2, path(2)), {"generations": [1, 2]}),
        (Forget(NAME, (1,)), {"generations": [], "generation": None}),
        (Autostart(NAME, enable=True), {"autostart": True}),
        (Stop(NAME), {"active": False, "booted": None}),
        (Start(NAME), {"active": True, "booted": path(1)}),
        (Switch(NAME, path(2), "/other"), {"current": path(2), "flake": "/other", "generation": None}),
        (Switch(NAME, path(2), None), {"current": path(2), "generation": None}),
        (Judged(NAME, path(1)), {"healthy": path(1)}),
        (Await(NAME), {}),
        (
            Write(NAME, record(2, protect=True, labels={"a": "b"})),
            {"locked": "r2", "protect": True, "labels": {"a": "b"}},
        ),
        (Mark(NAME), {}),
        (Settings(NAME, "[Service]\n"), {}),
    ],
)
def test_what_a_step_makes_of_a_guest(step: Step, changed: dict[str, t.Any]) -> None:
    before = describe(up(OURS) if isinstance(step, Stop) else OURS)
    after = planner.project(before, GuestPlan(wish(), OURS, steps=(step,)))
    different = {key: value for key, value in after.items() if value != before[key]}
    if "generations" in different:
        different["generations"] = [each["number"] for each in different["generations"]]
    assert different == changed


def test_what_is_unstaged_is_staged_no_more() -> None:
    before = describe(change(OURS, staged=path(1)))
    after = planner.project(before, GuestPlan(wish(), OURS, steps=(Unstage(NAME, path(1)),)))
    assert (before["staged"], after["staged"]) == (path(1), None)


def test_a_projection_leaves_what_it_began_with() -> None:
    before = describe(OURS)
    again = describe(OURS)
    planner.project(before, planner.plan(wish(flake=FLAKE, update="activate"), OURS, target(2)))
    assert before == again
