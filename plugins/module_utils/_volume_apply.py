# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Volumes looked at and worked on: the engine's hooks, and what the steps of `_volume_plan` do.

Private to the collection: it may change at any time.

Programs that read or write what is in an image run as the hypervisors' user, never as root: a guest has written it.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import grp
import json
import os
import pwd
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils import (
    _clone,
    _files,
    _space,
    _systemd,
    _volume_lvm,
)
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._contract import Volume
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError, FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import GuestPlan
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import Step
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths
from ansible_collections.microvm.fleet.plugins.module_utils._stream_end import EndError, open_below
from ansible_collections.microvm.fleet.plugins.module_utils._volume_observe import Kept, Seen, look, read_kept
from ansible_collections.microvm.fleet.plugins.module_utils._volume_plan import (
    LABELS,
    DropSnapshot,
    GrowVolume,
    MakeVolume,
    RestoreSnapshot,
    Snapshot,
    before_removal,
    begun,
    concerned,
    done,
    inner,
    outside,
    plan_volumes,
    removed,
    restore_possible,
    snapshot_asked,
    used,
    volumes_of,
    with_volumes,
    without_volumes,
)

# User and group of the hypervisors, which runners have built in (nixos-modules/microvm/interfaces.nix).
USER: t.Final = "microvm"
GROUP: t.Final = "kvm"
# A filesystem of terabytes takes its time to be checked.
TIMEOUT: t.Final = 3600.0
MODE: t.Final = 0o640


def snapshots(paths: Paths, name: str) -> str:
    """Where the snapshot of guest *name* is."""
    return os.path.join(paths.guests, ".snapshots", name)


def kept_file(paths: Paths, name: str) -> str:
    """The file that says what the snapshot of guest *name* is of."""
    return paths.known(name, "snapshot.json")


def _note(paths: Paths, name: str) -> str:
    return paths.known(name, "growing.json")


def _growing(paths: Paths, name: str) -> frozenset[str]:
    """Images that an earlier run has begun to grow."""
    try:
        return frozenset(json.loads(_files.read_text(_note(paths, name)) or "[]"))
    except (ValueError, TypeError):
        return frozenset()


def add(plans: t.Sequence[GuestPlan], paths: Paths, commands: Commands) -> tuple[GuestPlan, ...]:
    """The plans with the steps of their volumes, or with an error for those that cannot be had.  Changes nothing."""
    if not any(concerned(plan) or removed(plan) or restore_possible(plan) for plan in plans):
        return tuple(plans)
    able = commands.find("setpriv") is not None
    makers = frozenset(kind for kind in LABELS if able and commands.find(f"mkfs.{kind}") is not None)
    resizes = able and all(commands.find(program) is not None for program in ("e2fsck", "resize2fs"))
    # Asked once for all guests, and only for those that have such volumes.
    lvs = functools.lru_cache(maxsize=None)(lambda: _volume_lvm.read(commands))
    return tuple(_add(plan, paths, makers, lvs, resizes=resizes) for plan in plans)


