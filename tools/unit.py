# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The unit tests, those of plugins on every core that this machine can run, and how much of the plugins they reach."""

from __future__ import annotations

import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import tree
from .machine import BUILD, CORES, Core, primary, python_for, search_path, venv_of
from .process import run
from .report import Check, single, skip

TIMEOUT = 900.0
# Plugins flush what they write, and tests of killed runs do so some thousand times: in memory that takes no time.
MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of our own is made below it
ROOM = 1 << 30


def check(arguments: list[str]) -> list[Check]:
    """Run pytest on each core; *arguments* go to pytest.  The newest core's run measures coverage when it has none."""
    place = tree.make("unit")
    chosen = [core for core in reversed(CORES) if python_for(core) is not None]
    for core in chosen:  # before both start at once
        venv_of(core)
    with ThreadPoolExecutor(max_workers=2) as pool:
        checks = list(pool.map(lambda core: _pytest(core, place, arguments), chosen))
    missing = [core for core in CORES if core not in chosen]
    checks += [skip(f"unit {core.name}", f"no Python for {core.name} on this machine") for core in missing]
    checks.append(_lines(place))
    for check in checks:
        print(check.output, flush=True)
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


def _pytest(core: Core, place: Path, arguments: list[str]) -> Check:
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
    # Only plugins meet Ansible: the rest is the same on every core.
    ours = ["tests/unit"] if core == primary() else ["tests/unit/plugins"]
    runner: list[str | Path] = [python, "-m", "coverage", "run", "-m"] if measured else [python, "-m"]
    with tempfile.TemporaryDirectory(prefix=f"microvm-fleet-{core.name}-", dir=_memory()) as scratch:
        done = run(
            [
                *(*runner, "pytest", "-q", "-o", f"cache_dir={work / 'pytest'}", f"--basetemp={scratch}/pytest"),
                *(arguments or ours),
            ],
            cwd=place,
            env=extra,
            timeout=TIMEOUT,
        )
    report = ""
    if measured:
        report = run([python, "-m", "coverage", "report"], cwd=place, env=extra).output
    passed, failed, skipped = counts(done.output)
    if not done.ok and failed == 0:  # an error before any test, or no test at all
        failed = 1
    return Check(f"unit {core.name}", done.seconds, passed, failed, skipped, f"{core.name}:\n{report}{done.output}")


def _memory() -> Path | None:
    """Where files are kept in memory, if this machine has room there and lets programs run (shm_overview(7))."""
    try:
        seen = os.statvfs(MEMORY)
    except OSError:
        return None
    return MEMORY if seen.f_bavail * seen.f_frsize >= ROOM and not seen.f_flag & os.ST_NOEXEC else None


def _lines(place: Path) -> Check:
    """The tests have at least as many lines as the plugins."""
    plugins = _count(place / "plugins")
    tests = _count(place / "tests" / "unit")
    text = f"unit test lines {tests}, plugin lines {plugins}, ratio {tests / max(plugins, 1):.2f}"
    return single("unit lines", 0.0, ok=tests >= plugins, output=text)


def _count(directory: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in directory.rglob("*.py"))
