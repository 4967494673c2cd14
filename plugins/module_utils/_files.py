# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files, links and locks that survive a kill at any point.

Private to the collection: it may change at any time.

Every write goes to a name beside the target, is flushed, renamed over it, and the directory is flushed
(rename(2), fsync(2)): a reader sees the old or the new, and a power cut loses neither.
Names beside a target begin with ``TEMPORARY``, so the next run finds what a killed one left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy

TEMPORARY: t.Final = ".microvm-fleet."


def sync_directory(path: str) -> None:
    """Flush the entries of directory *path* to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def beside(path: str) -> str:
    """A name in the directory of *path* that only this process uses."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f"{TEMPORARY}{name}.{os.getpid()}")


def write_file(path: str, text: str, *, mode: int = 0o644, uid: int = 0, gid: int = 0) -> None:
    """Put *text* at *path*, whole or not at all.  *mode* in octal as chmod(2) has it."""
    temporary = beside(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fchown(stream.fileno(), uid, gid)
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(path))


def write_link(path: str, target: str) -> None:
    """Make *path* a symbolic link to *target*, replacing a link that is there."""
    temporary = beside(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(target, temporary)
    try:
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(path))


def remove(path: str) -> bool:
    """Remove the file or link *path*; False when there was none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    sync_directory(os.path.dirname(path))
    return True


def read_link(path: str) -> str | None:
    """The target of the link *path*; None when it is missing or no link."""
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL, errno.ENOTDIR):
            return None
        raise


def read_text(path: str, limit: int = 1 << 20) -> str | None:
    """The text of the file *path*, at most *limit* characters; None when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(limit)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


@contextlib.contextmanager
def lock(path: str, *, what: str, shared: bool = False, timeout: float = 0.0) -> t.Iterator[None]:
    """Hold flock(2) on the file *path* for the block.  The kernel drops it when the process dies.

    *what* names the locked object in the message; *timeout* in seconds is how long to wait for another holder.
    Raises Busy when it is still held then, naming the holder's process.
    """
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(handle, 64, 0).decode("ascii", "replace").strip() or "unknown"
                    raise Busy(
                        f"another run (process {holder}) is working on it.",
                        subject=what,
                        hint="Wait for it to end, or raise lock_timeout.",
                    ) from None
                time.sleep(0.05)
        if not shared:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(handle)
