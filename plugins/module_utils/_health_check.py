# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether guests that run are healthy now.  What the module microvm_health calls.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils import _systemd
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish, explaining
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import name_faults
from ansible_collections.microvm.fleet.plugins.module_utils._health_run import await_healthy
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import Health, health_spec, read_health
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import Unit

# Addresses of guests that are described on the host, by their names.
Described = t.Callable[[], t.Mapping[str, t.Sequence[str]]]


@dataclass
class Result:
    """What was found of each guest."""

    results: list[dict[str, t.Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """The messages of the guests that are not healthy."""
        return [result["msg"] for result in self.results if result["failed"]]


def checks_spec() -> dict[str, t.Any]:
    """The argument spec of the option that lists guests."""
    return {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            # As the modules for guests take them; only addresses count.
            "interfaces": {"type": "list", "elements": "dict"},
            **health_spec(),
        },
    }


def read_checks(entries: t.Sequence[t.Mapping[str, t.Any]], described: Described) -> dict[str, Health]:
    """What healthy means of each guest of *entries*, by their names and in their order.

    *described* is called for guests whose entry says no address.  Raises InvalidWish with all that is wrong.
    """
    wrong: list[FleetError] = []
    healths: dict[str, Health] = {}
    known: t.Mapping[str, t.Sequence[str]] | None = None
    for number, entry in enumerate(entries, 1):
        name = str(entry["name"])
        faults = list(name_faults(name))
        subject = f"guest number {number} of the list" if faults else f"guest {name}"

        def say(option: str, seen: str, hint: str, subject: str = subject) -> None:
            wrong.append(InvalidWish(seen, subject=subject, field=option, hint=hint))

        for seen in faults:
            say("name", seen, "Give the name of a guest.")
        if name in healths:
            say("name", "is in the list twice.", "Give each guest one entry.")
        addresses = _addresses(entry)
        if not addresses and any(probe.get("address") is None for probe in entry.get("health") or ()):
            known = described() if known is None else known
            addresses = list(known.get(name, ()))
        healths[name] = read_health(entry, addresses, say)
    if wrong:
        raise InvalidWish("\n".join(error.text() for error in wrong))
    return healths


def _addresses(entry: t.Mapping[str, t.Any]) -> list[str]:
    """The addresses of an entry's interfaces, without their lengths."""
    found: list[str] = []
    for interface in entry.get("interfaces") or ():
        given = interface.get("addresses")
        found += [str(address).partition("/")[0] for address in (given if isinstance(given, list) else ())]
    return found


def described_addresses(paths: Paths) -> dict[str, list[str]]:
    """The addresses of the guests that are described on the host, without their lengths.

    Raises FleetError when the descriptions cannot be read.
    """
    # Loaded where it is needed: most guests say their addresses.
    from ansible_collections.microvm.fleet.plugins.module_utils import _descriptions  # noqa: PLC0415

    return {name: _addresses(entry) for name, entry in _descriptions.read(paths).items()}


@explaining()
def check(
    healths: t.Mapping[str, Health],
    *,
    paths: Paths,
    commands: Commands,
    clock: t.Callable[[], float] = time.monotonic,
) -> Result:
    """Judge guests as they are: deadlines count from now, and a guest that is down is not waited for."""
    result = Result()
    units = _systemd.show(commands)
    down = {name: unit for name, unit in ((name, units.get(name, Unit())) for name in healths) if not unit.up}
    now = clock()
    up = {name: health for name, health in healths.items() if name not in down}
    verdicts = await_healthy(commands, up, started=dict.fromkeys(up, now), paths=paths, note=result.warnings.append)
    for name in healths:
        reason = verdicts.get(name)
        if name in down:
            reason = f"it does not run: its unit is {down[name].active_state} ({down[name].result})"
        entry: dict[str, t.Any] = {"name": name, "healthy": reason is None, "failed": reason is not None}
        if reason is not None:
            error = FleetError(f"is not healthy: {reason}.", subject=f"guest {name}", field="health")
            entry.update(reason=reason, **error.as_dict())
        result.results.append(entry)
    return result
