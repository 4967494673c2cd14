# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kills and failing calls while a module works, on a host of the testbed: a table, and build/faults.json.

For each operation the calls that change a file system are recorded once; then the module is killed at each of them
(and some calls fail instead), run again, and the host is compared with that of an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TESTBED = ROOT / "tests" / "testbed" / "testbed"
WHAT = {
    ("create", "kill"): "creation, killed",
    ("create", "error"): "creation, a call fails",
    ("update", "kill"): "update of a stopped guest, killed",
    ("update", "error"): "update of a stopped guest, a call fails",
    ("remove", "kill"): "removal with its volume kept, killed",
    ("remove", "error"): "removal with its volume kept, a call fails",
    ("purge", "kill"): "removal with its volume, killed",
    ("restart", "kill"): "update of a running guest, killed",
}


def ready(lab: str, collections: Path, work: Path) -> None:
    """Have a host with the role, the flake, and the modules as Ansible would run them."""
    subprocess.run([TESTBED, "up", "--lab", lab, "--hosts", "1"], check=True)
    shown = subprocess.run([TESTBED, "inventory", "--lab", lab], check=True, capture_output=True, text=True)
    inventory = work / "inventory.yml"
    inventory.write_text(shown.stdout, encoding="utf-8")
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_HOME": str(work / "ansible-home"),
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_NOCOLOR": "1",
    }
    player = Path(sys.executable).with_name("ansible-playbook")
    argv = [str(player) if player.exists() else "ansible-playbook", "-i", str(inventory)]
    subprocess.run([*argv, str(HERE / "playbooks" / "prepare.yml")], check=True, env=environment)


def row(found: dict[str, Any]) -> dict[str, Any]:
    """One figure of the report: after how many of the calls the next run ended as an undisturbed one."""
    return {
        "name": WHAT[found["operation"], found["fault"]],
        "value": found["good"],
        "unit": f"of {found['calls']} calls",
        "target": found["calls"],
        "peer": None,
        "peer_value": None,
        "ok": found["good"] == found["calls"],
    }


def main() -> int:
    """Run, print, write the report; the exit status is 0 if every fault was survived."""
    parser = argparse.ArgumentParser(prog="run", description=__doc__)
    parser.add_argument(
        "--collections", type=Path, required=True, help="directory with ansible_collections/microvm/fleet"
    )
    parser.add_argument("--work", type=Path, help="directory for what is needed in between")
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "faults.json")
    parser.add_argument("--lab", default="faults")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    parser.add_argument("--prepared", action="store_true", help="use the host that an earlier run with --keep left")
    parser.add_argument("--every", type=int, default=1, help="disturb each Nth call only")
    parser.add_argument("operations", nargs="*", help="create, update, remove, purge, restart; all if none is given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        try:
            if not given.prepared:
                ready(given.lab, given.collections, work)
            rows = disturb(given.lab, given.every, given.operations)
        finally:
            if not given.keep:
                subprocess.run([TESTBED, "down", "--lab", given.lab], check=True)
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if rows and all(each["ok"] for each in rows) else 1


def disturb(lab: str, every: int, operations: list[str]) -> list[dict[str, Any]]:
    """Let the host do it, and print each line of the table as it comes."""
    argv = [
        str(TESTBED),
        "ssh",
        "--lab",
        lab,
        "1",
        "/usr/bin/python3",
        "/srv/faults/drive.py",
        "--every",
        str(every),
        *operations,
    ]
    rows = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            found = json.loads(line)
            rows.append(row(found))
            verdict = "ok" if rows[-1]["ok"] else "NOT OK"
            print(f"{rows[-1]['name']:<45} {found['good']:>4} {rows[-1]['unit']:<14} {verdict}", flush=True)
            for complaint in found["complaints"]:
                print(f"    {complaint}", flush=True)
    if driver.returncode:
        message = f"the driver ended with {driver.returncode}"
        raise SystemExit(message)
    return rows


if __name__ == "__main__":
    sys.exit(main())
