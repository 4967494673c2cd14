# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest that is stopped for a while is started again by its host, whatever becomes of those who stopped it.

Private to the collection: it may change at any time.

A transient timer of systemd (systemd-run(1)) looks for a file when its time is up, takes it away and starts the guest.
The file is the mark of the step `Mark`, by which the next run would start it, or that of a move, by which the guest is
held.  Where there is no file, somebody has decided otherwise, and nothing is done.  It happens under the guest's lock
(flock(1)), so never in the middle of a run.  The timer runs on the host and needs neither the controller nor the
connection.  Whoever reads the guest's files restarts it from time to time (``hold`` of ``_stream_end.py``).
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


def arm(commands: Commands, paths: Paths, name: str, *, patience: int, moving: bool = False) -> None:
    """Have guest *name* started in a while, by its mark of a move with *moving*.

    That is in *patience* seconds, and the time that a stop, which is to come, may take, and a leeway.
    Raises FleetError; then there is no timer.
    """
    stop = _systemd.timeouts(commands, [name]).get(name, (None, None))[1]
    after = patience + (LONGEST_STOP if stop is None else stop) + LEEWAY
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
    directory, file = (paths.moving(), f"{name}.json") if moving else (paths.marks, name)
    words = [
        *(programs["flock"], os.path.join(paths.locks, f"guest-{name}")),
        *(programs["find"], directory, "-mindepth", "1", "-maxdepth", "1", "-name", file, "-delete"),
        # Other starts of it are none of this one's tries (systemd.unit(5), StartLimitBurst=).
        *("(", "-exec", programs["systemctl"], "reset-failed", _systemd.unit(name), ";", "-o", "-true", ")"),
        *("-exec", programs["systemctl"], "--no-block", "start", _systemd.unit(name), ";"),
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
    """Have no timer of guest *name*, and nothing that waits for its lock.  Raises FleetError when there still is."""
    units = [f"{hold_of(name)}.timer", f"{hold_of(name)}.service"]
    # systemctl complains of units that are not there.
    commands.run(["systemctl", "stop", *units], check=False)
    shown = commands.run(["systemctl", "show", "--property", "Id,ActiveState", *units]).stdout
    for values in _systemd.blocks(shown):
        if values.get("ActiveState") not in ("inactive", "failed"):
            raise FleetError(
                f"{values.get('Id')} is {values.get('ActiveState')}, and could start the guest at any time.",
                subject=f"guest {name}",
                field="name",
                hint="See why systemd does not stop it, and run again.",
            )
