# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs over a host that is a directory: what they leave, what check mode says, and how the host goes back."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _files
from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy, FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._system_observe import ACTIVATION
from ansible_collections.microvm.fleet.plugins.module_utils._system_run import Result, converge, follow
from ansible_collections.microvm.fleet.plugins.module_utils._system_wish import Limits, SystemWish
from ansible_collections.microvm.fleet.tests.unit.support.fakesystem import NAME, FakeSystem, System

LIMITS = Limits(lock=0)
TOKEN = "t1"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystem:
    monkeypatch.setattr(signal, "signal", lambda number, action: None)
    naps = iter(range(50))

    def sleep(_seconds: float) -> None:
        assert next(naps, None) is not None, "it waits for what does not come"

    monkeypatch.setattr(time, "sleep", sleep)
    return FakeSystem(tmp_path)


def run(
    host: FakeSystem,
    *,
    check: bool = False,
    diff: bool = False,
    token: str = TOKEN,
    limits: Limits = LIMITS,
    **wish: t.Any,
) -> Result:
    return converge(
        SystemWish(name=wish.pop("name", NAME), **wish),
        paths=host.paths,
        commands=host,
        limits=limits,
        token=token,
        check=check,
        diff=diff,
    )


def look(host: FakeSystem, *, confirm: bool = False, token: str = TOKEN) -> dict[str, t.Any]:
    return follow(SystemWish(name=NAME), paths=host.paths, commands=host, limits=LIMITS, token=token, confirm=confirm)


def die(_seconds: float) -> None:
    """The run ends where it waits."""
    raise KeyboardInterrupt


def versions(host: FakeSystem) -> tuple[int, int, int]:
    """What runs, what the profile has, what the boot loader starts."""
    return host.running, host.profile, host.boots_next


def clean(host: FakeSystem) -> None:
    """Nothing is left of a run that has ended."""
    assert not host.units
    assert not list((host.root / "nix/var/nix/gcroots").glob("*/*"))
    journal = json.loads(Path(host.paths.journal).read_text(encoding="utf-8"))
    assert {key: journal[key] for key in ("activating", "boot_loader", "pending")} == {
        "activating": None,
        "boot_loader": None,
        "pending": None,
    }


def test_a_host_that_has_what_is_wished_is_left_alone(host: FakeSystem) -> None:
    state = host.state()
    for check in (True, False):
        result = run(host, check=check)
        assert (result.changed, result.actions) == (False, [])
        assert result.before == result.after
    assert host.state() == state
    assert not host.activations


@pytest.mark.parametrize(
    ("mode", "actions", "expected", "called"),
    [
        ("switch", ["build", "set the system profile to", "switch to"], (2, 2, 2), [("switch", 2)]),
        ("test", ["build", "activate"], (2, 1, 1), [("test", 2)]),
        ("boot", ["build", "set the system profile to", "let the boot loader start"], (1, 2, 2), [("boot", 2)]),
    ],
)
def test_check_run_check_run(
    host: FakeSystem, mode: str, actions: list[str], expected: tuple[int, int, int], called: list[tuple[str, int]]
) -> None:
    new = host.wish(System(2))
    state = host.state()
    checked = run(host, mode=mode, check=True)
    assert host.state() == state
    assert host.count("--read-only") == 1
    ran = run(host, mode=mode)
    assert ran.actions == checked.actions == [f"{words} {new.path}" for words in actions]
    assert {**ran.after, "reboot_needed": None} == {**checked.after, "reboot_needed": None}
    assert (versions(host), host.activations) == (expected, called)
    clean(host)
    state = host.state()
    for check in (True, False):
        assert not run(host, mode=mode, check=check).changed
    assert host.state() == state


def test_what_it_returns(host: FakeSystem) -> None:
    new = host.wish(System(2))
    values = run(host, diff=True).values()
    assert values["before"]["running"] == System(1).path
    assert values["after"] == {
        "running": new.path,
        "booted": System(1).path,
        "profile": new.path,
        "generation": 2,
        "wished": new.path,
        "pending": None,
        "reverted": False,
        "reboot_needed": False,
    }
    assert (values["reboot_needed"], values["reverted"]) == (False, False)
    assert values["diff"] == [
        {"before": values["before"], "after": values["after"]},
        {"prepared": "linux: 6.12 → 6.13\n"},
    ]
    assert not {"warnings", "confirm"} & set(values)


