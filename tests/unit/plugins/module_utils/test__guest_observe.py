# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests as they are: what every maker of guests leaves on a host, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import json
import os
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _guest_observe as observer
from ansible_collections.microvm.fleet.plugins.module_utils._contract import Interface, Runner, Volume
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import (
    Generation,
    Guest,
    Host,
    Record,
    describe,
    litter_of,
    merge,
    observe,
    problems,
    record_of_text,
)
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import Unit
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FLAKE, FakeHost, FakeUnit, Spec, store_path

WEB1 = Spec("web1")


def look(host: FakeHost, *names: str) -> Host:
    return observe(host.paths, host, names or None)


def see(host: FakeHost, name: str = "web1") -> Guest:
    return look(host).guest(name)


def note(host: FakeHost, record: Record | str, name: str = "web1") -> None:
    """Write a record."""
    path = Path(host.paths.known(name, "record.json"))
    path.parent.mkdir(parents=True)
    path.write_text(record if isinstance(record, str) else json.dumps(record.as_dict()), encoding="utf-8")


def root(host: FakeHost, entry: str, target: str, name: str = "web1") -> None:
    path = Path(host.paths.root_of(name, entry))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_an_empty_host(host: FakeHost) -> None:
    assert look(host) == Host(guests={}, leftovers=(), prepared=True)


def test_a_host_on_which_nothing_was_done(tmp_path: Path) -> None:
    place = tmp_path / "bare"
    place.mkdir()
    assert look(FakeHost(place, prepared=False)) == Host(guests={}, prepared=False)


@pytest.mark.parametrize("missing", ["etc/systemd/system/microvm@.service", "var/lib/microvms"])
def test_a_host_that_is_half_prepared(host: FakeHost, missing: str) -> None:
    path = host.root / missing
    path.rmdir() if path.is_dir() else path.unlink()
    assert not look(host).prepared


def test_a_guest_that_is_not_there(host: FakeHost) -> None:
    assert look(host).guest("web1") == Guest("web1")
    assert look(host, "web1").guest("web1") == Guest("web1")


def test_one_look_is_one_call(host: FakeHost) -> None:
    for number in range(5):
        host.microvm_create(Spec(f"g{number}"))
    look(host)
    assert [argv[:2] for argv in host.calls] == [("systemctl", "show")]


