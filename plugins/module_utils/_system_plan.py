# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a wish and a host to the steps that make the host as wished.  Pure: no I/O.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._system_observe import Facts, Observed, described
from ansible_collections.microvm.fleet.plugins.module_utils._system_wish import SystemWish


@dataclass(frozen=True)
class Wished:
    """The system as the flake gives it: where it will be, what builds it, and what it says if it is in the store."""

    path: str
    derivation: str
    facts: Facts | None = None


@dataclass(frozen=True)
class Build:
    """Build or fetch the system."""

    path: str

    def words(self) -> str:
        """The step for an operator."""
        return f"build {self.path}"


@dataclass(frozen=True)
class SetProfile:
    """Make the system the newest generation of the profile."""

    path: str

    def words(self) -> str:
        """The step for an operator."""
        return f"set the system profile to {self.path}"


@dataclass(frozen=True)
class InstallBoot:
    """Let the boot loader start the system."""

    path: str

    def words(self) -> str:
        """The step for an operator."""
        return f"let the boot loader start {self.path}"


@dataclass(frozen=True)
class Arm:
    """Have the host go back to *old* by itself after *timeout* seconds."""

    old: str
    timeout: int

    def words(self) -> str:
        """The step for an operator."""
        return f"go back to {self.old} after {self.timeout} s unless confirmed"


@dataclass(frozen=True)
class Activate:
    """Run the system: ``switch`` (and let the boot loader start it) or ``test``."""

    path: str
    verb: str

    def words(self) -> str:
        """The step for an operator."""
        return f"{'switch to' if self.verb == 'switch' else 'activate'} {self.path}"


@dataclass(frozen=True)
class Confirm:
    """Stay with the system, over a connection that was opened after its activation."""

    path: str

    def words(self) -> str:
        """The step for an operator."""
        return f"confirm {self.path}"


@dataclass(frozen=True)
class Disarm:
    """Do not go back: what was to be left is not in use any more."""

    path: str

    def words(self) -> str:
        """The step for an operator."""
        return f"no longer wait for {self.path} to be confirmed"


Step = t.Union[Build, SetProfile, InstallBoot, Arm, Activate, Confirm, Disarm]


@dataclass(frozen=True)
class Plan:
    """What is to be done, in this order."""

    wish: SystemWish
    wished: Wished
    observed: Observed
    steps: tuple[Step, ...]

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.steps)

    @property
    def actions(self) -> list[str]:
        """The steps for an operator."""
        return [step.words() for step in self.steps]

    @property
    def in_flight(self) -> bool:
        """Whether the system was activated by an earlier run, and waits for its confirmation."""
        return in_flight(self.wished, self.observed)

    @property
    def before(self) -> dict[str, t.Any]:
        """The host as it is."""
        return picture(self.observed, self.wish, self.wished)

    @property
    def after(self) -> dict[str, t.Any]:
        """The host as it will be."""
        now = self.before
        for step in self.steps:
            if isinstance(step, Activate):
                now["running"] = step.path
            elif isinstance(step, SetProfile):
                now["profile"] = step.path
                now["generation"] = _next_generation(self.observed, step.path)
        now.update(pending=None, reverted=False)
        now["reboot_needed"] = _reboot_needed(self.wish, self.wished, self.observed, running=now["running"])
        return now


def make(wish: SystemWish, wished: Wished, observed: Observed) -> Plan:
    """The plan.

    Raises Busy while the host goes back or activates something else, InvalidWish for a system that cannot be put
    in the place of the one that runs.
    """
    busy(observed, wished, wish.subject)
    steps: list[Step] = []
    if wished.facts is None:
        steps.append(Build(wished.path))
    if in_flight(wished, observed):
        if wish.mode != "boot":
            steps.append(Confirm(wished.path))
        return Plan(wish, wished, observed, (*steps, *boot_steps(wish, wished, observed)))
    activates = wish.mode != "boot" and (observed.running != wished.path or observed.interrupted is not None)
    if activates and _needs_reboot(wished, observed):
        if wish.mode == "test" or wish.confirm_timeout:
            raise InvalidWish(
                f"{wished.path} cannot take the place of the system that runs: their init-interface-version differs.",
                subject=wish.subject,
                field="mode",
                hint="Use mode boot without confirm_timeout, and reboot the host.",
            )
        activates = False
    if not activates:
        return Plan(wish, wished, observed, (*steps, *boot_steps(wish, wished, observed)))
    pending = observed.journal.pending if observed.pending_state == "armed" else None
    if wish.confirm_timeout:
        # Where the host goes back to is what was confirmed last.
        old = pending.old if pending else observed.running
        if old is None:
            raise InvalidWish(
                "nothing runs that the host could go back to: /run/current-system leads nowhere.",
                subject=wish.subject,
                field="confirm_timeout",
                hint="Activate a system once without it.",
            )
        steps += [Arm(old, wish.confirm_timeout), Activate(wished.path, "test"), Confirm(wished.path)]
        return Plan(wish, wished, observed, (*steps, *boot_steps(wish, wished, observed)))
    if wish.mode == "switch" and observed.profile != wished.path:
        steps.append(SetProfile(wished.path))
    steps.append(Activate(wished.path, wish.mode))
    if pending:
        steps.append(Disarm(pending.new))
    return Plan(wish, wished, observed, tuple(steps))


