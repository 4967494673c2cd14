# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where things are on a host.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

STORE: t.Final = "/nix/store"


@dataclass(frozen=True)
class Paths:
    """All paths that the guest engine reads or writes, below *root* (``/`` but in unit tests)."""

    root: str = "/"

    def _at(self, path: str) -> str:
        return os.path.join(self.root, path)

    @property
    def guests(self) -> str:
        """The state directories of all guests (microvm.nix: ``microvm.stateDir``)."""
        return self._at("var/lib/microvms")

    @property
    def kept(self) -> str:
        """Volumes of guests that were removed; in the state root, so that keeping them is one rename."""
        return self._at("var/lib/microvms/.kept")

    @property
    def fleet(self) -> str:
        """What the collection knows of its guests."""
        return self._at("var/lib/microvm-fleet/guests")

    @property
    def roots(self) -> str:
        """Generations and staged runners, one directory a guest: links that are garbage collector roots themselves."""
        return self._at("nix/var/nix/gcroots/microvm-fleet")

    @property
    def microvm_roots(self) -> str:
        """Garbage collector roots as the ``microvm`` command makes them (pkgs/microvm-command.nix)."""
        return self._at("nix/var/nix/gcroots/microvm")

    @property
    def units(self) -> str:
        """The administrator's units (systemd.unit(5))."""
        return self._at("etc/systemd/system")

    @property
    def wants(self) -> str:
        """The links that start guests at boot."""
        return os.path.join(self.units, "microvms.target.wants")

    @property
    def locks(self) -> str:
        """Files for flock(2)."""
        return self._at("run/lock/microvm-fleet")

    @property
    def marks(self) -> str:
        """Guests that a run has stopped and is to start again; gone with the next boot of the host."""
        return self._at("run/microvm-fleet/restart")

    @property
    def flake(self) -> str:
        """The static flake of described guests (role microvm.fleet.flake)."""
        return self._at("etc/microvm-fleet")

    @property
    def descriptions(self) -> str:
        """What described guests are, as the static flake reads it."""
        return os.path.join(self.flake, "guests.json")

    @property
    def candidates(self) -> str:
        """Copies of the static flake as it would be, while they are evaluated."""
        return self._at("run/microvm-fleet")

    @property
    def drained(self) -> str:
        """The mark of a host that is drained: no guest starts while it is there."""
        return self._at("var/lib/microvm-fleet/drained.json")

    @property
    def returning(self) -> str:
        """The same mark, once the guests are being started again."""
        return self._at("var/lib/microvm-fleet/returning.json")

    @property
    def host_keys(self) -> str:
        """Which SSH host keys guests have shown, for ssh."""
        return self._at("var/lib/microvm-fleet/ssh")

    @property
    def networks(self) -> str:
        """The wish of each network that was applied."""
        return self._at("var/lib/microvm-fleet/networks")

    @property
    def network_devices(self) -> str:
        """The kernel's network interfaces (sysfs)."""
        return self._at("sys/class/net")

    def guest(self, name: str, *parts: str) -> str:
        """A path in the state directory of guest *name*."""
        return os.path.join(self.guests, name, *parts)

    def known(self, name: str, *parts: str) -> str:
        """A path in what the collection knows of guest *name*."""
        return os.path.join(self.fleet, name, *parts)

    def root_of(self, name: str, *parts: str) -> str:
        """A path among the generations of guest *name*."""
        return os.path.join(self.roots, name, *parts)

    def settings(self, name: str) -> str:
        """The drop-in with the settings of guest *name*."""
        return os.path.join(self.units, f"microvm@{name}.service.d", "50-microvm-fleet.conf")

    def share_settings(self, name: str) -> str:
        """The drop-in with the settings of the virtiofs daemons of guest *name*."""
        return os.path.join(self.units, f"microvm-virtiofsd@{name}.service.d", "50-microvm-fleet.conf")

    def credentials(self, *parts: str) -> str:
        """A path among credentials, which only root reads: below the guest's name, the names of its credentials."""
        return os.path.join(self._at("var/lib/microvm-fleet/credentials"), *parts)

    def moving(self, name: str | None = None) -> str:
        """The mark of a guest that moves to or from another host, which does not start meanwhile; or all marks."""
        directory = self._at("var/lib/microvm-fleet/moving")
        return directory if name is None else os.path.join(directory, f"{name}.json")

    def arriving(self, name: str) -> str:
        """The data of a guest that comes from another host; in the state root, so that placing them is one rename."""
        return self._at(os.path.join("var/lib/microvms/.arriving", name))

    def store(self, path: str) -> str:
        """Where the store path *path* is read."""
        return os.path.join(self.root, path.lstrip("/"))
