# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests that are only read."""

from __future__ import annotations

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_inspect import inspect
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost, Spec
from ansible_collections.microvm.fleet.tests.unit.support.scenes import ran, run, wish


def test_inspect_all(host: FakeHost) -> None:
    ran(host)
    host.microvm_create(Spec("a"))
    assert [guest["name"] for guest in inspect(None, paths=host.paths, commands=host)] == ["a", "web1"]
    assert inspect([], paths=host.paths, commands=host) == inspect(None, paths=host.paths, commands=host)


def test_inspect_some(host: FakeHost) -> None:
    ran(host)
    found = inspect(["none", "web1"], paths=host.paths, commands=host)
    assert [(guest["name"], guest["exists"]) for guest in found] == [("none", False), ("web1", True)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "guest '', names: is empty. Give the names of guests."),
        ("..", "guest '..', names: '..' is no name of a guest. Give the names of guests."),
        ("a/b", "guest 'a/b', names: 'a/b' is no name of a guest. Give the names of guests."),
    ],
)
def test_inspect_what_cannot_be(host: FakeHost, name: str, said: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        inspect(["web1", name], paths=host.paths, commands=host)
    assert caught.value.text() == said


def test_inspect_gives_what_a_run_gives(host: FakeHost) -> None:
    ran(host)
    result = run(host, [wish()])
    assert inspect(["web1"], paths=host.paths, commands=host) == [result.results[0]["guest"]]
