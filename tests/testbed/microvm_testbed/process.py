# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes, known by more than a number that may come again."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


def boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def parse_start_time(stat: str) -> int | None:
    """Start time in clock ticks since boot from proc_pid_stat(5), None for a zombie.

    The command name may hold blanks and parentheses; what follows its last ``)`` may not.
    """
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True)
class ProcessId:
    """A process for certain: the number, its start time and the boot of the machine."""

    pid: int
    start: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process that has the number now; None if there is none, or only a zombie."""
        try:
            start = parse_start_time((PROC / str(pid) / "stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if start is None else cls(pid, start, boot_id())

    @classmethod
    def from_json(cls, data: Mapping[str, object] | None) -> ProcessId | None:
        if data is None:
            return None
        match data.get("pid"), data.get("start"), data.get("boot"):
            case int() as pid, int() as start, str() as boot:
                return cls(pid, start, boot)
        return None

    def to_json(self) -> dict[str, object]:
        return {"pid": self.pid, "start": self.start, "boot": self.boot}

    def alive(self) -> bool:
        return ProcessId.of(self.pid) == self


def kill_if(pid: int, is_ours: Callable[[], bool], number: signal.Signals = signal.SIGKILL) -> bool:
    """Signal a process if the check holds for it, free of races with the reuse of its number."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_ours():
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, number)
        return True
    finally:
        os.close(fd)


def pids() -> Iterator[int]:
    for entry in os.scandir(PROC):
        if entry.name.isdecimal():
            yield int(entry.name)


def in_netns(pid: int, netns: os.stat_result) -> bool:
    """Whether the process is in the network namespace that a stat of its file gave."""
    try:
        return os.path.samestat(os.stat(PROC / str(pid) / "ns/net"), netns)
    except OSError:
        return False


def is_init(pid: int) -> bool:
    """Whether the process is the first of a PID namespace below ours (NSpid in proc_pid_status(5))."""
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("NSpid:"):
                numbers = line.split()[1:]
                return len(numbers) > 1 and numbers[-1] == "1"
    return False
