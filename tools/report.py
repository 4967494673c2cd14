# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a part of the tests found: checks that ran, how each ended, how long it took."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Check:
    """One check.  *passed* and *failed* count the tests in it; a check of one kind only counts itself."""

    name: str
    seconds: float
    passed: int
    failed: int
    skipped: int = 0
    output: str = field(default="", compare=False)

    @property
    def ok(self) -> bool:
        """Whether it ran something and nothing failed."""
        return self.failed == 0 and (self.passed > 0 or self.skipped > 0)


def single(name: str, seconds: float, *, ok: bool, output: str = "") -> Check:
    """A check that is one test."""
    return Check(name, seconds, int(ok), int(not ok), output=output)


def skip(name: str, reason: str) -> Check:
    """A check that cannot run on this machine, for *reason*."""
    return Check(name, 0.0, 0, 0, 1, reason)


def table(checks: Iterable[Check]) -> str:
    """The checks as lines: name, counts, seconds."""
    rows = []
    for check in checks:
        word = "skipped" if check.skipped and not check.passed and not check.failed else "ok" if check.ok else "FAILED"
        rows.append(
            f"{check.name:<36} {word:<8} {check.passed:>5} passed {check.failed:>3} failed {check.seconds:>7.1f} s"
        )
    return "\n".join(rows)


def save(path: Path, checks: Iterable[Check]) -> None:
    """Write the checks as JSON, without their output."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{key: value for key, value in asdict(check).items() if key != "output"} for check in checks]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> list[Check]:
    """Read what `save` wrote; nothing when the file is missing."""
    if not path.exists():
        return []
    return [Check(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
