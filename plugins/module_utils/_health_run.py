# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting until guests are healthy, all of them at once.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import time
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils import _systemd
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import Health
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import Unit

# Seconds between two looks at units and journals.
ROUND: t.Final = 0.5


def await_healthy(
    commands: Commands,
    healths: t.Mapping[str, Health],
    *,
    started: t.Mapping[str, float],
    progress: t.Callable[[str, str | None], None] | None = None,
    clock: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> dict[str, str | None]:
    """Wait until each guest of *healths* is healthy or will not be: None, or the reason in words.

    *started* says when each was started, in seconds of CLOCK_MONOTONIC.  *progress* is called for each guest as soon
    as it is decided about.  Raises CommandError when the units of the host cannot be read.
    """
    verdicts: dict[str, str | None] = {}
    since: dict[str, float] = {}
    while len(verdicts) < len(healths):
        units = _systemd.show(commands)
        now = clock()
        for name, health in healths.items():
            if name in verdicts:
                continue
            unit = units.get(name, Unit())
            if unit.active_state == "failed" or unit.restarts:
                verdicts[name] = f"its unit is {unit.active_state} ({unit.result})"
            elif not unit.active:
                since.pop(name, None)
                if now - started[name] >= health.healthy_deadline:
                    verdicts[name] = f"its unit is {unit.active_state} after {health.healthy_deadline} s"
            elif now - since.setdefault(name, now) >= health.min_healthy_time:
                verdicts[name] = None
            if name in verdicts and progress is not None:
                progress(name, verdicts[name])
        if len(verdicts) < len(healths):
            sleep(ROUND)
    return verdicts
