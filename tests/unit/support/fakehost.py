# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that is only a directory: its store, flakes and units behave as far as the guest engine can tell.

The engine reads and writes real files below the directory; Nix and systemd are played by `FakeHost`, in the forms that
the recorded output has.  `Killer` ends the engine between any two changes, as SIGKILL would.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
import os
import time
import typing as t
from dataclasses import dataclass, field, replace
from pathlib import Path

from ansible_collections.microvm.fleet.plugins.module_utils._files import TEMPORARY
from ansible_collections.microvm.fleet.plugins.module_utils._holds import CONDITIONS
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths
from ansible_collections.microvm.fleet.tests.unit.support.recorded import Answers

FLAKE = "git+https://git.example.org/infra"
# StartLimitBurst= of microvm@.service.
START_LIMIT = 5


def store_path(seed: str, name: str) -> str:
    """A path in the store, the same for the same *seed*."""
    digest = hashlib.sha256(seed.encode()).hexdigest()[:32].replace("e", "g")
    return f"/nix/store/{digest}-{name}"


@dataclass(frozen=True)
class Spec:
    """A guest as its flake describes it.

    *behaviour*: ok, crash (ends when it is started), hang (does not end when it is stopped), skipped (its unit's
    condition fails), unbuildable, unevaluable, empty (a package without bin/microvm-run).
    """

    name: str
    version: int = 1
    hypervisor: str = "qemu"
    host_name: str | None = None
    interfaces: tuple[tuple[str, str, str], ...] | None = None
    volumes: tuple[tuple[str, int | None], ...] = (("data.img", 16),)
    vsock_cid: int | None = None
    behaviour: str = "ok"

    @property
    def package(self) -> str:
        """The name of the runner's package."""
        return f"microvm-{self.hypervisor}-{self.host_name or self.name.replace('.', '-')}"

    @property
    def path(self) -> str:
        """The runner's path in the store."""
        return store_path(repr(self), self.package)

    @property
    def derivation(self) -> str:
        """The derivation that makes it."""
        return store_path("drv" + repr(self), self.package + ".drv")

    @property
    def taps(self) -> tuple[tuple[str, str, str], ...]:
        """Identity, type and MAC of the interfaces."""
        if self.interfaces is not None:
            return self.interfaces
        digest = hashlib.sha256(self.name.encode()).hexdigest()
        mac = ":".join(["02", *(digest[at : at + 2] for at in range(0, 10, 2))])
        return ((f"vm-{self.name}"[:15], "tap", mac),)

    @property
    def facts(self) -> dict[str, t.Any]:
        """The answer of an evaluation."""
        return {
            "path": self.path,
            "derivation": self.derivation,
            "hypervisor": self.hypervisor,
            "host_name": self.host_name or self.name.replace(".", "-"),
            "toplevel": None,
            "kernel": None,
            "initrd": None,
            "kernel_params": None,
            "mem": None,
            "vcpu": None,
            "interfaces": [
                {"id": identity, "type": kind, "mac": mac, "link": None, "mode": None}
                for identity, kind, mac in self.taps
            ],
            "volumes": [
                {
                    "image": image,
                    "size": size,
                    "mount_point": None,
                    "fs_type": "ext4",
                    "read_only": False,
                    "auto_create": size is not None,
                    "label": None,
                    "mkfs_extra_args": [],
                }
                for image, size in self.volumes
            ],
            "vsock_cid": self.vsock_cid,
            "can_shutdown": self.hypervisor == "qemu",
        }

    def install(self, root: Path) -> None:
        """Put the package into the store below *root*."""
        place = root / self.path.lstrip("/")
        files = {"share/microvm/hypervisor": self.hypervisor}
        taps = [identity for identity, kind, _mac in self.taps if kind == "tap"]
        if taps:
            files["share/microvm/tap-interfaces"] = "\n".join(taps)
            files["bin/tap-up"] = files["bin/tap-down"] = "#!/bin/sh"
        if self.vsock_cid is not None:
            files["share/microvm/vsock-cid"] = str(self.vsock_cid)
        if self.hypervisor == "qemu":
            files["bin/microvm-shutdown"] = "#!/bin/sh"
        if self.behaviour != "empty":
            files["bin/microvm-run"] = "#!/bin/sh\n" + "".join(
                f"if [ ! -e '{image}' ]; then\n  touch '{image}'\n  truncate -s {size}M '{image}'\nfi\n"
                for image, size in self.volumes
                if size is not None
            )
        for file, text in files.items():
            there = place / file
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_text(text + "\n", encoding="utf-8")


