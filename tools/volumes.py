# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``make volumes``: snapshots of thin logical volumes, in a machine with Debian's kernel and LVM."""

from __future__ import annotations

from pathlib import Path

from . import tree
from .machine import BUILD, ROOT, install_packages, primary, search_path, venv_of
from .process import must, run, say
from .report import Check, single

TIMEOUT = 7200.0
REPORT = BUILD / "volumes.json"


def check(arguments: list[str]) -> list[Check]:
    """Run tests/volumes with *arguments*, of which ``--help`` tells; what was not seen is a failure."""
    install_packages()
    virtual = venv_of(primary())
    say("preparing the testbed: packages and Debian trees")
    must([ROOT / "tests" / "testbed" / "testbed", "prepare"])
    place = tree.make("volumes")
    argv: list[str | Path] = [place / "tests" / "volumes" / "run", "--collections", tree.base_of(place)]
    argv += ["--work", BUILD / "volumes", "--report", REPORT, *arguments]
    done = run(argv, env={"PATH": search_path(virtual / "bin")}, show=True, timeout=TIMEOUT)
    return [single("volumes", done.seconds, ok=done.ok, output=f"Figures: {REPORT}; logs: {BUILD / 'volumes'}")]
