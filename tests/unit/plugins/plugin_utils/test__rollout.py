# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rollouts: sizes, batches, and what becomes of each guest."""

from __future__ import annotations

import json
import typing as t
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.microvm.fleet.plugins.plugin_utils import _rollout as rollout
from ansible_collections.microvm.fleet.plugins.plugin_utils._rollout import Candidate, Size, batches, size

NOW = "2026-11-23T12:00:00Z"
LATER = "2026-11-23T12:30:00Z"
OLD = "/nix/store/1ci258innix3ldhhwj2as4915h8vlp79-microvm-qemu-guest"
NEW = "/nix/store/32sqyxb0gfzp0cvdxvshfwhiwgx84jl4-microvm-qemu-guest"
SAID = {
    "canary": 1,
    "batches": ["50%"],
    "soak": 0,
    "max_failures": 0,
    "revert": "failed",
    "services": True,
    "guests": "*",
}
SIZE_HINT = "Give a number such as 2, or a percentage of the guests to change such as 25%."
NAMES_HINT = "Give names or patterns such as web*, as a list or with commas."


# --- sizes


@pytest.mark.parametrize(
    ("value", "total", "number"),
    [
        (1, 9, 1),
        ("3", 9, 3),
        (" 3 ", 9, 3),
        (12, 9, 12),
        ("100%", 9, 9),
        ("50%", 9, 4),
        ("33%", 9, 2),
        ("33.4%", 9, 3),
        ("1%", 9, 1),
        ("25%", 4, 1),
        ("25%", 7, 1),
        ("25%", 8, 2),
    ],
)
def test_a_size_is_a_number_or_a_percentage_rounded_down_to_one_at_least(value: t.Any, total: int, number: int) -> None:
    assert size(value).of(total) == number


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (0, "means no guest at all"),
        ("0%", "means no guest at all"),
        ("101%", "is more than all guests"),
        ("100.5%", "is more than all guests"),
        (-1, "is neither a number of guests nor a percentage"),
        ("-5%", "is neither"),
        ("a quarter", "is neither"),
        ("", "is neither"),
        (True, "is neither"),
        (None, "is neither"),
        (2.5, "is neither"),
    ],
)
def test_what_is_no_size_is_refused(value: t.Any, seen: str) -> None:
    with pytest.raises(rollout.InvalidSize, match=seen):
        size(value)


def test_no_canary_is_a_size_where_it_is_allowed() -> None:
    assert size(0, least=0).of(9) == 0
    assert size("0%", least=0).of(9) == 0


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({}, []),
        ({"batches": "25%"}, []),
        (
            {"batches": 3, "canary": 0, "revert": "batch", "soak": "30", "max_failures": 2, "guests": ["web*", "db1"]},
            [],
        ),
        (
            {"canary": "200%"},
            [
                f'microvm_rollout_canary: "200%" is more than all guests. {SIZE_HINT} 0 means no canary.',
            ],
        ),
        (
            {"batches": [1, 0]},
            [
                f"microvm_rollout_batches: 0 means no guest at all. {SIZE_HINT}",
            ],
        ),
        (
            {"batches": []},
            ["microvm_rollout_batches: [] says no batch. Give a list of sizes, of which the last repeats."],
        ),
        (
            {"soak": -1},
            ["microvm_rollout_soak: -1 is out of range or no whole number. Give seconds from 0 to 86400."],
        ),
        (
            {"max_failures": "some"},
            ['microvm_rollout_max_failures: "some" is out of range or no whole number. Give a number from 0 on.'],
        ),
        ({"revert": "all"}, ['microvm_rollout_revert: "all" is unknown. It can be failed or batch.']),
        (
            {"guests": ""},
            [f'microvm_rollout_guests: "" names no guest. {NAMES_HINT}'],
        ),
        (
            {"guests": [3]},
            [f"microvm_rollout_guests: [3] names no guest. {NAMES_HINT}"],
        ),
    ],
)
def test_faults_name_the_variable_what_was_seen_and_what_to_do(changes: dict[str, t.Any], seen: list[str]) -> None:
    assert list(rollout.faults({**SAID, **changes}, "microvm_rollout_")) == seen


def test_all_faults_are_told() -> None:
    said = {"canary": "x", "batches": ["0%", "101%"], "soak": None, "max_failures": 1.5, "revert": 1, "guests": None}
    told = list(rollout.faults(said, "p_"))
    assert [line.partition(":")[0] for line in told] == [
        "p_canary",
        "p_batches",
        "p_batches",
        "p_soak",
        "p_max_failures",
        "p_revert",
        "p_guests",
    ]


@pytest.mark.parametrize(
    ("value", "name", "found"),
    [
        ("*", "web1", True),
        ("web*, db1", "db1", True),
        (["web*"], "db1", False),
        ("web", "web1", False),
        ("", "a", False),
    ],
)
def test_guests_are_chosen_by_name_or_pattern(value: t.Any, name: str, found: bool) -> None:
    assert rollout.chosen(name, rollout.patterns(value)) is found


# --- batches

