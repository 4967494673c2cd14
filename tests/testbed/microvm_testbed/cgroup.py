# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Control groups (cgroups(7), version 2): where each host's processes are, and how they are ended at once."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from . import files
from .errors import TestbedError

NAME = "microvm-testbed"
SLICE = "system.slice"  # one of our own would outlive its labs


def parse_mount(mountinfo: str, kind: str, option: str = "") -> Path | None:
    """Where a file system of the kind is mounted, from the text of proc_pid_mountinfo(5)."""
    for line in mountinfo.splitlines():
        before, _sep, after = line.partition(" - ")
        fields = after.split()
        if fields[:1] == [kind] and (not option or option in fields[2].split(",")):
            return Path(before.split()[4])
    return None


def root() -> Path:
    found = parse_mount(Path("/proc/self/mountinfo").read_text(), "cgroup2")
    if found is None:
        raise TestbedError("cgroup version 2 is not mounted; mount it with: mount -t cgroup2 cgroup2 /sys/fs/cgroup")
    return found


def managed() -> bool:
    """Whether a systemd runs the machine, whose cgroups are then its own (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def scope_command(unit: str) -> list[str]:
    """What to put before a daemon's command so that it gets a cgroup of its own from systemd, if there is one."""
    if not managed():
        return []
    return ["systemd-run", "--scope", "--quiet", "--collect", f"--slice={SLICE}", f"--unit={NAME}-{unit}",
            "--property=Delegate=yes", "--"]  # fmt: skip


def path_of(unit: str) -> Path:
    """A daemon's cgroup."""
    return root() / SLICE / f"{NAME}-{unit}.scope" if managed() else root() / NAME / unit


def enter(cgroup: Path) -> None:
    """Move this process into the cgroup."""
    cgroup.mkdir(parents=True, exist_ok=True)
    (cgroup / "cgroup.procs").write_text(f"{os.getpid()}\n")


def members(cgroup: Path) -> Iterator[int]:
    """Processes in the cgroup and below it."""
    for directory, _dirs, _files in os.walk(cgroup):
        with contextlib.suppress(OSError):
            for line in (Path(directory) / "cgroup.procs").read_text().split():
                yield int(line)


def kill(cgroup: Path) -> None:
    """Kill all processes in the cgroup and below it at once."""
    with contextlib.suppress(OSError):
        (cgroup / "cgroup.kill").write_text("1")


def end(cgroup: Path, timeout: float) -> None:
    """Kill all in the cgroup, wait until all have ended, and remove it.

    It must be removed: on kernels of 2025 a process that is started from a cgroup that was
    killed once into one below it (CLONE_INTO_CGROUP in clone(2)) is killed too.
    """
    deadline = time.monotonic() + timeout
    while True:
        kill(cgroup)
        if not (left := sorted(members(cgroup))):
            break
        if time.monotonic() > deadline:
            raise TestbedError(f"cgroup {cgroup}: processes {left} do not end")
        time.sleep(0.02)
    remove(cgroup)


def remove(cgroup: Path) -> None:
    """Remove the cgroup and those below it, as far as they are empty.

    systemd-nspawn makes their like in the hierarchy name=systemd of version 1, if there is one.
    """
    places = [cgroup]
    if legacy := parse_mount(Path("/proc/self/mountinfo").read_text(), "cgroup", "name=systemd"):
        places.append(legacy / cgroup.relative_to(root()))
    for place in places:
        for directory, _dirs, _files in os.walk(place, topdown=False):
            files.remove_empty(Path(directory))
        if place.parent.name == NAME:
            files.remove_empty(place.parent)
