# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Volumes on thin logical volumes: what lvs tells, and snapshots made, put back and dropped by the engine."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pwd
import re
import shutil
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _volume_lvm
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError, FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._volume_apply import kept_file
from ansible_collections.microvm.fleet.plugins.module_utils._volume_lvm import (
    Lv,
    Lvs,
    name_of_snapshot,
    origins,
    put_back,
    read_report,
    require,
)
from ansible_collections.microvm.fleet.plugins.module_utils._volume_observe import Kept, read_kept
from ansible_collections.microvm.fleet.tests.unit.plugins.conftest import Verdicts
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost, Killer, Spec
from ansible_collections.microvm.fleet.tests.unit.support.recorded import FIXTURES, Scripted
from ansible_collections.microvm.fleet.tests.unit.support.scenes import run, wish

IMAGE = "/dev/fleet/data"
KEPT = "fleet/microvm+db1+data"


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a user of the hypervisors."""
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pwd.struct_passwd((name, "x", 77, 78, "", "/", "/bin/sh")))


class LvmHost(FakeHost):
    """A host with volume groups, of which LVM's programs tell and which they change; contents are one word each."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.lvs = {
            lv.full_name: lv
            for lv in (
                Lv("fleet", "pool", kind="thin-pool", active=True, data=20.0, metadata=10.5),
                self.thin("data", 5),
                self.thin("logs", 6),
                Lv("fleet", "thick", paths=("/dev/fleet/thick",), device=7, kind="linear", active=True),
            )
        }
        self.contents = {"fleet/data": "good", "fleet/logs": "lines"}
        self.lvm_missing = False

    @staticmethod
    def thin(name: str, device: int | None = None, **fields: t.Any) -> Lv:
        known: dict[str, t.Any] = {"kind": "thin", "pool": "pool", "active": device is not None, "device": device}
        return Lv("fleet", name, paths=(f"/dev/fleet/{name}",), **{**known, **fields})

    def change(self, name: str, **fields: t.Any) -> None:
        self.lvs[name] = dataclasses.replace(self.lvs[name], **fields)

    def device_of(self, path: str) -> tuple[bool, int | None]:
        if path.startswith("/srv/"):
            return True, None
        if path == "/dev/sdb":
            return True, 99
        lv = self.lvs.get(path[len("/dev/") :])
        return (True, lv.device) if lv is not None and lv.device is not None else (False, None)

    def find(self, name: str) -> str | None:
        if name.startswith("lv"):
            return None if self.lvm_missing else f"/usr/sbin/{name}"
        return super().find(name)

    def _answer(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        if not argv[0].startswith("lv"):
            return super()._answer(argv)
        if argv == _volume_lvm.LIST:
            return 0, json.dumps({"report": [{"lv": [self.row(lv) for lv in self.lvs.values()]}]}), ""
        return t.cast("tuple[int, str, str]", getattr(self, f"_{argv[0]}")(argv))

    @staticmethod
    def row(lv: Lv) -> dict[str, str]:
        return {
            "vg_name": lv.group,
            "lv_name": lv.name,
            "lv_path": f"/dev/{lv.full_name}",
            "lv_dm_path": "",
            "lv_kernel_major": "0" if lv.device is not None else "-1",
            "lv_kernel_minor": str(lv.device) if lv.device is not None else "-1",
            "segtype": lv.kind,
            "pool_lv": lv.pool,
            "origin": lv.origin,
            "lv_tags": ",".join(sorted(lv.tags)),
            "lv_active": "active" if lv.active else "",
            "lv_device_open": "open" if lv.open else "",
            "lv_merging": "merging" if lv.merging else "",
            "lv_health_status": lv.health,
            "data_percent": "" if lv.data is None else f"{lv.data:.2f}",
            "metadata_percent": "" if lv.metadata is None else f"{lv.metadata:.2f}",
        }

    def _lvcreate(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        name, tag = argv[argv.index("--name") + 1], argv[argv.index("--addtag") + 1]
        origin = self.lvs[argv[-1]]
        if f"fleet/{name}" in self.lvs:
            return 5, "", f'  Logical Volume "{name}" already exists in volume group "fleet"\n'
        self.lvs[f"fleet/{name}"] = self.thin(name, origin=origin.name, tags=frozenset([tag]))
        self.contents[f"fleet/{name}"] = self.contents[origin.full_name]
        return 0, "", ""

    def _lvremove(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        assert _volume_lvm.TAG + "db1" in self.lvs[argv[-1]].tags
        del self.lvs[argv[-1]]
        return 0, "", ""

    def _lvconvert(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        snapshot = self.lvs[argv[-1]]
        origin = f"fleet/{snapshot.origin}"
        if self.lvs[origin].open:
            self.change(argv[-1], merging=True)
            return 0, f"  Merging of thin snapshot {argv[-1]} will occur on next activation of {origin}.\n", ""
        self.contents[origin] = self.contents.pop(argv[-1])
        del self.lvs[argv[-1]]
        return 0, "", ""

    def _lvchange(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        if argv[argv.index("--activate") + 1] == "n":
            self.change(argv[-1], active=False)
            return 0, "", ""
        for name, lv in list(self.lvs.items()):
            if lv.merging and f"fleet/{lv.origin}" == argv[-1] and not self.lvs[argv[-1]].active:
                self.contents[argv[-1]] = self.contents.pop(name)
                del self.lvs[name]
        self.change(argv[-1], active=True)
        return 0, "", ""


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> list[LvmHost]:
    """What there is below /dev: of the last of these hosts."""
    hosts: list[LvmHost] = []

    def device_of(path: str) -> tuple[bool, int | None]:
        return hosts[-1].device_of(path)

    monkeypatch.setattr(_volume_lvm, "device_of", device_of)
    return hosts


def furnished(place: Path, devices: list[LvmHost], *images: str) -> LvmHost:
    """A host with a guest that runs, and has volumes on *images*."""
    host = LvmHost(place)
    devices.append(host)
    host.offer(Spec("db1", volumes=tuple((image, None) for image in images or (IMAGE,))))
    assert not run(host, [wish("db1", state="started")]).failures
    assert not [argv for argv in host.calls if argv[0].startswith("lv")]
    return host


@pytest.fixture
def lvm(tmp_path: Path, devices: list[LvmHost]) -> LvmHost:
    """Such a host with one such volume."""
    return furnished(tmp_path / "lvm", devices)


def update(host: LvmHost, **fields: t.Any) -> t.Any:
    return run(host, [wish("db1", **{"snapshot_volumes": True, **fields})], update="activate")


def spoils(host: LvmHost) -> str:
    """Let the next version of the guest spoil what it finds, and give its runner."""
    new = host.renew("db1", version=2).path
    real = host.start

    def start(name: str) -> None:
        real(name)
        if host.guest(name, "booted").is_symlink() and os.readlink(host.guest(name, "booted")) == new:
            host.contents["fleet/data"] = host.contents["fleet/logs"] = "spoiled"

    host.start = start  # type: ignore[method-assign]
    return new


def test_a_snapshot_is_kept_and_replaced_by_the_next(lvm: LvmHost) -> None:
    lvm.renew("db1")
    said = run(lvm, [wish("db1", snapshot_volumes=True)], update="activate", check=True)
    assert KEPT not in lvm.lvs
    done = update(lvm)
    assert not done.failures
    assert said.actions == done.actions
    assert f"db1: keep a snapshot of {IMAGE}" in done.actions
    kept = lvm.lvs[KEPT]
    assert (kept.origin, kept.tags, kept.active) == ("data", frozenset(["microvm.fleet=db1"]), False)
    assert read_kept(kept_file(lvm.paths, "db1")) == Kept(
        os.readlink(lvm.guest("db1", "current")), (IMAGE,), {KEPT: "fleet/data"}
    )
    lvm.contents["fleet/data"] = "newer"
    lvm.renew("db1")
    assert not update(lvm).failures
    assert lvm.contents[KEPT] == "newer"
    assert not update(lvm).changed
    assert not [argv for argv in lvm.calls if argv[0] == "lvs" and argv != _volume_lvm.LIST]


def test_a_snapshot_is_merged_back_by_a_revert(lvm: LvmHost, judge: Verdicts) -> None:
    judge[spoils(lvm)] = "it does not answer"
    done = update(lvm, restore_volumes=True)
    assert "does not answer" in done.failures[0]
    assert f"db1: put back {IMAGE}" in done.actions
    assert lvm.contents["fleet/data"] == "good"
    assert KEPT not in lvm.lvs
    assert lvm.units["db1"].active == "active"
    # What was put back is not put back again.
    kept = read_kept(kept_file(lvm.paths, "db1"))
    assert kept is not None
    assert kept.restoring


def test_without_being_asked_nothing_is_put_back(lvm: LvmHost, judge: Verdicts) -> None:
    judge[spoils(lvm)] = "it does not answer"
    assert update(lvm).failures
    assert (lvm.contents["fleet/data"], lvm.contents[KEPT]) == ("spoiled", "good")


def test_a_snapshot_goes_with_its_guest(lvm: LvmHost) -> None:
    lvm.renew("db1")
    assert not update(lvm).failures
    assert not run(lvm, [wish("db1", state="absent")]).failures
    assert sorted(lvm.lvs) == ["fleet/data", "fleet/logs", "fleet/pool", "fleet/thick"]
    assert not os.path.exists(kept_file(lvm.paths, "db1"))


def test_a_revert_killed_anywhere_is_finished_with_its_volumes(
    tmp_path: Path, devices: list[LvmHost], judge: Verdicts
) -> None:
    wished = [wish("db1", state="started", snapshot_volumes=True, restore_volumes=True)]
    found = set()
    for at in itertools.count():
        host = furnished(tmp_path / str(at), devices, IMAGE, "/dev/fleet/logs")
        old = os.readlink(host.guest("db1", "current"))
        judge[spoils(host)] = "it does not answer"
        with Killer(host, at) as killer:
            run(host, wished, update="activate")
        run(host, wished, update="activate")
        run(host, wished)
        assert os.readlink(host.guest("db1", "booted")) == old, at
        assert (host.contents["fleet/data"], host.contents["fleet/logs"]) == ("good", "lines"), at
        assert len(host.lvs) == 4, at
        found.add(killer.count)
        shutil.rmtree(tmp_path / str(at))
        if not killer.dead:
            break
    assert len(found) > 30


def test_an_update_killed_anywhere_keeps_one_snapshot(tmp_path: Path, devices: list[LvmHost]) -> None:
    wished = [wish("db1", state="started", snapshot_volumes=True, restore_volumes=True)]
    for at in itertools.count():
        host = furnished(tmp_path / str(at), devices)
        host.renew("db1")
        run(host, wished, update="activate")
        host.contents["fleet/data"] = "newer"
        new = host.renew("db1").path
        with Killer(host, at) as killer:
            run(host, wished, update="activate")
        assert not run(host, wished, update="activate").failures
        assert os.readlink(host.guest("db1", "booted")) == new
        assert host.contents["fleet/data"] == host.contents[KEPT] == "newer", at
        assert len(host.lvs) == 5
        assert not run(host, wished, update="activate").changed
        shutil.rmtree(tmp_path / str(at))
        if not killer.dead:
            break
    assert at > 20


@pytest.mark.parametrize(
    ("image", "fields", "words"),
    [
        ("/dev/sdb", {}, "/dev/sdb is no logical volume of LVM"),
        ("/srv/data.img", {}, "/srv/data.img is a file outside of the guest's directory"),
        ("/dev/fleet/thick", {}, "is the logical volume fleet/thick, which is not thin (linear)"),
        (IMAGE, {"fleet/pool": {"data": 97.5}}, "the data of the pool fleet/pool of /dev/fleet/data are 97.5 % full"),
        (IMAGE, {"fleet/pool": {"metadata": 99.0}}, "the metadata of the pool fleet/pool of /dev/fleet/data are 99 %"),
        (IMAGE, {"fleet/pool": {"health": "metadata_read_only"}}, "its pool fleet/pool is: metadata_read_only"),
        (
            IMAGE,
            {"fleet/logs": {"origin": "data", "merging": True}},
            "fleet/data waits for a snapshot to be merged into it",
        ),
    ],
)
def test_what_cannot_be_kept_is_said_before_the_stop(
    tmp_path: Path, devices: list[LvmHost], image: str, fields: dict[str, t.Any], words: str
) -> None:
    host = furnished(tmp_path / "host", devices, image)
    for name, changes in fields.items():
        host.change(name, **changes)
    host.renew("db1")
    before = host.tree()
    (failure,) = update(host).failures
    assert failure.startswith("guest db1, snapshot_volumes: ")
    assert words in failure
    assert failure.endswith("Nothing was stopped.")
    assert host.units["db1"].active == "active"
    assert not [argv for argv in host.calls if argv[0].startswith("lv") and argv != _volume_lvm.LIST]
    assert {place for place in host.tree() if place not in before and "gcroots" not in place} == set()


def test_a_name_that_is_taken_is_said_before_the_stop(lvm: LvmHost) -> None:
    lvm.lvs[KEPT] = lvm.thin("microvm+db1+data", origin="data")
    lvm.renew("db1")
    assert f"there is a logical volume {KEPT} that is no snapshot of this guest" in update(lvm).failures[0]
    lvm.change(KEPT, tags=frozenset(["microvm.fleet=db1"]), open=True)
    assert f"the earlier snapshot {KEPT} is in use" in update(lvm).failures[0]
    assert lvm.units["db1"].active == "active"
    lvm.change(KEPT, open=False)
    assert not update(lvm).failures


def test_a_host_without_lvm(lvm: LvmHost) -> None:
    lvm.lvm_missing = True
    lvm.renew("db1")
    assert "/dev/fleet/data is no logical volume of LVM" in update(lvm).failures[0]


def test_volumes_that_are_not_there_or_are_only_read_are_no_matter(tmp_path: Path, devices: list[LvmHost]) -> None:
    host = furnished(tmp_path / "host", devices, "/dev/fleet/none")
    host.renew("db1")
    done = update(host)
    assert not done.failures
    assert not [line for line in done.actions if "snapshot" in line]


def test_a_volume_that_is_not_active_goes_by_its_name(lvm: LvmHost) -> None:
    lvm.change("fleet/data", device=None, active=False)
    lvm.renew("db1")
    assert not update(lvm).failures
    assert lvm.lvs[KEPT].origin == "data"


def test_volumes_in_use_are_not_put_back(lvm: LvmHost, judge: Verdicts) -> None:
    judge[spoils(lvm)] = "it does not answer"
    real = lvm.stop

    def stop(name: str) -> None:
        """Somebody looks at the volume while the guest is down."""
        real(name)
        lvm.change("fleet/data", open=lvm.contents["fleet/data"] == "spoiled")

    lvm.stop = stop  # type: ignore[method-assign]
    (failure,) = update(lvm, restore_volumes=True).failures
    assert "fleet/data is in use, so its snapshot cannot be put back" in failure
    assert (lvm.contents["fleet/data"], lvm.contents[KEPT]) == ("spoiled", "good")
    assert "db1" not in lvm.units
    lvm.change("fleet/data", open=False)
    update(lvm, restore_volumes=True, state="started")
    assert lvm.contents["fleet/data"] == "good"
    assert lvm.units["db1"].active == "active"


# The parts


VERSIONS = sorted(path.name for path in (FIXTURES / "lvm").iterdir())


def recorded(version: str, scene: str) -> Lvs:
    """What lvs of that version has printed, as tests/volumes records it."""
    return read_report(json.loads((FIXTURES / "lvm" / version / f"{scene}.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_lvs_has_printed(version: str) -> None:
    lvs = recorded(version, "kept")
    data, kept, pool = (lvs.volumes[f"fleet/{name}"] for name in ("data", "microvm+db1+data", "pool"))
    assert (data.kind, data.pool, data.active, data.open, data.tags) == ("thin", "pool", True, False, frozenset())
    assert data.device is not None
    assert lvs.of_image("/dev/disk/by-id/any", data.device) is data
    assert "/dev/mapper/fleet-data" in data.paths
    assert (kept.origin, kept.tags, kept.active, kept.open, kept.device) == (
        "data",
        frozenset(["microvm.fleet=db1"]),
        False,
        False,
        None,
    )
    assert (pool.kind, pool.health, pool.data is not None and 0 < pool.data < 100) == ("thin-pool", "", True)
    require(lvs, "db1", {KEPT: "fleet/data", "fleet/microvm+db1+logs": "fleet/logs"}, begun=False, subject="guest db1")
    merged = recorded(version, "merged")
    assert KEPT not in merged.volumes
    assert merged.volumes["fleet/data"].tags == frozenset(["theirs"])
    assert not merged.volumes["fleet/data"].merging
    assert recorded(version, "open").volumes["fleet/data"].open
    delayed = recorded(version, "delayed")
    assert [name for name, volume in delayed.volumes.items() if volume.merging] == [KEPT]


def thin(name: str, **fields: t.Any) -> Lv:
    return LvmHost.thin(name, **fields)


SNAPSHOT = thin("microvm+db1+data", origin="data", tags=frozenset(["microvm.fleet=db1"]))


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ((thin("data"),), f"the snapshot {KEPT} is not there"),
        ((thin("data"), dataclasses.replace(SNAPSHOT, tags=frozenset())), f"the snapshot {KEPT} is not there"),
        ((thin("logs"), SNAPSHOT), f"{KEPT} is no snapshot of fleet/data"),
        ((thin("data"), dataclasses.replace(SNAPSHOT, origin="")), "but of nothing"),
        ((thin("data", open=True), SNAPSHOT), "fleet/data is in use"),
    ],
)
def test_snapshots_that_cannot_be_merged(there: tuple[Lv, ...], words: str) -> None:
    with pytest.raises(FleetError, match="restore_volumes") as caught:
        require(Lvs(there), "db1", {KEPT: "fleet/data"}, begun=False, subject="guest db1")
    assert words in caught.value.seen


def test_snapshots_that_can_be_merged() -> None:
    require(Lvs((thin("data"), SNAPSHOT)), "db1", {KEPT: "fleet/data"}, begun=False, subject="guest db1")
    # An earlier run has done so.
    require(Lvs((thin("data"),)), "db1", {KEPT: "fleet/data"}, begun=True, subject="guest db1")


def test_a_merge_that_waits_is_an_error(lvm: LvmHost) -> None:
    lvm.lvs[KEPT] = SNAPSHOT
    lvm.contents[KEPT] = "good"
    lvm.change("fleet/data", open=True)
    with pytest.raises(FleetError, match="was not merged into fleet/data, which something has opened"):
        put_back(lvm, Lvs(lvm.lvs.values()), {KEPT: "fleet/data"}, subject="guest db1")
    # The next run takes the volume down for it.
    lvm.change("fleet/data", open=False)
    lvm.contents["fleet/data"] = "spoiled"
    put_back(lvm, Lvs(lvm.lvs.values()), {KEPT: "fleet/data"}, subject="guest db1")
    assert lvm.contents["fleet/data"] == "good"
    assert KEPT not in lvm.lvs


@pytest.mark.parametrize(
    ("guest", "volume", "name"),
    [
        ("db1", "data", "microvm+db1+data"),
        ("db-1", "data", "microvm+db-1+data"),
        ("db", "1-data", "microvm+db+1-data"),
        # What LVM refuses gets a name without a meaning.
        ("my_tdata", "data", None),
        ("d" * 64, "v" * 60, None),
        ("a" + "-" * 60, "data", None),
    ],
)
def test_names_of_snapshots(guest: str, volume: str, name: str | None) -> None:
    given = name_of_snapshot(guest, Lv("fleet", volume))
    if name is None:
        assert re.fullmatch(r"microvm\+[0-9a-f]{16}", given)
        assert given != name_of_snapshot(guest, Lv("fleet", volume + "2"))
    else:
        assert given == name


@pytest.mark.parametrize("report", [None, {}, {"report": [{"lv": [{}]}]}, {"report": [{"lv": [{"vg_name": 1}]}]}, []])
def test_what_is_no_report(report: t.Any) -> None:
    with pytest.raises(CommandError, match="no report of logical volumes"):
        read_report(report)


def test_an_image_that_is_no_node_goes_by_its_path() -> None:
    lvs = Lvs((dataclasses.replace(thin("data"), paths=("/dev/fleet/data", "/dev/mapper/fleet-data")),))
    assert lvs.of_image("/dev/mapper/fleet-data", None) is lvs.volumes["fleet/data"]
    assert lvs.of_image("/dev/fleet/none", None) is None
    assert lvs.of_image("/dev/fleet/data", 3) is None


def test_what_there_is_at_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    (tmp_path / "file").touch()
    assert _volume_lvm.device_of(str(tmp_path / "file")) == (True, None)
    assert _volume_lvm.device_of(str(tmp_path / "none")) == (False, None)
    assert _volume_lvm.device_of(str(tmp_path / "file" / "none")) == (False, None)


def test_lvs_that_fails_is_told(lvm: LvmHost) -> None:
    lvm.renew("db1")
    broken = Scripted(lvs=(5, "", "  Failed to find sysfs mount point\n"))
    broken.find = lambda name: f"/usr/sbin/{name}"  # type: ignore[method-assign]
    with pytest.raises(CommandError, match=r"lvs .* ended with 5: .*sysfs"):
        _volume_lvm.read(broken)
    assert origins(Lvs(()), "db1", [], subject="guest db1") == {}


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"before": "x"}', '{"before": null, "images": 1}'])
def test_what_says_nothing_of_a_snapshot(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_text(text)
    assert read_kept(str(tmp_path / "a")) is None
    assert read_kept(str(tmp_path / "none")) is None
