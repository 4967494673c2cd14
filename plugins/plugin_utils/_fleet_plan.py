# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What would change on many hosts, guest by guest, from what modules say in check mode.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
import typing as t
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ansible_collections.microvm.fleet.plugins.plugin_utils._rollout import table

FORMAT: t.Final = 1

UNCHANGED: t.Final = "unchanged"
ERROR: t.Final = "error"
UNKNOWN: t.Final = "unknown"
# What can be the matter with a guest, in the order in which it is counted.
CHANGES: t.Final = ("create", "update", "start", "stop", "remove", "change", UNKNOWN, ERROR, UNCHANGED)

_STORE = re.compile(r"/nix/store/[0-9a-z]{32}-")


def of_host(
    host: str,
    info: Mapping[str, t.Any] | None,
    looked: Mapping[str, t.Any] | None,
    *,
    unknown: Sequence[str] | None = None,
    staged: Mapping[str, t.Any] | None = None,
) -> dict[str, t.Any]:
    """What `plan` takes of *host*.

    *info* is the result of microvm_guest_info, *looked* that of the module in check mode, each None when there is none;
    *staged* has ``results`` and ``msg`` of a call that staged before that and failed, which a check cannot see.
    """
    before, after, failed = info or {}, looked or {}, staged or {}
    unreachable = bool(before.get("unreachable") or after.get("unreachable"))
    bad = {result["name"]: result for result in failed.get("results") or () if result.get("failed")}
    error = None if bad else failed.get("msg")
    if "guests" not in before:
        error = before.get("msg") or ("gone" if unreachable else "it could not be read")
    elif "results" not in after:
        error = after.get("msg") or error or "it could not be read"
    return {
        "host": host,
        "unreachable": unreachable,
        "error": error,
        "guests": before.get("guests") or (),
        "results": [bad.get(result["name"], result) for result in after.get("results") or ()],
        "unknown": unknown or (),
    }


def plan(reads: Sequence[Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """The plan of all hosts.

    *reads* has a dictionary a host: ``host``, ``unreachable``, ``error``, ``guests`` (of microvm_guest_info, as they
    are), ``results`` (of the module in check mode, as they would be) and ``unknown`` (names of guests of which nothing
    can be said before a run has brought what builds them).  Gives ``format``, ``hosts`` (unreachable and error by
    name), ``guests`` (host, name, change, restart, reasons, actions, error), ``changes``, whether anything would, and
    ``wrong``, whether something could not be found out.
    """
    rows = [row for read in reads for row in _rows(read)]
    hosts = {
        read["host"]: {"unreachable": bool(read.get("unreachable")), "error": _line(read.get("error"))}
        for read in reads
    }
    return {
        "format": FORMAT,
        "hosts": hosts,
        "guests": rows,
        "wrong": any(row["error"] for row in rows)
        or any(host["unreachable"] or host["error"] for host in hosts.values()),
        "changes": any(row["change"] not in (UNCHANGED, ERROR) for row in rows),
    }


def _rows(read: Mapping[str, t.Any]) -> Iterator[dict[str, t.Any]]:
    before = {guest["name"]: guest for guest in read.get("guests") or ()}
    for result in read.get("results") or ():
        was = before.get(result["name"], {})
        change = _change(result, was)
        yield {
            "host": read["host"],
            "name": result["name"],
            "change": change,
            "restart": bool(was.get("active")) and any(line.endswith(": stop") for line in result.get("actions") or ()),
            "reasons": list(result.get("reasons") or ()) if change in ("update", "change") else [],
            "actions": [_words(line, result["name"]) for line in result.get("actions") or ()],
            "error": _line(result.get("msg")) if result.get("failed") else None,
        }
    for name in read.get("unknown") or ():
        actions = ["bring what builds it, which is yet to be on the host"]
        row = {"host": read["host"], "name": name, "change": UNKNOWN, "restart": False, "reasons": []}
        yield {**row, "actions": actions, "error": None}


def _change(result: Mapping[str, t.Any], was: Mapping[str, t.Any]) -> str:
    if result.get("failed"):
        return ERROR
    if not result.get("changed"):
        return UNCHANGED
    guest = result.get("guest") or {}
    if guest.get("exists") != was.get("exists", False):
        return "create" if guest.get("exists") else "remove"
    if guest.get("current") != was.get("current"):
        return "update"
    if bool(guest.get("active")) != bool(was.get("active")):
        return "start" if guest.get("active") else "stop"
    return "change"


def _words(line: str, name: str) -> str:
    """A line of `actions` without the guest's name and without the store's hashes."""
    return _STORE.sub("", line[len(name) + 2 :] if line.startswith(f"{name}: ") else line)


def _line(text: t.Any) -> str | None:
    lines = [] if text is None else [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[0] if lines else None


def lines(report: Mapping[str, t.Any]) -> list[str]:
    """The plan as lines for an operator: a table of guests that would change, what is wrong, and how many of each."""
    shown = [row for row in report["guests"] if row["change"] not in (UNCHANGED, ERROR)]
    said: list[str] = []
    if shown:
        said += table([["HOST", "GUEST", "CHANGE", "RESTART", "WHAT"], *map(_cells, shown)])
        said.append("")
    wrong = [f"{row['host']}, {_of_guest(row['name'], row['error'])}" for row in report["guests"] if row["error"]]
    wrong += [
        f"{name}: {host['error'] or 'does not answer'}"
        for name, host in report["hosts"].items()
        if host["unreachable"] or host["error"]
    ]
    if wrong:
        said += ["PROBLEMS", *wrong, ""]
    count = Counter(row["change"] for row in report["guests"])
    numbers = ", ".join(f"{count[change]} {change}" for change in CHANGES if count[change])
    total = len(report["guests"])
    said.append(f"{total} guest{'' if total == 1 else 's'}: {numbers or 'none'}.")
    return said


def _of_guest(name: str, error: str) -> str:
    """The message, which says whose it is unless it does already."""
    return error if error.startswith(f"guest {name}") else f"guest {name}: {error}"


def _cells(row: Mapping[str, t.Any]) -> list[str]:
    what = ", ".join(row["reasons"]) or "; ".join(row["actions"]) or "-"
    return [row["host"], row["name"], row["change"], "yes" if row["restart"] else "no", what]
