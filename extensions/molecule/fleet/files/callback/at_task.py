# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs commands right before tasks of a playbook, so that a test can break something in the middle of it.

MICROVM_FLEET_AT_TASK has the commands by the names of tasks, as JSON; each is run before the first task of that name.
Of one that fails Ansible only warns, and what should have been broken is not: the test has to see that.
"""

from __future__ import annotations

import json
import os
import subprocess
import typing as t

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """A callback plugin of Ansible, which waits for it before it goes on with the task."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "at_task"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.left: dict[str, list[str]] = json.loads(os.environ["MICROVM_FLEET_AT_TASK"])

    def v2_playbook_on_task_start(self, task: t.Any, **_more: t.Any) -> None:
        """Do what is to be done before this task."""
        command = self.left.pop(task.name, None)
        if command is not None:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
