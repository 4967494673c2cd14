# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What healthy means: what is taken, and what is refused with which words."""

from __future__ import annotations

import typing as t

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.microvm.fleet.plugins.module_utils import _health_wish
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import (
    Access,
    Health,
    Probe,
    read_access,
    read_health,
)

ADDRESS = "10.1.0.11"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


def read(entry: dict[str, t.Any], *addresses: str) -> tuple[Health, list[tuple[str, str, str]]]:
    """The health of *entry* as the argument spec leaves it, and all that is wrong."""
    checked = ArgumentSpecValidator({**_health_wish.health_spec(), **_health_wish.access_spec()}).validate(entry)
    assert checked.error_messages == []
    wrong: list[tuple[str, str, str]] = []
    health = read_health(checked.validated_parameters, addresses, lambda *said: wrong.append(said))
    return health, wrong


def probe(**given: t.Any) -> Probe:
    """The one probe of these options, of which nothing is wrong."""
    health, wrong = read({"health": [given]}, ADDRESS)
    assert wrong == []
    assert len(health.probes) == 1
    return health.probes[0]


def test_nothing_said() -> None:
    health, wrong = read({})
    assert wrong == []
    assert health == Health((), 10, 300, 600, asked=False)


def test_an_empty_list_asks() -> None:
    assert read({"health": []})[0].asked
    assert read({"health": [{"kind": "active"}]})[0] == Health(asked=True)


@pytest.mark.parametrize(
    ("given", "expected", "words"),
    [
        ({"kind": "notify"}, Probe("notify"), "notify"),
        ({"kind": "tcp", "port": 22}, Probe("tcp", address=ADDRESS, port=22), "tcp 10.1.0.11:22"),
        (
            {"kind": "tcp", "port": 22, "address": "2001:db8::11"},
            Probe("tcp", address="2001:db8::11", port=22),
            "tcp [2001:db8::11]:22",
        ),
        ({"kind": "http"}, Probe("http", address=ADDRESS, port=80), "http://10.1.0.11:80/"),
        (
            {"kind": "http", "port": 8080, "path": "/a?b=%20", "status": [204, "301-302"], "body": "^ok$"},
            Probe("http", address=ADDRESS, port=8080, path="/a?b=%20", status=((204, 204), (301, 302)), body="^ok$"),
            "http://10.1.0.11:8080/a?b=%20",
        ),
        (
            {"kind": "ssh", "command": ["systemctl", "is-active", "x y"]},
            Probe("ssh", access=Access(ADDRESS), command=("systemctl", "is-active", "x y")),
            "ssh root@10.1.0.11:22",
        ),
        (
            {
                "kind": "ssh",
                "command": ["true"],
                "user": "ops",
                "port": 2222,
                "key_file": "/root/.ssh/guests",
                "host_key": f"{KEY} root@web1\n",
            },
            Probe("ssh", access=Access(ADDRESS, 2222, "ops", "/root/.ssh/guests", KEY), command=("true",)),
            "ssh ops@10.1.0.11:2222",
        ),
        ({"kind": "journal", "pattern": "is up"}, Probe("journal", pattern="is up"), "journal with 'is up'"),
        (
            {"kind": "journal", "pattern": "oops", "absent": True},
            Probe("journal", pattern="oops", absent=True),
            "journal without 'oops'",
        ),
        (
            {"kind": "tcp", "port": 1, "interval": 1, "timeout": 2, "retries": 3, "deadline": 4},
            Probe("tcp", 1, 2, 3, 4, ADDRESS, 1),
            "tcp 10.1.0.11:1",
        ),
    ],
)
def test_probes(given: dict[str, t.Any], expected: Probe, words: str) -> None:
    assert probe(**given) == expected
    assert expected.words() == words
    assert expected.asks == (expected.kind in ("tcp", "http", "ssh"))


