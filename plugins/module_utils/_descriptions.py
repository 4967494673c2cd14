# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Descriptions on a host: the static flake, guests.json beside it, and copies of both that are evaluated.

Private to the collection: it may change at any time.

guests.json is ``{"version": 1, "system": "x86_64-linux", "guests": {NAME: ENTRY}}``; entries are made by `_describe`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import typing as t
from dataclasses import dataclass

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _flake_lock
from ansible_collections.microvm.fleet.plugins.module_utils._describe import Surroundings
from ansible_collections.microvm.fleet.plugins.module_utils._errors import (
    Busy,
    CommandError,
    FleetError,
    InvalidWish,
)
from ansible_collections.microvm.fleet.plugins.module_utils._net_run import network_options
from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import Network, parse, parse_all
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths

VERSION: t.Final = 1
# Beside the flake, and no part of what a guest is made of.
OTHERS: t.Final = ("guests.json", "host.json", "networks.json", "registry.json")
CANDIDATE: t.Final = "candidate-"
# How messages call them, wherever the host's root is.
FLAKE: t.Final = "/etc/microvm-fleet"
FILE: t.Final = f"{FLAKE}/guests.json"

Entry = t.Mapping[str, t.Any]


@dataclass(frozen=True)
class Static:
    """The static flake of a host.  *content* is a hash of all that guests are made of, but of their descriptions."""

    content: str
    guests: t.Mapping[str, Entry]
    host: str | None = None

    def identity(self, name: str, entry: Entry) -> str:
        """What the runner of guest *name* follows from: the same identity gives the same runner."""
        said = json.dumps([self.content, system(), name, entry], sort_keys=True)
        return "sha256-" + hashlib.sha256(said.encode("utf-8")).hexdigest()


def system() -> str:
    """The platform of this host as Nix calls it."""
    return f"{os.uname().machine}-linux"


def observe(paths: Paths) -> Static:
    """Read the static flake.  Raises FleetError when it is not there, or when guests.json cannot be read."""
    if not os.path.exists(os.path.join(paths.flake, "flake.nix")):
        raise FleetError(
            f"this host has no {FLAKE}/flake.nix, of which described guests are made.",
            field="hypervisor",
            hint="Run the role microvm.fleet.flake on it first.",
        )
    return Static(content=_content(paths.flake), guests=read(paths), host=_host(paths))


def read(paths: Paths) -> dict[str, Entry]:
    """The entries of guests.json; none when there is no such file.  Raises FleetError for one that cannot be read."""
    text = _files.read_text(paths.descriptions, 1 << 26)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise FleetError(
            f"{FILE} is no JSON: {error}.",
            field="hypervisor",
            hint="Put back what it was. Without it, the next run with update: activate describes its guests anew.",
        ) from None
    if not isinstance(value, dict) or value.get("version") != VERSION:
        version = value.get("version") if isinstance(value, dict) else None
        raise FleetError(
            f"{FILE} has version {json.dumps(version)}, and this release of the collection knows version {VERSION}.",
            field="hypervisor",
            hint="Manage the host with the release that wrote it, or a later one.",
        )
    guests = value.get("guests")
    if not isinstance(guests, dict) or not all(isinstance(entry, dict) for entry in guests.values()):
        raise FleetError(
            f"{FILE} has no guests by their names.",
            field="hypervisor",
            hint="Put back what it was. Without it, the next run with update: activate describes its guests anew.",
        )
    return guests


def _host(paths: Paths) -> str | None:
    """The attribute of the host itself in the flake, on NixOS: no guest can have its name."""
    try:
        value = json.loads(_files.read_text(os.path.join(paths.flake, "host.json")) or "null")
        return str(value["name"])
    except (ValueError, KeyError, TypeError):
        return None


