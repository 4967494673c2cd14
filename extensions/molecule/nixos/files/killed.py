# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kills a run of Ansible, with all processes that it has started, once its host runs another system.

Usage: killed.py TESTBED HOST COMMAND...

The host is asked without SSH.  Ends with status 1 when the command ends by itself, or when nothing happens.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 120.0


def running(testbed: str, host: str) -> str:
    """The system that the host runs."""
    argv = [testbed, "exec", host, "readlink", "/run/current-system"]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout


def family(pid: int) -> list[int]:
    """The process and all that descend from it: workers of Ansible have sessions of their own."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # proc_pid_stat(5): the name, in parentheses, may hold anything.
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def main(testbed: str, host: str, *command: str) -> int:
    """Run it."""
    before = running(testbed, host)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as run:
        deadline = time.monotonic() + PATIENCE
        while running(testbed, host) == before:
            if run.poll() is not None or time.monotonic() > deadline:
                print("the host runs what it ran", flush=True)
                break
            time.sleep(0.1)
        else:
            for pid in family(run.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return 0
        for pid in family(run.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return 1


sys.exit(main(*sys.argv[1:]))
