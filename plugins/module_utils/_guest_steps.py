# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The steps that plans for guests are made of.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Record

# Units with settings: the guest's own, and that of the daemons for its shares.
UNIT: t.Final = "microvm"
SHARES_UNIT: t.Final = "microvm-virtiofsd"


@dataclass(frozen=True)
class Step:
    """One change of one guest."""

    guest: str

    @property
    def changes(self) -> bool:
        """Whether it counts as a change of the guest, and not as bookkeeping alone."""
        return True

    def words(self) -> str:
        """The step for `actions`, the same in check mode."""
        raise NotImplementedError


@dataclass(frozen=True)
class Stage(Step):
    """Root a runner before it is built or fetched."""

    runner: str
    source: str

    def words(self) -> str:
        return f"{self.guest}: stage {self.runner}"


@dataclass(frozen=True)
class Unstage(Step):
    """Drop the staged runner: it is a generation now, or nobody wants it."""

    runner: str

    def words(self) -> str:
        return f"{self.guest}: unstage {self.runner}"


@dataclass(frozen=True)
class Describe(Step):
    """Write the guest's entry of guests.json.  *before* is what it was, for the diff."""

    description: t.Mapping[str, t.Any]
    before: t.Mapping[str, t.Any] | None

    def words(self) -> str:
        return f"{self.guest}: describe"


@dataclass(frozen=True)
class Undescribe(Step):
    """Take the guest's entry out of guests.json."""

    @property
    def changes(self) -> bool:
        return False

    def words(self) -> str:
        return f"{self.guest}: describe no more"


@dataclass(frozen=True)
class Sweep(Step):
    """Remove temporary names that a killed run left."""

    def words(self) -> str:
        return f"{self.guest}: sweep what an earlier run left"


@dataclass(frozen=True)
class Keep(Step):
    """Keep a runner as a generation."""

    number: int
    runner: str

    def words(self) -> str:
        return f"{self.guest}: keep generation {self.number}"


@dataclass(frozen=True)
class Forget(Step):
    """Drop generations that are beyond the number to be kept."""

    numbers: tuple[int, ...]

    def words(self) -> str:
        return f"{self.guest}: forget generation {', '.join(map(str, self.numbers))}"


@dataclass(frozen=True)
class Write(Step):
    """Write the record of the guest.

    With *refresh* it notes only that a newer flake gives the runner that the guest has, so that this is not
    evaluated again.
    """

    record: Record
    refresh: bool = False

    @property
    def changes(self) -> bool:
        return not self.refresh

    def words(self) -> str:
        return f"{self.guest}: write the record"


@dataclass(frozen=True)
class Create(Step):
    """Make the state directory with `current`, or complete one that has none."""

    runner: str
    flake: str | None
    complete: bool = False

    def words(self) -> str:
        return f"{self.guest}: {'complete' if self.complete else 'create'} with {self.runner}"


@dataclass(frozen=True)
class Root(Step):
    """Make the garbage collector roots that the microvm command would."""

    def words(self) -> str:
        return f"{self.guest}: root current and booted"


@dataclass(frozen=True)
class Switch(Step):
    """Move `current`."""

    runner: str
    flake: str | None

    def words(self) -> str:
        return f"{self.guest}: switch to {self.runner}"


@dataclass(frozen=True)
class Settings(Step):
    """Write the drop-in with the settings of one of the guest's units, or remove it when *text* is empty."""

    text: str
    unit: str = UNIT

    def words(self) -> str:
        said = ", ".join(self.text.split("\n")[1:-1]) or "nothing more"
        return f"{self.guest}: set {said}" + ("" if self.unit == UNIT else f" for {self.unit}@")


@dataclass(frozen=True)
class Reload(Step):
    """Let systemd read the units again after a run that died before it did."""

    def words(self) -> str:
        return f"{self.guest}: reload units"


@dataclass(frozen=True)
class Autostart(Step):
    """Start the guest at boot, or no more."""

    enable: bool

    def words(self) -> str:
        return f"{self.guest}: {'enable' if self.enable else 'disable'} autostart"


@dataclass(frozen=True)
class Mark(Step):
    """Note that the guest is to run again, before it is stopped: a run that is killed then is finished by the next."""

    @property
    def changes(self) -> bool:
        return False

    def words(self) -> str:
        return f"{self.guest}: note that it is to be started again"


@dataclass(frozen=True)
class Stop(Step):
    """Stop the guest and wait for its end."""

    def words(self) -> str:
        return f"{self.guest}: stop"


@dataclass(frozen=True)
class Start(Step):
    """Start the guest and wait until it is up and stays so."""

    def words(self) -> str:
        return f"{self.guest}: start"


@dataclass(frozen=True)
class Live(Step):
    """Activate the system *toplevel* of *runner* inside the guest, which was booted with the system *booted*.

    With *restart* the guest is restarted when that fails.
    """

    runner: str
    toplevel: str
    booted: str
    restart: bool = False

    def words(self) -> str:
        return f"{self.guest}: activate {self.toplevel} inside it"


@dataclass(frozen=True)
class Unsure(Step):
    """Note that nobody knows which system the guest has, before another one is activated inside it."""

    @property
    def changes(self) -> bool:
        return False

    def words(self) -> str:
        return f"{self.guest}: note that it is about to get another system"


@dataclass(frozen=True)
class Await(Step):
    """Wait until it is known whether the guest is healthy.  What comes after it is for one that is."""

    @property
    def changes(self) -> bool:
        return False

    def words(self) -> str:
        return f"{self.guest}: wait until it is healthy"


@dataclass(frozen=True)
class Judged(Step):
    """Note in the record that *runner* was found healthy."""

    runner: str

    @property
    def changes(self) -> bool:
        return False

    def words(self) -> str:
        return f"{self.guest}: note that {self.runner} is healthy"


@dataclass(frozen=True)
class Reject(Step):
    """Note in the record that *runner* is not to run again, why, and that the guest goes *back* to another."""

    runner: str
    back: str
    reason: str = ""

    def words(self) -> str:
        return f"{self.guest}: reject {self.runner}"


@dataclass(frozen=True)
class Discard(Step):
    """Remove the files of credentials that no unit of the guest loads, and that nobody wishes for."""

    names: tuple[str, ...]

    def words(self) -> str:
        return f"{self.guest}: discard the credential{'s' if len(self.names) > 1 else ''} {', '.join(self.names)}"


@dataclass(frozen=True)
class VolumeStep(Step):
    """A step about the volumes of the guest: see `_volume_plan`."""


@dataclass(frozen=True)
class Remove(Step):
    """Take away the state directory, roots and record; volumes are moved aside unless *purge*."""

    purge: bool

    def words(self) -> str:
        return f"{self.guest}: remove{' with its volumes' if self.purge else ', keep its volumes'}"
