# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Wishes for a host's system: what is refused before any host is asked."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._system_wish import (
    FLAKE,
    Limits,
    SystemWish,
    limits_of,
    read_wish,
    system_spec,
)


def params(**given: t.Any) -> dict[str, t.Any]:
    return {**{name: option.get("default") for name, option in system_spec().items()}, **given}


def test_defaults() -> None:
    assert read_wish(params(), "host1") == SystemWish(name="host1", flake=FLAKE, mode="switch", confirm_timeout=0)
    assert limits_of(params()) == Limits()


def test_what_is_given_is_taken() -> None:
    wish = read_wish(params(name="h2", flake="git+ssh://git@example.org/x", mode="test", confirm_timeout=90), "host1")
    assert wish == SystemWish("h2", "git+ssh://git@example.org/x", "test", 90)
    assert wish.subject == "system h2"
    given = params(eval_timeout=1, build_timeout=2, activation_timeout=10, lock_timeout=0)
    assert limits_of(given) == Limits(evaluate=1, build=2, activate=10, lock=0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": ""}, "system '', name: '' is no name"),
        ({"name": "a b"}, "system 'a b', name: 'a b' is no name"),
        ({"name": "a\n"}, r"name: 'a\\n' is no name"),
        ({"flake": ""}, "system host1, flake: is empty"),
        ({"flake": "./x"}, "system host1, flake: './x' is relative"),
        ({"flake": "path:x"}, "flake: 'path:x' is relative"),
        ({"flake": "/etc/nixos#host1"}, "flake: '/etc/nixos#host1' names an output"),
        ({"confirm_timeout": 9}, "confirm_timeout: 9 is out of range. Give 0 .* from 10 to 3600"),
        ({"confirm_timeout": -1}, "confirm_timeout: -1 is out of range"),
        ({"confirm_timeout": 3601}, "confirm_timeout: 3601 is out of range"),
        ({"confirm_timeout": 60, "mode": "boot"}, "confirm_timeout: there is nothing to confirm with the mode boot"),
    ],
)
def test_what_is_refused(given: dict[str, t.Any], said: str) -> None:
    with pytest.raises(InvalidWish, match=said):
        read_wish(params(**given), "host1")


@pytest.mark.parametrize(
    ("option", "value"),
    [("eval_timeout", 0), ("build_timeout", 86401), ("activation_timeout", 9), ("lock_timeout", -1)],
)
def test_limits_that_are_refused(option: str, value: int) -> None:
    with pytest.raises(InvalidWish, match=f"^{option}: {value} is out of range. Give seconds from"):
        limits_of(params(**{option: value}))
