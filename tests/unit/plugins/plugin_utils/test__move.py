# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Moves planned: a table of how the guest is on both hosts to what is left to do."""

from __future__ import annotations

import itertools
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.plugin_utils import _move

HOSTS = {"source": "host1", "target": "host2"}
NEW, OLD = "00000000aa", "00000000bb"
View = dict[str, t.Any]


def view(**more: t.Any) -> View:
    return {
        "exists": False,
        "traces": more.get("exists", False),
        "up": False,
        "phase": None,
        "move": None,
        "other": None,
        "ran": False,
        "copied": False,
        **more,
    }


def old(phase: str | None = None, **more: t.Any) -> View:
    """The old host's view, with the guest, which ran."""
    mark = {} if phase is None else {"phase": phase, "move": OLD, "other": "host2"}
    return view(**{"exists": True, "ran": True, **mark, **more})


def there(phase: str | None = None, **more: t.Any) -> View:
    """The new host's view."""
    mark = {} if phase is None else {"phase": phase, "move": OLD, "other": "host1"}
    return view(**{**mark, **more})


def forward(source: View | None, target: View | None) -> tuple[str, list[str]]:
    plan = _move.forward("web1", {"source": source, "target": target}, HOSTS, new=NEW)
    places = {step: host for host, step in (*_move.FORWARD, *_move.BACK)}
    assert all(each["host"] == places[each["step"]] for each in plan["steps"])
    return plan["move"], [each["step"] for each in plan["steps"]]


def back(source: View | None, target: View | None) -> list[str]:
    plan = _move.back("web1", {"source": source, "target": target}, HOSTS)
    return [each["step"] for each in plan["steps"]]


ALL = [step for _host, step in _move.FORWARD]