ALL = (Size(percent=100.0),)
ONE = Size(number=1)
NONE = Size()


def fleet(*services: str | None) -> list[Candidate]:
    return [Candidate(f"h{number % 3}", f"g{number}", service) for number, service in enumerate(services)]


@pytest.mark.parametrize(
    ("candidates", "canary", "sizes", "wanted"),
    [
        ([], ONE, ALL, []),
        (fleet(None), ONE, ALL, [[0]]),
        (fleet(None), NONE, ALL, [[0]]),
        (fleet(*[None] * 5), ONE, ALL, [[0], [1, 2, 3, 4]]),
        (fleet(*[None] * 5), NONE, (Size(number=2),), [[0, 1], [2, 3], [4]]),
        (fleet(*[None] * 6), ONE, (Size(number=1), Size(number=2)), [[0], [1], [2, 3], [4, 5]]),
        # Two of a service are never in one batch, the largest service goes first.
        (fleet("web", "web", "web"), ONE, ALL, [[0], [1], [2]]),
        (fleet("a", "b", "b", "b", None), NONE, ALL, [[1, 0, 4], [2], [3]]),
        (fleet("a", "b", "b", "b", None), NONE, (Size(number=2),), [[1, 0], [2, 4], [3]]),
        # Some canaries, none of one service.
        (fleet("web", "web", "db"), Size(number=2), ALL, [[0, 2], [1]]),
        # Hosts that have few guests in the batch go first.
        ([Candidate("a", "1"), Candidate("a", "2"), Candidate("b", "3")], NONE, (Size(number=2),), [[0, 2], [1]]),
        # The one that does not run goes before those of its service, and is no good canary.
        (
            [Candidate("a", "1", "web"), Candidate("b", "2", "web", up=False), Candidate("c", "3")],
            ONE,
            ALL,
            [[2], [1], [0]],
        ),
        ([Candidate("a", "1", "web"), Candidate("b", "2", "web", up=False)], ONE, ALL, [[1], [0]]),
        # Preferred ones first.
        ([Candidate("a", "1"), Candidate("a", "2", preferred=True)], ONE, ALL, [[1], [0]]),
    ],
)
def test_batches(candidates: list[Candidate], canary: Size, sizes: tuple[Size, ...], wanted: list[list[int]]) -> None:
    assert batches(candidates, canary=canary, sizes=sizes) == wanted


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        host=st.sampled_from(["h1", "h2", "h3"]),
        name=st.text("abc", min_size=1, max_size=3),
        service=st.sampled_from([None, "web", "db", "mail"]),
        up=st.booleans(),
        preferred=st.booleans(),
    ),
    max_size=25,
)
SIZES = st.one_of(
    st.builds(Size, number=st.integers(1, 9)), st.builds(Size, percent=st.floats(0.5, 100, allow_nan=False))
)


@given(CANDIDATES, st.one_of(st.just(NONE), SIZES), st.lists(SIZES, min_size=1, max_size=4))
def test_every_batch_keeps_the_rules(candidates: list[Candidate], canary: Size, sizes: list[Size]) -> None:
    found = batches(candidates, canary=canary, sizes=sizes)
    # Each candidate exactly once, in batches that are not empty.
    assert sorted(place for batch in found for place in batch) == list(range(len(candidates)))
    assert all(found)
    # No two of one service in a batch.
    for batch in found:
        of = Counter(candidates[place].service for place in batch if candidates[place].service is not None)
        assert max(of.values(), default=1) == 1
    # None that runs goes down before those of its service that do not are up.
    where = {place: number for number, batch in enumerate(found) for place in batch}
    for one, candidate in enumerate(candidates):
        for other, down in enumerate(candidates):
            if candidate.up and not down.up and candidate.service == down.service and down.service is not None:
                assert where[other] < where[one]
    # None is larger than what was asked for.
    rooms = [canary, *sizes] if canary.of(len(candidates)) else list(sizes)
    for number, batch in enumerate(found):
        assert len(batch) <= rooms[min(number, len(rooms) - 1)].of(len(candidates))


@given(CANDIDATES)
def test_as_few_batches_as_services_allow(candidates: list[Candidate]) -> None:
    running = [Candidate(one.host, one.name, one.service) for one in candidates]
    most = max(Counter(one.service for one in running if one.service is not None).values(), default=0)
    assert len(batches(running, canary=NONE, sizes=ALL)) == max(most, 1 if running else 0)


# --- what is read of hosts


def guest(name: str, **changes: t.Any) -> dict[str, t.Any]:
    """What microvm_guest_info says of a guest that runs its first generation."""
    return {
        "name": name,
        "exists": True,
        "active": True,
        "current": OLD,
        "booted": OLD,
        "staged": None,
        "restart_needed": False,
        "judging": None,
        "autostart": True,
        "labels": {},
        "unit": {"active_state": "active"},
        "generations": [{"number": 1, "runner": OLD}],
        **changes,
    }


def down(name: str, **changes: t.Any) -> dict[str, t.Any]:
    return guest(name, active=False, booted=None, unit={"active_state": "inactive"}, **changes)


