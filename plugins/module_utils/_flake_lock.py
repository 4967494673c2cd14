# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nix's lock file and registry as data: what is locked, what is to be locked anew, and what Nix says about it.

Private to the collection: it may change at any time.

An input is locked anew by leaving it out of the lock file and having Nix complete it, which every Nix with flakes
does alike; the commands for a single input differ between versions.  What else Nix then has to look up again is
answered from the old lock file, by a registry that leads to exactly that.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import time
import typing as t
from urllib.parse import unquote

from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError, FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._flake_wish import PLACES, PREFIX, STUBS, SUBJECT
from ansible_collections.microvm.fleet.plugins.module_utils._nix import reason

Attributes = t.Mapping[str, t.Any]

# Names of what each forge's references begin with (nix3-flake(1), "Types").
_FORGES: t.Final = ("github", "gitlab", "sourcehut")


class Lock:
    """A lock file of Nix: nodes, their inputs, and the root among them."""

    def __init__(self, content: t.Mapping[str, t.Any]) -> None:
        self.content = content
        self._nodes: t.Mapping[str, t.Any] = content["nodes"]
        self._root = str(content["root"])

    def node(self, place: t.Sequence[str]) -> Attributes | None:
        """The node of the input at *place*, names from the root on; None when there is none."""
        name = self._name(place, ())
        return None if name is None else self._nodes.get(name)

    def _name(self, place: t.Sequence[str], seen: tuple[str, ...]) -> str | None:
        """The name of the node at *place*.  *seen* are the places that led here, which must not go in a ring."""
        name = self._root
        for step in place:
            there = self._nodes.get(name, {}).get("inputs", {}).get(step)
            if isinstance(there, list):
                mark = "/".join(there)
                found = None if mark in seen else self._name(there, (*seen, mark))
            else:
                found = there
            if found is None:
                return None
            name = str(found)
        return name

    def inputs(self) -> dict[str, str]:
        """Every input by its names from the root on, such as ``base/nixpkgs``, with what it is locked at in words."""
        found: dict[str, str] = {}
        waiting: list[tuple[tuple[str, ...], str]] = [((), self._root)]
        while waiting:
            place, name = waiting.pop()
            for step, there in self._nodes.get(name, {}).get("inputs", {}).items():
                if isinstance(there, str) and len(place) < 20:
                    found["/".join((*place, step))] = words(self._nodes.get(there, {}).get("locked", {}))
                    waiting.append(((*place, step), there))
        return dict(sorted(found.items()))

    def without(self, names: t.Collection[str]) -> dict[str, t.Any]:
        """The content without the inputs *names* of the root, and what only they led to."""
        content = t.cast("dict[str, t.Any]", json.loads(json.dumps(self.content)))
        root = content["nodes"][self._root]
        root["inputs"] = {step: there for step, there in root.get("inputs", {}).items() if step not in names}
        return content


def read_lock(text: str) -> Lock:
    """The lock file *text*.  Raises FleetError when it is none."""
    try:
        lock = Lock(json.loads(text))
        lock.inputs()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FleetError(
            "flake.lock is no lock file of Nix.",
            subject=SUBJECT,
            hint="Put it back from a backup, or remove it to have all inputs locked anew.",
        ) from error
    return lock


def words(locked: Attributes) -> str:
    """What an input is locked at, for people: its place, and the revision or the hash of its content."""
    kind = str(locked.get("type", "nothing"))
    revision = locked.get("rev")
    if kind in _FORGES:
        text = f"{kind}:{locked.get('owner')}/{locked.get('repo')}/{revision}"
    elif kind == "path":
        text = f"path:{locked.get('path')}"
    else:
        text = f"{kind} {locked.get('url', '')}".strip()
        if revision:
            text += f" at {revision}"
    notes = []
    if not revision and locked.get("narHash"):
        notes.append(str(locked["narHash"]))
    stamp = locked.get("lastModified")
    if isinstance(stamp, int) and stamp > 86400:
        notes.append(f"of {time.strftime('%Y-%m-%d', time.gmtime(stamp))}")
    return f"{text} ({', '.join(notes)})" if notes else text


