# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rollouts over many hosts: what is asked for, which guests in which batch, and what became of each, without any I/O.

Private to the collection: it may change at any time.

A rollout is one dictionary that is the report too, so that what was decided can be read back from its file:

    format, kind (update or rollback), began, ended, stopped (why it ended early), settings
    hosts   by name: unreachable, error, drained
    guests  a list of rows: host, name, service, batch, status, reason, reasons, before and after (generation, runner)
    down    by service: its members that do not run, HOST/GUEST each, as they were seen last

Every function takes such a dictionary and gives a new one.
"""

from __future__ import annotations

import fnmatch
import json
import re
import typing as t
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Report = dict[str, t.Any]
Row = dict[str, t.Any]

FORMAT: t.Final = 1

# What can become of a guest.  The first three stand only in reports of rollouts that have not ended, or were checked.
PENDING: t.Final = "not_reached"
UPDATING: t.Final = "updating"
PLANNED: t.Final = "planned"
UPDATED: t.Final = "updated"
UNCHANGED: t.Final = "unchanged"
SKIPPED: t.Final = "skipped"
REVERTED: t.Final = "reverted"
FAILED: t.Final = "failed"
UNREACHABLE: t.Final = "unreachable"
HELD: t.Final = "held"
STATUSES: t.Final = (
    FAILED,
    REVERTED,
    UNREACHABLE,
    HELD,
    UPDATING,
    PENDING,
    PLANNED,
    UPDATED,
    SKIPPED,
    UNCHANGED,
)
# Those that count against max_failures, and those with which the whole does not end well.
FAILURES: t.Final = frozenset({FAILED, REVERTED})
BAD: t.Final = FAILURES | {UNREACHABLE, HELD, UPDATING, PENDING}

REVERTS: t.Final = ("failed", "batch")
LONGEST_SOAK: t.Final = 86400

_SIZE = re.compile(r"(\d{1,9})|(\d{1,3}(?:\.\d{1,6})?)%")


class InvalidSize(ValueError):
    """A size that is none; the text says why."""


@dataclass(frozen=True)
class Size:
    """How many guests: a number, or a percentage of those that are to change."""

    number: int = 0
    percent: float | None = None

    def of(self, total: int) -> int:
        """The number for *total* guests.  Percentages are rounded down, as Ansible's serial does, to 1 at least."""
        if self.percent is None:
            return self.number
        return max(1, int(total * self.percent / 100)) if self.percent else 0


def size(value: t.Any, *, least: int = 1) -> Size:
    """The size that *value* says: 3, "3" or "25%".  Raises InvalidSize for what is none, or is below *least*."""
    match = None if isinstance(value, bool) else _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise InvalidSize("is neither a number of guests nor a percentage.")
    if match[2] is None:
        if int(match[1]) < least:
            raise InvalidSize("means no guest at all.")
        return Size(number=int(match[1]))
    percent = float(match[2])
    if percent > 100:
        raise InvalidSize("is more than all guests.")
    if percent == 0 and least:
        raise InvalidSize("means no guest at all.")
    return Size(percent=percent)


@dataclass(frozen=True)
class Settings:
    """What is asked of a rollout."""

    canary: Size = Size(number=1)
    batches: tuple[Size, ...] = (Size(percent=25.0),)
    max_failures: int = 0
    revert: str = "failed"
    services: bool = True

    @classmethod
    def of(cls, said: Mapping[str, t.Any]) -> Settings:
        """From the part `settings` of a report, or from variables in which `faults` found nothing."""
        return cls(
            canary=size(said["canary"], least=0),
            batches=tuple(size(one) for one in _listed(said["batches"])),
            max_failures=int(said["max_failures"]),
            revert=str(said["revert"]),
            services=bool(said["services"]),
        )


def _listed(value: t.Any) -> Sequence[t.Any]:
    """A list of one for a single value, as Ansible takes its serial."""
    return value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else [value]