def updated(name: str) -> dict[str, t.Any]:
    kept = [{"number": 1, "runner": OLD}, {"number": 2, "runner": NEW}]
    return guest(name, current=NEW, booted=NEW, generations=kept)


def read(host: str, *guests: dict[str, t.Any], staged: t.Any = (), **changes: t.Any) -> dict[str, t.Any]:
    """A host with *guests*; those named in *staged* have a new runner beside their own."""
    names = staged if staged != "all" else [each["name"] for each in guests]
    return {
        "host": host,
        "unreachable": False,
        "error": None,
        "drained": None,
        "entries": [{"name": each["name"], "flake": "/srv/guests", "labels": each["labels"]} for each in guests],
        "guests": list(guests),
        "results": [
            {
                "name": each["name"],
                "failed": False,
                "changed": each["name"] in names,
                "reasons": ["system"] if each["name"] in names else [],
                "guest": {**each, "staged": NEW if each["name"] in names else None},
            }
            for each in guests
        ],
        **changes,
    }


def served(name: str, service: str) -> dict[str, t.Any]:
    return guest(name, labels={"service": service})


def begin(*reads: dict[str, t.Any], **changes: t.Any) -> dict[str, t.Any]:
    settings = {**SAID, **{key: value for key, value in changes.items() if key in SAID}}
    rest = {key: value for key, value in changes.items() if key not in SAID}
    return rollout.begin(reads, settings, now=NOW, **rest)


def states(report: dict[str, t.Any]) -> dict[str, t.Any]:
    return {f"{row['host']}/{row['name']}": (row["status"], row["batch"]) for row in report["guests"]}


def reason(report: dict[str, t.Any], name: str) -> str | None:
    found: list[str | None] = [row["reason"] for row in report["guests"] if f"{row['host']}/{row['name']}" == name]
    return found[0]


def test_only_guests_that_change_are_put_into_batches() -> None:
    report = begin(read("a", guest("1"), guest("2"), staged=["2"]), read("b", guest("3"), staged="all"))
    assert states(report) == {"a/1": ("unchanged", None), "a/2": ("not_reached", 1), "b/3": ("not_reached", 2)}
    assert rollout.batch_numbers(report) == [1, 2]
    assert report["guests"][0]["before"] == report["guests"][0]["after"] == {"generation": 1, "runner": OLD}
    assert report["guests"][1]["reasons"] == ["system"]
    assert report["stopped"] is None


def test_a_check_plans() -> None:
    report = begin(read("a", guest("1"), guest("2"), staged=["2"]), check=True)
    assert states(report) == {"a/1": ("unchanged", None), "a/2": ("planned", 1)}
    assert rollout.batch_numbers(report) == []


@pytest.mark.parametrize(
    ("changes", "status", "reasons"),
    [
        ({"restart_needed": True, "booted": NEW}, "not_reached", ["restart"]),
        ({"judging": OLD}, "not_reached", ["not judged"]),
        ({"judging": OLD, "active": False}, "unchanged", []),
        ({"exists": False}, "skipped", []),
        ({}, "unchanged", []),
    ],
)
def test_what_else_makes_a_guest_change(changes: dict[str, t.Any], status: str, reasons: list[str]) -> None:
    report = begin(read("a", guest("1", **changes)))
    assert (report["guests"][0]["status"], report["guests"][0]["reasons"]) == (status, reasons)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"update": "never"}, "its entry says update: never"),
        ({"generation": "3"}, "its entry says generation: 3"),
        ({"state": "absent"}, "its entry says state: absent"),
    ],
)
def test_entries_that_keep_their_guests_out_are_said(entry: dict[str, t.Any], why: str) -> None:
    report = begin(read("a", guest("1"), entries=[{"name": "1", **entry}], results=[]))
    assert states(report) == {"a/1": ("skipped", None)}
    assert reason(report, "a/1") == why
    assert rollout.complaints(report, "a") == []


def test_entries_are_handed_over_without_what_a_rollout_decides() -> None:
    guests: list[dict[str, t.Any]] = [
        {"name": "web1", "flake": "/srv", "state": "started", "update": "activate", "autostart": True},
        {"name": "web2", "update": "never"},
        {"name": "web3"},
        {"name": "web4", "state": "absent"},
        {"name": "db1"},
    ]
    found = rollout.entries(guests, "web*", ["web1", "web2", "web4", "db1"])
    assert found == [{"name": "web1", "flake": "/srv", "autostart": True}]


def test_entries_for_going_back_say_where_to() -> None:
    guests: list[dict[str, t.Any]] = [
        {"name": "web1", "flake": "/srv", "update": "never", "state": "started", "health": []},
        {"name": "web2"},
    ]
    assert rollout.entries(guests, "*", ["web1", "db1"], "previous") == [
        {"name": "web1", "flake": "/srv", "health": [], "generation": "previous"},
        {"name": "db1", "generation": "previous"},
    ]
    assert rollout.entries(guests, ["web1"], ["web1"], {"web1": "3"}, ["name", "health"]) == [
        {"name": "web1", "health": [], "generation": "3"}
    ]


