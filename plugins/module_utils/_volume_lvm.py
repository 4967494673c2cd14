# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Volumes on thin logical volumes of LVM: snapshots of them made, merged back, and removed, by LVM's own programs.

Private to the collection: it may change at any time.

A thin snapshot takes no size, shares its blocks in the pool, and is not activated (lvmthin(7)).  Merging one back is a
single change of the volume group's metadata, after which the origin has the content of the snapshot, and there is no
snapshot any more.  So whatever a run was killed at, what is there says what is left to be done.
"""

from __future__ import annotations

import hashlib
import os
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError, FleetError

# The tag that a snapshot has, with the guest's name: ``lvs @microvm.fleet=NAME`` lists those of a guest.
TAG: t.Final = "microvm.fleet="
COLUMNS: t.Final = (
    "vg_name",
    "lv_name",
    "lv_path",
    "lv_dm_path",
    "lv_kernel_major",
    "lv_kernel_minor",
    "segtype",
    "pool_lv",
    "origin",
    "lv_tags",
    "lv_active",
    "lv_device_open",
    "lv_merging",
    "lv_health_status",
    "data_percent",
    "metadata_percent",
)
LIST: t.Final = ("lvs", "--all", "--reportformat", "json", "--options", ",".join(COLUMNS))
# LVM waits for its locks and for udev; a change of it must not be ended in the middle.
TIMEOUT: t.Final = 900.0
# A pool that is fuller than this, in percent, has no room for what guests write while there is a snapshot.
FULL: t.Final = 95.0
# Longest name that device-mapper takes (DM_NAME_LEN), in which each hyphen of LVM's names counts twice.
LONGEST: t.Final = 127
# What LVM keeps for itself in names of logical volumes (lvm(8), VALID NAMES).
RESERVED: t.Final = (
    "_cdata",
    "_cmeta",
    "_corig",
    "_cpool",
    "_cvol",
    "_imeta",
    "_iorig",
    "_mimage",
    "_mlog",
    "_pmspare",
    "_rimage",
    "_rmeta",
    "_tdata",
    "_tmeta",
    "_vdata",
    "_vorigin",
    "_wcorig",
)


@dataclass(frozen=True)
class Lv:
    """One logical volume, as lvs(8) tells of it.

    *device* is what st_rdev of its node is, None while it is not active; *data* and *metadata* are percents, of a pool.
    *merging* is a snapshot that waits for the next activation of its origin.
    """

    group: str
    name: str
    paths: tuple[str, ...] = ()
    device: int | None = None
    kind: str = ""
    pool: str = ""
    origin: str = ""
    tags: frozenset[str] = frozenset()
    active: bool = False
    open: bool = False
    merging: bool = False
    health: str = ""
    data: float | None = None
    metadata: float | None = None

    @property
    def full_name(self) -> str:
        """As LVM's programs take it."""
        return f"{self.group}/{self.name}"


class Lvs:
    """The logical volumes of a host."""

    def __init__(self, volumes: t.Iterable[Lv]) -> None:
        self.volumes = {volume.full_name: volume for volume in volumes}

    def of_image(self, image: str, device: int | None) -> Lv | None:
        """That of the node *image* with the number *device*, or of that name where there is no node."""
        for volume in self.volumes.values():
            if volume.device == device if device is not None else image in volume.paths:
                return volume
        return None


def read(commands: Commands) -> Lvs:
    """What there is.  A host without LVM has none.  Raises CommandError."""
    if commands.find("lvs") is None:
        return Lvs(())
    return read_report(commands.json(LIST, timeout=TIMEOUT))


def read_report(report: t.Any) -> Lvs:
    """From the JSON of `LIST`: all values are text.  Raises CommandError for what is none."""
    try:
        rows = [row for part in report["report"] for row in part["lv"]]
        return Lvs(_volume(row) for row in rows)
    except (KeyError, TypeError, ValueError) as error:
        raise CommandError(
            f"lvs printed what is no report of logical volumes: {error}.",
            subject="host",
            hint="See what lvs --reportformat json prints.",
            argv=LIST,
        ) from error