def test_closures_are_compared_in_diff_mode_only_and_may_fail(host: FakeSystem) -> None:
    host.wish(System(2))
    assert run(host, mode="test").closures == ""
    assert host.count("diff-closures") == 0
    host.wish(System(3))
    assert run(host, check=True, diff=True).closures == ""
    host.broken["diff-closures"] = (1, "", "error: unknown command")
    assert run(host, diff=True).closures == ""
    assert host.running == 3


@pytest.mark.parametrize(
    ("system", "mode", "needed"),
    [
        (System(2), "switch", False),
        (System(2, kernel="linux-6.13"), "switch", True),
        (System(2, kernel="linux-6.13"), "test", True),
        (System(2), "boot", True),
        (System(2, interface="systemd 3"), "switch", True),
    ],
)
def test_whether_a_reboot_is_needed(host: FakeSystem, system: System, mode: str, needed: bool) -> None:
    host.wish(system)
    assert run(host, mode=mode, check=True).values()["reboot_needed"] in (needed, None)
    assert run(host, mode=mode).values()["reboot_needed"] is needed
    assert run(host, mode=mode).values()["reboot_needed"] is needed
    if mode != "test":
        host.boot()
        again = run(host, mode=mode)
        assert (again.changed, again.values()["reboot_needed"]) == (False, False)


def test_a_system_with_another_interface_waits_for_the_reboot(host: FakeSystem) -> None:
    new = host.wish(System(2, interface="systemd 3"))
    for options in ({"mode": "test"}, {"confirm_timeout": 60}):
        with pytest.raises(InvalidWish, match=rf"system {NAME}, mode: {new.path} cannot take the place"):
            run(host, **options)
    assert run(host).actions[-1] == f"let the boot loader start {new.path}"
    assert versions(host) == (1, 2, 2)
    assert host.activations == [("boot", 2)]
    assert not run(host).changed


@pytest.mark.parametrize(
    ("behaviour", "mode", "said", "called"),
    [
        ("boot", "switch", r"switch of \S+ ended with 1 \(.*boot loader.*\).*Failed to install bootloader", "switch"),
        ("boot", "boot", r"boot of \S+ ended with 1 \(", "boot"),
        ("script", "switch", r"ended with 2 \(the activation script failed\)", "switch"),
        ("script", "test", r"test of \S+ ended with 2 \(the activation script failed\)", "test"),
        ("units", "switch", r"ended with 4 \(units failed\).*the following units failed: old.service", "switch"),
        ("timeout", "switch", r"did not end within 900 s", "switch"),
        ("killed", "test", r"was ended \(signal\)", "test"),
    ],
)
def test_a_failed_activation_goes_back(host: FakeSystem, behaviour: str, mode: str, said: str, called: str) -> None:
    new = host.wish(System(2, behaviour))
    with pytest.raises(FleetError, match=f"(?s)^system {NAME}: switch-to-configuration .*{said}") as caught:
        run(host, mode=mode)
    assert f"The host went back to {System(1).path}." in str(caught.value)
    assert versions(host) == (1, 1, 1)
    assert host.activations == [(called, 2), (called, 1)]
    clean(host)
    host.wish(System(3))
    assert run(host, mode=mode).before["generation"] == 1
    assert new.path in host.state().values() or mode == "test", "the generation that failed is kept"


def test_what_ran_and_what_the_profile_had_come_back_each(host: FakeSystem) -> None:
    host.wish(System(2))
    run(host, mode="test")
    host.wish(System(3, "script"))
    with pytest.raises(FleetError, match=f"went back to {System(2).path}"):
        run(host)
    assert versions(host) == (2, 1, 1)
    assert host.activations[1:] == [("switch", 3), ("boot", 1), ("test", 2)]


def test_when_going_back_fails_too(host: FakeSystem) -> None:
    host.systems[System(1).path] = System(1, "script")
    host.wish(System(2, "script"))
    with pytest.raises(
        FleetError, match=r"(?s)failed too: repair the host.*said at last:\n.*activate script"
    ) as caught:
        run(host)
    assert f"{System(1).path}/bin/switch-to-configuration switch" in str(caught.value)
    # The next run does not take a half activated system for a whole one.
    host.systems[System(1).path] = System(1)
    host.wish(System(1))
    assert run(host).actions == [f"switch to {System(1).path}"]
    clean(host)