def test_a_runner_that_a_guest_was_taken_back_from_is_no_candidate() -> None:
    reads = [read("a", guest("1", rejected={NEW: "port 80 refuses\nmore"}), guest("2"), staged="all")]
    report = begin(*reads)
    assert states(report) == {"a/1": ("failed", None), "a/2": ("not_reached", 1)}
    assert reason(report, "a/1") == "it was taken back from what is staged before: port 80 refuses"
    assert report["stopped"] == "1 failed (a/1), and 0 may"
    again = rollout.begin(reads, {**SAID, "retry": True}, now=NOW)
    assert states(again) == {"a/1": ("not_reached", 1), "a/2": ("not_reached", 2)}


def test_only_chosen_guests_have_a_row() -> None:
    report = begin(read("a", guest("web1"), guest("db1"), staged="all"), guests="web*")
    assert states(report) == {"a/web1": ("not_reached", 1)}


def test_a_host_that_does_not_answer_is_no_failure() -> None:
    gone = read("a", guest("1"), unreachable=True, error="Connection timed out.\nmore", guests=[], results=[])
    report = begin(gone, read("b", guest("2"), staged="all"))
    assert states(report) == {"a/1": ("unreachable", None), "b/2": ("not_reached", 1)}
    assert report["stopped"] is None
    assert report["hosts"]["a"] == {"unreachable": True, "error": "Connection timed out.", "drained": False}
    assert rollout.complaints(report, "a") == ["guest 1: unreachable: Connection timed out."]


def test_a_host_without_guests_that_does_not_answer_is_said_too() -> None:
    report = begin(read("a", unreachable=True, error="no route"))
    assert rollout.complaints(report, "a") == ["no route"]
    assert "a: no route" in rollout.summary(report)


def test_what_cannot_be_staged_stops_the_rollout_before_it_begins() -> None:
    broken = read("a", guest("1"), guest("2"), staged="all")
    broken["results"][0] = {"name": "1", "failed": True, "msg": "guest 1: its build failed.", "guest": guest("1")}
    report = begin(broken)
    assert states(report) == {"a/1": ("failed", None), "a/2": ("not_reached", 1)}
    assert report["stopped"] == "1 failed (a/1), and 0 may"
    assert begin(broken, max_failures=1)["stopped"] is None


def test_a_host_that_could_not_be_staged_fails_with_all_guests() -> None:
    report = begin(read("a", guest("1"), guest("2"), error="host: no Nix.", results=[]))
    assert states(report) == {"a/1": ("failed", None), "a/2": ("failed", None)}
    assert report["stopped"] == "2 failed (a/1, a/2), and 0 may"


def test_a_drained_host_is_left_alone() -> None:
    report = begin(read("a", down("1"), staged="all", drained={"since": NOW, "reason": "disks"}))
    assert states(report) == {"a/1": ("skipped", None)}
    assert rollout.complaints(report, "a") == []


def test_a_guest_that_was_not_told_of_is_to_change_in_a_check() -> None:
    report = begin(read("a", guest("1"), results=[]), check=True)
    assert states(report) == {"a/1": ("planned", 1)}
    assert report["guests"][0]["reasons"] == ["what builds it is yet to be brought to the host"]


# --- services


def test_two_of_a_service_on_different_hosts_are_in_different_batches() -> None:
    report = begin(*(read(host, served(host, "web"), staged="all") for host in "abc"), canary=0, batches=["100%"])
    assert [row["batch"] for row in report["guests"]] == [1, 2, 3]
    report = begin(
        *(read(host, served(host, "web"), staged="all") for host in "abc"),
        canary=0,
        batches=["100%"],
        services=False,
    )
    assert [row["batch"] for row in report["guests"]] == [1, 1, 1]


@pytest.mark.parametrize(
    "other",
    [
        read("b", down("2", labels={"service": "web"})),
        read("b", served("2", "web"), unreachable=True, error="gone", guests=[], results=[]),
        read("b", served("2", "web"), error="not read", guests=[], results=[]),
        read("b", down("2", labels={"service": "web"}, autostart=False), entries=[{"name": "2", "state": "started"}]),
        read("b", down("2", autostart=False, labels={"service": "web"}) | {"unit": {"active_state": "failed"}}),
        read("b", down("2", labels={"service": "web"}), drained={"since": NOW}),
        # It is in no entry: the host alone knows of it.
        read("b", down("2", labels={"service": "web"}), entries=[], results=[]),
    ],
)
def test_none_goes_down_while_another_of_its_service_is(other: dict[str, t.Any]) -> None:
    report = begin(read("a", served("1", "web"), guest("3"), staged="all"), other, max_failures=5)
    assert states(report)["a/1"] == ("held", None)
    assert reason(report, "a/1") == "b/2 of service web is down"
    assert states(report)["a/3"] == ("not_reached", 1)
    assert rollout.complaints(report, "a")[0] == "guest 1: held: b/2 of service web is down"


