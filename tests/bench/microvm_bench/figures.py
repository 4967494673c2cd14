# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was measured: figures with their targets and peers, as a table and as JSON.  Nothing here does I/O."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """Seconds of the collection, and of a peer that was run in turns with it, one of each a round.

    With *unit* empty they are numbers of something, and no seconds.  With *most*, the collection may take so many times
    what the peer takes; with *faster*, it has to be so many times as fast; with *limit*, it may take so many seconds,
    peer or not.
    """

    name: str
    seconds: Sequence[float]
    peer: str = ""
    peer_seconds: Sequence[float] = field(default=())
    most: float | None = None
    faster: float | None = None
    limit: float | None = None
    unit: str = "s"

    @property
    def value(self) -> float:
        """The collection's median."""
        return statistics.median(self.seconds)

    @property
    def peer_value(self) -> float | None:
        """The peer's median."""
        return statistics.median(self.peer_seconds) if self.peer_seconds else None

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios: of the times with *most*, of the speeds with *faster*.

        Of the rounds, because a machine that is busy with other things slows both of one round.
        """
        rounds = list(zip(self.seconds, self.peer_seconds, strict=True)) if self.peer_seconds else []
        if not rounds:
            return None
        if self.most is not None:
            return statistics.median(ours / peer for ours, peer in rounds)
        return statistics.median(peer / ours for ours, peer in rounds)

    @property
    def target(self) -> str:
        """The target in words; empty when there is none."""
        if self.most is not None:
            return f"<= {self.most:g}x"
        if self.faster is not None:
            return f">= {self.faster:g}x faster"
        return "" if self.limit is None else f"<= {self.limit:g} {self.unit}".rstrip()

    @property
    def ok(self) -> bool:
        """Whether the target was met; without one it was."""
        if self.limit is not None and self.value > self.limit:
            return False
        if self.ratio is None:
            return True
        if self.most is not None:
            return self.ratio <= self.most
        return self.faster is None or self.ratio >= self.faster

    def as_dict(self) -> dict[str, object]:
        """For the report."""
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "unit": self.unit,
            "target": self.target,
            "peer": self.peer,
            "peer_value": None if self.peer_value is None else round(self.peer_value, 4),
            "ratio": None if self.ratio is None else round(self.ratio, 2),
            "runs": len(self.seconds),
            "all": [round(each, 4) for each in self.seconds],
            "peer_all": [round(each, 4) for each in self.peer_seconds],
            "ok": self.ok,
        }


HEADER = ("figure", "median", "spread", "runs", "peer", "median", "spread", "ratio", "target", "")


def table(figures: Iterable[Figure]) -> str:
    """The figures as lines."""
    rows = [HEADER, *map(_row, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(figure: Figure) -> tuple[str, ...]:
    return (
        figure.name,
        f"{figure.value:.2f} s" if figure.unit else f"{figure.value:g}",
        spread(figure.seconds),
        str(len(figure.seconds)),
        figure.peer or "-",
        "-" if figure.peer_value is None else f"{figure.peer_value:.2f} s",
        spread(figure.peer_seconds),
        "-" if figure.ratio is None else f"{figure.ratio:.2f}x",
        figure.target or "-",
        "" if not figure.target else "ok" if figure.ok else "MISSED",
    )


def spread(seconds: Sequence[float]) -> str:
    """The least and the most of *seconds*."""
    return f"{min(seconds):.2f}-{max(seconds):.2f}" if seconds else "-"


def breakdown(name: str, sections: Sequence[tuple[str, float]]) -> str:
    """Where the time of one run went, the most first."""
    total = sum(seconds for _what, seconds in sections)
    lines = [f"{name}: {total:.3f} s"]
    for what, seconds in sorted(sections, key=lambda section: -section[1]):
        lines.append(f"  {what:<52} {seconds:>7.3f} s {100 * seconds / total:>4.0f} %")
    return "\n".join(lines)
