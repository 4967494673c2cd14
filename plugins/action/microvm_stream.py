# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All of M(microvm.fleet.microvm_stream): the controller passes files on from one host to another."""

from __future__ import annotations

import re
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._stream_end import name_faults
from ansible_collections.microvm.fleet.plugins.plugin_utils._stream import end_of, pipe

Result = dict[str, t.Any]

FORMS: t.Final = ("none", "gzip", "zstd")
HOLD: t.Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]*")
_PLACE: t.Final = {
    "path": {"type": "str", "required": True},
    "host": {"type": "str"},
    "controller": {"type": "bool", "default": False},
}
SPEC: t.Final[Result] = {
    "src": {"type": "dict", "required": True, "options": _PLACE, "mutually_exclusive": [("host", "controller")]},
    "dest": {"type": "dict", "required": True, "options": _PLACE, "mutually_exclusive": [("host", "controller")]},
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "dest": {"type": "str"},
            "pack": {"type": "str", "choices": list(FORMS), "default": "none"},
            "unpack": {"type": "str", "choices": list(FORMS), "default": "none"},
            "size": {"type": "int"},
            "sha256": {"type": "str"},
        },
        "mutually_exclusive": [("pack", "unpack")],
    },
    "whole": {"type": "bool", "default": False},
    "replace": {"type": "bool", "default": False},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "mode": {"type": "str", "default": "0600"},
    "directory_mode": {"type": "str", "default": "0700"},
    "reserve": {"type": "int", "default": 256},
    "stall_timeout": {"type": "int", "default": 300},
    "hold": {"type": "str"},
}


def requests(args: Result) -> tuple[Result, Result]:
    """What the source and the sink are asked for.  Raises InvalidWish with the option that is wrong."""
    for end in ("src", "dest"):
        if not args[end]["path"].startswith("/"):
            raise InvalidWish(
                f"{args[end]['path']!r} is no absolute path.",
                subject="stream",
                field=f"{end}.path",
                hint="Give it from / on.",
            )
    for option, least in (("reserve", 0), ("stall_timeout", 1)):
        if args[option] < least:
            raise InvalidWish(
                f"{args[option]} is out of range.", subject="stream", field=option, hint=f"Give {least} or more."
            )
    files, expect = [], {}
    for number, entry in enumerate(args["files"]):
        name, final = entry["name"], entry["dest"] or entry["name"]
        for field, value in (("name", name), ("dest", final)):
            for seen in name_faults(value):
                raise InvalidWish(
                    seen, subject="stream", field=f"files[{number}].{field}", hint="Give it relative to the directory."
                )
        files.append({"name": name, "as": final, "encode": form_of(entry["pack"]), "decode": form_of(entry["unpack"])})
        wished = {key: entry[key] for key in ("size", "sha256") if entry[key] is not None}
        if wished:
            expect[final] = wished
    hold = args["hold"]
    if hold is not None and not HOLD.fullmatch(hold):
        raise InvalidWish(
            f"{hold!r} is no name of a unit.", subject="stream", field="hold", hint="Give it without its suffix."
        )
    send: Result = {"directory": args["src"]["path"], "files": files, "hold": hold}
    receive: Result = {
        "directory": args["dest"]["path"],
        "whole": args["whole"],
        "replace": args["replace"],
        "owner": args["owner"],
        "group": args["group"],
        "mode": octal(args["mode"], "mode"),
        "directory_mode": octal(args["directory_mode"], "directory_mode"),
        "reserve": args["reserve"] << 20,
        "expect": expect,
    }
    return send, receive


def form_of(word: str) -> str | None:
    """How a file is packed, None for not at all."""
    return None if word == "none" else word


def octal(text: str, option: str) -> int:
    """The mode in *text*.  Raises InvalidWish."""
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise InvalidWish(
            f"{text!r} is no mode.", subject="stream", field=option, hint="Give octal digits, such as 0600."
        )
    return mode


class ActionModule(ActionBase):  # type: ignore[misc, unused-ignore]
    """Streams files from one host to another, without help of a module."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: Result | None = None) -> Result:
        """Check the options, and stream; in check mode, only compare sizes with the room that is there."""
        if self._task.async_val:
            raise AnsibleActionFail(
                "microvm_stream cannot run with async: the stream passes the controller. Leave it out."
            )
        result: Result = super().run(tmp, task_vars)
        del tmp
        check = bool(self._task.check_mode)
        _known, args = self.validate_argument_spec(argument_spec=SPEC)
        try:
            send, receive = requests(args)
            source, sink = (end_of(self, args[end], task_vars or {}) for end in ("src", "dest"))
            done = pipe(
                source,
                sink,
                send={**send, "measure": check, "hold": None if check else send["hold"]},
                receive={**receive, "measure": check},
                stall_timeout=float(args["stall_timeout"]),
            )
        except FleetError as error:
            return {**result, "failed": True, "changed": False, **error.as_dict()}
        files = done.answer["files"]
        return {
            **result,
            "changed": bool(files),
            "files": files,
            "path": done.answer["directory"],
            "need": done.answer["need"],
            "free": done.answer["free"],
            "stream": {"size": done.size, "sha256": done.sha256, "seconds": round(done.seconds, 3)},
        }
