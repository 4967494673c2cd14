# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Closures of runners on their way: exported on the host that has them, and added to the store of another.

Private to the collection: it may change at any time.  Works with Nix 2.8 and later.

A closure leaves as a signed binary cache in a directory, of which only the files go to a host that it lacks.  There
everything that can be wrong with them is found before the first path is added, and Nix itself verifies the content of
each path and its signature once more: its checks are never turned off.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils import _closure, _files, _nix, _space
from ansible_collections.microvm.fleet.plugins.module_utils._build_places import Places, plain
from ansible_collections.microvm.fleet.plugins.module_utils._closure import SUBJECT, Part
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands, last_lines
from ansible_collections.microvm.fleet.plugins.module_utils._contract import is_store_path
from ansible_collections.microvm.fleet.plugins.module_utils._errors import (
    CommandError,
    FleetError,
    InvalidWish,
    explaining,
)
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths

# Seconds after which files that nobody has asked for are removed, and roots of runners that no guest has taken.
LEFT_AFTER: t.Final = 86400
# So much of the contents is packed at once, and as quickly as it can be unpacked.
FORM: t.Final = "compression=zstd&parallel-compression=true"
NAMED: t.Final = 3
ATTEMPTS: t.Final = 2

_KEY = re.compile(r"[0-9A-Za-z._-]+:[0-9A-Za-z+/]{43}=")
_UNTRUSTED = re.compile(r"^path '([^']+)' is untrusted", re.MULTILINE)


def check_runners(runners: t.Sequence[str]) -> None:
    """Raise InvalidWish for what is no path of a package."""
    for runner in runners:
        if not is_store_path(runner):
            raise InvalidWish(
                f"{runner!r} is no path of a package in /nix/store.",
                subject=SUBJECT,
                field="runners",
                hint="Give output paths of builds.",
            )


# On the host that has them


@dataclass
class Exported:
    """What an export has made: the cache, what is in it of the closure, and the public key of its signatures."""

    directory: str
    public_key: str | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    changed: bool = False

    def values(self) -> dict[str, t.Any]:
        """What the module returns."""
        return {
            "changed": self.changed,
            "directory": self.directory,
            "public_key": self.public_key,
            "closure": {path: part.as_dict() for path, part in sorted(self.parts.items())},
        }


@explaining()
def export(
    runners: t.Sequence[str],
    *,
    places: Places,
    commands: Commands,
    sign_key: str | None,
    timeout: float,
    lock_timeout: float,
    check: bool,
) -> Exported:
    """Have the closures of *runners* in the cache, signed.  With *check* only whether they could be.

    Raises FleetError when a runner is not in the store, there is no room for the cache, or no key.
    """
    check_runners(runners)
    result = Exported(places.cache)
    lost = _nix.invalid(commands, runners)
    if lost:
        raise FleetError(
            f"{lost[0]} is not in the store of this host.",
            subject=SUBJECT,
            field="runners",
            hint="Build it here first, with microvm.fleet.microvm_build.",
        )
    if check or not runners:
        result.changed = bool(runners)
        return result
    os.makedirs(places.cache, mode=0o755, exist_ok=True)
    with _files.lock(os.path.join(places.cache, ".lock"), what="cache of closures", timeout=lock_timeout):
        sizes = _sizes(commands, runners)
        known = _kept(places.cache, sizes)
        needed = sum(size for path, size in sizes.items() if path not in known)
        _space.require([_space.Need(places.cache, needed, "packed closures")], subject=SUBJECT, field="runners")
        _prune(places.cache, sizes)
        key, result.public_key = _key(places, commands, sign_key)
        result.changed = bool(needed)
        for _time in range(ATTEMPTS):
            if len(known) == len(sizes):
                break
            _copy(commands, ["--to", f"file://{places.cache}?{FORM}", *runners], timeout=timeout)
            # Nix keeps a file that is there by its name, whatever is in it.
            known = _kept(places.cache, sizes)
        torn = sorted(set(sizes) - set(known))
        if torn:
            raise _closure.torn(f"{places.cache} has no {torn[0]} after it was copied there.")
        store = ["--store", f"file://{places.cache}"]
        argv = ["nix", *_nix.FEATURES, "store", "sign", *store, "--key-file", key, "--recursive", *runners]
        commands.run(argv, timeout=timeout, subject=SUBJECT, hint="See that sign_key is a key as nix-store makes them.")
        result.parts = known
    return result


