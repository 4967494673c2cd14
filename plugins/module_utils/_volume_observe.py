# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images of volumes as they are: size, whether there is anything in them, and their superblock.

Private to the collection: it may change at any time.

Nothing is mounted, and no program is run on what a guest has written: a few bytes at fixed places are read.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import struct
import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._files import read_text
from ansible_collections.microvm.fleet.plugins.module_utils._stream_end import EndError, items_of, open_below

# Where what a filesystem or a table says of itself is, and what (libblkid's superblocks; e2fsprogs, ext2_fs.h).
SIGNATURES: t.Final = (
    ("xfs", 0, b"XFSB"),
    ("btrfs", 0x10040, b"_BHRfS_M"),
    ("LUKS", 0, b"LUKS\xba\xbe"),
    ("a partition table", 512, b"EFI PART"),
    ("LVM", 536, b"LVM2 001"),
)
EXT_MAGIC: t.Final = b"\x53\xef"
# Blocks of the first backup superblock of ext, by the size of a block: the first of the second group.
EXT_BACKUPS: t.Final = {1024: 8193, 2048: 16384, 4096: 32768}
# How much of an image is read to find out whether it is all zeros.
SCAN: t.Final = 64 << 20


@dataclass(frozen=True)
class Seen:
    """One image.  *size* in bytes; *content* is None for one that has nothing but zeros."""

    exists: bool = False
    regular: bool = True
    size: int = 0
    # ext, ext backup (only a copy of its superblock is there), the name of something else, or data.
    content: str | None = None


@dataclass(frozen=True)
class Kept:
    """What a snapshot is of: *images*, as they were *before* the guest got that runner (None while it is made).

    *volumes* are the full names of LVM's snapshots, with those of their origins.  With *restoring* a run has begun to
    put it back.
    """

    before: str | None
    images: tuple[str, ...] = ()
    volumes: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    restoring: bool = False

    def text(self) -> str:
        """For the file that `read_kept` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"


def read_kept(path: str) -> Kept | None:
    """What the file *path* says of a guest's snapshot, None when there is none that can be read."""
    try:
        said = json.loads(read_text(path) or "null")
        return Kept(
            before=said["before"],
            images=tuple(said["images"]),
            volumes=dict(said["volumes"]),
            restoring=bool(said["restoring"]),
        )
    except (ValueError, TypeError, KeyError):
        return None


def look(directory: str, images: t.Iterable[str]) -> dict[str, Seen]:
    """The *images* of the state directory; the directory itself may be missing.  Raises OSError."""
    names = list(images)
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return {name: Seen() for name in names}
    try:
        return {name: _look(handle, name) for name in names}
    finally:
        os.close(handle)


def _look(directory: int, name: str) -> Seen:
    try:
        handle = open_below(directory, name)
    except FileNotFoundError:
        return Seen()
    except EndError:
        # A link, a device: what it is to whom is not ours to know.
        return Seen(exists=True, regular=False)
    try:
        size = os.fstat(handle).st_size
        return Seen(
            exists=True, regular=stat.S_ISREG(os.fstat(handle).st_mode), size=size, content=content_of(handle, size)
        )
    finally:
        os.close(handle)


def content_of(handle: int, size: int) -> str | None:
    """What is in the open image."""
    if os.pread(handle, 2, 1024 + 56) == EXT_MAGIC:
        return "ext"
    for name, place, magic in SIGNATURES:
        if os.pread(handle, len(magic), place) == magic:
            return name
    for block, first in EXT_BACKUPS.items():
        head = os.pread(handle, 60, first * block)
        # s_log_block_size says that it is the copy of a filesystem with such blocks.
        if head[56:58] == EXT_MAGIC and struct.unpack("<I", head[24:28])[0] == block.bit_length() - 11:
            return "ext backup"
    read = 0
    for item in items_of(handle, size):
        if isinstance(item, bytes):
            if item.count(0) != len(item):
                return "data"
            read += len(item)
            if read >= SCAN:
                # So much that was written, be it zeros, is no filesystem that was hardly begun.
                return "data"
    return None
