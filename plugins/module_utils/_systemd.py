# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Units of guests: one ``systemctl show`` for all, jobs in one call, the journal's end.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import math
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands, last_lines
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError

JOURNAL_LINES: t.Final = 20
# The units that prepare a guest's start (nixos-modules/host/default.nix); they follow its own unit down.
HELPERS: t.Final = (
    "microvm-set-booted",
    "microvm-tap-interfaces",
    "microvm-macvtap-interfaces",
    "microvm-pci-devices",
    "microvm-virtiofsd",
)

_PROPERTIES = (
    "Id",
    "ActiveState",
    "SubState",
    "Result",
    "NRestarts",
    "ActiveEnterTimestampMonotonic",
    "InvocationID",
    "NeedDaemonReload",
    "Job",
)
# ECMA-48: control sequences, strings, other escapes, and the controls of which tabs and line ends stay.
_ESCAPE: t.Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_GUEST = re.compile(r"microvm@(.+)\.service")


@dataclass(frozen=True)
class Unit:
    """A guest's unit as systemd has it.  A unit that is not loaded is inactive, and that is the default."""

    active_state: str = "inactive"
    sub_state: str = "dead"
    result: str = "success"
    restarts: int = 0
    # Microseconds of CLOCK_MONOTONIC, 0 if it was never active.
    active_since: int = 0
    invocation: str = ""
    needs_reload: bool = False
    # A job of systemd waits for it, such as a start that waits for another unit.
    queued: bool = False

    @property
    def active(self) -> bool:
        """Whether the guest's hypervisor runs."""
        return self.active_state in ("active", "reloading", "deactivating")

    @property
    def waiting(self) -> bool:
        """Whether systemd will start it, now or after its restart delay."""
        return self.active_state == "activating" or (self.active_state == "inactive" and self.queued)

    @property
    def up(self) -> bool:
        """Whether it runs or systemd is at it: what has to be stopped to be off."""
        return self.active or self.waiting


def unit(name: str) -> str:
    """The unit of guest *name*.  Names of guests need no escaping: see `name_faults` of the wishes."""
    return f"microvm@{name}.service"


def show(commands: Commands) -> dict[str, Unit]:
    """All units of guests that systemd has loaded, by the guest's name."""
    done = commands.run(["systemctl", "show", "--property", ",".join(_PROPERTIES), unit("*")])
    return parse_show(done.stdout)


def blocks(text: str) -> t.Iterator[dict[str, str]]:
    """The properties of each unit that ``systemctl show`` printed: blocks of ``Key=value``, an empty line between."""
    for block in text.split("\n\n"):
        yield dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def parse_show(text: str) -> dict[str, Unit]:
    """Units by guest of what ``systemctl show`` printed."""
    units = {}
    for values in blocks(text):
        match = _GUEST.fullmatch(values.get("Id", ""))
        if match is None:
            continue
        units[match.group(1)] = Unit(
            active_state=values["ActiveState"],
            sub_state=values["SubState"],
            result=values["Result"],
            restarts=_number(values.get("NRestarts")),
            active_since=_number(values.get("ActiveEnterTimestampMonotonic")),
            invocation=values.get("InvocationID", ""),
            needs_reload=values.get("NeedDaemonReload") == "yes",
            queued=bool(values.get("Job")),
        )
    return units


# systemd.time(7); systemctl prints spans as numbers and units, from years to microseconds.
_SPANS: t.Final = {
    "y": 31557600.0,
    "month": 2629800.0,
    "w": 604800.0,
    "d": 86400.0,
    "h": 3600.0,
    "min": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(y|month|w|d|h|min|s|ms|us)")


def seconds(text: str) -> int | None:
    """Whole seconds, rounded up, of a time span as systemctl prints it; None for one without an end, or none at all."""
    words = text.split()
    parts = [_SPAN.fullmatch(word) for word in words]
    if not words or None in parts:
        return None
    return math.ceil(sum(float(part[1]) * _SPANS[part[2]] for part in parts if part is not None))


def timeouts(commands: Commands, names: t.Iterable[str]) -> dict[str, tuple[int | None, int | None]]:
    """How long starts and stops of guests *names* may take, in seconds; None is for ever."""
    units = [unit(name) for name in sorted(names)]
    if not units:
        return {}
    done = commands.run(["systemctl", "show", "--property", "Id,TimeoutStartUSec,TimeoutStopUSec", *units])
    found = {}
    for values in blocks(done.stdout):
        match = _GUEST.fullmatch(values.get("Id", ""))
        if match is not None:
            found[match.group(1)] = (
                seconds(values.get("TimeoutStartUSec", "")),
                seconds(values.get("TimeoutStopUSec", "")),
            )
    return found


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def jobs(commands: Commands, verb: str, names: t.Iterable[str], *, timeout: float, block: bool = True) -> str:
    """``systemctl VERB`` for the units of all guests *names* at once; with *block* waits until the jobs have ended.

    Without it, a unit has its job when this returns (`Unit.queued`).
    Failures of single units do not raise: the caller looks at the units afterwards.  The answer is what systemctl
    complained of.  Raises CommandError when the jobs did not end within *timeout* seconds.
    """
    units = [unit(name) for name in sorted(names)]
    if not units:
        return ""
    if verb == "stop":
        # systemctl waits for the units that it names only.  A start in between would find a helper of the last start
        # still up, and run the guest with the runner and the interfaces of that one.
        units += [f"{helper}@{name}.service" for name in sorted(names) for helper in HELPERS]
    options = [] if block else ["--no-block"]
    return commands.run(["systemctl", verb, *options, *units], timeout=timeout, check=False).stderr


def enable(commands: Commands, names: t.Iterable[str]) -> None:
    """Start guests *names* at boot: links below microvms.target by the units' [Install] section."""
    _enablement(commands, "enable", names)


def disable(commands: Commands, names: t.Iterable[str]) -> None:
    """Do not start guests *names* at boot."""
    _enablement(commands, "disable", names)


def _enablement(commands: Commands, verb: str, names: t.Iterable[str]) -> None:
    units = [unit(name) for name in sorted(names)]
    if units:
        commands.run(["systemctl", "--quiet", verb, *units])


def reload(commands: Commands) -> None:
    """Let systemd read its units and drop-ins again."""
    commands.run(["systemctl", "daemon-reload"])


def reset_failed(commands: Commands, names: t.Iterable[str]) -> None:
    """Forget failures and restart counts of guests *names*, so that they may be started again."""
    units = [unit(name) for name in sorted(names)]
    if units:
        # A unit that is not loaded any more has nothing to forget, and systemctl complains of it.
        commands.run(["systemctl", "reset-failed", *units], check=False)


def journal(commands: Commands, name: str, *, lines: int = JOURNAL_LINES) -> str:
    """The last *lines* of the guest's journal, console included; empty when it cannot be read.

    What a guest writes on its console must not reach the operator's terminal as it is: see `plain`.
    """
    try:
        done = commands.run(
            [
                "journalctl",
                "--unit",
                unit(name),
                "--lines",
                str(lines),
                "--output",
                "cat",
                "--no-pager",
                "--quiet",
            ],
            timeout=10,
            check=False,
        )
    except CommandError:
        return ""
    return plain(last_lines(done.stdout, lines))


def plain(text: str) -> str:
    """The *text* of a console without what steers a terminal."""
    return _ESCAPE.sub("", text) if not text.isprintable() else text