def read_registry(text: str | None) -> dict[str, dict[str, t.Any]]:
    """Entries of our registry by the name of the input: ``to``, and the ``reference`` that it was made of.

    A registry that cannot be read has none: it is written anew whenever it is not as it should be.
    """
    entries: dict[str, dict[str, t.Any]] = {}
    try:
        for entry in json.loads(text or "{}").get("flakes", []):
            name = str(entry["from"]["id"])
            if name.startswith(PREFIX) and isinstance(entry["to"], dict):
                entries[name[len(PREFIX) :]] = {"to": entry["to"], "reference": entry.get("reference")}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return entries


def write_registry(entries: t.Mapping[str, Attributes]) -> str:
    """The registry with *entries* (nix3-registry(1), "Registry format").  Nix passes over what it does not know."""
    flakes = [
        {"from": {"type": "indirect", "id": PREFIX + name}, **{key: value for key, value in entry.items() if value}}
        for name, entry in sorted(entries.items())
    ]
    return json.dumps({"version": 2, "flakes": flakes}, indent=2, sort_keys=True) + "\n"


def due(
    references: t.Mapping[str, str],
    update: t.Collection[str],
    *,
    recorded: t.Mapping[str, Attributes],
    lock: Lock | None,
    base_hash: str | None,
) -> dict[str, str]:
    """The inputs that are to be locked anew, and why in words.

    *recorded* is what the last run was told; *base_hash* the hash of the collection's own base, when it is that.
    """
    found: dict[str, str] = {}
    for name, reference in references.items():
        node = None if lock is None else lock.node(PLACES[name])
        before = recorded.get(name, {}).get("reference")
        if node is None:
            found[name] = "it is not locked yet"
        elif before != reference:
            found[name] = f"its reference was {before}" if before else "nothing is known of its reference"
        elif name in update:
            found[name] = "an update is asked for"
        elif name == "base" and base_hash is not None and node.get("locked", {}).get("narHash") != base_hash:
            found[name] = "its files come with the collection and have changed"
    return found


def roots_of(names: t.Collection[str]) -> frozenset[str]:
    """The inputs of the root that have to go for *names* to be locked anew."""
    return frozenset(PLACES[name][0] for name in names)


def kept(names: t.Iterable[str], lock: Lock | None) -> dict[str, Attributes]:
    """What the inputs *names* are locked at, as entries of a registry."""
    found = {name: None if lock is None else lock.node(PLACES[name]) for name in names}
    return {name: {"to": node["locked"]} for name, node in found.items() if node is not None and "locked" in node}


def relocate(text: str, before: str, after: str) -> str:
    """The lock file *text* with inputs that are below the directory *before* said to be below *after*.

    Their times go: Nix 2.8 insists on them, and files that are installed again have others.
    """
    content = json.loads(text)
    for node in content["nodes"].values():
        attributes = node.get("locked", {})
        path = attributes.get("path")
        if isinstance(path, str) and path.startswith(before + "/"):
            attributes["path"] = after + path[len(before) :]
            attributes.pop("lastModified", None)
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def nar_hash(files: t.Mapping[str, bytes]) -> str:
    """The hash of a directory of plain *files*, as lock files have it: SHA-256 of its Nix archive.

    The archive's format is in Eelco Dolstra's thesis, "The Purely Functional Software Deployment Model", figure 5.2.
    """
    tree: dict[str, t.Any] = {}
    for path, content in files.items():
        *parents, name = path.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = content
    digest = hashlib.sha256(_text(b"nix-archive-1") + _archive(tree)).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def _archive(value: t.Mapping[str, t.Any] | bytes) -> bytes:
    if isinstance(value, bytes):
        parts = [b"(", b"type", b"regular", b"contents", value, b")"]
        return b"".join(_text(part) for part in parts)
    entries = [
        b"".join(_text(part) for part in (b"entry", b"(", b"name", name.encode(), b"node"))
        + _archive(value[name])
        + _text(b")")
        for name in sorted(value, key=lambda one: one.encode())
    ]
    return _text(b"(") + _text(b"type") + _text(b"directory") + b"".join(entries) + _text(b")")


def _text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content + b"\0" * (-len(content) % 8)


