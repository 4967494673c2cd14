# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files, links and locks that survive a kill at any point.

Private to the collection: it may change at any time.

Every write goes to a name beside the target, is flushed, renamed over it, and the directory is flushed
(rename(2), fsync(2)): a reader sees the old or the new, and a power cut loses neither.
Names beside a target begin with ``TEMPORARY``, so the next run finds what a killed one left.

A flush takes milliseconds, and one of a whole filesystem hardly longer.  So who changes much notes what is to be
flushed in an `Unflushed`, and flushes it together, at the points where what follows relies on what was before.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import os
import time
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy

TEMPORARY: t.Final = ".microvm-fleet."
# More files and directories than these are flushed with their filesystems.
MANY: t.Final = 16


class Unflushed:
    """Files and directories that were changed and may not be on the disk yet."""

    def __init__(self) -> None:
        self.paths: dict[str, None] = {}

    def add(self, path: str) -> None:
        """Note the file or directory *path*."""
        self.paths[path] = None


def flush(paths: t.Collection[str]) -> dict[str, OSError]:
    """Have the files and directories *paths* on the disk, and give the errors of those for which that failed."""
    if len(paths) > MANY and _flush_filesystems(paths):
        return {}
    errors: dict[str, OSError] = {}
    for path in paths:
        try:
            _flush(path)
        except OSError as error:
            error.filename = error.filename or path
            errors[path] = error
    return errors


def _flush(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_filesystems(paths: t.Iterable[str]) -> bool:
    """Flush the filesystems of *paths*; False when that is not possible here or failed, nobody knows for which path.

    Since Linux 5.8 syncfs(2) tells of errors.  Python has no function for it, and may have been built without ctypes.
    """
    try:
        syncfs = importlib.import_module("ctypes").CDLL(None).syncfs
    except (ImportError, OSError, AttributeError):
        return False
    devices: dict[int, str] = {}
    try:
        for path in paths:
            devices.setdefault(os.lstat(path).st_dev, path)
        for path in devices.values():
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if syncfs(handle) != 0:
                    return False
            finally:
                os.close(handle)
    except OSError:
        return False
    return True


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


def write_file(path: str, content: str | bytes, *, mode: int = 0o644, uid: int = 0, gid: int = 0) -> None:
    """Put *content* at *path*, whole or not at all.  *mode* in octal as chmod(2) has it."""
    unflushed = Unflushed()
    parts = replace_file(path, content, mode=mode, uid=uid, gid=gid, unflushed=unflushed)
    for _part in parts:
        try:
            flush_now(unflushed)
        except OSError as error:
            parts.throw(error)
    flush_now(unflushed)


def flush_now(unflushed: Unflushed) -> None:
    """Have all of *unflushed* on the disk.  Raises the first OSError."""
    for error in flush(unflushed.paths).values():
        raise error
    unflushed.paths.clear()


def sweep(path: str) -> None:
    """Remove what killed runs have left beside *path*."""
    directory, name = os.path.split(path)
    for entry in os.listdir(directory):
        if entry.startswith(f"{TEMPORARY}{name}."):
            remove(os.path.join(directory, entry))


def replace_file(
    path: str, content: str | bytes, *, unflushed: Unflushed, mode: int = 0o644, uid: int = 0, gid: int = 0
) -> t.Generator[None, None, None]:
    """As `write_file`, in parts: before it is resumed, and after its end, *unflushed* has to be flushed."""
    temporary = beside(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        make_file(temporary, content, unflushed=unflushed, mode=mode, uid=uid, gid=gid)
        yield
        os.rename(temporary, path)
    except GeneratorExit:
        # The whole run has ended in between; the next one removes what it left.
        raise
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    unflushed.add(os.path.dirname(path))


def make_file(
    path: str, content: str | bytes, *, unflushed: Unflushed, mode: int = 0o644, uid: int = 0, gid: int = 0
) -> None:
    """Make the file *path*, which nobody sees yet."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)
        stream.flush()
        os.fchown(stream.fileno(), uid, gid)
        os.fchmod(stream.fileno(), mode)
    unflushed.add(path)


def make_directory(path: str, *, unflushed: Unflushed, mode: int = 0o755) -> None:
    """Make the directory *path* and those above it, as far as they are missing."""
    if os.path.isdir(path):
        return
    make_directory(os.path.dirname(path), unflushed=unflushed)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode)
    unflushed.add(os.path.dirname(path))


def write_link(path: str, target: str, *, unflushed: Unflushed | None = None) -> None:
    """Make *path* a symbolic link to *target*, replacing a link that is there.

    It is flushed at once, or noted in *unflushed*.
    """
    try:
        os.symlink(target, path)
    except FileExistsError:
        _replace_link(path, target)
    _note(os.path.dirname(path), unflushed)


def copy_link(path: str, link: str, *, unflushed: Unflushed) -> None:
    """Make *path* a symbolic link to what *link* is one to, replacing a link that is there.

    Both names are of one file, as far as the filesystem can (link(2)): a tenth of the work of another, and none to
    remove the first name later.
    """
    try:
        os.link(link, path, follow_symlinks=False)
        os.utime(path, follow_symlinks=False)
    except OSError:
        write_link(path, os.readlink(link), unflushed=unflushed)
    else:
        unflushed.add(os.path.dirname(path))


def _replace_link(path: str, target: str) -> None:
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


def remove(path: str, *, unflushed: Unflushed | None = None) -> bool:
    """Remove the file or link *path*; False when there was none.  It is flushed at once, or noted in *unflushed*."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError:
        # The kernel looks at the filesystem first, which is read-only where a NixOS system has its units.
        if os.path.lexists(path):
            raise
        return False
    _note(os.path.dirname(path), unflushed)
    return True


def _note(directory: str, unflushed: Unflushed | None) -> None:
    if unflushed is None:
        sync_directory(directory)
    else:
        unflushed.add(directory)


def read_link(path: str) -> str | None:
    """The target of the link *path*; None when it is missing or no link."""
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL, errno.ENOTDIR):
            return None
        raise


def read_text(path: str, limit: int = 1 << 20) -> str | None:
    """The text of the file *path*, at most *limit* bytes of it; None when there is none."""
    # A run reads some files of every guest: a third of the calls of a stream.
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    content = b""
    try:
        while len(content) < limit:
            part = os.read(handle, min(limit - len(content), 1 << 16))
            if not part:
                break
            content += part
    except IsADirectoryError:
        return None
    finally:
        os.close(handle)
    return content.decode("utf-8", "replace")


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
