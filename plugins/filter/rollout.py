# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rollouts over many hosts, as the role rollout puts them together: see plugin_utils/_rollout.py."""

from __future__ import annotations

import types
import typing as t
from collections.abc import Callable

from ansible.errors import AnsibleFilterError

from ansible_collections.microvm.fleet.plugins.plugin_utils._values import plain, sequence, told

Report = dict[str, t.Any]


def _engine() -> types.ModuleType:
    """What rollouts are decided with.  Loaded when used: Ansible reads this file for any filter of the collection."""
    from ansible_collections.microvm.fleet.plugins.plugin_utils import _rollout  # noqa: PLC0415

    return _rollout


def rollout_faults(settings: t.Any, prefix: str = "microvm_rollout_") -> list[str]:
    """What is wrong with *settings* of a rollout, a line each that names the variable: *prefix* and the setting."""
    return list(_engine().faults(settings, prefix))


def rollout_entries(
    guests: t.Any, wanted: t.Any, there: t.Any, generation: t.Any = None, *, only: t.Any = None
) -> list[dict[str, t.Any]]:
    """The entries of *guests* that a rollout is about: those that *wanted* chooses, and that are *there* (names).

    With *generation*, one for all or one by name, they are to go back.  With *only*, entries have these options alone.
    """
    entries: list[dict[str, t.Any]] = _engine().entries(
        plain(sequence(guests, "guests")), wanted, sequence(there, "there"), generation, sequence(only, "only")
    )
    return entries


def rollout_begin(
    hostvars: t.Any,
    hosts: t.Any,
    settings: t.Any,
    now: str,
    *,
    read: str,
    wishes: str,
    results: t.Any,
    kind: str = "update",
    check: bool = False,
    old: str | None = None,
    path: str = "the report",
) -> Report:
    """A rollout over *hosts*, of what they have in variables with the names *read*, *wishes* and *results*.

    *read* has what ``microvm_guest_info`` said, *wishes* entries of guests, and the first of the variables *results*
    that is not empty what ``microvm_guests`` said.  *old* is the text of the report at *path*, continued if its rollout
    did not end.
    """
    engine = _engine()
    try:
        before = None if check else engine.old_report(old, path, kind)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error
    reads = [
        engine.read_of(
            host,
            told(hostvars, host, read),
            told(hostvars, host, wishes) or (),
            next(filter(None, (told(hostvars, host, one) for one in sequence(results, "results"))), None),
        )
        for host in sequence(hosts, "hosts")
    ]
    report: Report = engine.begin(reads, plain(settings), now=now, kind=kind, check=check, old=before)
    return report


def rollout_next(report: Report, batch: int, hostvars: t.Any, hosts: t.Any, read: str, *, wishes: str) -> Report:
    """The rollout as *batch* begins, after its *hosts* were read once more; names as in `rollout_begin`."""
    engine = _engine()
    kept = plain(report)
    reads = [
        engine.read_of(
            host, told(hostvars, host, read), told(hostvars, host, wishes) or (), known=kept["hosts"].get(host)
        )
        for host in sequence(hosts, "hosts")
    ]
    new: Report = engine.proceed(kept, batch, reads)
    return new


def rollout_record(
    report: Report, batch: int, hostvars: t.Any, hosts: t.Any, done: str, *, there: str, what: str = "update"
) -> Report:
    """The rollout after something was done about the guests of *batch*.

    *hosts* have in variables with the names *done* and *there* the result of the call, and that of the next one for
    hosts that said nothing in the first.  *what* is ``update``, ``soak`` (guests were asked whether they are healthy)
    or ``put_back``.
    """
    engine = _engine()
    ways: dict[str, Callable[..., Report]] = {
        "update": engine.record,
        "soak": engine.soaked,
        "put_back": engine.put_back,
    }
    if what not in ways:
        message = f"what: {what!r} is unknown. It can be {', '.join(ways)}."
        raise AnsibleFilterError(message)
    answers = [
        engine.answer_of(host, told(hostvars, host, done), told(hostvars, host, there))
        for host in sequence(hosts, "hosts")
    ]
    return ways[what](plain(report), batch, answers)


def rollout_finish(report: Report, now: str, hosts: t.Any) -> Report:
    """The rollout at its end; it has ended if it was about each of *hosts*, or if it was stopped."""
    new: Report = _engine().finish(plain(report), now=now, hosts=sequence(hosts, "hosts"))
    return new


def rollout_list(report: Report, what: str, batch: int = 0, host: str = "", *, path: str | None = None) -> list[t.Any]:
    """What *report* says.

    *what* is ``batches`` (the numbers of those to come), ``updating`` or ``updated`` (names of guests of *batch* on
    *host*), ``put_back`` (those of them that are to go back: name and generation; of all hosts without *host*),
    ``outcome`` (what became of *batch*, a line a guest), ``complaints`` (why it does not end well on *host*, a line
    each) or ``summary`` (lines for an operator; *path* is where the whole report is).
    """
    engine, kept = _engine(), plain(report)
    ways: dict[str, Callable[[], list[t.Any]]] = {
        "batches": lambda: engine.batch_numbers(kept),
        "updating": lambda: engine.at(kept, batch, host),
        "updated": lambda: engine.soaking(kept, batch, host),
        "put_back": lambda: engine.to_put_back(kept, batch, host or None),
        "outcome": lambda: engine.outcome(kept, batch),
        "complaints": lambda: engine.complaints(kept, host),
        "summary": lambda: engine.summary(kept, path),
    }
    if what not in ways:
        message = f"what: {what!r} is unknown. It can be {', '.join(ways)}."
        raise AnsibleFilterError(message)
    return ways[what]()


class FilterModule:
    """The filters of this file, as Ansible finds them."""

    def filters(self) -> dict[str, Callable[..., t.Any]]:
        """By name."""
        return {
            "rollout_begin": rollout_begin,
            "rollout_entries": rollout_entries,
            "rollout_faults": rollout_faults,
            "rollout_finish": rollout_finish,
            "rollout_list": rollout_list,
            "rollout_next": rollout_next,
            "rollout_record": rollout_record,
        }
