# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An activation is confirmed over connections that are opened after it, or told to be lost."""

from __future__ import annotations

import time
import typing as t
from unittest import mock

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from ansible_collections.microvm.fleet.plugins.action import nixos_system
from ansible_collections.microvm.fleet.plugins.action.nixos_system import ActionModule

FIRST = {
    "changed": True,
    "actions": ["build n", "go back", "activate n", "confirm n", "set the profile"],
    "after": {"running": "n", "reboot_needed": None},
    "reboot_needed": None,
    "reverted": False,
    "confirm": {
        "token": "t1",
        "seconds": 30,
        "goes_back_at": "2026-01-02T03:04:05Z",
        "system": "n",
        "previous": "o",
        "actions": ["build n", "go back", "activate n"],
    },
}
ACTIVATING = {"state": "activating", "changed": False, "after": {"running": "o", "reboot_needed": None}}
ACTIVATED = {"state": "activated", "changed": False, "after": {"running": "n", "reboot_needed": True}}
CONFIRMED = {"state": "confirmed", "changed": True, "after": {"running": "n", "reboot_needed": True}}
GONE = AnsibleConnectionFailure("no route to host")
WENT = {"failed": True, "subject": "system h", "field": "confirm_timeout", "msg": "the host went back to o."}
CRASHED = {"failed": True, "msg": "MODULE FAILURE"}


class Host:
    """What the host answers, call by call, and a clock that only waiting moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, transport: str = "ssh") -> None:
        self.action = ActionModule.__new__(ActionModule)
        self.action._task = mock.Mock(async_val=0, args={"confirm_timeout": 30})
        self.action._connection = mock.Mock(transport=transport)
        self.action._connection.get_option.return_value = "-o A=b"
        self.calls: list[dict[str, t.Any] | None] = []
        self.removed: list[str] = []
        self.now = 0.0
        self.answers: list[t.Any] = []
        monkeypatch.setattr(ActionBase, "run", lambda *_args: {})
        monkeypatch.setattr(ActionBase, "_execute_module", lambda _self, **options: self.answer(**options))
        monkeypatch.setattr(ActionBase, "_remove_tmp_path", lambda _self, path: self.removed.append(path))
        monkeypatch.setattr(nixos_system, "time", mock.Mock(spec=time, sleep=self.sleep, monotonic=lambda: self.now))

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def answer(self, module_args: t.Any = None, **_options: t.Any) -> dict[str, t.Any]:
        self.calls.append(module_args)
        self.action._connection._shell.tmpdir = f"/tmp/{len(self.calls)}"
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return {**answer}

    def run(self, *answers: t.Any) -> dict[str, t.Any]:
        self.answers = list(answers)
        return self.action.run(task_vars={})


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_without_a_confirmation_there_is_one_call(host: Host) -> None:
    for answer in ({"changed": False, "actions": []}, {"failed": True, "msg": "no flake"}):
        assert host.run(answer) == answer
    assert host.calls == [None, None]
    assert not host.action._connection.reset.called


def test_it_is_watched_and_then_confirmed(host: Host) -> None:
    result = host.run(FIRST, ACTIVATING, GONE, ACTIVATED, {**CONFIRMED, "warnings": ["old.service"]})
    assert host.calls == [None, *[{"confirm_timeout": 30, "watch": "t1"}] * 3, {"confirm_timeout": 30, "confirm": "t1"}]
    assert host.action._connection.reset.call_count == 4
    assert (result["changed"], result["actions"]) == (True, FIRST["actions"])
    assert (result["after"], result["reboot_needed"]) == (CONFIRMED["after"], True)
    assert result["warnings"] == ["old.service"]
    assert not {"confirm", "state", "failed"} & set(result)
    assert host.removed == ["/tmp/1", "/tmp/3"]
    host.action._connection.set_option.assert_called_once_with(
        "ssh_extra_args", "-o A=b -o ServerAliveInterval=5 -o ServerAliveCountMax=2"
    )


def test_other_connections_keep_their_options(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, "local")
    assert host.run(FIRST, ACTIVATED, CONFIRMED)["changed"]
    assert not host.action._connection.set_option.called


def test_a_host_that_went_back_says_so(host: Host) -> None:
    result = host.run(FIRST, GONE, WENT)
    assert (result["failed"], result["msg"], result["field"]) == (True, WENT["msg"], "confirm_timeout")
    assert result["actions"] == ["build n", "go back", "activate n"]
    assert not {"after", "reboot_needed"} & set(result)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (GONE, "no route to host"),
        (CRASHED, "MODULE FAILURE"),
        (ACTIVATING, "its activation did not end in time"),
    ],
)
def test_one_that_cannot_be_confirmed_in_time(host: Host, answer: t.Any, reason: str) -> None:
    result = host.run(FIRST, answer)
    assert result["msg"] == (
        f"n could not be confirmed over a new connection: {reason}. The host goes back to o by itself at"
        " 2026-01-02T03:04:05Z."
    )
    assert result["failed"]
    assert len(host.calls) == 31


def test_a_connection_that_cannot_be_closed_is_tried_again(host: Host) -> None:
    host.action._connection.reset.side_effect = [GONE, None, None]
    assert host.run(FIRST, ACTIVATED, CONFIRMED)["changed"]


@pytest.mark.parametrize("option", ["watch", "confirm"])
def test_what_the_controller_fills_in_is_refused(host: Host, option: str) -> None:
    host.action._task.args[option] = "t1"
    with pytest.raises(AnsibleActionFail, match=f"{option} is filled in on the controller. Leave it out."):
        host.run(FIRST)
    assert not host.calls


def test_async_is_refused(host: Host) -> None:
    host.action._task.async_val = 60
    with pytest.raises(AnsibleActionFail, match=r"nixos_system cannot run with async: .* Leave async out"):
        host.run(FIRST)
    assert not host.calls
