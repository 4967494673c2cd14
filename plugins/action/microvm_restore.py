# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of M(microvm.fleet.microvm_restore): the stream from the backup's place to the host."""

from __future__ import annotations

import shutil
import tempfile
import typing as t
from pathlib import Path

from ansible_collections.microvm.fleet.plugins.module_utils._backup import MANIFEST, Backup, read_manifest
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import DESCRIBED
from ansible_collections.microvm.fleet.plugins.plugin_utils._backups import (
    BackupAction,
    Result,
    common_spec,
    place_spec,
)
from ansible_collections.microvm.fleet.plugins.plugin_utils._stream import Endpoint, controller, pipe


class ActionModule(BackupAction):
    """Reads the manifest, streams beside the volumes, creates the guest if it is missing, and puts them in place."""

    MODULE = "microvm.fleet.microvm_restore"
    PLACE = "src"
    SPEC: t.ClassVar[Result] = {
        "name": {"type": "str"},
        "src": {"type": "dict", "required": True, "options": place_spec()},
        "flake": {"type": "str"},
        "runner": {"type": "str"},
        "start": {"type": "bool", "default": False},
        **common_spec(),
    }

    def carry_out(self) -> Result:
        """Restore the guest."""
        source, sink = self.other(), self.host()
        place = self.args["src"]["path"].rstrip("/")
        backup = self._manifest(source, place)
        name = self.args["name"] or backup.name
        images = [each.image for each in backup.images]
        found = self.phase("find", name=name, images=images)
        creation = None if found["exists"] else self._creation(name, backup)
        send: Result = {"directory": place, "files": [each.wanted() for each in backup.images]}
        receive: Result = {
            "directory": found["arrived"],
            "whole": True,
            "owner": "microvm",
            "group": "kvm",
            "expect": {each.image: each.expected() for each in backup.images},
        }
        if found["left"]:
            # Of a run that was killed: it goes before this one makes its own.
            measure: Result = {**receive, "directory": f"{found['arrived']}.next"}
        else:
            measure = dict(receive)
        measured = self.pipe(source, sink, send={**send, "measure": True}, receive={**measure, "measure": True})
        actions = [f"{name}: create with {creation.get('runner') or creation['flake']}"] if creation else []
        actions += [f"{name}: restore {image}" for image in images]
        actions += [f"{name}: start"] if self.args["start"] else []
        told: Result = {"changed": True, "name": name, "time": backup.time, "actions": actions}
        if found["unknown"]:
            told["warnings"] = [f"guest {name} has no volumes {', '.join(found['unknown'])}, which the backup has."]
        if self.check:
            return {
                **told,
                "kept": None,
                "volumes": [],
                "need": measured.answer["need"],
                "free": measured.answer["free"],
            }
        if found["left"]:
            self.phase("drop", name=name, images=images)
        done = self.pipe(source, sink, send=send, receive=receive)
        try:
            if creation:
                self.module("microvm.fleet.microvm_guest", **creation)
                self.changed = True
            placed = self.phase("place", name=name, images=images)
        except FleetError:
            self.phase("drop", name=name, images=images)
            raise
        self.changed = True
        if self.args["start"]:
            self.module("microvm.fleet.microvm_guest", name=name, state="started")
        return {
            **told,
            "kept": placed["kept"],
            "volumes": [
                {key: each[key] for key in ("name", "size", "sha256", "allocated")} for each in done.answer["files"]
            ],
            "stream": {"size": done.size, "sha256": done.sha256, "seconds": round(done.seconds, 3)},
        }

    def _manifest(self, source: Endpoint, place: str) -> Backup:
        """The backup's manifest, by way of a directory of the controller that goes again."""
        directory = tempfile.mkdtemp(prefix="microvm-fleet-")
        try:
            # It needs no room to speak of.
            pipe(
                source,
                controller(),
                send={"directory": place, "files": [{"name": MANIFEST}]},
                receive={"directory": directory},
            )
            text = (Path(directory) / MANIFEST).read_text(encoding="utf-8", errors="replace")
        except FleetError as error:
            raise FleetError(
                f"its {MANIFEST} cannot be read: {error.seen}",
                subject=f"backup {place}",
                field="src.path",
                hint=error.hint or "Give the directory of a backup, and its host if that is not the controller.",
            ) from error
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        return read_manifest(text, place)

    def _creation(self, name: str, backup: Backup) -> Result:
        """What M(microvm.fleet.microvm_guest) is called with for a guest that is missing."""
        known = backup.guest
        args: Result = {"name": name, "labels": known.get("labels") or {}, "protect": bool(known.get("protect"))}
        if self.args["runner"]:
            return {**args, "runner": self.args["runner"]}
        flake = self.args["flake"] or known.get("flake")
        if flake == DESCRIBED or not flake:
            raise InvalidWish(
                "there is no such guest on this host, and the backup does not say what to create it from.",
                subject=f"guest {name}",
                field="flake",
                hint="Give flake or runner. A guest that the inventory describes is created by site.yml first.",
            )
        return {**args, "flake": flake}
