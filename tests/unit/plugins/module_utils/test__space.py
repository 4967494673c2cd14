# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Room for what is to be written, on filesystems of given sizes."""

from __future__ import annotations

import os
import types
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _space
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._space import MIB, Need


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Filesystems by their directories, with the MiB that are free upon each."""
    sizes = {"store": 1000, "var": 500}
    for name in sizes:
        (tmp_path / name).mkdir()

    def disk(path: str) -> str:
        return Path(path).relative_to(tmp_path).parts[0]

    def statvfs(path: str) -> t.Any:
        # Root's own blocks are not counted.
        return types.SimpleNamespace(f_bavail=sizes[disk(path)] * 256, f_bfree=1 << 40, f_frsize=4096)

    def stat(path: str, **_options: t.Any) -> t.Any:
        return types.SimpleNamespace(st_dev=list(sizes).index(disk(path)))

    monkeypatch.setattr(_space, "os", types.SimpleNamespace(path=os.path, statvfs=statvfs, stat=stat))
    return sizes


def need(tmp_path: Path, place: str, size: int, what: str = "images") -> Need:
    return Need(str(tmp_path / place), size * MIB, what)


@pytest.mark.parametrize(
    ("needs", "reserve", "fits"),
    [
        ([], 0, True),
        ([("store", 1000)], 0, True),
        ([("store", 1001)], 0, False),
        ([("store", 900)], 100, True),
        ([("store", 901)], 100, False),
        ([("store", 600), ("var", 400)], 100, True),
        ([("store", 600), ("store/x", 401)], 0, False),
        ([("var", 501), ("store", 1)], 0, False),
        # What needs nothing is not refused for a disk that is full.
        ([("store", 0)], 5000, True),
    ],
)
@pytest.mark.usefixtures("disks")
def test_room(tmp_path: Path, needs: list[tuple[str, int]], reserve: int, fits: bool) -> None:
    wanted = [need(tmp_path, place, size) for place, size in needs]
    if fits:
        _space.require(wanted, reserve=reserve * MIB)
    else:
        with pytest.raises(FleetError):
            _space.require(wanted, reserve=reserve * MIB)


@pytest.mark.usefixtures("disks")
def test_what_is_missing_is_said(tmp_path: Path) -> None:
    wanted = [need(tmp_path, "var/a/b", 300, "the closure"), need(tmp_path, "var/c", 200, "its copy")]
    with pytest.raises(FleetError) as caught:
        _space.require(wanted, reserve=10 * MIB, subject="host", field="min_free")
    assert caught.value.text() == (
        f"host, min_free: not enough space at {tmp_path}/var: it takes 300 MiB for the closure and 200 MiB for its"
        " copy, 500 MiB are free, 10 MiB are to stay so, and 10 MiB are missing. Make room there. Nothing was changed."
    )


@pytest.mark.usefixtures("disks")
def test_a_hint_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FleetError) as caught:
        _space.require([need(tmp_path, "var", 501)], reserve=0, hint="Buy a disk.")
    assert caught.value.hint == "Buy a disk."


def test_free_is_asked_of_what_exists(tmp_path: Path) -> None:
    assert _space.existing(str(tmp_path / "no" / "such")) == str(tmp_path)
    assert _space.existing("/no/such/directory") == "/"
    assert _space.free(str(tmp_path / "no" / "such")) > 0


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 MiB"), (1, "1 MiB"), (MIB, "1 MiB"), (MIB + 1, "2 MiB"), (5 * 1024 * MIB, "5120 MiB")]
)
def test_sizes_are_rounded_up(size: int, said: str) -> None:
    assert _space.mib(size) == said