def test_a_guest_of_the_microvm_command(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    guest = see(host)
    assert (guest.exists, guest.directory, guest.owner, guest.traces) == (True, True, "microvm", True)
    assert (guest.current, guest.booted, guest.flake, guest.record) == (WEB1.path, None, FLAKE, None)
    assert guest.roots == {"web1", "booted-web1"}
    assert guest.files == ("current", "flake")
    assert guest.runner is not None
    # The package does not tell the MAC of a tap.
    assert guest.runner.interfaces == (Interface("vm-web1", "tap"),)
    assert list(problems(guest)) == []


def test_a_guest_of_the_deploy_script(host: FakeHost) -> None:
    host.microvm_create(WEB1, flake=None)
    host.guest("web1", "old").symlink_to(store_path("old", "microvm-qemu-web1"))
    guest = see(host)
    assert (guest.owner, guest.flake, guest.files) == ("microvm", None, ("current", "old"))


def test_a_running_guest(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    host.start("web1")
    guest = see(host)
    assert (guest.unit.active, guest.booted, guest.restart_needed) == (True, WEB1.path, False)


@pytest.mark.parametrize(
    ("toplevel", "once", "owner"),
    [
        (True, None, "nixos"),
        (True, False, "nixos"),
        (True, True, "nixos"),
        (False, False, "nixos"),
        (False, True, "microvm"),
        (False, None, "microvm"),
    ],
)
def test_guests_of_a_nixos_host(host: FakeHost, toplevel: bool, once: bool | None, owner: str) -> None:
    host.nixos_install(WEB1, toplevel=toplevel, once=once)
    assert see(host).owner == owner


def test_a_toplevel_that_dangles_counts(host: FakeHost) -> None:
    host.nixos_install(WEB1)
    assert not host.guest("web1", "toplevel").exists()
    assert see(host).toplevel == store_path("top", "nixos-system-x")


def test_the_installer_of_another_guest_does_not_count(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    Path(host.paths.units, "install-microvm-web1.b.service").write_text("[Unit]\n", encoding="utf-8")
    assert see(host).owner == "microvm"


@pytest.mark.parametrize("host_name", ["www", "web-1", None])
def test_the_host_name_is_another_word(host: FakeHost, host_name: str | None) -> None:
    spec = Spec("web.example.org", host_name=host_name)
    host.microvm_create(spec)
    guest = see(host, "web.example.org")
    assert guest.runner is not None
    assert guest.runner.host_name == (host_name or "web-example-org")


def test_a_guest_of_the_collection(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    record = Record(
        flake=FLAKE, locked="r1", runner=WEB1.path, facts={WEB1.path: WEB1.facts}, protect=True, labels={"a": "b"}
    )
    record.facts[WEB1.path].pop("derivation")  # type: ignore[attr-defined]
    note(host, record)
    for number in ("1", "10", "9"):
        root(host, number, store_path(number, "microvm-qemu-web1"))
    root(host, "staged", store_path("s", "microvm-qemu-web1"))
    Path(host.paths.root_of("web1", "11")).write_text("no link", encoding="utf-8")
    guest = see(host)
    assert (guest.owner, guest.known, guest.rooted, guest.record) == ("fleet", True, True, record)
    assert [generation.number for generation in guest.generations] == [1, 9, 10]
    assert guest.generations[0].runner == store_path("1", "microvm-qemu-web1")
    assert guest.generations[0].created > 0
    assert guest.staged == store_path("s", "microvm-qemu-web1")
    assert guest.runner is not None
    assert guest.runner.interfaces == (Interface("vm-web1", "tap", WEB1.taps[0][2]),)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "7", '{"flake": null}', '{"flake": 1, "locked": 2, "runner": 3, "facts": 4, "protect": 5}'],
)
def test_a_record_that_is_none(host: FakeHost, text: str) -> None:
    host.microvm_create(WEB1)
    note(host, text)
    assert record_of_text(text) is None
    assert (see(host).owner, see(host).known) == ("microvm", True)


def test_a_record_survives_being_written() -> None:
    record = Record("f", "l", "r", {"r": {"path": "r"}}, protect=True, labels={"a": "b"})
    assert record_of_text(json.dumps(record.as_dict())) == record
    assert record_of_text(json.dumps(Record().as_dict())) == Record()


@pytest.mark.parametrize(
    ("leave", "said"),
    [
        (lambda host: host.guest("web1").mkdir(), "missing runner: the directory has no link named current."),
        (
            lambda host: note(host, Record()),
            "incomplete: there is no state directory, but traces of the guest are left on the host.",
        ),
        (
            lambda host: root(host, "1", WEB1.path),
            "incomplete: there is no state directory, but traces of the guest are left on the host.",
        ),
        (
            lambda host: host.units.update(web1=FakeUnit()),
            "incomplete: there is no state directory, but traces of the guest are left on the host.",
        ),
    ],
)
def test_traces(host: FakeHost, leave: t.Callable[[FakeHost], object], said: str) -> None:
    leave(host)
    guest = see(host)
    assert (guest.exists, guest.traces) == (False, True)
    assert list(problems(guest)) == [said]


def test_a_file_among_the_guests(host: FakeHost) -> None:
    Path(host.paths.guests, "notes").touch()
    assert look(host).guests == {}


def test_a_current_that_is_no_link(host: FakeHost) -> None:
    host.guest("web1").mkdir()
    host.guest("web1", "current").mkdir()
    assert not see(host).exists


def test_a_flake_file_with_white_space(host: FakeHost) -> None:
    host.microvm_create(WEB1, flake=f" {FLAKE}\n\n")
    assert see(host).flake == FLAKE
    host.guest("web1", "flake").write_text("\n", encoding="utf-8")
    assert see(host).flake is None


def test_a_current_that_dangles(host: FakeHost) -> None:
    host.guest("web1").mkdir()
    host.guest("web1", "current").symlink_to(WEB1.path)
    guest = see(host)
    assert guest.runner == Runner(WEB1.path, hypervisor="qemu", host_name="web1", missing=True, runs=False)
    assert next(iter(problems(guest))) == f"missing runner: {WEB1.path} is not in the store."


@pytest.mark.parametrize("runs", [True, False])
def test_a_current_outside_the_store(host: FakeHost, tmp_path: Path, runs: bool) -> None:
    built = tmp_path / "built"
    (built / "bin").mkdir(parents=True)
    if runs:
        (built / "bin" / "microvm-run").touch()
    host.guest("web1").mkdir()
    host.guest("web1", "current").symlink_to(built)
    guest = see(host)
    assert guest.runner == Runner(str(built), runs=runs)
    expected = [] if runs else [f"missing runner: {built} has no bin/microvm-run."]
    assert list(problems(guest)) == expected


def test_a_current_outside_the_store_that_dangles(host: FakeHost) -> None:
    host.guest("web1").mkdir()
    host.guest("web1", "current").symlink_to("/nowhere/at/all")
    guest = see(host)
    assert guest.runner == Runner("/nowhere/at/all", missing=True, runs=False)


@pytest.mark.parametrize(
    ("wants", "names"),
    [
        ("Wants=microvm@web1.service", ["web1"]),
        ("Wants=microvm@web1.service microvm@web2.service\nWants=ssh.service", ["web1", "web2"]),
        ("After=microvm@web1.service", []),
        ("", []),
    ],
)
def test_autostart_by_the_target(host: FakeHost, wants: str, names: list[str]) -> None:
    host.microvm_create(WEB1)
    host.microvm_create(Spec("web2"))
    Path(host.paths.units, "microvms.target").write_text(f"[Unit]\n{wants}\n", encoding="utf-8")
    assert [name for name, guest in look(host).guests.items() if guest.autostart] == names


def test_autostart_by_a_link(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    Path(host.paths.wants).mkdir()
    Path(host.paths.wants, "microvm@web1.service").symlink_to("nowhere")
    Path(host.paths.wants, "other.service").symlink_to("nowhere")
    assert see(host).autostart


def test_settings(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    assert see(host).settings is None
    path = Path(host.paths.settings("web1"))
    path.parent.mkdir()
    (path.parent / "other.conf").write_text("[Service]\n", encoding="utf-8")
    assert see(host).settings is None
    path.write_text("[Service]\nTimeoutStopSec=8\n", encoding="utf-8")
    assert see(host).settings == "[Service]\nTimeoutStopSec=8\n"


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("var/lib/microvms/web1/.microvm-fleet.current.7", True),
        ("var/lib/microvm-fleet/guests/web1/.microvm-fleet.record.json.7", True),
        ("nix/var/nix/gcroots/microvm-fleet/web1/.microvm-fleet.staged.7", True),
        ("nix/var/nix/gcroots/microvm/.microvm-fleet.web1.7", True),
        ("nix/var/nix/gcroots/microvm/.microvm-fleet.booted-web1.7", True),
        ("etc/systemd/system/microvm@web1.service.d/.microvm-fleet.50-microvm-fleet.conf.7", True),
        ("nix/var/nix/gcroots/microvm/.microvm-fleet.web1.example.org.7", False),
        ("nix/var/nix/gcroots/microvm/.microvm-fleet.web12.7", False),
        ("var/lib/microvms/web1/.hidden", False),
    ],
)
def test_what_a_killed_run_left(host: FakeHost, place: str, found: bool) -> None:
    host.microvm_create(WEB1)
    path = host.root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert see(host).litter is found
    assert look(host).leftovers == ()


def test_leftovers_among_the_guests(host: FakeHost) -> None:
    Path(host.paths.guests, ".microvm-fleet.web1.7").mkdir()
    Path(host.paths.guests, ".kept").mkdir()
    assert look(host) == Host(guests={}, leftovers=(".microvm-fleet.web1.7",))


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ("web1", ()),
        (".microvm-fleet.web1.7", ("web1",)),
        (".microvm-fleet.a.b.7", ("a.b",)),
        (".microvm-fleet.booted-a.7", ("a", "booted-a")),
    ],
)
def test_litter_of(entry: str, names: tuple[str, ...]) -> None:
    assert litter_of(entry) == frozenset(names)