def test_units_that_had_failed_before_are_no_reason_to_go_back(host: FakeSystem) -> None:
    host.failed = ["old.service"]
    host.wish(System(2, "again"))
    values = run(host).values()
    assert values["warnings"] == ["units that had failed before still fail: old.service."]
    assert versions(host) == (2, 2, 2)
    clean(host)


def test_a_tool_that_is_at_work_is_not_disturbed(host: FakeSystem) -> None:
    host.wish(System(2))
    with open(host.paths.their_lock, "w", encoding="ascii") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="another switch-to-configuration is at work"):
            run(host, mode="test")
    assert host.activations == []
    host.wish(System(3, "locked"))
    with pytest.raises(Busy, match="another switch-to-configuration is at work"):
        run(host)
    assert versions(host) == (1, 1, 1)
    assert host.activations == [("switch", 3)]


def test_a_run_that_is_at_work_is_not_disturbed(host: FakeSystem) -> None:
    host.wish(System(2))
    with _files.lock(host.paths.lock, what="x"), pytest.raises(Busy, match=f"system {NAME}: another run"):
        run(host)
    assert versions(host) == (1, 1, 1)


def test_an_activation_that_outlived_its_run(host: FakeSystem) -> None:
    new = host.wish(System(2, "slow"))
    gone = contextlib.suppress(KeyboardInterrupt)

    with gone, pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", die)
        run(host)
    with pytest.raises(Busy, match=f"{new.path} is being activated. Wait for it to end, or raise lock_timeout"):
        run(host)
    with pytest.raises(Busy, match="is being activated"):
        run(host, check=True)
    host.finish()
    assert not run(host).changed
    assert versions(host) == (2, 2, 2)
    clean(host)


