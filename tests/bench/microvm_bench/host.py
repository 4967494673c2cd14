# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host that is measured, and the controller that measures it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
TESTBED = (sys.executable, HERE.parent / "testbed" / "main.py")
FLAKE = HERE.parent / "testbed" / "flake"
# Where the host has what the measurements need.
PLACE = "/root/bench"
TIMEOUT = 1800.0


class BenchError(Exception):
    """A measurement that cannot be made; shown without a traceback."""


def say(text: str) -> None:
    """One line for the person at the terminal."""
    print(f"bench: {text}", flush=True)


def must(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout: float = TIMEOUT,
) -> str:
    """Run *argv* and give its output.  Raises BenchError with the end of what it said when it fails."""
    words = shlex.join(str(part) for part in argv)[:200]
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                [str(part) for part in argv],
                input=b"" if stdin is None else stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{words} did not end within {timeout:.0f} s") from error
        output.seek(0)
        text = output.read().decode(errors="replace")
    if done.returncode:
        raise BenchError(f"{words} ended with {done.returncode}; the end of its output:\n{text[-4000:]}")
    return text


@dataclass(frozen=True)
class Host:
    """Host *number* of lab *lab*, from 1."""

    lab: str
    number: int = 1

    @property
    def name(self) -> str:
        """As the inventory has it."""
        return f"{self.lab}-{self.number}"

    def up(self) -> None:
        """Make the lab with as many hosts as that, and put there what measures and what is measured."""
        must([*TESTBED, "up", "--lab", self.lab, "--hosts", str(self.number)])
        for source, target in ((HERE / "remote", PLACE), (FLAKE, f"{PLACE}/flake")):
            archive = must_bytes(["tar", "--directory", source, "--exclude", "./guests.json", "--create", "."])
            self.shell(f"mkdir -p {target} && tar --directory {target} --extract --no-same-owner", stdin=archive)

    def down(self) -> None:
        """End the lab."""
        must([*TESTBED, "down", "--lab", self.lab])

    def inventory(self) -> str:
        """The lab's inventory."""
        return must([*TESTBED, "inventory", "--lab", self.lab])

    def shell(self, command: str, *, stdin: bytes | None = None) -> str:
        """Run *command* in the host's shell."""
        return must([*TESTBED, "ssh", "--lab", self.lab, self.name, command], stdin=stdin)

    def put(self, name: str, text: str) -> None:
        """Write a file beside the programs that measure."""
        self.shell(f"cat > {PLACE}/{name}", stdin=text.encode())

    def inside(self, *words: str) -> str:
        """Run one of the commands of remote/inside.py."""
        return self.shell(shlex.join(["python3", f"{PLACE}/inside.py", *words]))

    def seconds(self, *argv: str) -> float:
        """How long *argv* takes on the host, taken there."""
        answer = json.loads(self.inside("time", *argv).splitlines()[-1])
        if answer["rc"]:
            raise BenchError(f"{shlex.join(argv)} ended with {answer['rc']} on {self.name}:\n{answer['output']}")
        return float(answer["seconds"])

    def sections(self, *words: str) -> list[tuple[str, float]]:
        """Where the time of the module goes that a payload runs: see remote/inside.py."""
        answer = self.inside("sections", *words).splitlines()[-1]
        return [(str(what), float(seconds)) for what, seconds in json.loads(answer)]


def must_bytes(argv: Sequence[str | Path]) -> bytes:
    """What *argv* prints, as it is."""
    return subprocess.run([str(part) for part in argv], stdout=subprocess.PIPE, check=True, timeout=TIMEOUT).stdout


class Controller:
    """Runs Ansible of the interpreter's own environment against *host*, in directory *work*."""

    def __init__(self, host: Host, work: Path, collections: Path) -> None:
        self.host = host
        self.work = work
        work.mkdir(parents=True, exist_ok=True)
        self.inventory = work / "inventory.yml"
        self.inventory.write_text(host.inventory(), encoding="utf-8")
        configuration = work / "ansible.cfg"
        configuration.write_text("[defaults]\n", encoding="utf-8")
        self.environment = {
            "ANSIBLE_CONFIG": str(configuration),
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_HOME": str(work / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "NO_COLOR": "1",
        }

    def variables(self, name: str, values: Mapping[str, object]) -> str:
        """A file of variables, as Ansible's option wants it."""
        path = self.work / f"{name}.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        return f"@{path}"

    def run(self, program: str, *arguments: str, pipelining: bool = True, keep: bool = False) -> tuple[float, str]:
        """Run ``ansible`` or ``ansible-playbook``; give the seconds it took and what it printed."""
        environment = {**self.environment, "ANSIBLE_PIPELINING": str(int(pipelining))}
        if keep:
            environment["ANSIBLE_KEEP_REMOTE_FILES"] = "1"
        argv: list[str | Path] = [Path(sys.executable).parent / program, "--inventory", self.inventory, *arguments]
        started = time.perf_counter()
        output = must(argv, env=environment)
        return time.perf_counter() - started, output

    def playbook(self, name: str, *arguments: str, pipelining: bool = True, keep: bool = False) -> tuple[float, str]:
        """Run one of the playbooks beside this package."""
        playbook = str(HERE / "playbooks" / f"{name}.yml")
        return self.run("ansible-playbook", playbook, *arguments, pipelining=pipelining, keep=keep)
