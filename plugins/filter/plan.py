# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What would change on many hosts: see plugin_utils/_fleet_plan.py."""

from __future__ import annotations

import typing as t
from collections.abc import Callable

from ansible_collections.microvm.fleet.plugins.plugin_utils import _fleet_plan
from ansible_collections.microvm.fleet.plugins.plugin_utils._values import sequence


def plan_report(reads: t.Any) -> dict[str, t.Any]:
    """The plan of the hosts of *reads*, guest by guest."""
    return _fleet_plan.plan(sequence(reads, "reads"))


def plan_lines(report: dict[str, t.Any]) -> list[str]:
    """The plan *report* as lines for an operator."""
    return _fleet_plan.lines(report)


class FilterModule:
    """The filters of this file, as Ansible finds them."""

    def filters(self) -> dict[str, Callable[..., t.Any]]:
        """By name."""
        return {"plan_lines": plan_lines, "plan_report": plan_report}
