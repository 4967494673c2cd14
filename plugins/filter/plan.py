# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What would change on many hosts: see plugin_utils/_fleet_plan.py."""

from __future__ import annotations

import typing as t
from collections.abc import Callable

from ansible_collections.microvm.fleet.plugins.plugin_utils._values import sequence, told

# What the filters do is imported in them: Ansible reads this file for any filter of the collection.


def plan_report(
    hostvars: t.Any,
    hosts: t.Any,
    read: str,
    looked: str,
    *,
    unknown: str | None = None,
    staged: str | None = None,
) -> dict[str, t.Any]:
    """The plan of *hosts*, guest by guest, of what they have in variables with these names.

    *read* has what ``microvm_guest_info`` said, *looked* what ``microvm_guests`` said in check mode, *unknown* names of
    guests of which nothing can be said, *staged* an ``error`` of what was done before that.
    """
    from ansible_collections.microvm.fleet.plugins.plugin_utils import _fleet_plan  # noqa: PLC0415

    return _fleet_plan.plan(
        [
            _fleet_plan.of_host(
                host,
                told(hostvars, host, read),
                told(hostvars, host, looked),
                unknown=told(hostvars, host, unknown) if unknown else None,
                staged=told(hostvars, host, staged) if staged else None,
            )
            for host in sequence(hosts, "hosts")
        ]
    )


def plan_lines(report: dict[str, t.Any]) -> list[str]:
    """The plan *report* as lines for an operator."""
    from ansible_collections.microvm.fleet.plugins.plugin_utils import _fleet_plan  # noqa: PLC0415

    return _fleet_plan.lines(report)


class FilterModule:
    """The filters of this file, as Ansible finds them."""

    def filters(self) -> dict[str, Callable[..., t.Any]]:
        """By name."""
        return {"plan_lines": plan_lines, "plan_report": plan_report}
