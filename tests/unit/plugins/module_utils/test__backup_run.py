# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's part of backups and restores, and the modules that call it."""

from __future__ import annotations

import fcntl
import itertools
import os
import pwd
import shutil
import stat
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.microvm.fleet.plugins.action import microvm_backup as backup_action
from ansible_collections.microvm.fleet.plugins.action import microvm_restore as restore_action
from ansible_collections.microvm.fleet.plugins.module_utils import _clone, _files, _resume
from ansible_collections.microvm.fleet.plugins.module_utils._backup_run import BackupRun
from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy, FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.modules import microvm_backup, microvm_restore
from ansible_collections.microvm.fleet.tests.unit.plugins.conftest import Play
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost, Killer, Spec
from ansible_collections.microvm.fleet.tests.unit.support.scenes import run, wish


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a user of the hypervisors."""
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pwd.struct_passwd((name, "x", 77, 78, "", "/", "/bin/sh")))


@pytest.fixture
def clones(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A filesystem that can clone files; the paths that were cloned to."""
    made: list[str] = []

    def ioctl(target: int, request: int, source: int) -> int:
        assert request == _clone.FICLONE
        os.pwrite(target, os.pread(source, 1 << 20, 0), 0)
        made.append(os.readlink(f"/proc/self/fd/{target}"))
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return made


def furnish(host: FakeHost, *, state: str = "started", **spec: t.Any) -> BackupRun:
    host.offer(Spec("db1", **spec))
    assert not run(host, [wish("db1", state=state, labels={"a": "b"})]).failures
    host.guest("db1", "data.img").write_bytes(b"data")
    return of(host)


def of(host: FakeHost, name: str = "db1") -> BackupRun:
    return BackupRun(name, paths=host.paths, commands=host, lock_timeout=0)


def up(host: FakeHost) -> bool:
    return "db1" in host.units and host.units["db1"].active == "active"


def arrive(host: FakeHost, **files: str) -> None:
    """Have volumes as a stream leaves them."""
    directory = Path(of(host).arrived)
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name.replace("_", ".")).write_text(content)


def test_looking_changes_nothing(host: FakeHost) -> None:
    backup = furnish(host)
    before = host.tree()
    seen = backup.look("auto")
    assert host.tree() == before
    assert (seen["running"], seen["snapshot"], seen["outside"], seen["absent"]) == (True, False, [], [])
    assert seen["directory"] == host.paths.guest("db1")
    assert [(each["image"], each["size"]) for each in seen["images"]] == [("data.img", 4)]
    assert seen["guest"]["labels"] == {"a": "b"}
    assert seen["guest"]["runner"] == os.readlink(host.guest("db1", "current"))
    assert seen["guest"]["volumes"][0]["image"] == "data.img"


def test_volumes_that_are_not_there_or_elsewhere_are_said(host: FakeHost) -> None:
    backup = furnish(host, volumes=(("data.img", 16), ("late.img", 16), ("/dev/vg/db1", 16)))
    host.guest("db1", "late.img").unlink()
    seen = backup.look("auto")
    assert [each["image"] for each in seen["images"]] == ["data.img"]
    assert (seen["absent"], seen["outside"]) == (["late.img"], ["/dev/vg/db1"])


def test_a_link_in_place_of_a_volume_is_refused(host: FakeHost) -> None:
    backup = furnish(host)
    host.guest("db1", "data.img").unlink()
    host.guest("db1", "data.img").symlink_to("/etc/shadow")
    with pytest.raises(FleetError, match="is a symbolic link") as caught:
        backup.begin("auto")
    assert caught.value.subject == "guest db1"
    assert up(host)


def test_a_volume_with_the_name_of_something_else_is_refused(host: FakeHost) -> None:
    backup = furnish(host, state="present", volumes=(("current", 16),))
    with pytest.raises(InvalidWish, match="name of something else"):
        backup.look("auto")


def test_without_clones_the_guest_is_down_until_the_end(host: FakeHost) -> None:
    backup = furnish(host)
    begun = backup.begin("auto")
    assert not up(host)
    assert (begun["running"], begun["snapshot"], begun["killed"]) == (True, False, False)
    assert begun["directory"] == host.paths.guest("db1")
    assert begun["hold"] == "microvm-fleet-resume-db1"
    backup.end(start=True)
    assert up(host)
    assert not os.listdir(host.paths.marks)
    assert not host.resuming


