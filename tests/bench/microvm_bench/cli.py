# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from .cases import SIZES, Bench
from .figures import Figure, breakdown, table
from .fleet import Fleet
from .host import BenchError, Controller, Host, say

PARTS = ("creation", "own", "converge", "against_loop", "back")


def parser() -> argparse.ArgumentParser:
    """What can be said on the command line."""
    main = argparse.ArgumentParser(prog="bench", description="Times of the collection beside those of its peers.")
    main.add_argument("--collections", type=Path, required=True, help="directory that has ansible_collections")
    main.add_argument("--work", type=Path, required=True, help="directory for what a run leaves")
    main.add_argument("--report", type=Path, required=True, help="the figures as JSON")
    main.add_argument("--lab", default="bench", help="lab of the testbed (default: %(default)s)")
    main.add_argument("--runs", type=int, default=5, help="rounds of each measurement (default: %(default)s)")
    main.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of guests, 100 among them")
    main.add_argument("--keep", action="store_true", help="leave the lab up")
    main.add_argument("--only", choices=(*PARTS, "fleet"), help="one part, on a kept lab")
    return main


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit status says whether every target was met."""
    options = parser().parse_args(arguments)
    host = Host(options.lab)
    fleet = Fleet(f"{options.lab}-fleet", options.work / "fleet", options.collections, options.runs)
    started = time.monotonic()
    figures: list[Figure] = []
    sections: list[tuple[str, list[tuple[str, float]]]] = []
    try:
        if options.only != "fleet":
            host.up()
            controller = Controller(host, options.work, options.collections)
            bench = Bench(host, controller, options.runs, tuple(options.sizes), sections)
            figures += getattr(bench, options.only)() if options.only else bench.all()
            if not options.keep:
                host.down()
        if options.only in (None, "fleet"):
            figures += fleet.all()
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    finally:
        if not options.keep:
            host.down()
            fleet.down()
    options.report.parent.mkdir(parents=True, exist_ok=True)
    rows = [figure.as_dict() for figure in figures]
    options.report.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for name, parts in sections:
        print(breakdown(name, parts), end="\n\n")
    print(table(figures))
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    say(f"{time.monotonic() - started:.0f} s in all; load of the machine {load} on {os.cpu_count()} cores")
    missed = [figure.name for figure in figures if not figure.ok]
    say(f"missed: {'; '.join(missed)}" if missed else "every target met")
    return 1 if missed else 0
