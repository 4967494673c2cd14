# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Carrying out the steps for a host's own system: build, profile, boot loader, activation, and the way back.

Private to the collection: it may change at any time.

A system is activated by a unit of systemd, and so outside of the session that asked for it: neither a lost connection
nor the death of this process ends it half way.  What was begun is in the journal before it is begun.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
import typing as t
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _nix
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands, last_lines
from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy, CommandError, FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._system_observe import (
    ACTIVATION,
    Observed,
    Pending,
    SystemPaths,
    UnitState,
    describe_activation,
    described,
    failed_units,
    read_journal,
    show_units,
    store_target,
)
from ansible_collections.microvm.fleet.plugins.module_utils._system_plan import Wished
from ansible_collections.microvm.fleet.plugins.module_utils._system_wish import Limits

LOG_LINES: t.Final = 20
# Seconds between two looks at a unit, and how long systemd may be silent: it executes itself anew in some activations.
_LOOK: t.Final = 0.2
_SILENCE: t.Final = 60.0
# The answer of this call is on its way before the activation changes the network.
_AHEAD: t.Final = "1"

# switch-to-configuration ends with these (pkgs/by-name/sw/switch-to-configuration-ng of nixpkgs, and its ancestor in
# Perl): 1 also for errors of its own, 100 when only a reboot helps, or an errno(3).
_MEANINGS: t.Final = {
    1: "a check before the activation, the boot loader, or the activation itself failed",
    2: "the activation script failed",
    3: "systemd did not take the new units",
    4: "units failed",
    100: "the system cannot take the place of the one that runs; mode boot and a reboot bring it into use",
}
_UNITS_FAILED: t.Final = 4
_LOCKED: t.Final = "Could not acquire lock"


@dataclass(frozen=True)
class Verdict:
    """How an activation ended.  *excuse* is why a status other than 0 does not count."""

    ok: bool
    seen: str = ""
    log: str = ""
    excuse: str | None = None


def judge(unit: UnitState, log: str, failed_before: t.Collection[str], limit: int) -> Verdict:
    """What the ended *unit* and its *log* say.

    Units that had failed before are no reason to go back: starting the targets anew makes them fail anew, and a host
    with one of them could never be switched.
    """
    end = last_lines(log, LOG_LINES)
    if unit.done:
        return Verdict(ok=True, log=end)
    if unit.active_state == "inactive":
        return Verdict(ok=False, seen="was stopped before its end", log=end)
    if unit.result == "timeout":
        return Verdict(ok=False, seen=f"did not end within {limit} s", log=end)
    if unit.result not in ("exit-code", "success"):
        return Verdict(ok=False, seen=f"was ended ({unit.result})", log=end)
    if unit.status == _UNITS_FAILED:
        blamed = blamed_units(log)
        if blamed and blamed <= set(failed_before):
            names = ", ".join(sorted(blamed))
            return Verdict(ok=True, log=end, excuse=f"units that had failed before still fail: {names}.")
    meaning = _MEANINGS.get(unit.status)
    return Verdict(ok=False, seen=f"ended with {unit.status}" + (f" ({meaning})" if meaning else ""), log=end)


_FAILED_LIST: t.Final = re.compile(r"^warning: the following units failed: (.+)$", re.MULTILINE)
_FAILED_JOB: t.Final = re.compile(r"^Failed to (?:start|restart|reload|stop) (\S+?):?(?: .*)?$", re.MULTILINE)
# What fails with the same status and names no unit.
_FAILED_OTHER: t.Final = re.compile(
    r"^warning: user activation for \S+ failed$|^Failed to [a-z]+ user unit", re.MULTILINE
)


def blamed_units(log: str) -> set[str]:
    """Units that switch-to-configuration says have failed; empty when something else failed too."""
    if _FAILED_OTHER.search(log):
        return set()
    listed = {name.strip() for names in _FAILED_LIST.findall(log) for name in names.split(",")}
    return listed | set(_FAILED_JOB.findall(log))


