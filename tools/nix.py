# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The static flake, evaluated by Debian's Nix with stand-ins for nixpkgs and microvm.nix: ``tests/nix``."""

from __future__ import annotations

from . import tree
from .machine import BUILD, install_packages, primary, search_path, venv_of
from .process import run
from .report import Check
from .unit import counts

TIMEOUT = 900.0


def check(arguments: list[str]) -> list[Check]:
    """Run pytest on the newest core; *arguments* go to pytest."""
    install_packages()
    place = tree.make("nix")
    core = primary()
    environment = venv_of(core)
    extra = {
        "PATH": search_path(environment / "bin"),
        "ANSIBLE_HOME": str(BUILD / "nix" / "ansible-home"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = run(
        [
            *(environment / "bin" / "python", "-m", "pytest", "-q", "-o", f"cache_dir={BUILD / 'nix' / 'pytest'}"),
            *(arguments or ["tests/nix"]),
        ],
        cwd=place,
        env=extra,
        timeout=TIMEOUT,
    )
    passed, failed, skipped = counts(done.output)
    if not done.ok and failed == 0:  # an error before any test, or no test at all
        failed = 1
    return [Check("nix", done.seconds, passed, failed, skipped, done.output)]