def faults(said: Mapping[str, t.Any], prefix: str) -> Iterator[str]:
    """What is wrong with the settings *said*, a line each that names the variable, PREFIX and the setting."""
    hint = "Give a number such as 2, or a percentage of the guests to change such as 25%."

    def line(name: str, value: t.Any, seen: str, what: str) -> str:
        return f"{prefix}{name}: {json.dumps(value, default=str)} {seen} {what}"

    try:
        size(said["canary"], least=0)
    except InvalidSize as error:
        yield line("canary", said["canary"], str(error), hint + " 0 means no canary.")
    if not _listed(said["batches"]):
        yield line("batches", said["batches"], "says no batch.", "Give a list of sizes, of which the last repeats.")
    for one in _listed(said["batches"]):
        try:
            size(one)
        except InvalidSize as error:
            yield line("batches", one, str(error), hint)
    for name, most in (("soak", LONGEST_SOAK), ("max_failures", 10**9)):
        number = _number(said[name])
        if number is None or not 0 <= number <= most:
            unit = f"seconds from 0 to {most}" if name == "soak" else "a number from 0 on"
            yield line(name, said[name], "is out of range or no whole number.", f"Give {unit}.")
    if said["revert"] not in REVERTS:
        yield line("revert", said["revert"], "is unknown.", f"It can be {' or '.join(REVERTS)}.")
    wanted = said["guests"]
    if not patterns(wanted) or not all(isinstance(one, str) for one in _listed(wanted)):
        yield line(
            "guests", wanted, "names no guest.", "Give names or patterns such as web*, as a list or with commas."
        )


def _number(value: t.Any) -> int | None:
    if isinstance(value, bool) or not re.fullmatch(r"-?\d{1,12}", str(value).strip()):
        return None
    return int(value)


def patterns(value: t.Any) -> list[str]:
    """Names and shell patterns of guests, from a list or from a text with commas."""
    if isinstance(value, str):
        value = value.split(",")
    return [str(one).strip() for one in _listed(value) if one is not None and str(one).strip()]


