# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Volumes made, repaired, grown, kept and put back by the engine, and images as they are seen."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import struct
import typing as t
from pathlib import Path
from types import SimpleNamespace

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _clone
from ansible_collections.microvm.fleet.plugins.module_utils._contract import Volume
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._files import Unflushed
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Guest
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import GuestPlan
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import GuestWish
from ansible_collections.microvm.fleet.plugins.module_utils._volume_apply import grow, restore, snapshots
from ansible_collections.microvm.fleet.plugins.module_utils._volume_observe import Seen, content_of, look
from ansible_collections.microvm.fleet.plugins.module_utils._volume_plan import GrowVolume, RestoreSnapshot
from ansible_collections.microvm.fleet.tests.unit.plugins.conftest import Verdicts
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost, Killer, Spec
from ansible_collections.microvm.fleet.tests.unit.support.scenes import run, wish

MIB = 1 << 20
PROGRAMS = ("setpriv", "mkfs.ext4", "e2fsck", "resize2fs")


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a user of the hypervisors."""
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pwd.struct_passwd((name, "x", 77, 78, "", "/", "/bin/sh")))


@pytest.fixture
def clones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filesystem that can clone files."""

    def ioctl(target: int, request: int, source: int) -> int:
        assert request == _clone.FICLONE
        os.pwrite(target, os.pread(source, 1 << 26, 0), 0)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)


def able(host: FakeHost) -> FakeHost:
    host.programs.update(PROGRAMS)
    return host


def image(host: FakeHost, name: str = "data.img") -> Path:
    return host.guest("db1", name)


def ran(host: FakeHost, program: str) -> list[tuple[str, ...]]:
    return [argv for argv in host.calls if program in argv]


def test_a_volume_is_made_before_the_first_start(host: FakeHost) -> None:
    able(host).offer(Spec("db1"))
    said = run(host, [wish("db1", state="started")], check=True)
    done = run(host, [wish("db1", state="started")])
    assert not done.failures
    assert said.actions == done.actions
    # It goes without saying.
    assert not any("volume" in line for line in done.actions)
    assert image(host).stat().st_size == 16 * MIB
    (made,) = ran(host, "mkfs.ext4")
    assert made[:3] == ("setpriv", "--reuid=microvm", "--regid=kvm")
    assert not host.temporary()
    assert not run(host, [wish("db1", state="started")]).changed


def test_a_guest_that_does_not_start_gets_none(host: FakeHost) -> None:
    able(host).offer(Spec("db1"))
    assert not run(host, [wish("db1")]).failures
    assert not image(host).exists()
    assert not ran(host, "mkfs.ext4")


def test_a_program_that_fails_leaves_nothing(host: FakeHost) -> None:
    able(host).offer(Spec("db1"))
    host.broken_programs.add("mkfs.ext4")
    (failure,) = run(host, [wish("db1", state="started")]).failures
    assert failure.startswith("guest db1, microvm.volumes: mkfs.ext4 ended with 8")
    assert not image(host).exists()
    assert not host.temporary()
    assert "db1" not in host.units
    host.broken_programs.clear()
    assert not run(host, [wish("db1", state="started")]).failures
    assert image(host).exists()


@pytest.mark.parametrize("size", [0, 16 * MIB])
def test_a_half_made_volume_is_made_again(host: FakeHost, size: int) -> None:
    host.offer(Spec("db1"))
    run(host, [wish("db1")])
    with image(host).open("wb") as stream:
        stream.truncate(size)
    done = run(able(host), [wish("db1", state="started")])
    assert "db1: make again the volume data.img (16 MiB, ext4)" in done.actions
    assert look(str(host.guest("db1")), ["data.img"])["data.img"].content == "ext"


def furnish(host: FakeHost, **spec: t.Any) -> FakeHost:
    able(host).offer(Spec("db1", **spec))
    assert not run(host, [wish("db1", state="started")]).failures
    return host


def test_a_volume_grows_with_its_filesystem(host: FakeHost) -> None:
    furnish(host).renew("db1", volumes=(("data.img", 32),))
    said = run(host, [wish("db1")], update="activate", check=True)
    assert image(host).stat().st_size == 16 * MIB
    done = run(host, [wish("db1")], update="activate")
    assert not done.failures
    assert said.actions == done.actions
    words = [line for line in done.actions if "grow" in line or line.endswith((": stop", ": start"))]
    assert words == ["db1: stop", "db1: grow the volume data.img from 16 to 32 MiB", "db1: start"]
    assert image(host).stat().st_size == 32 * MIB
    assert [argv[5] for argv in host.calls if "e2fsck" in argv or "resize2fs" in argv] == ["e2fsck", "resize2fs"]
    assert not os.path.exists(host.paths.known("db1", "growing.json"))
    assert not run(host, [wish("db1")], update="activate").changed


def test_a_volume_is_never_made_smaller(host: FakeHost) -> None:
    furnish(host).renew("db1", volumes=(("data.img", 8),))
    before = host.tree()
    said = run(host, [wish("db1")], update="activate", check=True)
    assert "never made smaller" in said.failures[0]
    assert host.tree() == before
    (failure,) = run(host, [wish("db1")], update="activate").failures
    assert "data.img has 16 MiB, and 8 are wished" in failure
    assert host.units["db1"].active == "active"
    assert image(host).stat().st_size == 16 * MIB