@pytest.mark.parametrize(
    "other",
    [
        read("b", down("2", labels={"service": "web"}, autostart=False)),
        read("b", down("2", labels={"service": "web"}), entries=[{"name": "2", "state": "stopped"}]),
        read("b", guest("2", exists=False, active=False, labels={"service": "web"})),
        read("b", served("2", "web")),
        read("b", down("2")),
    ],
)
def test_guests_that_nobody_relies_on_hold_none(other: dict[str, t.Any]) -> None:
    assert states(begin(read("a", served("1", "web"), staged="all"), other))["a/1"] == ("not_reached", 1)


def test_one_that_is_down_is_updated_first_and_the_others_then() -> None:
    reads = [
        read("a", served("1", "web"), staged="all"),
        read("b", down("2", labels={"service": "web"}), staged="all"),
    ]
    report = begin(*reads)
    assert states(report) == {"a/1": ("not_reached", 2), "b/2": ("not_reached", 1)}
    report = rollout.proceed(report, 1, reads)
    report = rollout.record(report, 1, [answer("b", updated("2"))])
    fixed = [reads[0], read("b", {**updated("2"), "labels": {"service": "web"}})]
    assert states(rollout.proceed(report, 2, fixed))["a/1"] == ("updating", 2)
    # It did not come up: the other stays up.
    assert states(rollout.proceed(report, 2, reads))["a/1"] == ("held", 2)


# --- batch by batch


def answer(host: str, *guests: dict[str, t.Any], **changes: t.Any) -> dict[str, t.Any]:
    results = [{"name": each["name"], "failed": False, "changed": True, "guest": each} for each in guests]
    return {"host": host, "unreachable": False, "error": None, "results": results, **changes}


def failed(host: str, name: str, **changes: t.Any) -> dict[str, t.Any]:
    result = {"name": name, "failed": True, "changed": True, "msg": "guest: no answer.\njournal", "guest": guest(name)}
    return {"host": host, "unreachable": False, "error": None, "results": [{**result, **changes}]}


def two() -> tuple[dict[str, t.Any], dict[str, t.Any]]:
    return read("a", guest("1"), staged="all"), read("b", guest("2"), guest("3"), staged="all")


def test_a_good_update_goes_through() -> None:
    reads = two()
    report = begin(*reads, batches=["100%"])
    report = rollout.proceed(report, 1, reads)
    assert states(report)["a/1"] == ("updating", 1)
    assert rollout.at(report, 1, "a") == ["1"]
    assert rollout.at(report, 1, "b") == []
    report = rollout.record(report, 1, [answer("a", updated("1")), answer("b")])
    assert states(report)["a/1"] == ("updated", 1)
    assert report["guests"][0]["after"] == {"generation": 2, "runner": NEW}
    report = rollout.record(rollout.proceed(report, 2, reads), 2, [answer("b", updated("2"), updated("3"))])
    assert rollout.batch_numbers(report) == []
    report = rollout.finish(report, now=LATER, hosts=["a", "b"])
    assert report["ended"] == LATER
    assert rollout.complaints(report, "a") == rollout.complaints(report, "b") == []
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize(
    ("changes", "status", "why"),
    [
        ({}, "failed", "guest: no answer."),
        ({"reverted": {"reason": "port 80 refuses"}}, "reverted", "port 80 refuses"),
        ({"reverted": {"reason": None}}, "reverted", "guest: no answer."),
    ],
)
def test_a_bad_canary_stops_the_rollout(changes: dict[str, t.Any], status: str, why: str) -> None:
    reads = two()
    report = rollout.record(rollout.proceed(begin(*reads), 1, reads), 1, [failed("a", "1", **changes)])
    assert states(report) == {"a/1": (status, 1), "b/2": ("not_reached", 2), "b/3": ("not_reached", 3)}
    assert report["stopped"] == "1 failed (a/1), and 0 may"
    assert why in str(reason(report, "a/1"))
    report = rollout.finish(report, now=LATER, hosts=["a", "b", "c"])
    assert report["ended"] == LATER
    assert rollout.complaints(report, "b") == ["2 guests not reached, as the rollout was stopped."]
    told = rollout.summary(report, "/tmp/report.json")
    assert f"a, guest 1: {status}: {why}" in told
    assert told[-3:] == [
        f"3 guests: 1 {status}, 2 not reached.",
        "The rollout was stopped: 1 failed (a/1), and 0 may.",
        "Report: /tmp/report.json",
    ]


def test_some_may_fail() -> None:
    reads = two()
    report = rollout.record(rollout.proceed(begin(*reads, max_failures=1), 1, reads), 1, [failed("a", "1")])
    assert report["stopped"] is None
    report = rollout.record(rollout.proceed(report, 2, reads), 2, [failed("b", "2")])
    assert report["stopped"] == "2 failed (a/1, b/2), and 1 may"


