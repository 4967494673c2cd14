# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The static flake of a host: observed, planned, applied.  What the module calls.

Private to the collection: it may change at any time.

What a lock file would become is found out in a copy of the flake, so check mode knows it as well as a run does, and a
lock file that cannot be made leaves everything as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import typing as t
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _flake_lock
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError, FleetError, explaining
from ansible_collections.microvm.fleet.plugins.module_utils._flake_wish import PLACE, PREFIX, SUBJECT, FlakeWish, Secret
from ansible_collections.microvm.fleet.plugins.module_utils._nix import FEATURES, reason

# What is below these belongs to the collection alone.  modules/ is the user's, and files beside flake.nix are data.
OWN: t.Final = ("nix", "bases")
MODULES: t.Final = "modules/"
DIRECTORY_MODE: t.Final = 0o755
FILE_MODE: t.Final = 0o644
SECRET_DIRECTORY_MODE: t.Final = 0o700
SECRET_MODE: t.Final = 0o600

_SCRATCH: t.Final = "flake-"


@dataclass(frozen=True)
class FlakePaths:
    """Where the flake and what belongs to it are, below *root* (``/`` but in unit tests)."""

    root: str = "/"

    def _at(self, path: str) -> str:
        return os.path.join(self.root, path)

    @property
    def flake(self) -> str:
        """The flake."""
        return self._at(PLACE.lstrip("/"))

    @property
    def credentials(self) -> str:
        """Credentials, a directory a guest."""
        return self._at("var/lib/microvm-fleet/credentials")

    @property
    def scratch(self) -> str:
        """Where copies are made; gone with the next boot."""
        return self._at("run/microvm-fleet")

    @property
    def lock(self) -> str:
        """The file for flock(2) of all that write below `flake`."""
        return self._at("run/lock/microvm-fleet/descriptions")


@dataclass(frozen=True)
class Node:
    """A file or directory: its content (None for what is no plain file), mode, and whether its owner is root."""

    content: bytes | None
    mode: int
    owned: bool

    def is_as(self, content: bytes | None, mode: int) -> bool:
        """Whether it is as wished."""
        return self.content == content and self.mode == mode and self.owned


