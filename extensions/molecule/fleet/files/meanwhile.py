# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs a playbook, and as soon as a guest goes down kills the playbook, or takes a host's network away.

    meanwhile.py TESTBED HOST GUEST kill PROGRAM ARGUMENT...
    meanwhile.py TESTBED HOST GUEST cut:OTHERHOST PROGRAM ARGUMENT...

Prints what the program printed; ends with its status, 137 when it was killed.  Status 3: the guest never went down.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time

PATIENCE = 300.0


def state(testbed: str, host: str, guest: str) -> str:
    """The state of the guest's unit, asked for in the host's namespaces and not over its network."""
    command = [testbed, "exec", host, "systemctl", "show", "--property=ActiveState", "--value", f"microvm@{guest}"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8", timeout=60).stdout.strip()


def main() -> int:
    """Run it."""
    testbed, host, guest, action, *command = sys.argv[1:]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        # A session of its own: the playbook and all its workers are one group of processes.
        program = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + PATIENCE
        met = False
        while not met and program.poll() is None and time.monotonic() < deadline:
            met = state(testbed, host, guest) != "active"
        if met and action == "kill":
            os.killpg(program.pid, signal.SIGKILL)
        elif met:
            link = ["ip", "link", "set", "host0", "down"]
            subprocess.run([testbed, "exec", action.partition(":")[2], *link], check=True, timeout=60)
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
