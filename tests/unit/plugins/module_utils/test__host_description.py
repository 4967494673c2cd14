# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""host.json: what of a wish becomes part of a NixOS host's system."""

from __future__ import annotations

import json
import os
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _files
from ansible_collections.microvm.fleet.plugins.module_utils import _guest_plan as planner
from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy, FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Guest, Host, Record
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import UNIT
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import GuestWish, read_wishes
from ansible_collections.microvm.fleet.plugins.module_utils._host_description import (
    FILE,
    Described,
    HostWish,
    Result,
    converge,
    entries_of,
    host_spec,
    make,
    read,
    read_wish,
)
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost, Killer

BARE: dict[str, t.Any] = {name: option.get("default") for name, option in host_spec().items()}
EMPTY = Described(name="host1")


def guests(*entries: dict[str, t.Any]) -> tuple[GuestWish, ...]:
    return read_wishes(entries_of(entries))


def host(*names: str, **owned: Record | None) -> Host:
    found = {name: Guest(name, exists=True, directory=True) for name in names}
    found.update((name, Guest(name, exists=True, directory=True, record=one)) for name, one in owned.items())
    return Host(found, nixos=True)


def described(wish: HostWish, before: Described = EMPTY, on: Host | None = None) -> Described:
    return make(wish, before, on or host())


def test_nothing_wished_changes_nothing() -> None:
    before = Described(
        name="host1",
        system="aarch64-linux",
        autostart=("web1",),
        start_timeout=60,
        writable_paths=("/srv",),
        settings={"web1": {"microvm": (("Service", "TimeoutStopSec", "60"),)}},
    )
    assert described(HostWish(), before) == before


def test_the_host() -> None:
    wish = HostWish(
        name="host2", start_timeout=100, stop_timeout=90, writable_paths=("/dev/sdb",), kernel_modules=("tun",)
    )
    after = described(wish)
    assert after.as_dict() == {
        "version": 1,
        "name": "host2",
        "system": None,
        "bare": False,
        "autostart": [],
        "start_timeout": 100,
        "stop_timeout": 90,
        "writable_paths": ["/dev/sdb"],
        "kernel_modules": ["tun"],
        "guests": {},
    }
    assert described(HostWish(writable_paths=()), after).writable_paths == ()
    assert described(HostWish(bare=True), after).bare is True


@pytest.mark.parametrize(
    ("before", "wished", "after"),
    [
        ((), [{"name": "a", "autostart": True}, {"name": "b"}], ("a",)),
        (("a", "b"), [{"name": "a", "autostart": False}], ("b",)),
        (("a", "b"), [{"name": "a"}], ("a", "b")),
        (("a", "b"), [{"name": "a", "state": "absent"}], ("b",)),
    ],
)
def test_autostart_of_guests(before: tuple[str, ...], wished: list[dict[str, t.Any]], after: tuple[str, ...]) -> None:
    entries = [{**one, "flake": "/srv"} if one.get("state") != "absent" else one for one in wished]
    assert described(HostWish(guests=guests(*entries)), Described(autostart=before)).autostart == after


def test_autostart_of_others() -> None:
    on = host("old", "older")
    assert described(HostWish(autostart=("old",)), on=on).autostart == ("old",)
    before = Described(autostart=("older",))
    assert described(HostWish(autostart=("old",)), before, on).autostart == ("old", "older")
    assert described(HostWish(autostart=("old",), exclusive=True), before, on).autostart == ("old",)
    wished = guests({"name": "a", "flake": "/srv", "autostart": True})
    both = HostWish(autostart=("old",), exclusive=True, guests=wished)
    assert described(both, before, on).autostart == ("a", "old")
    assert described(HostWish(autostart=("a",), guests=wished), on=on).autostart == ("a",)


def test_autostart_of_a_guest_that_is_not_there() -> None:
    with pytest.raises(InvalidWish) as refused:
        described(HostWish(autostart=("old", "gone")), on=host("old"))
    assert refused.value.field == "autostart[1]"
    assert "no guest gone" in str(refused.value)


