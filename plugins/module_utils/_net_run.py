# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Networks converged: observe, plan, lock, observe and plan again, apply, observe.  What the modules call.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _net_plan
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._net_apply import Apply
from ansible_collections.microvm.fleet.plugins.module_utils._net_files import NetPaths
from ansible_collections.microvm.fleet.plugins.module_utils._net_observe import observe
from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import Wishes


@dataclass(frozen=True)
class Limits:
    """How long the parts of a run may take, in seconds."""

    settle: int = 30
    lock: int = 60


def limits_spec() -> dict[str, t.Any]:
    """The argument spec of `Limits`, shared by the modules."""
    return {
        "timeout": {"type": "int", "default": Limits.settle},
        "lock_timeout": {"type": "int", "default": Limits.lock},
    }


def limits_of(params: t.Mapping[str, t.Any]) -> Limits:
    """The limits that a module was given.  Raises InvalidWish for one that is out of range."""
    for option, least in (("timeout", 1), ("lock_timeout", 0)):
        if not least <= params[option] <= 3600:
            raise InvalidWish(
                f"{params[option]} is out of range.", field=option, hint=f"Give seconds from {least} to 3600."
            )
    return Limits(settle=params["timeout"], lock=params["lock_timeout"])


def network_options() -> dict[str, t.Any]:
    """The argument spec of one network."""
    return {
        "name": {"type": "str", "required": True},
        "kind": {"type": "str", "choices": ["bridge"], "default": "bridge"},
        "bridge": {"type": "str"},
        "addresses": {"type": "list", "elements": "str", "default": []},
        "mac": {"type": "str"},
        "mtu": {"type": "int"},
        "taps": {"type": "list", "elements": "str"},
        "nat": {"type": "bool", "default": False},
        "nat_ipv6": {"type": "bool", "default": False},
        "uplink": {"type": "str"},
        "reach": {"type": "list", "elements": "str", "default": []},
        "dhcp": {
            "type": "dict",
            "options": {
                "enabled": {"type": "bool", "default": True},
                "range_start": {"type": "str"},
                "range_end": {"type": "str"},
                "pool_offset": {"type": "int"},
                "pool_size": {"type": "int"},
                "lease_time": {"type": "int", "default": 3600},
                "dns": {"type": "list", "elements": "str"},
                "router": {"type": "str"},
                "leases": {
                    "type": "list",
                    "elements": "dict",
                    "default": [],
                    "options": {
                        "name": {"type": "str", "required": True},
                        "mac": {"type": "str", "required": True},
                        "address": {"type": "str", "required": True},
                    },
                },
            },
        },
        "router_advertisements": {
            "type": "dict",
            "options": {
                "enabled": {"type": "bool", "default": True},
                "dns": {"type": "list", "elements": "str"},
            },
        },
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }


@dataclass(frozen=True)
class Result:
    """What a run did, or would do."""

    changed: bool
    actions: list[str]
    networks: list[dict[str, t.Any]]
    orphans: list[dict[str, t.Any]]
    warnings: list[str]
    before: dict[str, t.Any] = field(default_factory=dict)
    after: dict[str, t.Any] = field(default_factory=dict)
    switch_needed: bool = False

    def values(self) -> dict[str, t.Any]:
        """What a module returns, the diff included."""
        return {
            "changed": self.changed,
            "actions": self.actions,
            "networks": self.networks,
            "orphans": self.orphans,
            "switch_needed": self.switch_needed,
            "diff": {"before": self.before, "after": self.after},
        }

    def one(self, name: str) -> dict[str, t.Any]:
        """What the module for one network returns: *name* of the networks, None if it is absent."""
        values = self.values()
        del values["networks"], values["orphans"], values["switch_needed"]
        return {**values, "network": next((one for one in self.networks if one["name"] == name), None)}


def converge(
    wishes: Wishes,
    *,
    commands: Commands,
    paths: NetPaths,
    limits: Limits,
    check: bool,
    prune: bool = False,
    stage: bool = False,
) -> Result:
    """Make the host's networks as wished; with *check* only say what that takes.

    With *stage*, for NixOS only, it ends with what the host's next system is to be made with, and what is told of the
    networks is how they will be after the switch.

    Raises InvalidWish for what cannot be, before anything is changed; Busy when another run holds the host;
    CommandError and FleetError when the host does not do as it is told.
    """
    observed = observe(commands, paths)
    plan = _net_plan.make(wishes, observed, prune=prune, stage=stage)
    if not plan.changed or check:
        return _result(plan, plan.after if plan.changed else plan.before)
    with _files.lock(paths.lock, what="networks of the host", timeout=limits.lock):
        observed = observe(commands, paths)
        plan = _net_plan.make(wishes, observed, prune=prune, stage=stage)
        if not plan.changed:
            return _result(plan, plan.before)
        work = Apply(commands, paths, timeout=limits.settle)
        if stage:
            for step in plan.steps:
                work.step(step)
            return _result(plan, plan.after)
        seen = work.run(plan, observed)
    return _result(plan, _net_plan.picture(seen.networks, seen))


def _result(plan: _net_plan.Plan, after: dict[str, t.Any]) -> Result:
    return Result(
        changed=plan.changed,
        actions=plan.actions,
        networks=list(after["networks"].values()),
        orphans=[{"name": name, "pruned": name in plan.pruned} for name in plan.orphans],
        warnings=list(plan.warnings),
        before=plan.before,
        after=after,
        switch_needed=plan.switch_needed,
    )


def info(names: t.Collection[str], *, commands: Commands, paths: NetPaths) -> list[dict[str, t.Any]]:
    """The networks of the host that *names* has, or all of them if it is empty, as `converge` returns them."""
    observed = observe(commands, paths)
    networks = _net_plan.picture(observed.networks, observed)["networks"]
    return [one for name, one in networks.items() if not names or name in names]