def chosen(name: str, wanted: Iterable[str]) -> bool:
    """Whether one of the patterns *wanted* is the guest's."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)


# --- which guest in which batch


@dataclass(frozen=True)
class Candidate:
    """A guest that is to change.  *up* says that it runs, so that the change takes it down for a while."""

    host: str
    name: str
    service: str | None = None
    up: bool = True
    # Its labels wish it to be among the first.
    preferred: bool = False


def batches(candidates: Sequence[Candidate], *, canary: Size, sizes: Sequence[Size]) -> list[list[int]]:
    """The candidates, by their places in the list, in batches: the canary's first, if any, then those of *sizes*.

    Each is in exactly one batch, and no two of one service are in the same.  A candidate that does not run goes before
    those of its service that do, for these may only go down once it is up.  Within that the services with most guests
    left go first, which needs the fewest batches, and then the hosts with the fewest guests in the batch.
    The last of *sizes* repeats; a batch has fewer guests than its size where services leave no others.
    """
    total = len(candidates)
    left = list(range(total))
    done: list[list[int]] = []
    if left and canary.of(total):
        done.append(_canaries(candidates, left, canary.of(total)))
    number = 0
    while left:
        room = sizes[min(number, len(sizes) - 1)].of(total)
        done.append(_pick(candidates, left, max(1, room)))
        number += 1
    return done


def _canaries(candidates: Sequence[Candidate], left: list[int], room: int) -> list[int]:
    """The first ones: those that are preferred, then those that run, for only they show anything; in their order."""
    batch: list[int] = []
    waits = _waiting(candidates, left)
    for place in sorted(left, key=lambda at: (not candidates[at].preferred, not candidates[at].up, at)):
        if len(batch) < room and _fits(candidates, batch, place) and place not in waits:
            batch.append(place)
    left[:] = [place for place in left if place not in batch]
    return batch


def _pick(candidates: Sequence[Candidate], left: list[int], room: int) -> list[int]:
    batch: list[int] = []
    waits = _waiting(candidates, left)
    remaining = Counter(candidates[place].service for place in left)
    hosts: Counter[str] = Counter()

    def rank(place: int) -> tuple[t.Any, ...]:
        one = candidates[place]
        of_service = remaining[one.service] if one.service is not None else 1
        return (one.up, -of_service, hosts[one.host], place)

    open_ = [place for place in left if place not in waits]
    while open_ and len(batch) < room:
        place = min(open_, key=rank)
        batch.append(place)
        hosts[candidates[place].host] += 1
        open_ = [other for other in open_ if other != place and _fits(candidates, batch, other)]
    left[:] = [place for place in left if place not in batch]
    return batch


def _fits(candidates: Sequence[Candidate], batch: Iterable[int], place: int) -> bool:
    service = candidates[place].service
    return service is None or all(candidates[other].service != service for other in batch)


def _waiting(candidates: Sequence[Candidate], left: Iterable[int]) -> set[int]:
    """Those that run while another of their service, which is to change as well, does not."""
    places = list(left)
    down = {candidates[place].service for place in places if not candidates[place].up} - {None}
    return {place for place in places if candidates[place].up and candidates[place].service in down}


# --- what modules have told


def read_of(
    host: str,
    info: Mapping[str, t.Any] | None,
    wishes: Sequence[Mapping[str, t.Any]],
    results: Mapping[str, t.Any] | None = None,
    known: Mapping[str, t.Any] | None = None,
) -> dict[str, t.Any]:
    """What `begin` and `proceed` take of *host*.

    *info* is the result of microvm_guest_info, which is not asked of a host that was gone before; *wishes* are the
    entries of the host's ``microvm_guests``; *results* is the result of the call that staged or looked; *known* is what
    the report says of the host.
    """
    before, after, was = info or {}, results or {}, known or {}
    gone = "guests" not in before and bool(before.get("unreachable") or was.get("unreachable"))
    error = None
    if "guests" not in before:
        error = before.get("msg") or was.get("error") or "gone"
    elif after and not after.get("skipped") and not after.get("results"):
        error = after.get("msg") or "the module said nothing"
    return {
        "host": host,
        "unreachable": gone or bool(after.get("unreachable")),
        "error": error,
        "drained": before.get("drained"),
        "entries": wishes,
        "guests": before.get("guests") or (),
        "results": (after.get("results") or ()) if "guests" in before else (),
    }


def answer_of(host: str, done: Mapping[str, t.Any] | None, there: Mapping[str, t.Any] | None) -> dict[str, t.Any]:
    """What `record` and the like take of *host*.

    *done* is the result of the call, and *there* that of the next one, by which a host was looked for that had said
    nothing in the first.
    """
    said, after = done or {}, there or {}
    silent = "results" not in said
    return {
        "host": host,
        "unreachable": bool(said.get("unreachable") or (silent and after.get("unreachable"))),
        "error": (said.get("msg") or "the module said nothing") if silent else None,
        "results": said.get("results") or (),
    }


# --- the beginning


def entries(
    guests: Sequence[Mapping[str, t.Any]],
    wanted: t.Any,
    there: Iterable[str],
    generation: str | Mapping[str, str] | None = None,
    only: Sequence[str] = (),
) -> list[dict[str, t.Any]]:
    """The entries of ``microvm_guests`` of one host that a rollout is about, as it hands them to the module.

    Those that *wanted* chooses and that are *there*.  Whether a guest runs is left as it is, and what the entry says of
    updates gives way to the rollout; entries that say ``update: never`` or a generation are left out.  With
    *generation*, one for all or one by name, the guests are to go back: then no entry keeps its guest out, and guests
    without an entry are among them.  With *only*, entries have these options alone.
    """
    known = set(there)
    found = {entry["name"]: dict(entry) for entry in guests if entry["name"] in known}
    if generation is not None:
        found.update({name: {"name": name} for name in sorted(known) if name not in found})
    chosen_ones = [
        {
            key: value
            for key, value in entry.items()
            if key not in ("state", "update", "generation") and (not only or key in only)
        }
        for name, entry in found.items()
        if chosen(name, patterns(wanted)) and (generation is not None or _kept_out(entry) is None)
    ]
    if generation is None:
        return chosen_ones
    to = generation if isinstance(generation, Mapping) else {entry["name"]: str(generation) for entry in chosen_ones}
    return [{**entry, "generation": to[entry["name"]]} for entry in chosen_ones]


def _kept_out(entry: Mapping[str, t.Any]) -> str | None:
    """Why no rollout is about the guest of *entry*, if so."""
    if entry.get("state") == "absent":
        return "its entry says state: absent"
    if entry.get("update") == "never":
        return "its entry says update: never"
    if entry.get("generation") is not None:
        return f"its entry says generation: {entry['generation']}"
    return None


def begin(
    reads: Sequence[Mapping[str, t.Any]],
    said: Mapping[str, t.Any],
    *,
    now: str,
    kind: str = "update",
    check: bool = False,
    old: Mapping[str, t.Any] | None = None,
) -> Report:
    """The rollout with all guests, their batches, and what was found out of them so far.

    *reads* has a dictionary a host: ``host``, ``unreachable``, ``error`` (why the host could not be worked on),
    ``drained``, ``entries`` (its ``microvm_guests``), ``guests`` (what microvm_guest_info told before anything was
    done) and ``results`` (of the call that staged, or that looked where a rollback leads).  *old* is the report of
    a rollout that did not end: its hosts and what it saw before stay.  *said* are the settings.
    """
    settings = Settings.of(said)
    before = {(row["host"], row["name"]): row for row in (old or {}).get("guests", ())}
    rows: list[Row] = []
    for read in reads:
        rows += _rows(read, said, kind=kind, check=check, before=before)
    hosts = {read["host"] for read in reads}
    report: Report = {
        "format": FORMAT,
        "kind": kind,
        "began": (old or {}).get("began", now),
        "ended": None,
        "stopped": None,
        "settings": {key: said[key] for key in ("canary", "batches", "max_failures", "revert", "services")},
        "hosts": {**(old or {}).get("hosts", {}), **{read["host"]: _host(read) for read in reads}},
        "guests": [row for row in (old or {}).get("guests", ()) if row["host"] not in hosts] + rows,
        "down": {},
    }
    report = _watch(report, reads)
    pending = [row for row in rows if row["status"] == PENDING]
    for row in pending:
        # One that does not run itself may be what has to change.
        other = _other_down(report, row, besides=[each for each in pending if not each["up"]])
        if other is not None:
            _set(row, HELD, other)
    pending = [row for row in pending if row["status"] == PENDING]
    first = max((row["batch"] or 0 for row in report["guests"] if row["host"] not in hosts), default=0) + 1
    candidates = [
        Candidate(row["host"], row["name"], row["service"] if settings.services else None, row["up"], row["preferred"])
        for row in pending
    ]
    for number, batch in enumerate(batches(candidates, canary=settings.canary, sizes=settings.batches), first):
        for place in batch:
            pending[place]["batch"] = number
            if check:
                pending[place]["status"] = PLANNED
    return _judge(report, [row for row in rows if row["status"] in FAILURES])


def _host(read: Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {
        "unreachable": bool(read.get("unreachable")),
        "error": _first_line(read.get("error")),
        "drained": bool(read.get("drained")),
    }


def _rows(
    read: Mapping[str, t.Any],
    said: Mapping[str, t.Any],
    *,
    kind: str,
    check: bool,
    before: Mapping[tuple[str, str], Mapping[str, t.Any]],
) -> Iterator[Row]:
    """The rows of one host, in the order of its entries."""
    guests = {guest["name"]: guest for guest in read.get("guests") or ()}
    results = {result["name"]: result for result in read.get("results") or ()}
    wanted, retry = patterns(said["guests"]), bool(said.get("retry"))
    wishes = list(read.get("entries") or ())
    if kind == "rollback":
        # Only those that are there can go back, with an entry or without.
        named = {entry["name"] for entry in wishes}
        wishes += [{"name": name} for name in guests if name not in named]
        gone = read.get("unreachable") or read.get("error")
        wishes = [entry for entry in wishes if gone or guests.get(entry["name"], {}).get("exists")]
    for entry in wishes:
        name = entry["name"]
        if not chosen(name, wanted):
            continue
        guest, result = guests.get(name), results.get(name)
        labels = {**((guest or {}).get("labels") or {}), **(entry.get("labels") or {})}
        earlier = before.get((read["host"], name))
        seen = _place(guest)
        row: Row = {
            "host": read["host"],
            "name": name,
            "service": str(labels["service"]) if labels.get("service") not in (None, "") else None,
            "batch": None,
            "status": UNCHANGED,
            "reason": None,
            "reasons": list((result or {}).get("reasons") or ()),
            "before": dict(earlier["before"]) if earlier is not None and earlier["before"]["runner"] else seen,
            "after": _place(result["guest"]) if check and result is not None and not result.get("failed") else seen,
            "up": bool((guest or {}).get("active")),
            "preferred": str(labels.get("canary", "")).lower() in ("true", "yes", "1"),
        }
        _first_status(row, read, entry, guest, result, kind=kind, retry=retry)
        done = (UNCHANGED, PENDING) if kind == "rollback" else (UNCHANGED,)
        if row["status"] in done and earlier is not None and row["before"]["runner"] != seen["runner"]:
            # The run that was killed had done it; the previous generation of that one is not what was asked for.
            row.update(status=UPDATED, batch=earlier["batch"], reasons=earlier["reasons"])
        yield row


def _first_status(
    row: Row,
    read: Mapping[str, t.Any],
    entry: Mapping[str, t.Any],
    guest: Mapping[str, t.Any] | None,
    result: Mapping[str, t.Any] | None,
    *,
    kind: str,
    retry: bool,
) -> None:
    """Say of *row* what is known before any batch."""
    kept_out = _kept_out(entry) if kind == "update" else None
    if read.get("unreachable"):
        _set(row, UNREACHABLE, read.get("error") or "its host does not answer")
    elif read.get("drained"):
        _set(row, SKIPPED, "its host is drained")
    elif kept_out is not None:
        _set(row, SKIPPED, kept_out)
    elif read.get("error") and not read.get("results"):
        _set(row, FAILED, read["error"])
    elif not (guest or {}).get("exists"):
        _set(row, SKIPPED, "there is no such guest yet; microvm.fleet.site creates it")
    elif result is None:
        _set(row, PENDING, None)
        row["reasons"] = row["reasons"] or ["what builds it is yet to be brought to the host"]
    elif result.get("failed"):
        _set(row, FAILED, result.get("msg"))
    elif kind == "update" and not retry and due(result["guest"]) and _rejected(result["guest"]) is not None:
        _set(row, FAILED, f"it was taken back from what is staged before: {_rejected(result['guest'])}")
    elif (result.get("changed") if kind == "rollback" else due(result["guest"])) or _unjudged(guest):
        _set(row, PENDING, None)
        if not row["reasons"] and kind == "update":
            row["reasons"] = list(_why_due(result["guest"], guest))


def due(guest: Mapping[str, t.Any]) -> bool:
    """Whether an activation would change the guest: it has another runner staged, or runs another than its own."""
    staged = guest.get("staged")
    return bool((staged and staged != guest.get("current")) or guest.get("restart_needed"))


def _rejected(guest: Mapping[str, t.Any]) -> str | None:
    """Why the guest was taken back from the runner that is staged, if it was."""
    reason = (guest.get("rejected") or {}).get(guest.get("staged"))
    return None if reason is None else str(_first_line(reason) or "it was not healthy")


def _unjudged(guest: Mapping[str, t.Any] | None) -> bool:
    """Whether it runs what nobody has found healthy yet: a run was killed."""
    return bool(guest and guest.get("active") and guest.get("judging"))


def _why_due(guest: Mapping[str, t.Any], before: Mapping[str, t.Any] | None) -> Iterator[str]:
    staged = guest.get("staged")
    if staged and staged != guest.get("current"):
        yield "runner"
    elif guest.get("restart_needed"):
        yield "restart"
    if _unjudged(before):
        yield "not judged"


def _place(guest: Mapping[str, t.Any] | None) -> dict[str, t.Any]:
    """The runner that a guest runs, or would run, and the newest generation that has it."""
    seen = guest or {}
    runner = (seen.get("booted") if seen.get("active") else None) or seen.get("current")
    return {"generation": _number_of(guest, runner), "runner": runner}


def _number_of(guest: Mapping[str, t.Any] | None, runner: str | None) -> int | None:
    """The newest generation of the guest that is *runner*."""
    kept = (guest or {}).get("generations") or ()
    return max((each["number"] for each in kept if each["runner"] == runner), default=None)


def _copied(report: Mapping[str, t.Any]) -> Report:
    """The report to be changed.  Not a deep copy of it: what templates give holds on to all of Ansible."""
    return {
        **report,
        "hosts": {name: dict(host) for name, host in report["hosts"].items()},
        "guests": [dict(row, before=dict(row["before"]), after=dict(row["after"])) for row in report["guests"]],
        "down": {service: list(members) for service, members in report["down"].items()},
    }


# --- services


def _watch(report: Report, reads: Sequence[Mapping[str, t.Any]]) -> Report:
    """The report with the members of services that *reads* found down, on hosts of *reads*; of others as before."""
    hosts = {read["host"] for read in reads}
    down: dict[str, list[str]] = {
        service: [one for one in members if one.partition("/")[0] not in hosts]
        for service, members in report["down"].items()
    }
    for read in reads:
        guests = {guest["name"]: guest for guest in read.get("guests") or ()}
        wishes = {entry["name"]: entry for entry in read.get("entries") or ()}
        for name in [*wishes, *(name for name in guests if name not in wishes)]:
            entry, guest = wishes.get(name, {}), guests.get(name)
            labels = {**((guest or {}).get("labels") or {}), **(entry.get("labels") or {})}
            if labels.get("service") in (None, "") or not _down(read, entry, guest):
                continue
            down.setdefault(str(labels["service"]), []).append(f"{read['host']}/{name}")
    report["down"] = {service: members for service, members in sorted(down.items()) if members}
    return report


def _down(read: Mapping[str, t.Any], entry: Mapping[str, t.Any], guest: Mapping[str, t.Any] | None) -> bool:
    """Whether a member of a service is to run and does not; on a host that does not answer nobody knows that it does.

    A guest that its entry has stopped, or that is not there yet, is none that anybody relies on.
    """
    if entry.get("state") in ("stopped", "absent"):
        return False
    if read.get("unreachable") or (read.get("error") and guest is None):
        return True
    if not (guest or {}).get("exists") or (guest or {}).get("active"):
        return False
    wished = entry.get("state") in ("started", "restarted") or bool((guest or {}).get("autostart"))
    return wished or ((guest or {}).get("unit") or {}).get("active_state") not in (None, "inactive")


def _other_down(report: Report, row: Mapping[str, t.Any], besides: Sequence[Mapping[str, t.Any]] = ()) -> str | None:
    """Why *row* must not go down now, as another member of its service is; *besides* are those that do not count."""
    if not report["settings"]["services"] or not row["up"]:
        return None
    left_out = {f"{each['host']}/{each['name']}" for each in (row, *besides)}
    others = [one for one in report["down"].get(row["service"], ()) if one not in left_out]
    if not others:
        return None
    return f"{others[0]} of service {row['service']} is down" + (f", and {len(others) - 1} more" if others[1:] else "")


# --- batch by batch


def batch_numbers(report: Mapping[str, t.Any]) -> list[int]:
    """The batches that are to come, in their order."""
    return sorted({row["batch"] for row in report["guests"] if row["status"] == PENDING and row["batch"] is not None})


def proceed(report: Mapping[str, t.Any], number: int, reads: Sequence[Mapping[str, t.Any]]) -> Report:
    """The report as batch *number* begins, after the hosts were read once more.

    Guests of the batch are marked; those whose host has gone since, or of whose service another member is down by now,
    are not.
    """
    new = _watch(_copied(report), reads)
    states = {read["host"]: read for read in reads}
    for host, read in states.items():
        if read.get("unreachable"):
            new["hosts"][host].update(unreachable=True, error=_first_line(read.get("error")))
            for row in new["guests"]:
                if row["host"] == host and row["status"] == PENDING:
                    _set(row, UNREACHABLE, read.get("error") or "its host does not answer")
    for row in _of_batch(new, number, PENDING):
        read = states.get(row["host"], {})
        guest = next((each for each in read.get("guests") or () if each["name"] == row["name"]), None)
        if guest is not None:
            row["up"] = bool(guest.get("active"))
        if read.get("drained"):
            _set(row, SKIPPED, "its host is drained")
            continue
        other = _other_down(new, row)
        if other is not None:
            _set(row, HELD, other)
        else:
            row["status"] = UPDATING
    return new


def at(report: Mapping[str, t.Any], number: int, host: str) -> list[str]:
    """The names of the guests of batch *number* on *host* that are being changed."""
    return [row["name"] for row in _of_batch(report, number, UPDATING) if row["host"] == host]


def soaking(report: Mapping[str, t.Any], number: int, host: str) -> list[str]:
    """The names of the guests of batch *number* on *host* that were changed and run."""
    return [row["name"] for row in _of_batch(report, number, UPDATED) if row["host"] == host and row["up"]]


def record(report: Mapping[str, t.Any], number: int, answers: Sequence[Mapping[str, t.Any]]) -> Report:
    """The report after the guests of batch *number* were worked on.

    *answers* has a dictionary a host: ``host``, ``unreachable``, ``error`` and ``results`` of the module's call.
    """
    new = _copied(report)
    said = {answer["host"]: answer for answer in answers}
    batch = list(_of_batch(new, number, UPDATING))
    for row in batch:
        answer = said.get(row["host"], {})
        result = next((each for each in answer.get("results") or () if each["name"] == row["name"]), None)
        if answer.get("unreachable"):
            _lose(new, answer)
            continue
        if result is None:
            _set(row, FAILED, answer.get("error") or "its host said nothing of it")
            continue
        row["after"] = _place(result.get("guest"))
        row["up"] = bool((result.get("guest") or {}).get("active"))
        if row["before"]["generation"] is None:
            # What the collection had not made is kept as a generation since.
            row["before"]["generation"] = _number_of(result.get("guest"), row["before"]["runner"])
        if result.get("reverted"):
            _set(row, REVERTED, result["reverted"].get("reason") or result.get("msg"))
        elif result.get("failed"):
            _set(row, FAILED, result.get("msg"))
        else:
            _set(row, UPDATED if result.get("changed") or row["after"] != row["before"] else UNCHANGED, None)
    return _judge(new, batch)


def _lose(report: Report, answer: Mapping[str, t.Any]) -> None:
    """Say that a host has gone, with all that was to change there."""
    report["hosts"][answer["host"]].update(unreachable=True, error=_first_line(answer.get("error")))
    for row in report["guests"]:
        if row["host"] == answer["host"] and row["status"] in (PENDING, UPDATING):
            _set(row, UNREACHABLE, answer.get("error") or "its host does not answer")
        elif row["host"] == answer["host"] and row["service"] is not None:
            members = report["down"].setdefault(row["service"], [])
            if f"{row['host']}/{row['name']}" not in members:
                members.append(f"{row['host']}/{row['name']}")


def soaked(report: Mapping[str, t.Any], number: int, answers: Sequence[Mapping[str, t.Any]]) -> Report:
    """The report after the guests of batch *number* were asked again whether they are healthy.

    *answers* has a dictionary a host, with ``results``: name, healthy and reason of each guest.  Those that are not
    are failures, to be put back.
    """
    new = _copied(report)
    said = {answer["host"]: answer for answer in answers}
    batch = [row for row in _of_batch(new, number, UPDATED) if row["up"]]
    for row in batch:
        answer = said.get(row["host"], {})
        result = next((each for each in answer.get("results") or () if each["name"] == row["name"]), None)
        if answer.get("unreachable"):
            _lose(new, answer)
            _set(row, UNREACHABLE, answer.get("error") or "its host does not answer")
        elif result is None:
            _set(
                row, FAILED, f"not found healthy after the soak: {answer.get('error') or 'its host said nothing of it'}"
            )
        elif not result.get("healthy"):
            _set(row, FAILED, f"not healthy after the soak: {result.get('reason') or 'no reason was given'}")
            row["put_back"] = True
    return _judge(new, batch)


def to_put_back(report: Mapping[str, t.Any], number: int, host: str | None) -> list[dict[str, t.Any]]:
    """Guests of batch *number* on *host* (on any, if None) that are to go back, each with name and generation."""
    whole = report["stopped"] is not None and report["settings"]["revert"] == "batch"
    return [
        {"name": row["name"], "generation": str(row["before"]["generation"])}
        for row in _of_batch(report, number)
        if host in (None, row["host"])
        and (row.get("put_back") or (whole and row["status"] == UPDATED))
        and row["before"]["generation"] is not None
        and row["before"]["generation"] != row["after"]["generation"]
    ]


def put_back(report: Mapping[str, t.Any], number: int, answers: Sequence[Mapping[str, t.Any]]) -> Report:
    """The report after those of `to_put_back` were put back; *answers* as of `record`."""
    new = _copied(report)
    said = {answer["host"]: answer for answer in answers}
    for row in _of_batch(new, number):
        answer = said.get(row["host"], {})
        if row["name"] not in [entry["name"] for entry in to_put_back(report, number, row["host"])]:
            continue
        result = next((each for each in answer.get("results") or () if each["name"] == row["name"]), None)
        why = row["reason"] or "put back with its batch"
        row.pop("put_back", None)
        if result is None or result.get("failed"):
            seen = (result or answer).get("msg") or answer.get("error") or "its host said nothing of it"
            _set(row, FAILED, f"{why}; could not be put back: {_first_line(seen)}")
            continue
        row["after"] = _place(result.get("guest"))
        _set(row, REVERTED, why)
    return new


def finish(report: Mapping[str, t.Any], *, now: str, hosts: Iterable[str]) -> Report:
    """The report at the end.  It has ended if it was stopped, or if it was about each of *hosts*."""
    new = _copied(report)
    for row in new["guests"]:
        row.pop("put_back", None)
    if new["stopped"] is not None or set(hosts) <= set(new["hosts"]):
        new["ended"] = now
    return new


def _of_batch(report: Mapping[str, t.Any], number: int, status: str | None = None) -> Iterator[Row]:
    return (row for row in report["guests"] if row["batch"] == number and (status is None or row["status"] == status))


def _judge(report: Report, batch: Iterable[Row]) -> Report:
    """The report, stopped if too many guests have failed by now."""
    failures = [row for row in report["guests"] if row["status"] in FAILURES]
    allowed = int(report["settings"]["max_failures"])
    if report["stopped"] is None and len(failures) > allowed and any(row["status"] in FAILURES for row in batch):
        names = ", ".join(f"{row['host']}/{row['name']}" for row in failures[:3])
        more = f" and {len(failures) - 3} more" if failures[3:] else ""
        report["stopped"] = f"{len(failures)} failed ({names}{more}), and {allowed} may"
    return report


def _set(row: Row, status: str, reason: t.Any) -> None:
    row.update(status=status, reason=None if reason is None else str(reason))


def _first_line(text: t.Any) -> str | None:
    """One line of *text* that is short enough for a table."""
    lines = [] if text is None else [line.strip() for line in str(text).splitlines() if line.strip()]
    if not lines:
        return None
    return lines[0] if len(lines[0]) <= 200 else lines[0][:197] + "..."


# --- what operators read


def old_report(text: str | None, path: str, kind: str = "update") -> dict[str, t.Any] | None:
    """The report in *text*, the content of *path*, if it is of a rollout of this *kind* that did not end.

    Raises ValueError when it is no report at all.
    """
    if not text:
        return None
    try:
        report = json.loads(text)
        if report["format"] != FORMAT:
            raise ValueError(f"{path}: a report of format {report['format']}, and this is {FORMAT}. Move it away.")
        unfinished = report["ended"] is None and report["kind"] == kind
        rows = report["guests"]
        if unfinished and all({"host", "name", "before", "batch", "reasons"} <= set(row) for row in rows):
            return dict(report)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: is no report of a rollout. Move it away, or name another file.") from error
    return None


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """*rows* of text, the first of which is the head, as lines with columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def summary(report: Mapping[str, t.Any], path: str | None = None) -> list[str]:
    """The report as lines for an operator: guests that are not as they were or should be, why, and how many of each.

    *path* is where the whole report is.
    """
    shown = sorted(
        (row for row in report["guests"] if row["status"] != UNCHANGED),
        key=lambda row: row["batch"] if row["batch"] is not None else 10**9,
    )
    lines: list[str] = []
    if shown:
        head = ["BATCH", "HOST", "GUEST", "SERVICE", "STATUS", "GENERATION", "WHAT CHANGES"]
        lines += table([head, *map(_cells, shown)])
    told = [
        f"{row['host']}, guest {row['name']}: {row['status'].replace('_', ' ')}: {_first_line(row['reason'])}"
        for row in shown
        if row["reason"]
    ]
    told += [
        f"{name}: {host['error']}"
        for name, host in report["hosts"].items()
        if host["error"] and not _named(report, name)
    ]
    if told:
        lines += ["", "WHY", *told]
    if lines:
        lines.append("")
    count = Counter(row["status"] for row in report["guests"])
    numbers = ", ".join(f"{count[status]} {status.replace('_', ' ')}" for status in STATUSES if count[status])
    total = len(report["guests"])
    lines.append(f"{total} guest{'' if total == 1 else 's'}: {numbers or 'none'}.")
    if report["stopped"] is not None:
        lines.append(f"The rollout was stopped: {report['stopped']}.")
    if path is not None:
        lines.append(f"Report: {path}")
    return lines


