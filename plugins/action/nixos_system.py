# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of nixos_system: an activation is confirmed over a connection that was opened after it."""

from __future__ import annotations

import time
import typing as t

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

# Seconds between two attempts to reach the host.
_PAUSE: t.Final = 1.0
_PRIVATE: t.Final = ("watch", "confirm")
# A host that is gone in the middle of a call is noticed (ssh_config(5)); what the operator has said of it comes first.
_ALIVE: t.Final = "-o ServerAliveInterval=5 -o ServerAliveCountMax=2"

Result = dict[str, t.Any]


class ActionModule(ActionBase):  # type: ignore[misc, unused-ignore]
    """Runs the module once, and again over new connections until what it activated is confirmed."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Result | None = None) -> Result:
        """Run the module on the host and give its result."""
        if self._task.async_val:
            raise AnsibleActionFail(
                "nixos_system cannot run with async: its confirmation needs the controller. Leave async out: the system"
                " is activated outside of the session anyway, and build_timeout says how long the build may take."
            )
        given = [option for option in _PRIVATE if option in self._task.args]
        if given:
            raise AnsibleActionFail(f"nixos_system: {given[0]} is filled in on the controller. Leave it out.")
        super().run(tmp, task_vars)
        result: Result = self._execute_module(task_vars=task_vars)
        confirm = result.pop("confirm", None)
        if result.get("failed") or confirm is None:
            return result
        return self._confirmed(result, confirm, task_vars)

    def _confirmed(self, result: Result, confirm: Result, task_vars: Result | None) -> Result:
        """The result after the system of *confirm* was confirmed, or after the reason why it was not is known."""
        deadline = time.monotonic() + confirm["seconds"]
        step = "watch"
        reason = "no connection could be opened in time"
        left = [self._forget_tmp()]
        self._notice_death()
        while time.monotonic() < deadline:
            answer = self._attempt({**self._task.args, step: confirm["token"]}, task_vars)
            state = answer.get("state")
            if state == "activated":
                step = "confirm"
                continue
            if state == "confirmed" or "subject" in answer:
                self._remove_tmp(left)
                known = result if state == "confirmed" else self._undone(result, confirm)
                return self._merged(known, answer)
            if state == "activating":
                reason = "its activation did not end in time"
            else:
                reason = str(answer.get("msg", reason))
                # What an old connection left there is removed over the last one.
                left.append(self._forget_tmp())
            time.sleep(_PAUSE)
        return {
            **self._undone(result, confirm),
            "failed": True,
            "msg": f"{confirm['system']} could not be confirmed over a new connection: {reason.rstrip('.')}. The host"
            f" goes back to {confirm['previous']} by itself at {confirm['goes_back_at']}.",
        }

    def _remove_tmp(self, paths: list[str | None]) -> None:
        for path in paths:
            if path is not None:
                self._remove_tmp_path(path)

    def _attempt(self, arguments: Result, task_vars: Result | None) -> Result:
        """What the module says over a new connection, or why there is none."""
        try:
            self._connection.reset()
            answer: Result = self._execute_module(module_args=arguments, task_vars=task_vars)
        except AnsibleConnectionFailure as error:
            return {"msg": str(error)}
        return answer

    def _notice_death(self) -> None:
        """Have connections by OpenSSH end when the host does not answer any more."""
        if self._connection.transport == "ssh":
            said = self._connection.get_option("ssh_extra_args") or ""
            self._connection.set_option("ssh_extra_args", f"{said} {_ALIVE}".strip())

    def _forget_tmp(self) -> str | None:
        """Let the next call make its own directory on the host, for this one may be gone with the connection."""
        shell = self._connection._shell  # noqa: SLF001 - where Ansible's own action plugins keep it
        path: str | None = shell.tmpdir
        shell.tmpdir = None
        return path

    @staticmethod
    def _undone(result: Result, confirm: Result) -> Result:
        """The first answer, without what was to come after the confirmation."""
        known = {key: value for key, value in result.items() if key not in ("after", "reboot_needed", "diff")}
        return {**known, "actions": confirm["actions"]}

    @staticmethod
    def _merged(result: Result, answer: Result) -> Result:
        """The first answer, with what the last one knows better."""
        merged = {**result, **{key: value for key, value in answer.items() if key not in ("changed", "state")}}
        if "after" in answer:
            merged["reboot_needed"] = answer["after"]["reboot_needed"]
        merged["warnings"] = [*result.get("warnings", ()), *answer.get("warnings", ())]
        return merged
