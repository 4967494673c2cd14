# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is left to do of a move of a guest from one host to another: pure functions of how it is on both.

Private to the collection: it may change at any time.

Going forward and going back are each one list of steps, of which the beginning is left out that is done already.  So a
run that was killed anywhere is gone on with, or undone, by looking at both hosts again.

    the old host's mark   the new host's mark   the guest starts on
    none                  none, or arriving     the old host
    leaving               arriving              neither (it is being copied, or is copied); when nobody goes on with
                                                that, the old host takes its mark away and has it back
    trying                arriving              neither
    trying                none                  the new host
    moved                 none                  the new host
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping

from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish

View = Mapping[str, t.Any]
Step = dict[str, str]

SOURCE: t.Final = "source"
TARGET: t.Final = "target"

# All steps and where they are done: those of the controller concern both hosts.
FORWARD: t.Final = (
    (TARGET, "check"),
    (TARGET, "announce"),
    ("controller", "closure"),
    (SOURCE, "leave"),
    (SOURCE, "stop"),
    ("controller", "copy"),
    (TARGET, "place"),
    (SOURCE, "hand_over"),
    (TARGET, "accept"),
    (TARGET, "start"),
    (SOURCE, "release"),
)
BACK: t.Final = (
    (TARGET, "hold"),
    (SOURCE, "take_back"),
    (SOURCE, "resume"),
    (TARGET, "withdraw"),
)


def forward(name: str, views: Mapping[str, View | None], hosts: Mapping[str, str], *, new: str) -> dict[str, t.Any]:
    """The steps that bring guest *name* to the new host, and the name of the move, *new* for one that begins.

    *views* has the views of both hosts, ``source`` and ``target``, None for one that does not answer; *hosts* their
    names.  Raises InvalidWish when the guest cannot be moved as it is.
    """
    old, there = views[SOURCE], views[TARGET]
    if old is None or there is None:
        raise _wrong(
            name,
            f"host {hosts[SOURCE if old is None else TARGET]} does not answer.",
            "Nothing was changed by this run. Run it again when the host is back.",
        )
    phase = _of_source(name, old, hosts)
    waiting = there["phase"] == "arriving"
    if phase is None:
        return _begin(name, old, there, hosts, new)
    move = str(old["move"])
    same = waiting and there["move"] == move
    if phase == "moved":
        if not there["exists"]:
            raise _wrong(
                name,
                f"it was moved to {hosts[TARGET]}, and is not there any more.",
                f"If it is to be made anew, remove /var/lib/microvm-fleet/moving/{name}.json on {hosts[SOURCE]}.",
            )
        return _plan([(SOURCE, "release")] if old["traces"] else [], move)
    if phase == "trying":
        if same:
            return _plan(_since("accept", old), move)
        if there["exists"] and there["phase"] is None:
            return _plan(_since("start", old), move)
        raise _wrong(
            name,
            f"{hosts[SOURCE]} has handed it over, and {hosts[TARGET]} does not have it.",
            "Say microvm_migrate_back=true to have it back.",
        )
    if there["phase"] not in (None, "arriving", "moved") or (waiting and there["other"] != hosts[SOURCE]):
        raise _elsewhere(name, there, hosts[TARGET])
    if waiting and not same:
        return _plan([(TARGET, "withdraw"), *_since("check", old)], move)
    if not waiting and there["traces"]:
        raise _wrong(
            name, f"{hosts[TARGET]} has a guest of that name.", "Say microvm_migrate_back=true, and remove it."
        )
    if not waiting:
        return _plan(_since("check", old), move)
    if there["exists"]:
        # What is placed was copied whole.  Placing it again ends what a run that was killed has begun.
        return _plan(_since("place", old), move)
    left = [step for step in _since("closure", old) if step[1] != "leave"]
    if there["copied"] and not old["up"]:
        left = [step for step in left if step[1] != "copy"]
    return _plan(left, move)


def _begin(name: str, old: View, there: View, hosts: Mapping[str, str], new: str) -> dict[str, t.Any]:
    if not old["exists"]:
        if there["exists"] and there["phase"] is None:
            return _plan([], new)
        raise _wrong(name, f"there is no such guest on {hosts[SOURCE]}.", "Say which host it is on.")
    if there["phase"] == "arriving":
        if there["other"] != hosts[SOURCE]:
            raise _elsewhere(name, there, hosts[TARGET])
        # What is left of a move that was undone while the new host did not answer.
        return _plan([(TARGET, "withdraw"), *_since("check", old)], new)
    if there["traces"]:
        raise _wrong(name, f"{hosts[TARGET]} has a guest of that name.", "Remove it there, or choose another host.")
    if there["phase"] not in (None, "moved"):
        raise _elsewhere(name, there, hosts[TARGET])
    return _plan(_since("check", old), new)


