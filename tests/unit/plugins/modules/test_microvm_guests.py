# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module for all guests of a host, from its arguments to what it prints."""

from __future__ import annotations

import fcntl
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.modules import microvm_guests
from ansible_collections.microvm.fleet.tests.unit.plugins.conftest import Play
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FLAKE, FakeHost, Spec

OF_INTERFACES = "addresses, id, index, link, mac, mode, network, type"
OPTIONS = (
    "autostart, credentials, flake, forward_ports, generation, health, healthy_deadline, host_name, hypervisor, "
    "interfaces, keep_generations, labels, mem, microvm_options, min_healthy_time, modules, name, network, "
    "profile_options, profiles, progress_deadline, protect, purge, release, restore_volumes, retry, runner, shares, "
    "snapshot_volumes, ssh, ssh_keys, start_timeout, state, stop_timeout, store, switch, update, vcpu, volumes, "
    "vsock_cid"
)


def guest(name: str = "web1", **fields: t.Any) -> dict[str, t.Any]:
    return {"name": name, "flake": FLAKE, **fields}


def test_create_check_run_check_run(host: FakeHost, play: Play) -> None:
    host.offer(Spec("web1"), Spec("web2"))
    given = {"guests": [guest(state="started", autostart=True), guest("web2", labels={"a": 1})]}
    actions = [
        f"web1: stage {Spec('web1').path}",
        f"web1: create with {Spec('web1').path}",
        "web1: enable autostart",
        "web1: start",
        f"web2: stage {Spec('web2').path}",
        f"web2: create with {Spec('web2').path}",
    ]
    before = host.tree()
    said = play(microvm_guests, check=True, **given)
    assert (said["changed"], said["actions"]) == (True, actions)
    assert host.tree() == before
    done = play(microvm_guests, **given)
    assert (done["changed"], done["actions"]) == (True, actions)
    after = host.tree()
    assert after["var/lib/microvms/web1/current"] == f"-> {Spec('web1').path}"
    assert after["unit web1"] == "active"
    for check in (True, False):
        again = play(microvm_guests, check=check, **given)
        assert (again["changed"], again["actions"]) == (False, [])
    assert host.tree() == after


def test_what_it_returns(host: FakeHost, play: Play) -> None:
    host.offer(Spec("web1"))
    done = play(microvm_guests, guests=[guest(state="started")])
    assert {"changed", "actions", "results", "orphans"} <= set(done)
    assert "diff" not in done
    (result,) = done["results"]
    assert (result["name"], result["changed"], result["failed"]) == ("web1", True, False)
    assert result["guest"]["current"] == result["guest"]["booted"] == Spec("web1").path
    assert result["guest"]["owner"] == "fleet"
    assert result["guest"]["locked"] == host.revisions[FLAKE]


@pytest.mark.parametrize("check", [True, False])
def test_the_diff(host: FakeHost, play: Play, check: bool) -> None:
    host.offer(Spec("web1"))
    diff = play(microvm_guests, check=check, diff=True, guests=[guest()])["diff"]
    assert diff["before"] == {"web1": {"exists": False}}
    assert diff["after"]["web1"]["generations"] == {"1": Spec("web1").path}
    host_is_as_wished = play(microvm_guests, diff=True, guests=[guest()])
    if not check:
        assert host_is_as_wished["diff"] == {"before": {}, "after": {}}


def test_an_empty_list(host: FakeHost, play: Play) -> None:
    host.microvm_create(Spec("old1"))
    done = play(microvm_guests, guests=[])
    assert not done["changed"]
    assert done["orphans"] == [{"name": "old1", "owner": "microvm", "active": False, "pruned": False}]


def test_prune(host: FakeHost, play: Play) -> None:
    host.offer(Spec("web1"), Spec("web2"))
    play(microvm_guests, guests=[guest(), guest("web2")])
    done = play(microvm_guests, guests=[guest()], prune=True)
    assert done["actions"] == ["web2: remove, keep its volumes"]
    assert done["orphans"] == [{"name": "web2", "owner": "fleet", "active": False, "pruned": True}]
    assert [result["name"] for result in done["results"]] == ["web1", "web2"]


def test_the_update_of_all(host: FakeHost, play: Play) -> None:
    host.offer(Spec("web1"), Spec("web2"))
    play(microvm_guests, guests=[guest(), guest("web2")])
    new = host.renew("web1")
    host.renew("web2")
    done = play(microvm_guests, update="activate", guests=[guest(), guest("web2", update="never")])
    assert done["actions"] == [f"web1: stage {new.path}", f"web1: switch to {new.path}"]