def test_with_clones_it_is_up_again_at_once(host: FakeHost, clones: list[str]) -> None:
    backup = furnish(host)
    os.makedirs(host.paths.marks)
    before = host.tree()
    begun = backup.begin("auto")
    assert up(host)
    assert begun["snapshot"] is True
    assert begun["directory"] == backup.clones
    assert begun["hold"] is None
    assert not host.resuming
    assert (Path(backup.clones) / "data.img").read_bytes() == b"data"
    assert stat.S_IMODE(os.stat(os.path.dirname(backup.clones)).st_mode) == 0o700
    assert clones[-1] == os.path.join(backup.clones, "data.img")
    backup.end(start=True)
    assert not os.path.exists(backup.clones)
    (Path(backup.clones).parent).rmdir()
    assert host.tree() == before


def test_stop_never_clones(host: FakeHost, clones: list[str]) -> None:
    assert furnish(host).begin("stop")["snapshot"] is False
    assert not up(host)
    # Whether it could was tried with files that have no names.
    assert not any("data.img" in path for path in clones)


def test_a_snapshot_that_cannot_be_is_said_before_the_stop(host: FakeHost) -> None:
    backup = furnish(host)
    with pytest.raises(InvalidWish, match="cannot clone files") as caught:
        backup.begin("snapshot")
    assert caught.value.field == "quiesce"
    assert up(host)


