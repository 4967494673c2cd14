# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies of files that share their blocks, which btrfs and xfs can make at once.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._stream_end import open_below

# ioctl_ficlone(2).
FICLONE: t.Final = 0x40049409


def possible(directory: str) -> bool:
    """Whether files below *directory* can share blocks: tried with two that have no name (open(2), O_TMPFILE)."""
    handles: list[int] = []
    try:
        handles += [os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600) for _count in "ab"]
        os.pwrite(handles[0], b"x", 0)
        fcntl.ioctl(handles[1], FICLONE, handles[0])
    except OSError:
        return False
    else:
        return True
    finally:
        for handle in handles:
            os.close(handle)


def clone(source: str, target: str, names: t.Sequence[str]) -> None:
    """Make the directory *target* anew, root's own, with clones of the files *names* of the directory *source*.

    No link is followed.  Raises OSError, or EndError for what is no regular file.
    """
    remove(target)
    os.makedirs(target, mode=0o700)
    os.chmod(os.path.dirname(target), 0o700)
    directory = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in names:
            path = os.path.join(target, name)
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            origin = open_below(directory, name)
            try:
                made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.ioctl(made, FICLONE, origin)
                    os.fsync(made)
                finally:
                    os.close(made)
            finally:
                os.close(origin)
    finally:
        os.close(directory)


def remove(target: str) -> None:
    """Remove what `clone` made, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(target)
