# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module that builds for a fleet, from its arguments to what it prints, and what hosts make of that."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._build_places import places
from ansible_collections.microvm.fleet.plugins.modules import microvm_build, microvm_guests
from ansible_collections.microvm.fleet.tests.unit.plugins.conftest import Play
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FLAKE, FakeHost, Spec


@pytest.fixture(autouse=True)
def builder(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host builds as root, has room, and can say how large closures are."""
    plain = host.answer

    def answer(argv: tuple[str, ...]) -> tuple[int, str, str]:
        return (0, "", "") if "path-info" in argv else plain(argv)

    monkeypatch.setattr(host, "answer", answer)
    monkeypatch.setattr(microvm_build, "places", lambda: places(str(host.root), uid=0))


def sources(*guests: str) -> list[dict[str, t.Any]]:
    return [{"flake": FLAKE, "guests": list(guests)}]


def test_check_run_check_run(host: FakeHost, play: Play) -> None:
    host.offer(Spec("web1"), Spec("web2"))
    given = {"sources": sources("web1", "web2"), "min_free": 0}
    before = host.tree()
    said = play(microvm_build, check=True, **given)
    assert (said["changed"], host.tree()) == (True, before)
    done = play(microvm_build, **given)
    assert (done["changed"], done["built"]) == (True, said["built"])
    assert done["evaluated"] == said["evaluated"]
    for check in (True, False):
        again = play(microvm_build, check=check, **given)
        assert (again["changed"], again["built"], again["runners"]) == (False, [], done["runners"])


def test_hosts_take_what_it_returns(host: FakeHost, play: Play) -> None:
    host.offer(Spec("web1"))
    built = play(microvm_build, sources=sources("web1"), min_free=0)
    host.calls.clear()
    guest = {"name": "web1", "flake": FLAKE}
    done = play(microvm_guests, guests=[guest], evaluated=built["evaluated"])
    assert done["results"][0]["guest"]["current"] == Spec("web1").path
    assert not any(call[0] == "nix" for call in host.calls)


def test_a_guest_that_fails_is_told_and_the_rest_is_there(host: FakeHost, play: Play) -> None:
    host.offer(Spec("web1"), Spec("web2", behaviour="unbuildable"))
    done = play(microvm_build, sources=sources("web1", "web2"), min_free=0)
    assert done["failed"]
    assert done["msg"].startswith("guest web2, flake: the build of ")
    assert done["runners"] == [Spec("web1").path]
    assert "the build of" in done["evaluated"][FLAKE]["guests"]["web2"]["error"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sources": [{"flake": "x", "guests": []}]}, "sources[0].flake: 'x' is relative."),
        ({"sources": [{"guests": []}]}, "source number 1 of the list: missing required arguments: flake"),
        ({"described": [{"name": "a", "entry": {}}]}, "builder, described: guests that are described cannot be built"),
        ({"min_free": -1}, "min_free: -1 is out of range."),
        ({"eval_timeout": 0}, "eval_timeout: 0 is out of range."),
    ],
)
def test_bad_arguments(play: Play, arguments: dict[str, t.Any], said: str) -> None:
    done = play(microvm_build, **arguments)
    assert done["failed"]
    assert said in done["msg"]
