# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NixOS hosts: whether a host is one, and the descriptions that its system is made of.

Private to the collection: it may change at any time.

On such a host units, networks and autostart come from the system, which a switch of its configuration replaces.  So
they are written down as JSON beside the static flake, and ``nix/host.nix`` makes the system of it.  It also puts a copy
of what it was made of into the system, by which a description that was not switched to is known.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._files import read_text

# Of the static flake, and of the system that runs.
FLAKE: t.Final = "/etc/microvm-fleet"
RUNNING: t.Final = "/etc/microvm-fleet-system"


def is_nixos(root: str = "/") -> bool:
    """Whether the host below *root* is NixOS, by its os-release(5)."""
    text = read_text(os.path.join(root, "etc/os-release"), 1 << 16) or ""
    for line in text.splitlines():
        key, _sep, value = line.strip().partition("=")
        if key == "ID":
            return value.strip("\"'") == "nixos"
    return False