def _add(
    plan: GuestPlan, paths: Paths, makers: frozenset[str], lvs: t.Callable[[], _volume_lvm.Lvs], *, resizes: bool
) -> GuestPlan:
    kept = read_kept(kept_file(paths, plan.name)) if restore_possible(plan) or removed(plan) else None
    if plan.error is None and used(plan):
        # One that is switched live: it goes on writing.  One that is only judged is stopped by its revert.
        plain = without_volumes(plan)
        return with_volumes(plain, (), (), kept) if restore_possible(plan) else plain
    if done(plan):
        return plan
    if removed(plan):
        there = kept is not None or os.path.isdir(snapshots(paths, plan.name))
        return before_removal(plan) if there else plan
    volumes = inner(volumes_of(plan)) if concerned(plan) and not begun(plan) else ()
    old = plan.guest.runner.volumes if plan.guest.runner is not None and snapshot_asked(plan) else ()
    if not volumes and not old and kept is None:
        return plan
    try:
        before = inner(plan.guest.runner.volumes) if plan.guest.runner is not None else ()
        seen = look(paths.guest(plan.name), {volume.image for volume in (*volumes, *before)})
        steps = plan_volumes(
            plan.name,
            volumes,
            seen,
            makers=makers,
            growing=_growing(paths, plan.name),
            resizes=resizes,
            before={volume.image: volume.size for volume in before},
        )
        _space.require(
            [_need(paths, plan.name, step) for step in steps], subject=plan.wish.subject, field="microvm.volumes"
        )
        images = _images(plan, paths, [volume for volume in old if not volume.read_only], seen, lvs)
    except FleetError as error:
        return dataclasses.replace(plan, steps=(), error=error)
    except OSError as error:
        return dataclasses.replace(
            plan,
            steps=(),
            error=FleetError(
                f"{error.filename}: {error.strerror}.", subject=plan.wish.subject, field="microvm.volumes"
            ),
        )
    return with_volumes(plan, steps, images, kept)


def _images(
    plan: GuestPlan,
    paths: Paths,
    volumes: t.Sequence[Volume],
    seen: t.Mapping[str, Seen],
    lvs: t.Callable[[], _volume_lvm.Lvs],
) -> list[str]:
    """The images of *volumes* that a snapshot is to be made of.  Raises FleetError where none can be made."""
    subject = plan.wish.subject
    files = [volume.image for volume in inner(volumes) if seen[volume.image].exists]
    if files:
        _require_clones(paths, subject)
    others = [volume.image for volume in volumes if outside(volume.image)]
    return files + [image for image in others if _volume_lvm.origins(lvs(), plan.name, [image], subject=subject)]


def _require_clones(paths: Paths, subject: str) -> None:
    if not _clone.possible(paths.guests):
        raise FleetError(
            f"the filesystem of {paths.guests} cannot clone files.",
            subject=subject,
            field="snapshot_volumes",
            hint="Leave it out, back the guest up instead, or keep guests on btrfs or xfs.",
        )


def _need(paths: Paths, name: str, step: Step) -> _space.Need:
    """Room for a volume's filesystem itself; what a guest will fill is its operator's matter."""
    del step
    return _space.Need(paths.guest(name), 8 * _space.MIB, "a volume")


# What the steps do.  *apply* is the engine's Apply, which cannot be imported here.


def _as_user(commands: Commands, argv: t.Sequence[str], subject: str, *, good: t.Container[int] = (0,)) -> None:
    """Run *argv* as the hypervisors' user (setpriv(1)).  Raises CommandError for a status that is not *good*."""
    done = commands.run(
        ["setpriv", f"--reuid={USER}", f"--regid={GROUP}", "--clear-groups", "--no-new-privs", *argv],
        timeout=TIMEOUT,
        check=False,
        subject=subject,
    )
    if done.rc not in good:
        raise CommandError(
            f"{argv[0]} ended with {done.rc}: {(done.stderr or done.stdout).strip()[-500:]}",
            subject=subject,
            field="microvm.volumes",
            hint="See to the image, or restore a backup.",
            argv=argv,
            rc=done.rc,
        )


def _require_down(apply: t.Any, plan: GuestPlan) -> None:
    """Raise FleetError when the guest runs after all: two who write to a filesystem destroy it."""
    if _systemd.show(apply.commands).get(plan.name, _systemd.Unit()).up:
        raise FleetError(
            "it was started meanwhile.",
            subject=plan.wish.subject,
            field="microvm.volumes",
            hint="See who has started it, and run again.",
        )


