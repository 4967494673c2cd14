# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python3 -m tools PART [ARGUMENT...]``: what the Makefile calls."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from . import (
    bench,
    demo,
    dist,
    docs,
    faults,
    lint,
    machine,
    nix,
    pins,
    profiles,
    sanity,
    scenarios,
    suite,
    unit,
    volumes,
)
from .process import ToolError, say
from .report import Check, save, table

PARTS: dict[str, Callable[[list[str]], list[Check]]] = {
    "bench": bench.check,
    "faults": faults.check,
    "lint": lint.check,
    "molecule": scenarios.check,
    "nix": nix.check,
    "profiles": profiles.check,
    "sanity": sanity.check,
    "unit": unit.check,
    "volumes": volumes.check,
}
COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "venv": lambda names: print(machine.venv_of(machine.core_named(names[0]) if names else machine.primary())),
    "demo": lambda _: demo.up(),
    "demo-down": lambda _: demo.down(),
    "docs": lambda _: docs.build(),
    "dist": lambda _: dist.build(),
    "pins": lambda _: pins.renew(),
}


def main(argv: list[str]) -> int:
    """Run one part and give its exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m tools")
    parser.add_argument("part", choices=sorted({"test", *PARTS, *COMMANDS}))
    parser.add_argument("--report", type=Path, help="write what ran to this file as JSON")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(argv)
    try:
        if chosen.part == "test":
            return suite.test()
        if chosen.part in COMMANDS:
            COMMANDS[chosen.part](chosen.arguments)
            return 0
        checks = PARTS[chosen.part](chosen.arguments)
    except ToolError as error:
        print(f"{chosen.part}: {error}", file=sys.stderr)
        return 1
    if chosen.report:
        save(chosen.report, checks)
    for check in checks:
        if not check.ok and chosen.part != "unit":  # which prints all it has itself
            say(f"{check.name}:")
            print(check.output.rstrip(), flush=True)
    print(table(checks), flush=True)
    return 0 if checks and all(check.ok for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
