# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The measurements: each takes the collection and its peer in turns, so that both see the same machine."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from .figures import Figure
from .host import PLACE, BenchError, Controller, Host, say

SIZES = (1, 10, 100, 1000)
COUNT = 100
REFERENCE = f"{PLACE}/flake"
LOOP = f"{PLACE}/loop"
PEER_LOOP = "nix build, a guest at a time"
# The guest that goes back and forth; nobody waits to see whether it stays healthy, for that is no work.
BACK = "back"
QUICK = {"min_healthy_time": 0}
UNIT = f"microvm@{BACK}.service"
# Ends when the guest has said in this start that it is up.
UP = f"""set -eu
start=$(systemctl show --property InvocationID --value {UNIT})
timeout 120 sh -c "until journalctl --quiet _SYSTEMD_INVOCATION_ID=$start | grep -q 'is up, boot'; do sleep 0.1; done"
"""
# When the guest was asked to end, and when it had: microseconds, a line each.
STOPPED = f"systemctl show --property ActiveExitTimestampMonotonic,InactiveEnterTimestampMonotonic --value {UNIT}"


def names(count: int) -> list[str]:
    """The first *count* guests of the flake."""
    return [f"g{number:04d}" for number in range(1, count + 1)]


@dataclass
class Bench:
    """All measurements on one host; *runs* rounds of each."""

    host: Host
    controller: Controller
    runs: int
    sizes: tuple[int, ...] = SIZES
    sections: list[tuple[str, list[tuple[str, float]]]] = field(default_factory=list)

    def prepare(self) -> None:
        """A host that the role has set up, with a flake of guests that nobody has built."""
        say("preparing the host")
        self.controller.playbook("host")
        guests: dict[str, dict[str, object]] = {name: {} for name in names(max(self.sizes))}
        self.host.put("flake/guests.json", json.dumps({"defaults": {}, "guests": guests}))
        self.host.inside("use", str(COUNT))

    def variables(self, count: int) -> str:
        """The wishes for *count* guests."""
        guests = [{"name": name, "flake": REFERENCE} for name in names(count)]
        return self.controller.variables(f"guests-{count}", {"guests": guests})

    def payload(self, count: int) -> str:
        """Where the host has the file with which Ansible runs the module for *count* guests."""
        return f"{PLACE}/{count}/payload.py"

    def make(self, count: int) -> None:
        """Have exactly *count* guests on the host, and keep the payload that made them."""
        say(f"making {count} guests")
        self.host.inside("use", str(count))
        self.host.shell("rm -rf /root/.ansible/tmp")
        self.controller.playbook("one", "--extra-vars", self.variables(count), keep=True)
        self.host.shell(
            f"mkdir -p {PLACE}/{count} && mv /root/.ansible/tmp/*/AnsiballZ_microvm_guests.py {self.payload(count)}"
        )

    def module(self, count: int) -> float:
        """The module's own time on the host."""
        return self.host.seconds("python3", self.payload(count))

    def loop(self) -> float:
        """The shell loop's time on the host."""
        return self.host.seconds(f"{PLACE}/loop.sh", REFERENCE, LOOP, *names(COUNT))

    def all(self) -> list[Figure]:
        """Every figure."""
        self.prepare()
        self.make(COUNT)
        figures = [*self.creation(), *self.own()]
        for count in self.sizes:
            if count != COUNT:
                self.make(count)
        return [*figures, *self.converge(), *self.against_loop(), *self.back()]

    def creation(self) -> list[Figure]:
        """Creating guests: from nothing, and with their runners in the store already."""
        built, stored = Taken(), Taken()
        for number in range(1, self.runs + 1):
            say(f"creation, round {number} of {self.runs}")
            self.host.inside("empty", LOOP)
            built.theirs.append(self.loop())
            self.host.inside("empty", LOOP)
            built.ours.append(self.module(COUNT))
            self.host.inside("reset", LOOP)
            stored.ours.append(self.module(COUNT))
            self.host.inside("reset", LOOP)
            stored.theirs.append(self.loop())
        self.sections.append((f"creating {COUNT} guests", self.host.sections(self.payload(COUNT), LOOP)))
        return [
            Figure(f"create {COUNT}, runners in the store", stored.ours, PEER_LOOP, stored.theirs, faster=5),
            Figure(f"create {COUNT}, nothing built", built.ours, PEER_LOOP, built.theirs, faster=1.5),
        ]

    def own(self) -> list[Figure]:
        """A run that finds nothing to do, on the host itself."""
        taken = Taken()
        self.loop()
        self.module(COUNT)
        for number in range(1, self.runs + 1):
            say(f"nothing to do, on the host, round {number} of {self.runs}")
            taken.ours.append(self.module(COUNT))
            taken.theirs.append(self.loop())
        self.sections.append((f"{COUNT} guests, nothing to do", self.host.sections(self.payload(COUNT))))
        name = f"nothing to do for {COUNT}, the module itself"
        return [Figure(name, taken.ours, PEER_LOOP, taken.theirs, faster=10, limit=1.0)]

    def back(self) -> list[Figure]:
        """Going back and forth between two generations: a guest that is off, and one that runs."""
        say("making a guest with two generations")
        self.host.inside("use", BACK)
        reference = f"{PLACE}/back-flake"
        self.host.shell(f"rm -rf {reference} && cp -r {REFERENCE} {reference}")
        self._kept("remove", name=BACK, state="absent", purge=True)
        for version in ("1", "2"):
            text = json.dumps({"defaults": {"address": "none"}, "guests": {BACK: {"version": version}}})
            self.host.put("back-flake/guests.json", text)
            self._kept("make", name=BACK, flake=reference, update="activate")
        ends = [self._kept(f"generation-{number}", name=BACK, generation=number, **QUICK) for number in ("1", "2")]
        off, runs = Taken(), Taken()
        for number in range(1, self.runs + 1):
            say(f"back to a generation, round {number} of {self.runs}")
            off.ours.append(self.host.seconds("python3", ends[number % 2]))
            # Without the old revision of its flake at hand, the least is to ask for what is built already.
            off.theirs.append(self.host.seconds(f"{PLACE}/loop.sh", reference, LOOP, BACK))
        self._kept("start", name=BACK, state="started")
        for number in range(1, self.runs + 1):
            say(f"back to a generation while the guest runs, round {number} of {self.runs}")
            restart = self._restarted("systemctl", "restart", UNIT)
            runs.ours.append(self._restarted("python3", ends[number % 2]) - restart)
        self._kept("remove", name=BACK, state="absent", purge=True)
        return [
            Figure("back to a kept generation, guest off", off.ours, "nix build of one guest", off.theirs, limit=1.0),
            Figure("the same, guest on, beyond systemctl restart", runs.ours, limit=1.0),
        ]

    def _restarted(self, *argv: str) -> float:
        """How long *argv* takes, which restarts the guest, without the time in which the guest itself ends."""
        # One that is stopped while it boots first boots to its end.
        self.host.shell(UP)
        whole = self.host.seconds(*argv)
        began, ended = map(int, self.host.shell(STOPPED).split())
        return whole - (ended - began) / 1e6

    def _kept(self, what: str, **guest: object) -> str:
        """Have the module run for one *guest*; give the path of its payload on the host, kept as *what*."""
        self.host.shell("rm -rf /root/.ansible/tmp")
        variables = self.controller.variables(f"back-{what}", {"guests": [guest]})
        self.controller.playbook("one", "--extra-vars", variables, keep=True)
        path = f"{PLACE}/back/{what}.py"
        self.host.shell(f"mkdir -p {PLACE}/back && mv /root/.ansible/tmp/*/AnsiballZ_microvm_guests.py {path}")
        return path

    def converge(self) -> list[Figure]:
        """A run that finds nothing to do, over SSH, beside a ping."""
        taken = {count: Taken() for count in self.sizes}
        for number in range(self.runs + 1):
            say(f"nothing to do, over SSH, round {number} of {self.runs}")
            for count in self.sizes:
                self.host.inside("use", str(count))
                ping, _output = self.controller.run("ansible", "all", "--module-name", "ping")
                seconds, output = self.controller.run(
                    "ansible", "all", "--module-name", "microvm.fleet.microvm_guests",
                    "--extra-vars", self.variables(count), "--args", json.dumps({"guests": "{{ guests }}"}),
                )  # fmt: skip
                if '"changed": false' not in output:
                    raise BenchError(f"the run for {count} guests changed something:\n{output[:2000]}")
                if number:  # the round before the first opens the connection and fills caches
                    taken[count].ours.append(seconds)
                    taken[count].theirs.append(ping)
        most = max(self.sizes)
        self.host.inside("use", str(most))
        self.sections.append((f"{most} guests, nothing to do", self.host.sections(self.payload(most))))
        figures = [
            Figure(
                f"nothing to do for {count}, over SSH",
                taken[count].ours,
                "ansible -m ping",
                taken[count].theirs,
                most=1.6 if count == COUNT else None,
            )
            for count in self.sizes
        ]
        least = min(self.sizes)
        grown = Figure(
            f"nothing to do for {most}, over SSH",
            taken[most].ours,
            f"the same for {least}",
            taken[least].ours,
            most=2.5,
        )
        return [*figures, grown]

    def against_loop(self) -> list[Figure]:
        """A run that finds nothing to do beside a loop of a task a guest, with and without pipelining."""
        taken = {True: Taken(), False: Taken()}
        self.host.inside("use", str(COUNT))
        variables = self.variables(COUNT)
        self.controller.run("ansible", "all", "--module-name", "ping")
        for number in range(1, self.runs + 1):
            for pipelining, each in taken.items():
                say(f"a task a guest, {pipelined(pipelining)}, round {number} of {self.runs}")
                for playbook, seconds in (("one", each.ours), ("each", each.theirs)):
                    time, output = self.controller.playbook(playbook, "--extra-vars", variables, pipelining=pipelining)
                    if " changed=0 " not in output:
                        raise BenchError(f"the playbook {playbook} changed something:\n{output[-2000:]}")
                    seconds.append(time)
        return [
            Figure(
                f"nothing to do for {COUNT}, a play, {pipelined(pipelining)}",
                each.ours,
                "a task a guest",
                each.theirs,
                faster=15 if pipelining else 30,
            )
            for pipelining, each in taken.items()
        ]


@dataclass
class Taken:
    """Seconds of the rounds so far."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)


def pipelined(pipelining: bool) -> str:
    """The setting in words."""
    return f"pipelining {'on' if pipelining else 'off'}"
