# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``make test``: every part after the other, each of which keeps two cores busy, and one table in the end."""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

from . import report
from .machine import BUILD, CORES, ROOT, describe, install_packages, python_for, venv_of
from .process import run, say

# Quick ones first: who waits for a run learns early what is wrong.
PARTS = ("lint", "nix", "unit", "sanity", "molecule")
TIMEOUT = 3600.0
REPORTS = BUILD / "report"
CLOSING = REPORTS / "closing"


def test() -> int:
    """Run all parts, whatever comes of each; give the exit status."""
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    say(describe())
    rows: list[report.Check] = []
    times: list[tuple[str, float]] = [("set-up", _set_up())]
    for part in PARTS:
        say(f"make {part}")
        path = REPORTS / f"{part}.json"
        done = run([sys.executable, "-m", "tools", "--report", path, part], cwd=ROOT, show=True, timeout=TIMEOUT)
        found = report.load(path)
        if not done.ok and not any(check.failed for check in found):
            found.append(report.single(f"{part} ended with {done.status}", done.seconds, ok=False))
        rows += found
        times.append((part, done.seconds))
    say("what ran")
    print(report.table(rows))
    say("where the time went")
    times.append(("together", sum(seconds for _name, seconds in times)))
    for name, seconds in times:
        print(f"{name:<36} {seconds:>7.1f} s")
    passed, failed = sum(check.passed for check in rows), sum(check.failed for check in rows)
    closing = f"{passed} passed, {failed} failed"
    CLOSING.write_text(closing + "\n", encoding="utf-8")
    print(closing, flush=True)
    return 0 if passed and not failed else 1


def _set_up() -> float:
    """Install what is missing: Python packages and, beside it, the Debian trees of the testbed.  Gives the seconds."""
    install_packages()
    testbed = ROOT / "tests" / "testbed" / "testbed"
    with ThreadPoolExecutor(max_workers=2) as pool:
        trees = pool.submit(lambda: run([testbed, "prepare"]))
        for core in CORES:
            if python_for(core) is not None:
                venv_of(core)
        done = trees.result()
    if not done.ok:  # the scenarios will fail and say so; the other parts need no hosts
        say(f"the testbed could not be prepared:\n{done.output}")
    return done.seconds