def test_a_mark_of_a_killed_run(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    Path(host.paths.marks).mkdir(parents=True)
    Path(host.paths.marks, "web1").touch()
    assert see(host).interrupted


def test_with_names_others_are_not_read(host: FakeHost) -> None:
    host.microvm_create(WEB1)
    host.microvm_create(Spec("web2"))
    assert list(look(host, "web2", "web3").guests) == ["web2"]


def test_a_directory_that_cannot_be_read_is_an_error(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: str) -> t.NoReturn:
        raise PermissionError

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(PermissionError):
        look(host)


# Problems

CURRENT = store_path("1", "microvm-qemu-web1")
OTHER = store_path("2", "microvm-qemu-web1")
SOUND = Guest(
    "web1",
    exists=True,
    directory=True,
    current=CURRENT,
    roots=frozenset(("web1", "booted-web1")),
    runner=Runner(CURRENT),
)
UP = Unit(active_state="active", sub_state="running")


def with_(**fields: t.Any) -> Guest:
    return dataclasses.replace(SOUND, **fields)


@pytest.mark.parametrize(
    ("guest", "said"),
    [
        (SOUND, []),
        (with_(unit=UP, booted=CURRENT), []),
        (Guest("web1"), []),
        (
            with_(runner=Runner(CURRENT, runs=False)),
            [f"missing runner: {CURRENT} has no bin/microvm-run."],
        ),
        (
            with_(runner=Runner(CURRENT, old_contract=True)),
            ["old contract: the runner is of a microvm.nix before 2024; build it again with a newer one."],
        ),
        (
            with_(booted=CURRENT),
            ["stale booted: the guest does not run, but the link booted is there, as after a crash of the host."],
        ),
        (
            with_(unit=Unit(active_state="failed", result="exit-code")),
            ["failed: the unit ended with exit-code; see journalctl -u microvm@web1.service."],
        ),
        (
            with_(unit=Unit(active_state="activating", restarts=3)),
            ["restart loop: systemd has started it again 3 times."],
        ),
        (with_(unit=Unit(active_state="activating", restarts=2)), []),
        (
            with_(unit=UP, booted=OTHER),
            ["restart needed: the guest runs another runner than current."],
        ),
        (
            with_(unit=UP),
            ["restart needed: the guest runs another runner than current."],
        ),
        (
            with_(unit=dataclasses.replace(UP, needs_reload=True), booted=CURRENT),
            ["units changed: systemd has to read its units again (systemctl daemon-reload)."],
        ),
        (with_(roots=frozenset()), ["missing gcroot: the garbage collector may take the runner of current."]),
        (with_(roots=frozenset(), generations=(Generation(1, CURRENT),)), []),
        (with_(roots=frozenset(), toplevel="/nix/store/top"), []),
        (with_(roots=frozenset(), current="/srv/built", runner=Runner("/srv/built")), []),
        (
            with_(unit=UP, booted=OTHER, roots=frozenset(), toplevel="/nix/store/top"),
            [
                "restart needed: the guest runs another runner than current.",
                "missing gcroot: the garbage collector may take the runner that is running.",
            ],
        ),
    ],
)
def test_problems(guest: Guest, said: list[str]) -> None:
    assert list(problems(guest)) == said


# Merging


def test_merge_adds_what_only_the_evaluation_knows() -> None:
    read = Runner(
        "/nix/store/x",
        hypervisor="qemu",
        host_name="x",
        interfaces=(Interface("a", "tap"), Interface("m", "macvtap", "02:00:00:00:00:03", "eth0", "bridge")),
        volumes=(Volume("a.img", 1),),
        can_shutdown=True,
    )
    evaluated = Runner(
        "/nix/store/x",
        hypervisor="other",
        host_name="host-x",
        toplevel="/nix/store/top",
        kernel="/nix/store/linux",
        initrd="/nix/store/initrd",
        kernel_params="quiet",
        mem=512,
        vcpu=2,
        interfaces=(
            Interface("a", "tap", "02:00:00:00:00:01"),
            Interface("m", "macvtap", "02:00:00:00:00:09"),
            Interface("u", "user", "02:00:00:00:00:02"),
        ),
        volumes=(Volume("a.img", 1, "/data"), Volume("/dev/b", auto_create=False)),
        vsock_cid=7,
        can_shutdown=False,
    )
    assert merge(read, evaluated) == Runner(
        "/nix/store/x",
        hypervisor="qemu",
        host_name="host-x",
        toplevel="/nix/store/top",
        kernel="/nix/store/linux",
        initrd="/nix/store/initrd",
        kernel_params="quiet",
        mem=512,
        vcpu=2,
        interfaces=(
            Interface("a", "tap", "02:00:00:00:00:01"),
            Interface("m", "macvtap", "02:00:00:00:00:03", "eth0", "bridge"),
            Interface("u", "user", "02:00:00:00:00:02"),
        ),
        volumes=(Volume("a.img", 1, "/data"), Volume("/dev/b", auto_create=False)),
        vsock_cid=7,
        can_shutdown=True,
    )


def test_merge_of_nothing_known() -> None:
    read = Runner("/nix/store/x", hypervisor="qemu", volumes=(Volume("a"),), vsock_cid=3, old_contract=True)
    assert merge(read, Runner("/nix/store/x")) == read


# The structure that modules return

KEYS = {
    "name", "exists", "owner", "hypervisor", "host_name", "flake", "locked", "current", "booted", "staged",
    "generations", "active", "unit", "restart_needed", "autostart", "protect", "labels", "interfaces", "volumes",
    "vsock_cid", "can_shutdown", "problems", "described", "generation", "healthy", "judging", "rejected",
}  # fmt: skip


def test_describe_of_nothing() -> None:
    described = describe(Guest("web1"))
    assert set(described) == KEYS
    assert described == {
        **dict.fromkeys(KEYS),
        "name": "web1",
        "exists": False,
        "generations": [],
        "active": False,
        "unit": {"active_state": "inactive", "sub_state": "dead", "result": "success", "restarts": 0},
        "restart_needed": False,
        "autostart": False,
        "protect": False,
        "labels": {},
        "rejected": {},
        "interfaces": [],
        "volumes": [],
        "problems": [],
        "described": False,
    }


def test_describe_of_a_guest(host: FakeHost) -> None:
    spec = Spec("web1", vsock_cid=7)
    host.microvm_create(spec)
    host.start("web1")
    described = describe(see(host))
    assert set(described) == KEYS
    assert described["owner"] == "microvm"
    assert described["current"] == described["booted"] == spec.path
    assert described["interfaces"] == [{"id": "vm-web1", "type": "tap", "mac": None, "link": None, "mode": None}]
    assert described["vsock_cid"] == 7
    assert described["unit"] == {"active_state": "active", "sub_state": "running", "result": "success", "restarts": 0}
    json.dumps(described)


def test_the_flake_of_the_record_serves_where_there_is_no_file() -> None:
    guest = with_(record=Record(flake=FLAKE, locked="r1"))
    assert (describe(guest)["flake"], describe(guest)["locked"], describe(guest)["owner"]) == (FLAKE, "r1", "fleet")


def test_loop_is_what_the_engine_says() -> None:
    assert observer.LOOP == 3
