# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module for one guest, from its arguments to what it prints."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.modules import microvm_guest
from ansible_collections.microvm.fleet.tests.unit.plugins.conftest import Play
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FLAKE, FakeHost, Spec

OF_INTERFACES = "addresses, id, index, link, mac, mode, network, type"


def test_create_check_run_check_run(host: FakeHost, play: Play) -> None:
    host.offer(Spec("web1"))
    given = {"name": "web1", "flake": FLAKE, "state": "started", "start_timeout": 30}
    actions = [
        f"web1: stage {Spec('web1').path}",
        f"web1: create with {Spec('web1').path}",
        "web1: set TimeoutStartSec=30",
        "web1: start",
    ]
    before = host.tree()
    said = play(microvm_guest, check=True, **given)
    assert (said["changed"], said["actions"]) == (True, actions)
    assert host.tree() == before
    done = play(microvm_guest, **given)
    assert (done["changed"], done["actions"]) == (True, actions)
    assert done["guest"]["active"]
    assert not {"results", "orphans", "diff", "name", "msg"} & set(done)
    after = host.tree()
    for check in (True, False):
        assert not play(microvm_guest, check=check, **given)["changed"]
    assert host.tree() == after


@pytest.mark.parametrize(
    ("state", "actions"),
    [
        ("present", []),
        ("started", []),
        ("stopped", ["web1: stop"]),
        ("restarted", ["web1: stop", "web1: start"]),
        ("absent", ["web1: stop", "web1: remove, keep its volumes"]),
    ],
)
def test_states_of_a_running_guest(host: FakeHost, play: Play, state: str, actions: list[str]) -> None:
    host.offer(Spec("web1"))
    play(microvm_guest, name="web1", flake=FLAKE, state="started")
    done = play(microvm_guest, name="web1", state=state)
    assert (done["actions"], done["changed"]) == (actions, bool(actions))
    assert done["guest"]["exists"] is (state != "absent")
    assert done["guest"]["active"] is (state not in ("stopped", "absent"))


def test_absent_twice(host: FakeHost, play: Play) -> None:
    host.offer(Spec("web1"))
    play(microvm_guest, name="web1", flake=FLAKE, state="started")
    done = play(microvm_guest, name="web1", state="absent")
    assert done["kept"].startswith(host.paths.kept + "/web1-")
    assert not play(microvm_guest, name="web1", state="absent")["changed"]


def test_an_update_from_where_it_came(host: FakeHost, play: Play) -> None:
    host.offer(Spec("web1"))
    play(microvm_guest, name="web1", flake=FLAKE)
    new = host.renew("web1")
    done = play(microvm_guest, name="web1", update="activate")
    assert done["guest"]["current"] == new.path
    assert [each["number"] for each in done["guest"]["generations"]] == [1, 2]


def test_only_its_guest_is_read(host: FakeHost, play: Play) -> None:
    host.microvm_create(Spec("other"))
    done = play(microvm_guest, name="web1", state="absent")
    assert (done["changed"], done["guest"]["name"], done["guest"]["exists"]) == (False, "web1", False)
    assert host.guest("other").exists()


def test_the_diff(host: FakeHost, play: Play) -> None:
    host.offer(Spec("web1"))
    diff = play(microvm_guest, check=True, diff=True, name="web1", flake=FLAKE)["diff"]
    assert diff["before"] == {"web1": {"exists": False}}
    assert diff["after"]["web1"]["current"] == Spec("web1").path


def test_a_failure(host: FakeHost, play: Play) -> None:
    host.nixos_install(Spec("web1"))
    done = play(microvm_guest, name="web1", state="started")
    assert done["failed"]
    assert done["msg"] == (
        "guest web1, state: belongs to the NixOS configuration of this host (it has a link named toplevel). "
        "Change microvm.vms in that configuration, or take the guest out of the wishes."
    )
    assert (done["subject"], done["field"], done["changed"]) == ("guest web1", "state", False)
    assert done["guest"]["owner"] == "nixos"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "guest without a name: missing required arguments: name"),
        ({"flake": FLAKE}, "guest without a name: missing required arguments: name"),
        ({"name": "web1", "colour": "red"}, "guest web1: colour. Supported parameters include: "),
        ({"name": "web1", "prune": True}, "guest web1: prune. Supported parameters include: "),
        (
            {"name": "web1", "interfaces": [{"id": "vm-web1", "ip": "x"}]},
            f"guest web1: interfaces.ip. Supported parameters include: {OF_INTERFACES}.",
        ),
        (
            {"name": "web1", "interfaces": [{}]},
            "guest web1, interfaces[0].id: is missing. Give the name of the interface on the host.",
        ),
        (
            {"name": "web1", "state": "up"},
            "guest web1: value of state must be one of: present, started, stopped, restarted, absent, got: up",
        ),
        ({"name": "web1", "purge": "perhaps"}, "guest web1: argument 'purge' is of type"),
        ({"name": "web1", "stop_timeout": "2min"}, "guest web1: argument 'stop_timeout' is of type"),
        ({"name": "web1", "lock_timeout": 90000}, "lock_timeout: 90000 is out of range. Give seconds from 0 to 86400."),
        (
            {"name": "web1"},
            (
                "guest web1, flake: does not exist, and nothing says what to create it from. "
                "Give a flake, a runner, or a description (hypervisor)."
            ),
        ),
        (
            {"name": "web1", "state": "absent", "protect": True},
            "guest web1, protect: the guest is protected, and its state is to be absent. Set protect to false first.",
        ),
        ({"name": "a/b"}, "guest a/b, name: 'a/b' is no name of a guest. Use letters, digits, "),
        ({"name": ""}, "guest number 1 of the list, name: is empty. "),
        (
            {"name": "web1", "flake": FLAKE, "runner": Spec("web1").path},
            "guest web1, runner: given together with flake. Give one of the two.",
        ),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_bad_arguments(host: FakeHost, play: Play, check: bool, arguments: dict[str, t.Any], said: str) -> None:
    before = host.tree()
    done = play(microvm_guest, check=check, **arguments)
    assert done["failed"]
    assert done["msg"].startswith(said)
    assert not done.get("changed", False)
    assert host.tree() == before
