# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host of a lab: its directory, its processes, and being in it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import cgroup, files, process
from .errors import TestbedError
from .process import ProcessId

ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
    f"TERM={os.environ.get('TERM', 'dumb')}",
)


@dataclass(frozen=True)
class Machine:
    """A boot of a host: the process of systemd-nspawn and how many boots there were with this one."""

    nspawn: ProcessId
    boots: int


@dataclass(frozen=True)
class Host:
    """A host and where its files are."""

    name: str
    number: int
    directory: Path
    ssh: Path
    """The lab's ssh."""

    @property
    def cgroup(self) -> Path:
        return cgroup.path_of(self.name)

    def boot_cgroup(self, machine: Machine) -> Path:
        return self.cgroup / f"boot-{machine.boots}"

    def supervised(self) -> bool:
        """Whether a supervisor runs."""
        found = ProcessId.from_json(files.read_json(self.directory / "supervisor.json"))
        return found is not None and found.alive()

    def machine(self) -> Machine | None:
        """The boot that runs now."""
        data = files.read_json(self.directory / "machine.json")
        found = ProcessId.from_json(data)
        if data is None or found is None or not found.alive():
            return None
        return Machine(found, int(str(data["boots"])))

    def leader(self) -> int | None:
        """PID of the host's own PID 1."""
        machine = self.machine()
        if machine is None:
            return None
        return next((pid for pid in cgroup.members(self.boot_cgroup(machine)) if process.is_init(pid)), None)

    def exec_command(self, command: list[str]) -> list[str]:
        """The command that runs a command in the host without ssh.

        Raises TestbedError when the host is down.
        """
        leader = self.leader()
        if leader is None:
            raise TestbedError(f"host {self.name}: is not running; start it with: testbed up")
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        return ["nsenter", "--target", str(leader), *namespaces, "--", "env", "-i", *ENVIRONMENT, *command]

    def run(self, command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a command in the host without ssh; its status is the caller's to judge."""
        return subprocess.run(
            self.exec_command(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def system_state(self, timeout: float = 10.0, *, wait: bool = False) -> str:
        """What systemctl(1) is-system-running says; ``off`` if the host is down, ``starting`` if it says nothing."""
        try:
            done = self.run(["systemctl", "is-system-running", *(["--wait"] if wait else [])], timeout)
        except TestbedError:
            return "off"
        except subprocess.TimeoutExpired:
            return "starting"
        return done.stdout.strip() or "starting"

    def failed_units(self) -> list[str]:
        done = self.run(["systemctl", "list-units", "--failed", "--output=json"], 10)
        try:
            return [str(unit["unit"]) for unit in json.loads(done.stdout)]
        except (ValueError, KeyError, TypeError):
            return []

    def answers_ssh(self) -> bool:
        try:
            done = subprocess.run(
                [str(self.ssh), "-o", "ConnectTimeout=2", self.name, "true"],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def console_tail(self) -> str:
        try:
            text = (self.directory / "console.log").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-20:])

    def wait(self, *, timeout: float, after_boots: int = 0, settled: bool = True) -> str:
        """Wait until the host answers over SSH and, if ``settled``, systemd has no start job left.

        Returns the system's state. ``after_boots`` waits for a later boot than that one.
        """
        deadline = time.monotonic() + timeout
        state = "off"
        while (left := deadline - time.monotonic()) > 0:
            machine = self.machine()
            if machine is None or machine.boots <= after_boots:
                if not self.supervised():
                    raise TestbedError(f"host {self.name}: ended; its console ends with:\n{self.console_tail()}")
            else:
                state = self.system_state(max(1.0, left), wait=True) if settled else "up"
                if state in {"running", "degraded", "up"} and self.answers_ssh():
                    return state
            time.sleep(0.1)
        raise TestbedError(
            f"host {self.name}: not up after {timeout:.0f} s (state: {state}); "
            f"its console ends with:\n{self.console_tail()}"
        )
