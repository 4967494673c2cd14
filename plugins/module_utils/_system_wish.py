# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wished of a NixOS host's own system, and every check of it that needs no host.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import flake_faults

FLAKE: t.Final = "path:/etc/microvm-fleet"
# A host that is asked to go back sooner has no time to activate anything.
LEAST_CONFIRM: t.Final = 10
MOST_CONFIRM: t.Final = 3600


@dataclass(frozen=True)
class Limits:
    """How long the parts of a run may take, in seconds."""

    evaluate: int = 600
    build: int = 3600
    activate: int = 900
    lock: int = 60


@dataclass(frozen=True)
class SystemWish:
    """The system that a host is to have: ``nixosConfigurations.NAME`` of a flake, and how it is to come into use."""

    name: str
    flake: str = FLAKE
    mode: str = "switch"
    # Seconds until a system that nobody confirms is left again; 0 is never.
    confirm_timeout: int = 0

    @property
    def subject(self) -> str:
        """How messages name it."""
        return f"system {self.name}"


_SECONDS: t.Final = (("eval_timeout", 1), ("build_timeout", 1), ("activation_timeout", 10), ("lock_timeout", 0))


def system_spec() -> dict[str, t.Any]:
    """The argument spec of `SystemWish` and `Limits`, and of the calls that follow an activation."""
    return {
        "name": {"type": "str"},
        "flake": {"type": "str", "default": FLAKE},
        "mode": {"type": "str", "choices": ["switch", "test", "boot"], "default": "switch"},
        "confirm_timeout": {"type": "int", "default": 0},
        "eval_timeout": {"type": "int", "default": Limits.evaluate},
        "build_timeout": {"type": "int", "default": Limits.build},
        "activation_timeout": {"type": "int", "default": Limits.activate},
        "lock_timeout": {"type": "int", "default": Limits.lock},
        # What only the action plugin gives: the activation that it follows, or confirms.
        "watch": {"type": "str"},
        "confirm": {"type": "str"},
    }


def limits_of(params: t.Mapping[str, t.Any]) -> Limits:
    """The limits that a module was given.  Raises InvalidWish for one that is out of range."""
    for option, least in _SECONDS:
        if not least <= params[option] <= 86400:
            raise InvalidWish(
                f"{params[option]} is out of range.", field=option, hint=f"Give seconds from {least} to 86400."
            )
    evaluate, build, activate, lock = (params[option] for option, _least in _SECONDS)
    return Limits(evaluate=evaluate, build=build, activate=activate, lock=lock)


def read_wish(params: t.Mapping[str, t.Any], host_name: str) -> SystemWish:
    """The wish that a module was given, for the host *host_name*.  Raises InvalidWish for what cannot be."""
    name = params["name"] if params["name"] is not None else host_name
    subject = f"system {name}"
    if not name or re.search(r"[\s\x00-\x1f\x7f]", name):
        raise InvalidWish(
            f"{name!r} is no name of a configuration.",
            subject="system " + repr(name),
            field="name",
            hint="Give the attribute of nixosConfigurations.",
        )
    for seen in flake_faults(params["flake"]):
        raise InvalidWish(
            seen, subject=subject, field="flake", hint="Give an absolute path or a reference with a scheme."
        )
    seconds = params["confirm_timeout"]
    if seconds != 0 and not LEAST_CONFIRM <= seconds <= MOST_CONFIRM:
        raise InvalidWish(
            f"{seconds} is out of range.",
            subject=subject,
            field="confirm_timeout",
            hint=f"Give 0 for no confirmation, or seconds from {LEAST_CONFIRM} to {MOST_CONFIRM}.",
        )
    if seconds and params["mode"] == "boot":
        raise InvalidWish(
            "there is nothing to confirm with the mode boot, which activates nothing.",
            subject=subject,
            field="confirm_timeout",
            hint="Leave it out, or use the mode switch.",
        )
    return SystemWish(name=name, flake=params["flake"], mode=params["mode"], confirm_timeout=seconds)
