# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rollouts over many hosts, as the role rollout puts them together: see plugin_utils/_rollout.py."""

from __future__ import annotations

import typing as t
from collections.abc import Callable

from ansible.errors import AnsibleFilterError

from ansible_collections.microvm.fleet.plugins.plugin_utils import _rollout
from ansible_collections.microvm.fleet.plugins.plugin_utils._values import sequence

Report = dict[str, t.Any]


def rollout_faults(settings: t.Any, prefix: str = "microvm_rollout_") -> list[str]:
    """What is wrong with *settings* of a rollout, a line each that names the variable: *prefix* and the setting."""
    return list(_rollout.faults(settings, prefix))


def rollout_entries(
    guests: t.Any, wanted: t.Any, there: t.Any, generation: t.Any = None, *, only: t.Any = None
) -> list[dict[str, t.Any]]:
    """The entries of *guests* that a rollout is about: those that *wanted* chooses, and that are *there* (names).

    With *generation*, one for all or one by name, they are to go back.  With *only*, entries have these options alone.
    """
    return _rollout.entries(
        sequence(guests, "guests"), wanted, sequence(there, "there"), generation, sequence(only, "only")
    )


def rollout_begin(
    reads: t.Any,
    settings: t.Any,
    now: str,
    *,
    kind: str = "update",
    check: bool = False,
    old: str | None = None,
    path: str = "the report",
) -> Report:
    """A rollout over the hosts of *reads*.  *old* is the text of the report at *path*, continued if it did not end."""
    try:
        before = None if check else _rollout.old_report(old, path, kind)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error
    return _rollout.begin(sequence(reads, "reads"), settings, now=now, kind=kind, check=check, old=before)


def rollout_next(report: Report, batch: int, reads: t.Any) -> Report:
    """The rollout as *batch* begins, after its hosts were read once more."""
    return _rollout.proceed(report, batch, sequence(reads, "reads"))


def rollout_record(report: Report, batch: int, answers: t.Any, what: str = "update") -> Report:
    """The rollout after something was done about the guests of *batch*.

    *what* is ``update``, ``soak`` (they were asked whether they are healthy) or ``put_back``.
    """
    ways = {"update": _rollout.record, "soak": _rollout.soaked, "put_back": _rollout.put_back}
    if what not in ways:
        message = f"what: {what!r} is unknown. It can be {', '.join(ways)}."
        raise AnsibleFilterError(message)
    return ways[what](report, batch, sequence(answers, "answers"))


def rollout_finish(report: Report, now: str, hosts: t.Any) -> Report:
    """The rollout at its end; it has ended if it was about each of *hosts*, or if it was stopped."""
    return _rollout.finish(report, now=now, hosts=sequence(hosts, "hosts"))


def rollout_list(report: Report, what: str, batch: int = 0, host: str = "", *, path: str | None = None) -> list[t.Any]:
    """What *report* says.

    *what* is ``batches`` (the numbers of those to come), ``updating`` or ``updated`` (names of guests of *batch* on
    *host*), ``put_back`` (those of them that are to go back: name and generation; of all hosts without *host*),
    ``outcome`` (what became of *batch*, a line a guest), ``complaints`` (why it does not end well on *host*, a line
    each) or ``summary`` (lines for an operator; *path* is where the whole report is).
    """
    ways: dict[str, Callable[[], list[t.Any]]] = {
        "batches": lambda: _rollout.batch_numbers(report),
        "updating": lambda: _rollout.at(report, batch, host),
        "updated": lambda: _rollout.soaking(report, batch, host),
        "put_back": lambda: _rollout.to_put_back(report, batch, host or None),
        "outcome": lambda: _rollout.outcome(report, batch),
        "complaints": lambda: _rollout.complaints(report, host),
        "summary": lambda: _rollout.summary(report, path),
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
