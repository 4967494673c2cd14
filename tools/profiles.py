# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``make profiles``: Docker swarms and a screen over SPICE, as profiles set them, on hosts of the testbed."""

from __future__ import annotations

from pathlib import Path

from . import tree
from .machine import BUILD, ROOT, install_packages, primary, search_path, venv_of
from .process import must, run, say
from .report import Check, single

TIMEOUT = 3600.0
REPORT = BUILD / "profiles.json"


def check(arguments: list[str]) -> list[Check]:
    """Run tests/profiles with *arguments*, of which ``--help`` tells; what was not seen is a failure."""
    install_packages()
    virtual = venv_of(primary())
    say("preparing the testbed: packages and Debian trees")
    must([ROOT / "tests" / "testbed" / "testbed", "prepare", "--release", "trixie"])
    place = tree.make("profiles")
    argv: list[str | Path] = [place / "tests" / "profiles" / "run", "--collections", tree.base_of(place)]
    argv += ["--work", BUILD / "profiles" / "work", "--report", REPORT, *arguments]
    extra = {"PATH": search_path(virtual / "bin"), "PYTHONPATH": str(tree.base_of(place))}
    done = run(argv, env=extra, show=True, timeout=TIMEOUT)
    return [
        single("profiles", done.seconds, ok=done.ok, output=f"Figures: {REPORT}; pictures: {REPORT.with_suffix('')}")
    ]
