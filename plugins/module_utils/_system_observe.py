# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a NixOS host has: the system that runs, that was booted, that the boot loader starts, and what is under way.

Private to the collection: it may change at any time.

Names of links and files of a system are those of nixos/modules/system/activation/top-level.nix of nixpkgs.
"""

from __future__ import annotations

import json
import os
import re
import time
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _systemd
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._paths import STORE

# The unit that activates a system, and what precedes the token of one that goes back.
ACTIVATION: t.Final = "microvm-fleet-system-activation.service"
REVERT: t.Final = "microvm-fleet-system-revert-"
VERSION: t.Final = 1

_PROPERTIES: t.Final = ("Id", "ActiveState", "SubState", "Result", "ExecMainStatus", "Description")
# What a running kernel keeps until the host is booted again.
_BOOT_PARTS: t.Final = ("kernel", "initrd", "kernel-modules")


@dataclass(frozen=True)
class SystemPaths:
    """All paths that this engine reads or writes, below *root* (``/`` but in unit tests)."""

    root: str = "/"

    def at(self, path: str) -> str:
        """The absolute *path* of the host."""
        return os.path.join(self.root, path.lstrip("/"))

    @property
    def running(self) -> str:
        """The system that was activated last."""
        return self.at("/run/current-system")

    @property
    def booted(self) -> str:
        """The system that the host was booted with."""
        return self.at("/run/booted-system")

    @property
    def profile(self) -> str:
        """The profile that boot loaders read: its generations are what can be booted."""
        return self.at("/nix/var/nix/profiles/system")

    @property
    def journal(self) -> str:
        """What a run has begun and not ended."""
        return self.at("/var/lib/microvm-fleet/system.json")

    @property
    def boot_id(self) -> str:
        """A word that is another after each boot (random(4))."""
        return self.at("/proc/sys/kernel/random/boot_id")

    @property
    def lock(self) -> str:
        """The file for flock(2)."""
        return self.at("/run/lock/microvm-fleet/system")

    @property
    def their_lock(self) -> str:
        """What switch-to-configuration locks while it works."""
        return self.at("/run/nixos/switch-to-configuration.lock")

    @property
    def next_root(self) -> str:
        """Garbage collector root of the system that is being prepared."""
        return self.at("/nix/var/nix/gcroots/microvm-fleet-system/next")

    @property
    def previous_root(self) -> str:
        """Garbage collector root of the system that the host may go back to."""
        return self.at("/nix/var/nix/gcroots/microvm-fleet-system/previous")

    @property
    def activation_log(self) -> str:
        """What switch-to-configuration says."""
        return self.at("/run/microvm-fleet/system-activation.log")

    def revert_log(self, token: str) -> str:
        """What it says when the host goes back by itself; there from the moment when that begins."""
        return self.at(f"/run/microvm-fleet/system-revert-{token}.log")


@dataclass(frozen=True)
class Pending:
    """A system that was activated, and is left again if nobody confirms it."""

    token: str
    old: str
    new: str
    mode: str
    # When the host goes back, in seconds of CLOCK_MONOTONIC, and in words.
    until: float
    goes_back_at: str

    @property
    def timer(self) -> str:
        """The unit that goes back when its time has come."""
        return f"{REVERT}{self.token}.timer"

    @property
    def service(self) -> str:
        """The unit that goes back when it is started."""
        return f"{REVERT}{self.token}.service"


@dataclass(frozen=True)
class Journal:
    """What a run has begun and not ended, kept on the disk."""

    # The boot in which it was written: what only memory knows is void after the next one.
    boot_id: str = ""
    # A system that was about to be activated.
    activating: str | None = None
    # Units that had failed before.
    failed_before: tuple[str, ...] = ()
    # A system that the profile has, and the boot loader perhaps not.
    boot_loader: str | None = None
    pending: Pending | None = None
    # The token of the last activation that was confirmed: an answer may be lost, and is asked for again.
    confirmed: str | None = None

    def text(self) -> str:
        """As it is kept."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1, sort_keys=True) + "\n"


