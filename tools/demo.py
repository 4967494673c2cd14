# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``make demo``: two guests on a host of the testbed, twice, and once more after a reboot."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from . import tree
from .machine import BUILD, ROOT, install_packages, primary, search_path, venv_of
from .process import ToolError, must, run, say

LAB = "demo"
HOST = f"{LAB}-1"
TESTBED = ROOT / "tests" / "testbed" / "testbed"
WORK = BUILD / "demo"
TIMEOUT = 900.0


def up() -> None:
    """Have the host and the guests, and show it.  Raises ToolError at the first thing that is not so."""
    started = time.monotonic()
    install_packages()
    virtual = venv_of(primary())
    say("preparing the testbed: Debian packages and, the first time, a Debian tree")
    _must([TESTBED, "prepare", "--release=trixie"])
    say(f"starting host {HOST}, a Debian 13 in a network namespace of its own")
    _must([TESTBED, "up", f"--lab={LAB}", "--hosts=1", "--release=trixie"])
    place = tree.make("demo")
    WORK.mkdir(parents=True, exist_ok=True)
    inventory = WORK / "inventory.yml"
    inventory.write_text(must([TESTBED, "inventory", f"--lab={LAB}"]), encoding="utf-8")
    play = Plays(virtual, place, inventory)

    say("guests a and b: a bridge with NAT, DHCP leases, autostart")
    play.run("demo")
    say("the same once more: nothing may change")
    changed = changes(play.run("demo"))
    if changed:
        raise ToolError(f"the second run changed {changed} things; it must change none.")
    say(f"rebooting {HOST}; nothing is run by hand after it")
    _must([TESTBED, "reboot", HOST])
    play.run("demo", "--tags=ask")
    say("status")
    play.run("status")
    say(f"done after {time.monotonic() - started:.0f} s; look around with: {TESTBED.relative_to(ROOT)} ssh {HOST}")
    say("make demo-down takes all of it away")


def down() -> None:
    """End the host with its guests and leave nothing of the demo."""
    _must([TESTBED, "down", f"--lab={LAB}"])
    shutil.rmtree(WORK, ignore_errors=True)
    shutil.rmtree(BUILD / "tree" / "demo", ignore_errors=True)
    (BUILD / "tree" / "demo.lock").unlink(missing_ok=True)


class Plays:
    """Playbooks of the collection *place*, run on *inventory* with the programs of *virtual*."""

    def __init__(self, virtual: Path, place: Path, inventory: Path) -> None:
        self.program = virtual / "bin" / "ansible-playbook"
        self.arguments = ["--inventory", str(inventory), "--extra-vars", f"microvm_hosts={LAB}"]
        self.arguments += ["--extra-vars", f"microvm_demo_flake={place / 'tests' / 'testbed' / 'flake'}"]
        self.environment = {
            "PATH": search_path(virtual / "bin"),
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
            "ANSIBLE_COLLECTIONS_PATH": str(tree.base_of(place)),
            "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false",
            "ANSIBLE_HOME": str(WORK / "ansible-home"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_PIPELINING": "true",
        }

    def run(self, name: str, *more: str) -> str:
        """Run the playbook *name* and give its output.  Raises ToolError when it fails."""
        argv: list[str | Path] = [self.program, f"microvm.fleet.{name}", *self.arguments, *more]
        done = run(argv, cwd=WORK, env=self.environment, show=True, timeout=TIMEOUT)
        if not done.ok:
            raise ToolError(f"the playbook microvm.fleet.{name} failed, see above.")
        return done.output


def changes(output: str) -> int:
    """How many tasks changed something, by the recap of a playbook's run.  Raises ToolError when there is no recap."""
    found = re.findall(r"^\S+\s+: ok=\d+\s+changed=(\d+)", output.rpartition("PLAY RECAP")[2], re.MULTILINE)
    if not found:
        raise ToolError("the playbook ran on no host.")
    return sum(int(count) for count in found)


def _must(argv: list[str | Path]) -> None:
    """Run a program and show what it says.  Raises ToolError when it fails."""
    done = run(argv, show=True, timeout=TIMEOUT)
    if not done.ok:
        raise ToolError(f"{' '.join(str(part) for part in argv)} ended with {done.status}.")