def test_a_host_that_goes_away_takes_its_guests_with_it_and_holds_their_services() -> None:
    reads = [
        read("a", served("1", "web"), guest("2"), staged="all"),
        read("b", served("3", "web"), guest("4"), staged="all"),
    ]
    report = rollout.proceed(begin(*reads, batches=["100%"]), 1, reads)
    report = rollout.record(report, 1, [answer("a", unreachable=True, error="gone\nfor good", results=[])])
    assert states(report) == {
        "a/1": ("unreachable", 1),
        "a/2": ("unreachable", 2),
        "b/3": ("not_reached", 2),
        "b/4": ("not_reached", 2),
    }
    assert report["stopped"] is None
    assert report["hosts"]["a"]["unreachable"]
    gone = {**reads[0], "unreachable": True, "error": "gone", "guests": []}
    report = rollout.proceed(report, 2, [gone, reads[1]])
    assert states(report)["b/3"] == ("held", 2)
    assert states(report)["b/4"] == ("updating", 2)


def test_a_host_that_is_found_gone_or_drained_before_a_batch_is_left_alone() -> None:
    reads = two()
    report = begin(*reads)
    gone = rollout.proceed(report, 1, [{**reads[0], "unreachable": True, "error": None, "guests": []}, reads[1]])
    assert states(gone)["a/1"] == ("unreachable", 1)
    assert reason(gone, "a/1") == "its host does not answer"
    drained = rollout.proceed(report, 1, [{**reads[0], "drained": {"since": NOW}}, reads[1]])
    assert states(drained)["a/1"] == ("skipped", 1)


def test_a_host_that_says_nothing_of_a_guest_has_failed() -> None:
    reads = two()
    report = rollout.proceed(begin(*reads), 1, reads)
    report = rollout.record(report, 1, [{"host": "a", "error": "MODULE FAILURE", "results": []}])
    assert states(report)["a/1"] == ("failed", 1)
    assert reason(report, "a/1") == "MODULE FAILURE"
    assert (
        reason(rollout.record(rollout.proceed(begin(*reads), 1, reads), 1, []), "a/1") == "its host said nothing of it"
    )


def test_nothing_to_do_is_no_change() -> None:
    reads = two()
    report = rollout.proceed(begin(*reads), 1, reads)
    same = {"name": "1", "failed": False, "changed": False, "guest": guest("1")}
    assert states(rollout.record(report, 1, [answer("a", results=[same])]))["a/1"] == ("unchanged", 1)


def test_guests_that_the_collection_had_not_made_learn_their_generation() -> None:
    reads = [read("a", guest("1", generations=[]), staged="all")]
    report = rollout.proceed(begin(*reads), 1, reads)
    assert report["guests"][0]["before"]["generation"] is None
    report = rollout.record(report, 1, [answer("a", updated("1"))])
    assert report["guests"][0]["before"] == {"generation": 1, "runner": OLD}


# --- soak and putting back


def done(**changes: t.Any) -> dict[str, t.Any]:
    """Two guests on two hosts, both updated in one batch."""
    reads = (read("a", guest("1"), staged="all"), read("b", guest("2"), staged="all"))
    report = rollout.proceed(begin(*reads, canary=0, batches=[2], **changes), 1, reads)
    return rollout.record(report, 1, [answer("a", updated("1")), answer("b", updated("2"))])


def health(host: str, name: str, why: str | None = None) -> dict[str, t.Any]:
    result = {"name": name, "healthy": why is None, "reason": why}
    return {"host": host, "unreachable": False, "error": None, "results": [result]}


def test_who_does_not_stay_healthy_is_put_back() -> None:
    report = rollout.soaked(done(), 1, [health("a", "1"), health("b", "2", "port 80 refuses")])
    assert states(report) == {"a/1": ("updated", 1), "b/2": ("failed", 1)}
    assert report["stopped"] == "1 failed (b/2), and 0 may"
    assert rollout.to_put_back(report, 1, "a") == []
    assert rollout.to_put_back(report, 1, "b") == [{"name": "2", "generation": "1"}]
    report = rollout.put_back(report, 1, [answer("a"), answer("b", guest("2"))])
    assert states(report) == {"a/1": ("updated", 1), "b/2": ("reverted", 1)}
    assert report["guests"][1]["after"] == report["guests"][1]["before"]
    assert reason(report, "b/2") == "not healthy after the soak: port 80 refuses"
    assert "put_back" not in rollout.finish(report, now=LATER, hosts=["a", "b"])["guests"][1]


def test_the_whole_batch_can_be_put_back() -> None:
    report = rollout.soaked(done(revert="batch"), 1, [health("a", "1"), health("b", "2", "dead")])
    assert rollout.to_put_back(report, 1, "a") == [{"name": "1", "generation": "1"}]
    report = rollout.put_back(report, 1, [answer("a", guest("1")), answer("b", guest("2"))])
    assert states(report) == {"a/1": ("reverted", 1), "b/2": ("reverted", 1)}
    assert reason(report, "a/1") == "put back with its batch"


def test_a_batch_that_is_within_what_may_fail_is_not_put_back() -> None:
    report = rollout.soaked(done(revert="batch", max_failures=1), 1, [health("a", "1"), health("b", "2", "dead")])
    assert rollout.to_put_back(report, 1, "a") == []
    assert rollout.to_put_back(report, 1, "b") == [{"name": "2", "generation": "1"}]


