# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``make faults``: modules killed and calls failed at each moment, on a host of the testbed."""

from __future__ import annotations

from pathlib import Path

from . import tree
from .machine import BUILD, ROOT, install_packages, primary, search_path, venv_of
from .process import must, run, say
from .report import Check, single

TIMEOUT = 7200.0
REPORT = BUILD / "faults.json"


def check(arguments: list[str]) -> list[Check]:
    """Run tests/faults with *arguments*, of which ``--help`` tells; a fault that is not survived is a failure."""
    install_packages()
    virtual = venv_of(primary())
    say("preparing the testbed: packages and Debian trees")
    must([ROOT / "tests" / "testbed" / "testbed", "prepare", "--release", "trixie"])
    place = tree.make("faults")
    argv: list[str | Path] = [virtual / "bin" / "python", place / "tests" / "faults" / "faults.py"]
    argv += ["--collections", tree.base_of(place), "--work", BUILD / "faults", "--report", REPORT, *arguments]
    done = run(argv, env={"PATH": search_path(virtual / "bin")}, show=True, timeout=TIMEOUT)
    return [single("faults", done.seconds, ok=done.ok, output=f"Figures: {REPORT}")]
