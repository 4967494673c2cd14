# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of three hosts: the plan of an update of all its guests, beside asking for each guest."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .cases import REFERENCE
from .figures import Figure
from .host import PLACE, BenchError, Controller, Host, say

HOSTS = 3
COUNT = 100
# What was asked of Nix on a host, a line each.
ASKED = f"{PLACE}/asked"


class Fleet:
    """Three hosts of lab *lab* with guests of one flake, none of which runs."""

    def __init__(self, lab: str, work: Path, collections: Path, runs: int) -> None:
        self.hosts = [Host(lab, number) for number in range(1, HOSTS + 1)]
        self.work = work
        self.collections = collections
        self.runs = runs

    def down(self) -> None:
        """End the lab."""
        self.hosts[0].down()

    def all(self) -> list[Figure]:
        """Every figure."""
        say(f"making {HOSTS} hosts with {COUNT} guests each")
        for host in self.hosts:
            host.up()
        controller = Controller(self.hosts[0], self.work, self.collections)
        controller.playbook("host")
        names = {host.name: [f"h{host.number}-{number:03d}" for number in range(1, COUNT + 1)] for host in self.hosts}
        every = [name for some in names.values() for name in some]
        guests = {name: [{"name": each, "flake": REFERENCE} for each in some] for name, some in names.items()}
        variables = controller.variables(
            "fleet",
            {
                "fleet": guests,
                "microvm_guests": "{{ fleet[inventory_hostname] }}",
                "guests": "{{ microvm_guests }}",
                "microvm_hosts": "all",
                "microvm_rollout_build_on": self.hosts[0].name,
                "microvm_plan_exit_status": False,
            },
        )
        self._version(1, every)
        controller.playbook("one", "--extra-vars", variables)
        self._count()
        plans, peers, counts = [], [], []
        for number in range(1, self.runs + 1):
            say(f"plan of {HOSTS} hosts, round {number} of {self.runs}")
            # Of every round's guests nobody has asked before.
            self._version(2 * number, every)
            self._asked()
            seconds, output = controller.run("ansible-playbook", "microvm.fleet.plan", "--extra-vars", variables)
            if f"{len(every)} guests: {len(every)} update." not in output:
                raise BenchError(f"the plan does not speak of all guests:\n{output[-2000:]}")
            plans.append(seconds)
            counts.append(float(sum(" eval " in f" {line} " for line in self._asked())))
            self._version(2 * number + 1, every)
            peers.append(self._each(names))
        what = f"{HOSTS} hosts x {COUNT} guests"
        return [
            Figure(f"plan of {what}", plans, "nix eval, a guest at a time", peers, faster=2),
            Figure(f"evaluations for a plan of {what}", counts, limit=1, unit=""),
        ]

    def _version(self, version: int, names: list[str]) -> None:
        """Let the flake on every host, and so each of its guests, be another one."""
        text = json.dumps({"defaults": {"version": str(version)}, "guests": {name: {} for name in names}})
        for host in self.hosts:
            host.put("flake/guests.json", text)

    def _count(self) -> None:
        """Have every call of nix written down on the hosts."""
        for host in self.hosts:
            host.put("nix", f'#!/bin/sh\necho "$*" >> {ASKED}\nexec /usr/bin/nix "$@"\n')
            host.shell(f"install -m 0755 {PLACE}/nix /usr/local/bin/nix && : > {ASKED}")

    def _asked(self) -> list[str]:
        """What was asked since the last time, of all hosts."""
        return [line for host in self.hosts for line in host.shell(f"cat {ASKED} && : > {ASKED}").splitlines()]

    def _each(self, names: dict[str, list[str]]) -> float:
        """The seconds of a shell loop on each host at once that asks for the runner of each of its guests."""
        started = time.perf_counter()
        with ThreadPoolExecutor(max_workers=HOSTS) as pool:
            list(pool.map(lambda host: host.seconds(f"{PLACE}/evals.sh", REFERENCE, *names[host.name]), self.hosts))
        return time.perf_counter() - started
