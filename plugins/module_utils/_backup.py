# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a backup of a guest is, without any I/O: the manifest, and what makes one that cannot be trusted.

Private to the collection: it may change at any time.

A backup is a directory with a file for each volume and ``manifest.json``, which is written last and names them all.
docs/volumes.md says what is in it.
"""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils._contract import NO_DATA
from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import name_faults as guest_faults
from ansible_collections.microvm.fleet.plugins.module_utils._stream_end import name_faults

FORMAT: t.Final = 1
MANIFEST: t.Final = "manifest.json"
SUFFIXES: t.Final = {"none": "", "gzip": ".gz", "zstd": ".zst"}
# What a state directory has beside volumes: an image of such a name would replace what root runs or reads.
RESERVED: t.Final = NO_DATA | {MANIFEST}
_SHA256 = re.compile(r"[0-9a-f]{64}")


def image_faults(image: t.Any) -> t.Iterator[str]:
    """What is wrong with *image* as the name of a volume in a state directory."""
    yield from name_faults(image)
    if isinstance(image, str) and image.split("/")[0] in RESERVED:
        yield f"{image!r} is the name of something else in a state directory."


@dataclass(frozen=True)
class Image:
    """One volume in a backup: *file* in the form *pack*, and what it is when it is unpacked.  Sizes in bytes."""

    image: str
    file: str
    pack: str
    size: int
    sha256: str
    allocated: int
    stored_size: int
    stored_sha256: str

    def wanted(self) -> dict[str, t.Any]:
        """What a source is asked for, to restore it."""
        return {"name": self.file, "as": self.image, "decode": None if self.pack == "none" else self.pack}

    def expected(self) -> dict[str, t.Any]:
        """What a sink compares with."""
        return {
            "size": self.size,
            "sha256": self.sha256,
            "allocated": self.allocated,
            "wire_size": self.stored_size,
            "wire_sha256": self.stored_sha256,
        }


@dataclass(frozen=True)
class Backup:
    """A backup, as its manifest says it.  *guest* is what was known of the guest."""

    name: str
    time: str
    images: tuple[Image, ...]
    guest: t.Mapping[str, t.Any] = field(default_factory=dict)


def stored_name(image: str, pack: str) -> str:
    """The name of the file for *image* in a backup."""
    return image + SUFFIXES[pack]


def manifest(
    name: str, guest: t.Mapping[str, t.Any], images: t.Sequence[str], *, pack: str, **said: t.Any
) -> dict[str, t.Any]:
    """The manifest, but for the files, which the sink adds as it has written them."""
    return {
        "format": FORMAT,
        "name": name,
        "guest": dict(guest),
        "pack": pack,
        "images": list(images),
        **said,
    }


def read_manifest(text: str, place: str) -> Backup:
    """The backup whose manifest is *text*.  Raises InvalidWish, naming *place* and what is wrong."""

    def wrong(seen: str) -> InvalidWish:
        return InvalidWish(
            seen, subject=f"backup {place}", field=MANIFEST, hint="It is damaged, or no backup. Take another."
        )

    try:
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise InvalidWish(
                f"its format is {values['format']!r}, and {FORMAT} is the one that is known.",
                subject=f"backup {place}",
                field=MANIFEST,
                hint="Use the release of the collection that made it.",
            )
        name, when, pack = values["name"], values["time"], values["pack"]
        guest, wished = dict(values["guest"]), [str(image) for image in values["images"]]
        images = tuple(_image(entry, pack) for entry in values["files"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise wrong(f"it cannot be read: {type(error).__name__} {error}.") from error
    if not isinstance(name, str) or list(guest_faults(name)):
        raise wrong(f"{name!r} is no name of a guest.")
    if sorted(each.image for each in images) != sorted(wished):
        raise wrong("its list of files is not that of its volumes.")
    for each in images:
        faults = [*image_faults(each.image), *name_faults(each.file)]
        if faults:
            raise wrong(faults[0])
        if each.file != stored_name(each.image, each.pack):
            raise wrong(f"{each.file!r} is not the file of the volume {each.image!r}.")
        for digest in (each.sha256, each.stored_sha256):
            if not _SHA256.fullmatch(digest):
                raise wrong(f"{digest!r} is no SHA-256.")
        if min(each.size, each.allocated, each.stored_size) < 0:
            raise wrong(f"{each.image} has a size below zero.")
    return Backup(name=name, time=str(when), images=images, guest=guest)


def _image(entry: t.Mapping[str, t.Any], pack: str) -> Image:
    if pack not in SUFFIXES:
        raise ValueError(f"pack {pack!r}")
    source = entry["source"]
    return Image(
        image=str(source["name"]),
        file=str(entry["name"]),
        pack=pack,
        size=int(source["size"]),
        sha256=str(source["sha256"]),
        allocated=int(source["allocated"]),
        stored_size=int(entry["size"]),
        stored_sha256=str(entry["sha256"]),
    )
