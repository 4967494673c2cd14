# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What bin/switch-to-configuration of a stand-in NixOS system does on a host of the testbed.

The testbed puts this file on its NixOS-like hosts, where it is run by itself, so it imports nothing beside it.
Which units are stopped, started, restarted and reloaded follows the NixOS manual, "What happens during a system
switch" and "Unit handling", and so do the order of the steps and the exit statuses.

Of a system (a directory in the store) it reads::

    bin/switch-to-configuration     a script that runs this program with its own path, and its arguments
    etc/                            what is linked into /etc through /etc/static; entries that are links are
                                    linked as they are
    etc/sysusers.d                  optional: users and groups
    etc/systemd/system, .../network whole directories of units and of networks: always linked as a whole
    activate                        optional program, run after /etc is set up (system.activationScripts)
    init-interface-version          optional; another one than the running system's forbids switch and test
    init                            only named, in the boot loader's entries

A file /run/nixos/fail makes it fail from outside: ``activation`` (status 2 before any unit is started again), ``hang``
(it does not end), or a number: the exit status, when all is done.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ACTIONS = ("switch", "boot", "test", "dry-activate")
INTERFACE = "init-interface-version"
WHOLE = ("systemd/system", "systemd/network", "systemd/user")
# Keys of [Unit] whose change concerns nothing that runs.
IGNORED = frozenset(
    (
        "AllowIsolate", "CollectMode", "Description", "Documentation", "IgnoreOnIsolate", "OnFailure",
        "OnFailureJobMode", "OnSuccess", "RefuseManualStart", "RefuseManualStop", "SourcePath", "StopWhenUnneeded",
    )
)  # fmt: skip
RELOAD_TRIGGERS = "X-Reload-Triggers"
NEVER_RESTARTED = (".path", ".slice", ".socket", ".target", ".device", ".scope", ".swap")
LOADER = "boot/loader"
ACTIVE = frozenset(("active", "activating", "auto-restart"))
PROFILES = "nix/var/nix/profiles"
SYSTEMCTL_TIMEOUT = 300.0

Unit = dict[str, dict[str, list[str]]]
"""Section -> key -> values."""


def parse(text: str, into: Unit) -> None:
    """Add what a unit file says (systemd.syntax(7)); an empty value forgets those before it."""
    section: dict[str, list[str]] = {}
    for raw in text.replace("\\\n", " ").splitlines():
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[" and line[-1] == "]":
            section = into.setdefault(line[1:-1], {})
            continue
        key, _sep, value = line.partition("=")
        values = section.setdefault(key.strip(), [])
        if value.strip():
            values.append(value.strip())
        else:
            values.clear()


def find(directory: Path, name: str) -> Path | None:
    """The file of a unit, of its template for an instance; None also for one that is masked."""
    stem, at, rest = name.partition("@")
    template = f"{stem}@.{rest.rpartition('.')[2]}" if at else name
    for candidate in (name, template):
        path = directory / candidate
        if path.exists():
            return None if path.resolve() == Path(os.devnull) else path
    return None


def read(directory: Path, name: str) -> Unit | None:
    """What a system says of a unit, with the drop-ins of the unit and of its template."""
    path = find(directory, name)
    if path is None:
        return None
    unit: Unit = {}
    parse(path.read_text(encoding="utf-8"), unit)
    for holder in dict.fromkeys((path.name, name)):
        for part in sorted((directory / f"{holder}.d").glob("*.conf")):
            parse(part.read_text(encoding="utf-8"), unit)
    return unit


def said(unit: Unit, section: str, key: str, *, default: bool) -> bool:
    """A boolean of a unit."""
    values = unit.get(section, {}).get(key, [])
    return values[-1].lower() in {"1", "yes", "true", "on"} if values else default


