# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's part of backups: a guest that is still while it is read, and volumes that take their place.

Private to the collection: it may change at any time.

What is read and what is written lies in directories of root beside the state directories: ``.backup/NAME`` has clones
of volumes, ``.restore/NAME`` volumes that have arrived and were checked, ``.restore/NAME.placing`` those of them that
are not yet in their places.  All are in one filesystem with the volumes, so nothing is copied.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import shutil
import stat
import time
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils import _clone, _files, _resume, _systemd
from ansible_collections.microvm.fleet.plugins.module_utils._backup import image_faults
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish, explaining
from ansible_collections.microvm.fleet.plugins.module_utils._guest_apply import GROUP, Apply
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import name_faults
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Guest, observe
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import GuestPlan, Outcome
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import Mark, Start, Step, Stop
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import GuestWish
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths
from ansible_collections.microvm.fleet.plugins.module_utils._stream_end import EndError, open_below

# The user of the hypervisors, which runners have built in (nixos-modules/microvm/interfaces.nix).
USER: t.Final = "microvm"
QUIESCE: t.Final = ("auto", "snapshot", "stop")


class BackupRun:
    """One guest of this host, and what is done to it for a backup or a restore."""

    def __init__(self, name: str, *, paths: Paths, commands: Commands, lock_timeout: float = 60) -> None:
        for seen in name_faults(name):
            raise InvalidWish(seen, subject=f"guest {name!r}", field="name", hint="Give the name of a guest.")
        self.name = name
        self.paths = paths
        self.commands = commands
        self.lock_timeout = lock_timeout
        self.subject = f"guest {name}"
        self.clones = os.path.join(paths.guests, ".backup", name)
        self.arrived = os.path.join(paths.guests, ".restore", name)
        self.placing = self.arrived + ".placing"

    def guest(self) -> Guest:
        """The guest as it is."""
        return observe(self.paths, self.commands, [self.name]).guest(self.name)

    def _existing(self) -> Guest:
        guest = self.guest()
        if not guest.exists:
            raise InvalidWish(
                "there is no such guest on this host.",
                subject=self.subject,
                field="name",
                hint="Name one that is here.",
            )
        return guest

    def _lock(self) -> contextlib.AbstractContextManager[None]:
        path = os.path.join(self.paths.locks, f"guest-{self.name}")
        return _files.lock(path, what=self.subject, timeout=self.lock_timeout)

    # Backup

    @explaining()
    def look(self, quiesce: str) -> dict[str, t.Any]:
        """What there is to back up, and how it would be done.  Changes nothing.  Raises FleetError."""
        guest = self._existing()
        images, absent = self._images(guest)
        clones = _clone.possible(self.paths.guests)
        if quiesce == "snapshot" and not clones:
            raise InvalidWish(
                f"the filesystem of {self.paths.guests} cannot clone files.",
                subject=self.subject,
                field="quiesce",
                hint="Use stop, or a filesystem such as btrfs or xfs.",
            )
        record = guest.record
        runner = guest.runner
        # A run that was killed may have stopped it.
        runs = guest.unit.up or guest.interrupted
        return {
            "running": runs,
            "snapshot": clones and quiesce != "stop" and runs,
            "directory": self.paths.guest(self.name),
            "images": images,
            "absent": absent,
            "outside": [volume.image for volume in guest.runner.volumes if volume.image.startswith("/")]
            if guest.runner is not None
            else [],
            "guest": {
                "flake": guest.source,
                "locked": record.locked if record is not None else None,
                "runner": guest.current,
                "hypervisor": runner.hypervisor if runner is not None else None,
                "labels": dict(record.labels) if record is not None else {},
                "protect": record.protect if record is not None else False,
                "autostart": guest.autostart,
                "volumes": [volume.as_dict() for volume in runner.volumes] if runner is not None else [],
            },
        }

    def _images(self, guest: Guest) -> tuple[list[dict[str, t.Any]], list[str]]:
        """The volumes in the state directory that are there, and the names of those that are not yet."""
        images: list[dict[str, t.Any]] = []
        absent: list[str] = []
        volumes = guest.runner.volumes if guest.runner is not None else ()
        with self._directory(self.paths.guest(self.name)) as directory:
            for volume in volumes:
                if volume.image.startswith("/"):
                    continue
                for seen in image_faults(volume.image):
                    raise InvalidWish(
                        seen, subject=self.subject, field="microvm.volumes", hint="Give the volume another image."
                    )
                try:
                    handle = open_below(directory, volume.image)
                except FileNotFoundError:
                    absent.append(volume.image)
                    continue
                except EndError as error:
                    raise FleetError(
                        error.seen, subject=self.subject, field="microvm.volumes", hint=error.hint
                    ) from error
                seen_stat = os.fstat(handle)
                os.close(handle)
                images.append({"image": volume.image, "size": seen_stat.st_size})
        return images, absent

    @staticmethod
    @contextlib.contextmanager
    def _directory(path: str) -> t.Iterator[int]:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield handle
        finally:
            os.close(handle)

    @explaining()
    def begin(self, quiesce: str, *, patience: int = 0) -> dict[str, t.Any]:
        """Have the volumes still: clone them while the guest is down, or leave it down.  Raises FleetError.

        A guest that ran is up again when this fails.  A guest that is left down is started by its host when nobody
        ends the backup: *patience* seconds after ``hold`` of the answer was renewed, and a while for what is around it.
        """
        with self._lock():
            said = self.look(quiesce)
            killed = False
            if said["running"]:
                _resume.arm(self.commands, self.paths, self.name, patience=patience)
                # The mark has the host, or any later run, start it, if this one is killed.
                stops: list[Step] = [Stop(self.name)] if self.guest().unit.up else []
                killed = self._carry_out(Mark(self.name), *stops).killed
            if said["snapshot"]:
                try:
                    _clone.clone(said["directory"], self.clones, [each["image"] for each in said["images"]])
                except (OSError, EndError) as error:
                    _clone.remove(self.clones)
                    if isinstance(error, EndError):
                        raise FleetError(error.seen, subject=self.subject, field="name", hint=error.hint) from error
                    raise
                finally:
                    self._start()
                said["directory"] = self.clones
        held = said["running"] and not said["snapshot"]
        return {**said, "killed": killed, "hold": _resume.hold_of(self.name) if held else None}

    @explaining()
    def end(self, *, start: bool) -> dict[str, t.Any]:
        """After the stream: no clones, and with *start* the guest is up again.  Raises FleetError."""
        with self._lock():
            _clone.remove(self.clones)
            if start:
                self._start()
        return {}

    def _start(self) -> None:
        """Have the guest up, unless its host has seen to it, and no timer that would do so."""
        if not self._existing().unit.active:
            self._carry_out(Start(self.name))
        _files.remove(os.path.join(self.paths.marks, self.name))
        _resume.disarm(self.commands, self.name)

    def _carry_out(self, *steps: Step) -> Outcome:
        """Do *steps*; raises FleetError with what goes wrong."""
        start, stop = _systemd.timeouts(self.commands, [self.name]).get(self.name, (None, None))
        wish = GuestWish(self.name, start_timeout=start, stop_timeout=stop)
        work = Apply(self.paths, self.commands, build_timeout=0)
        work.finish([GuestPlan(wish, self.guest(), steps=steps)])
        outcome = work.outcomes[self.name]
        if outcome.error is not None:
            raise outcome.error
        return outcome

    # Restore

    @explaining()
    def find(self, images: t.Sequence[str]) -> dict[str, t.Any]:
        """What a restore of *images* meets here.  Changes nothing.  Raises FleetError when it cannot be done."""
        for image in images:
            for seen in image_faults(image):
                raise InvalidWish(seen, subject=self.subject, field="images", hint="Take another backup.")
        if not os.path.isdir(self.paths.guests):
            raise InvalidWish(
                f"this host has no {self.paths.guests}.",
                subject=self.subject,
                field="name",
                hint="Run the role microvm.fleet.host on it first.",
            )
        guest = self.guest()
        self._refuse(guest)
        volumes = {volume.image for volume in guest.runner.volumes} if guest.runner is not None else set()
        there = [image for image in images if os.path.lexists(self.paths.guest(self.name, image))]
        return {
            "exists": guest.exists,
            "arrived": self.arrived,
            "left": os.path.lexists(self.arrived),
            "replaced": there,
            "unknown": [image for image in images if guest.exists and image not in volumes],
        }

    def _refuse(self, guest: Guest) -> None:
        if guest.unit.up:
            raise InvalidWish(
                "it runs.", subject=self.subject, field="name", hint="Stop it first; a restore replaces its volumes."
            )
        if guest.exists and guest.owner == "nixos":
            raise InvalidWish(
                "belongs to the NixOS configuration of this host.",
                subject=self.subject,
                field="name",
                hint="Restore it under another name, or take it out of that configuration.",
            )

    @explaining()
    def place(self, images: t.Sequence[str]) -> dict[str, t.Any]:
        """Give volumes that have arrived their places; what was there goes among the kept ones.  Raises FleetError.

        Each is one rename.  A run that is killed in between is finished by the next, which finds what is left.
        """
        with self._lock():
            said = self.find(images)
            if not said["exists"]:
                raise InvalidWish(
                    "there is no such guest on this host.",
                    subject=self.subject,
                    field="name",
                    hint="Create it first, for its volumes to have a place.",
                )
            if os.path.isdir(self.arrived):
                if os.path.isdir(self.placing):
                    # What has arrived since is whole.
                    shutil.rmtree(self.placing)
                os.rename(self.arrived, self.placing)
                _files.sync_directory(os.path.dirname(self.placing))
            return {**said, "kept": self._put(images)}

    def _put(self, images: t.Sequence[str]) -> str | None:
        left = [image for image in images if os.path.lexists(os.path.join(self.placing, image))]
        kept = None
        uid, gid = pwd.getpwnam(USER).pw_uid, grp.getgrnam(GROUP).gr_gid
        with self._directory(self.paths.guest(self.name)) as root:
            for image in left:
                with self._parent(root, image, uid, gid) as (directory, entry):
                    if _exists(directory, entry):
                        kept = kept or self._kept()
                        place = os.path.join(kept, image)
                        os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
                        # A second name: there is no moment at which the guest has no such volume.
                        os.link(entry, place, src_dir_fd=directory, follow_symlinks=False)
                        _files.sync_directory(os.path.dirname(place))
                    os.rename(os.path.join(self.placing, image), entry, dst_dir_fd=directory)
                    os.fsync(directory)
        shutil.rmtree(self.placing, ignore_errors=True)
        return kept

    @contextlib.contextmanager
    def _parent(self, root: int, image: str, uid: int, gid: int) -> t.Iterator[tuple[int, str]]:
        """The open directory of *image* below *root*, made if it is missing, and the name in it; no links."""
        parts = image.split("/")
        place = os.dup(root)
        try:
            for part in parts[:-1]:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=place)
                    os.chown(part, uid, gid, dir_fd=place, follow_symlinks=False)
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
                os.close(place)
                place = inner
            yield place, parts[-1]
        finally:
            os.close(place)

    def _kept(self) -> str:
        os.makedirs(self.paths.kept, mode=0o700, exist_ok=True)
        base = os.path.join(self.paths.kept, f"{self.name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
        kept, count = base, 1
        while os.path.lexists(kept):
            count += 1
            kept = f"{base}-{count}"
        os.mkdir(kept, 0o700)
        return kept

    @explaining()
    def drop(self) -> dict[str, t.Any]:
        """Remove what has arrived, and is not to be placed."""
        with self._lock(), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.arrived)
        return {}


def _exists(directory: int, entry: str) -> bool:
    """Whether there is a file *entry*.  Raises OSError for what is no file, such as a link."""
    try:
        seen = os.stat(entry, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(seen.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", entry)
    return True
