# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filters of rollouts, as the role uses them one after the other."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from ansible_collections.microvm.fleet.plugins.filter import rollout as filters

ROOT = Path(__file__).resolve().parents[4]
OLD = "/nix/store/1ci258innix3ldhhwj2as4915h8vlp79-microvm-qemu-guest"
NEW = "/nix/store/32sqyxb0gfzp0cvdxvshfwhiwgx84jl4-microvm-qemu-guest"
SAID = {"canary": 1, "batches": [1], "soak": 0, "max_failures": 0, "revert": "failed", "services": True, "guests": "*"}


def guest(name: str, number: int = 1) -> dict[str, t.Any]:
    kept = [{"number": 1, "runner": OLD}, {"number": 2, "runner": NEW}][:number]
    current = kept[-1]["runner"]
    return {"name": name, "exists": True, "active": True, "current": current, "booted": current, "generations": kept}


def read(host: str, *names: str) -> dict[str, t.Any]:
    return {
        "host": host,
        "entries": [{"name": name} for name in names],
        "guests": [guest(name) for name in names],
        "results": [{"name": name, "guest": {**guest(name), "staged": NEW}} for name in names],
    }


def answer(host: str, *names: str) -> dict[str, t.Any]:
    return {"host": host, "results": [{"name": name, "changed": True, "guest": guest(name, 2)} for name in names]}


def test_a_rollout_from_its_beginning_to_its_end() -> None:
    reads = [read("a", "1"), read("b", "2")]
    report = filters.rollout_begin(reads, SAID, "then")
    assert filters.rollout_list(report, "batches") == [1, 2]
    for number, host, name in ((1, "a", "1"), (2, "b", "2")):
        report = filters.rollout_next(report, number, reads)
        assert filters.rollout_list(report, "updating", number, host) == [name]
        report = filters.rollout_record(report, number, [answer(host, name)])
        assert filters.rollout_list(report, "updated", number, host) == [name]
        healthy = {"host": host, "results": [{"name": name, "healthy": True}]}
        report = filters.rollout_record(report, number, [healthy], "soak")
        assert filters.rollout_list(report, "put_back", number, host) == []
        report = filters.rollout_record(report, number, [], "put_back")
    report = filters.rollout_finish(report, "now", ["a", "b"])
    assert (report["began"], report["ended"]) == ("then", "now")
    assert filters.rollout_list(report, "complaints", host="a") == []
    assert filters.rollout_list(report, "summary", path="r.json")[-2:] == ["2 guests: 2 updated.", "Report: r.json"]


def test_a_report_is_continued_but_in_a_check() -> None:
    reads = [read("a", "1")]
    old = json.dumps(filters.rollout_begin(reads, SAID, "then"))
    assert filters.rollout_begin(reads, SAID, "now", old=old)["began"] == "then"
    assert filters.rollout_begin(reads, SAID, "now", old=old, check=True)["began"] == "now"


def test_a_file_that_is_no_report_is_named() -> None:
    with pytest.raises(AnsibleFilterError, match=r"^r\.json: is no report of a rollout"):
        filters.rollout_begin([], SAID, "now", old="text", path="r.json")


def test_faults_and_entries_are_those_of_the_rollout() -> None:
    assert filters.rollout_faults(SAID) == []
    assert filters.rollout_faults({**SAID, "revert": 1}, "p_") == ["p_revert: 1 is unknown. It can be failed or batch."]
    assert filters.rollout_entries([{"name": "1", "state": "started"}], "*", ["1"]) == [{"name": "1"}]


@pytest.mark.parametrize(
    ("call", "seen"),
    [
        (lambda: filters.rollout_list({}, "all"), "what: 'all' is unknown"),
        (lambda: filters.rollout_record({}, 1, [], "all"), "what: 'all' is unknown"),
        (lambda: filters.rollout_begin("text", SAID, "now"), "reads: 'text' is no list"),
        (lambda: filters.rollout_entries("text", "*", []), "guests: 'text' is no list"),
    ],
)
def test_what_cannot_be_is_refused(call: t.Callable[[], object], seen: str) -> None:
    with pytest.raises(AnsibleFilterError, match=seen):
        call()


def test_every_filter_is_described() -> None:
    for name, function in filters.FilterModule().filters().items():
        assert function is getattr(filters, name)
        page = yaml.safe_load((ROOT / "plugins" / "filter" / f"{name}.yml").read_text(encoding="utf-8"))
        code = function.__code__
        taken = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
        assert set(page["DOCUMENTATION"]["options"]) == {"_input", *taken}
