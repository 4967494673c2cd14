# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A NixOS host that is only a directory: store, profile, boot loader and transient units behave as the engine sees it.

Links and files are real, below the directory; Nix and systemd are played by `FakeSystem`.  `Killer` of fakehost ends
the engine between any two changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.microvm.fleet.plugins.module_utils._system_observe import ACTIVATION, SystemPaths
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import store_path
from ansible_collections.microvm.fleet.tests.unit.support.recorded import Answers

NAME = "host1"
FLAKE = "path:/etc/microvm-fleet"


@dataclass(frozen=True)
class System:
    """A system as a flake gives it.

    *behaviour* of its switch-to-configuration: ok, boot (the boot loader fails), script (the activation script fails),
    units (units fail), again (units fail that had failed before), locked, timeout, killed, slow (runs until it is
    ended); or unbuildable.
    """

    version: int
    behaviour: str = "ok"
    kernel: str = "linux-6.12"
    interface: str = "systemd 2"

    @property
    def path(self) -> str:
        """Where it is in the store."""
        return store_path(repr(self), f"nixos-system-{NAME}-25.11.{self.version}")

    @property
    def derivation(self) -> str:
        """What builds it."""
        return self.path + ".drv"

    def install(self, root: Path) -> None:
        """Put it into the store below *root*."""
        place = root / self.path.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        for name in ("kernel", "initrd", "kernel-modules"):
            link = place / name
            if not link.is_symlink():
                link.symlink_to(store_path(self.kernel, name))
        (place / "kernel-params").write_text("loglevel=4\n", encoding="utf-8")
        (place / "init-interface-version").write_text(self.interface, encoding="utf-8")


@dataclass
class FakeUnit:
    """A transient unit, and what it runs."""

    description: str
    system: str
    verb: str
    log: str
    remains: bool
    active: str = "inactive"
    sub: str = "dead"
    result: str = "success"
    status: int = 0