class Apply:
    """Changes one host.  The caller holds the lock."""

    def __init__(self, paths: SystemPaths, commands: Commands, limits: Limits, *, subject: str, boot_id: str) -> None:
        self.paths = paths
        self.commands = commands
        self.limits = limits
        self.subject = subject
        self.journal = read_journal(paths)
        # What only memory knew is gone with the boot in which it was written.
        self.stale = self.journal.boot_id not in ("", boot_id)
        if self.stale:
            self.journal = replace(self.journal, activating=None, failed_before=(), pending=None)
        self.journal = replace(self.journal, boot_id=boot_id)
        self.warnings: list[str] = []

    def note(self, **changes: t.Any) -> None:
        """Put *changes* into the journal, on the disk before what follows."""
        self.journal = replace(self.journal, **changes)
        os.makedirs(os.path.dirname(self.paths.journal), mode=0o700, exist_ok=True)
        _files.write_file(self.paths.journal, self.journal.text(), mode=0o600)

    # The steps

    def root(self, link: str, system: str) -> None:
        """Keep *system* from the garbage collector."""
        os.makedirs(os.path.dirname(link), mode=0o755, exist_ok=True)
        _files.write_link(link, system)

    def _release(self) -> None:
        """Keep nothing more from the garbage collector: what runs, and links of the profile, are roots themselves."""
        for link in (self.paths.next_root, self.paths.previous_root):
            if _files.read_link(link) is not None:
                _files.remove(link)

    def build(self, wished: Wished) -> None:
        """Build or fetch the system.  Raises CommandError with the end of the log of what failed."""
        wanted = {wished.path: wished.derivation}
        for error in _nix.build(self.commands, wanted, timeout=self.limits.build).values():
            raise CommandError(
                error.seen,
                subject=self.subject,
                field="flake",
                argv=error.argv,
                rc=error.rc,
                stdout=error.stdout,
                stderr=error.stderr,
            ) from error

    def set_profile(self, system: str) -> None:
        """Make *system* the current generation of the profile (nix-env(1), --set)."""
        self.note(boot_loader=system)
        argv = ["nix-env", "--profile", self.paths.profile, "--set", system]
        self.commands.run(argv, timeout=300, subject=self.subject)

    def activate(self, system: str, verb: str, *, before: Observed) -> None:
        """Run ``switch-to-configuration VERB`` of *system* and wait.  When it fails, go back and raise FleetError."""
        self._not_theirs()
        failed = failed_units(self.commands) if verb != "boot" else ()
        changes: dict[str, t.Any] = {} if verb == "boot" else {"activating": system, "failed_before": failed}
        self.note(**changes)
        self._start(system, verb)
        verdict = self._wait(failed)
        if not verdict.ok:
            self._back(system, verb, verdict, before)
        if verdict.excuse:
            self.warnings.append(verdict.excuse)
        self.note(activating=None, **({} if verb == "test" else {"boot_loader": None}))
        self._clean(ACTIVATION)

    def arm(self, old: str, new: str, *, mode: str, timeout: int, token: str) -> Pending:
        """Have the host activate *old* after *timeout* seconds, and note that it will; what was armed before goes."""
        former = self.journal.pending
        goes_back_at = datetime.now(timezone.utc) + timedelta(seconds=timeout)
        pending = Pending(
            token=token,
            old=old,
            new=new,
            mode=mode,
            until=time.monotonic() + timeout,
            goes_back_at=goes_back_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        self.root(self.paths.previous_root, old)
        self._not_theirs()
        failed = failed_units(self.commands)
        log = self.paths.revert_log(token)
        os.makedirs(os.path.dirname(log), mode=0o755, exist_ok=True)
        self.note(pending=pending, activating=new, failed_before=failed)
        argv = [
            *self._unit(pending.service, "test", old, log),
            f"--on-active={timeout}",
            "--timer-property=AccuracySec=1s",
            # An activation that still runs then is ended first, for only one can be at work.  A dependency between the
            # units would do it too, and would keep systemd from forgetting the activation: its name would not be free.
            f"--property=ExecStartPre=-{self._systemctl()} stop {ACTIVATION}",
            # Going back is not refused.
            "--setenv=NIXOS_NO_CHECK=1",
            f"{old}/bin/switch-to-configuration",
            "test",
        ]
        self.commands.run(argv, subject=self.subject)
        if former is not None:
            self._forget(former)
        return pending

    def launch(self, system: str) -> None:
        """Activate *system* and do not wait: the connection of this call may not outlive it."""
        self._start(system, "test", ahead=True)

    def adopt(self, *, mode: str) -> Pending | None:
        """The pending system, to be brought to an end in *mode* by the run that found it."""
        if self.journal.pending is not None:
            self.note(pending=replace(self.journal.pending, mode=mode))
        return self.journal.pending

    def wait_for_pending(self) -> Verdict:
        """How the activation of the pending system has ended, after waiting for it."""
        return self._wait(self.journal.failed_before)

    def verdict(self, unit: UnitState) -> Verdict:
        """How the activation that the journal knows has ended."""
        return self._verdict(unit, self.journal.failed_before)

    def confirm(self) -> None:
        """Stay with the pending system.  Raises FleetError when the host has begun to go back meanwhile."""
        pending = self.journal.pending
        if pending is None:
            return
        self._disarm(pending)
        (revert,) = show_units(self.commands, pending.service)
        if revert.running or revert.failed or os.path.exists(self.paths.revert_log(pending.token)):
            raise FleetError(
                f"its time was over: the host went back from {pending.new} to {pending.old}.",
                subject=self.subject,
                field="confirm_timeout",
                hint="Raise confirm_timeout: it has to last for the activation and a new connection.",
            )
        # From here on nothing goes back by itself, but a reboot does until the boot loader is told.
        boots = {"boot_loader": pending.new} if pending.mode == "switch" else {}
        self.note(pending=None, activating=None, confirmed=pending.token, **boots)
        self._clean(ACTIVATION)

    def disarm(self) -> None:
        """Forget a pending system that is not in use any more."""
        if self.journal.pending is not None:
            self._forget(self.journal.pending)
            self.note(pending=None)

    def return_now(self, verdict: Verdict) -> None:
        """Go back from a pending system that failed, by the unit that would do it later.  Raises FleetError."""
        pending = self.journal.pending
        if pending is None:
            raise AssertionError("nothing is pending")
        self.commands.run(["systemctl", "start", "--no-block", pending.service], subject=self.subject)
        unit = self._settled(pending.service, os.path.exists, self.paths.revert_log(pending.token))
        self._disarm(pending)
        went = not unit.failed or unit.status == _UNITS_FAILED
        if went:
            self._clean(pending.service)
            self._clean(ACTIVATION)
            self.note(pending=None, activating=None)
            self._release()
        log = last_lines(_files.read_text(self.paths.revert_log(pending.token)) or "", LOG_LINES)
        self._complain(pending.new, "test", verdict, _Way(pending.old, ok=went, log=log))

    def tidy(self, observed: Observed) -> None:
        """Forget what is of no use any more; nothing of the host's systems changes."""
        journal = self.journal
        state = observed.pending_state
        if journal.pending is not None and state in ("returned", "unarmed"):
            self._forget(journal.pending)
            journal = replace(journal, pending=None)
        if journal.activating is not None and observed.interrupted is None and not observed.activation.running:
            journal = replace(journal, activating=None, failed_before=())
        if observed.activation.done and journal.pending is None:
            verb, system = described(observed.activation)
            if verb != "test" and journal.boot_loader == system:
                journal = replace(journal, boot_loader=None)
            self._clean(ACTIVATION)
        if journal.boot_loader is not None and journal.boot_loader != observed.profile:
            journal = replace(journal, boot_loader=None)
        if journal != self.journal or self.stale:
            self.journal = journal
            self.note()
        if journal.pending is None:
            self._release()
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        """Remove what a killed run left beside its files."""
        paths = self.paths
        for path in (paths.journal, paths.next_root, paths.previous_root, paths.activation_log):
            directory, name = os.path.split(path)
            for entry in os.listdir(directory) if os.path.isdir(directory) else ():
                if entry.startswith(f"{_files.TEMPORARY}{name}."):
                    _files.remove(os.path.join(directory, entry))

    # The unit that activates

    def _unit(self, name: str, verb: str, system: str, log: str) -> list[str]:
        argv = [
            "systemd-run",
            "--quiet",
            "--no-ask-password",
            f"--unit={name}",
            f"--description={describe_activation(verb, system)}",
            "--service-type=exec",
            f"--property=RuntimeMaxSec={self.limits.activate}",
            "--property=TimeoutStopSec=30",
            f"--property=StandardOutput=append:{log}",
            f"--property=StandardError=append:{log}",
        ]
        if "LOCALE_ARCHIVE" in os.environ:
            argv.append(f"--setenv=LOCALE_ARCHIVE={os.environ['LOCALE_ARCHIVE']}")
        return argv

    def _systemctl(self) -> str:
        """The program itself, and not a link of the system that is to be left."""
        found = self.commands.find("systemctl") or "systemctl"
        real = os.path.realpath(found)
        return real if os.path.basename(real) == "systemctl" else found

    def _start(self, system: str, verb: str, *, ahead: bool = False, unchecked: bool = False) -> None:
        self._clean(ACTIVATION)
        log = self.paths.activation_log
        os.makedirs(os.path.dirname(log), mode=0o755, exist_ok=True)
        _files.write_file(log, "", mode=0o600)
        argv = [
            *self._unit(ACTIVATION, verb, system, log),
            "--no-block",
            # It is there to be seen when it has ended well; one that failed is so anyway.
            "--property=RemainAfterExit=yes",
        ]
        sleep = self.commands.find("sleep") if ahead else None
        if sleep is not None:
            argv.append(f"--property=ExecStartPre={sleep} {_AHEAD}")
        if unchecked:
            argv.append("--setenv=NIXOS_NO_CHECK=1")
        self.commands.run([*argv, f"{system}/bin/switch-to-configuration", verb], subject=self.subject)

    def _wait(self, failed_before: t.Collection[str]) -> Verdict:
        return self._verdict(self._settled(ACTIVATION), failed_before)

    def _verdict(self, unit: UnitState, failed_before: t.Collection[str]) -> Verdict:
        log = _files.read_text(self.paths.activation_log) or ""
        return judge(unit, log, failed_before, self.limits.activate)

    def _settled(self, name: str, begun: t.Callable[[str], bool] | None = None, path: str = "") -> UnitState:
        """The unit when no process of it is at work; with *begun*, not before that says so of *path*."""
        deadline = time.monotonic() + self.limits.activate + _SILENCE
        silent_since: float | None = None
        while True:
            try:
                (unit,) = show_units(self.commands, name)
            except CommandError:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > _SILENCE:
                    raise
            else:
                silent_since = None
                started = begun is None or begun(path) or unit.failed
                if started and not unit.running:
                    return unit
                if time.monotonic() > deadline:
                    raise FleetError(
                        f"the unit {name} has not ended ({unit.active_state}).",
                        subject=self.subject,
                        hint=f"See: systemctl status {name}",
                    )
            time.sleep(_LOOK)

    def _clean(self, unit: str) -> None:
        """Let systemd forget an ended unit, so that its name is free."""
        self.commands.run(["systemctl", "stop", unit], check=False)
        self.commands.run(["systemctl", "reset-failed", unit], check=False)

    def _disarm(self, pending: Pending) -> None:
        """Stop the timer of *pending*; its service, if it is at work already, is left alone."""
        self.commands.run(["systemctl", "stop", pending.timer], check=False)

    def _forget(self, pending: Pending) -> None:
        """Leave nothing of a *pending* system that nobody waits for any more."""
        self._disarm(pending)
        self._clean(pending.service)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.paths.revert_log(pending.token))

    def _not_theirs(self) -> None:
        """Raise Busy while another tool, such as nixos-rebuild, activates a system."""
        try:
            handle = os.open(self.paths.their_lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._theirs() from None
        finally:
            os.close(handle)

    def _theirs(self) -> Busy:
        return Busy(
            f"another switch-to-configuration is at work (it holds {self.paths.their_lock}).",
            subject=self.subject,
            hint="Wait for it to end.",
        )

    # The way back

    def _back(self, system: str, verb: str, verdict: Verdict, before: Observed) -> t.NoReturn:
        """Bring back what *before* had, and raise FleetError that says what failed and where the host is now."""
        if before.profile is not None and before.generation is not None:
            current = store_target(self.paths, self.paths.profile)
            if current != before.profile:
                self._switch_generation(before.generation)
        if _LOCKED in verdict.log:
            self.note(activating=None, boot_loader=None)
            self._clean(ACTIVATION)
            raise self._theirs()
        ways = []
        boots = before.profile if verb != "test" else None
        runs = (
            before.running if verb != "boot" or store_target(self.paths, self.paths.running) != before.running else None
        )
        if boots is not None and boots == runs:
            ways.append(self._way(boots, "switch"))
        else:
            ways += [self._way(each, how) for each, how in ((boots, "boot"), (runs, "test")) if each is not None]
        bad = next((way for way in ways if not way.ok), None)
        if bad is None:
            self.note(activating=None, boot_loader=None)
            self._clean(ACTIVATION)
            self._release()
        self._complain(system, verb, verdict, bad or (ways[-1] if ways else None))

    def _switch_generation(self, number: int) -> None:
        argv = ["nix-env", "--profile", self.paths.profile, "--switch-generation", str(number)]
        self.commands.run(argv, timeout=300, subject=self.subject)

    def _way(self, system: str, verb: str) -> _Way:
        try:
            self._start(system, verb, unchecked=True)
            unit = self._settled(ACTIVATION)
        except FleetError as error:
            return _Way(system, ok=False, log=error.text())
        verdict = self._verdict(unit, ())
        # With units that fail, all the rest of the system is in use.
        return _Way(system, ok=verdict.ok or unit.status == _UNITS_FAILED, log=verdict.log)

    def _complain(self, system: str, verb: str, verdict: Verdict, way: _Way | None) -> t.NoReturn:
        seen = [f"switch-to-configuration {verb} of {system} {verdict.seen}."]
        if way is None:
            seen.append("There is nothing to go back to.")
        elif way.ok:
            seen.append(f"The host went back to {way.system}.")
        else:
            seen.append(
                f"Going back to {way.system} failed too: repair the host, or reboot it."
                f" By hand: {way.system}/bin/switch-to-configuration switch"
            )
            if way.log:
                seen.append(f"Going back said at last:\n{way.log}\n")
        if verdict.log:
            seen.append(f"The activation said at last:\n{verdict.log}")
        raise FleetError(" ".join(seen), subject=self.subject)


@dataclass(frozen=True)
class _Way:
    """A way back that was tried."""

    system: str
    ok: bool
    log: str
