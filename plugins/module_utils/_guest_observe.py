# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests as they are: one read of the host, and the structure that every module returns.

Private to the collection: it may change at any time.

Nothing here changes anything, builds or evaluates.  State directories are read as microvm.nix leaves them:
``pkgs/microvm-command.nix`` and ``nixos-modules/host/default.nix`` (links current, booted, toplevel; file flake),
``nixos-modules/microvm/ssh-deploy.nix`` (links old and new).
"""

from __future__ import annotations

import json
import os
import re
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.microvm.fleet.plugins.module_utils import _nixos, _systemd
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._contract import (
    Interface,
    Runner,
    in_store,
    read_runner,
    runner_of_dict,
)
from ansible_collections.microvm.fleet.plugins.module_utils._files import TEMPORARY, read_link, read_text
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import DESCRIBED
from ansible_collections.microvm.fleet.plugins.module_utils._holds import Drained, Moving, read_drained, read_moving
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import Unit

# Restarts of one start after which a guest counts as one that cannot run.
LOOP: t.Final = 3


@dataclass(frozen=True)
class Generation:
    """A runner that was activated once and is kept.  *created* in seconds since the epoch."""

    number: int
    runner: str
    created: float = 0.0
    # Its runner is not in the store, for all its root.
    missing: bool = False


@dataclass(frozen=True)
class Record:
    """What the collection wrote down of a guest that it manages."""

    flake: str | None = None
    # Identity of the flake (see `_nix.Flake`) and the runner that it gave: the guest's newest, perhaps only staged.
    locked: str | None = None
    runner: str | None = None
    # Facts by runner (`Runner.as_dict`), of the newest one and of the one that was current then.
    facts: t.Mapping[str, t.Mapping[str, t.Any]] = field(default_factory=dict)
    protect: bool = False
    labels: t.Mapping[str, str] = field(default_factory=dict)
    # The runner that was last found healthy, and the one that was switched to and is not judged yet.
    healthy: str | None = None
    judging: str | None = None
    # Runners that were reverted from, the newest last, with the reason.
    rejected: t.Mapping[str, str] = field(default_factory=dict)
    # The runner whose system was activated inside the guest without a restart, and the unit's invocation that it was.
    live: t.Mapping[str, t.Any] | None = None

    def as_dict(self) -> dict[str, t.Any]:
        """As it is kept on the host."""
        return {
            "flake": self.flake,
            "locked": self.locked,
            "runner": self.runner,
            "facts": {runner: dict(facts) for runner, facts in self.facts.items()},
            "protect": self.protect,
            "labels": dict(self.labels),
            "healthy": self.healthy,
            "judging": self.judging,
            # A list, for it has an order.
            "rejected": [{"runner": runner, "reason": reason} for runner, reason in self.rejected.items()],
            "live": None if self.live is None else dict(self.live),
        }


def record_of_text(text: str) -> Record | None:
    """The record in *text*, or None when it is no record: that guest is then adopted like one of another maker."""
    try:
        values = json.loads(text)
        return Record(
            flake=values["flake"],
            locked=values["locked"],
            runner=values["runner"],
            facts=values["facts"],
            protect=values["protect"],
            labels=values["labels"],
            # Records of before there were judgements say nothing of them.
            healthy=values.get("healthy"),
            judging=values.get("judging"),
            rejected={each["runner"]: each["reason"] for each in values.get("rejected") or ()},
            live=values.get("live"),
        )
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Guest:
    """One guest as it is on the host; with *exists* unset only traces of it are there."""

    name: str
    exists: bool = False
    # The state directory is there, whether or not it holds a guest.
    directory: bool = False
    current: str | None = None
    booted: str | None = None
    flake: str | None = None
    toplevel: str | None = None
    # The host's configuration sets `current` again at every start of install-microvm-NAME.service.
    installer: bool = False
    record: Record | None = None
    known: bool = False
    generations: tuple[Generation, ...] = ()
    staged: str | None = None
    # Garbage collector roots of the microvm command's kind: NAME and booted-NAME.
    roots: frozenset[str] = frozenset()
    # The directory of the collection's own roots is there.
    rooted: bool = False
    # A run that was killed left a temporary name somewhere.
    litter: bool = False
    # A run that was killed had stopped it, to start it again.
    interrupted: bool = False
    unit: Unit = field(default_factory=Unit)
    autostart: bool = False
    settings: str | None = None
    # Settings of its virtiofs daemons.
    share_settings: str | None = None
    # Names of the credentials whose files are there.
    credentials: tuple[str, ...] = ()
    runner: Runner | None = None
    files: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """The guest in words, for messages."""
        return f"guest {self.name}"

    @property
    def owner(self) -> str:
        """Who decides about this guest: nixos, fleet or microvm (see docs/architecture.md)."""
        if self.toplevel is not None or self.installer:
            return "nixos"
        return "fleet" if self.record is not None else "microvm"

    @property
    def source(self) -> str | None:
        """The flake that it comes from."""
        return self.flake or (self.record.flake if self.record is not None else None)

    @property
    def described(self) -> bool:
        """Whether it is one of the guests that are described in guests.json of the static flake."""
        return self.source == DESCRIBED

    @property
    def restart_needed(self) -> bool:
        """Whether the running guest is of another runner than the next start would run, or may be."""
        if not self.unit.active or self.current is None:
            return False
        live = self.record.live if self.record is not None else None
        # What was activated inside it since it was started, or was begun to be.
        inside = live is not None and live.get("invocation") == self.unit.invocation
        return (live.get("runner") if live is not None and inside else self.booted) != self.current

    @property
    def judging(self) -> bool:
        """Whether nobody knows yet if the runner of `current`, which it was switched to, is any good."""
        return self.record is not None and self.record.judging is not None and self.record.judging == self.current

    @property
    def generation(self) -> int | None:
        """The number of the generation that `current` is, the highest one."""
        return max((each.number for each in self.generations if each.runner == self.current), default=None)

    @property
    def traces(self) -> bool:
        """Whether anything at all is left of it."""
        return bool(
            self.directory
            or self.known
            or self.rooted
            or self.roots
            or self.autostart
            or self.settings is not None
            or self.share_settings is not None
            or self.credentials
            or self.unit.up
        )


@dataclass(frozen=True)
class Host:
    """What one read of a host gave."""

    guests: t.Mapping[str, Guest]
    # What a killed run left in the state root, as names of directory entries.
    leftovers: tuple[str, ...] = ()
    # The role for the host has done its work: state root and unit template exist.
    prepared: bool = True
    # Units and their settings are those of the host's system, which only a switch changes.
    nixos: bool = False
    # NixOS: guests that are not there, and that the system has settings for, or would start.
    expected: t.Mapping[str, Guest] = field(default_factory=dict)
    # Guests do not start on a drained host, nor while they move to another.
    drained: Drained | None = None
    moving: t.Mapping[str, Moving] = field(default_factory=dict)

    def guest(self, name: str) -> Guest:
        """Guest *name*, also when there is none."""
        return self.guests.get(name) or self.expected.get(name) or Guest(name=name)


def observe(paths: Paths, commands: Commands, names: t.Iterable[str] | None = None) -> Host:
    """Read the host.  With *names* only these guests are read in full, the others are not read at all."""
    nixos = _nixos.is_nixos(paths.root)
    entries = _entries(paths.guests)
    found = {entry for entry in entries if not entry.startswith(".") and os.path.isdir(paths.guest(entry))}
    units = _systemd.show(commands)
    wants = _wants(paths)
    drop_ins = set(_entries(paths.units))
    roots = frozenset(_entries(paths.microvm_roots))
    rooted = frozenset(_entries(paths.roots))
    known = frozenset(_entries(paths.fleet))
    secrets = frozenset(_entries(paths.credentials()))
    littered = {name for entry in roots for name in litter_of(entry)}
    marks = frozenset(_entries(paths.marks))
    wanted = found | rooted | known | secrets | set(units) if names is None else set(names)
    if nixos and names is None:
        wanted |= wants | {match.group(1) for match in map(_SET_UP.fullmatch, drop_ins) if match}
    guests = {
        name: _guest(
            paths,
            name,
            directory=name in found,
            unit=units.get(name, Unit()),
            autostart=name in wants,
            roots=roots & {name, f"booted-{name}"},
            litter=name in littered,
            interrupted=name in marks,
            rooted=name in rooted,
            known=name in known,
            secrets=name in secrets,
            units=drop_ins,
            nixos=nixos,
        )
        for name in sorted(wanted)
    }
    there = {name: guest for name, guest in guests.items() if _there(guest, nixos=nixos)}
    return Host(
        guests=there,
        expected={name: guest for name, guest in guests.items() if name not in there},
        leftovers=tuple(sorted(entry for entry in entries if entry.startswith(TEMPORARY))),
        prepared="microvm@.service" in drop_ins and os.path.isdir(paths.guests),
        nixos=nixos,
        drained=read_drained(paths),
        moving=read_moving(paths),
    )


def _there(guest: Guest, *, nixos: bool) -> bool:
    """Whether anything is left of the guest; on NixOS it is not the guest's what the system says of it."""
    if nixos:
        guest = replace(guest, autostart=False, settings=None, share_settings=None)
    return guest.traces