class FakeSystem(Answers):
    """The host: a root directory, systems, units."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.paths = SystemPaths(str(root))
        self.systems: dict[str, System] = {}
        self.wished: dict[str, System] = {}
        self.units: dict[str, FakeUnit] = {}
        self.failed: list[str] = []
        self.boot_loader: str | None = None
        # What switch-to-configuration was called for: the verb and the version.
        self.activations: list[tuple[str, int]] = []
        # What answers instead of Nix or systemd, by the words that a command has.
        self.broken: dict[str, tuple[int, str, str]] = {}
        self.before: t.Callable[[tuple[str, ...]], object] = lambda argv: None
        self.working = False
        self.boots = 0
        for path in ("etc", "run/nixos", "nix/store", "nix/var/nix/profiles", "proc/sys/kernel/random"):
            (root / path).mkdir(parents=True)
        (root / "etc/os-release").write_text("ID=nixos\n", encoding="utf-8")
        first = self.wish(System(1))
        first.install(root)
        self._set_profile(first.path)
        self.boot_loader = first.path
        self.boot()

    # What tests do to the host

    def wish(self, system: System, name: str = NAME) -> System:
        """Let the flake give *system*."""
        self.systems[system.path] = system
        self.wished[name] = system
        return system

    def boot(self) -> None:
        """The host restarts: units are gone, and what the boot loader has runs."""
        self.boots += 1
        self.units.clear()
        (self.root / "proc/sys/kernel/random/boot_id").write_text(f"boot-{self.boots}\n", encoding="utf-8")
        volatile = self.root / "run/microvm-fleet"
        for path in volatile.iterdir() if volatile.is_dir() else ():
            path.unlink()
        for name in ("current-system", "booted-system"):
            self._link(f"run/{name}", self.boot_loader or "")

    def elapse(self) -> None:
        """The time of all timers that wait has come."""
        for name, unit in list(self.units.items()):
            if name.endswith(".timer") and unit.active == "active":
                del self.units[name]
                self._revert(name.replace(".timer", ".service"))

    def finish(self) -> None:
        """What is slow comes to its end."""
        for unit in self.units.values():
            if unit.sub == "running":
                self._execute(unit, "ok")

    def kill(self) -> None:
        """Somebody ends the activation."""
        self.units.pop(ACTIVATION, None)

    @property
    def running(self) -> int:
        """The version of the system that runs."""
        return self.systems[os.readlink(self.paths.running)].version

    @property
    def profile(self) -> int:
        """The version of the system that the profile has."""
        return self.systems[os.readlink(self.root / "nix/var/nix/profiles" / os.readlink(self.paths.profile))].version

    @property
    def boots_next(self) -> int:
        """The version of the system that the boot loader starts."""
        return self.systems[self.boot_loader or ""].version

    def armed(self) -> bool:
        """Whether the host would go back by itself."""
        return any(name.endswith(".timer") and unit.active == "active" for name, unit in self.units.items())

    def state(self) -> dict[str, t.Any]:
        """All that a later run goes by."""
        answer: dict[str, t.Any] = {"boot loader": self.boot_loader}
        for directory, _directories, files in os.walk(self.root):
            for entry in files:
                path = Path(directory, entry)
                place = str(path.relative_to(self.root))
                if not place.startswith(("nix/store", "run/lock")) and not place.endswith(".log"):
                    answer[place] = os.readlink(path) if path.is_symlink() else path.read_text(encoding="utf-8")
        for link in self.root.glob("nix/var/nix/**/*"):
            if link.is_symlink():
                answer[str(link.relative_to(self.root))] = os.readlink(link)
        answer["running"] = os.readlink(self.paths.running)
        answer.update({name: unit.active for name, unit in self.units.items()})
        return answer

    # What the tools do

    def find(self, name: str) -> str | None:
        """Every program is there."""
        return f"/run/current-system/sw/bin/{name}"

    def answer(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        """Do as the program would, and say what it says."""
        self.before(argv)
        self.working = True
        try:
            for words, answer in self.broken.items():
                if words in " ".join(argv):
                    return answer
            play: t.Callable[[tuple[str, ...]], tuple[int, str, str]] = getattr(self, "_" + argv[0].replace("-", "_"))
            return play(argv)
        finally:
            self.working = False

    def _nix(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        if "metadata" in argv:
            content = hashlib.sha256(repr(sorted(self.wished.items())).encode()).hexdigest()
            value = {"locked": {"narHash": f"sha256-{content}"}, "url": argv[-1], "path": store_path(content, "source")}
            return 0, json.dumps(value), ""
        if "diff-closures" in argv:
            return 0, "linux: \x1b[33;1m6.12\x1b[0m → \x1b[33;1m6.13\x1b[0m\n", ""
        system = self.wished.get(argv[argv.index("name") + 1])
        if system is None:
            return 0, json.dumps({"available": sorted(self.wished)}), ""
        return 0, json.dumps({"path": system.path, "derivation": system.derivation}), ""

    def _nix_store(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        if "--check-validity" in argv:
            missing = [path for path in argv[3:] if not (self.root / path.lstrip("/")).exists()]
            return 0, "".join(f"{path}\n" for path in missing), ""
        if "--realise" in argv:
            for system in list(self.systems.values()):
                if system.derivation in argv:
                    if system.behaviour == "unbuildable":
                        return 1, "", f"error: builder for '{system.derivation}' failed with exit code 1\n"
                    system.install(self.root)
            return 0, "", ""
        assert "--read-log" in argv, argv
        return 0, "".join(f"build log line {number} of 30\n" for number in range(1, 31)), ""

    def _nix_env(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        assert argv[:3] == ("nix-env", "--profile", self.paths.profile), argv
        if argv[3] == "--set":
            self._set_profile(argv[4])
        else:
            assert argv[3] == "--switch-generation"
            self._link("nix/var/nix/profiles/system", f"system-{argv[4]}-link")
        return 0, "", ""

    def _set_profile(self, system: str) -> None:
        links = self.root / "nix/var/nix/profiles"
        numbers = sorted(int(link.name.split("-")[1]) for link in links.glob("system-*-link"))
        newest = numbers[-1] if numbers else 0
        if not numbers or os.readlink(links / f"system-{newest}-link") != system:
            newest += 1
            self._link(f"nix/var/nix/profiles/system-{newest}-link", system)
        self._link("nix/var/nix/profiles/system", f"system-{newest}-link")

    def _link(self, place: str, target: str) -> None:
        path = self.root / place
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    def _systemctl(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        verb = argv[1]
        if verb == "list-units":
            return 0, "".join(f"{name} loaded failed failed A unit\n" for name in self.failed), ""
        if verb == "show":
            return 0, "\n".join(self._block(name) for name in argv[argv.index("--") + 1 :]), ""
        name = argv[-1]
        unit = self.units.get(name)
        if verb == "start":
            self._revert(name)
        elif unit is not None and unit.active == {"stop": "active", "reset-failed": "failed"}[verb]:
            del self.units[name]
            service = self.units.get(name.replace(".timer", ".service"))
            if service is not None and service.active == "inactive":
                del self.units[name.replace(".timer", ".service")]
        return 0, "", ""

    def _block(self, name: str) -> str:
        unit = self.units.get(name, FakeUnit(name, "", "", "", remains=False))
        return (
            f"Result={unit.result}\nExecMainStatus={unit.status}\nId={name}\nDescription={unit.description}\n"
            f"ActiveState={unit.active}\nSubState={unit.sub}\n"
        )

    def _systemd_run(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        options = dict(word[2:].split("=", 1) for word in argv if word.startswith("--") and "=" in word)
        properties = dict(word[len("--property=") :].split("=", 1) for word in argv if word.startswith("--property="))
        name = options["unit"]
        if name in self.units:
            return 1, "", f"Failed to start transient service unit: Unit {name} was already loaded.\n"
        program, verb = argv[-2:]
        log = properties["StandardOutput"][len("append:") :]
        unit = FakeUnit(
            options["description"],
            os.path.dirname(os.path.dirname(program)),
            verb,
            log,
            "RemainAfterExit" in properties,
        )
        self.units[name] = unit
        if "on-active" in options:
            timer = name.replace(".service", ".timer")
            self.units[timer] = FakeUnit(
                options["description"], "", "", "", remains=False, active="active", sub="waiting"
            )
        else:
            self._execute(unit, self.systems[unit.system].behaviour)
        return 0, "", ""

    def _revert(self, name: str) -> None:
        unit = self.units[name]
        self.units.pop(ACTIVATION, None)
        self._execute(unit, self.systems[unit.system].behaviour)
        if unit.active != "failed":
            del self.units[name]

    def _execute(self, unit: FakeUnit, behaviour: str) -> None:
        system = self.systems[unit.system]
        said, status, result = [], 0, "success"
        self.activations.append((unit.verb, system.version))
        if behaviour == "slow" and unit.verb != "boot":
            unit.active, unit.sub = "active", "running"
            return
        if behaviour == "locked":
            said, status = ["Could not acquire lock"], 11
        elif unit.verb in ("switch", "boot") and behaviour == "boot":
            said, status = ["Failed to install bootloader"], 1
        else:
            if unit.verb in ("switch", "boot"):
                self.boot_loader = unit.system
            if unit.verb in ("switch", "test"):
                said, status, result = self._activate(unit.system, behaviour)
        with open(unit.log, "a", encoding="utf-8") as stream:
            stream.write("".join(f"{line}\n" for line in said))
        unit.status, unit.result = status, result if status == 0 else "exit-code"
        if unit.result != "success":
            unit.active, unit.sub = "failed", "failed"
        elif unit.remains:
            unit.active, unit.sub = "active", "exited"
        else:
            unit.active, unit.sub = "inactive", "dead"

    def _activate(self, system: str, behaviour: str) -> tuple[list[str], int, str]:
        said = ["activating the configuration..."]
        if behaviour == "timeout":
            return said, 0, "timeout"
        if behaviour == "killed":
            return said, 0, "signal"
        self._link("run/current-system", system)
        if behaviour == "script":
            return [*said, "Failed to run activate script"], 2, "success"
        if behaviour in ("units", "again"):
            return [*said, "warning: the following units failed: old.service"], 4, "success"
        return [*said, f"finished {system}"], 0, "success"
