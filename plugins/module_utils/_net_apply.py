# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Carrying out a plan for networks, and waiting until the kernel is as wished.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import os
import time
import typing as t
from dataclasses import replace

from ansible_collections.microvm.fleet.plugins.module_utils import _files
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._net_files import NETWORKD, NetPaths
from ansible_collections.microvm.fleet.plugins.module_utils._net_observe import Observed, look, observe
from ansible_collections.microvm.fleet.plugins.module_utils._net_plan import (
    DeleteBridge,
    DeleteTable,
    Difference,
    Networkctl,
    Plan,
    RemoveFile,
    SetKernel,
    Step,
    Systemctl,
    Target,
    WriteFile,
    differences,
    links_to_mend,
)
from ansible_collections.microvm.fleet.plugins.module_utils._nft import FAMILY, TABLE

# Seconds between two looks at the kernel, and until networkd is asked once more: it gives up on a tap whose bridge
# was not there at that moment (seen with systemd 252).
_LOOK: t.Final = 0.05
_MEND: t.Final = 1.0
# Seconds until it is started again.  A bridge whose .netdev file was gone and is back is there for networkd ("File
# exists"), but never ready for taps (seen with systemd 257), as after a switch of NixOS there and back.
_RESTART: t.Final = 5.0
# Modes of directories that are made; others are the system's own.
_PRIVATE: t.Final = 0o700


class Apply:
    """Carries out steps on one host.  *timeout* in seconds is how long the kernel may take to be as wished."""

    def __init__(self, commands: Commands, paths: NetPaths, *, timeout: float) -> None:
        self.commands = commands
        self.paths = paths
        self.timeout = timeout

    def run(self, plan: Plan, before: Observed) -> Observed:
        """Carry out *plan*, wait, and return the host as it then is.

        Raises CommandError when a tool of the host fails, FleetError naming the field that is not as wished in time.
        """
        for step in plan.steps:
            self.step(step)
        self._wait(plan.target, before)
        after = observe(self.commands, self.paths)
        left = differences(plan.target, after)
        if left:
            raise self._complaint(left[0], plan.target)
        for step in plan.closing:
            self.step(step)
        return replace(after, networks=plan.target.networks, record=plan.target.record)

    def step(self, step: Step) -> None:
        """Carry out one step."""
        if isinstance(step, WriteFile):
            self._write(step)
        elif isinstance(step, RemoveFile):
            path = self.paths.at(step.path)
            _files.remove(path)
            self._tidy(os.path.dirname(path))
        elif isinstance(step, Systemctl):
            # systemd forgets failures of a unit that is gone by itself, so there may be none to reset.
            check = step.arguments[0] != "reset-failed"
            self.commands.run(["systemctl", *step.arguments], timeout=120.0, check=check, hint="See its journal.")
        elif isinstance(step, Networkctl):
            self.commands.run(["networkctl", *step.arguments])
        elif isinstance(step, DeleteBridge):
            self._delete(["ip", "link", "delete", "dev", step.bridge, "type", "bridge"], "Cannot find device")
        elif isinstance(step, DeleteTable):
            self._delete(["nft", "delete", "table", FAMILY, TABLE], "No such file or directory")
        elif isinstance(step, SetKernel):
            self._set(step)
        else:
            raise TypeError(step)

    def _write(self, step: WriteFile) -> None:
        path = self.paths.at(step.path)
        directory = os.path.dirname(path)
        private = step.mode == 0o600
        os.makedirs(os.path.dirname(directory), mode=0o755, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, _PRIVATE if private else 0o755)
        _files.write_file(path, step.text, mode=step.mode)

    def _tidy(self, directory: str) -> None:
        """Remove *directory* if it is one of ours and empty."""
        if "microvm-fleet" in directory:
            with contextlib.suppress(OSError):
                os.rmdir(directory)

    def _delete(self, argv: list[str], absent: str) -> None:
        done = self.commands.run(argv, check=False)
        if done.rc != 0 and absent not in done.stderr:
            self.commands.run(argv)

    def _set(self, step: SetKernel) -> None:
        # A file of the kernel: it cannot be replaced by a rename.  Its interface may have gone meanwhile.
        with contextlib.suppress(FileNotFoundError), open(
            os.path.join(self.paths.settings, step.key), "w", encoding="ascii"
        ) as stream:
            stream.write(step.value)

    def _wait(self, target: Target, before: Observed) -> None:
        """Look at the kernel until it is as wished, and let networkd mend what it left."""
        deadline = time.monotonic() + self.timeout
        mend = time.monotonic() + _MEND
        restart = time.monotonic() + min(_RESTART, self.timeout / 2)
        while True:
            seen = look(self.commands, self.paths, before)
            left = [one for one in differences(target, seen) if not one.field.startswith("nftables")]
            if not left:
                return
            now = time.monotonic()
            if now >= deadline:
                raise self._complaint(left[0], target)
            links = links_to_mend(target, seen, left)
            if now >= restart and any(one.field == "taps" for one in left):
                self.commands.run(["systemctl", "restart", NETWORKD], check=False)
                restart, mend = deadline, now + _MEND
            elif links and now >= mend:
                self.commands.run(["networkctl", "reconfigure", *links], check=False)
                mend = now + _MEND
            time.sleep(_LOOK)

    def _complaint(self, one: Difference, target: Target) -> FleetError:
        hint = f"See: journalctl -u systemd-networkd. The state was waited for {self.timeout:g} s."
        if one.network in target.networks:
            bridge = target.networks[one.network].bridge
            status = self.commands.run(["networkctl", "status", "--no-pager", "--lines=0", bridge], check=False)
            for line in status.stdout.splitlines():
                key, _sep, value = line.strip().partition(": ")
                if key == "Network File" and "50-microvm-fleet-" not in value:
                    hint = f"systemd-networkd configures {bridge} with {value.strip()}, which comes before ours. {hint}"
        return FleetError(one.words, subject=one.subject, field=one.field, hint=hint)
