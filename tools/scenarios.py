# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Molecule scenarios, on hosts of the testbed."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from . import tree
from .machine import BUILD, ROOT, install_packages, primary, search_path, venv_of
from .process import must, run, say
from .report import Check

TIMEOUT = 3000.0
SCENARIOS = ROOT / "extensions" / "molecule"


def check(arguments: list[str]) -> list[Check]:
    """Run Molecule with *arguments*; without any, test every scenario, without what takes minutes.

    One scenario more than there are cores runs at a time, three at most: each waits now and then.

    Each scenario is a check of its own, and each of its actions (converge, verify...) a test.
    """
    install_packages()
    place, environment = prepare()
    environment["MICROVM_FLEET_WHOLE"] = str(int(bool(arguments)))
    chosen = arguments or [
        "test",
        "--all",
        f"--workers={min(3, 1 + len(os.sched_getaffinity(0)))}",
        "--continue-on-failure",
    ]
    times: dict[str, tuple[float, float]] = {}

    def note(line: str, seconds: float) -> None:
        """Remember when the first and the last line of a scenario came."""
        found = re.search(r"\[([\w-]+) > \w+\]|Scenario '([\w-]+)'", line)
        if found:
            name = found[1] or found[2]
            times[name] = (times.get(name, (seconds, seconds))[0], seconds)

    log = BUILD / "molecule" / "ansible.log"
    log.unlink(missing_ok=True)
    done = run(["molecule", *chosen, "--report"], cwd=place, env=environment, show=True, each=note, timeout=TIMEOUT)
    checks = results(done.output, {name: last - first for name, (first, last) in times.items()})
    if not any(check.failed for check in checks) and (not done.ok or not checks):
        checks.append(Check("molecule", done.seconds, 0, 1, output="Molecule ended without a report; see above."))
    if any(check.failed for check in checks) and log.exists():
        say(f"what failed, of {log}")
        print("\n".join(fatal(log.read_text(encoding="utf-8", errors="replace"))), flush=True)
    return checks


def fatal(log: str) -> list[str]:
    """The lines of Ansible's *log* that say why a play ended, cut at 2,000 characters; ignored ones are among them."""
    return [line[:2000] for line in log.splitlines() if re.search(r"\bfatal: |\| (?:FATAL|FAILED) |UNREACHABLE!", line)]


def prepare() -> tuple[Path, dict[str, str]]:
    """What Molecule is run in: a copy of the collection, and the environment that config.yml reads."""
    virtual = venv_of(primary())
    say("preparing the testbed: packages and Debian trees")
    must([ROOT / "tests" / "testbed" / "testbed", "prepare"])
    place = tree.make("molecule")
    work = BUILD / "molecule"
    work.mkdir(parents=True, exist_ok=True)
    return place, {
        "PATH": search_path(virtual / "bin"),
        "MICROVM_FLEET_COLLECTIONS": str(tree.base_of(place)),
        "MICROVM_FLEET_WORK": str(work),
        # Two checkouts on one machine have hosts of their own.
        "MICROVM_FLEET_LAB": "mol-" + hashlib.sha256(str(ROOT).encode()).hexdigest()[:4],
        "MOLECULE_EPHEMERAL_DIRECTORY": str(work / "state"),
        # Of scenarios that run side by side, Molecule shows no more than that one failed.
        "ANSIBLE_LOG_PATH": str(work / "ansible.log"),
        "NO_COLOR": "1",
        "ANSIBLE_NOCOLOR": "1",
    }


def results(output: str, seconds: dict[str, float]) -> list[Check]:
    """What Molecule's report at the end of *output* says of each scenario: how many actions went well, how many not."""
    rows: dict[str, Check] = {}
    report = output.rpartition("SCENARIO RECAP")[2]
    pattern = r"^([\w-]+)\s*: actions=\d+\s+successful=(\d+).*failed=(\d+)"
    for name, passed, failed in re.findall(pattern, report, re.MULTILINE):
        before = rows.get(name, Check(name, 0.0, 0, 0))
        time = seconds.get(name, 0.0)
        rows[name] = Check(f"molecule {name}", time, before.passed + int(passed), before.failed + int(failed))
    return list(rows.values())