def test_settings_of_guests() -> None:
    entry = {"name": "a", "flake": "/srv", "stop_timeout": 60}
    after = described(HostWish(guests=guests(entry)))
    assert after.as_dict()["guests"] == {"a": {"settings": [["Service", "TimeoutStopSec", "60"]]}}
    more = guests({"name": "a", "flake": "/srv", "start_timeout": 200})
    assert described(HostWish(guests=more), after).as_dict()["guests"]["a"]["settings"] == [
        ["Service", "TimeoutStartSec", "200"],
        ["Service", "TimeoutStopSec", "60"],
    ]
    silent = guests({"name": "a", "flake": "/srv"})
    assert described(HostWish(guests=silent), after) == after
    gone = guests({"name": "a", "state": "absent"})
    assert described(HostWish(guests=gone), after).as_dict()["guests"] == {}


def wish_with_credentials(hypervisor: str, update: str = "never") -> GuestWish:
    entry = {"hypervisor": hypervisor, "credentials": ["token", "key"]}
    return GuestWish("a", description=entry, update=update)


@pytest.mark.parametrize(
    ("hypervisor", "key"), [("qemu", "settings"), ("cloud-hypervisor", "virtiofsd_settings"), ("firecracker", None)]
)
def test_credentials_of_guests(hypervisor: str, key: str | None) -> None:
    after = described(HostWish(guests=(wish_with_credentials(hypervisor),)))
    loads = [
        ["Service", "LoadCredential", "key:/var/lib/microvm-fleet/credentials/a/key"],
        ["Service", "LoadCredential", "token:/var/lib/microvm-fleet/credentials/a/token"],
    ]
    assert after.as_dict()["guests"] == ({} if key is None else {"a": {key: loads}})
    # As a run would write them elsewhere, so that the system's settings are seen to be as wished.
    text = planner.settings(
        GuestWish("a"), None, {name: f"{planner.CREDENTIALS}/a/{name}" for name in ("token", "key")}
    )
    assert text is not None
    assert text.splitlines()[1:] == [f"{name}={value}" for _section, name, value in loads]


def test_a_guest_that_is_left_alone_keeps_its_credentials() -> None:
    before = Described(settings={"a": {UNIT: (("Service", "LoadCredential", "old:/x"),)}})
    on = host("a")
    assert described(HostWish(guests=(wish_with_credentials("qemu"),)), before, on).settings["a"] == {
        UNIT: (("Service", "LoadCredential", "old:/x"),)
    }
    updated = described(HostWish(guests=(wish_with_credentials("qemu", "activate"),)), before, on)
    assert len(updated.settings["a"][UNIT]) == 2


def test_pruned_guests_are_described_no_more() -> None:
    before = Described(
        autostart=("kept", "ours", "theirs"),
        settings={name: {UNIT: (("Service", "TimeoutStopSec", "60"),)} for name in ("ours", "kept", "theirs")},
    )
    on = host("theirs", ours=Record(), kept=Record(protect=True))
    assert described(HostWish(), before, on) == before
    after = described(HostWish(prune=True), before, on)
    assert after.autostart == ("kept", "theirs")
    assert sorted(after.settings) == ["kept", "theirs"]


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("name", "a b", "name"),
        ("name", "", "name"),
        ("start_timeout", 4, "start_timeout"),
        ("stop_timeout", 86401, "stop_timeout"),
        ("writable_paths", ["/srv", "srv"], "writable_paths[1]"),
        ("writable_paths", ["/srv/../etc"], "writable_paths[0]"),
        ("writable_paths", ["/srv:/etc"], "writable_paths[0]"),
        ("writable_paths", ["/srv\n/etc"], "writable_paths[0]"),
        ("kernel_modules", ["tun; rm"], "kernel_modules[0]"),
        ("autostart", ["../x"], "autostart[0]"),
    ],
)
def test_bad_options(option: str, value: t.Any, field: str) -> None:
    with pytest.raises(InvalidWish) as refused:
        read_wish({**BARE, option: value}, ())
    assert f"host, {field}:" in str(refused.value)