def busy(observed: Observed, wished: Wished | None, subject: str) -> None:
    """Raise Busy while the host is at something that a run must not disturb."""
    pending = observed.journal.pending
    if pending is not None and observed.pending_state == "returning":
        raise Busy(
            f"the host is going back to {pending.old}, for nobody confirmed {pending.new}.",
            subject=subject,
            hint=f"Wait for it to end: systemctl status {pending.service}",
        )
    if observed.activation.running and not (wished is not None and in_flight(wished, observed)):
        _verb, system = described(observed.activation)
        raise Busy(
            f"{system or 'a system'} is being activated.",
            subject=subject,
            field="lock_timeout",
            hint="Wait for it to end, or raise lock_timeout. It is the unit microvm-fleet-system-activation.service.",
        )


def in_flight(wished: Wished, observed: Observed) -> bool:
    """Whether *wished* was activated, or is being activated, and waits for its confirmation."""
    pending = observed.journal.pending
    return (
        pending is not None
        and observed.pending_state == "armed"
        and pending.new == wished.path
        and described(observed.activation)[1] == wished.path
        and (observed.activation.running or (observed.activation.done and observed.running == wished.path))
    )


def boot_steps(wish: SystemWish, wished: Wished, observed: Observed) -> list[Step]:
    """What makes the next boot start *wished*."""
    if wish.mode == "test":
        return []
    if observed.profile != wished.path:
        return [SetProfile(wished.path), InstallBoot(wished.path)]
    # The profile is set first, for boot loaders offer its generations; so a run may have ended in between.
    if observed.journal.boot_loader == wished.path and not _boot_done(observed, wished.path):
        return [InstallBoot(wished.path)]
    return []


def _boot_done(observed: Observed, path: str) -> bool:
    verb, system = described(observed.activation)
    return observed.same_boot and observed.activation.done and system == path and verb in ("switch", "boot")


def _needs_reboot(wished: Wished, observed: Observed) -> bool:
    """Whether switch-to-configuration would refuse, with its status 100, to replace the system that runs."""
    new, old = wished.facts, observed.running_facts
    return new is not None and old is not None and new.interface != old.interface


def kernel_changed(observed: Observed, wished: Wished) -> bool | None:
    """Whether the wished system has another kernel than the one that runs; None while that is not known."""
    if observed.booted == wished.path:
        return False
    if wished.facts is None or observed.booted_facts is None:
        return None
    return wished.facts.boot != observed.booted_facts.boot


def _next_generation(observed: Observed, path: str) -> int:
    """The number that nix-env gives: that of the newest generation if it is the same, else one more."""
    if not observed.generations:
        return 1
    number, newest = observed.generations[-1]
    return number if newest == path else number + 1


def picture(observed: Observed, wish: SystemWish, wished: Wished) -> dict[str, t.Any]:
    """The host's systems, as a module returns them."""
    pending = observed.journal.pending if observed.pending_state in ("armed", "returning") else None
    return {
        "running": observed.running,
        "booted": observed.booted,
        "profile": observed.profile,
        "generation": observed.generation,
        "wished": wished.path,
        "pending": None
        if pending is None
        else {"system": pending.new, "previous": pending.old, "goes_back_at": pending.goes_back_at},
        "reverted": observed.reverted,
        "reboot_needed": _reboot_needed(wish, wished, observed, running=observed.running),
    }


def _reboot_needed(wish: SystemWish, wished: Wished, observed: Observed, *, running: str | None) -> bool | None:
    """Whether only a reboot brings all of *wished* into use, with *running* in use; None while that is not known."""
    if running != wished.path and (wish.mode == "boot" or _needs_reboot(wished, observed)):
        return True
    return kernel_changed(observed, wished)