def compare(old: Unit, new: Unit) -> str:
    """``same``, ``reload`` (only what triggers a reload differs), or ``changed``."""

    def relevant(unit: Unit) -> Unit:
        kept = {name: keys for name, keys in unit.items() if name != "Install"}
        kept["Unit"] = {k: v for k, v in unit.get("Unit", {}).items() if k not in IGNORED and k != RELOAD_TRIGGERS}
        return kept

    if relevant(old) != relevant(new):
        return "changed"
    triggers = [unit.get("Unit", {}).get(RELOAD_TRIGGERS) for unit in (old, new)]
    return "reload" if triggers[0] != triggers[1] else "same"


@dataclass
class Plan:
    """Units, by what is done to them."""

    stop: list[str] = field(default_factory=list)
    skip: list[str] = field(default_factory=list)
    reload: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)
    start: list[str] = field(default_factory=list)


def plan(active: Mapping[str, str], old: Path, new: Path) -> Plan:
    """What a switch does; ``active`` is the state of each unit that is loaded, the rest are directories of units."""
    steps = Plan()
    for name, state in sorted(active.items()):
        if state not in ACTIVE:
            continue
        after = read(new, name)
        if name.endswith(".target"):
            if _pulls(new, name) and not (after and _only_by_hand(after)):
                steps.start.append(name)
            if after and said(after, "Unit", "X-StopOnReconfiguration", default=False):
                steps.stop.append(name)
            continue
        before = read(old, name)
        if before is None:
            continue
        if after is None:
            if said(before, "Unit", "X-StopOnRemoval", default=True):
                steps.stop.append(name)
            continue
        difference = compare(before, after)
        if difference == "reload":
            steps.reload.append(name)
        elif difference == "changed":
            _changed(name, after, active, steps)
    return steps


def _pulls(directory: Path, target: str) -> bool:
    """Whether a system says anything of the target: others than those are not its business."""
    return any((directory / f"{target}{end}").exists() for end in ("", ".wants", ".requires"))


def _only_by_hand(unit: Unit) -> bool:
    return said(unit, "Unit", "RefuseManualStart", default=False) or said(
        unit, "Unit", "X-OnlyManualStart", default=False
    )


def _changed(name: str, unit: Unit, active: Mapping[str, str], steps: Plan) -> None:
    if name.endswith(".mount"):
        steps.reload.append(name)
    elif name.endswith(NEVER_RESTARTED):
        pass
    elif said(unit, "Service", "X-ReloadIfChanged", default=False):
        steps.reload.append(name)
    elif (
        not said(unit, "Service", "X-RestartIfChanged", default=True)
        or said(unit, "Unit", "RefuseManualStop", default=False)
        or said(unit, "Unit", "X-OnlyManualStart", default=False)
    ):
        steps.skip.append(name)
    elif not said(unit, "Service", "X-StopIfChanged", default=True):
        steps.restart.append(name)
    else:
        steps.stop.append(name)
        socket = f"{name.removesuffix('.service')}.socket"
        if active.get(socket) == "active":
            steps.stop.append(socket)
            steps.start.append(socket)
        else:
            steps.start.append(name)


# -- the host


def run(*argv: str, timeout: float = SYSTEMCTL_TIMEOUT) -> subprocess.CompletedProcess[str]:
    """Run a program of the host; its status is the caller's to judge."""
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False)


def say(text: str) -> None:
    """A line of progress, where NixOS has it too."""
    print(text, file=sys.stderr, flush=True)


def states() -> dict[str, str]:
    """The active state of each unit that is loaded; ``auto-restart`` for one that failed and waits for its next try."""
    listed = run("systemctl", "list-units", "--full", "--all", "--plain", "--no-legend", "--output=json")
    return {
        str(unit["unit"]): "auto-restart" if unit["sub"] == "auto-restart" else str(unit["active"])
        for unit in json.loads(listed.stdout or "[]")
    }


def link(path: Path, target: str | Path) -> None:
    """Make the path a link to the target, at once."""
    if path.is_symlink() and str(path.readlink()) == str(target):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.rename(path)


