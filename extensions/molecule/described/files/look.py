# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host says of guests NAME=ADDRESS that answer, asked by its own tools and over HTTP: JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

PATIENCE = 300.0


def run(*argv: str) -> str:
    """What a command printed; it has to end well."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def answer(address: str, deadline: float) -> object:
    """What the guest says of itself; waits until it answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with opener.open(f"http://{address}/", timeout=5) as response:
                return json.load(response)
        except (OSError, ValueError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def main() -> None:
    """Print it."""
    deadline = time.monotonic() + PATIENCE
    up = dict(word.split("=", 1) for word in sys.argv[1:])
    answers = {name: answer(address, deadline) for name, address in up.items()}
    wanted = "--property=ActiveState,UnitFileState,MainPID,InvocationID"
    units = {name: run("systemctl", "show", wanted, f"microvm@{name}").strip() for name in up}
    pids = {name: dict(line.split("=", 1) for line in text.splitlines())["MainPID"] for name, text in units.items()}
    neighbours = json.loads(run("ip", "-json", "-4", "neighbour", "show", "dev", "lan"))
    ports = json.loads(run("ip", "-json", "link", "show", "master", "lan"))
    found = {
        "answers": answers,
        "ports": sorted(each["ifname"] for each in ports),
        "macs": {each["dst"]: each["lladdr"] for each in neighbours if "lladdr" in each},
        "units": units,
        "commands": {name: Path(f"/proc/{pid}/cmdline").read_text("utf-8").split("\0") for name, pid in pids.items()},
        "links": {
            name: [os.readlink(f"/var/lib/microvms/{name}/{link}") for link in ("current", "booted")] for name in up
        },
        "described": json.loads(Path("/etc/microvm-fleet/guests.json").read_text("utf-8"))["guests"],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
