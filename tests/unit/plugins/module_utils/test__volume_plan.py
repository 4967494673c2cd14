# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tables of volumes: wished and seen, and the steps or the words that follow."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._contract import Volume
from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_judge import Place, Revert
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Guest
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import GuestPlan
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import (
    Create,
    Remove,
    Start,
    Step,
    Stop,
    Switch,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import GuestWish
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import Unit
from ansible_collections.microvm.fleet.plugins.module_utils._volume_observe import Kept, Seen
from ansible_collections.microvm.fleet.plugins.module_utils._volume_plan import (
    GrowVolume,
    MakeVolume,
    RestoreSnapshot,
    Snapshot,
    before_removal,
    concerned,
    done,
    plan_volumes,
    removed,
    restore_possible,
    used,
    with_volumes,
    without_volumes,
)

MIB = 1 << 20


def volume(**options: t.Any) -> Volume:
    return Volume(**{"image": "data.img", "size": 16, "fs_type": "ext4", "mount_point": "/data", **options})


def seen(size: int = 16, content: str | None = "ext", **options: t.Any) -> Seen:
    return Seen(exists=True, size=size * MIB, content=content, **options)


def steps(wished: Volume, there: Seen | None, **options: t.Any) -> list[str]:
    found = {} if there is None else {wished.image: there}
    return [step.words() for step in plan_volumes("db1", (wished,), found, **options)]


@pytest.mark.parametrize(
    ("wished", "there", "words"),
    [
        (volume(), None, ["db1: make the volume data.img (16 MiB, ext4)"]),
        (volume(fs_type="xfs"), None, []),
        (volume(fs_type=None), None, []),
        (volume(size=None), None, []),
        (volume(auto_create=False), None, []),
        (volume(image="/dev/vg/x"), None, []),
        (volume(), seen(), []),
        (volume(), seen(content=None), ["db1: make again the volume data.img (16 MiB, ext4)"]),
        (volume(), seen(0, None), ["db1: make again the volume data.img (16 MiB, ext4)"]),
        (volume(), seen(regular=False, content=None), []),
        (volume(size=32), seen(), ["db1: grow the volume data.img from 16 to 32 MiB"]),
        (
            volume(size=32, fs_type="xfs"),
            seen(content="xfs"),
            ["db1: grow the volume data.img from 16 to 32 MiB; run xfs_growfs /data in the guest"],
        ),
        (
            volume(size=32, fs_type="btrfs", mount_point=None),
            seen(content="btrfs"),
            ["db1: grow the volume data.img from 16 to 32 MiB; run btrfs filesystem resize max in the guest"],
        ),
        (
            volume(size=32, fs_type="vfat"),
            seen(content="data"),
            ["db1: grow the volume data.img from 16 to 32 MiB; run what grows its filesystem /data in the guest"],
        ),
        # Made longer by hand, and wished as it always was.
        (volume(), seen(32), []),
        # What is in a volume that the guest does not mount is its own matter.
        (volume(mount_point=None), seen(content="LUKS"), []),
        (volume(mount_point=None), seen(content="data"), []),
        (
            volume(mount_point=None, size=32),
            seen(content="LUKS"),
            ["db1: grow the volume data.img from 16 to 32 MiB; run resize2fs, on the device of in the guest"],
        ),
    ],
)
def test_what_is_done(wished: Volume, there: Seen | None, words: list[str]) -> None:
    assert steps(wished, there, before={"data.img": 16}) == words


def test_what_an_earlier_run_has_begun_is_finished() -> None:
    assert steps(volume(), seen(), growing={"data.img"}) == ["db1: grow the volume data.img from 16 to 16 MiB"]


def test_a_host_that_cannot_grow_filesystems_says_what_to_run() -> None:
    (step,) = plan_volumes("db1", (volume(size=32),), {"data.img": seen()}, resizes=False)
    assert isinstance(step, GrowVolume)
    assert step.resize is False
    assert step.words().endswith("; run resize2fs, on the device of /data in the guest")


def test_a_host_without_the_program_leaves_it_to_the_runner() -> None:
    assert steps(volume(), None, makers=frozenset()) == []
    assert steps(volume(fs_type="xfs"), None, makers=frozenset(("xfs",))) != []


@pytest.mark.parametrize(
    ("wished", "there", "words"),
    [
        (volume(size=8), seen(), "data.img has 16 MiB, and 8 are wished: volumes are never made smaller"),
        (volume(size=8, fs_type="xfs"), seen(content="xfs"), "volumes are never made smaller"),
        (volume(), seen(content="data"), "is to have ext4, and has data without a superblock"),
        (volume(), seen(content="LUKS"), "is to have ext4, and has LUKS without a superblock"),
        (volume(), seen(content="ext backup"), "has lost its superblock, and has a copy of it"),
    ],
)
def test_what_is_refused(wished: Volume, there: Seen, words: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        plan_volumes("db1", (wished,), {"data.img": there}, before={"data.img": 16})
    assert words in caught.value.seen
    assert (caught.value.subject, caught.value.field) == ("guest db1", "microvm.volumes")
    assert caught.value.hint


def plan(*planned: Step, revert: Revert | None = None, **wish: t.Any) -> GuestPlan:
    return GuestPlan(GuestWish("db1", **wish), Guest("db1"), steps=planned, revert=revert)


MAKE = MakeVolume("db1", volume())
SWITCH = Switch("db1", "/nix/store/x", None)


def kinds(planned: t.Iterable[Step]) -> list[str]:
    return [type(step).__name__ for step in planned]


def test_volumes_come_before_the_start() -> None:
    changed = with_volumes(plan(Create("db1", "/nix/store/x", None), Start("db1")), [MAKE], [])
    assert kinds(changed.steps) == ["Create", "MakeVolume", "Start"]
    grow = GrowVolume("db1", volume(), before=0, after=1, resize=True)
    assert kinds(with_volumes(plan(SWITCH), [MAKE, grow], []).steps) == ["Switch", "GrowVolume"]


NEW, OLD = "/nix/store/x", "/nix/store/y"
BACK = Revert(origin=Place(NEW, 1), back=Place(OLD, 0), steps=(Stop("db1"), SWITCH, Start("db1")))
WITH: dict[str, t.Any] = {"snapshot_volumes": True, "restore_volumes": True}


def test_a_snapshot_comes_after_the_stop_and_goes_back_with_a_revert() -> None:
    back = BACK
    updating = plan(Stop("db1"), SWITCH, Start("db1"), revert=back, **WITH)
    changed = with_volumes(updating, [], ["data.img", "/dev/fleet/data"])
    assert kinds(changed.steps) == ["Stop", "Snapshot", "Switch", "Start"]
    assert changed.steps[1] == Snapshot("db1", ("data.img", "/dev/fleet/data"), NEW)
    assert changed.revert is not None
    assert kinds(changed.revert.steps) == ["Stop", "RestoreSnapshot", "Switch", "Start"]
    assert changed.revert.steps[1] == RestoreSnapshot("db1", ("data.img", "/dev/fleet/data"), NEW)
    only = with_volumes(plan(Stop("db1"), SWITCH, Start("db1"), revert=back, snapshot_volumes=True), [], ["data.img"])
    assert only.revert == back
    off = with_volumes(plan(SWITCH, snapshot_volumes=True), [], ["data.img"])
    assert kinds(off.steps) == ["Snapshot", "Switch"]
    assert with_volumes(plan(Stop("db1"), Start("db1"), snapshot_volumes=True), [], ["a"]).steps == (
        Stop("db1"),
        Start("db1"),
    )


KEPT = Kept(NEW, ("data.img",))


@pytest.mark.parametrize(
    ("planned", "wish", "kept", "restored"),
    [
        # A run was killed after the switch: what it has kept goes back with its revert.
        ((Start("db1"),), WITH, KEPT, True),
        ((), WITH, KEPT, True),
        ((), {"snapshot_volumes": True}, KEPT, False),
        ((), WITH, None, False),
        # It is from before another runner, or was half made, or was put back already.
        ((), WITH, Kept(OLD, ("data.img",)), False),
        ((), WITH, Kept(None, ("data.img",)), False),
        ((), WITH, Kept(NEW, ("data.img",), restoring=True), False),
        # Of a guest that is switched now, nothing that was kept before counts.
        ((SWITCH,), {"restore_volumes": True}, KEPT, False),
        ((SWITCH,), WITH, KEPT, False),
    ],
)
def test_what_an_earlier_run_has_kept(
    planned: tuple[Step, ...], wish: dict[str, t.Any], kept: Kept | None, *, restored: bool
) -> None:
    changed = with_volumes(plan(*planned, revert=BACK, **wish), [], [], kept)
    assert changed.steps == planned
    assert changed.revert is not None
    wanted = ["RestoreSnapshot"] if restored else []
    assert kinds(changed.revert.steps) == ["Stop", *wanted, "Switch", "Start"]


@pytest.mark.parametrize(
    ("kept", "restored"),
    [(KEPT, True), (Kept(NEW, ("data.img",), restoring=True), True), (Kept(OLD, ("data.img",)), False), (None, False)],
)
def test_a_revert_that_was_begun_is_finished_with_its_volumes(kept: Kept | None, *, restored: bool) -> None:
    rest = dataclasses.replace(BACK, reason="it does not answer")
    begun = plan(*rest.steps, revert=rest, **WITH)
    assert restore_possible(begun)
    changed = with_volumes(begun, [MAKE], ["data.img"], kept)
    wanted = ["RestoreSnapshot"] if restored else []
    assert kinds(changed.steps) == ["Stop", *wanted, "Switch", "Start"]
    assert changed.revert is not None
    assert changed.revert.steps == changed.steps
    assert done(changed) is restored


def test_whose_earlier_snapshot_may_be_put_back() -> None:
    assert restore_possible(plan(Start("db1"), revert=BACK, **WITH))
    assert not restore_possible(plan(SWITCH, revert=BACK, **WITH))
    assert not restore_possible(plan(Start("db1"), **WITH))
    assert not restore_possible(plan(Start("db1"), revert=BACK, snapshot_volumes=True))


def test_the_snapshot_of_a_guest_goes_before_what_tells_of_it() -> None:
    going = plan(Stop("db1"), Remove("db1", purge=False))
    assert kinds(before_removal(going).steps) == ["Stop", "DropSnapshot", "Remove"]


def test_whose_volumes_are_looked_at() -> None:
    assert concerned(plan(Start("db1")))
    assert concerned(plan(SWITCH))
    assert not concerned(plan(Stop("db1")))
    assert not concerned(plan(Start("db1"), MAKE))
    assert removed(plan(Remove("db1", purge=False)))
    assert not removed(plan(Start("db1")))


def test_volumes_of_a_guest_that_goes_on_are_not_touched() -> None:
    running = Guest("db1", unit=Unit("active", "running"))
    live = GuestPlan(GuestWish("db1"), running, steps=(SWITCH,))
    assert used(live)
    assert not concerned(live)
    stopping = GuestPlan(GuestWish("db1"), running, steps=(Stop("db1"), SWITCH))
    assert not used(stopping)
    assert concerned(stopping)
    back = Revert(
        origin=Place("/nix/store/x", 1),
        back=Place("/nix/store/y", 0),
        steps=(RestoreSnapshot("db1", ("a",), "/nix/store/x"), SWITCH),
    )
    changed = GuestPlan(
        GuestWish("db1"), running, steps=(Snapshot("db1", ("a",), "/nix/store/x"), SWITCH, MAKE), revert=back
    )
    plain = without_volumes(changed)
    assert kinds(plain.steps) == ["Switch"]
    assert plain.revert is not None
    assert kinds(plain.revert.steps) == ["Switch"]
    assert without_volumes(live) == live


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Snapshot("db1", ("a", "b"), "/nix/store/x"), "db1: keep a snapshot of a, b"),
        (RestoreSnapshot("db1", ("a",), "/nix/store/x"), "db1: put back a"),
    ],
)
def test_words(step: Step, words: str) -> None:
    assert step.words() == words
