# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Everything that reads the sources without running them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import tree
from .machine import BUILD, PACKAGES, install_packages, primary, search_path, venv_of
from .process import run
from .report import Check, single

TIMEOUT = 600.0


@dataclass(frozen=True)
class Linter:
    """A program to run in the copy of the collection; its status says whether it is content."""

    name: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()


def linters(place: Path, names: list[str]) -> list[Linter]:
    """The programs for the files *names* of the copy *place*.  The slow ones come first."""
    base = str(tree.base_of(place))
    inside = str(tree.INSIDE)
    strict = ("mypy", "--strict", "--config-file", str(place / "pyproject.toml"))
    collections = (("ANSIBLE_COLLECTIONS_PATH", base), ("ANSIBLE_HOME", str(BUILD / "ansible-home")))
    chosen = [
        Linter(
            "ansible-lint",
            ("ansible-lint", "--offline", "--profile", "production", "--nocolor", "--strict"),
            collections,
        ),
        Linter(
            "antsibull-docs",
            ("antsibull-docs", "lint-collection-docs", "--plugin-docs", "--skip-rstcheck", "."),
            collections,
        ),
    ]
    chosen += [
        # Modules and what they import run on targets, whose Python can be old; mypy knows none older than 3.10.
        Linter(
            "mypy plugins",
            (*strict, "--python-version", "3.10", f"{inside}/plugins"),
            (("MYPYPATH", base), ("CWD", base)),
        ),
        Linter("mypy tools", (*strict, "--python-version", "3.11", "tools")),
    ]
    if any(name.startswith("tests/testbed/microvm_testbed/") for name in names):
        chosen.append(
            Linter(
                "mypy testbed",
                (*strict, "--python-version", "3.11", "-p", "microvm_testbed"),
                (("MYPYPATH", "tests/testbed"),),
            )
        )
    if any(name.startswith("tests/bench/") for name in names):
        chosen.append(
            Linter(
                "mypy bench",
                (*strict, "--python-version", "3.11", "-p", "microvm_bench", "-p", "remote"),
                (("MYPYPATH", "tests/bench"),),
            )
        )
    if any(name.startswith("tests/faults/") for name in names):
        programs = ("tests/faults/faults.py", "tests/faults/remote/drive.py")
        chosen.append(Linter("mypy faults", (*strict, "--python-version", "3.11", *programs)))
    if any(name.startswith(("tests/profiles/", "tests/volumes/")) for name in names):
        path = os.pathsep.join((base, str(place / "tests" / "testbed")))
        both = (*strict, "--python-version", "3.11", f"{inside}/tests/profiles", f"{inside}/tests/volumes")
        chosen.append(Linter("mypy profiles, volumes", both, (("MYPYPATH", path), ("CWD", base))))
    if any(name.startswith("tests/nix/") for name in names):
        argv = (*strict, "--python-version", "3.11", f"{inside}/tests/nix")
        chosen.append(Linter("mypy nix", argv, (("MYPYPATH", base), ("CWD", base))))
    if any(name.startswith("tests/unit/") and name.endswith(".py") for name in names):
        path = os.pathsep.join((base, str(place / "tests" / "testbed")))
        argv = (*strict, "--python-version", "3.11", f"{inside}/tests/unit")
        chosen.append(Linter("mypy tests", argv, (("MYPYPATH", path), ("CWD", base))))
    others = [name for name in names if name.startswith(("extensions/", "roles/")) and name.endswith(".py")]
    if others:
        chosen.append(Linter("mypy scenarios, roles", (*strict, "--python-version", "3.10", *others)))
    scripts = [name for name in names if _is_shell(place / name)]
    chosen += [
        Linter("yamllint", ("yamllint", "--strict", ".")),
        Linter("ruff check", ("ruff", "check", "--no-fix", ".")),
        Linter("ruff format", ("ruff", "format", "--diff", ".")),
        Linter("shellcheck", ("shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *scripts)),
        Linter("antsibull-changelog", ("antsibull-changelog", "lint")),
    ]
    return chosen


def check(_arguments: list[str]) -> list[Check]:
    """Run all linters, two at a time, on a copy of the sources."""
    install_packages()
    environment = venv_of(primary())
    place = tree.make("lint")
    names = tree.files(place)
    with ThreadPoolExecutor(max_workers=min(2, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(lambda linter: _run(linter, place, environment), linters(place, names)))


def _run(linter: Linter, place: Path, environment: Path) -> Check:
    extra = dict(linter.env)
    cwd = Path(extra.pop("CWD", place))
    extra["PATH"] = search_path(environment / "bin")
    # ansible-lint and antsibull-docs look for Ansible's directories in the home; nothing of ours belongs there.
    extra["MYPY_CACHE_DIR"] = str(BUILD / "mypy" / linter.name.replace(" ", "-"))
    extra["RUFF_CACHE_DIR"] = str(BUILD / "ruff")
    argv = [str(environment / "bin" / linter.argv[0]) if linter.argv[0] != "shellcheck" else PACKAGES["shellcheck"]]
    done = run([*argv, *linter.argv[1:]], cwd=cwd, env=extra, timeout=TIMEOUT)
    return single(linter.name, done.seconds, ok=done.ok, output=done.output.replace(f"{tree.INSIDE}/", ""))


def _is_shell(path: Path) -> bool:
    """Whether the file is a script for sh or bash, by its name or first line."""
    if path.is_symlink() or not path.is_file():
        return False
    if path.suffix == ".sh":
        return True
    with path.open("rb") as stream:
        first = stream.readline(80)
    return first.startswith(b"#!") and first.strip().split(b"/")[-1].split()[-1] in {
        b"sh",
        b"bash",
        b"dash",
        b"env bash",
    }