def _sizes(commands: Commands, runners: t.Sequence[str]) -> dict[str, int]:
    """The closure of *runners*: bytes by path."""
    argv = ["nix", *_nix.FEATURES, "path-info", "--recursive", "--size", *runners]
    return _closure.sizes_of_text(commands.run(argv, subject=SUBJECT).stdout)


def _kept(cache: str, paths: t.Iterable[str]) -> dict[str, Part]:
    """What the cache has of *paths*, whole.  What is not, is made again: Nix itself only looks whether it is there."""
    found = {}
    for path in paths:
        info = os.path.join(cache, _closure.info_of(path))
        part = None
        try:
            part = _closure.read_cache(cache, [path]).get(path)
            if part is None:
                continue
            _closure.check_files(cache, [part])
        except FleetError:
            for left in (info, *((os.path.join(cache, part.file),) if part is not None else ())):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(left)
        else:
            os.utime(info)
            found[path] = part
    return found


def _prune(cache: str, wanted: t.Iterable[str]) -> None:
    """Remove what has not been asked for since a day, and is not *wanted* now."""
    infos = {_closure.info_of(path) for path in wanted}
    before = time.time() - LEFT_AFTER
    files = set()
    for entry in sorted(os.listdir(cache)):
        info = os.path.join(cache, entry)
        if not entry.endswith(".narinfo"):
            continue
        if entry not in infos and os.stat(info).st_mtime < before:
            os.unlink(info)
            continue
        with contextlib.suppress(FleetError):
            files.add(_closure.read_info(_files.read_text(info) or "", entry).file)
    directory = os.path.join(cache, "nar")
    for entry in os.listdir(directory) if os.path.isdir(directory) else ():
        file = os.path.join(directory, entry)
        if f"nar/{entry}" not in files and os.stat(file).st_mtime < before:
            os.unlink(file)


def _key(places: Places, commands: Commands, given: str | None) -> tuple[str, str]:
    """The key to sign with, made when none is *given* and there is none yet, and the public key of it."""
    path = given or places.key
    if not os.path.isfile(path):
        if given:
            raise InvalidWish(
                f"{given} is no file.", subject=SUBJECT, field="sign_key", hint="Give a key, or leave it out."
            )
        os.makedirs(places.state, mode=0o700, exist_ok=True)
        secret, public = _files.beside(path), _files.beside(f"{path}.pub")
        for left in (secret, public):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(left)
        name = re.sub(r"[^0-9A-Za-z.-]", "-", os.uname().nodename)
        commands.run(["nix-store", "--generate-binary-cache-key", f"microvm-fleet-{name}-1", secret, public])
        os.chmod(secret, 0o600)
        os.unlink(public)
        os.rename(secret, path)
        _files.sync_directory(places.state)
    text = _files.read_text(path) or ""
    argv = ["nix", *_nix.FEATURES, "key", "convert-secret-to-public"]
    done = commands.run(argv, stdin=text, check=False, subject=SUBJECT)
    said = done.stdout.strip()
    if done.rc != 0 or _KEY.fullmatch(said) is None:
        raise FleetError(
            f"{path} is no key to sign with: {last_lines(done.stderr, 1)}",
            subject=SUBJECT,
            field="sign_key",
            hint="Make one with nix-store --generate-binary-cache-key.",
        )
    return path, said


def _copy(commands: Commands, words: t.Sequence[str], *, timeout: float) -> None:
    """Run ``nix copy``; its error in the words of Nix."""
    try:
        commands.run(["nix", *_nix.FEATURES, "copy", *words], timeout=timeout, subject=SUBJECT)
    except CommandError as error:
        raise CommandError(
            f"cannot be copied: {_nix.reason(error)}",
            subject=SUBJECT,
            field="runners",
            argv=error.argv,
            rc=error.rc,
            stderr=error.stderr,
        ) from error


# On the host that is to have them


