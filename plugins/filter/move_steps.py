# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is left to do of a move of a guest to another host."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Mapping

from ansible.errors import AnsibleFilterError

from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError


def move_steps(views: t.Any, name: str, *, hosts: t.Any, new: str = "", back: bool = False) -> dict[str, t.Any]:
    """The steps that are left, for the *views* of both hosts: see `_move`.  Raises AnsibleFilterError."""
    # Imported here, as any filter of the collection makes Ansible read this file.
    from ansible_collections.microvm.fleet.plugins.plugin_utils import _move  # noqa: PLC0415

    for what, value in (("views", views), ("hosts", hosts)):
        if not isinstance(value, Mapping) or set(value) != {_move.SOURCE, _move.TARGET}:
            message = f"move_steps, {what}: it has to be a dictionary of source and target."
            raise AnsibleFilterError(message)
    try:
        return _move.back(name, views, hosts) if back else _move.forward(name, views, hosts, new=new)
    except FleetError as error:
        raise AnsibleFilterError(error.text()) from error


class FilterModule:
    """The filters of this file, as Ansible finds them."""

    def filters(self) -> dict[str, Callable[..., t.Any]]:
        """By name."""
        return {"move_steps": move_steps}
