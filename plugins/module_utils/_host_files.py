# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories and files that role host sets up on a host that is not NixOS.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import os
import re
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils import _files
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish, explaining


@dataclass(frozen=True)
class Wish:
    """A directory, or with *content* a file, of root with *mode* (as chmod(2) has it)."""

    path: str
    mode: int
    content: bytes | None = None


@dataclass(frozen=True)
class Seen:
    """What is at a path: *kind* is ``file``, ``directory``, or words for anything else."""

    kind: str
    owner: tuple[int, int]
    mode: int
    content: bytes | None = None


@dataclass(frozen=True)
class Step:
    """What is done about *wish*: ``make`` the directory, ``write`` the file, or ``mode`` for owner and mode alone."""

    act: str
    wish: Wish
    seen: Seen | None

    def word(self) -> str:
        """The line of ``actions``."""
        if self.act == "make":
            return f"host: make {self.wish.path}"
        if self.act == "write":
            return f"host: {'write' if self.seen is None else 'change'} {self.wish.path}"
        return f"host: set owner and mode of {self.wish.path}"

    def diff(self) -> dict[str, str]:
        """Before and after, as Ansible shows texts."""
        path = self.wish.path
        before = "" if self.seen is None else _text(self.seen.owner, self.seen.mode, self.seen.content)
        after = _text(ROOT, self.wish.mode, self.wish.content)
        return {"before_header": path, "after_header": path, "before": before, "after": after}


ROOT: t.Final = (0, 0)


def _text(owner: tuple[int, int], mode: int, content: bytes | None) -> str:
    head = f"owner {owner[0]}:{owner[1]} mode {mode:04o}\n"
    return head if content is None else head + content.decode("utf-8", "replace")


def files_spec() -> dict[str, t.Any]:
    """The module's argument spec."""
    path: dict[str, t.Any] = {"type": "path", "required": True}
    mode: dict[str, t.Any] = {"type": "str", "required": True}
    return {
        "directories": {"type": "list", "elements": "dict", "default": [], "options": {"path": path, "mode": mode}},
        "files": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {"path": path, "mode": mode, "content": {"type": "str", "required": True}},
        },
    }


def read_wishes(params: t.Mapping[str, t.Any]) -> tuple[Wish, ...]:
    """The wishes of a module's *params*, directories first.  Raises InvalidWish with all that cannot be."""
    wrong = []
    wishes: dict[str, Wish] = {}
    for field in ("directories", "files"):
        for entry in params[field]:
            path, mode, content = entry["path"], entry["mode"], entry.get("content")
            if not os.path.isabs(path) or os.path.normpath(path) != path or path == "/":
                wrong.append(_invalid(path, "path", "It is no absolute path in its shortest form."))
            elif path in wishes:
                wrong.append(_invalid(path, "path", "It is wished for twice."))
            elif not re.fullmatch(r"0?[0-7]{3}", mode):
                wrong.append(_invalid(path, "mode", f"{mode!r} is no mode of three octal digits."))
            else:
                wishes[path] = Wish(path, int(mode, 8), None if content is None else content.encode("utf-8"))
    if wrong:
        raise InvalidWish("\n".join(wrong), hint="Correct it.")
    return tuple(wishes.values())


def _invalid(path: str, field: str, seen: str) -> str:
    return InvalidWish(seen, subject=f"host, {path}", field=field).text()


def observe(wishes: t.Iterable[Wish]) -> dict[str, Seen]:
    """What is at the path of each of *wishes*, without those where nothing is."""
    found = {}
    for wish in wishes:
        try:
            # A directory may be elsewhere; a file is to be here.
            state = os.stat(wish.path) if wish.content is None else os.lstat(wish.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        content = None
        if stat.S_ISREG(state.st_mode):
            kind = "file"
            if wish.content is not None:
                with open(wish.path, "rb") as stream:
                    content = stream.read(len(wish.content) + 4096)
        else:
            links = {stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
            kind = links.get(stat.S_IFMT(state.st_mode), "special file")
        found[wish.path] = Seen(kind, (state.st_uid, state.st_gid), stat.S_IMODE(state.st_mode), content)
    return found


def plan(wishes: t.Iterable[Wish], seen: t.Mapping[str, Seen]) -> tuple[Step, ...]:
    """The steps from what is *seen* to *wishes*.  Raises FleetError for what is in the way."""
    steps = []
    for wish in wishes:
        there = seen.get(wish.path)
        wanted = "directory" if wish.content is None else "file"
        if there is not None and there.kind != wanted and not (there.kind == "link" and wanted == "file"):
            raise FleetError(
                f"There is a {there.kind} where a {wanted} is to be. Nothing was changed.",
                subject=f"host, {wish.path}",
                hint="Move it away.",
            )
        if there is None or there.content != wish.content:
            steps.append(Step("make" if wish.content is None else "write", wish, there))
        elif there.owner != ROOT or there.mode != wish.mode:
            steps.append(Step("mode", wish, there))
    return tuple(steps)


def apply(steps: t.Sequence[Step]) -> None:
    """Carry out *steps*; each file is there whole or not at all, and all are on the disk after a few flushes."""
    unflushed = _files.Unflushed()
    parts = []
    for step in steps:
        wish = step.wish
        if step.act == "write":
            directory, name = os.path.split(wish.path)
            path = os.path.join(os.path.realpath(directory), name)
            _files.sweep(path)
            parts.append(_files.replace_file(path, wish.content or b"", mode=wish.mode, unflushed=unflushed))
            next(parts[-1])
            continue
        if step.act == "make":
            _files.make_directory(wish.path, unflushed=unflushed)
        os.chown(wish.path, *ROOT)
        os.chmod(wish.path, wish.mode)
        unflushed.add(os.path.realpath(wish.path))
    _files.flush_now(unflushed)
    for part in parts:
        next(part, None)
    _files.flush_now(unflushed)


def converge(wishes: t.Sequence[Wish], *, check: bool) -> dict[str, t.Any]:
    """The module's result, after the steps were carried out, unless it is a *check*.  Raises FleetError."""
    with explaining():
        steps = plan(wishes, observe(wishes))
        if not check:
            apply(steps)
    return {
        "changed": bool(steps),
        "actions": [step.word() for step in steps],
        "paths": [step.wish.path for step in steps],
        "diff": [step.diff() for step in steps],
    }
