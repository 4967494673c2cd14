# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest that is stopped for a while is started again by its host, whatever becomes of those who stopped it.

Private to the collection: it may change at any time.

A transient timer of systemd (systemd-run(1)) does when its time is up what the next run would do: it starts the guest
if the mark of the step `Mark` says that it is to be started, and takes the mark away.  It does so under the guest's
lock (flock(1)), so never in the middle of a run, and never after one that has decided otherwise.  The timer runs on the
host, so it needs neither the controller nor the connection.  Whoever reads the guest's files restarts it from time to
time (``hold`` of ``_stream_end.py``).
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils import _systemd
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths

# Seconds for the calls between the stop and the stream, and between the stream and the start.
LEEWAY: t.Final = 120
# Seconds for a stop without a limit of its own.
LONGEST_STOP: t.Final = 3600


def hold_of(name: str) -> str:
    """The name of the timer of guest *name*, and of its service, without their suffixes."""
    return f"microvm-fleet-resume-{name}"


def arm(commands: Commands, paths: Paths, name: str, *, after: int) -> None:
    """Have guest *name* started in *after* seconds.  Raises FleetError; then there is no timer."""
    programs = {each: commands.find(each) for each in ("flock", "find", "systemctl")}
    for program, found in programs.items():
        if found is None:
            raise FleetError(
                f"the program {program} is not on this host, and a guest that is stopped for a while needs it.",
                subject=f"guest {name}",
                field="name",
                hint="Install it.",
            )
    disarm(commands, name)
    words = [
        *(programs["flock"], os.path.join(paths.locks, f"guest-{name}")),
        *(programs["find"], paths.marks, "-mindepth", "1", "-maxdepth", "1", "-name", name),
        *("-exec", programs["systemctl"], "--no-block", "start", _systemd.unit(name), ";", "-delete"),
    ]
    commands.run(
        [
            "systemd-run",
            "--quiet",
            "--no-ask-password",
            "--collect",
            f"--unit={hold_of(name)}",
            f"--description=Start MicroVM {name} again",
            f"--on-active={after}s",
            "--timer-property=AccuracySec=1s",
            "--service-type=oneshot",
            *(str(word) for word in words),
        ],
        subject=f"guest {name}",
    )


def disarm(commands: Commands, name: str) -> None:
    """Have no timer of guest *name*, and nothing that waits for its lock."""
    # systemctl complains of units that are not there.
    commands.run(["systemctl", "stop", f"{hold_of(name)}.timer", f"{hold_of(name)}.service"], check=False)
