# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is on a host, asked of the host's own tools: the other opinion on what the collection says.

Usage: oracle.py [--answer NAME=ADDRESS ...] [NAME ...]

Prints JSON: ``guests`` with links, modes, unit, roots, interfaces and the marks on the volume of each guest NAME;
``answers`` with what each guest said over HTTP (it is waited for); ``listing``, one line for each file that concerns
guests, which is the same text only if nothing was changed; ``names``, the visible names in the state root.
"""

from __future__ import annotations

import argparse
import grp
import hashlib
import json
import os
import pwd
import stat
import subprocess
import time
import typing as t
import urllib.request
from pathlib import Path

STATE: t.Final = Path("/var/lib/microvms")
# What a guest's own running changes, and a look at it would mistake for a change.
LIVELY: t.Final = (".img", ".sock")
TREES: t.Final = (
    "/var/lib/microvms",
    "/var/lib/microvm-fleet",
    "/nix/var/nix/gcroots/microvm",
    "/nix/var/nix/gcroots/microvm-fleet",
    "/etc/systemd/system",
)
PATIENCE: t.Final = 90.0


def run(*argv: str) -> str:
    """What a command printed; empty when it failed."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else ""


def link(path: Path) -> str | None:
    """The target of a link, None without one."""
    return os.readlink(path) if path.is_symlink() else None


def text(path: Path) -> str | None:
    """The text of a file, None without one."""
    return path.read_text(encoding="utf-8") if path.is_file() else None


def access(path: Path) -> str | None:
    """Owner, group and mode of a file, as ``root:kvm 1775``."""
    try:
        seen = path.lstat()
    except FileNotFoundError:
        return None
    return f"{pwd.getpwuid(seen.st_uid).pw_name}:{grp.getgrgid(seen.st_gid).gr_name} {stat.S_IMODE(seen.st_mode):o}"


def listing() -> list[str]:
    """A line for each file: path, kind, mode, owner, inode, change time, and what it holds."""
    paths = [path for tree in TREES for path in sorted([Path(tree), *Path(tree).rglob("*")])]
    return [line(path) for path in paths if "microvm" in str(path)]


def line(path: Path) -> str:
    """One file.  Directories of running guests change their times, so only files and links show theirs."""
    seen = path.lstat()
    words = [str(path), stat.filemode(seen.st_mode), f"{seen.st_uid}:{seen.st_gid}", str(seen.st_ino)]
    if stat.S_ISLNK(seen.st_mode):
        words += ["->", os.readlink(path), str(seen.st_mtime_ns)]
    elif stat.S_ISREG(seen.st_mode) and path.suffix not in LIVELY:
        words += [hashlib.sha256(path.read_bytes()).hexdigest(), str(seen.st_mtime_ns), str(seen.st_ctime_ns)]
    return " ".join(words)


def unit(name: str) -> dict[str, str]:
    """What systemd says of the guest's unit."""
    wanted = "ActiveState,SubState,Result,NRestarts,TimeoutStartUSec,TimeoutStopUSec,UnitFileState,MainPID,InvocationID"
    shown = run("systemctl", "show", f"--property={wanted}", f"microvm@{name}.service")
    return dict(line.split("=", 1) for line in shown.splitlines())


def roots() -> dict[str, str]:
    """Roots of the garbage collector, by the collector itself."""
    lines = run("nix-store", "--gc", "--print-roots").splitlines()
    return dict(line.split(" -> ", 1) for line in lines if line.startswith("/") and " -> " in line)


def mark(name: str) -> dict[str, t.Any]:
    """What the guest left on its first volume (debugfs(8) reads it without mounting, also while it runs)."""
    image = STATE / name / "data.img"
    if not image.is_file():
        return {}
    read = {
        file: run("debugfs", "-R", f"cat /{file}", str(image)).strip()
        for file in ("boots", "boot-id", "version", "clean-shutdown")
    }
    return {**read, "clean": bool(read["boot-id"]) and read["boot-id"] == read["clean-shutdown"]}


def guest(name: str, rooted: t.Mapping[str, str], taps: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """One guest."""
    place = STATE / name
    current = link(place / "current")
    wanted = text(Path(current) / "share/microvm/tap-interfaces") if current else None
    own = f"/nix/var/nix/gcroots/microvm-fleet/{name}/"
    return {
        "exists": os.path.lexists(place),
        "access": access(place),
        "current_access": access(place / "current"),
        "current": current,
        "booted": link(place / "booted"),
        "flake": text(place / "flake"),
        "files": sorted(entry.name for entry in place.iterdir()) if place.is_dir() else [],
        "unit": unit(name),
        "enabled": os.path.lexists(f"/etc/systemd/system/microvms.target.wants/microvm@{name}.service"),
        "settings": text(Path(f"/etc/systemd/system/microvm@{name}.service.d/50-microvm-fleet.conf")),
        "record_access": access(Path(f"/var/lib/microvm-fleet/guests/{name}/record.json")),
        "generations": {path[len(own) :]: runner for path, runner in rooted.items() if path.startswith(own)},
        # The collector names the place where the chain of links ends.
        "held": sorted(runner for path, runner in rooted.items() if path in (f"{place}/current", f"{place}/booted")),
        "command_roots": {
            root: link(Path("/nix/var/nix/gcroots/microvm") / root)
            for root in (name, f"booted-{name}")
            if os.path.lexists(f"/nix/var/nix/gcroots/microvm/{root}")
        },
        "taps": {tap: taps[tap] for tap in (wanted or "").split() if tap in taps},
        "mark": mark(name),
    }


def answer(address: str) -> dict[str, t.Any]:
    """What the guest says of itself over HTTP; waits until it answers."""
    deadline = time.monotonic() + PATIENCE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with opener.open(f"http://{address}/", timeout=5) as response:
                said: dict[str, t.Any] = json.load(response)
                return said
        except (OSError, ValueError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--answer", action="append", default=[])
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    answers = {name: answer(address) for name, _sep, address in (pair.partition("=") for pair in given.answer)}
    rooted = roots() if given.names else {}
    links = json.loads(run("ip", "-j", "link", "show") or "[]")
    taps = {each["ifname"]: {"master": each.get("master"), "flags": each["flags"]} for each in links}
    print(
        json.dumps(
            {
                "guests": {name: guest(name, rooted, taps) for name in given.names},
                "answers": answers,
                "listing": listing(),
                "names": sorted(entry.name for entry in STATE.iterdir() if not entry.name.startswith(".")),
                "hidden": sorted(entry.name for entry in STATE.iterdir() if entry.name.startswith(".")),
            }
        )
    )


if __name__ == "__main__":
    main()
