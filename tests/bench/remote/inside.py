# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the host: takes times, and sets the host back between them.

inside.py time PROGRAM ARGUMENT...   run it; print seconds, exit status and the end of its output as JSON
inside.py sections PAYLOAD           run the module in the payload; print where its time went as JSON
inside.py sections PAYLOAD DIRECTORY the same from no guests on the host; see reset
inside.py use NAME                   have the guests of set NAME on the host, and put the present ones aside
inside.py reset DIRECTORY            remove all guests of the present set, and what the loop made in DIRECTORY
inside.py empty DIRECTORY            the same, and all that was built
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CURRENT = os.path.join(HERE, "set")
# All that the collection keeps of guests, and what a guest that never ran has elsewhere: nothing.
PLACES = (
    "/var/lib/microvms",
    "/var/lib/microvm-fleet/guests",
    "/nix/var/nix/gcroots/microvm-fleet",
    "/nix/var/nix/gcroots/microvm",
)


def take_time(argv: list[str]) -> dict[str, object]:
    """Run *argv*, its output into a file, so that nobody has to read along."""
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False)
        seconds = time.perf_counter() - started
        output.seek(max(output.tell() - 2000, 0))
        text = output.read().decode(errors="replace")
    return {"seconds": seconds, "rc": done.returncode, "output": text}


def sections(payload: str, directory: str | None = None) -> list[tuple[str, float]]:
    """Sections of one run; starting Python and unpacking the payload are seen from outside."""
    if directory is not None:
        reset(directory)
    whole = take_time([sys.executable, payload])
    start = min(float(str(take_time([sys.executable, "-c", "pass"])["seconds"])) for _run in range(5))
    exploded = os.path.join(os.path.dirname(payload), "debug_dir")
    shutil.rmtree(exploded, ignore_errors=True)
    subprocess.run([sys.executable, payload, "explode"], stdout=subprocess.DEVNULL, check=True)
    if directory is not None:
        reset(directory)
    program = [sys.executable, os.path.join(HERE, "sections.py"), exploded, *(("applies",) if directory else ())]
    answer = subprocess.run(program, stdout=subprocess.PIPE, check=True, text=True)
    found: list[tuple[str, float]] = list(json.loads(answer.stdout.splitlines()[-1]))
    found.append(("start of Python", start))
    rest = float(str(whole["seconds"])) - sum(seconds for _what, seconds in found)
    return [*found, ("unpacking the payload, compiling it, end of Python", max(rest, 0.0))]


def use(name: str) -> None:
    """Exchange the guests on the host by renaming the directories that they are in."""
    present = ""
    if os.path.exists(CURRENT):
        with open(CURRENT, encoding="utf-8") as stream:
            present = stream.read()
    if present == name:
        return
    for place in PLACES:
        if present:
            os.makedirs(place, exist_ok=True)
            os.rename(place, f"{place}.{present}")
        if os.path.isdir(f"{place}.{name}"):
            os.rename(f"{place}.{name}", place)
        else:
            os.makedirs(place, mode=0o755, exist_ok=True)
    with open(CURRENT, "w", encoding="utf-8") as stream:
        stream.write(name)


def reset(directory: str) -> None:
    """Remove all guests of the present set and what the loop has made."""
    for place in PLACES:
        for entry in os.scandir(place) if os.path.isdir(place) else ():
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
    shutil.rmtree(directory, ignore_errors=True)
    os.sync()


def empty(directory: str) -> None:
    """Remove, besides, all that was built and evaluated."""
    reset(directory)
    shutil.rmtree("/root/.cache/nix", ignore_errors=True)
    subprocess.run(["nix-store", "--gc"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    os.sync()


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "time":
        print(json.dumps(take_time(arguments)))
    elif command == "sections":
        print(json.dumps(sections(*arguments)))
    else:
        {"use": use, "reset": reset, "empty": empty}[command](arguments[0])
