# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the volumes that a runner wants and those that are there to steps, without any I/O.

Private to the collection: it may change at any time.

``microvm-run`` makes volumes that are missing (microvm.nix, ``lib/volumes.nix``).  It does so under their final names:
one that it was killed at is never formatted, and a size that grows later is never looked at.
"""

from __future__ import annotations

import dataclasses
import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._contract import Volume
from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import GuestPlan
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import (
    Remove,
    Start,
    Step,
    Stop,
    Switch,
    VolumeStep,
)
from ansible_collections.microvm.fleet.plugins.module_utils._space import MIB
from ansible_collections.microvm.fleet.plugins.module_utils._volume_observe import Kept, Seen

EXT: t.Final = frozenset(("ext2", "ext3", "ext4"))
# The option of mkfs.TYPE that takes a label, as lib/volumes.nix has it; of types that can be made ahead.
LABELS: t.Final = {"ext2": "-L", "ext3": "-L", "ext4": "-L", "xfs": "-L", "btrfs": "-L"}
# What an operator runs in the guest, for filesystems that cannot be grown from outside.
INSIDE: t.Final = {
    **dict.fromkeys(EXT, "resize2fs, on the device of"),
    "xfs": "xfs_growfs",
    "btrfs": "btrfs filesystem resize max",
}


@dataclass(frozen=True)
class MakeVolume(VolumeStep):
    """Make the image of a volume with its filesystem, whole or not at all; *again* in place of one without any data."""

    volume: Volume
    again: bool = False

    @property
    def changes(self) -> bool:
        """That a guest that starts has its volumes goes without saying; that one was in the way does not."""
        return self.again

    def words(self) -> str:
        how = "make again the volume" if self.again else "make the volume"
        return f"{self.guest}: {how} {self.volume.image} ({self.volume.size} MiB, {self.volume.fs_type})"


@dataclass(frozen=True)
class GrowVolume(VolumeStep):
    """Make the image of a volume longer, and with *resize* the filesystem in it.  Sizes in bytes."""

    volume: Volume
    before: int
    after: int
    resize: bool

    def words(self) -> str:
        said = f"{self.guest}: grow the volume {self.volume.image} from {self.before // MIB} to {self.after // MIB} MiB"
        if self.resize:
            return said
        inside = INSIDE.get(str(self.volume.fs_type), "what grows its filesystem")
        return f"{said}; run {inside} {self.volume.mount_point or ''}".rstrip() + " in the guest"


@dataclass(frozen=True)
class Snapshot(VolumeStep):
    """Keep the volumes as they are while the guest is down, *before* it gets this runner; those kept earlier go.

    Images with absolute names are thin logical volumes, others are files.
    """

    images: tuple[str, ...]
    before: str

    def words(self) -> str:
        return f"{self.guest}: keep a snapshot of {', '.join(self.images)}"


@dataclass(frozen=True)
class RestoreSnapshot(VolumeStep):
    """Put the volumes back to what they were *before* the guest got this runner."""

    images: tuple[str, ...]
    before: str

    def words(self) -> str:
        return f"{self.guest}: put back {', '.join(self.images)}"


@dataclass(frozen=True)
class DropSnapshot(VolumeStep):
    """Remove the snapshot of a guest that goes."""

    @property
    def changes(self) -> bool:
        return False

    def words(self) -> str:
        return f"{self.guest}: drop its snapshot"


def inner(volumes: t.Iterable[Volume]) -> tuple[Volume, ...]:
    """Those of *volumes* that lie in the state directory."""
    return tuple(volume for volume in volumes if not outside(volume.image))


def outside(image: str) -> bool:
    """Whether *image* is not in the state directory: a block device, as a rule."""
    return image.startswith("/")


def plan_volumes(
    name: str,
    wished: t.Sequence[Volume],
    seen: t.Mapping[str, Seen],
    *,
    makers: t.Container[str] = frozenset(EXT),
    growing: t.Container[str] = (),
    resizes: bool = True,
    before: t.Mapping[str, int | None] | None = None,
) -> tuple[Step, ...]:
    """The steps for the volumes of guest *name* before it starts.

    *makers* are the filesystems that this host has programs for; *growing* the images that an earlier run has begun to
    grow; without *resizes* this host cannot grow filesystems; *before* the sizes in MiB that the guest's last runner
    wants.  Raises InvalidWish for a volume that is to shrink, or that no filesystem can be found in.
    """
    steps: list[Step] = []
    for volume in inner(wished):
        there = seen.get(volume.image, Seen())
        if volume.size is None or volume.fs_type is None or not volume.auto_create or not there.regular:
            continue
        wanted = volume.size * MIB
        if not there.exists or there.content is None:
            # What this host cannot make, microvm-run makes with programs of its own.
            if volume.fs_type in makers:
                steps.append(MakeVolume(name, volume, again=there.exists))
            continue
        _refuse(name, volume, there, (before or {}).get(volume.image))
        if there.size < wanted or volume.image in growing:
            ext = volume.fs_type in EXT and there.content == "ext" and resizes
            steps.append(GrowVolume(name, volume, before=there.size, after=wanted, resize=ext))
    return tuple(steps)


def _refuse(name: str, volume: Volume, there: Seen, before: int | None) -> None:
    wished = volume.size or 0
    # One that was made longer by hand, and is wished as it always was, is its operator's matter.
    if there.size > wished * MIB and before is not None and before > wished:
        raise InvalidWish(
            f"{volume.image} has {there.size // MIB} MiB, and {wished} are wished: volumes are never made smaller.",
            subject=f"guest {name}",
            field="microvm.volumes",
            hint=f"Wish for {-(-there.size // MIB)} MiB, or give the volume another image and move its data.",
        )
    mounted = volume.mount_point is not None and volume.fs_type in EXT
    if mounted and there.content == "ext backup":
        raise InvalidWish(
            f"{volume.image} has lost its superblock, and has a copy of it: it was a filesystem.",
            subject=f"guest {name}",
            field="microvm.volumes",
            hint="Repair it with e2fsck -b, or restore a backup. Nothing was changed.",
        )
    if mounted and there.content not in ("ext", None):
        raise InvalidWish(
            f"{volume.image} is to have {volume.fs_type}, and has {there.content} without a superblock of it; it may"
            " have been half made, or used otherwise.",
            subject=f"guest {name}",
            field="microvm.volumes",
            hint="Remove it if there is nothing of value in it, or restore a backup. Nothing was changed.",
        )


def with_volumes(
    plan: GuestPlan, steps: t.Sequence[Step], images: t.Sequence[str], kept: Kept | None = None
) -> GuestPlan:
    """*plan* with the *steps* of its volumes before its start.

    With *images* of volumes that are there, a snapshot of them comes right after the stop if one is wished for, and a
    revert puts it back if that is wished.  *kept* is the snapshot that an earlier run has made: where that run was
    killed after the switch, a revert puts back that one.
    """
    if begun(plan):
        return _reverting(plan, kept, spent=True)
    planned = list(plan.steps)
    if not any(isinstance(step, Start) for step in planned):
        # One that is missing is made before the guest starts, and not when it only gets another runner.
        steps = [step for step in steps if not isinstance(step, MakeVolume) or step.again]
    position = next((place for place, step in enumerate(planned) if isinstance(step, Start)), len(planned))
    planned[position:position] = steps
    if not snapshot_asked(plan):
        changed = dataclasses.replace(plan, steps=tuple(planned))
        return changed if switches(plan) else _reverting(changed, kept, spent=False)
    if not images:
        return dataclasses.replace(plan, steps=tuple(planned))
    stop = next((place for place, step in enumerate(planned) if isinstance(step, Stop)), -1)
    place, switch = next((place, step) for place, step in enumerate(planned) if isinstance(step, Switch))
    planned.insert(stop + 1 if stop >= 0 else place, Snapshot(plan.name, tuple(images), switch.runner))
    return _reverting(dataclasses.replace(plan, steps=tuple(planned)), Kept(switch.runner, tuple(images)), spent=False)


def _reverting(plan: GuestPlan, kept: Kept | None, *, spent: bool) -> GuestPlan:
    """*plan* with a revert that puts back what was *kept* before its runner; with *spent* also what was put back."""
    revert = plan.revert
    if (
        revert is None
        or kept is None
        or not plan.wish.restore_volumes
        or kept.before != revert.origin.runner
        or (kept.restoring and not spent)
    ):
        return plan
    undone = list(revert.steps)
    back = next((place for place, step in enumerate(undone) if isinstance(step, Switch)), 0)
    undone.insert(back, RestoreSnapshot(plan.name, kept.images, kept.before))
    changed = dataclasses.replace(revert, steps=tuple(undone))
    return dataclasses.replace(plan, steps=changed.steps if begun(plan) else plan.steps, revert=changed)


def begun(plan: GuestPlan) -> bool:
    """Whether the plan is what is left of a revert that an earlier run has begun, and nothing else."""
    return plan.revert is not None and plan.revert.reason is not None


def switches(plan: GuestPlan) -> bool:
    """Whether the guest gets another runner."""
    return any(isinstance(step, Switch) for step in plan.steps)


def snapshot_asked(plan: GuestPlan) -> bool:
    """Whether a snapshot is wished for, of a guest that gets another runner."""
    return plan.wish.snapshot_volumes and switches(plan) and not begun(plan)


def restore_possible(plan: GuestPlan) -> bool:
    """Whether what an earlier run has kept may have to be put back: it was killed after the switch."""
    return plan.wish.restore_volumes and plan.revert is not None and (begun(plan) or not switches(plan))


def concerned(plan: GuestPlan) -> bool:
    """Whether the volumes of this plan's guest are to be looked at: it starts, or gets another runner."""
    return not done(plan) and not used(plan) and any(isinstance(step, (Start, Switch)) for step in plan.steps)


