# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans of many hosts, from what the module says in check mode."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.microvm.fleet.plugins.filter.plan import FilterModule, plan_lines, plan_report

OLD = "/nix/store/1ci258innix3ldhhwj2as4915h8vlp79-microvm-qemu-web1"
NEW = "/nix/store/32sqyxb0gfzp0cvdxvshfwhiwgx84jl4-microvm-qemu-web1"
RUNS = {"name": "web1", "exists": True, "active": True, "current": OLD}
DOWN = {**RUNS, "active": False}
NONE = {"name": "web1", "exists": False, "active": False, "current": None}


def result(guest: dict[str, t.Any], *actions: str, **changes: t.Any) -> dict[str, t.Any]:
    said = [f"web1: {action}" for action in actions]
    return {"name": "web1", "changed": bool(actions), "failed": False, "actions": said, "guest": guest, **changes}


def read(*results: dict[str, t.Any], **changes: t.Any) -> dict[str, t.Any]:
    before = changes.pop("before", RUNS)
    return {"host": "a", "guests": [before] if before else [], "results": list(results), **changes}


@pytest.mark.parametrize(
    ("before", "after", "actions", "change", "restart"),
    [
        (RUNS, RUNS, [], "unchanged", False),
        (None, {**RUNS, "active": False}, ["create with " + OLD], "create", False),
        (NONE, RUNS, ["create with " + OLD, "start"], "create", False),
        (RUNS, NONE, ["stop", "remove, keep its volumes"], "remove", True),
        (RUNS, {**RUNS, "current": NEW}, ["stop", "switch to " + NEW, "start"], "update", True),
        (DOWN, {**DOWN, "current": NEW}, ["switch to " + NEW], "update", False),
        (DOWN, RUNS, ["start"], "start", False),
        (RUNS, DOWN, ["stop"], "stop", True),
        (RUNS, RUNS, ["stop", "start"], "change", True),
        (RUNS, RUNS, ["enable autostart"], "change", False),
    ],
)
def test_what_would_become_of_a_guest(
    before: dict[str, t.Any] | None, after: dict[str, t.Any], actions: list[str], change: str, *, restart: bool
) -> None:
    report = plan_report([read(result(after, *actions), before=before)])
    row = report["guests"][0]
    assert (row["change"], row["restart"]) == (change, restart)
    assert report["changes"] is (change != "unchanged")


def test_the_lines_of_an_update_say_why_it_restarts() -> None:
    new = {**RUNS, "current": NEW}
    report = plan_report(
        [read(result(new, "stop", "switch to " + NEW, "start", reasons=["memory 512 to 1024 MiB", "kernel"]))]
    )
    assert plan_lines(report) == [
        "HOST  GUEST  CHANGE  RESTART  WHAT",
        "a     web1   update  yes      memory 512 to 1024 MiB, kernel",
        "",
        "1 guest: 1 update.",
    ]
    assert json.loads(json.dumps(report)) == report


def test_other_changes_are_told_by_their_actions_without_hashes() -> None:
    report = plan_report([read(result(RUNS, "create with " + OLD, "start", reasons=["new"]), before=None)])
    assert plan_lines(report)[1] == "a     web1   create  no       create with microvm-qemu-web1; start"


def test_nothing_to_do_is_one_line() -> None:
    report = plan_report([read(result(RUNS))])
    assert plan_lines(report) == ["1 guest: 1 unchanged."]
    assert report["changes"] is False
    assert plan_lines(plan_report([])) == ["0 guests: none."]


def test_what_is_wrong_is_told() -> None:
    bad = result(RUNS, failed=True, msg="guest web1: does not evaluate.\nlog")
    gone = {"host": "b", "unreachable": True, "error": "Connection timed out"}
    report = plan_report(
        [read(bad), gone, {"host": "c", "error": "no Nix\nat all"}, {"host": "d", "unreachable": True}]
    )
    assert report["changes"] is False
    assert plan_lines(report) == [
        "PROBLEMS",
        "a, guest web1: does not evaluate.",
        "b: Connection timed out",
        "c: no Nix",
        "d: does not answer",
        "",
        "1 guest: 1 error.",
    ]


def test_guests_of_which_nothing_can_be_said_yet_would_change() -> None:
    report = plan_report([read(unknown=["web1"])])
    assert report["changes"] is True
    assert (
        plan_lines(report)[1] == "a     web1   unknown  no       bring what builds it, which is yet to be on the host"
    )


def test_what_is_no_list_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="reads: 'text' is no list"):
        plan_report("text")


def test_the_filters_have_their_names() -> None:
    assert FilterModule().filters() == {"plan_lines": plan_lines, "plan_report": plan_report}
