# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Closures in a directory that is a binary cache of Nix: what its files say, and which of them a host needs.

Private to the collection: it may change at any time.

A cache has a file ``HASH.narinfo`` for each store path, whose lines are ``Key: value``, and the contents as ``nar/...``
(libstore's nar-info.cc).  Nix verifies a signature of name, content, size and references of a path; which file has the
content, and its hash, are not signed.
"""

from __future__ import annotations

import hashlib
import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._contract import is_store_path
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._files import read_text
from ansible_collections.microvm.fleet.plugins.module_utils._paths import STORE

CACHE_INFO: t.Final = "nix-cache-info"
SUBJECT: t.Final = "closure"

# Nix' own digits, of which the last stand for the first bits (libutil's hash.cc, "base32").
_DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"
_FILE = re.compile(r"nar/[0-9A-Za-z._+-]+")
_HASH = re.compile(r"sha256:([0-9a-df-np-sv-z]{52})")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Part:
    """One store path of a closure, and the file of the cache that has its content.

    *references* are store paths; *nar_size* are the bytes that it takes in a store, *size* and *sha256* (in
    hexadecimal digits) are of the *file*.
    """

    path: str
    references: tuple[str, ...]
    nar_size: int
    file: str
    size: int
    sha256: str

    @property
    def info(self) -> str:
        """The name of the file that says all this."""
        return info_of(self.path)

    def as_dict(self) -> dict[str, t.Any]:
        """To be sent; the inverse is `read_parts`.  References are shortened: a closure has thousands of them."""
        return {
            "references": [os.path.basename(path) for path in self.references],
            "nar_size": self.nar_size,
            "file": self.file,
            "size": self.size,
            "sha256": self.sha256,
        }


def info_of(path: str) -> str:
    """The name of the file of a cache that tells of store path *path*."""
    return f"{os.path.basename(path)[:32]}.narinfo"


def read_parts(sent: t.Mapping[str, t.Any]) -> dict[str, Part]:
    """A closure as it was sent, by path.  Raises InvalidWish for what nobody would have sent."""
    parts = {}
    for path, entry in sent.items():
        try:
            part = Part(
                path=path,
                references=tuple(f"{STORE}/{name}" for name in entry["references"]),
                nar_size=int(entry["nar_size"]),
                file=entry["file"],
                size=int(entry["size"]),
                sha256=entry["sha256"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _unsent(f"{path}: {type(error).__name__}: {error}.") from None
        if not all(is_store_path(each) for each in (path, *part.references)):
            raise _unsent(f"{path} or what it refers to is no path in /nix/store.")
        if _FILE.fullmatch(str(part.file)) is None or not re.fullmatch(r"[0-9a-f]{64}", str(part.sha256)):
            raise _unsent(f"{path}: {part.file!r} with the hash {part.sha256!r} is no file of a binary cache.")
        parts[path] = part
    for part in parts.values():
        lost = next((path for path in part.references if path not in parts), None)
        if lost is not None:
            raise _unsent(f"{part.path} refers to {lost}, which is not in the closure.")
    return parts


def _unsent(seen: str) -> InvalidWish:
    return InvalidWish(
        seen, subject=SUBJECT, field="closure", hint="Give what microvm.fleet.microvm_closure_export has returned."
    )


def reachable(parts: t.Mapping[str, Part], runners: t.Iterable[str]) -> dict[str, Part]:
    """Those of *parts* that *runners* need, themselves included.  Raises InvalidWish when one is not there."""
    found: dict[str, Part] = {}
    waiting = list(runners)
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        if path not in parts:
            raise _unsent(f"it lacks {path}.")
        found[path] = parts[path]
        waiting += parts[path].references
    return found


def read_info(text: str, where: str) -> Part:
    """What the file *where*, a narinfo with this *text*, says.  Raises FleetError when that is not all there."""
    said = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    path, file = said.get("StorePath", ""), said.get("URL", "")
    digest = _HASH.fullmatch(said.get("FileHash", ""))
    sizes = [int(word) for word in (said.get("NarSize", ""), said.get("FileSize", "")) if word.isdigit()]
    if digest is None or len(sizes) < 2 or not is_store_path(path) or _FILE.fullmatch(file) is None:
        raise torn(f"{where} does not say what it should.")
    # A path may refer to itself.
    names = [name for name in said.get("References", "").split() if name != os.path.basename(path)]
    return Part(
        path=path,
        references=tuple(f"{STORE}/{name}" for name in names),
        nar_size=sizes[0],
        file=file,
        size=sizes[1],
        sha256=hexadecimal(digest.group(1)),
    )


def torn(seen: str) -> FleetError:
    """The error for a cache that is not whole."""
    return FleetError(seen, subject=SUBJECT, field="directory", hint="Copy it again. Nothing was added to the store.")


def hexadecimal(text: str) -> str:
    """A hash of 256 bits in Nix' digits as hexadecimal ones."""
    number = 0
    for digit in text:
        number = number << 5 | _DIGITS.index(digit)
    return number.to_bytes(33, "little")[:32].hex()


def read_cache(directory: str, paths: t.Iterable[str]) -> dict[str, Part]:
    """What the cache in *directory* says of store *paths*; those that it does not tell of are left out.

    Raises FleetError for a file that says nothing of its path.
    """
    found = {}
    for path in paths:
        name = info_of(path)
        text = read_text(os.path.join(directory, name))
        if text is None:
            continue
        part = read_info(text, name)
        if part.path != path:
            raise torn(f"{name} tells of {part.path}, and not of {path}.")
        found[path] = part
    return found


def size_of(directory: str, file: str) -> int | None:
    """The size of a *file* of a cache; None when it is not there, or no regular file."""
    path = os.path.join(directory, file)
    return os.stat(path).st_size if os.path.isfile(path) and not os.path.islink(path) else None


def check_files(directory: str, parts: t.Iterable[Part]) -> None:
    """Raise FleetError unless the cache in *directory* has the contents of *parts* as they were made."""
    for part in parts:
        size = size_of(directory, part.file)
        if size is None:
            raise torn(f"{part.file}, the content of {part.path}, is missing.")
        if size != part.size:
            raise torn(f"{part.file}, the content of {part.path}, has {size} bytes and should have {part.size}.")
        if _sha256(os.path.join(directory, part.file)) != part.sha256:
            raise torn(f"{part.file}, the content of {part.path}, is damaged: its checksum is another one.")


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while True:
            content = stream.read(_CHUNK)
            if not content:
                return digest.hexdigest()
            digest.update(content)


def sizes_of_text(text: str) -> dict[str, int]:
    """Sizes by store path of what ``nix path-info --size`` or ``--closure-size`` printed: ``PATH SIZE`` a line."""
    sizes = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[-1].isdigit():
            sizes[words[0]] = int(words[-1])
    return sizes