@pytest.mark.parametrize(
    ("source", "target", "move", "steps"),
    [
        # A move that begins.
        (old(), there(), NEW, ALL),
        (old(ran=False), there(), NEW, [step for step in ALL if step != "start"]),
        # It comes back to where it was before.
        (old(), there("moved"), NEW, ALL),
        # What is left of one that was undone while the new host did not answer.
        (old(), there("arriving"), NEW, ["withdraw", *ALL]),
        (old(), there("arriving", exists=True), NEW, ["withdraw", *ALL]),
        # One that was killed: after it was announced, nothing is known on the old host.
        (old("leaving"), there(), OLD, ALL),
        (old("leaving"), there("arriving", move="cc"), OLD, ["withdraw", *ALL]),
        (
            old("leaving", up=True),
            there("arriving"),
            OLD,
            ["closure", "stop", "copy", "place", "hand_over", "accept", "start", "release"],
        ),
        (
            old("leaving"),
            there("arriving"),
            OLD,
            ["closure", "stop", "copy", "place", "hand_over", "accept", "start", "release"],
        ),
        (
            old("leaving"),
            there("arriving", copied=True),
            OLD,
            ["closure", "stop", "place", "hand_over", "accept", "start", "release"],
        ),
        # A copy of a guest that runs is none.
        (
            old("leaving", up=True),
            there("arriving", copied=True),
            OLD,
            ["closure", "stop", "copy", "place", "hand_over", "accept", "start", "release"],
        ),
        (
            old("leaving"),
            there("arriving", exists=True),
            OLD,
            ["place", "hand_over", "accept", "start", "release"],
        ),
        (old("leaving", ran=False), there("arriving", exists=True), OLD, ["place", "hand_over", "accept", "release"]),
        (old("trying"), there("arriving", exists=True), OLD, ["accept", "start", "release"]),
        (old("trying"), there(exists=True), OLD, ["start", "release"]),
        (old("trying"), there(exists=True, up=True), OLD, ["start", "release"]),
        (old("trying", ran=False), there(exists=True), OLD, ["release"]),
        (old("moved"), there(exists=True), OLD, ["release"]),
        # Done.
        (old("moved", exists=False, traces=False), there(exists=True), OLD, []),
        (view(), there(exists=True), NEW, []),
    ],
)
def test_forward(source: View, target: View, move: str, steps: list[str]) -> None:
    assert forward(source, target) == (move, steps)


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (None, there(), "host host1 does not answer. Nothing was changed by this run."),
        (old(), None, "host host2 does not answer. Nothing was changed by this run."),
        (view(), there(), "there is no such guest on host1. Say which host it is on."),
        (view(), there("arriving"), "there is no such guest on host1."),
        (old(), there(exists=True), "host2 has a guest of that name. Remove it there, or choose another host."),
        (old(), there(traces=True), "host2 has a guest of that name."),
        (old(), there("arriving", other="host3"), "on host2 it is marked as arriving, in a move from host3. End that"),
        (old(), there("leaving", exists=False), "on host2 it is marked as leaving, in a move to host1."),
        (old("leaving", other="host3"), there(), "on host1 it is marked as leaving, in a move to host3."),
        (old("trying", other="host3"), there(), "on host1 it is marked as trying, in a move to host3."),
        (old("moved", other="host3"), there(), "it was moved from host1 to host3. Say which host it is on."),
        (old("arriving", other="host3"), there(), "on host1 it is marked as arriving, in a move from host3."),
        (old("unknown"), there(), "host1 says of it what nobody understands: unknown."),
        (old("leaving"), there(exists=True), "host2 has a guest of that name. Say microvm_migrate_back=true"),
        (old("leaving"), there("arriving", other="host3"), "in a move from host3."),
        (old("trying"), there(), "host1 has handed it over, and host2 does not have it. Say microvm_migrate_back"),
        (old("moved"), there(), "it was moved to host2, and is not there any more."),
    ],
)
def test_refused(source: View | None, target: View | None, said: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        forward(source, target)
    assert caught.value.text().startswith("guest web1, move: ")
    assert said in caught.value.text()


@pytest.mark.parametrize(
    ("source", "target", "steps"),
    [
        (old(), there(), []),
        (old(), there(exists=True), []),
        (old(), None, []),
        (old(), there("arriving"), ["withdraw"]),
        (old(), there("arriving", other="host3"), []),
        (old("leaving"), there(), ["resume"]),
        # What is on the new host is held there until it answers.
        (old("leaving"), None, ["resume"]),
        (old("leaving"), there("arriving"), ["resume", "withdraw"]),
        (old("leaving"), there("arriving", exists=True), ["resume", "withdraw"]),
        (old("leaving"), there("arriving", other="host3"), ["resume"]),
        (old("trying"), there("arriving", exists=True), ["take_back", "resume", "withdraw"]),
        (old("trying"), there(exists=True), ["hold", "take_back", "resume", "withdraw"]),
        (old("trying"), there(exists=True, up=True), ["hold", "take_back", "resume", "withdraw"]),
        (old("trying"), there(), ["take_back", "resume"]),
    ],
)
def test_back(source: View, target: View | None, steps: list[str]) -> None:
    assert back(source, target) == steps


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (None, there(), "host host1 does not answer; what it says of the move holds until it does."),
        (old("trying"), None, "host2 does not answer, and may run it; so host1 must not start it."),
        (old("moved"), there(exists=True), "it is on host2 already. Move it back with the hosts the other way round."),
        (old("leaving"), there(exists=True), "host2 has a guest of that name, which nothing holds there."),
        (old("leaving", other="host3"), there(), "in a move to host3."),
    ],
)
def test_no_way_back(source: View | None, target: View | None, said: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        back(source, target)
    assert said in caught.value.text()


# All states that there are, as a machine that does nothing but move marks has them.


def do(step: str, source: View, target: View, move: str) -> None:
    """What the steps do to the views."""
    if step == "announce":
        target.update(phase="arriving", move=move, other="host1", traces=True)
    elif step == "leave":
        if source["phase"] is None:
            source.update(phase="leaving", move=move, other="host2", ran=source["up"])
    elif step == "stop":
        source["up"] = False
    elif step == "copy":
        assert not source["up"]
        target["copied"] = True
    elif step == "place":
        assert target["copied"] or target["exists"]
        target.update(exists=True, copied=False)
    elif step == "hand_over":
        assert target["exists"]
        source["phase"] = "trying"
    elif step == "accept":
        assert source["phase"] == "trying"
        target.update(phase=None, move=None, other=None)
    elif step == "start":
        assert target["phase"] is None
        target["up"] = True
    elif step == "release":
        source.update(phase="moved", exists=False, traces=False)
    elif step == "hold":
        target.update(phase="arriving", move=move, other="host1", up=False)
    elif step == "take_back":
        assert target["phase"] == "arriving" or not target["exists"]
        source["phase"] = "leaving"
    elif step == "withdraw":
        assert target["phase"] == "arriving"
        target.update(view())
    elif step == "resume":
        source.update(phase=None, move=None, other=None, up=source["ran"])


def sound(source: View, target: View) -> None:
    """Started on one host at most, and whole on one at least."""
    free = [each for each in (source, target) if each["exists"] and each["phase"] is None]
    assert len(free) < 2
    assert not (source["up"] and target["up"])
    assert source["exists"] or target["exists"]
    if target["exists"] and target["phase"] is None:
        assert source["phase"] in ("trying", "moved")


def cut(source: View, target: View, *, hosts: tuple[str, ...]) -> None:
    """The power of hosts goes: what nothing holds starts again."""
    for which, each in (("source", source), ("target", target)):
        if which in hosts:
            each["up"] = each["exists"] and each["phase"] is None


def walk(source: View, target: View, plan: t.Any, count: int | None) -> None:
    for each in plan["steps"][:count]:
        do(each["step"], source, target, plan["move"])
        sound(source, target)


@pytest.mark.parametrize("ends", [("forward",), ("back",), ("back", "forward"), ("forward", "back")])
@pytest.mark.parametrize("loses", [(), ("source",), ("target",), ("source", "target")])
def test_killed_after_any_steps_and_again_after_any(ends: tuple[str, ...], loses: tuple[str, ...]) -> None:
    counts = range(len(_move.FORWARD) + 1)
    for first, second in itertools.product(counts, counts):
        source, target = old(up=True), there()
        views = {"source": source, "target": target}
        walk(source, target, _move.forward("web1", views, HOSTS, new=OLD), first)
        moved = source["phase"] == "moved"
        for end in ends:
            cut(source, target, hosts=loses)
            sound(source, target)
            for count in (second, None):
                moved = moved or source["phase"] == "moved"
                if end == "back" and not moved:
                    walk(source, target, _move.back("web1", views, HOSTS), count)
                elif end == "forward" or moved:
                    walk(source, target, _move.forward("web1", views, HOSTS, new=NEW), count)
        home, away = (target, source) if ends[-1] == "forward" or moved else (source, target)
        assert home["exists"]
        assert home["phase"] is None
        assert not away["exists"]
        assert home["up"]