@dataclass(frozen=True)
class Observed:
    """The flake as it is: nodes by their path below it, and those of the credentials as ``GUEST/NAME``."""

    files: t.Mapping[str, Node] = field(default_factory=dict)
    directories: t.Mapping[str, Node] = field(default_factory=dict)
    lock: str | None = None
    registry: str | None = None
    secrets: t.Mapping[str, Node] = field(default_factory=dict)
    # What is in the files of the host that credentials are made of.
    sources: t.Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Locked:
    """What flake.lock and registry.json are to be."""

    lock: str | None
    registry: str
    # Inputs that are to be locked anew and cannot be seen, as there is no Nix yet.
    unseen: t.Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What is to be done: paths below the flake, paths of credentials, and all of it in words."""

    directories: tuple[str, ...] = ()
    files: t.Mapping[str, bytes] = field(default_factory=dict)
    removals: tuple[str, ...] = ()
    lock: str | None = None
    registry: str | None = None
    secrets: t.Mapping[str, bytes] = field(default_factory=dict)
    secret_removals: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    before: t.Mapping[str, t.Any] = field(default_factory=dict)
    after: t.Mapping[str, t.Any] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.actions)


@dataclass(frozen=True)
class Result:
    """What a run did, or would do."""

    changed: bool
    actions: list[str]
    inputs: dict[str, str]
    before: t.Mapping[str, t.Any]
    after: t.Mapping[str, t.Any]

    def values(self) -> dict[str, t.Any]:
        """What the module returns."""
        return {
            "changed": self.changed,
            "actions": self.actions,
            "inputs": self.inputs,
            "diff": {"before": dict(self.before), "after": dict(self.after)},
        }


def _node(path: str) -> Node | None:
    """What is at *path*, links not followed; None when there is nothing."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    content = None
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as stream:
            content = stream.read()
    owned = (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
    return Node(content=content, mode=stat.S_IMODE(status.st_mode), owned=owned)


def observe(paths: FlakePaths, wish: FlakeWish) -> Observed:
    """Read all of the flake that *wish* is about.  Raises FleetError for a file of a credential that is missing."""
    files: dict[str, Node] = {}
    directories: dict[str, Node] = {}
    wanted = {*wish.files, *_own_files(paths.flake)}
    for name in sorted(wanted):
        node = _node(os.path.join(paths.flake, name))
        if node is not None:
            files[name] = node
    for name in _directories(wish.files):
        node = _node(os.path.join(paths.flake, name))
        if node is not None:
            directories[name] = node
    return Observed(
        files=files,
        directories=directories,
        lock=_files.read_text(os.path.join(paths.flake, "flake.lock"), limit=1 << 24),
        registry=_files.read_text(os.path.join(paths.flake, "registry.json")),
        secrets=_observe_secrets(paths, wish),
        sources=_observe_sources(wish),
    )


def _own_files(flake: str) -> t.Iterator[str]:
    """Files of the collection below *flake*, and what a killed run left there."""
    for name in OWN:
        for place, below, names in os.walk(os.path.join(flake, name)):
            links = [one for one in below if os.path.islink(os.path.join(place, one))]
            for one in (*names, *links):
                yield os.path.relpath(os.path.join(place, one), flake)
    for place in (flake, os.path.join(flake, "modules")):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for one in os.listdir(place):
                if one.startswith(_files.TEMPORARY):
                    yield os.path.relpath(os.path.join(place, one), flake)


def _directories(files: t.Iterable[str]) -> list[str]:
    """The directories of *files* and those above them, these first; the flake's own is ``.``."""
    found = {"."}
    for path in files:
        parts = path.split("/")[:-1]
        found.update("/".join(parts[: count + 1]) for count in range(len(parts)))
    return sorted(found)


def _observe_secrets(paths: FlakePaths, wish: FlakeWish) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    for guest in wish.secrets:
        place = os.path.join(paths.credentials, guest)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(place):
                node = _node(os.path.join(place, name))
                if node is not None:
                    nodes[f"{guest}/{name}"] = node
    return nodes


def _observe_sources(wish: FlakeWish) -> dict[str, bytes]:
    sources: dict[str, bytes] = {}
    for guest, entries in wish.secrets.items():
        for name, secret in entries.items():
            if secret.path is None:
                continue
            try:
                with open(secret.path, "rb") as stream:
                    sources[secret.path] = stream.read()
            except OSError as error:
                raise FleetError(
                    f"{secret.path} cannot be read on the host: {error.strerror or error}.",
                    subject=f"guest {guest}",
                    field=f"credentials.{name}.path",
                    hint="Put the file there, or give src for a file beside the inventory.",
                ) from error
    return sources


def plan(wish: FlakeWish, observed: Observed, locked: Locked) -> Plan:
    """What makes the flake as wished.  *locked* is what its lock file and registry are to be."""
    files = {
        name: content
        for name, content in wish.files.items()
        if name not in observed.files or not observed.files[name].is_as(content, FILE_MODE)
    }
    removals = tuple(sorted(set(observed.files) - set(wish.files)))
    directories = tuple(
        name
        for name in _directories(wish.files)
        if name not in observed.directories or not observed.directories[name].is_as(None, DIRECTORY_MODE)
    )
    secrets, secret_removals = _plan_secrets(wish, observed)
    held = set(observed.secrets) - set(secret_removals)
    lock = locked.lock if locked.lock != observed.lock else None
    registry = locked.registry if locked.registry != observed.registry else None
    inputs_before, inputs_after = _inputs(observed.lock), _inputs(locked.lock)
    inputs_after.update({name: f"to be locked, because {why}" for name, why in locked.unseen.items()})
    actions = [
        *_file_actions(files, wish),
        *(f"flake: remove {name}" for name in removals),
        *_input_actions(inputs_before, inputs_after),
    ]
    if directories and not files:
        actions.append(f"flake: have its directories as they are to be: {', '.join(directories)}")
    if lock is not None and inputs_before == inputs_after:
        actions.append("flake: write flake.lock")
    if registry is not None:
        actions.append("flake: write registry.json")
    actions += [f"guest {path.split('/')[0]}: write the credential {path.split('/')[1]}" for path in sorted(secrets)]
    actions += [
        f"guest {path.split('/')[0]}: remove what a killed run left of a credential" for path in secret_removals
    ]
    return Plan(
        directories=directories,
        files=files,
        removals=removals,
        lock=lock,
        registry=registry,
        secrets=secrets,
        secret_removals=secret_removals,
        actions=tuple(actions),
        before={
            "inputs": inputs_before,
            "files": {name: _sum(observed.files[name]) for name in (*files, *removals) if name in observed.files},
            "credentials": sorted(held),
        },
        after={
            "inputs": inputs_after,
            "files": {name: _digest(content) for name, content in files.items()},
            "credentials": sorted(
                path + (" (written anew)" if path in {*secrets} & held else "") for path in {*secrets, *held}
            ),
        },
    )


def _file_actions(files: t.Collection[str], wish: FlakeWish) -> t.Iterator[str]:
    """The files to install in words: each of the user's, and how many of the collection's."""
    static = [name for name in files if not name.startswith(MODULES)]
    if static:
        total = sum(not name.startswith(MODULES) for name in wish.files)
        yield f"flake: install {len(static)} of {total} static files"
    for name in sorted(set(files) - set(static)):
        yield f"flake: install {name}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _sum(node: Node) -> str:
    return (
        "no plain file"
        if node.content is None
        else f"{_digest(node.content)}{'' if node.owned else ' of another owner'}"
    )


def _inputs(lock: str | None) -> dict[str, str]:
    return {} if lock is None else _flake_lock.read_lock(lock).inputs()


def _input_actions(before: t.Mapping[str, str], after: t.Mapping[str, str]) -> t.Iterator[str]:
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if new is None:
            yield f"flake: drop the input {name}, which was {old}"
        elif new.startswith("to be locked"):
            yield f"flake: lock the input {name}{new[len('to be locked') :]}"
        elif old is None:
            yield f"flake: lock the input {name} at {new}"
        else:
            yield f"flake: move the input {name} from {old} to {new}"


def _plan_secrets(wish: FlakeWish, observed: Observed) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Credentials to write, and what killed runs have left of some, of the guests that the wish knows.

    A guest that is left alone goes on loading what its unit names, whatever is wished of it by now: files that nothing
    needs any more are removed with the settings that name them, by who writes these.
    """
    wanted: dict[str, bytes] = {}
    for guest, entries in wish.secrets.items():
        for name, secret in entries.items():
            wanted[f"{guest}/{name}"] = _content(secret, observed)
    writes = {
        path: content
        for path, content in wanted.items()
        if path not in observed.secrets or not observed.secrets[path].is_as(content, SECRET_MODE)
    }
    left = {path for path in observed.secrets if path.split("/")[1].startswith(_files.TEMPORARY)}
    return writes, tuple(sorted(left))


def _content(secret: Secret, observed: Observed) -> bytes:
    return secret.content if secret.content is not None else observed.sources[str(secret.path)]


def lock_anew(commands: Commands, paths: FlakePaths, wish: FlakeWish, observed: Observed, *, timeout: float) -> Locked:
    """What flake.lock and registry.json have to be, asking Nix when an input is to be locked anew.

    Raises FleetError for a lock file that is none, and for an input that cannot be fetched.
    """
    recorded = _flake_lock.read_registry(observed.registry)
    lock = None if observed.lock is None else _flake_lock.read_lock(observed.lock)
    why = _flake_lock.due(wish.references, wish.update, recorded=recorded, lock=lock, base_hash=_base_hash(wish))
    if why and commands.find("nix") is None:
        return Locked(lock=observed.lock, registry=observed.registry or "", unseen=why)
    entries = {name: recorded[name] for name in wish.references if name in recorded and name not in why}
    if not why:
        return Locked(lock=observed.lock, registry=_flake_lock.write_registry(entries))
    with _scratch(paths) as scratch:
        made = _targets(commands, scratch, {name: wish.references[name] for name in why}, timeout=timeout)
        entries.update({name: {"to": made[name], "reference": wish.references[name]} for name in why})
        text = _lock_in(commands, scratch, wish, lock, why=why, entries=entries, timeout=timeout)
    return Locked(lock=text, registry=_flake_lock.write_registry(entries))


def _base_hash(wish: FlakeWish) -> str | None:
    """The hash of the collection's own base, when the wish has one."""
    base = wish.references["base"]
    if not _flake_lock.is_stub(base):
        return None
    below = base[len(f"path:{PLACE}/") :] + "/"
    return _flake_lock.nar_hash(
        {path[len(below) :]: content for path, content in wish.files.items() if path.startswith(below)}
    )


def _targets(
    commands: Commands, scratch: str, references: t.Mapping[str, str], *, timeout: float
) -> dict[str, dict[str, t.Any]]:
    """What *references* are as attributes: Nix reads them, by writing a registry, and fetches nothing."""
    registry = os.path.join(scratch, "targets.json")
    for name, reference in references.items():
        argv = ["nix", *FEATURES, "registry", "add", "--registry", registry, f"flake:{PREFIX}{name}", reference]
        try:
            commands.run(argv, timeout=timeout)
        except CommandError as error:
            raise FleetError(
                f"Nix does not take {reference!r} for a reference of a flake: {reason(error)}",
                subject=SUBJECT,
                field=name,
                hint="Correct it.",
            ) from error
    found = _flake_lock.read_registry(_files.read_text(registry))
    return {name: found[name]["to"] for name in references}


def _lock_in(
    commands: Commands,
    scratch: str,
    wish: FlakeWish,
    lock: _flake_lock.Lock | None,
    *,
    why: t.Collection[str],
    entries: t.Mapping[str, t.Mapping[str, t.Any]],
    timeout: float,
) -> str:
    """The lock file with the inputs of *why* locked anew, made in the directory *scratch*."""
    copy = os.path.join(scratch, "flake")
    for path, content in wish.files.items():
        if path == "flake.nix" or path.startswith("bases/"):
            _write(os.path.join(copy, path), content)
    if lock is not None:
        remaining = lock.without(_flake_lock.roots_of(why))
        _write(os.path.join(copy, "flake.lock"), json.dumps(remaining).encode())
    # Inputs that Nix has to look up again because of others are what they were.
    answers: dict[str, t.Mapping[str, t.Any]] = dict(entries)
    answers.update(_flake_lock.kept([name for name in wish.references if name not in why], lock))
    if "base" in answers and _flake_lock.is_stub(wish.references["base"]):
        below = wish.references["base"][len(f"path:{PLACE}/") :]
        answers["base"] = {"to": {"type": "path", "path": os.path.join(copy, below)}}
    registry = os.path.join(scratch, "registry.json")
    _write(registry, _flake_lock.write_registry(answers).encode())
    argv = ["nix", *FEATURES, "flake", "lock", f"path:{copy}", "--option", "flake-registry", registry]
    try:
        commands.run(argv, timeout=timeout)
    except CommandError as error:
        if error.rc is None:
            raise
        raise _flake_lock.explain(error, lock, references=wish.references, why=why) from error
    text = _files.read_text(os.path.join(copy, "flake.lock"), limit=1 << 24)
    if text is None:
        raise FleetError("Nix has written no flake.lock.", subject=SUBJECT, hint="Say nix --version, and report it.")
    return _flake_lock.relocate(text, copy, PLACE)


def _write(path: str, content: bytes) -> None:
    """A file of a copy that nobody else reads."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as stream:
        stream.write(content)


@contextlib.contextmanager
def _scratch(paths: FlakePaths) -> t.Iterator[str]:
    """A directory that is gone after the block, as are those of processes that have died in theirs."""
    os.makedirs(paths.scratch, exist_ok=True)
    for name in os.listdir(paths.scratch):
        pid = name[len(_SCRATCH) :].split("-")[0] if name.startswith(_SCRATCH) else ""
        if pid.isdigit() and not os.path.isdir(f"/proc/{pid}"):
            shutil.rmtree(os.path.join(paths.scratch, name), ignore_errors=True)
    # Nix names the place in its errors, and refuses links in it.
    made = tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=os.path.realpath(paths.scratch))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def apply(paths: FlakePaths, steps: Plan) -> None:
    """Carry *steps* out.  The registry follows the lock file: it says that it is done."""
    owner = {"uid": os.geteuid(), "gid": os.getegid()}
    for name in steps.directories:
        _directory(os.path.join(paths.flake, name), DIRECTORY_MODE)
    for name in steps.removals:
        _files.remove(os.path.join(paths.flake, name))
        with contextlib.suppress(OSError):
            os.removedirs(os.path.dirname(os.path.join(paths.flake, name)))
    for name, content in steps.files.items():
        _replace(os.path.join(paths.flake, name), content, FILE_MODE)
    if steps.lock is not None:
        _files.write_file(os.path.join(paths.flake, "flake.lock"), steps.lock, mode=FILE_MODE, **owner)
    if steps.registry is not None:
        _files.write_file(os.path.join(paths.flake, "registry.json"), steps.registry, mode=FILE_MODE, **owner)
    for path, content in steps.secrets.items():
        _directory(os.path.dirname(paths.credentials), SECRET_DIRECTORY_MODE)
        _directory(paths.credentials, SECRET_DIRECTORY_MODE)
        _directory(os.path.join(paths.credentials, os.path.dirname(path)), SECRET_DIRECTORY_MODE)
        _replace(os.path.join(paths.credentials, path), content, SECRET_MODE)
    for path in steps.secret_removals:
        _files.remove(os.path.join(paths.credentials, path))
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(paths.credentials, os.path.dirname(path)))


def _directory(path: str, mode: int) -> None:
    """Have the directory *path* as it is to be."""
    if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
        raise FleetError(f"{path} is no directory.", subject=SUBJECT, hint="Move it away.")
    os.makedirs(path, mode=mode, exist_ok=True)
    os.chown(path, os.geteuid(), os.getegid())
    os.chmod(path, mode)
    _files.sync_directory(os.path.dirname(path))


def _replace(path: str, content: bytes, mode: int) -> None:
    """Put *content* at *path*, whole or not at all."""
    if os.path.isdir(path) and not os.path.islink(path):
        raise FleetError(f"{path} is a directory, and is to be a file.", subject=SUBJECT, hint="Move it away.")
    _files.write_file(path, content, mode=mode, uid=os.geteuid(), gid=os.getegid())


def converge(
    wish: FlakeWish,
    *,
    commands: Commands,
    paths: FlakePaths,
    check: bool,
    timeout: float,
    lock_timeout: float,
) -> Result:
    """Make the flake as wished; with *check* only say what that takes.

    Raises FleetError and its kinds; an input that cannot be locked leaves everything as it was.
    """
    with explaining():
        observed = observe(paths, wish)
        locked = lock_anew(commands, paths, wish, observed, timeout=timeout)
        steps = plan(wish, observed, locked)
        if steps.changed and not check:
            if locked.unseen:
                commands.run(["nix", "--version"], subject=SUBJECT)
            with _files.lock(paths.lock, what="the flake of the host", timeout=lock_timeout):
                again = observe(paths, wish)
                if (again.lock, again.registry) != (observed.lock, observed.registry):
                    locked = lock_anew(commands, paths, wish, again, timeout=timeout)
                steps = plan(wish, again, locked)
                apply(paths, steps)
    inputs = steps.after["inputs"] if steps.changed else steps.before["inputs"]
    return Result(
        changed=steps.changed, actions=list(steps.actions), inputs=inputs, before=steps.before, after=steps.after
    )


def take_away(*, paths: FlakePaths, check: bool, force: bool, lock_timeout: float) -> Result:
    """Remove what `converge` and the user's modules have put there, and credentials.

    Data of guests and of the host are not ours: with a guest in guests.json it is refused unless *force*, which takes
    that file too, and host.json and networks.json stay in any case.
    """
    with explaining():
        steps, inputs = _removal(paths, force=force)
        if steps and not check:
            with _files.lock(paths.lock, what="the flake of the host", timeout=lock_timeout):
                for path in steps:
                    if os.path.isdir(path) and not os.path.islink(path):
                        shutil.rmtree(path)
                    else:
                        _files.remove(path)
                for path in (paths.flake, paths.credentials):
                    with contextlib.suppress(OSError):
                        os.rmdir(path)
    before = {"inputs": inputs, "files": steps}
    return Result(
        changed=bool(steps),
        actions=[f"flake: remove {path}" for path in steps],
        inputs={} if steps else inputs,
        before=before,
        after={"inputs": {}, "files": []} if steps else before,
    )


def _removal(paths: FlakePaths, *, force: bool) -> tuple[list[str], dict[str, str]]:
    """The files and directories that go, and the inputs that were locked."""
    text = _files.read_text(os.path.join(paths.flake, "guests.json"), limit=1 << 24)
    try:
        guests = sorted((json.loads(text) if text else {}).get("guests", {}))
    except (ValueError, AttributeError):
        guests = ["what guests.json should list"]
    if guests and not force:
        raise FleetError(
            f"guests.json still describes {', '.join(guests[:10])}.",
            subject=SUBJECT,
            hint="Remove these guests first, or say microvm_flake_remove_with_guests; nobody could update them.",
        )
    names = ["flake.nix", "flake.lock", "registry.json", "modules", *OWN]
    names += ["guests.json"] if not guests or force else []
    found = [os.path.join(paths.flake, name) for name in names]
    found += [paths.credentials]
    lock = _files.read_text(os.path.join(paths.flake, "flake.lock"), limit=1 << 24)
    return [path for path in found if os.path.lexists(path)], _inputs(lock)