def test_growing_that_is_killed_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    at = 0
    while True:
        host = furnish(FakeHost(tmp_path / str(at)))
        host.renew("db1", volumes=(("data.img", 32),))
        with Killer(host, at) as killer:
            run(host, [wish("db1", state="started")], update="activate")
        for _again in range(2):
            assert not run(host, [wish("db1", state="started")], update="activate").failures
        head = image(host).read_bytes()[1024:1032]
        assert struct.unpack("<Q", head)[0] == 32 * MIB, at
        assert not os.path.exists(host.paths.known("db1", "growing.json"))
        assert host.units["db1"].active == "active"
        shutil.rmtree(tmp_path / str(at))
        if not killer.dead:
            break
        at += 1
    assert at > 10


def test_a_guest_that_was_started_meanwhile_is_left_alone(host: FakeHost) -> None:
    furnish(host)
    work = SimpleNamespace(paths=host.paths, commands=host)
    plan = GuestPlan(GuestWish("db1"), Guest("db1"))
    volume = Volume("data.img", size=32, fs_type="ext4")
    growing = GrowVolume("db1", volume, before=16 * MIB, after=32 * MIB, resize=True)
    with pytest.raises(FleetError, match="started meanwhile"):
        next(iter(grow(work, plan, growing, Unflushed())))
    with pytest.raises(FleetError, match="started meanwhile"):
        next(iter(restore(work, plan, RestoreSnapshot("db1", ("data.img",), "/nix/store/x"), Unflushed())))
    assert image(host).stat().st_size == 16 * MIB
    assert not os.path.exists(host.paths.known("db1", "growing.json"))


def test_a_snapshot_is_put_back_by_a_revert(host: FakeHost, clones: None, judge: Verdicts) -> None:
    del clones
    furnish(host)
    image(host).write_bytes(b"good")
    judge[host.renew("db1", version=2).path] = "it does not answer"
    real = host.start

    def start(name: str) -> None:
        """The new version spoils what it finds."""
        real(name)
        if os.readlink(host.guest(name, "booted")) == host.flakes[next(iter(host.flakes))]["db1"].path:
            image(host).write_bytes(b"spoiled")

    host.start = start  # type: ignore[method-assign]
    done = run(host, [wish("db1", snapshot_volumes=True, restore_volumes=True)], update="activate")
    assert "does not answer" in done.failures[0]
    assert "db1: keep a snapshot of data.img" in done.actions
    assert image(host).read_bytes() == b"good"
    assert (Path(snapshots(host.paths, "db1")) / "data.img").read_bytes() == b"good"
    assert not os.path.exists(snapshots(host.paths, "db1") + ".back")


def test_a_snapshot_goes_with_its_guest(host: FakeHost, clones: None) -> None:
    del clones
    furnish(host).renew("db1", version=2)
    assert not run(host, [wish("db1", snapshot_volumes=True)], update="activate").failures
    assert os.path.isdir(snapshots(host.paths, "db1"))
    assert not run(host, [wish("db1", state="absent")]).failures
    assert not os.path.exists(snapshots(host.paths, "db1"))


def test_a_snapshot_that_cannot_be_is_said_before_the_stop(host: FakeHost) -> None:
    furnish(host).renew("db1", version=2)
    (failure,) = run(host, [wish("db1", snapshot_volumes=True)], update="activate").failures
    assert failure.startswith("guest db1, snapshot_volumes: the filesystem of ")
    assert host.units["db1"].active == "active"


# Images


def seen(path: Path) -> Seen:
    return look(str(path.parent), [path.name])[path.name]


@pytest.mark.parametrize(
    ("place", "content", "said"),
    [
        (1024 + 56, b"\x53\xef", "ext"),
        (0, b"XFSB", "xfs"),
        (0x10040, b"_BHRfS_M", "btrfs"),
        (0, b"LUKS\xba\xbe", "LUKS"),
        (512, b"EFI PART", "a partition table"),
        (3 * MIB, b"x", "data"),
        (8193 * 1024 + 56, b"\x53\xef", "ext backup"),
        (8193 * 1024 + 24, struct.pack("<I", 2) + bytes(28) + b"\x53\xef", "data"),
        (32768 * 4096 + 24, struct.pack("<I", 2) + bytes(28) + b"\x53\xef", "ext backup"),
        (5, b"\x00", None),
    ],
)
def test_what_is_in_an_image(tmp_path: Path, place: int, content: bytes, said: str | None) -> None:
    path = tmp_path / "a"
    with path.open("wb") as stream:
        stream.seek(place)
        stream.write(content)
        stream.truncate(200 * MIB)
    assert seen(path) == Seen(exists=True, size=200 * MIB, content=said)


def test_images_that_are_none(tmp_path: Path) -> None:
    assert seen(tmp_path / "none") == Seen()
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert seen(tmp_path / "link") == Seen(exists=True, regular=False)
    assert look(str(tmp_path / "no" / "directory"), ["a"]) == {"a": Seen()}


def test_many_zeros_that_were_written_are_data(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(65 * MIB))
    with path.open("rb") as stream:
        assert content_of(stream.fileno(), 65 * MIB) == "data"
