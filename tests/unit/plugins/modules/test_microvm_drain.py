# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module that drains hosts, from its arguments to what it prints."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule
from ansible_collections.microvm.fleet.plugins.modules import microvm_drain, microvm_guest, microvm_guest_info
from ansible_collections.microvm.fleet.tests.unit.plugins.conftest import Play
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FLAKE, FakeHost, Spec


def test_drained_and_back(host: FakeHost, play: Play) -> None:
    host.offer(Spec("web1"))
    play(microvm_guest, name="web1", flake=FLAKE, state="started", labels={"stop_order": 7})
    assert play(microvm_drain, check=True)["actions"] == ["let no guest start", "web1: stop (stop_order 7)"]
    assert play(microvm_guest_info)["drained"] is None
    done = play(microvm_drain, reason="memory", diff=True)
    assert done["changed"]
    assert done["results"] == [{"name": "web1", "order": 7, "changed": True, "failed": False, "killed": False}]
    assert done["diff"]["after"]["running"] == []
    found = play(microvm_guest_info)
    assert found["drained"] == done["drained"]
    assert (found["drained"]["reason"], found["moving"]) == ("memory", [])
    assert not play(microvm_drain)["changed"]
    refused = play(microvm_guest, name="web1", state="started")
    assert refused["failed"]
    assert "and starts no guest" in refused["msg"]
    back = play(microvm_drain, state="undrained")
    assert back["actions"] == ["let guests start", "web1: start (stop_order 7)", "be drained no more"]
    assert "diff" not in back
    assert play(microvm_guest_info)["guests"][0]["active"]


def test_killed_and_failed(host: FakeHost, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    host.offer(Spec("web1", behaviour="hang"))
    play(microvm_guest, name="web1", flake=FLAKE, state="started")
    monkeypatch.setattr(host, "_stop", lambda name: None)
    done = play(microvm_drain)
    assert done["failed"]
    assert done["msg"].startswith("1 of 1 guests failed.\nguest web1, state: the unit is still active")
    monkeypatch.undo()


def test_a_kill_is_a_warning(host: FakeHost, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(FleetModule, "warn", lambda _self, text: warnings.append(text))
    host.offer(Spec("web1", behaviour="hang"))
    play(microvm_guest, name="web1", flake=FLAKE, state="started")
    done = play(microvm_drain)
    assert done["results"][0]["killed"]
    assert "web1: kill, for it did not end within its time" in done["actions"]
    assert warnings == ["guest web1 did not end within its time, and had to be killed."]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"state": "absent"}, "value of state must be one of: drained, undrained"),
        ({"reason": "a\nb"}, "host, reason: 'a\\nb' is no line of 500 characters at most."),
        ({"reason": "x" * 501}, "is no line of 500 characters at most."),
        ({"lock_timeout": -1}, "lock_timeout: -1 is out of range. Give seconds from 0 to 86400."),
        ({"hosts": "a"}, "Unsupported parameters"),
    ],
)
def test_bad_arguments(host: FakeHost, play: Play, arguments: dict[str, t.Any], said: str) -> None:
    done = play(microvm_drain, **arguments)
    assert done["failed"]
    assert said in done["msg"] or "hosts. Supported parameters include" in done["msg"]
    assert host.calls == []