def _volume(row: t.Mapping[str, str]) -> Lv:
    major, minor = int(row["lv_kernel_major"] or -1), int(row["lv_kernel_minor"] or -1)
    return Lv(
        group=row["vg_name"],
        # Those that are LVM's own have brackets; of a snapshot that is being merged, too.
        name=row["lv_name"].strip("[]"),
        paths=tuple(path for path in (row["lv_path"], row["lv_dm_path"]) if path),
        device=os.makedev(major, minor) if major >= 0 and minor >= 0 else None,
        kind=row["segtype"],
        pool=row["pool_lv"].strip("[]"),
        origin=row["origin"].strip("[]"),
        tags=frozenset(tag for tag in row["lv_tags"].split(",") if tag),
        active=bool(row["lv_active"]),
        open=row["lv_device_open"] == "open",
        merging=row["lv_merging"] == "merging",
        health=row["lv_health_status"],
        data=float(row["data_percent"]) if row["data_percent"] else None,
        metadata=float(row["metadata_percent"]) if row["metadata_percent"] else None,
    )


def device_of(path: str) -> tuple[bool, int | None]:
    """Whether there is something at *path*, and its number if that is a block device.  Raises OSError."""
    try:
        seen = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False, None
    return True, seen.st_rdev if stat.S_ISBLK(seen.st_mode) else None


def name_of_snapshot(guest: str, origin: Lv) -> str:
    """The name, in the group of *origin*, of its snapshot for *guest*.

    Names of guests have no plus, so no two of them give the same.
    """
    name = f"microvm+{guest}+{origin.name}"
    mapped = f"{origin.group}-{name}"
    if len(origin.group.replace("-", "--")) + 1 + len(name.replace("-", "--")) > LONGEST or any(
        word in name for word in RESERVED
    ):
        name = "microvm+" + hashlib.sha256(mapped.encode("utf-8")).hexdigest()[:16]
    return name


# Before anything is stopped


def origins(lvs: Lvs, guest: str, images: t.Iterable[str], *, subject: str) -> dict[str, Lv]:
    """The logical volumes of *images*, which are outside of the state directory, by the full names of their snapshots.

    Images that are not there are left out: there is nothing to keep.  Raises FleetError for one that cannot be kept.
    """
    found: dict[str, Lv] = {}
    for image in images:
        there, device = device_of(image)
        volume = lvs.of_image(image, device) if device is not None or not there else None
        if volume is None and not there:
            continue
        seen = _fault(lvs, guest, image, volume, device=device)
        if seen is not None:
            raise FleetError(
                seen,
                subject=subject,
                field="snapshot_volumes",
                hint="Leave it out, or keep the volume on a thin logical volume or in the guest's directory."
                " Nothing was stopped.",
            )
        if volume is not None:
            found[f"{volume.group}/{name_of_snapshot(guest, volume)}"] = volume
    return found


def _fault(lvs: Lvs, guest: str, image: str, volume: Lv | None, *, device: int | None) -> str | None:
    """Why no snapshot can be made, None if one can."""
    if volume is None:
        what = "a file outside of the guest's directory" if device is None else "no logical volume of LVM"
        return f"{image} is {what}, and no snapshot can be made of it."
    if volume.kind != "thin":
        return f"{image} is the logical volume {volume.full_name}, which is not thin ({volume.kind or 'unknown'})."
    pool = lvs.volumes.get(f"{volume.group}/{volume.pool}", Lv(volume.group, volume.pool))
    if pool.health or volume.health:
        return f"the state of {image} or of its pool {pool.full_name} is: {pool.health or volume.health}."
    for what, percent in (("data", pool.data), ("metadata", pool.metadata)):
        if percent is not None and percent > FULL:
            return f"the {what} of the pool {pool.full_name} of {image} are {percent:g} % full."
    if any(each.merging and (each.group, each.origin) == (volume.group, volume.name) for each in lvs.volumes.values()):
        return f"{volume.full_name} waits for a snapshot to be merged into it, which comes with its next activation."
    taken = lvs.volumes.get(f"{volume.group}/{name_of_snapshot(guest, volume)}")
    if taken is not None and TAG + guest not in taken.tags:
        return f"there is a logical volume {taken.full_name} that is no snapshot of this guest (tag {TAG}{guest})."
    if taken is not None and taken.open:
        return f"the earlier snapshot {taken.full_name} is in use."
    return None