@dataclass
class FakeUnit:
    """A loaded unit, by the properties that systemd shows."""

    active: str = "active"
    sub: str = "running"
    result: str = "success"
    restarts: int = 0
    invocation: str = "0"
    since: float = field(default_factory=lambda: time.monotonic() - 1000)


class FakeHost(Answers):
    """The host: a root directory, a store, flakes and units."""

    def __init__(self, root: Path, *, prepared: bool = True) -> None:
        super().__init__()
        self.root = root
        self.paths = Paths(root=str(root))
        self.flakes: dict[str, dict[str, Spec]] = {}
        self.revisions: dict[str, str] = {}
        self.units: dict[str, FakeUnit] = {}
        self.specs: dict[str, Spec] = {}
        self.loaded: dict[str, str | None] = {}
        # Timers that start guests again, by the guest's name: the seconds.
        self.resuming: dict[str, int] = {}
        self._files_of: dict[str, Path] = {}
        # Guests for which enabling fails, and what systemctl says then.
        self.broken_units: set[str] = set()
        self.substitutes: set[str] = set()
        # Programs for filesystems that it has, and those of them that fail.
        self.programs: set[str] = set()
        self.broken_programs: set[str] = set()
        # Copies of the static flake in the store, by path: what guests.json says there.  Guests that do otherwise than
        # `Spec` has it by default, by name.
        self.copies: dict[str, dict[str, t.Any]] = {}
        self.behaviours: dict[str, str] = {}
        self._starts = itertools.count()
        # No time passes, so all tries are within StartLimitIntervalSec=.
        self._tries: collections.Counter[str] = collections.Counter()
        # What is done now is done by Nix or systemd, not by the engine.
        self.working = False
        # Called before each command.
        self.before: t.Callable[[tuple[str, ...]], None] = lambda argv: None
        (root / "nix/store").mkdir(parents=True)
        if prepared:
            self.prepare()

    def prepare(self) -> None:
        """What the role for hosts does."""
        for path in (self.paths.guests, self.paths.units):
            Path(path).mkdir(parents=True)
        text = "\n".join(("[Unit]", *CONDITIONS, "[Service]", ""))
        Path(self.paths.units, "microvm@.service").write_text(text, encoding="utf-8")

    # What tests do to the host

    def static_flake(self) -> None:
        """What the role for the static flake does."""
        for place, text in (
            ("flake.nix", "{ }"),
            ("flake.lock", "{}"),
            ("nix/guest.nix", "{ }"),
            ("registry.json", ""),
        ):
            path = Path(self.paths.flake, place)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        Path(self.paths.candidates).mkdir(parents=True, exist_ok=True)

    def descriptions(self) -> dict[str, t.Any]:
        """The entries of guests.json."""
        path = Path(self.paths.descriptions)
        guests: dict[str, t.Any] = json.loads(path.read_text(encoding="utf-8"))["guests"] if path.exists() else {}
        return guests

    def put_credential(self, name: str, credential: str) -> None:
        """What the role for guests does with a credential."""
        path = Path(self.paths.credentials(name, credential))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret", encoding="utf-8")

    def spec_of(self, name: str, entry: dict[str, t.Any]) -> Spec:
        """The guest that the static flake makes of an *entry* of guests.json."""
        spec = Spec(
            name=name,
            version=int(hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:8], 16),
            hypervisor=entry["hypervisor"],
            host_name=entry["host_name"],
            interfaces=tuple((one["id"], one["type"], one["mac"]) for one in entry["interfaces"]),
            volumes=tuple((one["image"], one["size"]) for one in entry["volumes"]),
            vsock_cid=entry["vsock_cid"],
            behaviour=self.behaviours.get(name, "ok"),
        )
        self.specs[spec.path] = spec
        return spec

    def offer(self, *specs: Spec, flake: str = FLAKE) -> None:
        """Let *flake* describe the guests of *specs*, beside those that it has."""
        guests = self.flakes.setdefault(flake, {})
        guests.update({spec.name: spec for spec in specs})
        self.specs.update({spec.path: spec for spec in specs})
        self.revisions[flake] = hashlib.sha1(repr(sorted(guests.items())).encode()).hexdigest()  # noqa: S324

    def renew(self, name: str, *, flake: str = FLAKE, **changes: t.Any) -> Spec:
        """Let the flake describe guest *name* otherwise; without *changes* with a new version."""
        spec = self.flakes[flake][name]
        self.offer(replace(spec, **(changes or {"version": spec.version + 1})), flake=flake)
        return self.flakes[flake][name]

    def publish(self, spec: Spec) -> Spec:
        """Let the host's substituter have the runner of *spec*."""
        self.specs[spec.path] = spec
        self.substitutes.add(spec.path)
        return spec

    def build(self, spec: Spec) -> str:
        """Have the runner of *spec* in the store."""
        self.specs[spec.path] = spec
        spec.install(self.root)
        return spec.path

    def guest(self, name: str, *parts: str) -> Path:
        """A path in the state directory of guest *name*."""
        return Path(self.paths.guest(name, *parts))

    def microvm_create(self, spec: Spec, *, flake: str | None = FLAKE, rooted: bool = True) -> None:
        """What ``microvm -c`` leaves."""
        self.build(spec)
        directory = self.guest(spec.name)
        directory.mkdir()
        (directory / "current").symlink_to(spec.path)
        if flake is not None:
            (directory / "flake").write_text(flake, encoding="utf-8")
        if rooted:
            roots = Path(self.paths.microvm_roots)
            roots.mkdir(parents=True, exist_ok=True)
            (roots / spec.name).symlink_to(directory / "current")
            (roots / f"booted-{spec.name}").symlink_to(directory / "booted")

    def nixos_install(self, spec: Spec, *, toplevel: bool = True, once: bool | None = None) -> None:
        """What the install service of a NixOS host leaves; *once* adds the unit, with or without its condition."""
        self.microvm_create(spec, flake=None, rooted=False)
        if toplevel:
            self.guest(spec.name, "toplevel").symlink_to(store_path("top", "nixos-system-x"))
        if once is not None:
            unit = Path(self.paths.units, f"install-microvm-{spec.name}.service")
            condition = f"ConditionPathExists=!/var/lib/microvms/{spec.name}\n" if once else ""
            unit.write_text(f"[Unit]\n{condition}", encoding="utf-8")

    def start(self, name: str) -> None:
        """What the units do when guest *name* is started."""
        if name in self.units and self.units[name].active == "active":
            return
        if os.path.exists(self.paths.drained) or os.path.exists(self.paths.moving(name)):
            # Conditions of the units.
            return
        current = self.guest(name, "current")
        there = self.root / os.readlink(current).lstrip("/") / "bin/microvm-run" if current.is_symlink() else None
        if there is None or not there.exists():
            return
        spec = self.specs[os.readlink(current)]
        if spec.behaviour == "skipped":
            return
        if spec.behaviour == "crash":
            self.units[name] = FakeUnit("failed", "failed", "exit-code", restarts=5)
            return
        booted = self.guest(name, "booted")
        booted.unlink(missing_ok=True)
        booted.symlink_to(os.readlink(current))
        for image, size in spec.volumes:
            if size is not None and not image.startswith("/"):
                self.guest(name, image).touch()
        self.units[name] = FakeUnit(invocation=str(next(self._starts)))
        self.loaded[name] = self._drop_in(name)

    def stop(self, name: str) -> None:
        """What the units do when guest *name* is stopped."""
        unit = self.units.get(name)
        if unit is None or unit.active == "failed":
            return
        booted = self.guest(name, "booted")
        behaviour = self.specs[os.readlink(booted)].behaviour if booted.is_symlink() else "ok"
        booted.unlink(missing_ok=True)
        if behaviour == "hang" and unit.active == "active":
            self.units[name] = FakeUnit("failed", "failed", "timeout")
        else:
            del self.units[name]

    def power_cut(self) -> None:
        """The host restarts: units are gone, the links ``booted`` stay, and what is to start at boot starts."""
        self.units.clear()
        self.loaded.clear()
        self.resuming.clear()
        wants = Path(self.paths.wants)
        for link in sorted(wants.iterdir()) if wants.is_dir() else ():
            self.start(link.name[len("microvm@") : -len(".service")])

    def collect_garbage(self) -> list[str]:
        """Remove from the store what no root leads to, and say what that was."""
        kept = set()
        for directory, _directories, entries in os.walk(self.root / "nix/var/nix/gcroots"):
            for entry in entries:
                target = os.readlink(os.path.join(directory, entry))
                while not target.startswith("/nix/store/") and os.path.islink(target):
                    target = os.readlink(target)
                kept.add(target)
        gone = []
        for path in list((self.root / "nix/store").iterdir()):
            if f"/nix/store/{path.name}" not in kept:
                for file in sorted(path.rglob("*"), reverse=True):
                    file.rmdir() if file.is_dir() else file.unlink()
                path.rmdir()
                gone.append(f"/nix/store/{path.name}")
        return gone

    def tree(self) -> dict[str, str]:
        """Everything on the host that outlasts a run: links and files, and the units' states."""
        answer = {}
        for directory, directories, files in os.walk(self.root):
            for name in [*directories, *files]:
                path = Path(directory, name)
                place = str(path.relative_to(self.root))
                if place.startswith(("nix/store", "run/lock")):
                    continue
                if path.is_symlink():
                    answer[place] = "-> " + os.readlink(path).replace(str(self.root), "")
                elif path.is_dir():
                    answer[place] = "directory"
                else:
                    answer[place] = path.read_text(encoding="utf-8", errors="replace")
        answer.update({f"unit {name}": unit.active for name, unit in self.units.items()})
        return answer

    def temporary(self) -> list[str]:
        """Names that only a run that was killed leaves."""
        return [place for place in self.tree() if TEMPORARY in place]

    # What the tools do

    def find(self, name: str) -> str | None:
        """Programs for filesystems are there only where a test says so."""
        if name == "setpriv" or name.startswith("mkfs.") or name in ("e2fsck", "resize2fs"):
            return f"/usr/sbin/{name}" if name in self.programs else None
        if name in ("flock", "find"):
            return f"/usr/bin/{name}"
        return super().find(name)

    def answer(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        self.before(argv)
        self.working = True
        try:
            return self._answer(argv)
        finally:
            self.working = False

    def _answer(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        if argv[0] == "nix":
            words = [word for word in argv if not word.startswith("--")]
            return self._metadata(argv[-1]) if "metadata" in words else self._eval(argv)
        if argv[0] == "nix-store":
            return self._store(argv)
        if argv[0] == "systemctl":
            return self._systemctl(argv)
        if argv[0] in ("setpriv", "chattr"):
            return self._filesystem([word for word in argv[1:] if not word.startswith("--")])
        if argv[0] == "systemd-run":
            return self._run_later(argv)
        assert argv[0] == "journalctl", argv
        name = argv[2][len("microvm@") : -len(".service")]
        return 0, f"Started microvm@{name}.service.\n\nqemu-system-x86_64: cannot run\n", ""

    def _filesystem(self, words: list[str]) -> tuple[int, str, str]:
        """What mkfs, e2fsck and resize2fs do, as far as a superblock's mark tells."""
        if words[0] in self.broken_programs:
            return 8, "", f"{words[0]}: Input/output error"
        if words[0].startswith("mkfs.ext"):
            with open(words[-1], "r+b") as image:
                image.seek(1024 + 56)
                image.write(b"\x53\xef")
        elif words[0] == "resize2fs":
            with open(words[-1], "r+b") as image:
                image.seek(1024)
                image.write(os.path.getsize(words[-1]).to_bytes(8, "little"))
        return 0, "", ""

    def _metadata(self, reference: str) -> tuple[int, str, str]:
        if reference.startswith(f"path:{self.root}"):
            return self._copy(Path(reference[len("path:") :]))
        if reference not in self.flakes:
            return 1, "", f"error: getting status of '{reference}': No such file or directory\n"
        revision = self.revisions[reference]
        value = {"locked": {"rev": revision, "narHash": "sha256-x"}, "url": f"{reference}?rev={revision}"}
        return 0, json.dumps({**value, "path": store_path(revision, "source")}), ""

    def _copy(self, directory: Path) -> tuple[int, str, str]:
        """A flake that is a directory is copied into the store, whole."""
        if not (directory / "flake.lock").exists():
            return 1, "", f"error: cannot write modified lock file of flake 'path:{directory}'\n"
        files = {str(path.relative_to(directory)): path for path in directory.rglob("*") if path.is_file()}
        content = json.dumps({place: path.read_text(encoding="utf-8") for place, path in sorted(files.items())})
        digest = hashlib.sha256(content.encode()).hexdigest()
        path = store_path(digest, "source")
        self.copies[path] = json.loads(files["guests.json"].read_text(encoding="utf-8"))["guests"]
        value = {"locked": {"narHash": f"sha256-{digest}"}, "url": f"path:{directory}", "path": path}
        return 0, json.dumps(value), ""

    def _eval(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        reference = argv[argv.index("flake") + 1].split("?")[0]
        copy = self.copies.get(reference[len("path:") :])
        if copy is not None:
            guests = {name: self.spec_of(name, entry) for name, entry in copy.items()}
        else:
            guests = self.flakes[reference]
        answers: dict[str, t.Any] = {}
        for name in json.loads(argv[argv.index("names") + 1]):
            if name not in guests:
                answers[name] = {"missing": True}
            elif guests[name].behaviour == "unevaluable":
                return 1, "", f"error: guest {name}: it throws\n"
            else:
                answers[name] = guests[name].facts
        return 0, json.dumps({"guests": answers, "available": sorted(guests)}), ""

    def _store(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        if "--realise" in argv:
            return self._realise([word for word in argv if word.startswith("/")])
        if "--check-validity" in argv:
            missing = [path for path in argv[3:] if not (self.root / path.lstrip("/")).exists()]
            return 0, "".join(f"{path}\n" for path in missing), ""
        if "--query" in argv:
            return 0, f"{argv[-1]}\n", ""
        assert "--read-log" in argv, argv
        return 0, "".join(f"build log line {number} of 30\n" for number in range(1, 31)), ""

    def _realise(self, sources: list[str]) -> tuple[int, str, str]:
        made = {spec.derivation: spec for spec in self.specs.values()}
        said = []
        for source in sources:
            spec = made.get(source) or (self.specs[source] if source in self.substitutes else None)
            if (self.root / source.lstrip("/")).exists():
                continue
            if spec is None:
                said.append(f"error: path '{source}' does not exist and cannot be created\n")
            elif spec.behaviour == "unbuildable":
                said.append(f"error: builder for '{source}' failed with exit code 1\n")
            else:
                spec.install(self.root)
        return (1, "", "".join(said)) if said else (0, "", "")

    def _drop_in(self, name: str) -> str | None:
        path = Path(self.paths.settings(name))
        return path.read_text(encoding="utf-8") if path.exists() else None

    def _show(self) -> str:
        blocks = []
        for name, unit in sorted(self.units.items()):
            stale = self._drop_in(name) != self.loaded.get(name)
            blocks.append(
                f"Result={unit.result}\nNRestarts={unit.restarts}\nId=microvm@{name}.service\n"
                f"ActiveState={unit.active}\nSubState={unit.sub}\n"
                f"ActiveEnterTimestampMonotonic={int(unit.since * 1e6)}\n"
                f"NeedDaemonReload={'yes' if stale else 'no'}\nInvocationID={unit.invocation}\n"
            )
        return "\n".join(blocks)

    def _run_later(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        """A transient timer of a guest, which has to be gone before there is another."""
        options = dict(word[2:].split("=", 1) for word in argv if word.startswith("--") and "=" in word)
        name = options["unit"][len("microvm-fleet-resume-") :]
        directory = argv[argv.index("-mindepth") - 1]
        file = {self.paths.marks: name, self.paths.moving(): f"{name}.json"}[directory]
        assert argv[argv.index("-name") + 1 : argv.index("(")] == (file, "-delete")
        assert os.path.join(self.paths.locks, f"guest-{name}") in argv
        assert argv[-3:] == ("start", f"microvm@{name}.service", ";")
        if name in self.resuming:
            return 1, "", f"Failed to start transient timer unit: Unit {options['unit']}.timer was already loaded\n"
        self.resuming[name] = int(options["on-active"].rstrip("s"))
        self._files_of[name] = Path(directory, file)
        return 0, "", ""

    def _state_of(self, unit: str) -> str:
        name = unit[len("microvm-fleet-resume-") :].rpartition(".")[0]
        return "active" if unit.endswith(".timer") and name in self.resuming else "inactive"

    def time_is_up(self, name: str) -> None:
        """The timer of guest *name* runs out."""
        del self.resuming[name]
        if self._files_of[name].exists():
            self._files_of[name].unlink()
            self._reset_failed(name)
            self._start(name)

    def _systemctl(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        words = [word for word in argv[1:] if not word.startswith("--")]
        verb = words[0]
        if verb == "show":
            asked = [word for word in words if word.startswith("microvm-fleet-resume-")]
            if asked:
                return 0, "\n".join(f"Id={unit}\nActiveState={self._state_of(unit)}\n" for unit in asked), ""
            return 0, self._show(), ""
        if verb == "cat":
            return 0, Path(self.paths.units, words[1]).read_text(encoding="utf-8"), ""
        if verb == "daemon-reload":
            self.loaded = {name: self._drop_in(name) for name in self.units}
            return 0, "", ""
        if verb == "stop" and words[1].startswith("microvm-fleet-resume-"):
            missing = self.resuming.pop(words[1][len("microvm-fleet-resume-") : -len(".timer")], None) is None
            return (5, "", f"Failed to stop {words[1]}: Unit {words[1]} not loaded.\n") if missing else (0, "", "")
        names = [word[len("microvm@") : -len(".service")] for word in words[1:]]
        broken = [name for name in names if name in self.broken_units]
        if broken and verb in ("enable", "disable"):
            return 1, "", f"Failed to {verb} unit: Unit file microvm@{broken[0]}.service does not exist.\n"
        for name in names:
            getattr(self, f"_{verb.replace('-', '_')}")(name)
        return 0, "", ""

    def _start(self, name: str) -> None:
        self._tries[name] += 1
        if self._tries[name] > START_LIMIT:
            self.units[name] = FakeUnit("failed", "failed", "start-limit-hit")
        else:
            self.start(name)

    def _stop(self, name: str) -> None:
        self.stop(name)

    def _reset_failed(self, name: str) -> None:
        del self._tries[name]
        if name in self.units and self.units[name].active == "failed":
            del self.units[name]

    def _enable(self, name: str) -> None:
        link = Path(self.paths.wants, f"microvm@{name}.service")
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to("/etc/systemd/system/microvm@.service")

    def _disable(self, name: str) -> None:
        Path(self.paths.wants, f"microvm@{name}.service").unlink(missing_ok=True)


class Killed(BaseException):
    """The process is no more."""


class Killer:
    """Ends what runs within it before its change number *at* (from 0), and lets nothing be tidied up afterwards."""

    CHANGES = (
        "rename",
        "link",
        "symlink",
        "unlink",
        "mkdir",
        "rmdir",
        "chown",
        "chmod",
        "fchown",
        "fchmod",
        "ftruncate",
    )

    def __init__(self, host: FakeHost, at: int | None) -> None:
        self.host = host
        self.at = at
        self.count = 0
        self.dead = False
        self._saved: dict[str, t.Any] = {}

    def _step(self) -> None:
        if self.dead or self.count == self.at:
            self.dead = True
            raise Killed
        self.count += 1

    def __enter__(self) -> t.Self:
        for name in (*self.CHANGES, "open"):
            self._saved[name] = getattr(os, name)
            setattr(os, name, self._wrapped(name))
        self.host.before = lambda argv: self._step()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> bool:
        for name, function in self._saved.items():
            setattr(os, name, function)
        self.host.before = lambda argv: None
        return kind is Killed

    def _wrapped(self, name: str) -> t.Callable[..., t.Any]:
        function = self._saved[name]

        def wrapped(*arguments: t.Any, **options: t.Any) -> t.Any:
            if not self.host.working and (name != "open" or arguments[1] & os.O_CREAT):
                self._step()
            return function(*arguments, **options)

        return wrapped
