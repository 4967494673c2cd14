# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell what a guest of the stand-in flake left on its volume: how often it booted, and whether it ended cleanly."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import typing as t
from dataclasses import asdict, dataclass

TIMEOUT = 30.0


class VolumeError(Exception):
    """The volume cannot be read."""


@dataclass(frozen=True)
class Event:
    """One line of the history: a boot that began (start), or ended cleanly (clean)."""

    event: str
    boots: int
    boot_id: str
    version: str


@dataclass(frozen=True)
class State:
    """What the volume says.  *clean* is about the last boot: None if there was none, False while it still runs."""

    boots: int
    boot_id: str | None
    version: str | None
    clean: bool | None
    history: tuple[Event, ...]


def parse(files: t.Mapping[str, str]) -> State:
    """The state from the content of the files that guest/init writes; a file that is missing is empty."""
    events: list[Event] = []
    for line in files.get("history", "").splitlines():
        event, boots, of, version = line.split(" ", 3)
        events.append(Event(event, int(boots), of, version))
    boot_id = files.get("boot-id", "").strip() or None
    return State(
        boots=int(files.get("boots", "").strip() or 0),
        boot_id=boot_id,
        version=files.get("version", "").strip() or None,
        clean=None if boot_id is None else files.get("clean-shutdown", "").strip() == boot_id,
        history=tuple(events),
    )


def read(image: str) -> State:
    """The state of the ext4 file system in the file *image*, read without mounting it (debugfs(8)).

    Raises VolumeError.
    """
    files = {}
    for name in ("boots", "boot-id", "version", "clean-shutdown", "history"):
        files[name] = _cat(image, name)
    return parse(files)


def _cat(image: str, name: str) -> str:
    environment = {**os.environ, "PATH": os.environ.get("PATH", "") + os.pathsep + "/usr/sbin", "LC_ALL": "C"}
    argv = ["debugfs", "-R", f"cat /{name}", image]
    try:
        done = subprocess.run(argv, env=environment, timeout=TIMEOUT, capture_output=True, text=True, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VolumeError(f"{image}: debugfs: {error}") from error
    # The first line says its version; it ends with 0 whatever was the matter.
    said = [line for line in done.stderr.splitlines() if not line.startswith("debugfs ")]
    if said and "File not found by ext2_lookup" not in said[0]:
        raise VolumeError(f"{image}: {said[0]}")
    return done.stdout


def main(arguments: t.Sequence[str] | None = None) -> int:
    """Print the state as JSON; 1 if the volume cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", help="the file of the guest's first volume")
    options = parser.parse_args(arguments)
    try:
        state = read(options.image)
    except VolumeError as error:
        print(f"volume_state: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(state)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