def _content(directory: str) -> str:
    """A hash of the files below *directory*: names, what makes them programs, and what is in them."""
    digest = hashlib.sha256()
    for place, path in sorted(_walk(directory)):
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            content = os.readlink(path).encode("utf-8", "surrogateescape")
        else:
            with open(path, "rb") as stream:
                content = stream.read()
        kind = "link" if stat.S_ISLNK(mode) else "program" if mode & stat.S_IXUSR else "file"
        digest.update(f"{kind} {len(place)} {place} {len(content)} ".encode("utf-8", "surrogateescape") + content)
    return digest.hexdigest()


def _walk(directory: str) -> t.Iterator[tuple[str, str]]:
    """Place below *directory* and path of each file or link that guests are made of."""
    for above, directories, names in os.walk(directory):
        links = [name for name in directories if os.path.islink(os.path.join(above, name))]
        for name in (*names, *links):
            path = os.path.join(above, name)
            place = os.path.relpath(path, directory)
            if place not in OTHERS and not name.startswith(_files.TEMPORARY):
                yield place, path


@contextlib.contextmanager
def candidate(paths: Paths, static: Static, guests: t.Mapping[str, Entry], *, timeout: float = 60) -> t.Iterator[str]:
    """A copy of the flake *static* with *guests* as its descriptions, for as long as the block runs.

    A copy is locked as long as its process lives, so that one of a killed run is known.  *timeout* in seconds is how
    long to wait for others that make one.  Raises Busy when the flake is not what it was when it was observed.
    """
    os.makedirs(paths.candidates, mode=0o755, exist_ok=True)
    directory = os.path.join(paths.candidates, f"{CANDIDATE}{os.getpid()}")
    with contextlib.ExitStack() as stack:
        with _files.lock(os.path.join(paths.locks, "candidates"), what="candidates of flakes", timeout=timeout):
            for entry in os.listdir(paths.candidates):
                if entry.startswith(CANDIDATE):
                    _remove_unlocked(os.path.join(paths.candidates, entry))
            os.mkdir(directory, 0o700)
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, handle)
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        for place, path in _walk(paths.flake):
            copy = os.path.join(directory, place)
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copy(path, copy, follow_symlinks=False)
        if _content(directory) != static.content:
            # Its runners would be recorded as those of what was observed.
            raise Busy(
                f"{FLAKE} was changed while it was read.",
                field="hypervisor",
                hint="Another run is at it. Run again when that has ended.",
            )
        with open(os.path.join(directory, "guests.json"), "w", encoding="utf-8") as stream:
            stream.write(_text(guests))
        yield directory


