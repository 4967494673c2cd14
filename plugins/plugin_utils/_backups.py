# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the actions for backups and restores share.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.plugin_utils._stream import Endpoint, Streamed, end_of, pipe

Result = dict[str, t.Any]


class ModuleFailure(FleetError):
    """A module that the action calls has failed; *result* is all that it said."""

    def __init__(self, result: Mapping[str, t.Any]) -> None:
        super().__init__(
            str(result.get("msg") or "the module said nothing."),
            subject=result.get("subject"),
            field=result.get("field"),
        )
        self.result = dict(result)

    def text(self) -> str:
        """As the module said it."""
        return self.seen


class BackupAction(ActionBase):  # type: ignore[misc, unused-ignore]
    """An action with a part on the guest's host, which is the module of its name, and a stream."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    MODULE: t.ClassVar[str]
    SPEC: t.ClassVar[Result]

    def run(self, tmp: str | None = None, task_vars: Result | None = None) -> Result:
        """Check the options, and do it."""
        name = self.MODULE.rpartition(".")[2]
        if self._task.async_val:
            raise AnsibleActionFail(f"{name} cannot run with async: the stream passes the controller. Leave it out.")
        result: Result = super().run(tmp, task_vars)
        del tmp
        for private in ("phase", "start_again", "images"):
            if private in self._task.args:
                raise AnsibleActionFail(f"{name}: {private} is filled in on the controller. Leave it out.")
        self.task_vars = task_vars or {}
        _known, self.args = self.validate_argument_spec(argument_spec=self.SPEC)
        self.check = bool(self._task.check_mode)
        try:
            self._read()
            return {**result, **self.carry_out()}
        except FleetError as error:
            return {**result, "failed": True, "changed": self.changed, **error.as_dict()}

    # Whether something was changed by now.
    changed = False

    def carry_out(self) -> Result:
        """Do what is asked for, and give the result.  Raises FleetError."""
        raise NotImplementedError

    def _read(self) -> None:
        place = self.args[self.PLACE]
        if not place["path"].startswith("/"):
            raise InvalidWish(
                f"{place['path']!r} is no absolute path.",
                subject="backup",
                field=f"{self.PLACE}.path",
                hint="Give it from / on.",
            )
        for option, least in (("reserve", 0), ("stall_timeout", 1), ("lock_timeout", 0)):
            if self.args[option] < least:
                raise InvalidWish(
                    f"{self.args[option]} is out of range.",
                    subject="backup",
                    field=option,
                    hint=f"Give {least} or more.",
                )

    PLACE: t.ClassVar[str]

    def module(self, module: str, **args: t.Any) -> Result:
        """What *module* says on the host.  Raises ModuleFailure."""
        said: Result = self._execute_module(module_name=module, module_args=args, task_vars=self.task_vars)
        if said.get("failed") or said.get("unreachable"):
            raise ModuleFailure(said)
        return said

    def phase(self, phase: str, **args: t.Any) -> Result:
        """What the host's part says of *phase*."""
        place = self.args[self.PLACE]
        given = {**args, "phase": phase, self.PLACE: place, "lock_timeout": self.args["lock_timeout"]}
        found: Result = self.module(self.MODULE, **given).get("found") or {}
        return found

    def host(self) -> Endpoint:
        """The guest's host."""
        return end_of(self, {}, self.task_vars)

    def other(self) -> Endpoint:
        """Where the backup is, or is to be: a host of the inventory, or else the controller."""
        name = self.args[self.PLACE]["host"]
        return end_of(self, {"host": name, "controller": not name}, self.task_vars)

    def pipe(self, source: Endpoint, sink: Endpoint, **requests: Result) -> Streamed:
        """A stream with the limits that were given."""
        requests["receive"]["reserve"] = self.args["reserve"] << 20
        return pipe(
            source,
            sink,
            send=requests["send"],
            receive=requests["receive"],
            stall_timeout=float(self.args["stall_timeout"]),
        )


def place_spec() -> Result:
    """The options of the place of a backup."""
    return {"path": {"type": "str", "required": True}, "host": {"type": "str"}}


def common_spec() -> Result:
    """The options that both have."""
    return {
        "reserve": {"type": "int", "default": 256},
        "stall_timeout": {"type": "int", "default": 300},
        "lock_timeout": {"type": "int", "default": 60},
    }
