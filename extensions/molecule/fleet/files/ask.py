# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks guests, as JSON by name.  Runs on their host, with the standard library alone.

ask.py [--wait SECONDS] NAME=ADDRESS...   what each says of itself over HTTP
ask.py [--wait SECONDS]                   the same of all guests of the host, and what systemd says of them; their
                                          addresses are those of the stand-in flake's guests.json
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import time
import typing as t
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

STATE = Path("/var/lib/microvms")
GUESTS = Path("/srv/guests/guests.json")
TIMES = {"down": "ActiveExitTimestampMonotonic", "up": "ActiveEnterTimestampMonotonic"}


def ask(address: str, patience: float) -> dict[str, t.Any]:
    """The guest's own words, asked for *patience* seconds; no boot id and no version if it says nothing."""
    deadline = time.monotonic() + patience
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with opener.open(f"http://{address}/", timeout=5) as response:
                said: dict[str, t.Any] = json.load(response)
                return said
        except (OSError, ValueError):
            if time.monotonic() > deadline:
                return {"boot_id": None, "version": None}
            time.sleep(0.2)


def look(name: str, address: str, patience: float) -> dict[str, t.Any]:
    """One guest."""
    said = ask(address, patience)
    command = ["systemctl", "show", f"--property={','.join(TIMES.values())}", f"microvm@{name}.service"]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8", timeout=30).stdout
    values = dict(line.split("=", 1) for line in shown.splitlines())
    return {
        "answer": said,
        "current": os.readlink(STATE / name / "current"),
        **{key: int(values[value]) for key, value in TIMES.items()},
    }


def main() -> None:
    """Print what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--wait", type=float, default=0.0)
    parser.add_argument("guests", nargs="*")
    given = parser.parse_args()
    if given.guests:
        addresses = dict(guest.split("=", 1) for guest in given.guests)
    else:
        described = json.loads(GUESTS.read_text(encoding="utf-8"))["guests"]
        names = sorted(entry.name for entry in STATE.iterdir() if entry.name in described)
        addresses = {name: described[name]["address"].partition("/")[0] for name in names}

    def seen(name: str) -> dict[str, t.Any]:
        return (ask if given.guests else functools.partial(look, name))(addresses[name], given.wait)

    with ThreadPoolExecutor(max_workers=max(1, len(addresses))) as pool:
        print(json.dumps(dict(zip(addresses, pool.map(seen, addresses), strict=True))))


if __name__ == "__main__":
    main()