@dataclass
class Closure:
    """What a host has of runners, or lacks."""

    changed: bool = False
    missing: tuple[str, ...] = ()
    # Of a host that was prepared: where the files are to go, and which.
    directory: str | None = None
    files: list[dict[str, t.Any]] = field(default_factory=list)

    def values(self) -> dict[str, t.Any]:
        """What the module returns."""
        return {
            "changed": self.changed,
            "missing": list(self.missing),
            "directory": self.directory,
            "files": self.files,
        }


def _incoming(paths: Paths) -> str:
    return os.path.join(paths.root, "var/lib/microvm-fleet/incoming")


def _roots(paths: Paths) -> str:
    return os.path.join(paths.root, "nix/var/nix/gcroots/microvm-fleet-copied")


@explaining()
def query(runners: t.Sequence[str], *, commands: Commands) -> Closure:
    """Which of *runners* the host lacks.  A path that is in a store has its closure there."""
    check_runners(runners)
    missing = _nix.invalid(commands, runners)
    return Closure(missing=missing)


@explaining()
def prepare(
    runners: t.Sequence[str], sent: t.Mapping[str, t.Any], *, paths: Paths, commands: Commands, check: bool
) -> Closure:
    """Which files of the closure *sent* the host needs, and where they are to go.

    What earlier runs have left is removed.  Raises FleetError when there is no room for all of it.
    """
    check_runners(runners)
    missing = _nix.invalid(commands, runners)
    if not missing:
        return Closure()
    parts = _closure.reachable(_closure.read_parts(sent), missing)
    lacking = [parts[path] for path in _nix.invalid(commands, parts)]
    _space.require(
        [
            _space.Need(_incoming(paths), sum(part.size for part in lacking), "what comes over"),
            _space.Need(paths.store("/nix/store"), sum(part.nar_size for part in lacking), "the closure itself"),
        ],
        subject=SUBJECT,
        field="closure",
    )
    directory = _place(paths, missing)
    if not check:
        _clean(paths, directory)
        os.makedirs(_incoming(paths), mode=0o700, exist_ok=True)
    files: list[dict[str, t.Any]] = [{"name": _closure.CACHE_INFO}]
    files += [{"name": part.info} for part in parts.values()]
    contents = {part.file: part for part in lacking}
    files += [{"name": part.file, "size": part.size, "sha256": part.sha256} for part in contents.values()]
    return Closure(changed=True, missing=missing, directory=directory, files=files)


def _place(paths: Paths, runners: t.Iterable[str]) -> str:
    """Where files for *runners* go: a run that is repeated finds what it left."""
    digest = hashlib.sha256("\n".join(sorted(runners)).encode("utf-8")).hexdigest()
    return os.path.join(_incoming(paths), digest[:32])


def _clean(paths: Paths, directory: str) -> None:
    """Remove what runs have left: *directory* itself, others and roots when they are a day old."""
    before = time.time() - LEFT_AFTER
    above = _incoming(paths)
    for entry in os.listdir(above) if os.path.isdir(above) else ():
        path = os.path.join(above, entry)
        if path == directory or os.lstat(path).st_mtime < before:
            shutil.rmtree(path)
    roots = _roots(paths)
    for entry in os.listdir(roots) if os.path.isdir(roots) else ():
        path = os.path.join(roots, entry)
        if os.lstat(path).st_mtime < before:
            os.unlink(path)


def _root(paths: Paths, runners: t.Iterable[str]) -> None:
    """Keep *runners* from the garbage collector until guests have them: a root of a path that is not there is none."""
    os.makedirs(_roots(paths), mode=0o755, exist_ok=True)
    for runner in runners:
        _files.write_link(os.path.join(_roots(paths), os.path.basename(runner)), runner)


