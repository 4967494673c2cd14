# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files through which a lab is reached: inventory, ssh wrappers, ssh configuration. Nothing here does I/O."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import nixos
from .net import OUTSIDE_IPV4, OUTSIDE_IPV6, OUTSIDE_PORT, Subnet


@dataclass(frozen=True)
class Access:
    """What the files of a lab say."""

    lab: str
    subnet: Subnet
    release: str
    uplink: str
    hosts: int
    state: Path
    """Directory of the files."""
    runtime: Path
    """Directory of the network namespace's file and of ssh's control sockets."""
    system: str = "debian"

    def name(self, number: int) -> str:
        return f"{self.lab}-{number}"

    @property
    def netns(self) -> Path:
        return self.runtime / "netns"

    def inventory(self) -> str:
        """An inventory for Ansible in YAML; JSON strings are YAML strings."""

        def pairs(indent: int, values: Iterable[tuple[str, object]]) -> list[str]:
            return [f"{' ' * indent}{key}: {json.dumps(value)}" for key, value in values]

        group = self.lab.replace("-", "_")
        lines = ["all:", "  children:", f"    {group}:", "      hosts:"]
        for number in range(1, self.hosts + 1):
            lines.append(f"        {self.name(number)}:")
            lines += pairs(
                10,
                [
                    ("ansible_host", self.subnet.host_ipv4(number)),
                    ("testbed_ipv4", self.subnet.host_ipv4(number)),
                    ("testbed_ipv6", self.subnet.host_ipv6(number)),
                ],
            )
        lines.append("      vars:")
        lines += pairs(
            8,
            [
                ("ansible_user", "root"),
                ("ansible_python_interpreter", nixos.SYSTEM_PYTHON if self.system == "nixos" else "/usr/bin/python3"),
                ("ansible_ssh_executable", str(self.state / "bin/ssh")),
                ("ansible_scp_executable", str(self.state / "bin/scp")),
                ("ansible_sftp_executable", str(self.state / "bin/sftp")),
                ("ansible_control_path_dir", str(self.runtime / "cp")),
                ("testbed_lab", self.lab),
                ("testbed_netns", str(self.netns)),
                ("testbed_release", self.release),
                ("testbed_uplink", self.uplink),
                ("testbed_os", self.system),
                ("testbed_controller_ipv4", self.subnet.controller_ipv4),
                ("testbed_controller_ipv6", self.subnet.controller_ipv6),
                ("testbed_outside_ipv4", OUTSIDE_IPV4),
                ("testbed_outside_ipv6", OUTSIDE_IPV6),
                ("testbed_outside_port", OUTSIDE_PORT),
            ],
        )
        return "\n".join(lines) + "\n"

    def ssh_config(self) -> str:
        """An ssh_config(5) under which the hosts go by name."""
        lines = [
            "Host *",
            "    User root",
            f'    IdentityFile "{self.state}/id_ed25519"',
            "    IdentitiesOnly yes",
            "    PreferredAuthentications publickey",
            "    ConnectTimeout 10",
            "    ServerAliveInterval 5",
            "    ServerAliveCountMax 3",
            "    LogLevel ERROR",
        ]
        for number in range(1, self.hosts + 1):
            lines += [f"Host {self.name(number)}", f"    HostName {self.subnet.host_ipv4(number)}"]
        return "\n".join(lines) + "\n"

    def known_hosts(self, keys: Iterable[str]) -> str:
        """The hosts' keys, each pinned to its name and addresses; ``keys`` are the public key files' texts."""
        lines = []
        for number, key in enumerate(keys, start=1):
            names = (self.name(number), self.subnet.host_ipv4(number), self.subnet.host_ipv6(number))
            lines.append(f"{','.join(names)} {' '.join(key.split()[:2])}")
        return "".join(f"{line}\n" for line in lines)

    def wrapper(self, program: str) -> str:
        """A script that is ssh, scp or sftp into the lab."""
        if program != "ssh":
            return f'#!/bin/sh\nexec {program} -S {shlex.quote(str(self.state / "bin/ssh"))} "$@"\n'
        netns = shlex.quote(str(self.netns))
        config = shlex.quote(str(self.state / "ssh_config"))
        known = shlex.quote(f'UserKnownHostsFile="{self.state}/known_hosts"')
        return f"""\
#!/bin/sh
[ -e {netns} ] || {{ echo "testbed: lab {self.lab} is not up" >&2; exit 255; }}
exec nsenter --net={netns} -- ssh -F {config} -o StrictHostKeyChecking=yes \\
    -o {known} -o GlobalKnownHostsFile=/dev/null "$@"
"""