def test_a_clone_that_fails_leaves_the_guest_up(
    host: FakeHost, clones: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = furnish(host)
    ioctl = fcntl.ioctl

    def full(target: int, request: int, source: int) -> int:
        if "data.img" in os.readlink(f"/proc/self/fd/{target}"):
            raise OSError(28, "No space left on device")
        return ioctl(target, request, source)

    monkeypatch.setattr(fcntl, "ioctl", full)
    with pytest.raises(FleetError, match="No space left"):
        backup.begin("auto")
    assert up(host)
    assert not os.path.exists(backup.clones)
    assert clones


def test_a_guest_that_is_off_stays_off(host: FakeHost) -> None:
    backup = furnish(host, state="present")
    begun = backup.begin("auto")
    assert (begun["running"], begun["hold"], host.resuming) == (False, None, {})
    backup.end(start=False)
    assert not up(host)


def test_a_guest_that_was_killed_is_said(host: FakeHost) -> None:
    backup = furnish(host, behaviour="hang")
    assert backup.begin("auto")["killed"] is True


def test_a_run_that_is_killed_is_finished_by_any_other(host: FakeHost) -> None:
    furnish(host).begin("auto")
    assert not up(host)
    assert not run(host, [wish("db1")]).failures
    assert up(host)
    host.stop("db1")
    host.time_is_up("db1")
    assert not up(host)


def test_a_run_that_is_killed_is_finished_by_its_host(host: FakeHost) -> None:
    furnish(host).begin("auto", patience=300)
    assert not up(host)
    assert host.resuming["db1"] > 300 + _resume.LEEWAY
    host.time_is_up("db1")
    assert up(host)
    assert not os.listdir(host.paths.marks)


def test_the_next_backup_finishes_one_that_was_killed(host: FakeHost) -> None:
    backup = furnish(host)
    backup.begin("auto")
    begun = backup.begin("auto")
    assert (begun["running"], begun["killed"], list(host.resuming)) == (True, False, ["db1"])
    backup.end(start=True)
    assert up(host)


def test_a_guest_that_its_host_has_started_is_left_up(host: FakeHost) -> None:
    backup = furnish(host)
    backup.begin("auto")
    host.time_is_up("db1")
    host.calls.clear()
    backup.end(start=True)
    assert up(host)
    assert host.count("start", "microvm@db1.service") == 0


def test_killed_anywhere_the_guest_is_started_by_its_host(tmp_path: Path, clones: list[str]) -> None:
    at = 0
    for quiesce in ("auto", "stop"):
        for at in itertools.count():
            host = FakeHost(tmp_path / f"{quiesce}{at}")
            backup = furnish(host)
            with Killer(host, at) as killer:
                backup.begin(quiesce)
                backup.end(start=True)
            if not killer.dead:
                break
            if not up(host):
                host.time_is_up("db1")
            assert up(host), at
        assert at > 5
    assert clones


def test_a_host_without_the_programs_for_it_is_refused_before_the_stop(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = furnish(host)
    monkeypatch.setattr(host, "find", lambda name: None if name == "flock" else f"/usr/bin/{name}")
    with pytest.raises(FleetError, match="the program flock is not on this host"):
        backup.begin("auto")
    assert up(host)


def test_a_timer_that_cannot_be_is_said_before_the_stop(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    backup = furnish(host)
    monkeypatch.setattr(host, "_run_later", lambda argv: (1, "", f"no {argv[0]}"))
    with pytest.raises(FleetError, match="no systemd-run"):
        backup.begin("auto")
    assert up(host)


def test_names_and_guests_that_are_not_there(host: FakeHost) -> None:
    with pytest.raises(InvalidWish) as caught:
        of(host, "../up")
    assert caught.value.field == "name"
    with pytest.raises(InvalidWish, match="no such guest on this host"):
        of(host).look("auto")


def test_one_run_at_a_time(host: FakeHost) -> None:
    backup = furnish(host)
    with _files.lock(os.path.join(host.paths.locks, "guest-db1"), what="guest db1"):
        with pytest.raises(Busy):
            backup.begin("auto")
        with pytest.raises(Busy):
            backup.end(start=True)
        with pytest.raises(Busy):
            backup.place([])
        with pytest.raises(Busy):
            backup.drop()


# Restore


def test_volumes_take_their_place_and_the_old_ones_are_kept(host: FakeHost) -> None:
    backup = furnish(host, state="present")
    arrive(host, data_img="restored")
    found = backup.find(["data.img"])
    assert (found["exists"], found["replaced"], found["unknown"], found["left"]) == (True, ["data.img"], [], True)
    placed = backup.place(["data.img"])
    assert host.guest("db1", "data.img").read_text() == "restored"
    assert Path(placed["kept"], "data.img").read_bytes() == b"data"
    assert sorted(os.listdir(os.path.dirname(backup.arrived))) == []


def test_a_volume_that_was_not_there_takes_its_place(host: FakeHost) -> None:
    backup = furnish(host, state="present")
    host.guest("db1", "data.img").unlink()
    Path(backup.arrived, "images").mkdir(parents=True)
    Path(backup.arrived, "images", "more.img").write_text("more")
    assert backup.find(["images/more.img"])["unknown"] == ["images/more.img"]
    assert backup.place(["images/more.img"])["kept"] is None
    assert host.guest("db1", "images", "more.img").read_text() == "more"


def test_a_guest_that_runs_is_refused(host: FakeHost) -> None:
    backup = furnish(host)
    arrive(host, data_img="restored")
    for work in (backup.find, backup.place):
        with pytest.raises(InvalidWish, match="it runs"):
            work(["data.img"])
    assert host.guest("db1", "data.img").read_bytes() == b"data"


def test_a_guest_that_is_missing_is_found_so(host: FakeHost) -> None:
    found = of(host).find(["data.img"])
    assert (found["exists"], found["unknown"]) == (False, [])
    with pytest.raises(InvalidWish, match="no such guest"):
        of(host).place(["data.img"])


def test_a_guest_of_the_hosts_configuration_is_refused(host: FakeHost) -> None:
    host.nixos_install(Spec("db1"))
    with pytest.raises(InvalidWish, match="NixOS configuration"):
        of(host).find(["data.img"])


def test_a_host_that_is_not_prepared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidWish, match=r"microvm\.fleet\.host"):
        of(FakeHost(tmp_path / "bare", prepared=False)).find(["data.img"])


@pytest.mark.parametrize("image", ["current", "../../etc/shadow", "/etc/shadow"])
def test_images_of_other_places_are_refused(host: FakeHost, image: str) -> None:
    backup = furnish(host, state="present")
    with pytest.raises(InvalidWish):
        backup.find([image])


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_what_is_no_volume_is_not_replaced(host: FakeHost, kind: str) -> None:
    backup = furnish(host, state="present")
    image = host.guest("db1", "data.img")
    image.unlink()
    if kind == "link":
        image.symlink_to("/etc/shadow")
    else:
        image.mkdir()
    arrive(host, data_img="restored")
    with pytest.raises(FleetError, match="no regular file"):
        backup.place(["data.img"])
    assert os.path.lexists(image)


def test_a_directory_that_is_a_link_is_not_followed(host: FakeHost, tmp_path: Path) -> None:
    backup = furnish(host, state="present")
    away = tmp_path / "away"
    away.mkdir()
    host.guest("db1", "images").symlink_to(away)
    Path(backup.arrived, "images").mkdir(parents=True)
    Path(backup.arrived, "images", "a").write_text("a")
    with pytest.raises(FleetError):
        backup.place(["images/a"])
    assert os.listdir(away) == []


def test_placing_that_is_killed_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    at = 0
    while True:
        host = FakeHost(tmp_path / str(at))
        backup = furnish(host, state="present", volumes=(("a.img", 1), ("b.img", 1)))
        for name in ("a.img", "b.img"):
            host.guest("db1", name).write_text("old")
        arrive(host, a_img="new a", b_img="new b")
        with Killer(host, at) as killer:
            backup.place(["a.img", "b.img"])
        # At no moment there is none, for a start would make an empty one.
        assert host.guest("db1", "a.img").exists()
        assert host.guest("db1", "b.img").exists()
        backup.place(["a.img", "b.img"])
        assert host.guest("db1", "a.img").read_text() == "new a"
        assert host.guest("db1", "b.img").read_text() == "new b"
        assert not os.path.exists(backup.placing)
        shutil.rmtree(tmp_path / str(at))
        if not killer.dead:
            break
        at += 1
    assert at > 2


def test_what_is_not_to_be_placed_goes(host: FakeHost) -> None:
    backup = furnish(host)
    arrive(host, data_img="x")
    backup.drop()
    backup.drop()
    assert not os.path.exists(backup.arrived)


# Modules


def test_the_modules_phases(host: FakeHost, play: Play) -> None:
    furnish(host)
    dest = {"path": "/srv/x"}
    seen = play(microvm_backup, name="db1", dest=dest, phase="look")
    assert (seen["changed"], seen["found"]["running"]) == (False, True)
    assert play(microvm_backup, name="db1", dest=dest, phase="begin", check=True)["found"]["running"] is True
    assert up(host)
    play(microvm_backup, name="db1", dest=dest, phase="begin")
    assert not up(host)
    arrive(host, data_img="x")
    found = play(microvm_restore, name="db1", src=dest, phase="find", images=["data.img"])["found"]
    assert found["replaced"] == ["data.img"]
    play(microvm_restore, name="db1", src=dest, phase="drop", check=True)
    play(microvm_restore, name="db1", src=dest, phase="place", images=["data.img"])
    assert host.guest("db1", "data.img").read_text() == "x"
    play(microvm_backup, name="db1", dest=dest, phase="end", start_again=True)
    assert up(host)
    play(microvm_restore, name="db1", src=dest, phase="drop")
    said = play(microvm_restore, name="db1", src=dest, phase="place", images=["data.img"])
    assert said["failed"] is True
    assert said["msg"] == "guest db1, name: it runs. Stop it first; a restore replaces its volumes."
    assert play(microvm_backup, name="db2", dest=dest)["msg"].startswith("guest db2, name: there is no such guest")


@pytest.mark.parametrize(
    ("action", "module", "private"),
    [
        (backup_action.ActionModule, microvm_backup, {"phase", "start_again"}),
        (restore_action.ActionModule, microvm_restore, {"phase", "images"}),
    ],
)
def test_what_is_documented_is_what_is_checked(action: t.Any, module: t.Any, private: set[str]) -> None:
    options = yaml.safe_load(module.DOCUMENTATION)["options"]
    assert set(options) == set(action.SPEC) | private

    def compare(spec: t.Mapping[str, t.Any], said: t.Mapping[str, t.Any]) -> None:
        for name, option in spec.items():
            assert option.get("type") == said[name]["type"], name
            assert option.get("default") == said[name].get("default"), name
            assert option.get("choices") == said[name].get("choices"), name
            compare(option.get("options", {}), said[name].get("suboptions", {}))

    compare(action.SPEC, options)