# What the steps do


def keep(commands: Commands, guest: str, snapshot: str, origin: Lv, *, subject: str) -> None:
    """Make the *snapshot* of *origin*, under a name that is free."""
    commands.run(
        [
            "lvcreate",
            "--yes",
            "--snapshot",
            "--setactivationskip",
            "y",
            "--addtag",
            TAG + guest,
            "--name",
            snapshot.partition("/")[2],
            origin.full_name,
        ],
        timeout=TIMEOUT,
        subject=subject,
    )


def drop(commands: Commands, lvs: Lvs, guest: str, snapshots: t.Iterable[str], *, subject: str) -> None:
    """Remove those of *snapshots* that are there, and the guest's.  Raises CommandError for one that is in use."""
    for snapshot in snapshots:
        volume = lvs.volumes.get(snapshot)
        if volume is not None and TAG + guest in volume.tags:
            commands.run(["lvremove", "--yes", snapshot], timeout=TIMEOUT, subject=subject)


def require(lvs: Lvs, guest: str, snapshots: t.Mapping[str, str], *, begun: bool, subject: str) -> None:
    """See that *snapshots*, by which their origins go, can be merged.

    With *begun* an earlier run has merged those that are not there any more.  Raises FleetError; nothing was changed.
    """
    for snapshot, origin in snapshots.items():
        volume, target = lvs.volumes.get(snapshot), lvs.volumes.get(origin)
        seen = None
        if volume is None and begun:
            continue
        if volume is None or TAG + guest not in volume.tags:
            seen = f"the snapshot {snapshot} is not there."
        elif target is None or volume.origin != target.name:
            seen = f"{snapshot} is no snapshot of {origin} (but of {volume.origin or 'nothing'})."
        elif target.open:
            seen = f"{origin} is in use, so its snapshot cannot be put back."
        if seen is not None:
            raise FleetError(
                seen,
                subject=subject,
                field="restore_volumes",
                hint="See to it with lvs and lsblk, and run again; or leave restore_volumes out.",
            )


def put_back(commands: Commands, lvs: Lvs, snapshots: t.Mapping[str, str], *, subject: str) -> None:
    """Merge those of *snapshots* that are there into their origins, and have all origins active."""
    for snapshot, origin in snapshots.items():
        volume = lvs.volumes.get(snapshot)
        if volume is not None:
            first = ["lvchange", "--yes", "--activate", "n", origin]
            commands.run(
                first if volume.merging else ["lvconvert", "--yes", "--merge", snapshot],
                timeout=TIMEOUT,
                subject=subject,
            )
        # Merging takes it down for a moment, in which a run may be killed.
        commands.run(
            ["lvchange", "--yes", "--activate", "y", "--ignoreactivationskip", origin], timeout=TIMEOUT, subject=subject
        )
    after = read(commands)
    for snapshot, origin in snapshots.items():
        target = after.volumes.get(origin)
        if snapshot in after.volumes or target is None or not target.active:
            raise FleetError(
                f"{snapshot} was not merged into {origin}, which something has opened.",
                subject=subject,
                field="restore_volumes",
                hint="It is merged with the next activation (lvchange -an, then -ay). See who uses it, and run again.",
            )
