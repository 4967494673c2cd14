# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the static flake of a host is to be: references, files and credentials, with every check that needs no host.

Private to the collection: it may change at any time.  Used on the controller too.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import typing as t
import zlib
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import name_faults
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import flake_faults

SUBJECT: t.Final = "flake"
PLACE: t.Final = "/etc/microvm-fleet"
# Flakes of the collection that stand in where a host has none of its own.
NIXPKGS_BASE: t.Final = f"path:{PLACE}/bases/nixpkgs"
CONFIGURATION_BASE: t.Final = f"path:{PLACE}/bases/configuration"
STUBS: t.Final = (NIXPKGS_BASE, CONFIGURATION_BASE)
# By what name flake.nix and the bases ask the registry for each.
PREFIX: t.Final = "microvm-fleet-"
INPUTS: t.Final = ("base", "microvm", "nixpkgs", "configuration")
# Where each is in the lock file, as the names of inputs from the root.
PLACES: t.Final[t.Mapping[str, tuple[str, ...]]] = {
    "base": ("base",),
    "microvm": ("microvm",),
    "nixpkgs": ("base", "nixpkgs"),
    "configuration": ("base", "configuration"),
}
FILES_LIMIT: t.Final = 1000
BYTES_LIMIT: t.Final = 4 << 20

# systemd.exec(5), LoadCredential=: a name of a file, and no colon, which ends it there.
_CREDENTIAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")


@dataclass(frozen=True)
class Secret:
    """A credential: its content, or the file of the host that has it."""

    content: bytes | None = None
    path: str | None = None


@dataclass(frozen=True)
class FlakeWish:
    """The flake as it is to be.

    *references* by the name of the input, those that the base needs and no others; *update* the inputs that are to be
    locked anew; *files* by their path below the directory; *secrets* of each guest that the inventory describes.
    """

    references: t.Mapping[str, str]
    update: frozenset[str] = frozenset()
    files: t.Mapping[str, bytes] = field(default_factory=dict)
    secrets: t.Mapping[str, t.Mapping[str, Secret]] = field(default_factory=dict)


def flake_spec() -> dict[str, t.Any]:
    """The argument spec of the module, whose defaults hold on the controller too."""
    return {
        "base": {"type": "str", "default": NIXPKGS_BASE},
        "nixpkgs": {"type": "str", "default": "github:NixOS/nixpkgs/nixos-26.05"},
        "microvm": {"type": "str", "default": "github:microvm-nix/microvm.nix"},
        "configuration": {"type": "str", "default": "path:/etc/nixos"},
        "update": {"type": "raw", "default": []},
        "guests": {"type": "list", "elements": "dict", "default": []},
        "search": {"type": "list", "elements": "path", "default": []},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "force": {"type": "bool", "default": False},
        "timeout": {"type": "int", "default": 900},
        "lock_timeout": {"type": "int", "default": 60},
        # Long, and of no use to anybody in a log; what is in the second must not be in one.
        "files": {"type": "str", "no_log": True},
        "secrets": {"type": "str", "no_log": True},
    }


def read_references(params: t.Mapping[str, t.Any]) -> dict[str, str]:
    """The references of the inputs that there are with this base.  Raises InvalidWish with all that is wrong."""
    wrong: list[InvalidWish] = []
    references: dict[str, str] = {}
    base = _stub_of(str(params.get("base")))
    for name in _inputs_of(base):
        reference = base if name == "base" else str(params.get(name) or "")
        faults = list(flake_faults(reference))
        if faults and "#" in reference and not re.search(r"\s", reference):
            faults = [f"{reference!r} names an output after '#', and an input is a whole flake."]
        if reference.startswith("flake:"):
            faults.append(f"{reference!r} is an entry of a registry, which may be something else tomorrow.")
        wrong.extend(
            InvalidWish(
                seen,
                subject=SUBJECT,
                field=name,
                hint="Give one such as github:OWNER/NAME/BRANCH, git+https://HOST/REPOSITORY or path:/DIRECTORY.",
            )
            for seen in faults
        )
        references[name] = reference
    if wrong:
        raise InvalidWish("\n".join(error.text() for error in wrong))
    return references


def _stub_of(reference: str) -> str:
    """The reference of a base of the collection however it is written, or *reference*."""
    bare = "path:" + re.sub(r"^path:(//)?", "", reference).rstrip("/")
    return bare if bare in STUBS else reference


