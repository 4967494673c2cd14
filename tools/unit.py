# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The unit tests, on every core that this machine can run, and how much of the plugins they reach."""

from __future__ import annotations

import re
from pathlib import Path

from . import tree
from .machine import BUILD, CORES, Core, primary, python_for, search_path, venv_of
from .process import run
from .report import Check, single, skip

TIMEOUT = 900.0


def check(arguments: list[str]) -> list[Check]:
    """Run pytest on each core; *arguments* go to pytest.  The newest core's run comes last and measures coverage."""
    checks = []
    place = tree.make("unit")
    for core in reversed(CORES):
        name = f"unit {core.name}"
        if python_for(core) is None:
            checks.append(skip(name, f"no Python for {core.name} on this machine"))
            continue
        checks.append(_pytest(name, core, place, arguments))
    checks.append(_lines(place))
    return checks


def counts(output: str) -> tuple[int, int, int]:
    """Passed, failed and skipped of pytest's last line; errors count as failed."""
    summary = [
        line
        for line in output.splitlines()
        if re.search(r"\b(passed|failed|error|errors|skipped)\b.* in [\d.]+s", line)
    ]
    found: dict[str, int] = {}
    for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", summary[-1]) if summary else []:
        key = "failed" if word.startswith("error") else word
        found[key] = found.get(key, 0) + int(number)
    return found.get("passed", 0), found.get("failed", 0), found.get("skipped", 0)


def _pytest(name: str, core: Core, place: Path, arguments: list[str]) -> Check:
    environment = venv_of(core)
    measured = core == primary() and not arguments
    python = environment / "bin" / "python"
    work = BUILD / "unit" / core.name
    work.mkdir(parents=True, exist_ok=True)
    extra = {
        "PATH": search_path(environment / "bin"),
        "ANSIBLE_HOME": str(work / "ansible-home"),
        "COVERAGE_FILE": str(work / "coverage"),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(work / "hypothesis"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    runner: list[str | Path] = [python, "-m", "coverage", "run", "-m"] if measured else [python, "-m"]
    done = run(
        [*runner, "pytest", "-q", "-o", f"cache_dir={work / 'pytest'}", *(arguments or ["tests/unit"])],
        cwd=place,
        env=extra,
        show=True,
        timeout=TIMEOUT,
    )
    if measured:
        run([python, "-m", "coverage", "report"], cwd=place, env=extra, show=True)
    passed, failed, skipped = counts(done.output)
    if not done.ok and failed == 0:  # an error before any test, or no test at all
        failed = 1
    return Check(name, done.seconds, passed, failed, skipped, done.output)


def _lines(place: Path) -> Check:
    """The tests have at least as many lines as the plugins."""
    plugins = _count(place / "plugins")
    tests = _count(place / "tests" / "unit")
    text = f"unit test lines {tests}, plugin lines {plugins}, ratio {tests / max(plugins, 1):.2f}"
    print(text, flush=True)
    return single("unit lines", 0.0, ok=tests >= plugins, output=text)


def _count(directory: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in directory.rglob("*.py"))
