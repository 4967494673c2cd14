# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans that a hold forbids: starts on a drained host, and changes of a guest that moves to another host.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Host
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import GuestPlan
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import Start
from ansible_collections.microvm.fleet.plugins.module_utils._holds import Moving


def held(plans: t.Sequence[GuestPlan], host: Host) -> tuple[GuestPlan, ...]:
    """The plans, with an error in place of the steps of each that a hold of the host forbids."""
    return tuple(
        each if error is None else dataclasses.replace(each, steps=(), error=error)
        for each, error in ((each, _forbidden(each, host)) for each in plans)
    )


def _forbidden(plan: GuestPlan, host: Host) -> FleetError | None:
    if plan.error is not None or not plan.steps:
        return None
    moving = host.moving.get(plan.name)
    if moving is not None:
        return InvalidWish(
            f"it {moving.words}.", subject=plan.wish.subject, field="state", hint=_way_out(plan.name, moving)
        )
    drained = host.drained
    if drained is None or drained.returning or not any(isinstance(step, Start) for step in plan.steps):
        return None
    return InvalidWish(
        f"this host is {drained.words}, and starts no guest.",
        subject=plan.wish.subject,
        field="state",
        hint="Bring the host back first: playbook microvm.fleet.undrain, or microvm_drain with state undrained.",
    )


def _way_out(name: str, moving: Moving) -> str:
    if moving.phase == "moved":
        return (
            f"Take it out of the guests of this host. To have another guest of that name here, remove "
            f"/var/lib/microvm-fleet/moving/{name}.json first."
        )
    return "Run the playbook microvm.fleet.migrate again, which ends what was begun."
