# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Choosing Python packages anew: from ``*.in``, which names what is wanted, to ``*.txt``, which pins all."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .machine import CORES, REQUIREMENTS, python_for
from .process import must, say

RELEASES = {"core-2.21": "ansible-core==2.21.5", "core-2.19": "ansible-core==2.19.14"}


def renew() -> None:
    """Resolve the wishes for each core in an empty environment and write down what came out."""
    for core in CORES:
        python = python_for(core)
        if python is None:
            say(f"{core.requirements.name} stays: no interpreter for it here")
            continue
        _freeze(python, ["--requirement", str(REQUIREMENTS / "tools.in"), RELEASES[core.name]], core.requirements)
    python = python_for(CORES[0])
    if python is not None:
        _freeze(python, ["--requirement", str(REQUIREMENTS / "galaxy.in")], REQUIREMENTS / "galaxy.txt")


def _freeze(python: Path, wanted: list[str], target: Path) -> None:
    say(f"resolving {target.name}")
    with tempfile.TemporaryDirectory() as directory:
        must([python, "-m", "venv", directory])
        pip: list[str | Path] = [Path(directory) / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
        must([*pip, "install", "--quiet", *wanted])
        pins = [line for line in must([*pip, "freeze"]).splitlines() if "==" in line]
    target.write_text("# Written by `make pins`.\n" + "\n".join(pins) + "\n", encoding="utf-8")