def _entries(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def litter_of(entry: str) -> frozenset[str]:
    """The guests to which a temporary name among the microvm command's roots may belong; none for other names."""
    if not entry.startswith(TEMPORARY):
        return frozenset()
    name = entry[len(TEMPORARY) :].rpartition(".")[0]
    prefix = "booted-"
    return frozenset((name, name[len(prefix) :])) if name.startswith(prefix) else frozenset((name,))


_WANT = re.compile(r"microvm@(.+)\.service")
_SET_UP = re.compile(r"microvm(?:-virtiofsd)?@(.+)\.service\.d")


def _wants(paths: Paths) -> set[str]:
    """Guests that start at boot: links below microvms.target, and its own Wants= (nixos-modules/host/default.nix)."""
    names = list(_entries(paths.wants))
    text = read_text(os.path.join(paths.units, "microvms.target")) or ""
    for line in text.splitlines():
        if line.startswith("Wants="):
            names += line[len("Wants=") :].split()
    return {match.group(1) for match in map(_WANT.fullmatch, names) if match}


def _guest(
    paths: Paths,
    name: str,
    *,
    directory: bool,
    unit: Unit,
    autostart: bool,
    roots: frozenset[str],
    rooted: bool,
    known: bool,
    secrets: bool,
    litter: bool,
    interrupted: bool,
    units: set[str],
    nixos: bool,
) -> Guest:
    current = read_link(paths.guest(name, "current")) if directory else None
    notes = _entries(paths.known(name)) if known else []
    text = read_text(paths.known(name, "record.json")) if notes else None
    record = record_of_text(text) if text is not None else None
    links = _entries(paths.root_of(name)) if rooted else []
    set_up = f"microvm@{name}.service.d" in units
    drop_ins = _entries(os.path.dirname(paths.settings(name))) if set_up else []
    shares_set_up = f"microvm-virtiofsd@{name}.service.d" in units
    if shares_set_up:
        drop_ins += _entries(os.path.dirname(paths.share_settings(name)))
    files: tuple[str, ...] = ()
    flake = toplevel = booted = None
    if directory:
        files = tuple(sorted(_entries(paths.guest(name))))
        booted = read_link(paths.guest(name, "booted")) if "booted" in files else None
        toplevel = read_link(paths.guest(name, "toplevel")) if "toplevel" in files else None
        flake = (read_text(paths.guest(name, "flake"), 4096) or "").strip() or None if "flake" in files else None
    return Guest(
        name=name,
        exists=current is not None,
        directory=directory,
        current=current,
        booted=booted,
        flake=flake,
        toplevel=toplevel,
        installer=f"install-microvm-{name}.service" in units and not _installs_once(paths, name),
        record=record,
        known=known,
        generations=_generations(paths, name, links),
        staged=read_link(paths.root_of(name, "staged")) if "staged" in links else None,
        litter=litter or any(entry.startswith(TEMPORARY) for entry in (*files, *notes, *links, *drop_ins)),
        roots=roots,
        rooted=rooted,
        interrupted=interrupted,
        unit=unit,
        autostart=autostart,
        settings=_drop_in(paths.settings(name), nixos=nixos) if set_up else None,
        share_settings=_drop_in(paths.share_settings(name), nixos=nixos) if shares_set_up else None,
        credentials=_credentials(paths, name) if secrets else (),
        runner=_runner(paths, current, record),
        files=files,
    )


_SET: t.Final = ("LoadCredential=", "TimeoutStartSec=", "TimeoutStopSec=", "Type=notify")


def _drop_in(path: str, *, nixos: bool) -> str | None:
    """The drop-in *path* of the collection.

    On NixOS the system has one for all that it says of a unit (nixos/lib/systemd-lib.nix), from which this is what the
    collection says of units, written as it would.
    """
    if not nixos:
        return read_text(path)
    text = read_text(os.path.join(os.path.dirname(path), "overrides.conf")) or ""
    lines = sorted((line for line in text.splitlines() if line.startswith(_SET)), key=lambda line: line.split(":")[0])
    return "".join(f"{line}\n" for line in ("[Service]", *lines)) if lines else None


def _credentials(paths: Paths, name: str) -> tuple[str, ...]:
    return tuple(sorted(entry for entry in _entries(paths.credentials(name)) if not entry.startswith(TEMPORARY)))


def _installs_once(paths: Paths, name: str) -> bool:
    text = read_text(os.path.join(paths.units, f"install-microvm-{name}.service")) or ""
    return any(line.startswith("ConditionPathExists=!") for line in text.splitlines())


def _generations(paths: Paths, name: str, links: t.Iterable[str]) -> tuple[Generation, ...]:
    """Generations of guest *name*, the oldest first."""
    generations = []
    for entry in links:
        link = paths.root_of(name, entry)
        runner = read_link(link)
        if entry.isdigit() and runner is not None:
            missing = in_store(runner) and not os.path.lexists(paths.store(runner))
            generations.append(Generation(int(entry), runner, os.lstat(link).st_mtime, missing=missing))
    return tuple(sorted(generations, key=lambda generation: generation.number))


def _runner(paths: Paths, current: str | None, record: Record | None) -> Runner | None:
    """The runner of *current*: its files, and what only the evaluation knew of it."""
    if current is None:
        return None
    if not in_store(current):
        return Runner(
            path=current,
            missing=not os.path.exists(current),
            runs=os.path.exists(os.path.join(current, "bin/microvm-run")),
        )
    runner = read_runner(paths, current)
    facts = record.facts.get(current) if record is not None else None
    return runner if facts is None else merge(runner, runner_of_dict(facts))


def merge(read: Runner, evaluated: Runner) -> Runner:
    """The runner as *read* from its files, with what only *evaluated* knows: MACs, hardware, volumes of every kind."""
    macs = {interface.id: interface.mac for interface in evaluated.interfaces}
    interfaces = tuple(
        Interface(
            id=interface.id,
            type=interface.type,
            mac=interface.mac or macs.get(interface.id),
            link=interface.link,
            mode=interface.mode,
        )
        for interface in read.interfaces
    )
    seen = {interface.id for interface in interfaces}
    return Runner(
        path=read.path,
        hypervisor=read.hypervisor or evaluated.hypervisor,
        host_name=evaluated.host_name or read.host_name,
        toplevel=read.toplevel or evaluated.toplevel,
        kernel=evaluated.kernel,
        initrd=evaluated.initrd,
        kernel_params=evaluated.kernel_params,
        mem=evaluated.mem,
        vcpu=evaluated.vcpu,
        interfaces=interfaces + tuple(each for each in evaluated.interfaces if each.id not in seen),
        volumes=evaluated.volumes or read.volumes,
        vsock_cid=read.vsock_cid if read.vsock_cid is not None else evaluated.vsock_cid,
        can_shutdown=read.can_shutdown,
        missing=read.missing,
        runs=read.runs,
        old_contract=read.old_contract,
    )


def describe(guest: Guest) -> dict[str, t.Any]:
    """The structure that every module returns of a guest."""
    runner = guest.runner
    return {
        "name": guest.name,
        "exists": guest.exists,
        "owner": guest.owner if guest.exists else None,
        "hypervisor": runner.hypervisor if runner else None,
        "host_name": runner.host_name if runner else None,
        "flake": guest.source,
        "described": guest.described,
        "locked": guest.record.locked if guest.record else None,
        "current": guest.current,
        "booted": guest.booted,
        "staged": guest.staged,
        "generations": [
            {"number": generation.number, "runner": generation.runner, "created": int(generation.created)}
            for generation in guest.generations
        ],
        "generation": guest.generation,
        "healthy": guest.record.healthy if guest.record else None,
        "judging": guest.record.judging if guest.record else None,
        "rejected": dict(guest.record.rejected) if guest.record else {},
        "active": guest.unit.active,
        "unit": {
            "active_state": guest.unit.active_state,
            "sub_state": guest.unit.sub_state,
            "result": guest.unit.result,
            "restarts": guest.unit.restarts,
        },
        "restart_needed": guest.restart_needed,
        "autostart": guest.autostart,
        "protect": guest.record.protect if guest.record else False,
        "labels": dict(guest.record.labels) if guest.record else {},
        "interfaces": [interface.as_dict() for interface in runner.interfaces] if runner else [],
        "volumes": [volume.as_dict() for volume in runner.volumes] if runner else [],
        "vsock_cid": runner.vsock_cid if runner else None,
        "can_shutdown": runner.can_shutdown if runner else None,
        "problems": list(problems(guest)),
    }


def problems(guest: Guest) -> t.Iterator[str]:
    """What an operator should look at, a sentence each."""
    runner = guest.runner
    if not guest.exists:
        if guest.directory:
            yield "missing runner: the directory has no link named current."
        elif guest.traces:
            yield "incomplete: there is no state directory, but traces of the guest are left on the host."
    elif runner is not None and runner.missing:
        yield f"missing runner: {runner.path} is not in the store."
    elif runner is not None and not runner.runs:
        yield f"missing runner: {runner.path} has no bin/microvm-run."
    if runner is not None and runner.old_contract:
        yield "old contract: the runner is of a microvm.nix before 2024; build it again with a newer one."
    if guest.booted is not None and not guest.unit.up:
        yield "stale booted: the guest does not run, but the link booted is there, as after a crash of the host."
    if guest.unit.active_state == "failed":
        yield f"failed: the unit ended with {guest.unit.result}; see journalctl -u {_systemd.unit(guest.name)}."
    elif guest.unit.up and guest.unit.restarts >= LOOP:
        yield f"restart loop: systemd has started it again {guest.unit.restarts} times."
    yield from _of_switch(guest)
    if guest.unit.needs_reload:
        yield "units changed: systemd has to read its units again (systemctl daemon-reload)."
    runs = guest.unit.active and guest.booted not in (None, guest.current)
    kept = {generation.runner for generation in guest.generations}
    if (
        guest.owner != "nixos"
        and in_store(guest.current)
        and guest.name not in guest.roots
        and guest.current not in kept
    ):
        yield "missing gcroot: the garbage collector may take the runner of current."
    if runs and f"booted-{guest.name}" not in guest.roots and guest.booted not in kept:
        yield "missing gcroot: the garbage collector may take the runner that is running."


def _of_switch(guest: Guest) -> t.Iterator[str]:
    """What is left to do about a new runner."""
    if guest.restart_needed:
        yield "restart needed: the guest runs another runner than current."
    if guest.judging:
        yield "not judged: nobody has waited to see whether current, which the guest was switched to, is healthy."
    elif guest.record is not None and guest.current in guest.record.rejected:
        yield "rejected: current is a runner that the guest was taken back from, for it was not healthy."