def entries(etc: Path, inside: str = "") -> Iterator[str]:
    """What of a system's etc is linked: files, links, and the directories that go as a whole."""
    for entry in sorted((etc / inside).iterdir()):
        name = f"{inside}{entry.name}"
        if entry.is_dir() and not entry.is_symlink() and name not in WHOLE:
            yield from entries(etc, f"{name}/")
        else:
            yield name


def set_up_etc(system: Path, root: Path) -> None:
    """Make /etc that of the system: /etc/static is a link to it, and all else goes through that."""
    etc = (system / "etc").resolve()
    link(root / "etc/static", etc)
    for name in entries(etc):
        link(root / "etc" / name, f"/etc/static/{name}")
    for name in WHOLE[:2]:
        link(root / "etc" / name, f"/etc/static/{name}")
    for directory, names, files in os.walk(root / "etc"):
        for name in (*names, *files):
            path = Path(directory, name)
            if path.is_symlink() and str(path.readlink()).startswith("/etc/static/"):
                inside = str(path.relative_to(root / "etc"))
                if not os.path.lexists(etc / inside) and inside not in WHOLE:
                    path.unlink()


def activate(system: Path, root: Path, *, boot: bool) -> bool:
    """Make the system the current one, as far as units are not concerned; tell whether all went well."""
    say("setting up /etc...")
    set_up_etc(system, root)
    fine = run("systemd-sysusers", *map(str, sorted((system / "etc/sysusers.d").glob("*.conf")))).returncode == 0
    program = system / "activate"
    if program.exists():
        done = run(str(program))
        sys.stderr.write(done.stdout + done.stderr)
        fine = fine and done.returncode == 0
    if not boot:
        link(root / "run/current-system", system)
    return fine


# -- the boot loader


def generations(root: Path) -> dict[int, Path]:
    """The generations of the system's profile."""
    found = {}
    for path in (root / PROFILES).glob("system-*-link"):
        if match := re.fullmatch(r"system-(\d+)-link", path.name):
            found[int(match[1])] = path.readlink()
    return found


def install_boot_loader(system: Path, root: Path) -> None:
    """Have an entry for each generation; the system is the default if it is one of them."""
    entry_names = root / LOADER / "entries"
    entry_names.mkdir(parents=True, exist_ok=True)
    known = generations(root)
    for number, path in known.items():
        write(entry_names / f"nixos-generation-{number}.conf", f"title NixOS\noptions init={path}/init\n")
    for entry in entry_names.glob("nixos-generation-*.conf"):
        if int(entry.stem.rpartition("-")[2]) not in known:
            entry.unlink()
    if mine := [number for number, path in known.items() if path == system]:
        write(root / LOADER / "loader.conf", f"default nixos-generation-{max(mine)}.conf\n")
    else:
        say(f"{system} is no generation of the profile; the boot loader's default stays")


def boot_default(root: Path) -> Path:
    """The system that the boot loader starts."""
    default = (root / LOADER / "loader.conf").read_text(encoding="utf-8").split()[1]
    text = (root / LOADER / "entries" / default).read_text(encoding="utf-8")
    match = re.search(r"^options init=(/.*)/init$", text, re.MULTILINE)
    if match is None:
        raise SystemExit(f"{default}: names no init")
    return Path(match[1])


