# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of M(microvm.fleet.microvm_backup): the stream from the host to the backup's place."""

from __future__ import annotations

import time
import typing as t

from ansible import __version__ as ansible_version

from ansible_collections.microvm.fleet.plugins.module_utils._backup import MANIFEST, SUFFIXES, manifest, stored_name
from ansible_collections.microvm.fleet.plugins.module_utils._backup_run import QUIESCE
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.plugin_utils._backups import (
    BackupAction,
    Result,
    common_spec,
    place_spec,
)
from ansible_collections.microvm.fleet.plugins.plugin_utils._stream import Streamed


class ActionModule(BackupAction):
    """Looks, has the guest still, streams, and has it run again."""

    MODULE = "microvm.fleet.microvm_backup"
    PLACE = "dest"
    SPEC: t.ClassVar[Result] = {
        "name": {"type": "str", "required": True},
        "dest": {"type": "dict", "required": True, "options": place_spec()},
        "quiesce": {"type": "str", "choices": list(QUIESCE), "default": "auto"},
        "pack": {"type": "str", "choices": list(SUFFIXES), "default": "gzip"},
        "skip_outside": {"type": "bool", "default": False},
        **common_spec(),
    }

    def carry_out(self) -> Result:
        """Back the guest up."""
        name, quiesce = self.args["name"], self.args["quiesce"]
        seen = self.phase("look", name=name, quiesce=quiesce)
        if seen["outside"] and not self.args["skip_outside"]:
            raise InvalidWish(
                f"its volumes {', '.join(seen['outside'])} lie outside of its directory, and are not backed up.",
                subject=f"guest {name}",
                field="skip_outside",
                hint="Back them up by other means, and say skip_outside: true.",
            )
        if not seen["images"]:
            return {
                "changed": False,
                "path": None,
                "actions": [],
                "volumes": [],
                "killed": False,
                "msg": f"{name} has no volumes.",
            }
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        final = f"{self.args['dest']['path'].rstrip('/')}/{name}-{when}"
        source, sink = self.host(), self.other()
        pack = None if self.args["pack"] == "none" else self.args["pack"]
        files = [
            {"name": each["image"], "as": stored_name(each["image"], self.args["pack"]), "encode": pack}
            for each in seen["images"]
        ]
        send: Result = {"directory": seen["directory"], "files": files}
        receive: Result = {"directory": final, "whole": True}
        # Room and programs are looked at while the guest still runs.
        measured = self.pipe(source, sink, send={**send, "measure": True}, receive={**receive, "measure": True})
        actions = [f"{name}: back up {each['image']}" for each in seen["images"]]
        if seen["running"]:
            actions = [f"{name}: stop", *([f"{name}: start"] if seen["snapshot"] else []), *actions]
            actions += [] if seen["snapshot"] else [f"{name}: start"]
        told: Result = {"changed": True, "path": final, "actions": actions, "snapshot": seen["snapshot"]}
        if self.check:
            return {
                **told,
                "killed": False,
                "volumes": [],
                "need": measured.answer["need"],
                "free": measured.answer["free"],
            }
        self.changed = seen["running"]
        begun = self.phase("begin", name=name, quiesce=quiesce, stall_timeout=self.args["stall_timeout"])
        receive["manifest"] = {
            "name": MANIFEST,
            "content": manifest(
                name,
                begun["guest"],
                [each["image"] for each in begun["images"]],
                pack=self.args["pack"],
                time=when,
                host=str(self._task.delegate_to or self.task_vars["inventory_hostname"]),
                running=begun["running"],
                snapshot=begun["snapshot"],
                killed=begun["killed"],
                left_out=[*begun["outside"], *begun["absent"]],
                tools={"ansible": ansible_version},
            ),
        }
        send.update(directory=begun["directory"], hold=begun["hold"])
        wrong: FleetError | None = None
        done: Streamed | None = None
        try:
            done = self.pipe(source, sink, send=send, receive=receive)
        except FleetError as error:
            wrong = error
        finally:
            try:
                self.phase("end", name=name, start_again=begun["running"])
            except FleetError as error:
                if wrong is not None:
                    raise FleetError(f"{wrong.text()}\n{error.text()}") from error
                raise
        if wrong is not None or done is None:
            raise wrong or FleetError("nothing was streamed.", subject=f"guest {name}")
        said: Result = {
            **told,
            "snapshot": begun["snapshot"],
            "killed": begun["killed"],
            "volumes": [
                {**each["source"], "file": each["name"], "stored_size": each["size"]} for each in done.answer["files"]
            ],
            "stream": {"size": done.size, "sha256": done.sha256, "seconds": round(done.seconds, 3)},
        }
        if begun["killed"]:
            said["warnings"] = [
                f"guest {name} did not end within its time, and had to be killed before it was backed up."
            ]
        return said
