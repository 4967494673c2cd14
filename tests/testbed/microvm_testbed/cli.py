# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from . import cgroup, files, machine, net, outside, supervisor, tree
from .errors import TestbedError
from .lab import BOOT_TIMEOUT, UPLINKS, Lab


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(prog="testbed", description="Systemd hosts for tests, in network namespaces of their own.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    lab = argparse.ArgumentParser(add_help=False)
    lab.add_argument("--lab", default="lab", metavar="NAME", help="the lab (default: lab)")
    host = argparse.ArgumentParser(add_help=False, parents=[lab])
    host.add_argument("host", metavar="HOST", help="LAB-NUMBER, or only the number")
    waiting = argparse.ArgumentParser(add_help=False)
    waiting.add_argument("--timeout", type=float, default=BOOT_TIMEOUT, metavar="SECONDS", help="(default: %(default).0f)")
    waiting.add_argument(
        "--ssh-only", action="store_true", help="wait only for SSH, not until systemd has started all that is enabled"
    )

    command = commands.add_parser("prepare", help="install what is missing on the machine and make the base trees")
    command.add_argument("--release", choices=tree.RELEASES, help="only this release's tree (default: all)")
    command = commands.add_parser("up", parents=[lab], help="make the lab have N hosts, and wait until they are up")
    command.add_argument("--hosts", type=int, default=1, metavar="N", help="(default: 1)")
    command.add_argument("--release", choices=tree.RELEASES, help=f"(default: {tree.RELEASES[0]})")
    command.add_argument("--uplink", choices=UPLINKS, help=f"what keeps the hosts' uplink (default: {UPLINKS[0]})")
    commands.add_parser("down", parents=[lab], help="end the lab and leave nothing of it")
    command = commands.add_parser("status", parents=[lab], help="show the lab's hosts")
    command.add_argument("--json", action="store_true", help="as JSON")
    commands.add_parser("inventory", parents=[lab], help="print the lab's inventory for Ansible")
    command = commands.add_parser("ssh", parents=[host], help="run a command, or a shell, in a host over SSH")
    command.add_argument("arguments", nargs=argparse.REMAINDER, metavar="CMD")
    command = commands.add_parser("exec", parents=[host], help="run a command in a host without SSH")
    command.add_argument("arguments", nargs=argparse.REMAINDER, metavar="CMD")
    command = commands.add_parser("reboot", parents=[host, waiting], help="reboot a host and wait until it is up")
    command.add_argument("--hard", action="store_true", help="as by a loss of power")
    commands.add_parser("wait", parents=[host, waiting], help="wait until a host is up")
    command = commands.add_parser("log", parents=[host], help="print a host's journal, or its console")
    command.add_argument("--console", action="store_true", help="what the host wrote on its console")
    command.add_argument("arguments", nargs=argparse.REMAINDER, metavar="OPTION", help="for journalctl")
    for name in ("_supervise", "_boot", "_outside"):
        commands.add_parser(name).add_argument("path", type=Path)
    return main


def status(lab: Lab, as_json: bool) -> None:
    spec = lab.need()
    rows: list[dict[str, object]] = []
    for host in lab.hosts():
        machine_ = host.machine()
        rows.append(
            {
                "host": host.name,
                "state": host.system_state() if machine_ else "off",
                "ipv4": spec.subnet.host_ipv4(host.number),
                "ipv6": spec.subnet.host_ipv6(host.number),
                "release": spec.release,
                "uplink": spec.uplink,
                "boots": machine_.boots if machine_ else None,
                "pid": host.leader(),
            }
        )
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = [[key.upper() for key in rows[0]], *([str(v if v is not None else "-") for v in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def dispatch(options: argparse.Namespace) -> None:
    command: str = options.command
    if command == "_supervise":
        return supervisor.supervise(options.path)
    if command == "_boot":
        return supervisor.boot(options.path)
    if command == "_outside":
        if files.try_lock(options.path / "outside.lock") is not None:
            cgroup.enter(cgroup.path_of(f"{options.path.name}-outside"))
            outside.serve()
        return None
    machine.check()
    if command == "prepare":
        machine.install_packages()
        for release in [options.release] if options.release else tree.RELEASES:
            print(tree.ensure(release))
        return None
    if command in {"up", "down", "status", "inventory"}:
        lab = Lab(options.lab)
        if command == "up":
            lab.up(hosts=options.hosts, release=options.release, uplink=options.uplink)
        elif command == "down":
            lab.down()
        elif command == "status":
            status(lab, options.json)
        else:
            print(lab.access().inventory(), end="")
        return None
    name, number = net.split_host(options.host, options.lab)
    lab = Lab(name)
    host = lab.existing_host(number)
    if command == "ssh":
        replace_with([str(host.ssh), host.name, *options.arguments])
    elif command == "exec":
        replace_with(host.exec_command(options.arguments or ["sh"]))
    elif command == "reboot":
        print(lab.reboot(number, hard=options.hard, timeout=options.timeout, settled=not options.ssh_only))
    elif command == "wait":
        print(host.wait(timeout=options.timeout, settled=not options.ssh_only))
    elif command == "log":
        if options.console:
            replace_with(["cat", str(host.directory / "console.log")])
        journalctl = ["journalctl", "--no-pager", *options.arguments]
        if host.machine():
            replace_with(host.exec_command(journalctl))
        replace_with([*journalctl, "--directory", str(host.directory / "upper/var/log/journal")])
    return None


def replace_with(command: list[str]) -> None:
    sys.stdout.flush()
    os.execvp(command[0], command)


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; return the exit status."""
    try:
        dispatch(parser().parse_args(arguments))
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("testbed: interrupted; the same command goes on, down removes what there is", file=sys.stderr)
        return 130
    return 0