def write(path: Path, text: str) -> None:
    """Make a file hold the text, at once."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    with beside.open("rb") as stream:
        os.fsync(stream.fileno())
    beside.rename(path)


# -- the actions


def failure() -> str:
    """How the program is to fail, said from outside."""
    try:
        return Path("/run/nixos/fail").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def switch(system: Path, action: str) -> int:
    """Carry out an action; return the exit status."""
    root = Path("/")
    if failure() == "hang":
        while True:
            time.sleep(3600)
    if action in {"switch", "boot"}:
        install_boot_loader(system, root)
        if action == "boot":
            return 0
    current = root / "run/current-system"
    versions = [(place / INTERFACE).read_text() if (place / INTERFACE).exists() else "" for place in (current, system)]
    if versions[0] != versions[1]:
        say("the new system has another interface to its init; it must be booted")
        return 100
    old = (current / "etc/systemd/system").resolve()
    new = (system / "etc/systemd/system").resolve()
    places = [Path(place, "etc") for place in (current.resolve(), system)]
    before = states()
    steps = plan(before, old, new)
    if action == "dry-activate":
        for verb in ("stop", "skip", "reload", "restart", "start"):
            if names := getattr(steps, verb):
                say(f"would {verb} the following units: {', '.join(names)}")
        return 0
    return carry_out(system, steps, before, places)


def contents(place: Path) -> dict[str, bytes]:
    """The files below a directory."""
    found = {}
    for directory, _names, files in os.walk(place, followlinks=True):
        for name in files:
            path = Path(directory, name)
            if path.exists() and stat.S_ISREG(path.stat().st_mode):
                found[str(path.relative_to(place))] = path.read_bytes()
    return found


def carry_out(system: Path, steps: Plan, before: Mapping[str, str], places: list[Path]) -> int:
    """Switch from one running system to another; return the exit status."""
    status = 0
    if steps.stop:
        say(f"stopping the following units: {', '.join(steps.stop)}")
        run("systemctl", "stop", "--", *steps.stop)
    if steps.skip:
        say(f"NOT restarting the following changed units: {', '.join(steps.skip)}")
    say("activating the configuration...")
    differs = {
        name: contents(places[0] / name) != contents(places[1] / name)
        for name in ("systemd/network", "sysctl.d", "modules-load.d")
    }
    if failure() == "activation":
        say("activation failed, as wished")
        return 2
    if not activate(system, Path("/"), boot=False):
        status = 2
    run("systemctl", "reset-failed")
    if run("systemctl", "daemon-reload").returncode:
        status = 3
    run("systemd-tmpfiles", "--create", "--remove", "--exclude-prefix=/dev")
    for name, argv in (
        ("modules-load.d", ("systemctl", "restart", "systemd-modules-load.service")),
        ("sysctl.d", ("systemctl", "restart", "systemd-sysctl.service")),
        ("systemd/network", ("networkctl", "reload")),
    ):
        if differs[name]:
            run(*argv)
    for verb, doing, names in (
        ("reload", "reloading", steps.reload),
        ("restart", "restarting", steps.restart),
        ("start", "starting", steps.start),
    ):
        if names:
            say(f"{doing} the following units: {', '.join(names)}")
            if run("systemctl", verb, "--", *names).returncode and not status:
                status = 4
    after = states()
    if new := sorted(
        name for name, state in after.items()
        if state == "active" and before.get(name) not in ACTIVE and name not in steps.start
    ):  # fmt: skip
        say(f"the following new units were started: {', '.join(new)}")
    if failed := sorted(name for name, state in after.items() if state in {"failed", "auto-restart"}):
        say(f"warning: the following units failed: {', '.join(failed)}")
        sys.stderr.write(run("systemctl", "status", "--no-pager", "--full", "--lines=20", "--", *failed).stdout)
        status = status or 4
    return int(wish) if (wish := failure()).isdigit() else status


def main(arguments: list[str]) -> int:
    """Run a command line: the script's own path, and an action.

    Two more are the testbed's, in the tree of a host that is not booted: ``--first SYSTEM`` has the boot loader start
    that system, and ``--boot SYSTEM`` activates it for the boot that comes.
    """
    match arguments:
        case ["--boot", path]:
            return 0 if activate(Path(path), Path("/"), boot=True) else 1
        case ["--first", path]:
            install_boot_loader(Path(path), Path("/"))
            return 0
        case [script, action] if action in ACTIONS:
            system = Path(script).parent.resolve().parent
        case _:
            say(f"usage: switch-to-configuration [{'|'.join(ACTIONS)}]")
            return 1
    Path("/run/nixos").mkdir(exist_ok=True)
    with Path("/run/nixos/switch-to-configuration.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Could not acquire lock")
            return 1
        return switch(system, action)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
