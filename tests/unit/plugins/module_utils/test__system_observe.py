# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is read of a NixOS host, and what is made of what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._system_observe import (
    ACTIVATION,
    Facts,
    Journal,
    Pending,
    SystemPaths,
    UnitState,
    describe_activation,
    described,
    facts,
    failed_units,
    observe,
    parse_units,
    read_journal,
    store_target,
)
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import store_path
from ansible_collections.microvm.fleet.tests.unit.support.fakesystem import FakeSystem, System

PENDING = Pending("t1", "/nix/store/o", "/nix/store/n", "switch", 12.5, "2026-01-02T03:04:05Z")


@pytest.fixture
def host(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


def test_a_host(host: FakeSystem) -> None:
    host.wish(System(2))
    host._set_profile(System(2).path)
    seen = observe(host.paths, host)
    first, second = System(1).path, System(2).path
    assert (seen.running, seen.booted, seen.profile) == (first, first, second)
    assert (seen.generation, seen.generations) == (2, ((1, first), (2, second)))
    assert seen.boot_id == "boot-1"
    assert seen.activation == UnitState(description=ACTIVATION)
    assert (seen.pending_state, seen.reverted, seen.interrupted) == (None, False, None)
    assert seen.running_facts == seen.booted_facts == facts(host.paths, first)
    assert [argv[:2] for argv in host.calls] == [("systemctl", "show")]


def test_a_host_without_anything(tmp_path: Path) -> None:
    host = FakeSystem(tmp_path)
    for path in (host.paths.running, host.paths.booted, host.paths.profile):
        os.unlink(path)
    seen = observe(host.paths, host)
    assert (seen.running, seen.booted, seen.profile, seen.generation) == (None, None, None, None)
    assert (seen.running_facts, seen.booted_facts) == (None, None)


def test_links_are_followed_to_the_store(tmp_path: Path) -> None:
    paths = SystemPaths(str(tmp_path))
    system = store_path("a", "nixos-system")
    (tmp_path / "three").symlink_to(system)
    (tmp_path / "two").symlink_to("three")
    (tmp_path / "one").symlink_to("/two")
    (tmp_path / "ring").symlink_to("ring")
    (tmp_path / "lost").symlink_to("/elsewhere")
    (tmp_path / "file").touch()
    answers = {
        name: store_target(paths, str(tmp_path / name)) for name in ("one", "two", "three", "ring", "lost", "file")
    }
    assert answers == {"one": system, "two": system, "three": system, "ring": None, "lost": None, "file": None}


def test_facts_of_a_system(host: FakeSystem) -> None:
    link = [store_path("linux-6.12", name) for name in ("kernel", "initrd", "kernel-modules")]
    assert facts(host.paths, System(1).path) == Facts(boot=(*link, "loglevel=4\n"), interface="systemd 2")
    assert facts(host.paths, System(2).path) is None
    assert facts(host.paths, None) is None


def test_units() -> None:
    text = (
        "Result=exit-code\nExecMainStatus=4\nId=a.service\nDescription=NixOS: test /nix/store/x=y\n"
        "ActiveState=failed\nSubState=failed\n\nId=b.timer\nDescription=b\nActiveState=active\nSubState=waiting\n"
    )
    assert parse_units(text) == {
        "a.service": UnitState("failed", "failed", "exit-code", 4, "NixOS: test /nix/store/x=y"),
        "b.timer": UnitState("active", "waiting", "success", 0, "b"),
    }
    assert parse_units("") == {}


@pytest.mark.parametrize(
    ("active", "sub", "expected"),
    [
        ("inactive", "dead", (False, False, False)),
        ("activating", "start-pre", (True, False, False)),
        ("active", "running", (True, False, False)),
        ("active", "exited", (False, False, True)),
        ("deactivating", "stop-sigterm", (True, False, False)),
        ("failed", "failed", (False, True, False)),
    ],
)
def test_states_of_a_unit(active: str, sub: str, expected: tuple[bool, bool, bool]) -> None:
    unit = UnitState(active, sub)
    assert (unit.running, unit.failed, unit.done) == expected


def test_the_description_says_what_is_activated() -> None:
    assert described(UnitState(description=describe_activation("test", "/nix/store/x"))) == ("test", "/nix/store/x")
    assert described(UnitState(description="Something else")) == ("", "")


def test_failed_units(host: FakeSystem) -> None:
    host.failed = ["b.service", "a.mount", "b.service"]
    assert failed_units(host) == ("a.mount", "b.service")


def test_the_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    paths = SystemPaths(str(tmp_path))
    assert read_journal(paths) == Journal()
    journal = Journal("b1", "/nix/store/n", ("a.service",), "/nix/store/n", PENDING, "t0")
    Path(paths.journal).parent.mkdir(parents=True)
    Path(paths.journal).write_text(journal.text(), encoding="utf-8")
    assert read_journal(paths) == journal


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "pending": null}'])
def test_a_journal_that_cannot_be_read_is_not_guessed(tmp_path: Path, text: str) -> None:
    paths = SystemPaths(str(tmp_path))
    Path(paths.journal).parent.mkdir(parents=True)
    Path(paths.journal).write_text(text, encoding="utf-8")
    with pytest.raises(
        FleetError, match=r"^system: .*/system.json cannot be read: .* See that no activation is under way"
    ):
        read_journal(paths)


def test_units_of_a_pending_system() -> None:
    assert (PENDING.timer, PENDING.service) == (
        "microvm-fleet-system-revert-t1.timer",
        "microvm-fleet-system-revert-t1.service",
    )
    assert not ACTIVATION.startswith("microvm-fleet-system-revert-")
