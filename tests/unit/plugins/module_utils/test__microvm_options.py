# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options of microvm.nix that a description can set: the list of them, and values of each type."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._microvm_options import (
    ELSEWHERE,
    OPTIONS,
    PREFIX,
    Fault,
    faults,
    fits,
    full,
)

LISTED = Path(__file__).parents[3] / "nix" / "options" / "microvm.json"


def seen(name: str, value: t.Any) -> list[Fault]:
    return list(faults({name: value}))


def listed() -> dict[str, str]:
    """The types of all options of microvm.nix, by name."""
    options = json.loads(LISTED.read_text(encoding="utf-8"))["options"]
    return {name: option["type"] for name, option in options.items()}


def test_names_and_types_are_those_of_the_list() -> None:
    known = listed()
    assert {name: kind for name, kind in OPTIONS.items() if known.get(name) != kind} == {}
    assert [name for name in ELSEWHERE if name not in known] == []


def test_nothing_is_said_in_two_ways() -> None:
    assert not set(OPTIONS) & set(ELSEWHERE)
    assert all(name.startswith(PREFIX) for name in (*OPTIONS, *ELSEWHERE))


@pytest.mark.parametrize("name", ["balloon", "microvm.balloon"])
def test_full_names(name: str) -> None:
    assert full(name) == "microvm.balloon"


# Of each type: values that fit, and values that do not.
VALUES: dict[str, tuple[list[t.Any], list[t.Any]]] = {
    "boolean": ([True, False], [None, 0, 1, "true", []]),
    "string": (["", "a"], [None, 1, True, ["a"]]),
    "null or string": ([None, "a"], [1, False, {}]),
    "unsigned integer, meaning >=0": ([0, 4096], [-1, True, "1", 1.5, None]),
    "list of string": ([[], ["a", "b"]], ["a", [1], None, {"a": "b"}]),
    "null or (attribute set of string)": ([None, {}, {"a": "b"}], [["a"], {"a": 1}, "a"]),
    'one of "Async", "Sync"': (["Async", "Sync"], ["async", "", None, True]),
    'null or one of "venus", "drm_native_context"': ([None, "venus"], ["none", ""]),
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_of_a_type(kind: str) -> None:
    good, bad = VALUES[kind]
    assert [value for value in good if not fits(value, kind)] == []
    assert [value for value in bad if fits(value, kind)] == []


def test_every_type_is_known() -> None:
    for name, kind in OPTIONS.items():
        if name != "microvm.devices":
            assert fits(None, kind) is kind.startswith("null or ")


def test_a_value_of_another_type() -> None:
    assert seen("microvm.balloon", 3) == [Fault("microvm.balloon", "3 is of another type.", "Give: boolean.")]


def test_an_option_that_is_misspelt() -> None:
    assert seen("microvm.balon", True) == [
        Fault("microvm.balon", "is no option that a description can set.", "Did you mean balloon?")
    ]


def test_an_option_that_resembles_none() -> None:
    (fault,) = seen("microvm.xyzzy", 1)
    assert fault.hint.startswith("There are balloon, ")
    assert all(name[len(PREFIX) :] in fault.hint for name in OPTIONS)


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_an_option_that_a_wish_says_otherwise(name: str) -> None:
    assert seen(name, None) == [Fault(name, "is said in another way here.", f"Use {ELSEWHERE[name]}.")]


DEVICES: list[tuple[t.Any, list[tuple[str, str]]]] = [
    ([], []),
    ([{"bus": "pci", "path": "0000:06:00.1"}, {"bus": "usb", "path": "vendorid=0x0451,productid=0x16a8"}], []),
    ({}, [("microvm.devices", "{} is no list.")]),
    (["a"], [("microvm.devices[0]", "'a' is no device.")]),
    ([{"bus": "pci"}], [("microvm.devices[0]", "{'bus': 'pci'} is no device.")]),
    (
        [{"bus": "pci", "path": "0000:06:00.1", "more": 1}],
        [("microvm.devices[0]", "{'bus': 'pci', 'path': '0000:06:00.1', 'more': 1} is no device.")],
    ),
    ([{"bus": "isa", "path": "x"}], [("microvm.devices[0].bus", "'isa' is no bus of devices.")]),
    ([{"bus": "pci", "path": "06:00.1"}], [("microvm.devices[0].path", "'06:00.1' is no such device.")]),
    ([{"bus": "pci", "path": "0000:06:00.8"}], [("microvm.devices[0].path", "'0000:06:00.8' is no such device.")]),
    ([{"bus": "usb", "path": "a b"}], [("microvm.devices[0].path", "'a b' is no such device.")]),
    ([{"bus": "usb", "path": 7}], [("microvm.devices[0].path", "7 is no such device.")]),
]


@pytest.mark.parametrize(("value", "said"), DEVICES)
def test_devices(value: t.Any, said: list[tuple[str, str]]) -> None:
    assert [(fault.option, fault.seen) for fault in seen("microvm.devices", value)] == said


def test_options_whose_words_reach_a_shell_are_not_among_them() -> None:
    assert not {"microvm.preStart", "microvm.extraArgsScript", "microvm.virtiofsd.extraArgs"} & set(OPTIONS)