@explaining()
def add(
    runners: t.Sequence[str],
    directory: str,
    *,
    public_keys: t.Sequence[str],
    paths: Paths,
    commands: Commands,
    timeout: float,
    check: bool,
) -> Closure:
    """Add the closures of *runners* from the cache in *directory* to the store, and remove that.

    Only what has a signature by one of *public_keys* is added; runners are rooted before anything of them is there.
    Raises FleetError, with nothing added, when the cache
    is not whole or a signature is missing.
    """
    check_runners(runners)
    check_keys(public_keys)
    missing = _nix.invalid(commands, runners)
    if missing and not check:
        cache = os.path.realpath(directory)
        if not plain(cache):
            raise InvalidWish(
                f"{cache!r} has characters that Nix would read otherwise.",
                subject=SUBJECT,
                field="directory",
                hint="Give a directory of letters, digits, and ./_+- only.",
            )
        try:
            _verify(commands, cache, missing, public_keys, timeout=timeout)
            _root(paths, missing)
            _add(commands, cache, missing, public_keys, timeout=timeout)
        except FleetError:
            for runner in _nix.invalid(commands, missing):
                _files.remove(os.path.join(_roots(paths), os.path.basename(runner)))
            raise
        finally:
            _remove(paths, directory)
    elif not check:
        _remove(paths, directory)
    return Closure(changed=bool(missing), missing=missing)


def check_keys(keys: t.Sequence[str]) -> None:
    """Raise InvalidWish unless there is a key, and each is one."""
    for key in keys:
        if _KEY.fullmatch(key) is None:
            raise InvalidWish(
                f"{key!r} is no public key.",
                subject=SUBJECT,
                field="public_keys",
                hint="Give NAME:KEY, as nix-store --generate-binary-cache-key writes it.",
            )
    if not keys:
        raise InvalidWish(
            "names no key, and nothing is added without a signature.",
            subject=SUBJECT,
            field="public_keys",
            hint="Give the public key of the host that has built it.",
        )


def _remove(paths: Paths, directory: str) -> None:
    """Remove a cache that has been read, where this collection has put it."""
    if os.path.dirname(os.path.abspath(directory)) == os.path.abspath(_incoming(paths)):
        shutil.rmtree(directory, ignore_errors=True)


def _verify(commands: Commands, cache: str, runners: t.Sequence[str], keys: t.Sequence[str], *, timeout: float) -> None:
    """Raise FleetError unless all that the host lacks of *runners* is in *cache*, whole and signed."""
    parts: dict[str, Part] = {}
    waiting = set(runners)
    while waiting:
        found = _closure.read_cache(cache, waiting)
        lost = sorted(waiting - set(found))
        if lost:
            raise _closure.torn(f"{_closure.info_of(lost[0])}, which tells of {lost[0]}, is missing.")
        parts.update(found)
        waiting = {path for part in found.values() for path in part.references} - set(parts)
    if _closure.size_of(cache, _closure.CACHE_INFO) is None:
        raise _closure.torn(f"{_closure.CACHE_INFO} is missing.")
    lacking = _nix.invalid(commands, parts)
    _closure.check_files(cache, [parts[path] for path in lacking])
    argv = ["nix", *_nix.FEATURES, "store", "verify", "--store", f"file://{cache}", "--no-contents"]
    argv += ["--sigs-needed", "1", "--option", "trusted-public-keys", " ".join(keys), *lacking]
    done = commands.run(argv, timeout=timeout, check=False, subject=SUBJECT)
    if done.rc == 0:
        return
    refused = sorted(set(_UNTRUSTED.findall(done.stdout + done.stderr)))
    if not refused:
        raise FleetError(
            f"its signatures cannot be verified: {last_lines(done.stderr, 3)}",
            subject=SUBJECT,
            field="public_keys",
            hint="Nothing was added to the store.",
        )
    more = f" and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
    raise FleetError(
        f"{', '.join(refused[:NAMED])}{more} has no signature by {', '.join(key.split(':')[0] for key in keys)}.",
        subject=SUBJECT,
        field="public_keys",
        hint="Sign it where it was built, or name the key that it was signed with. Nothing was added to the store.",
    )


def _add(commands: Commands, cache: str, runners: t.Sequence[str], keys: t.Sequence[str], *, timeout: float) -> None:
    """Let Nix add *runners* from *cache*: it verifies contents and signatures itself."""
    words = ["--from", f"file://{cache}", "--option", "trusted-public-keys", " ".join(keys)]
    _copy(commands, [*words, *runners], timeout=timeout)
    lost = _nix.invalid(commands, runners)
    if lost:
        raise FleetError(f"{lost[0]} is not in the store after it was copied there.", subject=SUBJECT, field="runners")
