# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What one host builds for many: which guests need it, and what of it is for whom."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Mapping

from ansible.errors import AnsibleFilterError

from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import DESCRIBED
from ansible_collections.microvm.fleet.plugins.plugin_utils._values import sequence, told

Values = dict[str, t.Any]

# Updates that take a runner from its source.
_TAKE: t.Final = ("stage", "activate")


def build_needs(guests: t.Any, there: t.Any, update: str = "never", described: t.Any = None) -> dict[str, list[Values]]:
    """The guests of one host that need a runner, by where that comes from.

    *guests* are entries of ``microvm_guests``, *there* is what ``microvm_guest_info`` says of them, *update* holds for
    those that say nothing else, and *described* are the entries of guests.json by name.  Gives ``sources``, each with
    ``flake``, ``guest`` and ``recorded``, and ``described``, each with ``name``, ``entry`` and ``recorded``.
    """
    known = {guest["name"]: guest for guest in sequence(there, "there")}
    entries = described or {}
    needs: dict[str, list[Values]] = {"sources": [], "described": []}
    for entry in sequence(guests, "guests"):
        if not isinstance(entry, Mapping) or "name" not in entry:
            message = f"guests: {entry!r} has no name."
            raise AnsibleFilterError(message)
        name = entry["name"]
        guest = known.get(name) or {"exists": False}
        if not _asks(entry, guest, update):
            continue
        recorded = guest["locked"] if guest["exists"] and not _lost(guest) else None
        if name in entries:
            needs["described"].append({"name": name, "entry": dict(entries[name]), "recorded": recorded})
            continue
        flake = entry.get("flake") or guest.get("flake")
        if flake and flake != DESCRIBED:
            needs["sources"].append({"flake": flake, "guest": name, "recorded": recorded})
    return needs


def _asks(entry: Mapping[str, t.Any], guest: Mapping[str, t.Any], update: str) -> bool:
    """Whether the guest needs a runner that is to be found out; as the module itself sees it."""
    if entry.get("state") == "absent" or entry.get("runner") or guest.get("owner") == "nixos":
        return False
    if not guest["exists"]:
        return True
    return entry.get("generation") is None and (entry.get("update") or update) in _TAKE


def _lost(guest: Mapping[str, t.Any]) -> bool:
    return any(problem.startswith("missing runner") for problem in guest.get("problems", ()))


def build_sources(hostvars: t.Any, hosts: t.Any, needs: str) -> dict[str, list[Values]]:
    """What all *hosts* together need, for the module ``microvm_build``: its options ``sources`` and ``described``.

    *needs* is the variable that has on each host what `build_needs` gave there, or is not there.  A guest counts as
    recorded when all hosts that need it have it so.
    """
    flakes: dict[str, dict[str, set[str | None]]] = {}
    described: list[Values] = []
    for each in filter(None, (told(hostvars, host, needs) for host in sequence(hosts, "hosts"))):
        for source in each["sources"]:
            flakes.setdefault(source["flake"], {}).setdefault(source["guest"], set()).add(source["recorded"])
        described += [entry for entry in each["described"] if entry not in described]
    sources = []
    for flake, guests in sorted(flakes.items()):
        recorded = {
            name: sorted(one for one in seen if one is not None) for name, seen in guests.items() if None not in seen
        }
        sources.append({"flake": flake, "guests": sorted(guests), "recorded": recorded})
    return {"sources": sources, "described": described}


def build_share(built: t.Any, needs: t.Any, wanted: t.Any) -> Values:
    """What of *built*, the result of ``microvm_build``, is for the host with these *needs*.

    *wanted* is what `build_sources` gave.  Gives ``evaluated`` for ``microvm_guests``, and ``runners`` that have to be
    on the host.
    """
    evaluated: dict[str, Values] = {}
    found = built.get("evaluated") or {}
    for source in needs["sources"]:
        flake = found.get(source["flake"])
        if flake is not None:
            mine = evaluated.setdefault(source["flake"], {"identity": flake["identity"], "guests": {}})
            if source["guest"] in flake["guests"]:
                mine["guests"][source["guest"]] = flake["guests"][source["guest"]]
    for entry in needs["described"] if DESCRIBED in found else ():
        flake = found[DESCRIBED]
        identity = built["identities"][wanted["described"].index(entry)]
        mine = evaluated.setdefault(DESCRIBED, {"identity": flake["identity"], "guests": {}})
        if identity in flake["guests"]:
            mine["guests"][identity] = flake["guests"][identity]
    paths = (guest.get("path") for flake in evaluated.values() for guest in flake["guests"].values())
    return {"evaluated": evaluated, "runners": sorted({path for path in paths if path})}


class FilterModule:
    """The filters of this file, as Ansible finds them."""

    def filters(self) -> dict[str, Callable[..., t.Any]]:
        """By name."""
        return {"build_needs": build_needs, "build_share": build_share, "build_sources": build_sources}