def test_one_that_cannot_be_put_back_has_failed() -> None:
    report = rollout.soaked(done(), 1, [health("a", "1"), health("b", "2", "dead")])
    report = rollout.put_back(report, 1, [failed("b", "2", msg="guest 2: locked.")])
    assert states(report)["b/2"] == ("failed", 1)
    assert reason(report, "b/2") == "not healthy after the soak: dead; could not be put back: guest 2: locked."


def test_a_host_that_goes_away_in_the_soak_is_said() -> None:
    report = rollout.soaked(done(), 1, [health("a", "1"), {"host": "b", "unreachable": True, "error": "gone"}])
    assert states(report)["b/2"] == ("unreachable", 1)
    assert report["stopped"] is None
    report = rollout.soaked(done(), 1, [health("a", "1"), {"host": "b", "error": "no module"}])
    assert reason(report, "b/2") == "not found healthy after the soak: no module"


# --- going on


def test_a_rollout_that_did_not_end_is_continued() -> None:
    reads = two()
    broken_off = rollout.proceed(begin(*reads), 1, reads)
    old = rollout.old_report(json.dumps(broken_off), "r.json")
    assert old is not None
    again = [read("a", updated("1")), reads[1]]
    report = rollout.begin(again, SAID, now=LATER, old=old)
    assert report["began"] == NOW
    assert states(report)["a/1"] == ("updated", 1)
    assert report["guests"][0]["before"] == {"generation": 1, "runner": OLD}
    assert report["guests"][0]["after"] == {"generation": 2, "runner": NEW}
    assert rollout.batch_numbers(report) == [1, 2]


def test_hosts_of_an_earlier_part_stay_in_the_report() -> None:
    first = rollout.begin([read("a", updated("1"))], SAID, now=NOW)
    assert rollout.finish(first, now=NOW, hosts=["a", "b"])["ended"] is None
    second = rollout.begin([read("b", guest("2"), staged="all")], SAID, now=LATER, old=first)
    assert list(states(second)) == ["a/1", "b/2"]
    assert rollout.finish(second, now=LATER, hosts=["a", "b"])["ended"] == LATER


def test_a_report_that_ended_or_is_of_another_kind_is_not_continued() -> None:
    report = rollout.finish(begin(*two()), now=LATER, hosts=["a", "b"])
    assert rollout.old_report(json.dumps(report), "r.json") is None
    assert rollout.old_report(json.dumps(begin(*two())), "r.json", "rollback") is None
    assert rollout.old_report(None, "r.json") is None
    assert rollout.old_report("", "r.json") is None


@pytest.mark.parametrize("text", ["[]", "{}", "no json", '{"format": 1}', '"text"'])
def test_a_file_that_is_no_report_is_not_overwritten(text: str) -> None:
    with pytest.raises(ValueError, match=r"r\.json: is no report of a rollout\. Move it away"):
        rollout.old_report(text, "r.json")


def test_a_report_of_another_format_is_not_overwritten() -> None:
    with pytest.raises(ValueError, match=r"r\.json: a report of format 2, and this is 1\."):
        rollout.old_report(json.dumps({**begin(), "format": 2}), "r.json")


# --- rollbacks


def test_a_rollback_changes_what_its_check_would() -> None:
    there = updated("1")
    back = {"name": "1", "failed": False, "changed": True, "guest": {**there, "current": OLD, "booted": OLD}}
    same = {"name": "2", "failed": False, "changed": False, "guest": guest("2")}
    none = {"name": "3", "failed": True, "msg": "guest 3, generation: 9 is not kept.", "guest": guest("3")}
    reads = [read("a", there, guest("2"), guest("3"), results=[back, same, none])]
    report = begin(*reads, kind="rollback", max_failures=1)
    assert states(report) == {"a/1": ("not_reached", 1), "a/2": ("unchanged", None), "a/3": ("failed", None)}
    checked = begin(*reads, kind="rollback", check=True)
    assert checked["guests"][0]["after"] == {"generation": 1, "runner": OLD}
    assert rollout.summary(checked)[1].split() == ["1", "a", "1", "-", "planned", "2", "to", "1", "-"]


def test_guests_without_an_entry_go_back_too() -> None:
    there = updated("1")
    back = {"name": "1", "failed": False, "changed": True, "guest": {**there, "current": OLD, "booted": OLD}}
    report = begin(read("a", there, entries=[{"name": "other"}], results=[back]), kind="rollback")
    assert states(report) == {"a/1": ("not_reached", 1)}


def test_a_rollback_that_is_continued_does_not_go_back_twice() -> None:
    there = updated("1")
    back = {"name": "1", "failed": False, "changed": True, "guest": {**there, "current": OLD, "booted": OLD}}
    first = begin(read("a", there, results=[back]), kind="rollback")
    further = {"name": "1", "failed": False, "changed": True, "guest": guest("1", current="/nix/store/older")}
    report = begin(read("a", guest("1"), results=[further]), kind="rollback", old=first)
    assert states(report) == {"a/1": ("updated", 1)}
    assert report["guests"][0]["before"] == {"generation": 2, "runner": NEW}