def _inputs_of(base: str) -> tuple[str, ...]:
    """The inputs that the references of variables are for.  A base of the user's own brings its own nixpkgs."""
    if base == CONFIGURATION_BASE:
        return ("base", "microvm", "nixpkgs", "configuration")
    return ("base", "microvm", "nixpkgs") if base in STUBS else ("base", "microvm")


def read_update(value: t.Any, references: t.Mapping[str, str]) -> frozenset[str]:
    """The inputs to lock anew: all with True, those of a list, or none.  Raises InvalidWish."""
    if value is None or value is False or value == "":
        return frozenset()
    if value is True:
        return frozenset(references)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)):
        raise InvalidWish(
            f"{value!r} is neither true nor a list of inputs.",
            subject=SUBJECT,
            field="update",
            hint=_choose(references),
        )
    for name in names:
        if name in references:
            continue
        seen = f"{name!r} is no input."
        if name in INPUTS:
            seen = f"{name} is an input of the base flake, {references['base']}, and locked there."
            hint = "Update it there, and name base here." if name == "nixpkgs" else _choose(references)
        else:
            hint = _choose(references)
        raise InvalidWish(seen, subject=SUBJECT, field="update", hint=hint)
    return frozenset(str(name) for name in names)


def _choose(references: t.Mapping[str, str]) -> str:
    return f"Name some of {', '.join(references)}, or say true."


def relative_faults(path: str) -> t.Iterator[str]:
    """What is wrong with *path* as the place of a file below a directory."""
    parts = path.split("/")
    if not path:
        yield "is empty."
    elif path.startswith("/"):
        yield f"{path!r} is absolute."
    elif ".." in parts:
        yield f"{path!r} leaves its directory by '..'."
    elif "" in parts or "." in parts:
        yield f"{path!r} has an empty part or '.'."
    elif not path.isprintable():
        yield f"{path!r} has control characters."


def credential_faults(name: str) -> t.Iterator[str]:
    """What is wrong with *name* as that of a credential, which is a file's name and stands in a unit's setting."""
    if _CREDENTIAL.fullmatch(name) is None:
        yield f"{name!r} is no name of a credential."


def pack(value: t.Any) -> str:
    """*value*, of what JSON has, as text for a module's argument."""
    return base64.b64encode(zlib.compress(json.dumps(value, sort_keys=True).encode(), 9)).decode("ascii")


def unpack(text: str) -> t.Any:
    """What `pack` has packed.  Raises InvalidWish for anything else."""
    try:
        return json.loads(zlib.decompress(base64.b64decode(text, validate=True)))
    except (ValueError, binascii.Error, zlib.error) as error:
        raise InvalidWish(
            "the files did not arrive.", subject=SUBJECT, hint="Call microvm.fleet.microvm_flake by its full name."
        ) from error


def read_files(packed: str | None) -> dict[str, bytes]:
    """The files that the controller has packed, by their path below the directory."""
    files = unpack(packed) if packed else {}
    for path in files:
        for seen in relative_faults(path):
            raise InvalidWish(seen, subject=SUBJECT, field="files")
    return {path: base64.b64decode(content) for path, content in files.items()}


def read_secrets(packed: str | None) -> dict[str, dict[str, Secret]]:
    """The credentials that the controller has packed: guest, name, and content or path."""
    secrets: dict[str, dict[str, Secret]] = {}
    for guest, entries in (unpack(packed) if packed else {}).items():
        for seen in name_faults(guest):
            raise InvalidWish(seen, subject=f"guest {guest!r}", field="credentials")
        secrets[guest] = {}
        for name, entry in entries.items():
            for seen in credential_faults(name):
                raise InvalidWish(seen, subject=f"guest {guest}", field="credentials")
            content = entry.get("content")
            secrets[guest][name] = Secret(
                content=None if content is None else base64.b64decode(content), path=entry.get("path")
            )
    return secrets


def read_wish(params: t.Mapping[str, t.Any]) -> FlakeWish:
    """The wish of a module's arguments, after the action plugin has put files and credentials into them."""
    references = read_references(params)
    files = read_files(params.get("files"))
    if "flake.nix" not in files:
        raise InvalidWish(
            "the files did not arrive.", subject=SUBJECT, hint="Call microvm.fleet.microvm_flake by its full name."
        )
    return FlakeWish(
        references=references,
        update=read_update(params.get("update"), references),
        files=files,
        secrets=read_secrets(params.get("secrets")),
    )
