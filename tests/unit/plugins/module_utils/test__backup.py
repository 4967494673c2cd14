# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manifests of backups: what is written is read again, and what cannot be trusted is refused."""

from __future__ import annotations

import json
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._backup import (
    image_faults,
    manifest,
    read_manifest,
    stored_name,
)
from ansible_collections.microvm.fleet.plugins.module_utils._contract import NO_DATA
from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish

DIGEST = "ab" * 32


def written(pack: str = "gzip", **changes: t.Any) -> dict[str, t.Any]:
    """A manifest as a sink has written it."""
    said = manifest(
        "db1",
        {"flake": "git+https://git.example.org/infra", "labels": {"a": "b"}},
        ["data.img"],
        pack=pack,
        time="20261123T180000Z",
        running=True,
    )
    said["files"] = [
        {
            "name": stored_name("data.img", pack),
            "size": 70,
            "sha256": DIGEST,
            "allocated": 4096,
            "source": {"name": "data.img", "size": 1000, "sha256": DIGEST, "allocated": 512},
        }
    ]
    return {**said, **changes}


@pytest.mark.parametrize(
    ("pack", "file", "form"),
    [("gzip", "data.img.gz", "gzip"), ("zstd", "data.img.zst", "zstd"), ("none", "data.img", None)],
)
def test_what_is_written_is_read_again(pack: str, file: str, form: str | None) -> None:
    backup = read_manifest(json.dumps(written(pack)), "/srv/x")
    assert (backup.name, backup.time) == ("db1", "20261123T180000Z")
    assert backup.guest["labels"] == {"a": "b"}
    (image,) = backup.images
    assert image.wanted() == {"name": file, "as": "data.img", "decode": form}
    assert image.expected() == {
        "size": 1000,
        "sha256": DIGEST,
        "allocated": 512,
        "wire_size": 70,
        "wire_sha256": DIGEST,
    }


def test_a_backup_without_volumes_can_be_read() -> None:
    assert read_manifest(json.dumps(written(images=[], files=[])), "/srv/x").images == ()


def changed(path: str, value: t.Any) -> dict[str, t.Any]:
    said = written()
    place: t.Any = said
    *parts, last = path.split(".")
    for part in parts:
        place = place[int(part) if part.isdigit() else part]
    place[last] = value
    return said


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (changed("format", 2), "its format is 2, and 1 is the one that is known"),
        (changed("name", "../x"), "is no name of a guest"),
        (changed("name", 5), "is no name of a guest"),
        (changed("pack", "rar"), "it cannot be read: ValueError pack 'rar'"),
        (changed("files", None), "it cannot be read"),
        (changed("files", []), "its list of files is not that of its volumes"),
        (changed("images", []), "its list of files is not that of its volumes"),
        (changed("files.0.name", "other.gz"), "'other.gz' is not the file of the volume 'data.img'"),
        (changed("files.0.source.sha256", "xyz"), "'xyz' is no SHA-256"),
        (changed("files.0.sha256", ""), "'' is no SHA-256"),
        (changed("files.0.size", -1), "has a size below zero"),
        (changed("files.0.size", "many"), "it cannot be read: ValueError"),
        (changed("guest", 7), "it cannot be read"),
        ([], "it cannot be read"),
        ("rubbish", "it cannot be read"),
    ],
)
def test_what_cannot_be_trusted_is_refused(said: t.Any, words: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        read_manifest(json.dumps(said), "/srv/x")
    assert words in caught.value.text()
    assert caught.value.text().startswith("backup /srv/x, manifest.json: ")
    assert caught.value.hint


def test_a_manifest_that_is_cut_is_refused() -> None:
    text = json.dumps(written())
    for cut in range(0, len(text) - 1, 11):
        with pytest.raises(InvalidWish, match="it cannot be read"):
            read_manifest(text[:cut], "/srv/x")


@pytest.mark.parametrize(
    "image", ["current", "booted", "flake", "manifest.json", "../x", "/dev/sda", "a/../b", "current/x"]
)
def test_images_that_would_replace_something_else_are_refused(image: str) -> None:
    assert list(image_faults(image))
    said = written("none", images=[image])
    said["files"][0].update(name=image)
    said["files"][0]["source"]["name"] = image
    with pytest.raises(InvalidWish):
        read_manifest(json.dumps(said), "/srv/x")


def test_all_that_is_no_data_is_no_image() -> None:
    assert all(list(image_faults(name)) for name in NO_DATA)
    assert not list(image_faults("data.img"))
    assert not list(image_faults("images/data.img"))
