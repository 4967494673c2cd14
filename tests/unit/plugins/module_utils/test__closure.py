# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the files of a binary cache say, as Nix wrote them, and what is sent of it."""

from __future__ import annotations

import hashlib
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _closure
from ansible_collections.microvm.fleet.plugins.module_utils._closure import Part
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.tests.unit.support.fakenix import nix32, store_path

# Of Nix 2.26.
INFO = """\
StorePath: /nix/store/46694n7d8i80kav01jv8yhyqvvy6n172-microvm-web1-microvm-run
URL: nar/0j6b4bqljqgsnwnr18v4ghmywr1848hcsi523djk2vpgydpmw3dk.nar.zst
Compression: zstd
FileHash: sha256:0j6b4bqljqgsnwnr18v4ghmywr1848hcsi523djk2vpgydpmw3dk
FileSize: 1369
NarHash: sha256:1md3hjbdbnd36j3dnd6acq6k1df9hrv4v02ynsmq40xsbdbmfdi6
NarSize: 2392
References: nbk4lxc0qkpby78hc5d7kiy8jpiwfdxp-microvm-web1-disk ndwqq1myj9m4m2bi0qdf7d7601xmr84v-linux-testbed-guest
Deriver: h8fgvzd5h4db4cax343njfdw736460hc-microvm-web1.drv
Sig: test-1:l/x9qcW1pkhCWFbpjdontSuZKligwntZCBnj//MSpUz/2yFX7ifnHkqW7gt2DrX2EOW04yOGpqwxkQGTK6psAA==
"""
A, B, C = (store_path(name) for name in "abc")


def part(path: str, *references: str) -> Part:
    return Part(path, references, nar_size=10, file=f"nar/{path[11:43]}.nar.zst", size=5, sha256="0" * 64)


def test_what_nix_wrote() -> None:
    found = _closure.read_info(INFO, "x.narinfo")
    assert found.path == "/nix/store/46694n7d8i80kav01jv8yhyqvvy6n172-microvm-web1-microvm-run"
    assert found.references == (
        "/nix/store/nbk4lxc0qkpby78hc5d7kiy8jpiwfdxp-microvm-web1-disk",
        "/nix/store/ndwqq1myj9m4m2bi0qdf7d7601xmr84v-linux-testbed-guest",
    )
    assert (found.nar_size, found.size) == (2392, 1369)
    assert found.file == "nar/0j6b4bqljqgsnwnr18v4ghmywr1848hcsi523djk2vpgydpmw3dk.nar.zst"
    assert found.info == "46694n7d8i80kav01jv8yhyqvvy6n172.narinfo"


def test_a_path_that_refers_to_itself() -> None:
    text = INFO.replace("References: ", "References: 46694n7d8i80kav01jv8yhyqvvy6n172-microvm-web1-microvm-run ")
    assert _closure.read_info(text, "x") == _closure.read_info(INFO, "x")


@pytest.mark.parametrize("key", ["StorePath", "URL", "FileHash", "FileSize", "NarSize"])
@pytest.mark.parametrize("value", [None, "", "x", "../../etc/passwd", "sha256:e"])
def test_what_says_too_little(key: str, value: str | None) -> None:
    lines = [line for line in INFO.splitlines() if not line.startswith(f"{key}: ")]
    text = "\n".join([*lines, *([] if value is None else [f"{key}: {value}"])])
    with pytest.raises(FleetError) as caught:
        _closure.read_info(text, "x.narinfo")
    assert caught.value.seen == "x.narinfo does not say what it should."


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 99])
def test_hashes_of_nix(content: bytes) -> None:
    digest = hashlib.sha256(content)
    assert _closure.hexadecimal(nix32(digest.digest())) == digest.hexdigest()


def test_a_hash_as_nix_prints_it() -> None:
    # nix-hash --type sha256 --base32 --flat /dev/null
    empty = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"
    assert _closure.hexadecimal(empty) == hashlib.sha256(b"").hexdigest()


def test_what_is_sent_is_read() -> None:
    parts = {A: part(A, B, C), B: part(B, C), C: part(C)}
    sent = {path: each.as_dict() for path, each in parts.items()}
    assert _closure.read_parts(sent) == parts
    assert sent[A]["references"] == [B[11:], C[11:]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"references": None}, f"{A}: TypeError"),
        ({"references": ["../etc"]}, "is no path in /nix/store."),
        ({"nar_size": "x"}, f"{A}: ValueError"),
        ({"file": "../../etc/passwd"}, "is no file of a binary cache."),
        ({"file": "nar/../x"}, "is no file of a binary cache."),
        ({"file": None}, "is no file of a binary cache."),
        ({"sha256": "0"}, "is no file of a binary cache."),
        ({"references": [B[11:]]}, f"{A} refers to {B}, which is not in the closure."),
    ],
)
def test_what_nobody_sends(change: dict[str, t.Any], said: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        _closure.read_parts({A: {**part(A).as_dict(), **change}})
    assert said in caught.value.seen
    assert caught.value.text().endswith(" Give what microvm.fleet.microvm_closure_export has returned.")


def test_a_path_that_nobody_sends() -> None:
    with pytest.raises(InvalidWish, match="is no path in /nix/store"):
        _closure.read_parts({"/etc": part(A).as_dict()})
    with pytest.raises(InvalidWish, match="KeyError"):
        _closure.read_parts({A: {}})


@pytest.mark.parametrize(
    ("runners", "found"), [((), ()), ((C,), (C,)), ((B,), (B, C)), ((A,), (A, B, C)), ((B, C), (B, C))]
)
def test_reachable(runners: tuple[str, ...], found: tuple[str, ...]) -> None:
    parts = {A: part(A, B, C), B: part(B, C), C: part(C)}
    assert sorted(_closure.reachable(parts, runners)) == sorted(found)


def test_what_is_not_in_the_closure() -> None:
    with pytest.raises(InvalidWish, match="it lacks"):
        _closure.reachable({}, [A])


def test_a_cache_that_tells_of_some(tmp_path: Path) -> None:
    found = _closure.read_info(INFO, "x")
    (tmp_path / found.info).write_text(INFO, encoding="utf-8")
    assert _closure.read_cache(str(tmp_path), [found.path, A]) == {found.path: found}


@pytest.mark.parametrize("kind", ["none", "directory", "link", "file"])
def test_sizes_are_those_of_files(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "x"
    if kind == "directory":
        place.mkdir()
    elif kind == "link":
        place.symlink_to("/etc/passwd")
    elif kind == "file":
        place.write_text("abc", encoding="utf-8")
    assert _closure.size_of(str(tmp_path), "x") == (3 if kind == "file" else None)


def test_sizes_of_a_text() -> None:
    text = f"{A}\t    14746928\n{B}    0\nwarning: x\n\n"
    assert _closure.sizes_of_text(text) == {A: 14746928, B: 0}
