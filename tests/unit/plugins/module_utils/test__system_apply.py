# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the end of an activation means."""

from __future__ import annotations

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._system_apply import blamed_units, judge
from ansible_collections.microvm.fleet.plugins.module_utils._system_observe import UnitState

ENDED = UnitState("active", "exited")


def failed(status: int, result: str = "exit-code") -> UnitState:
    return UnitState("failed", "failed", result, status)


@pytest.mark.parametrize(
    ("unit", "seen"),
    [
        (failed(1), "ended with 1 (a check before the activation, the boot loader, or the activation itself failed)"),
        (failed(2), "ended with 2 (the activation script failed)"),
        (failed(3), "ended with 3 (systemd did not take the new units)"),
        (failed(4), "ended with 4 (units failed)"),
        (failed(100), "ended with 100 (the system cannot take the place of the one that runs;"),
        (failed(77), "ended with 77"),
        (failed(0, "timeout"), "did not end within 900 s"),
        (failed(0, "signal"), "was ended (signal)"),
        (failed(0, "oom-kill"), "was ended (oom-kill)"),
        (UnitState(), "was stopped before its end"),
    ],
)
def test_what_is_told(unit: UnitState, seen: str) -> None:
    verdict = judge(unit, "said\n", (), 900)
    assert not verdict.ok
    assert verdict.seen.startswith(seen)
    assert verdict.log == "said"


def test_a_good_end() -> None:
    verdict = judge(ENDED, "".join(f"line {number}\n" for number in range(1, 31)), (), 900)
    assert (verdict.ok, verdict.excuse) == (True, None)
    assert verdict.log.splitlines() == [f"line {number}" for number in range(11, 31)]


@pytest.mark.parametrize(
    ("log", "units"),
    [
        ("warning: the following units failed: a.service, b.mount\n", {"a.service", "b.mount"}),
        ("Failed to start a.service\n", {"a.service"}),
        (
            "Failed to restart a.service: Unit is masked.\nwarning: the following units failed: b.service\n",
            {"a.service", "b.service"},
        ),
        ("Failed to reload a.service: Job type reload is not applicable\n", {"a.service"}),
        ("warning: user activation for alice failed\nwarning: the following units failed: a.service\n", set()),
        ("Failed to restart user unit b.service\nFailed to start a.service\n", set()),
        ("setting up /etc...\n", set()),
    ],
)
def test_units_that_are_blamed(log: str, units: set[str]) -> None:
    assert blamed_units(log) == units


@pytest.mark.parametrize(
    ("status", "log", "before", "ok"),
    [
        (4, "warning: the following units failed: a.service\n", ["a.service", "b.service"], True),
        (4, "warning: the following units failed: a.service, c.service\n", ["a.service"], False),
        (4, "warning: the following units failed: a.service\n", [], False),
        (4, "", ["a.service"], False),
        (2, "warning: the following units failed: a.service\n", ["a.service"], False),
    ],
)
def test_what_had_failed_before_does_not_count(status: int, log: str, before: list[str], ok: bool) -> None:
    verdict = judge(failed(status), log, before, 900)
    assert verdict.ok is ok
    assert (verdict.excuse is not None) is ok
