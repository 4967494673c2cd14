# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of nftables: what fills its sets, and what is read back, from recorded output."""

from __future__ import annotations

import json
import re
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _nft
from ansible_collections.microvm.fleet.tests.unit.support.recorded import FIXTURES, SYSTEMD

EMPTY: _nft.Sets = {name: frozenset() for name in _nft.SETS}


def recorded(version: str) -> t.Any:
    return json.loads(Path(FIXTURES, "net", version, "nft_table.json").read_text("utf-8"))


@pytest.mark.parametrize("version", SYSTEMD)
def test_parse_what_a_host_has(version: str) -> None:
    table = _nft.parse(recorded(version))
    assert table.rules == _nft.RULES
    assert table.sets == {
        "bridges": {"lan"},
        "pairs": {"lan . lan"},
        "out4": {"lan . 10.9.0.0/24 . host0"},
        "out6": {"lan . fd00:9::/64 . host0"},
        "nat4": {"10.9.0.0/24"},
        "nat6": {"fd00:9::/64"},
        "closed": {"ipv6"},
    }
    assert table.differences(table.sets) == []


@pytest.mark.parametrize("version", SYSTEMD)
def test_what_is_written_is_what_is_read(version: str) -> None:
    table = _nft.parse(recorded(version))
    commands = json.loads(_nft.data(table.sets))["nftables"]
    added = {one["add"]["element"]["name"]: one["add"]["element"]["elem"] for one in commands if "add" in one}
    of_nft = {item["set"]["name"]: item["set"].get("elem") for item in recorded(version)["nftables"] if "set" in item}
    assert added == of_nft


def test_ruleset_and_its_list_of_rules_agree() -> None:
    rules = []
    chain = ""
    for line in _nft.RULESET.splitlines():
        found = re.match(r"\s+chain (\w+) \{", line)
        chain = found[1] if found else chain
        comment = re.search(r'comment "(\w+)"$', line)
        if comment:
            rules.append((chain, comment[1]))
    assert tuple(rules) == _nft.RULES
    assert tuple(re.findall(r"\s+set (\w+) \{", _nft.RULESET)) == _nft.SETS


def test_data_of_nothing_empties_all_sets() -> None:
    commands = json.loads(_nft.data(EMPTY))["nftables"]
    assert [one["flush"]["set"]["name"] for one in commands] == list(_nft.SETS)
    assert {one["flush"]["set"]["table"] for one in commands} == {"microvm_fleet"}


def test_data_flushes_a_set_before_it_fills_it() -> None:
    text = _nft.data({**EMPTY, "bridges": frozenset(("b", "a")), "out4": frozenset(("a . 10.0.0.0/8 . e",))})
    commands = json.loads(text)["nftables"]
    assert [next(iter(one)) for one in commands[:2]] == ["flush", "add"]
    assert commands[1]["add"]["element"]["elem"] == ["a", "b"]
    out = next(
        one["add"]["element"]["elem"] for one in commands if one.get("add", {}).get("element", {}).get("name") == "out4"
    )
    assert out == [{"concat": ["a", {"prefix": {"addr": "10.0.0.0", "len": 8}}, "e"]}]


@pytest.mark.parametrize(
    ("printed", "spelt"),
    [
        ("lan", "lan"),
        (5, "5"),
        ({"prefix": {"addr": "10.0.0.0", "len": 24}}, "10.0.0.0/24"),
        ({"concat": ["a", "b"]}, "a . b"),
        ({"concat": ["a", {"prefix": {"addr": "fd00::", "len": 64}}, "b"]}, "a . fd00::/64 . b"),
        ({"range": ["10.0.0.1", "10.0.0.5"]}, "10.0.0.1-10.0.0.5"),
        ({"elem": {"val": "lan", "counter": {"packets": 0}}}, "lan"),
        ({"elem": {"val": {"concat": ["a", "b"]}}}, "a . b"),
        ({"other": 1}, "{'other': 1}"),
    ],
)
def test_element(printed: t.Any, spelt: str) -> None:
    assert _nft.element(printed) == spelt


@pytest.mark.parametrize(
    ("sets", "rules", "found"),
    [
        (EMPTY, _nft.RULES, []),
        (EMPTY, _nft.RULES[:-1], [("rules", "9", "8 or others")]),
        (EMPTY, tuple(reversed(_nft.RULES)), [("rules", "9", "9 or others")]),
        ({**EMPTY, "nat4": frozenset(("10.0.0.0/24",))}, _nft.RULES, [("set nat4", "nothing", "10.0.0.0/24")]),
        (
            {key: value for key, value in EMPTY.items() if key != "pairs"},
            _nft.RULES,
            [("set pairs", "nothing", "missing")],
        ),
    ],
)
def test_differences(sets: _nft.Sets, rules: t.Any, found: list[tuple[str, str, str]]) -> None:
    assert _nft.Table(sets, rules).differences(EMPTY) == found


def test_parse_of_nothing() -> None:
    assert _nft.parse({}) == _nft.Table({}, ())
    assert _nft.parse({"nftables": [{"rule": {"chain": "a"}}]}).rules == (("a", ""),)
    assert _nft.words(()) == "nothing"
    assert _nft.words({"b", "a"}) == "a, b"