def back(name: str, views: Mapping[str, View | None], hosts: Mapping[str, str]) -> dict[str, t.Any]:
    """The steps that have guest *name* on the old host as it was, with as many of them as the hosts allow.

    Raises InvalidWish when nobody may say where the guest is to be.
    """
    old, there = views[SOURCE], views[TARGET]
    if old is None:
        raise _wrong(
            name,
            f"host {hosts[SOURCE]} does not answer; what it says of the move holds until it does.",
            "Run it again when the host is back.",
        )
    phase = _of_source(name, old, hosts)
    ours = there is not None and there["phase"] == "arriving" and there["other"] == hosts[SOURCE]
    if phase is None:
        return _plan([(TARGET, "withdraw")] if ours else [], str(there["move"]) if there is not None and ours else "")
    move = str(old["move"])
    if phase == "moved":
        raise _wrong(name, f"it is on {hosts[TARGET]} already.", "Move it back with the hosts the other way round.")
    if there is None:
        if phase == "trying":
            raise _wrong(
                name,
                f"{hosts[TARGET]} does not answer, and may run it; so {hosts[SOURCE]} must not start it.",
                "Run it again when the host is back. If it never will be, and does not run any more, remove "
                f"/var/lib/microvm-fleet/moving/{name}.json on {hosts[SOURCE]} and start the guest there.",
            )
        return _plan([(SOURCE, "resume")], move)
    if phase == "leaving" and there["phase"] is None and there["traces"]:
        raise _wrong(
            name,
            f"{hosts[TARGET]} has a guest of that name, which nothing holds there.",
            f"Remove it there first, so that the two never run at once; then {hosts[SOURCE]} can have it back.",
        )
    steps: list[tuple[str, str]] = []
    if phase == "trying":
        if there["phase"] is None and there["traces"]:
            steps.append((TARGET, "hold"))
            ours = True
        steps.append((SOURCE, "take_back"))
    # The new host's mark holds it there, so the old one need not wait until nothing is left of it, which may fail.
    steps.append((SOURCE, "resume"))
    if ours:
        steps.append((TARGET, "withdraw"))
    return _plan(steps, move)


def _of_source(name: str, old: View, hosts: Mapping[str, str]) -> str | None:
    """The phase of the move between these hosts, None when there is none.  Raises InvalidWish for another move."""
    phase = old["phase"]
    if phase is None:
        return None
    if phase == "arriving" or (old["other"] != hosts[TARGET] and phase != "moved"):
        raise _elsewhere(name, old, hosts[SOURCE])
    if phase == "moved" and old["other"] != hosts[TARGET]:
        raise _wrong(name, f"it was moved from {hosts[SOURCE]} to {old['other']}.", "Say which host it is on.")
    if phase not in ("leaving", "trying", "moved"):
        raise _wrong(
            name,
            f"{hosts[SOURCE]} says of it what nobody understands: {phase}.",
            f"See /var/lib/microvm-fleet/moving/{name}.json there.",
        )
    return str(phase)


def _elsewhere(name: str, seen: View, host: str) -> InvalidWish:
    way = "from" if seen["phase"] == "arriving" else "to"
    return _wrong(
        name,
        f"on {host} it is marked as {seen['phase']}, in a move {way} {seen['other']}.",
        "End that move first, by running it again with its hosts.",
    )


def _since(first: str, old: View) -> list[tuple[str, str]]:
    """The steps from *first* on; a guest that did not run is not started."""
    steps = [step for _host, step in FORWARD]
    left = list(FORWARD[steps.index(first) :])
    return left if old["ran"] else [step for step in left if step[1] != "start"]


def _plan(steps: t.Iterable[tuple[str, str]], move: str) -> dict[str, t.Any]:
    return {"move": move, "steps": [{"host": host, "step": step} for host, step in steps]}


def _wrong(name: str, seen: str, hint: str) -> InvalidWish:
    return InvalidWish(seen, subject=f"guest {name}", field="move", hint=hint)
