# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ExecStop= of microvm@NAME.service: ask the guest to end, and wait until it has.

Installed by the Ansible role microvm.fleet.host.  Usage: stop.py NAME, with MAINPID in the environment
(systemd.exec(5)) and the guest's state directory as the working directory.

Exit status, which becomes part of the unit's Result:
0  the guest has ended;
3  it was asked and did not end in time: systemd kills it now;
4  its runner has no way to ask it: systemd kills it now;
5  this program was called wrongly: systemd kills it now.

The time is TimeoutStopSec of the unit, less what systemd needs to see the failure instead of a timeout.
Runners are not trusted to wait: crosvm's script returns at once, and QEMU's ends half a second after it was started
with no standard input (lib/runners/{crosvm,qemu}.nix of microvm.nix).  So the guest is asked again now and then,
which also serves a guest that was asked before its kernel listened.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import typing as t

ENDED: t.Final = 0
KILLED_LATE: t.Final = 3
KILLED_UNASKED: t.Final = 4
MISUSED: t.Final = 5

# TimeoutSec= of microvm@.service, for when systemd does not answer.
DEFAULT_TIMEOUT: t.Final = 150.0
# A guest that is shutting down takes no harm from being asked again.
ASK_AGAIN: t.Final = 5.0
# A script that waits for the guest, as those of cloud-hypervisor and firecracker do, is left alone for so long.
SCRIPT_PATIENCE: t.Final = 30.0
# After a script that ended with an error.
RETRY: t.Final = 2.0

UNITS: t.Final = {
    "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0,
    "d": 86400.0, "w": 604800.0, "month": 2629800.0, "y": 31557600.0,
}  # fmt: skip


def say(text: str, *, warning: bool = False) -> None:
    """One line for the journal (sd-daemon(3): the number is the priority)."""
    print(f"<{4 if warning else 6}>{text}", flush=True)