@pytest.mark.parametrize(
    ("entry", "field", "seen"),
    [
        ({"health": [{"kind": "tcp"}]}, "health[0].port", "is missing"),
        ({"health": [{"kind": "tcp", "port": 0}]}, "health[0].port", "0 is out of range"),
        ({"health": [{"kind": "http", "port": 65536}]}, "health[0].port", "65536 is out of range"),
        ({"health": [{"kind": "tcp", "port": 1, "address": "web1"}]}, "health[0].address", "'web1' is no IP address"),
        ({"health": [{"kind": "tcp", "port": 1, "address": ""}]}, "health[0].address", "'' is no IP address"),
        ({"health": [{"kind": "http", "path": "x"}]}, "health[0].path", "'x' is no path"),
        ({"health": [{"kind": "http", "path": "/a b"}]}, "health[0].path", "'/a b' is no path"),
        ({"health": [{"kind": "http", "path": "/\r\nX: y"}]}, "health[0].path", "is no path"),
        ({"health": [{"kind": "http", "status": [99]}]}, "health[0].status[0]", "'99' is out of range"),
        ({"health": [{"kind": "http", "status": [200, "300-299"]}]}, "health[0].status[1]", "'300-299' is out of"),
        ({"health": [{"kind": "http", "status": ["2xx"]}]}, "health[0].status[0]", "'2xx' is out of range"),
        ({"health": [{"kind": "http", "status": ["200-600"]}]}, "health[0].status[0]", "'200-600' is out of range"),
        ({"health": [{"kind": "http", "status": []}]}, "health[0].status", "is empty"),
        ({"health": [{"kind": "http", "body": "("}]}, "health[0].body", "'(' is no regular expression"),
        ({"health": [{"kind": "http", "body": ""}]}, "health[0].body", "is empty"),
        ({"health": [{"kind": "journal"}]}, "health[0].pattern", "is missing"),
        ({"health": [{"kind": "journal", "pattern": "*"}]}, "health[0].pattern", "is no regular expression"),
        ({"health": [{"kind": "journal", "pattern": "x" * 1001}]}, "health[0].pattern", "has 1001 characters"),
        ({"health": [{"kind": "journal", "pattern": "x", "port": 1}]}, "health[0].port", "a probe of kind journal"),
        ({"health": [{"kind": "tcp", "port": 1, "body": "x"}]}, "health[0].body", "a probe of kind tcp"),
        ({"health": [{"kind": "notify", "absent": False}]}, "health[0].absent", "a probe of kind notify"),
        ({"health": [{"kind": "ssh"}]}, "health[0].command", "is missing"),
        ({"health": [{"kind": "ssh", "command": []}]}, "health[0].command", "is empty"),
        ({"health": [{"kind": "ssh", "command": [""]}]}, "health[0].command", "is empty"),
        ({"health": [{"kind": "ssh", "command": ["a\nb"]}]}, "health[0].command", "has a word with a line break"),
        ({"health": [{"kind": "ssh", "command": ["a"], "user": "-l"}]}, "health[0].user", "'-l' is no name of a user"),
        (
            {"health": [{"kind": "ssh", "command": ["a"], "key_file": "id"}]},
            "health[0].key_file",
            "'id' is no absolute",
        ),
        ({"health": [{"kind": "ssh", "command": ["a"], "host_key": "x"}]}, "health[0].host_key", "is no public key"),
        ({"health": [{"kind": "ssh", "command": ["a"], "port": -1}]}, "health[0].port", "-1 is out of range"),
        ({"health": [{"kind": "tcp", "port": 1, "interval": 0}]}, "health[0].interval", "0 is out of range"),
        ({"health": [{"kind": "tcp", "port": 1, "timeout": 0}]}, "health[0].timeout", "0 is out of range"),
        ({"health": [{"kind": "tcp", "port": 1, "retries": -1}]}, "health[0].retries", "-1 is out of range"),
        ({"health": [{"kind": "tcp", "port": 1, "deadline": 301}]}, "health[0].deadline", "more than healthy_deadline"),
        ({"min_healthy_time": -1}, "min_healthy_time", "-1 is out of range"),
        ({"min_healthy_time": 300}, "healthy_deadline", "300 s are over before the 300 s"),
        ({"healthy_deadline": 5}, "healthy_deadline", "5 s are over before the 10 s"),
        ({"healthy_deadline": 86401}, "healthy_deadline", "86401 is out of range"),
        ({"progress_deadline": 10}, "progress_deadline", "10 s are over before the 10 s"),
    ],
)
def test_refused(entry: dict[str, t.Any], field: str, seen: str) -> None:
    _health, wrong = read(entry, ADDRESS)
    assert [said[0] for said in wrong] == [field]
    assert seen in wrong[0][1]
    assert wrong[0][2]


