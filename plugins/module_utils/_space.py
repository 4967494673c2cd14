# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether there is room on a host for what is to be written, asked before anything is.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError

MIB: t.Final = 1 << 20
# What stays free, in bytes: a filesystem that is full to the last block stops what else runs on the host.
RESERVE: t.Final = 256 * MIB


@dataclass(frozen=True)
class Need:
    """*size* bytes that are to be written below *path*, which may not exist yet.  *what* says of what, in words."""

    path: str
    size: int
    what: str


def existing(path: str) -> str:
    """*path*, or the nearest directory above it that exists."""
    while not os.path.exists(path):
        path = os.path.dirname(path) or "/"
    return path


def free(path: str) -> int:
    """Bytes that can be written below *path*, which may not exist yet.

    That is f_bavail of statvfs(3): what a filesystem keeps for root is not for images and closures.
    """
    status = os.statvfs(existing(path))
    return status.f_bavail * status.f_frsize


def require(
    needs: t.Iterable[Need],
    *,
    reserve: int = RESERVE,
    subject: str | None = None,
    field: str | None = None,
    hint: str | None = None,
) -> None:
    """Raise FleetError when one of the filesystems has no room for the *needs* upon it and *reserve* bytes.

    Needs of one filesystem are counted together.  What needs nothing is never refused.
    """
    by_device: dict[int, list[Need]] = {}
    for need in needs:
        if need.size > 0:
            by_device.setdefault(os.stat(existing(need.path)).st_dev, []).append(need)
    for some in by_device.values():
        there = free(some[0].path)
        size = sum(need.size for need in some)
        if there >= size + reserve:
            continue
        said = " and ".join(f"{mib(need.size)} for {need.what}" for need in some)
        raise FleetError(
            f"not enough space at {existing(some[0].path)}: it takes {said}, {mib(there)} are free,"
            f" {mib(reserve)} are to stay so, and {mib(size + reserve - there)} are missing.",
            subject=subject,
            field=field,
            hint=hint or "Make room there. Nothing was changed.",
        )


def mib(size: int) -> str:
    """*size* bytes in MiB, rounded up."""
    return f"{-(-size // MIB)} MiB"
