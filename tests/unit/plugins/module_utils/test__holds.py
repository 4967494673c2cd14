# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Holds: marks of hosts and guests, and that the units have the conditions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._holds import (
    CONDITIONS,
    Drained,
    Moving,
    Ran,
    drained_of_text,
    moving_of_text,
    read_drained,
    read_moving,
)
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost

UNITS = Path(__file__).parents[4] / "roles" / "host" / "files" / "units"
MARK = Drained("2026-11-23T17:05:00Z", "memory", (Ran("web1", 10), Ran("db1", 90)))
MOVE = Moving("web1", "leaving", "host2", "4f", since="2026-11-23T17:05:00Z", ran=True, autostart=True)


@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.glob("*@.service")))
def test_every_unit_of_a_guest_is_held(unit: str) -> None:
    lines = (UNITS / unit).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line in CONDITIONS] == list(CONDITIONS)
    # Conditions belong into the section of the unit.
    assert lines.index(CONDITIONS[1]) < lines.index("[Service]")


def test_conditions_are_the_places_of_the_marks(host: FakeHost) -> None:
    assert [condition.partition("!")[2] for condition in CONDITIONS] == [
        host.paths.drained[len(host.paths.root) :],
        host.paths.moving("%i")[len(host.paths.root) :],
    ]


@pytest.mark.parametrize("mark", [MARK, Drained("2026-01-01T00:00:00Z")])
def test_a_mark_of_a_host_is_read_as_it_was_written(mark: Drained) -> None:
    assert drained_of_text(json.dumps(mark.as_dict())) == mark
    assert mark.shown() == {**mark.as_dict(), "returning": False}


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"since": "x", "reason": null, "guests": [{"name": "a"}]}', "null", "\0"]
)
def test_what_cannot_be_read_is_a_mark_all_the_same(text: str) -> None:
    mark = drained_of_text(text)
    assert not mark.readable
    assert mark.guests == ()
    moving = moving_of_text("web1", text)
    assert not moving.readable
    assert moving.words == "is marked as moving, by a file that cannot be read"


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        (MARK, "drained since 2026-11-23T17:05:00Z (memory)"),
        (Drained("2026-11-23T17:05:00Z"), "drained since 2026-11-23T17:05:00Z"),
    ],
)
def test_words_of_a_drained_host(mark: Drained, words: str) -> None:
    assert mark.words == words


def test_the_host_is_drained_returning_or_neither(host: FakeHost) -> None:
    assert read_drained(host.paths) is None
    returning = Path(host.paths.returning)
    returning.parent.mkdir(parents=True)
    returning.write_text(json.dumps(MARK.as_dict()), encoding="utf-8")
    found = read_drained(host.paths)
    assert found is not None
    assert found.returning
    assert found.guests == MARK.guests
    # A run that was killed right before it removed the older of both.
    Path(host.paths.drained).write_text(json.dumps(MARK.as_dict()), encoding="utf-8")
    assert read_drained(host.paths) == MARK


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("leaving", "is being moved to host2 (since 2026-11-23T17:05:00Z)"),
        ("trying", "is being moved to host2 (since 2026-11-23T17:05:00Z)"),
        ("arriving", "is being moved from host2 (since 2026-11-23T17:05:00Z)"),
        ("moved", "was moved to host2 (2026-11-23T17:05:00Z)"),
    ],
)
def test_words_of_a_guest_that_moves(phase: str, words: str) -> None:
    moving = Moving("web1", phase, "host2", "4f", since="2026-11-23T17:05:00Z")
    assert moving.words == words
    assert moving_of_text("web1", json.dumps(moving.as_dict())) == moving


def test_guests_that_move(host: FakeHost) -> None:
    assert read_moving(host.paths) == {}
    directory = Path(host.paths.moving())
    directory.mkdir(parents=True)
    (directory / "web1.json").write_text(json.dumps(MOVE.as_dict()), encoding="utf-8")
    (directory / "a.b.json").write_text("?", encoding="utf-8")
    (directory / ".microvm-fleet.web2.json.7").write_text("{}", encoding="utf-8")
    (directory / "other").write_text("{}", encoding="utf-8")
    found = read_moving(host.paths)
    assert sorted(found) == ["a.b", "web1"]
    assert found["web1"] == MOVE
    assert not found["a.b"].readable
    assert MOVE.shown() == {"name": "web1", "phase": "leaving", "other": "host2", "since": "2026-11-23T17:05:00Z"}
