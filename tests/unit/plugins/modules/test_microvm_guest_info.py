# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module that reads guests, from its arguments to what it prints."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.modules import microvm_guest, microvm_guest_info
from ansible_collections.microvm.fleet.tests.unit.plugins.conftest import Play
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FLAKE, FakeHost, Spec


@pytest.mark.parametrize("check", [True, False])
def test_all_of_the_host(host: FakeHost, play: Play, check: bool) -> None:
    host.microvm_create(Spec("b"))
    host.nixos_install(Spec("a"))
    before = host.tree()
    done = play(microvm_guest_info, check=check)
    assert not done["changed"]
    assert [(guest["name"], guest["owner"]) for guest in done["guests"]] == [("a", "nixos"), ("b", "microvm")]
    assert host.tree() == before


def test_no_guests(play: Play) -> None:
    assert play(microvm_guest_info)["guests"] == []


def test_some_in_their_order(host: FakeHost, play: Play) -> None:
    host.microvm_create(Spec("a"))
    done = play(microvm_guest_info, names=["none", "a"])
    assert [(guest["name"], guest["exists"]) for guest in done["guests"]] == [("none", False), ("a", True)]


def test_it_returns_what_the_module_that_changes_returns(host: FakeHost, play: Play) -> None:
    host.offer(Spec("web1", vsock_cid=7))
    changed = play(microvm_guest, name="web1", flake=FLAKE, state="started", labels={"a": "b"}, protect=True)
    assert play(microvm_guest_info, names=["web1"])["guests"] == [changed["guest"]]


def test_problems(host: FakeHost, play: Play) -> None:
    host.microvm_create(Spec("web1"), rooted=False)
    host.start("web1")
    host.units.clear()
    (guest,) = play(microvm_guest_info)["guests"]
    assert guest["problems"] == [
        "stale booted: the guest does not run, but the link booted is there, as after a crash of the host.",
        "missing gcroot: the garbage collector may take the runner of current.",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"names": [""]}, "guest '', names: is empty. Give the names of guests."),
        ({"names": ["a", "../b"]}, "guest '../b', names: '../b' is no name of a guest. Give the names of guests."),
        ({"names": {"a": 1}}, "argument 'names' is of type"),
        ({"name": "web1"}, "name. Supported parameters include: names."),
    ],
)
def test_bad_arguments(host: FakeHost, play: Play, arguments: dict[str, t.Any], said: str) -> None:
    done = play(microvm_guest_info, **arguments)
    assert done["failed"]
    assert said in done["msg"]
    assert host.calls == []


def test_a_host_whose_systemd_does_not_answer(host: FakeHost, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "answer", lambda argv: (1, "", "Failed to connect to bus\n"))
    done = play(microvm_guest_info)
    assert done["failed"]
    assert "ended with 1: Failed to connect to bus" in done["msg"]
