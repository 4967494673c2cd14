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
from ansible_collections.microvm.fleet.plugins.plugin_utils._fleet_plan import of_host, plan
from ansible_collections.microvm.fleet.tests.unit.support.hostvars import Hostvars

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
    report = plan([read(result(after, *actions), before=before)])
    row = report["guests"][0]
    assert (row["change"], row["restart"]) == (change, restart)
    assert report["changes"] is (change != "unchanged")


def test_the_lines_of_an_update_say_why_it_restarts() -> None:
    new = {**RUNS, "current": NEW}
    report = plan(
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
    report = plan([read(result(RUNS, "create with " + OLD, "start", reasons=["new"]), before=None)])
    assert plan_lines(report)[1] == "a     web1   create  no       create with microvm-qemu-web1; start"


def test_nothing_to_do_is_one_line() -> None:
    report = plan([read(result(RUNS))])
    assert plan_lines(report) == ["1 guest: 1 unchanged."]
    assert report["changes"] is False
    assert plan_lines(plan([])) == ["0 guests: none."]


def test_what_is_wrong_is_told() -> None:
    bad = result(RUNS, failed=True, msg="guest web1: does not evaluate.\nlog")
    gone = {"host": "b", "unreachable": True, "error": "Connection timed out"}
    report = plan([read(bad), gone, {"host": "c", "error": "no Nix\nat all"}, {"host": "d", "unreachable": True}])
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
    report = plan([read(unknown=["web1"])])
    assert report["changes"] is True
    assert (
        plan_lines(report)[1] == "a     web1   unknown  no       bring what builds it, which is yet to be on the host"
    )


def test_what_a_host_has_told() -> None:
    info, looked = {"guests": [RUNS]}, {"results": [result(RUNS)]}
    expected = {"host": "a", "unreachable": False, "error": None, "unknown": ()}
    assert of_host("a", info, looked) == {**expected, "guests": [RUNS], "results": looked["results"]}
    assert of_host("a", info, looked, unknown=["web2"])["unknown"] == ["web2"]


@pytest.mark.parametrize(
    ("info", "looked", "unreachable", "error"),
    [
        (None, None, False, "it could not be read"),
        ({"unreachable": True, "msg": "timed out"}, {"skipped": True}, True, "timed out"),
        ({"unreachable": True}, {"skipped": True}, True, "gone"),
        ({"msg": "no Nix"}, {"skipped": True}, False, "no Nix"),
        ({"guests": []}, {"unreachable": True, "msg": "timed out"}, True, "timed out"),
        ({"guests": []}, {"msg": "no Nix"}, False, "no Nix"),
        ({"guests": []}, None, False, "it could not be read"),
    ],
)
def test_a_host_of_which_nothing_is_known(
    info: dict[str, t.Any] | None, looked: dict[str, t.Any] | None, error: str, *, unreachable: bool
) -> None:
    read = of_host("a", info, looked)
    assert (read["unreachable"], read["error"], read["guests"], read["results"]) == (unreachable, error, (), [])
    assert plan([read])["wrong"] is True


def test_a_guest_that_could_not_be_staged_has_failed() -> None:
    info, new = {"guests": [RUNS]}, result({**RUNS, "current": NEW}, "switch to " + NEW)
    bad = result(RUNS, failed=True, msg="guest web1: does not build.")
    staged = {"results": [bad, {**bad, "name": "other", "failed": False}], "msg": "1 of 2 guests failed."}
    report = plan([of_host("a", info, {"results": [new]}, staged=staged)])
    assert plan_lines(report) == ["PROBLEMS", "a, guest web1: does not build.", "", "1 guest: 1 error."]
    assert (report["changes"], report["wrong"]) == (False, True)
    # What was wrong with all of them is of the host.
    report = plan([of_host("a", info, {"results": [new]}, staged={"results": [], "msg": "no room"})])
    assert report["hosts"]["a"]["error"] == "no room"
    assert (report["changes"], report["wrong"]) == (True, True)


def test_the_plan_of_hosts_is_made_of_what_they_have_registered() -> None:
    looked = {"results": [result(RUNS)]}
    hosts = Hostvars(
        a={"info": {"guests": [RUNS]}, "looked": looked, "seen": {"msg": "no room"}},
        b={"info": {"guests": []}, "looked": {"results": []}, "unknown": ["web2"]},
    )
    report = plan_report(hosts, ["b", "a"], "info", "looked", unknown="unknown")
    assert [(row["host"], row["change"]) for row in report["guests"]] == [("b", "unknown"), ("a", "unchanged")]
    assert (list(report["hosts"]), report["changes"], report["wrong"]) == (["b", "a"], True, False)
    assert plan_report(hosts, ["a"], "info", "looked", staged="seen")["wrong"] is True


def test_what_is_no_list_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="hosts: 'text' is no list"):
        plan_report(Hostvars(), "text", "info", "looked")


def test_the_filters_have_their_names() -> None:
    assert FilterModule().filters() == {"plan_lines": plan_lines, "plan_report": plan_report}