# Nix up to 2.18 while it evaluates, and all while they lock; Nix 2.26 while it evaluates has attributes for the input.
_MISMATCH = re.compile(
    r"(?P<what>NAR hash|'lastModified' attribute) mismatch in input '(?P<url>[^']+)'"
    r"|mismatch in field '(?P<field>narHash|lastModified)' of input '(?P<attributes>\{[^']*\})'"
)


def changed_input(stderr: str, lock: Lock | None) -> FleetError | None:
    """The error about an input that is not what it was when it was locked, of what a program of Nix said in *stderr*.

    None when it said nothing of the kind.  Only a directory can change so; Nix notices when it reads it again, after
    the garbage collector has taken the copy in the store.
    """
    found = _MISMATCH.search(stderr)
    if found is None:
        return None
    if found.group("attributes"):
        path = _path_of_attributes(found.group("attributes"))
    else:
        path = re.sub(r"^path:(//)?", "", unquote(found.group("url").split("?")[0]))
    places = [] if lock is None else [place for place in lock.inputs() if _locked_path(lock, place) == path]
    name = next((name for name, place in PLACES.items() if "/".join(place) in places), None)
    called = name or (places[0].split("/")[0] if places else "it")
    times = "lastModified" in (found.group("what") or found.group("field") or "")
    what = "the times of files in" if times else "the content of"
    return FleetError(
        f"{what} {path} {'are' if times else 'is'} not what {'they were' if times else 'it was'} when it was locked, "
        "and the copy in the store is gone.",
        subject=SUBJECT,
        field=name or (f"input {places[0]}" if places else None),
        hint=f"Name {called} in microvm_flake_update to take it as it is.",
    )


def _path_of_attributes(text: str) -> str:
    try:
        attributes = json.loads(text)
    except ValueError:
        return text
    return str(attributes.get("path") or attributes.get("url") or text)


def _locked_path(lock: Lock, place: str) -> str | None:
    node = lock.node(place.split("/"))
    path = (node or {}).get("locked", {}).get("path")
    return None if path is None else str(path)


def explain(
    error: CommandError, lock: Lock | None, *, references: t.Mapping[str, str], why: t.Collection[str]
) -> FleetError:
    """*error* of a program of Nix that locked the inputs *why*, in words about them."""
    changed = changed_input(error.stderr, lock)
    if changed is not None:
        return changed
    if re.search(r"follows a non-existent input '(base/)?nixpkgs'", error.stderr):
        return _again(
            error,
            f"the base flake {references['base']} has no input of the name nixpkgs.",
            "base",
            "In its flake.nix, give the input that the host is built from the name nixpkgs.",
        )
    missing = re.search(r"cannot find flake 'flake:([^']+)' in the flake registries", error.stderr)
    if missing:
        return _again(
            error,
            f"a flake among the inputs asks for {missing.group(1)} by a name that registries have for it.",
            None,
            "Give that input a reference of its own there, or lock that flake.",
        )
    return _again(
        error,
        f"cannot be locked: {reason(error)}",
        _at_fault(error.stderr, references, why),
        "See that root on the host may fetch them, or correct the reference.",
    )


def _at_fault(stderr: str, references: t.Mapping[str, str], why: t.Collection[str]) -> str:
    """Which input of *why* Nix speaks of: newer ones say it, older ones only name its place."""
    named = re.findall(r"while (?:updating|fetching) the flake input '([^']+)'", stderr)
    for name, place in PLACES.items():
        if named and named[-1] == "/".join(place):
            return name
    for name, reference in references.items():
        if re.sub(r"^\w[\w+.-]*:(//)?", "", reference).split("?")[0] in stderr:
            return name
    if named:
        return f"input {named[-1]}"
    return ", ".join(sorted(why))


def _again(error: CommandError, seen: str, field: str | None, hint: str) -> CommandError:
    return CommandError(
        seen,
        subject=SUBJECT,
        field=field,
        hint=hint,
        argv=error.argv,
        rc=error.rc,
        stdout=error.stdout,
        stderr=error.stderr,
    )


def is_stub(reference: str) -> bool:
    """Whether the base *reference* is one that the collection brings."""
    return reference in STUBS
