# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups made and restored, between two hosts that are directories, over real streams."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import typing as t
from pathlib import Path
from unittest import mock

import pytest
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.plugins.loader import connection_loader
from ansible.template import Templar

from ansible_collections.microvm.fleet.plugins.action import microvm_backup, microvm_restore
from ansible_collections.microvm.fleet.plugins.module_utils._backup_run import BackupRun
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.plugin_utils._backups import BackupAction
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost, Spec
from ansible_collections.microvm.fleet.tests.unit.support.scenes import run, wish

Result = dict[str, t.Any]
# Of the size that the guest wishes for.
CONTENT = b"data" * 10000 + bytes((16 << 20) - 40000)


@pytest.fixture(autouse=True)
def holds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What streams are told to renew; there is no systemd to do so, nor a user of the hypervisors."""
    found: list[str] = []
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pwd.struct_passwd((name, "x", 77, 78, "", "/", "/bin/sh")))
    real = BackupAction.pipe

    def pipe(self: t.Any, source: t.Any, sink: t.Any, **requests: Result) -> t.Any:
        for key in ("owner", "group"):
            requests["receive"].pop(key, None)
        found.append(requests["send"].pop("hold", "nothing"))
        return real(self, source, sink, **requests)

    monkeypatch.setattr(BackupAction, "pipe", pipe)
    return found


def furnish(host: FakeHost, *, state: str = "started", **spec: t.Any) -> FakeHost:
    host.offer(Spec("db1", **spec))
    assert not run(host, [wish("db1", state=state, labels={"a": "b"})]).failures
    host.guest("db1", "data.img").write_bytes(CONTENT)
    return host


def act(module: t.Any, host: FakeHost, *, check: bool = False, **args: t.Any) -> Result:
    """Run the action; its part on the host is *host*."""
    task = Task()
    task.args = args
    task.check_mode = check
    context = PlayContext()
    connection = connection_loader.get("local", context, None)
    connection.set_options()
    loader = DataLoader()
    action = module.ActionModule(task, connection, context, loader, Templar(loader), mock.Mock())

    def execute(module_name: str, module_args: Result, task_vars: Result) -> Result:
        del task_vars
        try:
            return {"changed": False, "found": on_host(module_name.rpartition(".")[2], module_args)}
        except FleetError as error:
            return {"failed": True, **error.as_dict()}

    def on_host(name: str, given: Result) -> Result:
        if name == "microvm_guest":
            wished = {key: value for key, value in given.items() if key in ("state", "labels", "flake")}
            failures = run(host, [wish(given["name"], **wished)]).failures
            if failures:
                raise FleetError(failures[0])
            return {}
        backup = BackupRun(given["name"], paths=host.paths, commands=host)
        phases: dict[str, t.Callable[[], Result]] = {
            "look": lambda: backup.look(given["quiesce"]),
            "begin": lambda: backup.begin(given["quiesce"], patience=given["stall_timeout"] + given["lock_timeout"]),
            "end": lambda: backup.end(start=given["start_again"]),
            "find": lambda: backup.find(given["images"]),
            "place": lambda: backup.place(given["images"]),
            "drop": backup.drop,
        }
        return phases[given["phase"]]()

    action._execute_module = execute
    result: Result = action.run(task_vars={"inventory_hostname": "one", "hostvars": {"one": {}}})
    return result


def up(host: FakeHost) -> bool:
    return "db1" in host.units and host.units["db1"].active == "active"


def back_up(host: FakeHost, place: Path, **options: t.Any) -> Result:
    return act(microvm_backup, host, name="db1", dest={"path": str(place)}, **options)


@pytest.fixture
def other(tmp_path: Path) -> FakeHost:
    """Another host, with the same flake and no guest."""
    host = FakeHost(tmp_path / "other")
    host.offer(Spec("db1"))
    return host


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.mark.parametrize("pack", ["gzip", "none"])
def test_a_backup_is_restored_on_another_host(host: FakeHost, other: FakeHost, place: Path, pack: str) -> None:
    furnish(host)
    made = back_up(host, place, pack=pack)
    assert (made["changed"], made["killed"], made["snapshot"]) == (True, False, False)
    assert made["actions"] == ["db1: stop", "db1: back up data.img", "db1: start"]
    assert made["volumes"][0]["size"] == len(CONTENT)
    assert up(host)
    assert os.listdir(place) == [os.path.basename(made["path"])]
    manifest = json.loads(Path(made["path"], "manifest.json").read_text())
    assert manifest["guest"]["labels"] == {"a": "b"}
    assert (manifest["host"], manifest["running"]) == ("one", True)
    done = act(microvm_restore, other, src={"path": made["path"]}, start=True)
    assert "failed" not in done, done
    assert done["actions"][1:] == ["db1: restore data.img", "db1: start"]
    assert (done["name"], done["kept"]) == ("db1", None)
    assert other.guest("db1", "data.img").read_bytes() == CONTENT
    assert done["volumes"][0]["sha256"] == made["volumes"][0]["sha256"]
    assert up(other)
    again = act(microvm_restore, other, src={"path": made["path"]})
    assert again["msg"] == "guest db1, name: it runs. Stop it first; a restore replaces its volumes."
    assert again["changed"] is False


def test_the_host_starts_the_guest_if_the_stream_ends_or_hangs(
    host: FakeHost, place: Path, holds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    armed: list[int] = []
    run_later = host._run_later

    def seen(argv: tuple[str, ...]) -> tuple[int, str, str]:
        done = run_later(argv)
        armed.append(host.resuming["db1"])
        return done

    monkeypatch.setattr(host, "_run_later", seen)
    back_up(furnish(host), place, stall_timeout=1000, lock_timeout=10)
    # Of the two streams, the first only measures.
    assert holds == ["nothing", "microvm-fleet-resume-db1"]
    assert len(armed) == 1
    assert armed[0] > 1010
    assert host.resuming == {}


def test_check_mode_says_the_same_and_changes_nothing(host: FakeHost, other: FakeHost, place: Path) -> None:
    furnish(host)
    before = host.tree()
    said = back_up(host, place, check=True)
    assert (host.tree(), place.exists()) == (before, False)
    made = back_up(host, place)
    assert said["actions"] == made["actions"]
    assert said["need"] > 0
    there = other.tree()
    told = act(microvm_restore, other, check=True, src={"path": made["path"]})
    assert other.tree() == there
    assert told["actions"] == act(microvm_restore, other, src={"path": made["path"]})["actions"]


def test_what_a_killed_restore_left_makes_room(host: FakeHost, other: FakeHost, place: Path) -> None:
    made = back_up(furnish(host), place)
    left = Path(other.paths.guests, ".restore", "db1")
    left.mkdir(parents=True)
    (left / "old.img").write_text("left")
    done = act(microvm_restore, other, src={"path": made["path"]})
    assert "failed" not in done, done
    assert other.guest("db1", "data.img").read_bytes() == CONTENT
    assert not left.exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("cut", "bytes, and"),
        ("changed", "data.img"),
        ("missing", "data.img.gz: No such file or directory"),
        ("manifest", "it cannot be read"),
        ("no manifest", "its manifest.json cannot be read: manifest.json: No such file or directory"),
        ("sum", "are expected"),
    ],
)
def test_a_damaged_backup_is_refused(host: FakeHost, other: FakeHost, place: Path, damage: str, words: str) -> None:
    made = back_up(furnish(host), place)
    file, manifest = Path(made["path"], "data.img.gz"), Path(made["path"], "manifest.json")
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[:-1])
    elif damage == "changed":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "missing":
        file.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:200])
    elif damage == "no manifest":
        manifest.unlink()
    else:
        said = json.loads(manifest.read_text())
        said["files"][0]["source"]["sha256"] = "0" * 64
        manifest.write_text(json.dumps(said))
    before = other.tree()
    result = act(microvm_restore, other, src={"path": made["path"]})
    assert (result["failed"], result["changed"]) == (True, False)
    assert words in result["msg"]
    shutil.rmtree(Path(other.paths.guests, ".restore"), ignore_errors=True)
    assert other.tree() == before


def test_a_stream_that_fails_has_the_guest_up_again(
    host: FakeHost, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(host)
    real = BackupAction.pipe

    def broken(self: t.Any, source: t.Any, sink: t.Any, **requests: Result) -> t.Any:
        if not requests["send"].get("measure"):
            raise FleetError("the wire broke.", subject="stream")
        return real(self, source, sink, **requests)

    monkeypatch.setattr(BackupAction, "pipe", broken)
    result = back_up(host, place)
    assert (result["failed"], result["changed"]) == (True, True)
    assert result["msg"] == "stream: the wire broke."
    assert up(host)
    assert not place.exists()


def test_a_guest_that_is_not_there_cannot_be_backed_up(host: FakeHost, place: Path) -> None:
    assert back_up(host, place)["msg"].startswith("guest db1, name: there is no such guest on this host.")


def test_volumes_elsewhere_are_an_error_or_left_out(host: FakeHost, place: Path) -> None:
    furnish(host, volumes=(("data.img", 16), ("/dev/vg/db1", 16)))
    assert "/dev/vg/db1 lie outside" in back_up(host, place)["msg"]
    made = back_up(host, place, skip_outside=True)
    assert [each["name"] for each in made["volumes"]] == ["data.img"]
    assert json.loads(Path(made["path"], "manifest.json").read_text())["left_out"] == ["/dev/vg/db1"]


def test_a_guest_without_volumes_has_no_backup(host: FakeHost, place: Path) -> None:
    host.offer(Spec("db1", volumes=()))
    run(host, [wish("db1", state="started")])
    said = back_up(host, place)
    assert (said["changed"], said["path"]) == (False, None)


def test_a_missing_guest_of_a_description_is_refused(host: FakeHost, other: FakeHost, place: Path) -> None:
    made = back_up(furnish(host), place)
    manifest = Path(made["path"], "manifest.json")
    said = json.loads(manifest.read_text())
    said["guest"]["flake"] = "path:/etc/microvm-fleet"
    manifest.write_text(json.dumps(said))
    result = act(microvm_restore, other, src={"path": made["path"]})
    assert "does not say what to create it from" in result["msg"]
    assert not other.guest("db1").exists()


def test_a_creation_that_fails_leaves_no_volumes(host: FakeHost, other: FakeHost, place: Path) -> None:
    made = back_up(furnish(host), place)
    other.offer(Spec("db1", behaviour="unbuildable"))
    result = act(microvm_restore, other, src={"path": made["path"]})
    assert (result["failed"], result["changed"]) == (True, False)
    assert not os.path.exists(os.path.join(other.paths.guests, ".restore", "db1"))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"dest": {"path": "backups"}}, "dest.path"),
        ({"reserve": -1}, "reserve"),
        ({"stall_timeout": 0}, "stall_timeout"),
    ],
)
def test_options_that_are_refused(host: FakeHost, options: Result, field: str) -> None:
    result = act(microvm_backup, host, **{"name": "db1", "dest": {"path": "/srv"}, **options})
    assert (result["failed"], result["field"]) == (True, field)


def test_what_is_filled_in_is_not_given(host: FakeHost) -> None:
    with pytest.raises(AnsibleActionFail, match="phase is filled in"):
        act(microvm_backup, host, name="db1", dest={"path": "/srv"}, phase="end")
