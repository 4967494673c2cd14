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
from ansible_collections.microvm.fleet.tests.unit.support.hostvars import Hostvars

ROOT = Path(__file__).resolve().parents[4]
OLD = "/nix/store/1ci258innix3ldhhwj2as4915h8vlp79-microvm-qemu-guest"
NEW = "/nix/store/32sqyxb0gfzp0cvdxvshfwhiwgx84jl4-microvm-qemu-guest"
SAID = {"canary": 1, "batches": [1], "soak": 0, "max_failures": 0, "revert": "failed", "services": True, "guests": "*"}


def guest(name: str, number: int = 1) -> dict[str, t.Any]:
    kept = [{"number": 1, "runner": OLD}, {"number": 2, "runner": NEW}][:number]
    current = kept[-1]["runner"]
    return {"name": name, "exists": True, "active": True, "current": current, "booted": current, "generations": kept}


def fleet(**hosts: str) -> Hostvars:
    """Hosts with a guest each, which were read and for which something is staged."""
    return Hostvars(
        {
            host: {
                "wishes": [{"name": name}],
                "info": {"guests": [guest(name)]},
                "nothing": {},
                "staged": {"results": [{"name": name, "guest": {**guest(name), "staged": NEW}}]},
            }
            for host, name in hosts.items()
        }
    )


def begin(hosts: Hostvars, **options: t.Any) -> dict[str, t.Any]:
    said = {"read": "info", "wishes": "wishes", "results": ["nothing", "staged"], "now": "then", **options}
    return filters.rollout_begin(hosts, list(hosts), SAID, **said)


def record(report: dict[str, t.Any], number: int, hosts: Hostvars, **done: t.Any) -> dict[str, t.Any]:
    for host in hosts:
        hosts[host]["done"] = done.get(host, {"skipped": True})
    what = done.get("what", "update")
    return filters.rollout_record(report, number, hosts, list(hosts), "done", there="there", what=what)


def test_a_rollout_from_its_beginning_to_its_end() -> None:
    hosts = fleet(a="1", b="2")
    report = begin(hosts)
    assert filters.rollout_list(report, "batches") == [1, 2]
    for number, host, name in ((1, "a", "1"), (2, "b", "2")):
        report = filters.rollout_next(report, number, hosts, list(hosts), "info", wishes="wishes")
        assert filters.rollout_list(report, "updating", number, host) == [name]
        done = {"results": [{"name": name, "changed": True, "guest": guest(name, 2)}]}
        report = record(report, number, hosts, **{host: done})
        assert filters.rollout_list(report, "updated", number, host) == [name]
        report = record(report, number, hosts, what="soak", **{host: {"results": [{"name": name, "healthy": True}]}})
        assert filters.rollout_list(report, "put_back", number, host) == []
        report = record(report, number, hosts, what="put_back")
    report = filters.rollout_finish(report, "now", ["a", "b"])
    assert (report["began"], report["ended"]) == ("then", "now")
    assert filters.rollout_list(report, "complaints", host="a") == []
    assert filters.rollout_list(report, "summary", path="r.json")[-2:] == ["2 guests: 2 updated.", "Report: r.json"]


def test_a_host_that_has_gone_is_left_alone() -> None:
    hosts = fleet(a="1", b="2")
    report = filters.rollout_next(begin(hosts), 1, hosts, ["a", "b"], "info", wishes="wishes")
    report = record(report, 1, hosts, a={"unreachable": True, "msg": "timed out"})
    assert report["hosts"]["a"] == {"unreachable": True, "error": "timed out", "drained": False}
    # It is not read again, and what was said of it stays.
    hosts["a"]["info"] = {"skipped": True}
    report = filters.rollout_next(report, 2, hosts, ["a", "b"], "info", wishes="wishes")
    assert report["hosts"]["a"] == {"unreachable": True, "error": "timed out", "drained": False}
    assert [row["status"] for row in report["guests"]] == ["unreachable", "updating"]


def test_a_report_is_continued_but_in_a_check() -> None:
    hosts = fleet(a="1")
    old = json.dumps(begin(hosts))
    assert begin(hosts, now="now", old=old)["began"] == "then"
    assert begin(hosts, now="now", old=old, check=True)["began"] == "now"


def test_a_file_that_is_no_report_is_named() -> None:
    with pytest.raises(AnsibleFilterError, match=r"^r\.json: is no report of a rollout"):
        begin(Hostvars(), old="text", path="r.json")


def test_faults_and_entries_are_those_of_the_rollout() -> None:
    assert filters.rollout_faults(SAID) == []
    assert filters.rollout_faults({**SAID, "revert": 1}, "p_") == ["p_revert: 1 is unknown. It can be failed or batch."]
    assert filters.rollout_entries([{"name": "1", "state": "started"}], "*", ["1"]) == [{"name": "1"}]


@pytest.mark.parametrize(
    ("call", "seen"),
    [
        (lambda: filters.rollout_list({}, "all"), "what: 'all' is unknown"),
        (lambda: record({}, 1, Hostvars(), what="all"), "what: 'all' is unknown"),
        (lambda: begin(fleet(a="1"), results="text"), "results: 'text' is no list"),
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