def _named(report: Mapping[str, t.Any], host: str) -> bool:
    return any(row["host"] == host and row["reason"] for row in report["guests"])


def _cells(row: Mapping[str, t.Any]) -> list[str]:
    before, after = row["before"]["generation"], row["after"]["generation"]
    numbers = "-" if before is None else str(before)
    if after is not None and after != before:
        numbers = f"{numbers} to {after}"
    return [
        "-" if row["batch"] is None else str(row["batch"]),
        row["host"],
        row["name"],
        row["service"] or "-",
        row["status"].replace("_", " "),
        numbers,
        ", ".join(row["reasons"]) or "-",
    ]


def outcome(report: Mapping[str, t.Any], number: int) -> list[str]:
    """What became of the guests of batch *number*, a line each."""
    return [
        f"{row['host']}, guest {row['name']}: {row['status'].replace('_', ' ')}"
        + (f": {_first_line(row['reason'])}" if row["reason"] else "")
        for row in _of_batch(report, number)
    ]


def complaints(report: Mapping[str, t.Any], host: str) -> list[str]:
    """Why the run does not end well on *host*, a line a guest; none if it does."""
    bad = [row for row in report["guests"] if row["host"] == host and row["status"] in BAD]
    lines = [
        f"guest {row['name']}: {row['status']}" + (f": {_first_line(row['reason'])}" if row["reason"] else "")
        for row in bad
        if row["status"] != PENDING
    ]
    left = sum(1 for row in bad if row["status"] == PENDING)
    if left:
        lines.append(f"{left} guest{'s' if left > 1 else ''} not reached, as the rollout was stopped.")
    state = report["hosts"].get(host, {})
    if not lines and (state.get("unreachable") or state.get("error")):
        lines = [str(state.get("error") or "does not answer")]
    return lines
