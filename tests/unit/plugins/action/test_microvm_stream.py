# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From options to streams, with Ansible's own plugins for connections."""

from __future__ import annotations

import copy
import typing as t
from pathlib import Path
from unittest import mock

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.plugins.loader import connection_loader
from ansible.template import Templar

from ansible_collections.microvm.fleet.plugins.action.microvm_stream import SPEC, ActionModule, requests
from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.modules import microvm_stream as documented


def read(**options: t.Any) -> dict[str, t.Any]:
    """The options with their defaults."""
    given = {"src": {"path": "/src"}, "dest": {"path": "/dest"}, **options}
    checked = ArgumentSpecValidator(copy.deepcopy(SPEC)).validate(given)
    assert not checked.error_messages
    return dict(checked.validated_parameters)


def test_what_is_documented_is_what_is_checked() -> None:
    options = yaml.safe_load(documented.DOCUMENTATION)["options"]

    def compare(spec: t.Mapping[str, t.Any], said: t.Mapping[str, t.Any]) -> None:
        assert set(spec) == set(said)
        for name, option in spec.items():
            assert option.get("type") == said[name]["type"], name
            assert option.get("default") == said[name].get("default"), name
            assert option.get("choices") == said[name].get("choices"), name
            assert option.get("required", False) == said[name].get("required", False), name
            # YAML takes some words for truth values.
            assert isinstance(name, str)
            compare(option.get("options", {}), said[name].get("suboptions", {}))

    compare(SPEC, options)


def test_options_become_requests() -> None:
    send, receive = requests(
        read(
            files=[
                {"name": "a", "dest": "x/b", "pack": "gzip"},
                {"name": "c", "unpack": "zstd", "size": 5, "sha256": "ab"},
            ],
            whole=True,
            owner="microvm",
            mode="0640",
            reserve=3,
            hold="resume-a",
        )
    )
    assert send == {
        "hold": "resume-a",
        "directory": "/src",
        "files": [
            {"name": "a", "as": "x/b", "encode": "gzip", "decode": None},
            {"name": "c", "as": "c", "encode": None, "decode": "zstd"},
        ],
    }
    assert receive["expect"] == {"c": {"size": 5, "sha256": "ab"}}
    assert (receive["directory"], receive["whole"], receive["owner"]) == ("/dest", True, "microvm")
    assert (receive["mode"], receive["directory_mode"], receive["reserve"]) == (0o640, 0o700, 3 << 20)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"src": {"path": "relative"}}, "src.path"),
        ({"dest": {"path": ""}}, "dest.path"),
        ({"mode": "rw"}, "mode"),
        ({"directory_mode": "17777"}, "directory_mode"),
        ({"reserve": -1}, "reserve"),
        ({"stall_timeout": 0}, "stall_timeout"),
        ({"hold": "--no-block"}, "hold"),
        ({"hold": ""}, "hold"),
        ({"files": [{"name": "ok"}, {"name": "../up"}]}, "files[1].name"),
        ({"files": [{"name": "ok", "dest": "/etc/x"}]}, "files[0].dest"),
    ],
)
def test_options_that_are_refused(options: dict[str, t.Any], field: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        requests(read(**options))
    assert caught.value.field == field
    assert caught.value.hint


def action(args: dict[str, t.Any], **task: t.Any) -> ActionModule:
    """The action on a host that is reached by the connection plugin local."""
    made = Task()
    made.args = args
    for name, value in task.items():
        setattr(made, name, value)
    context = PlayContext()
    connection = connection_loader.get("local", context, None)
    connection.set_options()
    loader = DataLoader()
    return ActionModule(made, connection, context, loader, Templar(loader), mock.Mock())


VARIABLES: dict[str, t.Any] = {
    "inventory_hostname": "one",
    "hostvars": {
        "one": {},
        "two": {"ansible_connection": "local"},
        "three": {"ansible_host": "10.0.0.3", "ansible_user": "ops", "ansible_ssh_executable": "/nowhere/ssh"},
        "four": {"ansible_connection": "nothing-of-that-name"},
    },
}


def test_files_go_to_another_host(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a").write_text("abc")
    args = {"src": {"path": f"{tmp_path}/src"}, "dest": {"path": f"{tmp_path}/dest", "host": "two"}}
    result = action(args).run(task_vars=VARIABLES)
    assert result["changed"] is True
    assert [each["name"] for each in result["files"]] == ["a"]
    assert (tmp_path / "dest" / "a").read_text() == "abc"
    again = action(args).run(task_vars=VARIABLES)
    assert (again["failed"], again["changed"]) == (True, False)
    assert again["msg"].startswith(f"host two, path: {tmp_path}/dest/a is there already.")


def test_check_mode_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("abc")
    args = {"src": {"path": str(tmp_path), "controller": True}, "dest": {"path": f"{tmp_path}/dest"}}
    result = action(args, check_mode=True).run(task_vars=VARIABLES)
    assert result["changed"] is True
    assert result["need"] == 3
    assert not (tmp_path / "dest").exists()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("nine", "host nine, host: is not in the inventory."),
        ("three", "host three, connection: /nowhere/ssh cannot be started"),
        ("four", "host four, ansible_connection: there is no connection plugin nothing-of-that-name."),
    ],
)
def test_hosts_that_cannot_be_reached(tmp_path: Path, host: str, words: str) -> None:
    args = {"src": {"path": str(tmp_path)}, "dest": {"path": "/nowhere", "host": host}}
    result = action(args).run(task_vars=VARIABLES)
    assert result["failed"] is True
    assert result["msg"].startswith(words)


def test_async_is_refused() -> None:
    with pytest.raises(AnsibleActionFail, match="cannot run with async"):
        action({}, async_val=5).run(task_vars=VARIABLES)


def test_options_are_checked() -> None:
    with pytest.raises(Exception, match="mutually exclusive"):
        action({"src": {"path": "/a", "host": "b", "controller": True}, "dest": {"path": "/c"}}).run(
            task_vars=VARIABLES
        )
