# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A run for a host's system that is killed anywhere is finished by the next, or the host goes back."""

from __future__ import annotations

import itertools
import os
import signal
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _files
from ansible_collections.microvm.fleet.plugins.module_utils._system_run import Result, converge, follow
from ansible_collections.microvm.fleet.plugins.module_utils._system_wish import Limits, SystemWish
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import Killer
from ansible_collections.microvm.fleet.tests.unit.support.fakesystem import NAME, FakeSystem, System

TOKENS = itertools.count()
PROCESSES = itertools.count(1000)
WISHES: dict[str, dict[str, t.Any]] = {
    "switch": {},
    "test": {"mode": "test"},
    "boot": {"mode": "boot"},
    "confirm": {"confirm_timeout": 60},
    "confirm test": {"mode": "test", "confirm_timeout": 60},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda number, action: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def run(host: FakeSystem, wish: dict[str, t.Any]) -> Result:
    """As the action plugin does it: the module, and the module again over a new connection."""
    process = next(PROCESSES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: process)
        options: dict[str, t.Any] = {"paths": host.paths, "commands": host, "limits": Limits(lock=0)}
        asked = SystemWish(name=NAME, **wish)
        result = converge(asked, **options, token=f"t{next(TOKENS)}", check=False, diff=False)
        if result.confirm is not None:
            follow(asked, **options, token=result.confirm["token"], confirm=False)
            follow(asked, **options, token=result.confirm["token"], confirm=True)
    return result


def fresh(place: Path) -> FakeSystem:
    place.mkdir()
    host = FakeSystem(place)
    host.wish(System(2))
    return host


def outcome(host: FakeSystem) -> tuple[t.Any, ...]:
    left = [place for place in host.state() if _files.TEMPORARY in place]
    roots = sorted(path.name for path in (host.root / "nix/var/nix/gcroots").glob("*/*"))
    return host.running, host.profile, host.boots_next, host.armed(), sorted(host.units), left, roots


@pytest.mark.parametrize("name", sorted(WISHES))
@pytest.mark.parametrize("then", ["run", "elapse", "boot"])
def test_a_run_killed_anywhere_is_finished_by_the_next(name: str, then: str, tmp_path: Path) -> None:
    wish = WISHES[name]
    whole = fresh(tmp_path / "whole")
    with Killer(whole, None) as counter:  # type: ignore[arg-type]
        assert run(whole, wish).changed
    assert counter.count > 10
    for at in range(counter.count):
        host = fresh(tmp_path / str(at))
        with Killer(host, at) as killer:  # type: ignore[arg-type]
            run(host, wish)
        assert killer.dead
        if then == "elapse":
            waited = host.armed()
            host.elapse()
            assert not waited or (host.running, host.profile, host.boots_next) == (1, 1, 1), f"killed at {at}"
        elif then == "boot":
            host.boot()
            assert host.running == host.boots_next, f"killed at {at}"
        # With the mode boot, what runs is what was booted, and no run changes it.
        runs = host.running if wish.get("mode") == "boot" else whole.running
        run(host, wish)
        assert not run(host, wish).changed, f"killed at {at}"
        assert outcome(host) == (runs, *outcome(whole)[1:]), f"killed at {at}"
