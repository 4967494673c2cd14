# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's system as a flake gives it, and how two systems differ.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _nix
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError, FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._flake_lock import Lock, changed_input, read_lock
from ansible_collections.microvm.fleet.plugins.module_utils._system_observe import SystemPaths
from ansible_collections.microvm.fleet.plugins.module_utils._system_plan import Wished
from ansible_collections.microvm.fleet.plugins.module_utils._system_wish import SystemWish

_NAMED: t.Final = 10

# Where a system is and what builds it.  Contexts are dropped: the answer must not make a build.
TOPLEVEL: t.Final = """
{ flake, name }:
let
  configurations = (builtins.getFlake flake).nixosConfigurations or { };
  text = value: builtins.unsafeDiscardStringContext (toString value);
in {
  answer =
    if !(configurations ? ${name}) then { available = builtins.attrNames configurations; }
    else let top = configurations.${name}.config.system.build.toplevel; in {
      path = text top.outPath;
      derivation = text top.drvPath;
    };
}
"""

_PLACE: t.Final = re.compile(r"at (/\S+:\d+:\d+)")
_COLOUR: t.Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def evaluate(paths: SystemPaths, commands: Commands, wish: SystemWish, *, timeout: float, keep: bool) -> Wished:
    """The system that the flake gives.  With *keep* its derivation is written to the store, to be built.

    Raises FleetError, with the file and line that Nix names, when there is none.
    """
    try:
        flake = _nix.resolve(commands, wish.flake, timeout=timeout, subject=wish.subject)
        argv = ["nix", *_nix.FEATURES, "eval", "--json", "--no-write-lock-file"]
        if not keep:
            argv.append("--read-only")
        argv += ["--expr", TOPLEVEL, "--argstr", "flake", flake.url, "--argstr", "name", wish.name, "answer"]
        answer = commands.json(argv, timeout=timeout)
    except CommandError as error:
        raise _explained(paths, wish, error) from error
    if "available" in answer:
        names = answer["available"]
        others = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        raise CommandError(
            f"{wish.flake} has no nixosConfigurations.{wish.name}; it has {others or 'none at all'}.",
            subject=wish.subject,
            field="name",
            hint="Give the name of the host's configuration.",
        )
    return Wished(path=answer["path"], derivation=answer["derivation"])


def _explained(paths: SystemPaths, wish: SystemWish, error: CommandError) -> FleetError:
    """The error of Nix in the words of an operator."""
    changed = changed_input(error.stderr, _lock(paths, wish.flake))
    if changed is not None:
        return changed
    if error.field is not None or error.rc is None:
        # No flake at all, a program that is missing, or no time left.
        seen, field, hint = error.seen, error.field or "flake", error.hint
    else:
        said = _nix.reason(error)
        places = _PLACE.findall(error.stderr)
        where = f" (at {places[-1]})" if places and not _PLACE.search(said) else ""
        seen = f"nixosConfigurations.{wish.name} of {wish.flake} does not evaluate: {said}{where}"
        field, hint = "flake", None
    return CommandError(
        seen, subject=wish.subject, field=field, hint=hint, argv=error.argv, rc=error.rc, stderr=error.stderr
    )


def _lock(paths: SystemPaths, flake: str) -> Lock | None:
    """The lock file of *flake*, when it is a directory of the host and has one."""
    path = re.sub(r"^path:(//(?=/))?", "", flake.split("?", maxsplit=1)[0])
    text = _files.read_text(paths.at(os.path.join(path, "flake.lock"))) if path.startswith("/") else None
    try:
        return None if text is None else read_lock(text)
    except FleetError:
        return None


def difference(commands: Commands, old: str, new: str) -> str:
    """How the closures of two systems in the store differ, a package a line; empty when Nix does not say."""
    argv = ["nix", *_nix.FEATURES, "store", "diff-closures", old, new]
    try:
        done = commands.run(argv, timeout=120, check=False)
    except CommandError:
        return ""
    return _COLOUR.sub("", done.stdout) if done.rc == 0 else ""