def test_failures_come_last_and_are_counted(host: FakeHost, play: Play) -> None:
    host.offer(Spec("web1"), Spec("bad", behaviour="unevaluable"))
    done = play(microvm_guests, guests=[guest("bad"), guest(), guest("none")])
    assert done["failed"]
    assert done["changed"]
    assert done["msg"] == (
        "2 of 3 guests failed.\n"
        f"guest bad, flake: nixosConfigurations.bad of {FLAKE} does not evaluate: guest bad: it throws\n"
        f"guest none, flake: {FLAKE} has no nixosConfigurations.none; it has bad, web1. "
        "Add the guest to the flake, or correct the name."
    )
    assert [result["failed"] for result in done["results"]] == [True, False, True]
    assert host.guest("web1", "current").is_symlink()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"guests": [guest(colour="red")]}, f"guest web1: colour. Supported parameters include: {OPTIONS}."),
        (
            {"guests": [guest("a"), guest("b", interfaces=[{"id": "vm-b", "vlan": 7}])]},
            f"guest b: interfaces.vlan. Supported parameters include: {OF_INTERFACES}.",
        ),
        (
            {"guests": [guest(interfaces=[{"mac": "x"}])]},
            "guest web1, interfaces[0].id: is missing. Give the name of the interface on the host.",
        ),
        ({"guests": [{"flake": FLAKE}]}, "guest number 1 of the list: missing required arguments: name"),
        ({"guests": [guest("a"), {}]}, "guest number 2 of the list: missing required arguments: name"),
        (
            {"guests": [guest(state="running")]},
            "guest web1: value of state must be one of: present, started, stopped, restarted, absent, got: running",
        ),
        (
            {"guests": [guest(update="always")]},
            "guest web1: value of update must be one of: never, stage, activate, activate_staged, got: always",
        ),
        ({"guests": [guest(keep_generations="many")]}, "guest web1: argument 'keep_generations' is of type"),
        ({"guests": [guest(start_timeout="long")]}, "guest web1: argument 'start_timeout' is of type"),
        ({"guests": [guest(autostart="perhaps")]}, "guest web1: argument 'autostart' is of type"),
        ({"guests": [guest(labels=[1])]}, "guest web1: argument 'labels' is of type"),
        ({"guests": [guest(interfaces="vm-a")]}, "guest web1: Elements value for option 'interfaces' is of type"),
        ({"guests": [guest(interfaces=[7])]}, "guest web1: Elements value for option 'interfaces' is of type"),
        ({"guests": [guest("a", x=1), guest("b", y=1)]}, f"guest a: x. Supported parameters include: {OPTIONS}."),
        ({}, "missing required arguments: guests"),
        ({"guests": [guest()], "colour": "red"}, "Unsupported parameters for"),
        (
            {"guests": [guest()], "update": "always"},
            "value of update must be one of: never, stage, activate, activate_staged, got: always",
        ),
        ({"guests": [guest()], "eval_timeout": "long"}, "argument 'eval_timeout' is of type"),
        ({"guests": 7}, ""),
        ({"guests": ["web1"]}, "guest number 1 of the list: 'web1' is no dictionary of options."),
        ({"guests": [guest(), 7]}, "guest number 2 of the list: 7 is no dictionary of options."),
        ({"guests": [guest()], "lock_timeout": -1}, "lock_timeout: -1 is out of range. Give seconds from 0 to 86400."),
        ({"guests": [guest()], "build_timeout": 0}, "build_timeout: 0 is out of range. Give seconds from 1 to 86400."),
        ({"guests": [guest("..")]}, "guest .., name: '..' is no name of a guest. Use letters, digits, "),
        ({"guests": [guest("")]}, "guest number 1 of the list, name: is empty. "),
        (
            {"guests": [guest(), guest()]},
            "guest web1, name: name web1 is already that of guest web1. Give each its own.",
        ),
        ({"guests": [guest(flake="./x")]}, "guest web1, flake: './x' is relative. "),
        (
            {"guests": [guest(flake=None, runner="/tmp/x")]},
            "guest web1, runner: '/tmp/x' is no path of a package in /nix/store.",
        ),
        ({"guests": [guest(keep_generations=-1)]}, "guest web1, keep_generations: -1 is out of range. "),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_bad_arguments(host: FakeHost, play: Play, check: bool, arguments: dict[str, t.Any], said: str) -> None:
    before = host.tree()
    done = play(microvm_guests, check=check, **arguments)
    assert done["failed"]
    assert said in done["msg"]
    assert done["msg"].startswith(said.partition(":")[0])
    assert not done.get("changed", False)
    assert host.tree() == before
    assert host.calls == []


def test_every_bad_entry_is_named(play: Play) -> None:
    message = play(microvm_guests, guests=[guest("a", x=1), guest("b"), guest("c", state="on")])["msg"]
    assert [line.partition(":")[0] for line in message.splitlines()] == ["guest a", "guest c"]


def test_a_lock_that_is_held(host: FakeHost, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(*_arguments: object) -> t.NoReturn:
        raise BlockingIOError

    host.offer(Spec("web1"))
    monkeypatch.setattr(fcntl, "flock", held)
    done = play(microvm_guests, guests=[guest()], lock_timeout=0)
    assert done["msg"] == (
        "host: another run (process unknown) is working on it. Wait for it to end, or raise lock_timeout."
    )
    assert (done["subject"], done["field"]) == ("host", None)