def test_an_activation_that_somebody_ended_is_done_again(host: FakeSystem) -> None:
    host.wish(System(2, "slow"))
    with contextlib.suppress(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", die)
        run(host)
    host.kill()
    host._link("run/current-system", System(2, "slow").path)
    host.systems[System(2, "slow").path] = System(2)
    assert run(host).actions == [f"switch to {System(2, 'slow').path}"]
    clean(host)


def test_a_build_that_fails(host: FakeSystem) -> None:
    host.wish(System(2, "unbuildable"))
    with pytest.raises(FleetError, match=f"(?s)^system {NAME}, flake: the build of .* its log ends with:.*line 30"):
        run(host)
    assert versions(host) == (1, 1, 1)
    assert host.activations == []


def test_a_host_that_is_not_nixos(host: FakeSystem) -> None:
    (host.root / "etc/os-release").write_text("ID=debian\n", encoding="utf-8")
    with pytest.raises(FleetError, match="the host does not run NixOS"):
        run(host)
    with pytest.raises(FleetError, match="the host does not run NixOS"):
        look(host)
    assert host.calls == []
    (host.root / "etc/os-release").write_text('NAME="NixOS"\nID=nixos\n', encoding="utf-8")
    assert not run(host).changed


# Confirmation


def test_a_confirmed_switch(host: FakeSystem) -> None:
    new = host.wish(System(2, "slow"))
    checked = run(host, confirm_timeout=60, check=True)
    assert checked.confirm is None
    result = run(host, confirm_timeout=60)
    old = System(1).path
    assert (
        result.actions
        == checked.actions
        == [
            f"build {new.path}",
            f"go back to {old} after 60 s unless confirmed",
            f"activate {new.path}",
            f"confirm {new.path}",
            f"set the system profile to {new.path}",
            f"let the boot loader start {new.path}",
        ]
    )
    assert result.confirm is not None
    assert result.confirm["actions"] == result.actions[:3]
    assert (result.confirm["token"], result.confirm["system"], result.confirm["previous"]) == ("t1", new.path, old)
    assert 0 < result.confirm["seconds"] <= 60
    assert host.armed()
    assert look(host)["state"] == "activating"
    assert look(host, confirm=True)["state"] == "activating"
    host.finish()
    assert look(host)["state"] == "activated"
    assert look(host)["after"]["pending"]["previous"] == old
    assert host.armed()
    assert versions(host) == (2, 1, 1)
    said = look(host, confirm=True)
    assert (said["state"], said["changed"]) == ("confirmed", True)
    assert said["after"] == result.after
    assert not host.armed()
    assert versions(host) == (2, 2, 2)
    clean(host)
    # The answer may have been lost on its way.
    assert look(host, confirm=True)["state"] == "confirmed"
    assert not run(host, confirm_timeout=60).changed


def test_a_confirmed_test_leaves_the_boot_loader_alone(host: FakeSystem) -> None:
    host.wish(System(2))
    run(host, mode="test", confirm_timeout=60)
    assert look(host, confirm=True)["state"] == "confirmed"
    assert versions(host) == (2, 1, 1)
    clean(host)


def test_nobody_confirms(host: FakeSystem) -> None:
    host.wish(System(2))
    run(host, confirm_timeout=60)
    host.elapse()
    assert versions(host) == (1, 1, 1)
    for confirm in (False, True):
        with pytest.raises(FleetError, match=f"nobody confirmed .* and the host went back to {System(1).path}"):
            look(host, confirm=confirm)
    told = run(host, check=True, confirm_timeout=60)
    assert told.values()["reverted"] is True
    host.wish(System(1))
    assert run(host).values()["reverted"] is True
    assert run(host).values()["reverted"] is False
    clean(host)


def test_a_reboot_goes_back_too(host: FakeSystem) -> None:
    host.wish(System(2))
    run(host, confirm_timeout=60)
    host.boot()
    assert versions(host) == (1, 1, 1)
    with pytest.raises(FleetError, match="the host was booted again before"):
        look(host, confirm=True)
    assert run(host, check=True).values()["reverted"] is True
    run(host, confirm_timeout=60, token="t2")
    assert look(host, confirm=True, token="t2")["state"] == "confirmed"
    assert versions(host) == (2, 2, 2)
    clean(host)


@pytest.mark.parametrize("behaviour", ["script", "units", "killed"])
def test_an_activation_that_fails_goes_back_before_its_time(host: FakeSystem, behaviour: str) -> None:
    new = host.wish(System(2, behaviour))
    run(host, confirm_timeout=60)
    with pytest.raises(FleetError, match=f"test of {new.path} .* The host went back to {System(1).path}"):
        look(host)
    assert versions(host) == (1, 1, 1)
    assert not host.armed()
    assert host.activations == [("test", 2), ("test", 1)]
    clean(host)
    host.wish(System(1))
    assert not run(host).changed
    clean(host)


def test_an_activation_that_never_began(host: FakeSystem) -> None:
    host.wish(System(2))
    run(host, confirm_timeout=60)
    host.kill()
    with pytest.raises(FleetError, match=r"was stopped before its end. The host went back to"):
        look(host)
    assert versions(host) == (1, 1, 1)


def test_the_boot_loader_fails_after_the_confirmation(host: FakeSystem) -> None:
    host.wish(System(2, "boot"))
    run(host, confirm_timeout=60)
    with pytest.raises(FleetError, match=f"boot of .* ended with 1 .* The host went back to {System(1).path}"):
        look(host, confirm=True)
    assert versions(host) == (1, 1, 1)
    assert not host.armed()


def test_units_that_had_failed_before_are_told_when_it_is_confirmed(host: FakeSystem) -> None:
    host.failed = ["old.service"]
    host.wish(System(2, "again"))
    run(host, confirm_timeout=60)
    assert look(host)["state"] == "activated"
    assert look(host, confirm=True)["warnings"] == ["units that had failed before still fail: old.service."]
    assert versions(host) == (2, 2, 2)


def test_a_later_run_finishes_what_it_finds(host: FakeSystem) -> None:
    new = host.wish(System(2))
    run(host, confirm_timeout=60)
    checked = run(host, confirm_timeout=60, check=True)
    assert checked.before["pending"]["system"] == new.path
    result = run(host, confirm_timeout=60, token="t2")
    assert result.actions == checked.actions
    assert result.actions[0] == f"confirm {new.path}"
    assert result.confirm is not None
    assert (result.confirm["token"], result.confirm["actions"]) == ("t1", [])
    look(host, confirm=True)
    assert versions(host) == (2, 2, 2)
    assert host.activations == [("test", 2), ("boot", 2)]
    clean(host)


@pytest.mark.parametrize(("mode", "expected"), [("switch", (2, 2, 2)), ("test", (2, 1, 1))])
def test_a_later_run_without_a_confirmation(host: FakeSystem, mode: str, expected: tuple[int, int, int]) -> None:
    host.wish(System(2))
    run(host, confirm_timeout=60)
    result = run(host, mode=mode, token="t2")
    assert (result.changed, result.confirm) == (True, None)
    assert versions(host) == expected
    assert not host.armed()
    clean(host)


def test_a_later_run_finds_what_has_failed(host: FakeSystem) -> None:
    host.wish(System(2, "slow"))
    run(host, confirm_timeout=60)

    def fail(_seconds: float) -> None:
        for unit in host.units.values():
            if unit.sub == "running":
                host._execute(unit, "script")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", fail)
        with pytest.raises(FleetError, match=r"the activation script failed(?s:.*) The host went back to"):
            run(host, token="t2")
    assert versions(host) == (1, 1, 1)


def test_another_wish_takes_the_place_of_one_that_waits(host: FakeSystem) -> None:
    host.wish(System(2))
    run(host, confirm_timeout=60)
    new = host.wish(System(3))
    result = run(host, confirm_timeout=60, token="t2")
    assert f"go back to {System(1).path} after 60 s unless confirmed" in result.actions
    with pytest.raises(FleetError, match="another run has taken its place"):
        look(host, confirm=True)
    host.elapse()
    assert versions(host) == (1, 1, 1)
    result = run(host)
    assert result.actions[-1] == f"switch to {new.path}"


def test_another_wish_without_a_confirmation_takes_the_place_of_one_that_waits(host: FakeSystem) -> None:
    two = host.wish(System(2))
    run(host, confirm_timeout=60)
    host.wish(System(3))
    assert run(host).actions[-1] == f"no longer wait for {two.path} to be confirmed"
    assert not host.armed()
    assert versions(host) == (3, 3, 3)
    clean(host)


def test_a_run_waits_while_the_host_goes_back(host: FakeSystem) -> None:
    host.wish(System(2))
    run(host, confirm_timeout=60)
    service = next(name for name in host.units if name.endswith(".service") and name != ACTIVATION)
    host.units[service].active, host.units[service].sub = "active", "running"
    with pytest.raises(Busy, match=f"the host is going back to {System(1).path}.*systemctl status {service}"):
        run(host)
    with pytest.raises(FleetError, match="and the host is going back to"):
        look(host, confirm=True)


def test_the_host_goes_back_at_the_moment_of_the_confirmation(host: FakeSystem) -> None:
    host.wish(System(2))
    run(host, confirm_timeout=60)

    def late(argv: tuple[str, ...]) -> None:
        if argv[:2] == ("systemctl", "stop") and argv[2].endswith(".timer"):
            host.elapse()

    host.before = late
    with pytest.raises(FleetError, match="confirm_timeout: its time was over: the host went back from"):
        look(host, confirm=True)
    assert versions(host) == (1, 1, 1)


def test_a_host_that_could_not_go_back(host: FakeSystem) -> None:
    host.systems[System(1).path] = System(1, "script")
    host.wish(System(2))
    run(host, confirm_timeout=60)
    host.elapse()
    with pytest.raises(FleetError, match=r"and going back to \S+ failed. See: systemctl status"):
        look(host)
    assert run(host).actions[-1].startswith("switch to")
    assert versions(host) == (2, 2, 2)


def test_a_host_that_runs_nothing_that_is_known(host: FakeSystem) -> None:
    host.wish(System(2))
    os.unlink(host.paths.running)
    with pytest.raises(InvalidWish, match="nothing runs that the host could go back to"):
        run(host, confirm_timeout=60)
    assert run(host).after["running"] == System(2).path


def test_systemd_that_is_silent_for_a_while(host: FakeSystem) -> None:
    host.wish(System(2, "slow"))
    looks = []

    def execute_anew(seconds: float) -> None:
        looks.append(seconds)
        host.broken = {"systemctl show": (1, "", "Failed to connect to bus")} if len(looks) < 3 else {}
        if len(looks) == 4:
            host.finish()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", execute_anew)
        run(host)
    assert versions(host) == (2, 2, 2)


def test_what_does_not_end_is_told(host: FakeSystem) -> None:
    host.wish(System(2, "slow"))
    clock = iter(range(0, 100000, 500))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: next(clock))
        with pytest.raises(FleetError, match=f"the unit {ACTIVATION} has not ended .active.. See: systemctl status"):
            run(host)


def test_it_goes_on_when_its_terminal_is_gone(host: FakeSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    ignored = []
    monkeypatch.setattr(signal, "signal", lambda number, action: ignored.append((number, action)))
    run(host, check=True)
    assert not ignored
    run(host)
    assert ignored == [(signal.SIGHUP, signal.SIG_IGN)]