def seconds(span: str) -> float | None:
    """A time span as systemctl prints it (systemd.time(7)), ``2min 30s``; None for ``infinity`` or nonsense."""
    parts = re.findall(r"([0-9.]+)([a-z]+)", span)
    if not parts or any(unit not in UNITS for _number, unit in parts):
        return None
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def budget(unit: str) -> float | None:
    """Seconds that the guest has to end; None for no limit."""
    try:
        answer = subprocess.run(
            ["systemctl", "show", "--property=TimeoutStopUSec", "--value", unit],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        say(f"systemd did not say how long {unit} may take to stop; {DEFAULT_TIMEOUT:g} s are taken.", warning=True)
        answer = f"{DEFAULT_TIMEOUT:g}s"
    if answer in ("infinity", ""):
        return None
    total = seconds(answer) or DEFAULT_TIMEOUT
    return max(total - max(1.0, min(10.0, total / 10)), total / 2)


class Guest:
    """The main process of the unit."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle: int | None = None
        if hasattr(os, "pidfd_open"):
            try:
                self._handle = os.pidfd_open(pid)
            except ProcessLookupError:
                self.pid = 0
            except OSError:
                # A kernel or a sandbox without it: look now and then instead.
                self._handle = None

    def ended(self, wait: float) -> bool:
        """Whether it has ended, after at most *wait* seconds."""
        if self.pid == 0:
            return True
        if self._handle is not None:
            poll = select.poll()
            poll.register(self._handle, select.POLLIN)
            return bool(poll.poll(wait * 1000))
        deadline = time.monotonic() + wait
        while self._exists():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(0.2, left))
        return True

    def _exists(self) -> bool:
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as stream:
                # The state follows the name, which is in brackets and may hold anything (proc(5)).
                return stream.read().rpartition(")")[2].split()[0] not in ("Z", "X")
        except (FileNotFoundError, ProcessLookupError, IndexError):
            return False

    def qmp_socket(self) -> str | None:
        """The path that the hypervisor was given with ``-qmp unix:PATH,...``; None without one."""
        try:
            with open(f"/proc/{self.pid}/cmdline", encoding="utf-8", errors="surrogateescape") as stream:
                words = stream.read().split("\0")
        except OSError:
            return None
        for option, value in zip(words, words[1:]):
            if option == "-qmp" and value.startswith("unix:"):
                return value[len("unix:") :].split(",", 1)[0]
        return None


def powerdown(path: str) -> str | None:
    """Send system_powerdown over QMP; None when it was taken, else what went wrong.

    The protocol: a greeting, then qmp_capabilities, then commands (QEMU, interop/qmp-spec).  Events come in between.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            connection.connect(path)
            with connection.makefile("rwb") as stream:
                greeting = json.loads(stream.readline() or b"{}")
                if "QMP" not in greeting:
                    return f"{path} sent no QMP greeting"
                for command in ("qmp_capabilities", "system_powerdown"):
                    stream.write(json.dumps({"execute": command}).encode() + b"\n")
                    stream.flush()
                    while True:
                        line = stream.readline()
                        if not line:
                            # The guest went away while it was asked, which is what was wanted.
                            return None if command == "system_powerdown" else f"{path} closed the connection"
                        answer = json.loads(line)
                        if "error" in answer:
                            return f"{command}: {answer['error'].get('desc', 'refused')}"
                        if "return" in answer:
                            break
    except (OSError, ValueError) as error:
        return f"{path}: {error}"
    return None


class Script:
    """One run of the runner's microvm-shutdown, with its standard input held open."""

    def __init__(self, path: str, patience: float) -> None:
        # What it prints is the control protocol's chatter; what goes wrong it says on standard error.
        self._process = subprocess.Popen(
            [path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self._until = time.monotonic() + patience

    def done(self) -> bool:
        """Whether it has ended, or has waited for the guest long enough."""
        return self._process.poll() is not None or time.monotonic() >= self._until

    def end(self) -> int | None:
        """End it with all its children, so that none keeps the control socket; its exit status if it had one."""
        status = self._process.poll()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return status


def find_script(name: str) -> str | None:
    """The noted runner's microvm-shutdown; ``booted`` is for a guest that other units started."""
    for runner in (f"/run/microvm-fleet/booted/{name}", "booted"):
        if os.path.isdir(runner):
            path = f"{runner}/bin/microvm-shutdown"
            return path if os.access(path, os.X_OK) else None
    return None


class Asking:
    """The ways to ask one guest, and what came of them."""

    def __init__(self, guest: Guest, script: str | None, patience: float) -> None:
        self.asked: list[str] = []
        self.failures: list[str] = []
        self._guest = guest
        self._path = script
        self._patience = patience
        self._script: Script | None = None
        self._qmp_next = False

    def ask(self) -> bool:
        """Ask once more, if the last asking is over; False when there is no way to ask."""
        if self._script is not None and not self._script.done():
            return True
        self.end()
        qmp = self._guest.qmp_socket()
        if self._path is not None and not (qmp is not None and self._qmp_next):
            # Where QMP is at hand the script gets every other turn: it may press keys that nobody in the guest hears.
            self._qmp_next = True
            self._script = Script(self._path, min(self._patience, ASK_AGAIN) if qmp else self._patience)
            self.asked.append("microvm-shutdown")
            return True
        self._qmp_next = False
        if qmp is not None:
            problem = powerdown(qmp)
            if problem is None:
                self.asked.append("QMP system_powerdown")
                return True
            self.failures.append(f"QMP {problem}")
        return self._path is not None

    def failed(self) -> bool:
        """Whether the script has ended with an error, so that waiting for what it asked is pointless."""
        if self._script is None or not self._script.done():
            return False
        status = self.end()
        if not status:
            return False
        self.failures.append(f"microvm-shutdown ended with {status}")
        return True

    def end(self) -> int | None:
        """Stop asking."""
        script, self._script = self._script, None
        return None if script is None else script.end()

    def summary(self) -> str:
        """What was tried, for the journal."""
        ways = ", ".join(f"{way} x{self.asked.count(way)}" for way in dict.fromkeys(self.asked)) or "nothing worked"
        return f"{ways}; last failure: {self.failures[-1]}" if self.failures else ways


def stop(name: str, guest: Guest) -> int:
    """Ask until the guest has ended or the time is up; the exit status."""
    begun = time.monotonic()
    limit = budget(f"microvm@{name}.service")
    deadline = float("inf") if limit is None else begun + limit
    asking = Asking(guest, find_script(name), SCRIPT_PATIENCE if limit is None else min(SCRIPT_PATIENCE, limit / 4))
    next_ask = begun
    try:
        while time.monotonic() < deadline:
            if time.monotonic() >= next_ask:
                if not asking.ask():
                    why = f" ({asking.failures[-1]})" if asking.failures else ""
                    say(f"KILLED: the runner of guest {name} has no way to shut its guest down{why}.", warning=True)
                    return KILLED_UNASKED
                next_ask = time.monotonic() + min(ASK_AGAIN, (limit or ASK_AGAIN) / 4)
            if guest.ended(max(0.0, min(0.5, deadline - time.monotonic()))):
                say(f"guest {name} has shut down after {time.monotonic() - begun:.1f} s.")
                return ENDED
            if asking.failed():
                next_ask = min(next_ask, time.monotonic() + RETRY)
    finally:
        asking.end()
    say(f"KILLED: guest {name} did not shut down within {limit:.0f} s ({asking.summary()}).", warning=True)
    return KILLED_LATE


def main(argv: list[str]) -> int:
    """The exit status for the arguments and the environment that systemd gave."""
    if len(argv) != 2:
        say(f"usage: {argv[0]} NAME", warning=True)
        return MISUSED
    pid = os.environ.get("MAINPID", "")
    if not pid.isdigit() or pid == "0":
        # The main process ended by itself: a guest that powered off, or a crash.
        return ENDED
    return stop(argv[1], Guest(int(pid)))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
