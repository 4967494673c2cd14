# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module that does one step of a move, from its arguments to what it prints."""

from __future__ import annotations

import os
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.modules import microvm_guest, microvm_guest_info, microvm_move
from ansible_collections.microvm.fleet.tests.unit.plugins.conftest import Play
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FLAKE, FakeHost, Spec

MOVE: dict[str, t.Any] = {"name": "web1", "move": "4f3a2b1c", "other": "host2"}


@pytest.fixture(autouse=True)
def web1(host: FakeHost, play: Play) -> None:
    """A guest that runs."""
    host.offer(Spec("web1"))
    play(microvm_guest, name="web1", flake=FLAKE, state="started")


def test_observe(host: FakeHost, play: Play) -> None:
    before = host.tree()
    seen = play(microvm_move, name="web1", step="observe")
    assert not seen["changed"]
    assert seen["actions"] == []
    assert (seen["view"]["exists"], seen["view"]["phase"], seen["view"]["files"]) == (True, None, ["data.img"])
    assert seen["view"]["carry"]["runner"] == os.readlink(host.guest("web1", "current"))
    assert host.tree() == before
    assert play(microvm_move, name="none", step="observe")["view"]["carry"] == {}


def test_a_step_and_again(host: FakeHost, play: Play) -> None:
    before = host.tree()
    assert not play(microvm_move, step="leave", **MOVE, check=True)["changed"]
    assert host.tree() == before
    done = play(microvm_move, step="leave", **MOVE)
    assert (done["changed"], done["actions"]) == (True, ["web1: hold it here"])
    assert (done["view"]["phase"], done["view"]["move"], done["view"]["other"]) == ("leaving", "4f3a2b1c", "host2")
    assert not play(microvm_move, step="leave", **MOVE)["changed"]
    (moving,) = play(microvm_guest_info)["moving"]
    assert (moving["name"], moving["phase"], moving["other"]) == ("web1", "leaving", "host2")
    assert play(microvm_move, step="stop", **MOVE)["actions"] == ["web1: stop"]
    assert play(microvm_move, step="resume", **MOVE)["view"]["up"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"step": "leave", "name": "web1"}, "guest web1, move: None is no name of a move."),
        (
            {"step": "hand_over", **MOVE},
            "guest web1, step: it has no mark of a move on this host. Begin with the first",
        ),
        ({"step": "fly", **MOVE}, "value of step must be one of: observe, "),
        ({"name": "web1"}, "guest web1: missing required arguments: step"),
    ],
)
def test_bad_arguments(host: FakeHost, play: Play, arguments: dict[str, t.Any], said: str) -> None:
    before = host.tree()
    done = play(microvm_move, **arguments)
    assert done["failed"]
    assert said in done["msg"]
    assert {place: text for place, text in host.tree().items() if not place.startswith("run")} == {
        place: text for place, text in before.items() if not place.startswith("run")
    }