def test_a_kind_that_is_none() -> None:
    """As the filters of the controller see it, which know no argument spec."""
    wrong: list[tuple[str, str, str]] = []
    read_health({"health": [{"kind": "icmp"}]}, (), lambda *said: wrong.append(said))
    assert wrong == [
        ("health[0].kind", "'icmp' is no kind of probe.", "Give one of active, notify, tcp, http, ssh, journal.")
    ]


@pytest.mark.parametrize("given", [{"kind": "tcp", "port": 80}, {"kind": "http"}, {"kind": "ssh", "command": ["a"]}])
def test_no_address(given: dict[str, t.Any]) -> None:
    _health, wrong = read({"health": [{"kind": "notify"}, given]})
    assert [said[:2] for said in wrong] == [
        ("health[1].address", "is missing, and no interface of the guest says one.")
    ]


def test_all_that_is_wrong_is_said() -> None:
    _health, wrong = read({"health": [{"kind": "tcp"}, {"kind": "journal"}], "min_healthy_time": -1}, ADDRESS)
    assert [said[0] for said in wrong] == ["min_healthy_time", "health[0].port", "health[1].pattern"]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"healthy_deadline": 900}, Health((), 10, 900, 900)),
        ({"healthy_deadline": 60, "min_healthy_time": 0}, Health((), 0, 60, 600)),
        ({"progress_deadline": 0}, Health((), 10, 300, 0)),
        ({"progress_deadline": 60}, Health((), 10, 300, 60)),
    ],
)
def test_times(entry: dict[str, t.Any], expected: Health) -> None:
    assert read(entry) == (expected, [])


def test_the_deadline_of_a_probe_is_that_of_the_guest() -> None:
    health, _wrong = read({"healthy_deadline": 40, "health": [{"kind": "tcp", "port": 1}]}, ADDRESS)
    assert health.probes[0].deadline == 40


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, None),
        ({"health": [{"kind": "tcp", "port": 22}]}, None),
        (
            {"health": [{"kind": "http"}, {"kind": "ssh", "command": ["true"], "user": "ops"}]},
            Access(ADDRESS, 22, "ops"),
        ),
        ({"ssh": {"port": 2222, "key_file": "/k"}}, Access(ADDRESS, 2222, "root", "/k")),
        (
            {"ssh": {"address": "::1", "host_key": KEY}, "health": [{"kind": "ssh", "command": ["true"]}]},
            Access("::1", host_key=KEY),
        ),
    ],
)
def test_access(entry: dict[str, t.Any], expected: Access | None) -> None:
    health, wrong = read(entry, ADDRESS)
    assert read_access(entry, [ADDRESS], health.probes, lambda *said: wrong.append(said)) == expected
    assert wrong == []


def test_access_that_cannot_be() -> None:
    wrong: list[tuple[str, str, str]] = []
    read_access({"ssh": {"port": 0, "user": "a b"}}, [], (), lambda *said: wrong.append(said))
    assert [said[0] for said in wrong] == ["ssh.user", "ssh.address", "ssh.port"]
