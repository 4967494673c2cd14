# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is on a NixOS host, asked of the host's own tools: the other opinion on what the collection says.

Usage: look.py [GUEST ...]

Prints JSON: ``system`` with links to systems; ``kept``, a digest of each file that is the user's alone; ``described``,
a digest of each file below /etc/microvm-fleet; ``units`` and ``guests`` by name; ``wants``, what starts with the host;
``links`` with addresses; ``tables`` of nftables; ``transient``, units of activations, ended or not; ``roots``, what the
garbage collector keeps for one; ``written``, files of the collection at places that on NixOS are the system's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

STATE: t.Final = Path("/var/lib/microvms")
DESCRIBED: t.Final = Path("/etc/microvm-fleet")
KEPT: t.Final = ("/etc/nixos", "/etc/nix", "/etc/ssh", "/srv/nixpkgs")
FOREIGN: t.Final = ("/usr/local", "/etc/sysctl.d", "/etc/modules-load.d", "/etc/systemd")
UNITS: t.Final = ("microvms.target", "systemd-networkd.service", "ssh.service")
UNIT: t.Final = "ActiveState,Result,UnitFileState,FragmentPath,NRestarts,InvocationID,TimeoutStopUSec,MainPID"


def run(*argv: str) -> str:
    """What a command printed; empty when it failed."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else ""


def link(path: str | Path) -> str | None:
    """The end of a chain of links, None without one."""
    return os.path.realpath(path) if os.path.islink(path) else None


def digests(*places: str | Path) -> dict[str, str]:
    """Mode and digest of each file below the places, the target of each link."""
    found = {}
    for place in places:
        for path in sorted(Path(place).rglob("*")):
            if path.is_symlink():
                found[str(path)] = os.readlink(path)
            elif path.is_file():
                mode = oct(path.stat().st_mode & 0o7777)
                found[str(path)] = f"{mode} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return found


def unit(name: str) -> dict[str, str]:
    """What systemd says of a unit."""
    shown = run("systemctl", "show", f"--property={UNIT}", name)
    return dict(line.split("=", 1) for line in shown.splitlines())


def boot_default() -> str | None:
    """The system that the boot loader starts."""
    loader = Path("/boot/loader")
    entry = (loader / "loader.conf").read_text(encoding="utf-8").split()[1]
    found = re.search(r"init=(\S+)/init", (loader / "entries" / entry).read_text(encoding="utf-8"))
    return found[1] if found else None


def names(directory: str) -> list[str]:
    """The names in a directory, none without one."""
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def main(guests: list[str]) -> None:
    """Print it."""
    ruleset = json.loads(run("nft", "-j", "list", "tables") or "{}").get("nftables", [])
    timers = json.loads(run("systemctl", "list-units", "--type=timer,service", "--all", "--output=json") or "[]")
    seen = {
        "system": {
            "current": link("/run/current-system"),
            "booted": link("/run/booted-system"),
            "profile": link("/nix/var/nix/profiles/system"),
            "static": link("/etc/static"),
            "boot_default": boot_default(),
            "generations": sum(name.startswith("system-") for name in names("/nix/var/nix/profiles")),
        },
        "kept": digests(*KEPT),
        "described": digests(DESCRIBED),
        "units": {name: unit(name) for name in [*UNITS, *(f"microvm@{guest}.service" for guest in guests)]},
        "guests": {guest: {part: link(STATE / guest / part) for part in ("current", "booted")} for guest in guests},
        "state": names(str(STATE)),
        "wants": sorted(run("systemctl", "show", "--property=Wants", "--value", "microvms.target").split()),
        "networks": names("/etc/systemd/network"),
        "links": {
            each["ifname"]: sorted(address["local"] for address in each["addr_info"] if address["scope"] == "global")
            for each in json.loads(run("ip", "-json", "address", "show") or "[]")
        },
        "bridged": {
            each["ifname"]: each["master"]
            for each in json.loads(run("ip", "-json", "link", "show") or "[]")
            if "master" in each
        },
        "tables": sorted(f"{each['table']['family']} {each['table']['name']}" for each in ruleset if "table" in each),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        "roots": names("/nix/var/nix/gcroots/microvm-fleet-system"),
        "transient": sorted(each["unit"] for each in timers if each["unit"].startswith("microvm-fleet-system-")),
        "written": sorted(
            path
            for path, content in digests(*FOREIGN).items()
            if "microvm" in path and not content.startswith("/etc/static/")
        ),
    }
    print(json.dumps(seen))


main(sys.argv[1:])