def test_bad_entries_are_named() -> None:
    with pytest.raises(InvalidWish) as refused:
        entries_of([{"name": "a", "autostart": "perhaps"}, {"flake": "/srv"}, {"name": "c", "flak": "/srv"}])
    text = str(refused.value)
    assert "guest a: " in text
    assert "guest number 2 of the list: " in text
    assert "guest c: " in text


def test_read_gives_what_was_written() -> None:
    some = Described(
        name="host1",
        autostart=("a",),
        kernel_modules=("tun",),
        settings={"a": {UNIT: (("Service", "TimeoutStopSec", "60"),)}},
    )
    assert read(some.text()) == some


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": 1, "name": "a", "autostart": 3}'])
def test_a_damaged_description(text: str) -> None:
    with pytest.raises(FleetError) as refused:
        read(text)
    assert refused.value.field == FILE
    assert "cannot be read" in str(refused.value)


def test_a_description_of_another_version() -> None:
    with pytest.raises(FleetError, match="version 2"):
        read('{"version": 2}')


# On a host that is a directory.


@pytest.fixture
def nixos(tmp_path: Path) -> FakeHost:
    made = FakeHost(tmp_path)
    _put(made, "etc/os-release", "ID=nixos\n")
    return made


def _put(made: FakeHost, path: str, text: str) -> None:
    target = Path(made.paths.root) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, "utf-8")


def run(made: FakeHost, wish: HostWish, *, check: bool = False) -> Result:
    return converge(wish, paths=made.paths, commands=made, host_name="host1", lock_timeout=0, check=check)


def place(made: FakeHost) -> Path:
    return Path(made.paths.flake) / "host.json"


def test_check_run_check_run(nixos: FakeHost) -> None:
    wish = HostWish(guests=guests({"name": "a", "flake": "/srv", "autostart": True}))
    checked = run(nixos, wish, check=True)
    assert checked.changed
    assert checked.switch_needed
    assert not place(nixos).exists()
    ran = run(nixos, wish)
    assert ran.values() == checked.values()
    assert json.loads(place(nixos).read_text("utf-8"))["name"] == "host1"
    assert json.loads(place(nixos).read_text("utf-8"))["system"] == f"{os.uname().machine}-linux"
    assert json.loads(place(nixos).read_text("utf-8"))["autostart"] == ["a"]
    assert ran.values()["diff"]["before"] == {}
    for check in (True, False):
        again = run(nixos, wish, check=check)
        assert not again.changed
        assert again.actions == []
        assert again.switch_needed


def test_whether_the_system_has_it(nixos: FakeHost) -> None:
    run(nixos, HostWish())
    _put(nixos, "etc/microvm-fleet-system/host.json", place(nixos).read_text("utf-8"))
    assert not run(nixos, HostWish()).switch_needed
    assert run(nixos, HostWish(start_timeout=60)).switch_needed
    assert run(nixos, HostWish(bare=True)).switch_needed
    os.unlink(os.path.join(nixos.paths.root, "etc/microvm-fleet-system/host.json"))
    assert not run(nixos, HostWish(bare=True)).switch_needed


def test_other_hosts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="does not run NixOS"):
        run(FakeHost(tmp_path), HostWish())


def test_another_run(nixos: FakeHost) -> None:
    with _files.lock(os.path.join(nixos.paths.locks, "description"), what="host"), pytest.raises(Busy):
        run(nixos, HostWish())


def test_killed_anywhere(tmp_path: Path) -> None:
    def prepared(at: int | None) -> FakeHost:
        made = FakeHost(tmp_path / str(at))
        _put(made, "etc/os-release", "ID=nixos\n")
        run(made, HostWish())
        return made

    wish = HostWish(start_timeout=60)
    counted = prepared(None)
    with Killer(counted, None) as killer:
        run(counted, wish)
    assert killer.count > 3
    for at in range(killer.count):
        made = prepared(at)
        with Killer(made, at):
            run(made, wish)
        assert json.loads(place(made).read_text("utf-8"))["start_timeout"] in (60, 150)
        run(made, wish)
        assert place(made).read_text("utf-8") == place(counted).read_text("utf-8")
        if at < killer.count - 1:
            left = [name for name in os.listdir(made.paths.flake) if name.startswith(_files.TEMPORARY)]
            assert left == []
