# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is not in the lists of tests/nix/options, of all that a configuration sets; read without the stand-ins."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from ansible_collections.microvm.fleet.tests.nix.fleet import HERE

# Of the profiles and of credentials: ours.  The option of microvm.nix's host module that host.nix sets
# (nixos-modules/host/options.nix) is not in the list, which is of guests.
OWN = ("fleet", "microvm.autostart")
MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")

Node = dict[str, Any]


@cache
def tree() -> Node:
    """The options of both lists, as NAME -> node; an option has its type at ``""``."""
    root: Node = {}
    for kind in ("nixos", "microvm"):
        options = json.loads((HERE / "options" / f"{kind}.json").read_text(encoding="utf-8"))["options"]
        for name, option in options.items():
            node = root
            for part in re.findall(r'"[^"]*"|[^."]+', name):
                node = node.setdefault(part.strip('"'), {})
            node[""] = option["type"]
    return root


def unlisted(said: Mapping[str, Any]) -> list[str]:
    """The options in *said*, what modules have set by path, that no list has."""
    return sorted(name for name in _unlisted(said, tree(), "") if not name.startswith(OWN))


def _unlisted(value: Any, node: Node, name: str) -> Iterator[str]:
    elements = next((key for key in ("<name>", "*") if key in node), None)
    if elements == "*" and isinstance(value, list):
        for one in value:
            yield from _unlisted(one, node["*"], f"{name}.*")
    elif elements == "<name>" and isinstance(value, dict):
        for one in value.values():
            yield from _unlisted(one, node["<name>"], f"{name}.<name>")
    elif isinstance(value, dict) and set(node) - {"", "_module"}:
        # With a type of its own beside options it takes further names, such as systemd's settings.
        free = "" in node and node[""] not in {"submodule", "null or (submodule)"}
        for key, one in value.items():
            path = f"{name}.{key}".lstrip(".")
            if key in node:
                yield from _unlisted(one, node[key], path)
            elif not free:
                yield path
    elif "" not in node:
        yield name


def faults_of_networkd(said: Mapping[str, Any]) -> list[str]:
    """Settings of systemd-networkd in *said* that NixOS does not take, or not with their value."""
    known = json.loads((HERE / "options" / "networkd.json").read_text(encoding="utf-8"))
    found = []
    for kind, units in said.get("systemd", {}).get("network", {}).items():
        for unit, sections in ({"": units} if kind == "config" else units).items() if kind in known else ():
            for section, settings in sections.items():
                keys = known[kind].get(section)
                for one in settings if isinstance(settings, list) else [settings]:
                    if isinstance(one, dict):
                        found += [
                            f"{kind}.{unit}.{section}.{key} = {value!r}"
                            for key, value in one.items()
                            if keys is None or key not in keys or not _fits(value, keys[key])
                        ]
    return found


def _fits(value: Any, kind: str | list[str]) -> bool:
    if isinstance(kind, list):
        return value in kind
    if kind == "bool":
        return value is True or value is False or value in {"yes", "no"}
    if kind == "int":
        return isinstance(value, int)
    if kind == "mac":
        return isinstance(value, str) and MAC.fullmatch(value) is not None
    return True