def make(apply: t.Any, plan: GuestPlan, step: MakeVolume, unflushed: _files.Unflushed) -> t.Iterator[None]:
    """A file beside, with its filesystem, that gets its name when it is on the disk."""
    volume, paths = step.volume, apply.paths
    final = paths.guest(plan.name, volume.image)
    directory = os.path.dirname(final)
    uid, gid = pwd.getpwnam(USER).pw_uid, grp.getgrnam(GROUP).gr_gid
    if not os.path.isdir(directory):
        os.mkdir(directory, 0o755)
        os.chown(directory, uid, gid)
    temporary = _files.beside(final)
    _files.remove(temporary)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # Before there is anything in it; filesystems without copy-on-write refuse, and need it not.
        apply.commands.run(["chattr", "+C", temporary], check=False)
        os.ftruncate(handle, int(volume.size or 0) << 20)
        os.fchown(handle, uid, gid)
        os.fchmod(handle, MODE)
    finally:
        os.close(handle)
    label = [LABELS[str(volume.fs_type)], volume.label] if volume.label else []
    try:
        _as_user(
            apply.commands,
            [f"mkfs.{volume.fs_type}", *label, *volume.mkfs_extra_args, temporary],
            plan.wish.subject,
        )
        unflushed.add(temporary)
        yield
        os.rename(temporary, final)
    except GeneratorExit:
        raise
    except BaseException:
        _files.remove(temporary)
        raise
    unflushed.add(directory)


