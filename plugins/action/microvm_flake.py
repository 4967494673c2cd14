# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of M(microvm.fleet.microvm_flake) happens on the controller: checks, and the files that go to the host."""

from __future__ import annotations

import base64
import os
import typing as t
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._flake_wish import (
    BYTES_LIMIT,
    FILES_LIMIT,
    SUBJECT,
    credential_faults,
    flake_spec,
    pack,
    read_references,
    read_update,
    relative_faults,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import name_faults

# Reads a file of the controller, decrypting what Ansible Vault has encrypted.
Reader = Callable[[str], bytes]

ROLES = Path(__file__).resolve().parents[2] / "roles"
STATIC = ROLES / "flake" / "files" / "microvm-fleet"
# Options that are about files of the controller, and mean nothing on the host.
HERE = ("guests", "search")


def arguments(given: Mapping[str, t.Any], read: Reader) -> dict[str, t.Any]:
    """The module's arguments for what the task says.  Raises InvalidWish with all that is wrong."""
    args = {name: value for name, value in given.items() if name not in HERE}
    if args.get("state") == "absent":
        return args
    read_update(args.get("update"), read_references(_filled(args)))
    search = [str(one) for one in _list(given.get("search"), "search") if one]
    wrong: list[InvalidWish] = []
    files = {name: path.read_bytes() for name, path in static_files()}
    secrets: dict[str, dict[str, dict[str, str]]] = {}
    for number, guest in enumerate(_list(given.get("guests"), "guests"), 1):
        if not isinstance(guest, Mapping) or not guest.get("hypervisor"):
            continue
        name = str(guest.get("name") or "")
        subject = f"guest {name}" if name else f"guest number {number} of the list"
        if list(name_faults(name)):
            wrong.append(InvalidWish(f"{name!r} is no name of a guest.", subject=subject, field="name"))
            continue
        # The files of a guest that goes, go too.
        secrets[name] = {}
        if guest.get("state") == "absent":
            continue
        try:
            for path in _list(guest.get("modules"), "modules"):
                files.update(module_files(str(path), search, read))
            secrets[name] = credentials(guest.get("credentials"), search, read)
        except InvalidWish as error:
            wrong.append(InvalidWish(error.seen, subject=subject, field=error.field, hint=error.hint))
    if wrong:
        raise InvalidWish("\n".join(error.text() for error in wrong))
    if len(files) > FILES_LIMIT or sum(map(len, files.values())) > BYTES_LIMIT:
        raise InvalidWish(
            f"{len(files)} files of {sum(map(len, files.values())) >> 10} KiB are to be sent.",
            subject=SUBJECT,
            field="modules",
            hint=f"Name directories with Nix files only; {FILES_LIMIT} files of {BYTES_LIMIT >> 20} MiB is the limit.",
        )
    args["files"] = pack({name: _text(content) for name, content in files.items()})
    args["secrets"] = pack(secrets)
    return args


def _filled(args: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """*args* with the module's defaults."""
    return {name: args.get(name, option.get("default")) for name, option in flake_spec().items()}


def static_files() -> Iterator[tuple[str, Path]]:
    """The files of the collection, by their path below the directory on the host."""
    for path in sorted(STATIC.rglob("*")):
        place = path.relative_to(STATIC)
        if path.is_file() and not any(part.startswith(".") for part in place.parts):
            yield place.as_posix(), path


def module_files(path: str, search: Sequence[str], read: Reader) -> dict[str, bytes]:
    """The file *path*, or all files of the directory *path*, by their path on the host."""
    for seen in relative_faults(path):
        raise InvalidWish(
            seen,
            field="modules",
            hint="Give a path from beside the inventory or the playbook on, such as nixos/web.nix.",
        )
    found = _find(path, search, "modules")
    if not os.path.isdir(found):
        return {f"modules/{path}": read(found)}
    files: dict[str, bytes] = {}
    for place, below, names in os.walk(found):
        below[:] = sorted(one for one in below if not one.startswith("."))
        for name in sorted(names):
            file = os.path.join(place, name)
            if not name.startswith("."):
                files[f"modules/{path}/{Path(file).relative_to(found).as_posix()}"] = read(file)
            if len(files) > FILES_LIMIT:
                raise InvalidWish(
                    f"{found} has more than {FILES_LIMIT} files.", field="modules", hint="Name its files."
                )
    if f"modules/{path}/default.nix" not in files:
        raise InvalidWish(f"the directory {found} has no default.nix.", field="modules", hint="Name a file in it.")
    return files


def credentials(given: t.Any, search: Sequence[str], read: Reader) -> dict[str, dict[str, str]]:
    """The credentials of one guest, as the module takes them."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidWish(f"{given!r} is no dictionary.", field="credentials", hint="Give NAME: {src: FILE}.")
    found: dict[str, dict[str, str]] = {}
    for name, entry in given.items():
        field = f"credentials.{name}"
        for seen in credential_faults(str(name)):
            raise InvalidWish(seen, field="credentials", hint="Use letters, digits, '.', '_' and '-'.")
        if not isinstance(entry, Mapping) or len(entry) != 1 or not {"src", "path"} & set(entry):
            raise InvalidWish(
                "is not one of src and path.",
                field=field,
                hint="Give src for a file on the controller, or path for one that is on the host.",
            )
        if "path" in entry:
            path = str(entry["path"])
            if not path.startswith("/") or ".." in path.split("/"):
                raise InvalidWish(f"{path!r} is no absolute path.", field=f"{field}.path", hint="Give it from / on.")
            found[str(name)] = {"path": path}
            continue
        place = _find(str(entry["src"]), search, f"{field}.src")
        try:
            content = read(place)
        except InvalidWish as error:
            raise InvalidWish(error.seen, field=f"{field}.src", hint=error.hint) from error
        if not content:
            raise InvalidWish(f"{entry['src']} is empty.", field=f"{field}.src", hint="Put the secret into it.")
        found[str(name)] = {"content": _text(content)}
    return found


def _find(path: str, search: Sequence[str], field: str) -> str:
    """Where *path* is on the controller."""
    places = [os.path.join(place, path) for place in search] or [os.path.abspath(path)]
    for place in places:
        if os.path.exists(place):
            return place
    raise InvalidWish(
        f"{path} is not there; looked for {', '.join(dict.fromkeys(places))}.",
        field=field,
        hint="Put it beside the inventory or the playbook.",
    )


def _list(value: t.Any, field: str) -> Sequence[t.Any]:
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise InvalidWish(f"{value!r} is no list.", field=field, hint="Give a list.")
    return value


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


class ActionModule(ActionBase):  # type: ignore[misc, unused-ignore]
    """The action of the module of this name."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Check, pack, and call the module."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        del tmp
        try:
            args = arguments(self._task.args, self._read)
        except FleetError as error:
            return {**result, "failed": True, **error.as_dict()}
        result.update(
            self._execute_module(module_name="microvm.fleet.microvm_flake", module_args=args, task_vars=task_vars or {})
        )
        return result

    def _read(self, path: str) -> bytes:
        """The file *path* of the controller, decrypted if it is Vault's."""
        try:
            return Path(self._loader.get_real_file(path)).read_bytes()
        except (OSError, AnsibleError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise InvalidWish(f"{path} cannot be read: {why}.", hint="See that you may read it.") from error
        finally:
            self._loader.cleanup_all_tmp_files()