def read_journal(paths: SystemPaths) -> Journal:
    """What the last run left.  Raises FleetError for a file that no run can have written."""
    text = _files.read_text(paths.journal)
    if text is None:
        return Journal()
    try:
        values = json.loads(text)
        if values.pop("version") != VERSION:
            raise ValueError("another version")  # noqa: TRY301 - the same words for all that is unreadable
        pending = values.pop("pending")
        values["failed_before"] = tuple(values["failed_before"])
        return Journal(pending=None if pending is None else Pending(**pending), **values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FleetError(
            f"{paths.journal} cannot be read: {error}.",
            subject="system",
            hint="See that no activation is under way (systemctl list-units 'microvm-fleet-system-*'), and remove it.",
        ) from error


@dataclass(frozen=True)
class UnitState:
    """A unit as systemd has it; one that is not loaded is inactive, and that is the default."""

    active_state: str = "inactive"
    sub_state: str = "dead"
    result: str = "success"
    status: int = 0
    description: str = ""

    @property
    def running(self) -> bool:
        """Whether a process of it is at work."""
        return self.active_state in ("activating", "reloading", "deactivating") or (
            self.active_state == "active" and self.sub_state not in ("exited", "elapsed")
        )

    @property
    def failed(self) -> bool:
        """Whether it ended badly."""
        return self.active_state == "failed"

    @property
    def done(self) -> bool:
        """Whether it ended well, and is kept for someone to see."""
        return self.active_state == "active" and self.sub_state == "exited"


def parse_units(text: str) -> dict[str, UnitState]:
    """Units by name of what ``systemctl show`` printed."""
    units = {}
    for values in _systemd.blocks(text):
        if "Id" in values:
            status = values.get("ExecMainStatus", "0")
            units[values["Id"]] = UnitState(
                active_state=values["ActiveState"],
                sub_state=values["SubState"],
                result=values.get("Result", "success"),
                status=int(status) if status.isdigit() else 0,
                description=values.get("Description", ""),
            )
    return units


def show_units(commands: Commands, *names: str) -> tuple[UnitState, ...]:
    """The units *names*, in that order."""
    done = commands.run(["systemctl", "show", "--property", ",".join(_PROPERTIES), "--", *names])
    units = parse_units(done.stdout)
    return tuple(units.get(name, UnitState()) for name in names)


def failed_units(commands: Commands) -> tuple[str, ...]:
    """Units of the host that have failed, or that systemd starts again and again."""
    argv = ["systemctl", "list-units", "--state=failed,auto-restart", "--plain", "--no-legend", "--full", "--no-pager"]
    done = commands.run(argv, check=False)
    return tuple(sorted({line.split()[0] for line in done.stdout.splitlines() if line.strip()}))


@dataclass(frozen=True)
class Facts:
    """What a system in the store says of itself, as far as a plan needs it."""

    # Kernel, initial ramdisk, modules and command line.
    boot: tuple[str | None, ...]
    # A running system can be replaced only by one with the same (init-interface-version).
    interface: str | None


def facts(paths: SystemPaths, system: str | None) -> Facts | None:
    """What *system* says of itself; None when it is not in the store."""
    place = None if system is None else paths.at(system)
    if place is None or not os.path.isdir(place):
        return None
    parts: list[str | None] = [_files.read_link(os.path.join(place, name)) for name in _BOOT_PARTS]
    parts.append(_files.read_text(os.path.join(place, "kernel-params")))
    return Facts(boot=tuple(parts), interface=_files.read_text(os.path.join(place, "init-interface-version")))


@dataclass(frozen=True)
class Observed:
    """The host at one moment."""

    running: str | None
    booted: str | None
    profile: str | None
    generation: int | None
    # Numbers and systems of the profile, the oldest first.
    generations: tuple[tuple[int, str], ...]
    journal: Journal
    boot_id: str
    activation: UnitState
    timer: UnitState
    revert: UnitState
    # Whether the host has begun to go back by itself.
    fired: bool
    running_facts: Facts | None = None
    booted_facts: Facts | None = None

    @property
    def same_boot(self) -> bool:
        """Whether the journal is of this boot."""
        return self.journal.boot_id == self.boot_id

    @property
    def pending_state(self) -> str | None:
        """How it stands with a system that waits for its confirmation.

        armed, returning (the host is going back), returned, failed (to go back), rebooted, or unarmed: nothing would
        go back.
        """
        if self.journal.pending is None:
            return None
        if not self.same_boot:
            return "rebooted"
        if self.revert.failed:
            return "failed"
        if self.revert.running:
            return "returning"
        if self.fired:
            return "returned"
        return "armed" if self.timer.active_state == "active" else "unarmed"

    @property
    def reverted(self) -> bool:
        """Whether the host has left by itself a system that nobody confirmed."""
        pending = self.journal.pending
        return pending is not None and self.pending_state in ("returned", "rebooted") and self.running != pending.new

    @property
    def interrupted(self) -> str | None:
        """A system whose activation was begun in this boot and has not come to its end."""
        system = self.journal.activating
        if system is None or not self.same_boot or self.pending_state == "returned":
            return None
        ended = self.activation.done and described(self.activation)[1] == system
        return None if ended or self.activation.running else system


def describe_activation(verb: str, system: str) -> str:
    """The description of the unit that activates: what the next run reads when this one is killed."""
    return f"NixOS: {verb} {system}"


def described(unit: UnitState) -> tuple[str, str]:
    """The verb and the system of `describe_activation`; empty for another unit."""
    match = re.fullmatch(r"NixOS: (\S+) (\S+)", unit.description)
    return (match.group(1), match.group(2)) if match else ("", "")


def store_target(paths: SystemPaths, link: str) -> str | None:
    """The path in the store that *link* leads to, over other links if need be; None when it leads to none."""
    place = link
    for _hop in range(8):
        target = _files.read_link(place)
        if target is None:
            return None
        if target.startswith(STORE + "/"):
            return target
        place = paths.at(target) if target.startswith("/") else os.path.join(os.path.dirname(place), target)
    return None


def _generations(paths: SystemPaths) -> tuple[tuple[int, str], ...]:
    directory, name = os.path.split(paths.profile)
    found = []
    for entry in os.listdir(directory) if os.path.isdir(directory) else ():
        match = re.fullmatch(re.escape(name) + r"-(\d+)-link", entry)
        target = store_target(paths, os.path.join(directory, entry)) if match else None
        if match and target is not None:
            found.append((int(match.group(1)), target))
    return tuple(sorted(found))


def observe(paths: SystemPaths, commands: Commands) -> Observed:
    """Read the host.  Raises FleetError when what it has cannot be read."""
    journal = read_journal(paths)
    pending = journal.pending
    units = [ACTIVATION] if pending is None else [ACTIVATION, pending.timer, pending.service]
    activation, timer, revert = (*show_units(commands, *units), UnitState(), UnitState())[:3]
    running, booted = store_target(paths, paths.running), store_target(paths, paths.booted)
    number = re.fullmatch(r".*-(\d+)-link", _files.read_link(paths.profile) or "")
    return Observed(
        running=running,
        booted=booted,
        profile=store_target(paths, paths.profile),
        generation=int(number.group(1)) if number else None,
        generations=_generations(paths),
        journal=journal,
        boot_id=(_files.read_text(paths.boot_id) or "").strip(),
        activation=activation,
        timer=timer,
        revert=revert,
        fired=pending is not None and os.path.exists(paths.revert_log(pending.token)),
        running_facts=facts(paths, running),
        booted_facts=facts(paths, booted),
    )


def seconds_left(pending: Pending) -> float:
    """How long until the host goes back by itself."""
    return max(pending.until - time.monotonic(), 0.0)