def grow(apply: t.Any, plan: GuestPlan, step: GrowVolume, unflushed: _files.Unflushed) -> t.Iterator[None]:
    """Longer, then the filesystem in it; a note says so until that has ended, for both may be done again."""
    _require_down(apply, plan)
    paths, image = apply.paths, step.volume.image
    note = _note(paths, plan.name)
    _files.make_directory(os.path.dirname(note), unflushed=unflushed, mode=0o700)
    begun = sorted({*_growing(paths, plan.name), image})
    yield from _files.replace_file(note, json.dumps(begun) + "\n", unflushed=unflushed, mode=0o600)
    yield
    root = os.open(paths.guest(plan.name), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        handle = open_below(root, image)
    except EndError as error:
        raise OSError(errno.EINVAL, error.seen, image) from error
    finally:
        os.close(root)
    try:
        # What was opened is what is changed, whatever has its name meanwhile.
        writing = os.open(f"/proc/self/fd/{handle}", os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(writing).st_size < step.after:
                os.ftruncate(writing, step.after)
            os.fsync(writing)
        finally:
            os.close(writing)
    finally:
        os.close(handle)
    if step.resize:
        path = paths.guest(plan.name, image)
        # 1 and 2: errors were corrected (e2fsck(8)); resize2fs wants a filesystem that was just checked.
        _as_user(apply.commands, ["e2fsck", "-f", "-p", path], plan.wish.subject, good=(0, 1, 2))
        _as_user(apply.commands, ["resize2fs", path], plan.wish.subject)
        unflushed.add(path)
        yield
    rest = [each for each in begun if each != image]
    if rest:
        yield from _files.replace_file(note, json.dumps(rest) + "\n", unflushed=unflushed, mode=0o600)
    else:
        _files.remove(note, unflushed=unflushed)


def _note_kept(apply: t.Any, plan: GuestPlan, kept: Kept, unflushed: _files.Unflushed) -> t.Iterator[None]:
    """Write what the snapshot of the guest is of, to the disk before anything else is done."""
    path = kept_file(apply.paths, plan.name)
    _files.make_directory(os.path.dirname(path), unflushed=unflushed, mode=0o700)
    yield from _files.replace_file(path, kept.text(), unflushed=unflushed, mode=0o600)
    yield


def snapshot(apply: t.Any, plan: GuestPlan, step: Snapshot, unflushed: _files.Unflushed) -> t.Iterator[None]:
    """Clones beside the state directories, where no hypervisor comes, and thin snapshots in the groups of volumes."""
    subject, target = plan.wish.subject, snapshots(apply.paths, plan.name)
    devices = [image for image in step.images if outside(image)]
    earlier = read_kept(kept_file(apply.paths, plan.name)) or Kept(None)
    lvs = _volume_lvm.read(apply.commands) if devices or earlier.volumes else _volume_lvm.Lvs(())
    origins = _volume_lvm.origins(lvs, plan.name, devices, subject=subject)
    names = {name: origin.full_name for name, origin in origins.items()}
    # Whatever comes of it, this says what there may be.
    yield from _note_kept(apply, plan, Kept(None, step.images, {**earlier.volumes, **names}), unflushed)
    _volume_lvm.drop(apply.commands, lvs, plan.name, {**earlier.volumes, **names}, subject=subject)
    try:
        _clone.clone(apply.paths.guest(plan.name), target, [image for image in step.images if not outside(image)])
    except EndError as error:
        raise OSError(errno.EINVAL, error.seen, plan.name) from error
    unflushed.add(target)
    unflushed.add(os.path.dirname(target))
    for name, origin in origins.items():
        _volume_lvm.keep(apply.commands, plan.name, name, origin, subject=subject)
    yield
    yield from _note_kept(apply, plan, Kept(step.before, step.images, names), unflushed)


def restore(apply: t.Any, plan: GuestPlan, step: RestoreSnapshot, unflushed: _files.Unflushed) -> t.Iterator[None]:
    """A clone of each clone takes the volume's place, so that the snapshot stays; those of LVM are merged, and go."""
    _require_down(apply, plan)
    subject, source = plan.wish.subject, snapshots(apply.paths, plan.name)
    kept = read_kept(kept_file(apply.paths, plan.name))
    if kept is None or kept.before != step.before:
        raise FleetError(
            f"there is no snapshot from before {step.before}.",
            subject=subject,
            field="restore_volumes",
            hint="Restore a backup, or leave restore_volumes out, and run again.",
        )
    lvs = _volume_lvm.read(apply.commands) if kept.volumes else _volume_lvm.Lvs(())
    _volume_lvm.require(lvs, plan.name, kept.volumes, begun=kept.restoring, subject=subject)
    if not kept.restoring:
        yield from _note_kept(apply, plan, dataclasses.replace(kept, restoring=True), unflushed)
    # No guest has a name with a dot in front.
    beside = os.path.join(os.path.dirname(source), f".{plan.name}.back")
    files = [image for image in kept.images if not outside(image)]
    uid, gid = pwd.getpwnam(USER).pw_uid, grp.getgrnam(GROUP).gr_gid
    if files:
        try:
            _clone.clone(source, beside, files)
        except EndError as error:
            raise OSError(errno.EINVAL, error.seen, plan.name) from error
    for image in files:
        path = os.path.join(beside, image)
        os.chown(path, uid, gid)
        os.chmod(path, MODE)
        final = apply.paths.guest(plan.name, image)
        os.rename(path, final)
        unflushed.add(os.path.dirname(final))
    _clone.remove(beside)
    if kept.volumes:
        _volume_lvm.put_back(apply.commands, lvs, kept.volumes, subject=subject)


def drop(apply: t.Any, plan: GuestPlan, _step: DropSnapshot, _unflushed: _files.Unflushed) -> None:
    """The snapshot of a guest that goes."""
    note = kept_file(apply.paths, plan.name)
    kept = read_kept(note)
    if kept is not None and kept.volumes:
        lvs = _volume_lvm.read(apply.commands)
        _volume_lvm.drop(apply.commands, lvs, plan.name, kept.volumes, subject=plan.wish.subject)
    _clone.remove(snapshots(apply.paths, plan.name))
    _files.remove(note)


ACTIONS: t.Final[dict[type[Step], t.Callable[..., t.Any]]] = {
    MakeVolume: make,
    GrowVolume: grow,
    Snapshot: snapshot,
    RestoreSnapshot: restore,
    DropSnapshot: drop,
}
