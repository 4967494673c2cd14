# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One host's part of a move of a guest to another host: what the module microvm_move does.

Private to the collection: it may change at any time.

A move is a few steps on two hosts (``plugin_utils/_move.py`` says in which order).  Two marks make sure that the guest
can never start on both: the old host's says ``leaving``, then ``trying``, then ``moved``; the new one's ``arriving``.
Units do not start a guest that has a mark.  The new host's goes only when the old one's says ``trying``; the old one's
goes only when the new one's is there, or nothing of the guest.  Each step may be done again, and looks first whether
the marks are those of its move.

While the guest is being copied, its old host is the one that has it back when nobody goes on with the move (`_resume`):
it takes away its own mark ``leaving``.  Once the guest is handed over, it does so no more.

What one host says of the guest is only data to the other: no text of it gets into a unit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import re
import shutil
import stat
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _nix, _resume, _systemd
from ansible_collections.microvm.fleet.plugins.module_utils import _guest_plan as planner
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._contract import NO_DATA, in_store, runner_of_dict
from ansible_collections.microvm.fleet.plugins.module_utils._drain_run import holding
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish, explaining
from ansible_collections.microvm.fleet.plugins.module_utils._guest_apply import Apply
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import name_faults
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import (
    Guest,
    Host,
    Record,
    observe,
    record_of_text,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import GuestPlan, Outcome, Target
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import (
    SHARES_UNIT,
    UNIT,
    Autostart,
    Create,
    Keep,
    Mark,
    Remove,
    Root,
    Settings,
    Start,
    Step,
    Stop,
    Sweep,
    Undescribe,
    Unstage,
    Write,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import GuestWish, flake_faults
from ansible_collections.microvm.fleet.plugins.module_utils._holds import Moving, write_mark
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths

# Of the old host and of the new one.
SOURCE_STEPS: t.Final = ("leave", "stop", "hand_over", "release", "take_back", "resume")
TARGET_STEPS: t.Final = ("check", "announce", "place", "accept", "hold", "withdraw")
STEPS: t.Final = ("observe", *SOURCE_STEPS, *TARGET_STEPS)

# Seconds without a byte of a copy, and for the steps after it, after which the old host has its guest back.
PATIENCE: t.Final = 360

_MOVE = re.compile(r"[0-9a-f]{8,64}")
_HOST = re.compile(r"[\x21-\x7e]{1,253}")
_SETTING = re.compile(r"^(TimeoutStartSec|TimeoutStopSec)=(\d+)$", re.MULTILINE)
_LOADED = re.compile(r"^LoadCredential=([^:\n]+):", re.MULTILINE)
_CREDENTIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Request:
    """One step: of which guest, of which move (hexadecimal digits), and what the other host is called."""

    name: str
    step: str
    move: str = ""
    other: str = ""
    # What the old host said of the guest (`carry`).
    carry: t.Mapping[str, t.Any] = field(default_factory=dict)
    purge: bool = False
    protected: bool = False
    # Images outside of the state directory are on the new host already.
    elsewhere: bool = False

    @property
    def subject(self) -> str:
        """The guest in words, for messages."""
        return f"guest {self.name}"


@dataclass
class Result:
    """What a step did, and how the guest is on this host now."""

    changed: bool = False
    actions: list[str] = field(default_factory=list)
    killed: bool = False
    kept: str | None = None
    view: dict[str, t.Any] = field(default_factory=dict)

    def values(self) -> dict[str, t.Any]:
        """What the module returns."""
        return {
            "changed": self.changed,
            "actions": self.actions,
            "killed": self.killed,
            "kept": self.kept,
            "view": self.view,
        }


def read_request(params: t.Mapping[str, t.Any]) -> Request:
    """The request of a module's *params*.  Raises InvalidWish for what cannot be."""
    name, step = params["name"], params["step"]
    for seen in name_faults(name):
        raise InvalidWish(seen, subject=f"guest {name!r}", field="name", hint="Give the name of a guest.")
    if step != "observe":
        if not _MOVE.fullmatch(params["move"] or ""):
            raise InvalidWish(
                f"{params['move']!r} is no name of a move.",
                subject=f"guest {name}",
                field="move",
                hint="Give 8 to 64 hexadecimal digits, the same in all steps of a move.",
            )
        if not _HOST.fullmatch(params["other"] or ""):
            raise InvalidWish(
                f"{params['other']!r} is no name of a host.",
                subject=f"guest {name}",
                field="other",
                hint="Give the other host's name in the inventory.",
            )
    if step in ("check", "announce", "place") and not params["carry"]:
        raise InvalidWish(
            "nothing says what moves.",
            subject=f"guest {name}",
            field="carry",
            hint="Give view.carry of the step observe on the other host.",
        )
    return Request(
        name=name,
        step=step,
        move=params["move"] or "",
        other=params["other"] or "",
        carry=params["carry"] or {},
        purge=params["purge"],
        protected=params["protected"],
        elsewhere=params["elsewhere"],
    )


@explaining()
def run(request: Request, *, paths: Paths, commands: Commands, lock_timeout: float, check: bool = False) -> Result:
    """Do one step, with *check* only one that changes nothing.  Raises FleetError when it cannot be done."""
    result = Result()
    if request.step in ("observe", "check"):
        _Work(request, paths, commands, result).do()
    elif not check:
        with contextlib.ExitStack() as stack:
            for name, what, shared in (
                ("host", "host", True),
                (f"guest-{request.name}", f"guest {request.name}", False),
            ):
                place = os.path.join(paths.locks, name)
                stack.enter_context(_files.lock(place, what=what, shared=shared, timeout=lock_timeout))
            _Work(request, paths, commands, result).do()
    host = observe(paths, commands)
    result.view = view(host, request.name, paths, commands, runner=request.carry.get("runner"))
    return result


def view(host: Host, name: str, paths: Paths, commands: Commands, *, runner: t.Any = None) -> dict[str, t.Any]:
    """How the guest is on this host, as the planner of moves takes it.  *runner* is asked for in the store."""
    guest, moving = host.guest(name), host.moving.get(name)
    asked = runner if isinstance(runner, str) and in_store(runner) else None
    return {
        "exists": guest.exists,
        "traces": guest.exists or guest.directory or guest.known or guest.rooted or guest.unit.up,
        "up": guest.unit.up,
        "owner": guest.owner if guest.exists else None,
        "phase": moving.phase if moving is not None else None,
        "move": moving.move if moving is not None else None,
        "other": moving.other if moving is not None else None,
        "ran": moving.ran if moving is not None else _ran(host, guest),
        # A run that was killed may have begun to place it.
        "copied": os.path.isdir(paths.arriving(name))
        or (moving is not None and moving.phase == "arriving" and guest.directory),
        "has_runner": asked is not None and not _nix.invalid(commands, [asked]),
        "files": _data(paths.guest(name)) if guest.directory else [],
        "carry": _carry(host, guest, moving, paths) if guest.exists else {},
    }


def _ran(host: Host, guest: Guest) -> bool:
    """Whether the guest is to run: it does, or would if its host were not drained."""
    drained = host.drained.guests if host.drained is not None else ()
    return guest.unit.up or guest.interrupted or guest.name in [each.name for each in drained]


def _data(directory: str) -> list[str]:
    """Regular files of a state directory that are data, relative to it; no links are followed."""
    found = []
    for base, _directories, entries in os.walk(directory):
        for entry in entries:
            path = os.path.join(base, entry)
            place = os.path.relpath(path, directory)
            if place not in NO_DATA and not entry.startswith(_files.TEMPORARY) and _is_regular(path):
                found.append(place)
    return sorted(found)


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        # The hypervisor's user can remove what it has made.
        return False


def _carry(host: Host, guest: Guest, moving: Moving | None, paths: Paths) -> dict[str, t.Any]:
    """What the other host has to know of the guest."""
    record, text = guest.record or Record(flake=guest.flake), guest.settings or ""
    current = guest.current or ""
    newest = record.runner == current
    return {
        "runner": current,
        "flake": guest.source,
        "facts": guest.runner.as_dict() if guest.runner is not None else {},
        "record": dataclasses.replace(
            record,
            flake=guest.source,
            # What is only staged stays behind.
            locked=record.locked if newest else None,
            runner=current,
            facts={current: record.facts[current]} if current in record.facts else {},
            judging=record.judging if record.judging == current else None,
            healthy=record.healthy if record.healthy == current else None,
            live=None,
        ).as_dict(),
        "settings": {key: int(value) for key, value in _SETTING.findall(text)},
        "loads": {
            UNIT: _LOADED.findall(text),
            SHARES_UNIT: _LOADED.findall(guest.share_settings or ""),
        },
        "credentials": list(guest.credentials),
        "autostart": moving.autostart if moving is not None else guest.autostart,
        "runs": moving.ran if moving is not None else _ran(host, guest),
        "machine": platform.machine(),
        "kvm": os.path.exists(os.path.join(paths.root, "dev/kvm")),
        "bridges": _bridges(guest, paths),
    }


def _bridges(guest: Guest, paths: Paths) -> list[str]:
    """The bridges that the guest's taps are ports of, and the parents of its macvtaps."""
    found = set()
    for interface in guest.runner.interfaces if guest.runner is not None else ():
        if interface.type == "tap":
            master = os.path.join(paths.network_devices, interface.id, "master")
            target = _files.read_link(master)
            if target is not None:
                found.add(os.path.basename(target))
        elif interface.link:
            found.add(interface.link)
    return sorted(found)


class _Work:
    """The steps.  Each looks at the host first."""

    def __init__(self, request: Request, paths: Paths, commands: Commands, result: Result) -> None:
        self.request = request
        self.name = request.name
        self.paths = paths
        self.commands = commands
        self.result = result
        self.host = observe(paths, commands)
        self.guest = self.host.guest(request.name)
        self.moving = self.host.moving.get(request.name)

    def do(self) -> None:
        """The step of the request."""
        getattr(self, f"_{self.request.step}")()

    def _observe(self) -> None:
        pass

    # The old host

    def _leave(self) -> None:
        """Mark the guest: from now on it does not start here."""
        if self._is_mine("leaving"):
            return
        self._unmarked()
        guest = self.guest
        if not guest.exists:
            raise self._wrong("name", "there is no such guest on this host.", "Say which host it is on.")
        if guest.owner == "nixos":
            raise self._wrong(
                "name", "it belongs to the NixOS configuration of this host.", "Move it in that configuration."
            )
        if guest.record is not None and guest.record.protect and not self.request.protected:
            raise self._wrong(
                "protected", "it is protected, and would be stopped and removed here.", "Say protected: true."
            )
        self._hold_on_host()
        self._write("leaving", ran=_ran(self.host, guest), autostart=guest.autostart, since=_now())
        self._did("hold it here")

    def _stop(self) -> None:
        if self._mine("leaving").ran:
            # If nobody goes on, this host has it back by itself: the other one holds it.
            _resume.arm(self.commands, self.paths, self.name, patience=PATIENCE, moving=True)
        if self.guest.unit.up:
            self._apply([Stop(self.name)])

    def _hand_over(self) -> None:
        """Let the other host start it: it is whole there."""
        if self._is_mine("trying"):
            return
        marked = self._mine("leaving")
        if self.guest.unit.up:
            raise self._wrong("step", "it still runs here.", "Stop it first.")
        _resume.disarm(self.commands, self.name)
        self._write("trying", ran=marked.ran, autostart=marked.autostart, since=marked.since)
        self._did(f"hand it over to {self.request.other}")

    def _release(self) -> None:
        """Take it away here, for it is on the other host."""
        if not self._is_mine("moved"):
            marked = self._mine("trying")
            self._write("moved", ran=marked.ran, autostart=marked.autostart, since=_now())
            self._did(f"note that it is on {self.request.other}")
        if self.guest.traces:
            self._remove(purge=self.request.purge)

    def _take_back(self) -> None:
        """It is to be here again; the other host holds it."""
        if self._is_mine("leaving"):
            return
        marked = self._mine("trying")
        self._write("leaving", ran=marked.ran, autostart=marked.autostart, since=marked.since)
        self._did("take it back")

    def _resume(self) -> None:
        """Be done with the move: it is here as it was."""
        if self.moving is None:
            return
        marked = self._mine("leaving")
        _resume.disarm(self.commands, self.name)
        if marked.ran and not self.guest.unit.up:
            # A run that is killed right after the mark is gone leaves a guest that the next run of the engine starts.
            self._apply([Mark(self.name)])
        self._unwrite()
        self._did("hold it no more")
        if marked.ran and not self.guest.unit.active:
            if self.host.drained is not None and not self.host.drained.returning:
                return
            self._apply([Start(self.name)])

    # The new host

    def _check(self) -> None:
        """Raise what keeps the guest from being here."""
        carry, host = self.request.carry, self.host
        if not host.prepared:
            raise self._wrong("other", "this host has no units for guests.", "Run the role microvm.fleet.host on it.")
        self._hold_on_host()
        taken = self.guest.exists or self.guest.directory or self.guest.known or self.guest.unit.up
        if taken and (self.moving is None or self.moving.phase != "arriving"):
            raise self._wrong("name", "this host has a guest of that name.", "Remove it first, or choose another host.")
        if host.drained is not None and carry.get("runs"):
            raise self._wrong(
                "other", f"this host is {host.drained.words}.", "Bring it back first, or choose another host."
            )
        self._record()
        self._platform(carry)
        for image in [volume["image"] for volume in self._facts().as_dict()["volumes"]]:
            if image.startswith("/") and not (self.request.elsewhere and os.path.exists(image)):
                raise self._wrong(
                    "volumes",
                    f"its image {image} is outside of its state directory, and is not moved.",
                    "Have it on this host, and say elsewhere: true."
                    if not self.request.elsewhere
                    else "It is not on this host.",
                )
        for name in carry.get("bridges") or ():
            if not os.path.exists(os.path.join(self.paths.network_devices, os.path.basename(str(name)))):
                raise self._wrong(
                    "interfaces",
                    f"its network interfaces are on {name}, which this host does not have.",
                    "Set up that network here first.",
                )
        self._claims()

    def _platform(self, carry: t.Mapping[str, t.Any]) -> None:
        machine = platform.machine()
        if carry.get("machine") != machine:
            raise self._wrong(
                "other", f"it is for {carry.get('machine')}, and this host is {machine}.", "Choose another."
            )
        if carry.get("kvm") and not os.path.exists(os.path.join(self.paths.root, "dev/kvm")):
            raise self._wrong("other", "this host has no /dev/kvm, and the other one has.", "Choose another host.")

    def _facts(self) -> t.Any:
        try:
            return runner_of_dict(self.request.carry["facts"])
        except (KeyError, TypeError, ValueError):
            raise self._wrong(
                "carry", "it does not say what the runner is.", "Give view.carry of the other host."
            ) from None

    def _record(self) -> Record:
        """The record that the guest is to have here."""
        record = record_of_text(json.dumps(self.request.carry.get("record")))
        if record is None or record.runner != self.request.carry.get("runner") or not isinstance(record.labels, dict):
            raise self._wrong("carry", "its record cannot be read.", "Give view.carry of the other host.")
        for seen in flake_faults(record.flake) if record.flake is not None else ():
            raise self._wrong("flake", seen, "See /var/lib/microvms on the other host.")
        return record

    def _claims(self) -> None:
        runner = str(self.request.carry.get("runner"))
        if not in_store(runner):
            raise self._wrong("carry", f"its runner {runner} is not in the store.", "Give it one that is.")
        target = Target(runner=self._facts(), source=runner)
        plan = GuestPlan(GuestWish(self.name), self.guest, steps=(Create(self.name, runner, None),), target=target)
        (checked,) = planner.conflicts([plan], self.host)
        if checked.error is not None:
            raise checked.error

    def _announce(self) -> None:
        """Mark and root what is to come."""
        if not self._is_mine("arriving"):
            self._unmarked()
            self._check()
            self._write("arriving", ran=False, autostart=False, since=_now())
            self._did(f"expect it from {self.request.other}")
        link = self.paths.root_of(self.name, "staged")
        runner = str(self.request.carry["runner"])
        if not self.guest.exists and _files.read_link(link) != runner:
            unflushed = _files.Unflushed()
            _files.make_directory(os.path.dirname(link), unflushed=unflushed)
            _files.write_link(link, runner, unflushed=unflushed)
            _files.flush_now(unflushed)
            self._did(f"root {runner}")

    def _place(self) -> None:
        """Have the guest, from what was copied; it does not start yet."""
        self._mine("arriving")
        carry = self.request.carry
        runner = str(carry["runner"])
        if _nix.invalid(self.commands, [runner]):
            raise self._wrong("carry", f"{runner} is not in the store of this host.", "Copy it first.")
        self._claims()
        directory = self.paths.guest(self.name)
        if os.path.isdir(self.paths.arriving(self.name)) and not os.path.lexists(directory):
            os.rename(self.paths.arriving(self.name), directory)
            _files.sync_directory(self.paths.guests)
        record = self._record()
        steps: list[Step] = [
            Keep(self.name, 1, runner),
            Write(self.name, record),
            Create(self.name, runner, record.flake, complete=os.path.isdir(directory)),
            Unstage(self.name, runner),
            Root(self.name),
        ]
        if self.guest.litter:
            steps.insert(0, Sweep(self.name))
        if not self.host.nixos:
            # There the host's own system says such things.
            steps += self._settings(carry)
            if carry.get("autostart"):
                steps.append(Autostart(self.name, enable=True))
        self._apply(steps)

    def _settings(self, carry: t.Mapping[str, t.Any]) -> t.Iterator[Step]:
        said = carry.get("settings") or {}
        wish = GuestWish(
            self.name,
            start_timeout=_number(said.get("TimeoutStartSec")),
            stop_timeout=_number(said.get("TimeoutStopSec")),
        )
        for unit, of in ((UNIT, wish), (SHARES_UNIT, GuestWish(self.name))):
            names = (carry.get("loads") or {}).get(unit) or []
            files = {name: self.paths.credentials(self.name, name) for name in names if _CREDENTIAL.fullmatch(name)}
            text = planner.settings(of, None, files)
            if text:
                yield Settings(self.name, text=text, unit=unit)

    def _accept(self) -> None:
        """Let it start: the other host has handed it over."""
        if self.moving is None and self.guest.exists:
            return
        self._mine("arriving")
        if not self.guest.exists:
            raise self._wrong("step", "it is not here yet.", "Copy it first.")
        self._unwrite()
        self._did("hold it no more")

    def _hold(self) -> None:
        """Let it not start any more, and stop it: it goes back."""
        if not self._is_mine("arriving"):
            self._unmarked()
            self._write("arriving", ran=True, autostart=False, since=_now())
            self._did("hold it here")
        if self.guest.unit.up:
            self._apply([Stop(self.name)])

    def _withdraw(self) -> None:
        """Have nothing of it.  What it wrote while it was tried here is kept."""
        if self.moving is None:
            return
        marked = self._mine("arriving", any_move=True)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            shutil.rmtree(self.paths.arriving(self.name))
            self._did("remove what was copied")
        self._sweep()
        if self.guest.traces:
            self._remove(purge=not marked.ran)
        self._unwrite()
        self._did("expect it no more")

    def _sweep(self) -> None:
        """Remove what an end of a stream that was killed has left; one that still runs removes that itself."""
        directory = os.path.dirname(self.paths.arriving(self.name))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.listdir(directory):
                of, _dot, process = entry[len(_files.TEMPORARY) :].rpartition(".")
                if entry.startswith(_files.TEMPORARY) and of == self.name and not os.path.exists(f"/proc/{process}"):
                    shutil.rmtree(os.path.join(directory, entry))
                    self._did("remove what was being copied")

    # What they share

    def _wrong(self, option: str, seen: str, hint: str) -> FleetError:
        return InvalidWish(seen, subject=self.request.subject, field=option, hint=hint)

    def _hold_on_host(self) -> None:
        if not holding(self.commands):
            raise self._wrong(
                "step",
                "the units of guests do not look at the marks of moves.",
                "Run the role microvm.fleet.host on this host first.",
            )

    def _is_mine(self, phase: str) -> bool:
        moving = self.moving
        return moving is not None and moving.move == self.request.move and moving.phase == phase

    def _mine(self, phase: str, *, any_move: bool = False) -> Moving:
        moving = self.moving
        if moving is None:
            raise self._wrong("step", "it has no mark of a move on this host.", "Begin with the first step.")
        if moving.phase != phase or not (any_move or moving.move == self.request.move):
            raise self._wrong(
                "step",
                f"it {moving.words}, and is {moving.phase}, not {phase}"
                + ("." if moving.move == self.request.move else ", in another move."),
                "Run the playbook microvm.fleet.migrate, which looks at both hosts first.",
            )
        return moving

    def _unmarked(self) -> None:
        moving = self.moving
        if moving is None:
            return
        if moving.phase == "moved" and not self.guest.traces and self.request.step == "announce":
            # It comes back.
            return
        raise self._wrong(
            "step", f"it {moving.words}.", "Run the playbook microvm.fleet.migrate with those hosts, which ends that."
        )

    def _write(self, phase: str, *, ran: bool, autostart: bool, since: str) -> None:
        moving = Moving(self.name, phase, self.request.other, self.request.move, since, ran=ran, autostart=autostart)
        unflushed = _files.Unflushed()
        _files.make_directory(self.paths.moving(), unflushed=unflushed, mode=0o700)
        _files.flush_now(unflushed)
        write_mark(self.paths.moving(self.name), moving.as_dict())

    def _unwrite(self) -> None:
        _files.remove(self.paths.moving(self.name))

    def _did(self, words: str) -> None:
        self.result.changed = True
        self.result.actions.append(f"{self.name}: {words}")

    def _remove(self, *, purge: bool) -> None:
        steps: list[Step] = []
        if self.guest.unit.up:
            steps.append(Stop(self.name))
        if self.guest.autostart and not self.host.nixos:
            steps.append(Autostart(self.name, enable=False))
        if self.guest.described and self.request.step == "release":
            steps.append(Undescribe(self.name))
        self._apply([*steps, Remove(self.name, purge=purge)])

    def _apply(self, steps: t.Sequence[Step]) -> Outcome:
        start, stop = _systemd.timeouts(self.commands, [self.name]).get(self.name, (None, None))
        wish = GuestWish(self.name, start_timeout=start, stop_timeout=stop)
        # Nothing is built.
        apply = Apply(self.paths, self.commands, build_timeout=0)
        apply.finish([GuestPlan(wish, self.guest, steps=tuple(steps))])
        outcome = apply.outcomes[self.name]
        if outcome.error is not None:
            raise outcome.error
        self.result.changed = True
        self.result.actions += [step.words() for step in steps if step.changes]
        if outcome.killed:
            self.result.killed = True
            self.result.actions.append(f"{self.name}: kill, for it did not end within its time")
        self.result.kept = outcome.kept or self.result.kept
        return outcome


def _number(value: t.Any) -> int | None:
    return value if isinstance(value, int) and 0 < value <= 86400 else None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
