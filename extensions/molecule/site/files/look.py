# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host and its guests a and b say, asked by the host's own tools and by the guests' names: JSON."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request

GUESTS = ("a", "b")
PATIENCE = 300.0


def run(*argv: str) -> str:
    """What a command printed; it has to end well."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def answer(guest: str, deadline: float) -> object:
    """What the guest says of itself over HTTP; waits until it answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with opener.open(f"http://{guest}/", timeout=5) as response:
                return json.load(response)
        except (OSError, ValueError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def main() -> None:
    """Print it."""
    deadline = time.monotonic() + PATIENCE
    answers = [answer(guest, deadline) for guest in GUESTS]
    units = [f"microvm@{guest}" for guest in GUESTS]
    shown = run("systemctl", "show", "--property=ActiveState,UnitFileState,Result", "--value", *units)
    print(
        json.dumps(
            {
                "answers": answers,
                "ports": sorted(
                    each["ifname"] for each in json.loads(run("ip", "-j", "link", "show", "master", "lan"))
                ),
                "units": [line for line in shown.splitlines() if line],
                "links": [
                    os.readlink(f"/var/lib/microvms/{guest}/{link}")
                    for guest in GUESTS
                    for link in ("current", "booted")
                ],
            }
        )
    )


if __name__ == "__main__":
    main()
