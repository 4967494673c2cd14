# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs a playbook, and does something to it or to a host as soon as a guest goes down, or answers.

    meanwhile.py TESTBED HOST GUEST WHEN DEED PROGRAM ARGUMENT...

WHEN is `down`, or `answers:ADDRESS`.  DEED is `kill` (the playbook), `cut:OTHERHOST` (its network goes away), or
`crash:OTHERHOST` (it loses its power, and stays off).

Prints what the program printed; ends with its status, 137 when it was killed.  Status 3: it never came to that.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

PATIENCE = 300.0


def inside(testbed: str, host: str, *command: str) -> str:
    """What *command* prints in the host's namespaces, and not over its network."""
    argv = [testbed, "exec", host, *command]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, encoding="utf-8", timeout=60).stdout.strip()


def come(testbed: str, host: str, guest: str, when: str) -> bool:
    """Whether it is as *when* says."""
    if when == "down":
        show = ["systemctl", "show", "--property=ActiveState", "--value", f"microvm@{guest}"]
        return inside(testbed, host, *show) != "active"
    said = json.loads(inside(testbed, host, "python3", "/srv/ask.py", f"{guest}={when.partition(':')[2]}"))
    return said[guest]["boot_id"] is not None


def do(testbed: str, deed: str) -> None:
    """Take a host's network, or its power."""
    what, _colon, host = deed.partition(":")
    if what == "cut":
        inside(testbed, host, "ip", "link", "set", "host0", "down")
    else:
        # Nothing is stopped or unmounted (systemctl(1), --force given twice); this command ends with the host.
        argv = [testbed, "exec", host, "systemctl", "poweroff", "--force", "--force"]
        subprocess.run(argv, check=False, timeout=60)


def main() -> int:
    """Run it."""
    testbed, host, guest, when, deed, *command = sys.argv[1:]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        # A session of its own: the playbook and all its workers are one group of processes.
        program = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + PATIENCE
        met = False
        while not met and program.poll() is None and time.monotonic() < deadline:
            met = come(testbed, host, guest, when)
        if met and deed != "kill":
            do(testbed, deed)
        elif program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
        status = program.wait(timeout=PATIENCE)
        said.seek(0)
        print(said.read())
    if not met:
        return 3
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