# --- what operators read


def test_the_summary_is_a_table_of_what_is_not_as_it_was() -> None:
    reads = [
        read("a", served("1", "web"), guest("2"), staged=["1"]),
        read("b", served("3", "web"), unreachable=True, error="gone", guests=[], results=[]),
    ]
    assert rollout.summary(begin(*reads), "r.json") == [
        "BATCH  HOST  GUEST  SERVICE  STATUS       GENERATION  WHAT CHANGES",
        "-      a     1      web      held         1           system",
        "-      b     3      web      unreachable  -           -",
        "",
        "WHY",
        "a, guest 1: held: b/3 of service web is down",
        "b, guest 3: unreachable: gone",
        "",
        "3 guests: 1 unreachable, 1 held, 1 unchanged.",
        "Report: r.json",
    ]


def test_nothing_to_do_is_one_line() -> None:
    assert rollout.summary(begin(read("a", guest("1")))) == ["1 guest: 1 unchanged."]
    assert rollout.summary(begin()) == ["0 guests: none."]


def test_long_reasons_are_cut() -> None:
    report = begin(read("a", guest("1"), error="x" * 300, results=[]))
    assert f"a, guest 1: failed: {'x' * 197}..." in rollout.summary(report)


def test_no_function_changes_what_it_is_given() -> None:
    reads = two()
    report = begin(*reads)
    before = json.dumps([report, reads], sort_keys=True)
    begun = rollout.proceed(report, 1, reads)
    between = json.dumps(begun, sort_keys=True)
    rollout.record(begun, 1, [failed("a", "1")])
    rollout.finish(report, now=LATER, hosts=["a"])
    assert json.dumps([report, reads], sort_keys=True) == before
    assert json.dumps(begun, sort_keys=True) == between


# --- what modules have told

GUESTS = [{"name": "1"}]
RESULTS = [{"name": "1", "guest": {}}]


@pytest.mark.parametrize(
    ("info", "results", "known", "unreachable", "error"),
    [
        ({"guests": GUESTS}, None, None, False, None),
        ({"guests": GUESTS}, {"results": RESULTS}, None, False, None),
        # Which guests failed is in their results.
        ({"guests": GUESTS}, {"results": RESULTS, "msg": "1 of 1 guests failed."}, None, False, None),
        ({"guests": GUESTS}, {"results": [], "msg": "no room"}, None, False, "no room"),
        ({"guests": GUESTS}, {"rc": 1}, None, False, "the module said nothing"),
        ({"guests": GUESTS}, {"skipped": True}, None, False, None),
        ({"guests": GUESTS}, {"unreachable": True, "msg": "timed out"}, None, True, "timed out"),
        ({"unreachable": True, "msg": "timed out"}, None, None, True, "timed out"),
        ({"unreachable": True}, None, None, True, "gone"),
        ({"msg": "no Python"}, {"results": RESULTS}, None, False, "no Python"),
        ({"skipped": True}, None, {"unreachable": True, "error": "timed out"}, True, "timed out"),
        (None, None, None, False, "gone"),
        ({"guests": GUESTS}, None, {"unreachable": True, "error": "timed out"}, False, None),
    ],
)
def test_what_is_known_of_a_host(info: t.Any, results: t.Any, known: t.Any, error: str, *, unreachable: bool) -> None:
    found = rollout.read_of("a", info, [{"name": "1"}], results, known)
    assert (found["host"], found["unreachable"], found["error"]) == ("a", unreachable, error)
    assert found["entries"] == [{"name": "1"}]
    asked = "guests" in (info or {})
    assert found["guests"] == (GUESTS if asked else ())
    assert list(found["results"]) == ((results or {}).get("results") or [] if asked else [])


def test_a_host_says_that_it_is_drained() -> None:
    mark = {"since": "2026-11-23T17:05:00Z"}
    assert rollout.read_of("a", {"guests": [], "drained": mark}, [])["drained"] == mark


@pytest.mark.parametrize(
    ("done", "there", "unreachable", "error"),
    [
        ({"results": RESULTS}, {}, False, None),
        ({"results": RESULTS, "msg": "1 of 1 guests failed."}, {"unreachable": True}, False, None),
        ({"unreachable": True, "msg": "timed out"}, {}, True, "timed out"),
        ({"msg": "torn"}, {"unreachable": True, "msg": "timed out"}, True, "torn"),
        ({"msg": "torn"}, {"guests": []}, False, "torn"),
        ({"rc": -9}, {"guests": []}, False, "the module said nothing"),
        (None, None, False, "the module said nothing"),
    ],
)
def test_what_a_host_has_answered(done: t.Any, there: t.Any, error: str | None, *, unreachable: bool) -> None:
    found = rollout.answer_of("a", done, there)
    assert (found["host"], found["unreachable"], found["error"]) == ("a", unreachable, error)
    assert found["results"] == ((done or {}).get("results") or ())
