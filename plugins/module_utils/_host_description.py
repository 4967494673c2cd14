# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""host.json: what a NixOS host's next system has for its guests.  Observe, plan, write.

Private to the collection: it may change at any time.

``nix/host.nix`` of the static flake reads it.  What a wish does not speak of stays as it was described.
"""

from __future__ import annotations

import json
import os
import re
import typing as t
from dataclasses import dataclass, field, replace

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _hypervisors, _nixos
from ansible_collections.microvm.fleet.plugins.module_utils import _guest_plan as planner
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._descriptions import system
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish, explaining
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import name_faults
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Host, observe
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import SHARES_UNIT, UNIT
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import (
    UPDATES,
    GuestWish,
    guest_spec,
)
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths

SUBJECT: t.Final = "host"
FILE: t.Final = f"{_nixos.FLAKE}/host.json"
VERSION: t.Final = 1
# Seconds (systemd.service(5), TimeoutStartSec=), of the host's guests when nobody says otherwise.
TIMEOUT: t.Final = 150
TIMEOUTS: t.Final = (5, 86400)

# What ends up in a unit: no blanks, quotes, specifiers, and no second meaning of a colon (systemd.exec(5)).
_PATH = re.compile(r"/[^\s%:'\"\\]+")
_MODULE = re.compile(r"[A-Za-z0-9_-]+")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

Setting = t.List[str]
"""Section, key, value."""


@dataclass(frozen=True)
class Described:
    """The host as it is described.  *settings* by guest, then by unit: settings of a drop-in."""

    name: str = ""
    # As Nix calls it, x86_64-linux.
    system: str | None = None
    # The host's own system, without anything of the collection.
    bare: bool = False
    autostart: tuple[str, ...] = ()
    start_timeout: int = TIMEOUT
    stop_timeout: int = TIMEOUT
    writable_paths: tuple[str, ...] = ()
    kernel_modules: tuple[str, ...] = ()
    settings: t.Mapping[str, t.Mapping[str, tuple[tuple[str, str, str], ...]]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, t.Any]:
        """As nix/host.nix reads it."""
        return {
            "version": VERSION,
            "name": self.name,
            "system": self.system,
            "bare": self.bare,
            "autostart": list(self.autostart),
            "start_timeout": self.start_timeout,
            "stop_timeout": self.stop_timeout,
            "writable_paths": list(self.writable_paths),
            "kernel_modules": list(self.kernel_modules),
            "guests": {
                name: {_KEYS[unit]: [list(one) for one in some] for unit, some in units.items()}
                for name, units in self.settings.items()
            },
        }

    def text(self) -> str:
        """The file."""
        return json.dumps(self.as_dict(), indent=1, sort_keys=True) + "\n"


_KEYS: t.Final = {UNIT: "settings", SHARES_UNIT: "virtiofsd_settings"}


def read(text: str) -> Described:
    """The description of a file's *text*.  Raises FleetError for one that is damaged, or of another version."""
    try:
        value = json.loads(text)
        if value["version"] != VERSION:
            raise FleetError(
                f"it has version {value['version']!r}.",
                subject=SUBJECT,
                field=FILE,
                hint=f"This release of microvm.fleet knows version {VERSION}: use the one that wrote it, or remove it.",
            )
        return Described(
            name=str(value["name"]),
            system=value.get("system"),
            bare=bool(value.get("bare", False)),
            autostart=tuple(map(str, value["autostart"])),
            start_timeout=int(value.get("start_timeout", TIMEOUT)),
            stop_timeout=int(value.get("stop_timeout", TIMEOUT)),
            writable_paths=tuple(map(str, value.get("writable_paths", ()))),
            kernel_modules=tuple(map(str, value.get("kernel_modules", ()))),
            settings={
                str(name): {
                    unit: tuple((str(a), str(b), str(c)) for a, b, c in units[key])
                    for unit, key in _KEYS.items()
                    if key in units
                }
                for name, units in value.get("guests", {}).items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FleetError(
            f"it cannot be read ({error!r}).",
            subject=SUBJECT,
            field=FILE,
            hint="Remove it and run the role microvm.fleet.host: it is made anew from the inventory.",
        ) from None


@dataclass(frozen=True)
class HostWish:
    """What is to be described.  None and () leave what is described."""

    name: str | None = None
    bare: bool | None = None
    start_timeout: int | None = None
    stop_timeout: int | None = None
    writable_paths: tuple[str, ...] | None = None
    kernel_modules: tuple[str, ...] | None = None
    guests: tuple[GuestWish, ...] = ()
    prune: bool = False
    # Guests of other makers that start with the host; with *exclusive* no others do.
    autostart: tuple[str, ...] = ()
    exclusive: bool = False


def host_spec() -> dict[str, t.Any]:
    """The argument spec of the module, without what descriptions of guests refer to."""
    return {
        "name": {"type": "str"},
        "bare": {"type": "bool"},
        "start_timeout": {"type": "int"},
        "stop_timeout": {"type": "int"},
        "writable_paths": {"type": "list", "elements": "str"},
        "kernel_modules": {"type": "list", "elements": "str"},
        "guests": {"type": "list", "elements": "dict", "default": []},
        "update": {"type": "str", "choices": list(UPDATES), "default": "never"},
        "prune": {"type": "bool", "default": False},
        "autostart": {"type": "list", "elements": "str", "default": []},
        "autostart_exclusive": {"type": "bool", "default": False},
        "lock_timeout": {"type": "int", "default": 60},
    }


def entries_of(given: t.Sequence[t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Entries as ``microvm_guests`` takes them.  Raises InvalidWish for what it would not take."""
    validator = ArgumentSpecValidator(guest_spec())
    entries = []
    wrong = []
    for number, entry in enumerate(given, 1):
        answer = validator.validate(dict(entry))
        subject = f"guest {entry.get('name') or f'number {number} of the list'}"
        wrong += [f"{subject}: {message}" for message in answer.error_messages]
        entries.append(answer.validated_parameters)
    if wrong:
        raise InvalidWish("\n".join(wrong))
    return entries


def read_wish(params: t.Mapping[str, t.Any], guests: tuple[GuestWish, ...]) -> HostWish:
    """The wish of a module's *params*.  Raises InvalidWish with all that is wrong."""
    wrong = list(_faults(params))
    if wrong:
        raise InvalidWish("\n".join(error.text() for error in wrong))
    paths, modules = params["writable_paths"], params["kernel_modules"]
    return HostWish(
        name=params["name"],
        bare=params["bare"],
        start_timeout=params["start_timeout"],
        stop_timeout=params["stop_timeout"],
        writable_paths=None if paths is None else tuple(paths),
        kernel_modules=None if modules is None else tuple(modules),
        guests=guests,
        prune=params["prune"],
        autostart=tuple(params["autostart"]),
        exclusive=params["autostart_exclusive"],
    )


def _faults(params: t.Mapping[str, t.Any]) -> t.Iterator[InvalidWish]:
    if params["name"] is not None and _NAME.fullmatch(params["name"]) is None:
        yield InvalidWish(
            f"{params['name']!r} is no name of a host.",
            subject=SUBJECT,
            field="name",
            hint="Give the attribute of nixosConfigurations: letters, digits, -, _ and dots.",
        )
    least, most = TIMEOUTS
    for option in ("start_timeout", "stop_timeout"):
        value = params[option]
        if value is not None and not least <= value <= most:
            yield InvalidWish(
                f"{value} is out of range.", subject=SUBJECT, field=option, hint=f"Give seconds from {least} to {most}."
            )
    for place, path in enumerate(params["writable_paths"] or ()):
        if _PATH.fullmatch(path) is None or ".." in path.split("/"):
            yield InvalidWish(
                f"{path!r} is no absolute path without blanks, quotes, percent signs, colons and backslashes.",
                subject=SUBJECT,
                field=f"writable_paths[{place}]",
                hint="Give the path of a directory or a device.",
            )
    for place, module in enumerate(params["kernel_modules"] or ()):
        if _MODULE.fullmatch(module) is None:
            yield InvalidWish(
                f"{module!r} is no name of a kernel module.",
                subject=SUBJECT,
                field=f"kernel_modules[{place}]",
                hint="Give a name such as vhost_net.",
            )
    for place, name in enumerate(params["autostart"]):
        for seen in name_faults(name):
            yield InvalidWish(
                seen, subject=SUBJECT, field=f"autostart[{place}]", hint="Give the name of a guest of the host."
            )


def make(wish: HostWish, before: Described, host: Host) -> Described:
    """The description after the wish.  Raises InvalidWish for a guest that is to start and that there is not."""
    wished = {each.name: each for each in wish.guests}
    gone = {name for name, each in wished.items() if each.state == "absent"}
    if wish.prune:
        gone |= {
            name
            for name, guest in host.guests.items()
            if name not in wished and guest.owner == "fleet" and not (guest.record and guest.record.protect)
        }
    for place, name in enumerate(wish.autostart):
        if name in gone or not (host.guest(name).exists or name in wished):
            raise InvalidWish(
                f"there is no guest {name}.",
                subject=SUBJECT,
                field=f"autostart[{place}]",
                hint="Create it first, or leave it out.",
            )
    starts = set(wish.autostart) if wish.exclusive else {*before.autostart, *wish.autostart}
    starts |= {name for name, each in wished.items() if each.autostart is True}
    starts -= {name for name, each in wished.items() if each.autostart is False and name not in wish.autostart} | gone
    settings = {name: units for name, units in before.settings.items() if name not in gone}
    for name, each in wished.items():
        if name not in gone:
            settings[name] = _settings(each, before.settings.get(name, {}), exists=host.guest(name).exists)
    settings = {name: units for name, units in sorted(settings.items()) if units}
    after = replace(before, autostart=tuple(sorted(starts)), settings=settings)
    plain = {
        key: value
        for key, value in (
            ("name", wish.name),
            ("bare", wish.bare),
            ("start_timeout", wish.start_timeout),
            ("stop_timeout", wish.stop_timeout),
            ("writable_paths", wish.writable_paths),
            ("kernel_modules", wish.kernel_modules),
        )
        if value is not None
    }
    return replace(after, **t.cast("t.Any", plain))


def _settings(
    wish: GuestWish, before: t.Mapping[str, tuple[tuple[str, str, str], ...]], *, exists: bool
) -> dict[str, tuple[tuple[str, str, str], ...]]:
    """What the guest's units are to be told, by unit; see `planner.settings`."""
    loads: dict[str, t.Mapping[str, str] | None] = {UNIT: None, SHARES_UNIT: None}
    # A guest that is there and not to be updated keeps what its runner was built for.
    if wish.description is not None and not (exists and wish.update == "never"):
        bearer = _hypervisors.CREDENTIAL_UNITS.get(wish.description["hypervisor"])
        names = wish.description["credentials"]
        for unit in loads:
            loads[unit] = {
                name: f"{planner.CREDENTIALS}/{wish.name}/{name}" for name in (names if unit == bearer else ())
            }
    after = {}
    for unit, files in loads.items():
        known = _text(before.get(unit, ()))
        text = planner.settings(wish if unit == UNIT else GuestWish(wish.name), known, files)
        after[unit] = before.get(unit, ()) if text is None else _triples(text)
    return {unit: some for unit, some in after.items() if some}


def _text(settings: t.Iterable[tuple[str, str, str]]) -> str:
    return "".join(f"{key}={value}\n" for _section, key, value in settings)


def _triples(text: str) -> tuple[tuple[str, str, str], ...]:
    """Section, key and value of each setting of a drop-in."""
    section = ""
    found = []
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        else:
            key, _sep, value = line.partition("=")
            found.append((section, key, value))
    return tuple(found)


@dataclass(frozen=True)
class Result:
    """What a run did, or would do."""

    before: Described | None
    after: Described
    # The system that runs was made of another description.
    switch_needed: bool

    @property
    def changed(self) -> bool:
        """Whether there was, or is, anything to write."""
        return self.before != self.after

    @property
    def actions(self) -> list[str]:
        """A line each."""
        return [f"host: {'describe' if self.before is None else 'change'} {FILE}"] if self.changed else []

    def values(self) -> dict[str, t.Any]:
        """What the module returns, the diff included."""
        return {
            "changed": self.changed,
            "actions": self.actions,
            "switch_needed": self.switch_needed,
            "description": self.after.as_dict(),
            "diff": {"before": {} if self.before is None else self.before.as_dict(), "after": self.after.as_dict()},
        }


@explaining()
def converge(
    wish: HostWish, *, paths: Paths, commands: Commands, host_name: str, lock_timeout: int, check: bool
) -> Result:
    """Describe the host; with *check* only say how.

    *host_name* is for a host that nobody named.  Raises InvalidWish for what cannot be, FleetError for a host that is
    not NixOS or a description that is damaged, Busy when another run is at it.
    """
    if not _nixos.is_nixos(paths.root):
        raise FleetError(
            "it does not run NixOS, as its os-release says.",
            subject=SUBJECT,
            hint="Other hosts are set up by the role microvm.fleet.host without a description.",
        )
    place = os.path.join(paths.flake, "host.json")
    result = _planned(wish, paths, commands, place, host_name)
    if check or not result.changed:
        return result
    with _files.lock(os.path.join(paths.locks, "description"), what=SUBJECT, timeout=lock_timeout):
        result = _planned(wish, paths, commands, place, host_name)
        if result.changed:
            os.makedirs(paths.flake, mode=0o755, exist_ok=True)
            _files.sweep(place)
            _files.write_file(place, result.after.text())
    return result


def _planned(wish: HostWish, paths: Paths, commands: Commands, place: str, host_name: str) -> Result:
    text = _files.read_text(place)
    before = None if text is None else read(text)
    after = replace(make(wish, before or Described(name=host_name), observe(paths, commands)), system=system())
    running = _files.read_text(os.path.join(paths.root, _nixos.RUNNING.lstrip("/"), "host.json"))
    return Result(before, after, switch_needed=(None if after.bare else after) != (running and read(running)))