def used(plan: GuestPlan) -> bool:
    """Whether the guest is up and is not stopped, so that nobody else may touch its volumes."""
    return plan.guest.unit.up and not any(isinstance(step, Stop) for step in plan.steps)


def without_volumes(plan: GuestPlan) -> GuestPlan:
    """*plan* without steps of volumes, for a guest that turns out not to be stopped."""
    rest = tuple(step for step in plan.steps if not isinstance(step, VolumeStep))
    revert = plan.revert
    if revert is not None:
        undone = tuple(step for step in revert.steps if not isinstance(step, VolumeStep))
        revert = dataclasses.replace(revert, steps=undone)
    return dataclasses.replace(plan, steps=rest, revert=revert)


def before_removal(plan: GuestPlan) -> GuestPlan:
    """*plan* of a guest that goes, with the end of its snapshot: before what tells of it goes too."""
    steps = list(plan.steps)
    steps.insert(next(place for place, step in enumerate(steps) if isinstance(step, Remove)), DropSnapshot(plan.name))
    return dataclasses.replace(plan, steps=tuple(steps))


def removed(plan: GuestPlan) -> bool:
    """Whether the guest goes."""
    return not done(plan) and any(isinstance(step, Remove) for step in plan.steps)


def done(plan: GuestPlan) -> bool:
    """Whether there is nothing to add to the plan."""
    undone = plan.revert.steps if plan.revert is not None else ()
    return plan.error is not None or any(isinstance(step, VolumeStep) for step in (*plan.steps, *undone))


def volumes_of(plan: GuestPlan) -> tuple[Volume, ...]:
    """The volumes that the guest has once *plan* is carried out."""
    runner = plan.target.runner if plan.target is not None else plan.guest.runner
    if plan.target is not None and runner is not None and runner.missing:
        return ()
    return runner.volumes if runner is not None else ()