def _remove_unlocked(directory: str) -> None:
    """Remove the copy of a run that was killed."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    finally:
        os.close(handle)
    shutil.rmtree(directory, ignore_errors=True)


# Where Nix has copied the flake for an evaluation.
_COPY = re.compile(r"/nix/store/[0-9a-z]{32}-source(?=/(?:flake\.nix|guests\.json|modules|nix|bases)\b)")


def unreadable(paths: Paths, error: CommandError, directory: str) -> FleetError:
    """The *error* of Nix about the candidate *directory* that it could not read, in words about the flake."""
    changed = _flake_lock.changed_input(error.stderr, _lock(paths))
    return changed or FleetError(
        error.seen.replace(f"path:{directory}", FLAKE).replace(directory, FLAKE),
        field="hypervisor",
        hint="Run the role microvm.fleet.flake again: it puts back its files and the lock file.",
    )


def unbuildable(paths: Paths, error: FleetError, name: str) -> FleetError:
    """The *error* of Nix about guest *name* of a candidate, in words about what the user has written."""
    changed = _flake_lock.changed_input(getattr(error, "stderr", ""), _lock(paths))
    if changed is not None:
        return FleetError(changed.seen, subject=f"guest {name}", field=changed.field, hint=changed.hint)
    seen = _COPY.sub(FLAKE, error.seen)
    module = re.search(rf"{FLAKE}/modules/([^:'\s]+)", seen)
    if module is not None:
        # On a line of its own: what Nix says ends with the lines of the file.
        seen = f"{seen}\nCorrect {module.group(1)} beside the inventory, and run again."
    return FleetError(
        seen,
        subject=f"guest {name}",
        field="hypervisor" if module is None else "modules",
        hint=error.hint if module is None else None,
    )


def _lock(paths: Paths) -> _flake_lock.Lock | None:
    text = _files.read_text(os.path.join(paths.flake, "flake.lock"), 1 << 24)
    try:
        return None if text is None else _flake_lock.read_lock(text)
    except FleetError:
        return None


def _text(guests: t.Mapping[str, Entry]) -> str:
    return json.dumps({"version": VERSION, "system": system(), "guests": guests}, indent=1, sort_keys=True) + "\n"


def write(paths: Paths, changes: t.Mapping[str, Entry | None], *, timeout: float) -> None:
    """Change entries of guests.json, None to take one out; what others have written meanwhile stays.

    *timeout* in seconds is how long to wait for another run that is at it.  Raises Busy, and FleetError when what is
    there cannot be read.
    """
    if not os.path.isdir(paths.flake):
        return
    with _files.lock(os.path.join(paths.locks, "descriptions"), what="descriptions of guests", timeout=timeout):
        before = read(paths)
        after = dict(before)
        for name, entry in changes.items():
            if entry is None:
                after.pop(name, None)
            else:
                after[name] = entry
        if after == before:
            return
        for left in os.listdir(paths.flake):
            if left.startswith(_files.TEMPORARY):
                _files.remove(os.path.join(paths.flake, left))
        _files.write_file(paths.descriptions, _text(after))


# What descriptions refer to


def surroundings(params: t.Mapping[str, t.Any], paths: Paths) -> Surroundings:
    """Networks and peers as a module was given them; without networks, those that were applied to the host."""
    given = params.get("networks")
    return Surroundings(
        networks=networks_of(given) if given else recorded_networks(paths), peers=peers_of(params.get("peers") or {})
    )


def networks_of(entries: t.Sequence[t.Any]) -> dict[str, Network]:
    """Networks by name of entries as ``microvm_nets`` takes them.  Raises InvalidWish for what it would not take."""
    options = network_options()
    checked = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, t.Mapping):
            raise InvalidWish(
                f"entry number {number} is no dictionary of options.",
                field="networks",
                hint="Give networks as microvm.fleet.microvm_nets takes them.",
            )
        subject = f"network {entry.get('name') or f'number {number} of the list'}"
        answer = ArgumentSpecValidator(options).validate(dict(entry))
        for message in answer.error_messages:
            raise InvalidWish(
                f"{message}.", subject=subject, field="networks", hint="Correct it there, and for the network itself."
            )
        checked.append(answer.validated_parameters)
    return {network.name: network for network in parse_all(checked).present}


def recorded_networks(paths: Paths) -> dict[str, Network]:
    """The networks that were applied to the host, by name.  Raises FleetError for a record that is damaged."""
    found = {}
    try:
        entries = sorted(os.listdir(paths.networks))
    except FileNotFoundError:
        return {}
    for entry in entries:
        name, dot, ending = entry.rpartition(".")
        if not dot or ending != "json" or entry.startswith(_files.TEMPORARY):
            continue
        try:
            found[name] = parse(json.loads(_files.read_text(os.path.join(paths.networks, entry)) or ""))
        except (ValueError, TypeError, AttributeError, FleetError) as error:
            raise FleetError(
                f"its record cannot be read: {error}",
                subject=f"network {name}",
                hint="Apply the network again with microvm.fleet.microvm_net.",
            ) from None
    return found


def peers_of(given: t.Mapping[str, t.Any]) -> dict[str, tuple[str, ...]]:
    """Addresses of guests elsewhere, by name.  Raises InvalidWish for what is no list of addresses."""
    for name, addresses in given.items():
        if not isinstance(addresses, (list, tuple)) or not all(isinstance(one, str) for one in addresses):
            raise InvalidWish(
                f"{addresses!r} is no list of addresses.",
                field=f"peers.{name}",
                hint="Give a list, such as [10.0.0.11].",
            )
    return {str(name): tuple(addresses) for name, addresses in given.items()}
