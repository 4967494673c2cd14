# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Atomic files and locks."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from .errors import TestbedError

# What does not outlive the machine's boot: namespace files, sockets, locks.
RUNTIME = Path("/run/microvm-testbed")


def write_atomic(path: Path, text: str, mode: int = 0o644) -> None:
    """Make the file hold the text: never half of it, whatever happens."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        os.fchmod(fd, mode)
        file.write(text)
        file.flush()
        os.fsync(fd)
    os.rename(beside, path)
    sync_dir(path.parent)


def sync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: Path, data: Mapping[str, object]) -> None:
    write_atomic(path, json.dumps(data, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> dict[str, object] | None:
    """The object in a file of ours, or None if there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise TestbedError(f"{path}: not a state file of the testbed ({error})") from error
    if not isinstance(data, dict):
        raise TestbedError(f"{path}: not a state file of the testbed")
    return data


def try_lock(path: Path) -> int | None:
    """Take an exclusive flock(2); return its descriptor, or None if someone else has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


# Descriptors of the locks that this process holds. Programs that it runs inherit them, so that
# a lock is free only when they too have ended, even if this process was killed.
held: set[int] = set()


@contextlib.contextmanager
def locked(path: Path, *, keep: bool = False) -> Iterator[None]:
    """Hold an exclusive flock(2) on the file; remove the file at the end unless ``keep``.

    Because holders remove the file, a lock counts only if the path still names it.
    """
    while True:
        # Another holder may remove the directory between any two of these.
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISDIR(path.parent.stat().st_mode):
                    raise
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                break
        os.close(fd)
    held.add(fd)
    try:
        yield
    finally:
        held.discard(fd)
        if not keep:
            path.unlink(missing_ok=True)
            remove_empty(path.parent)
        os.close(fd)


def remove_empty(path: Path) -> None:
    """Remove a directory if it is empty."""
    with contextlib.suppress(OSError):
        path.rmdir()


def remove_tree(path: Path) -> None:
    """Remove a directory with all in it, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
