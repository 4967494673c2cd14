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
from .lab import BOOT_TIMEOUT, SYSTEMS, UPLINKS, Lab


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(prog="testbed", description="Systemd hosts for tests, in namespaces of their own.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    lab = argparse.ArgumentParser(add_help=False)
    lab.add_argument("--lab", default="lab", metavar="NAME", help="the lab (default: lab)")
    host = argparse.ArgumentParser(add_help=False, parents=[lab])
    host.add_argument("host", metavar="HOST", help="LAB-NUMBER, or only the number")
    waiting = argparse.ArgumentParser(add_help=False)
    waiting.add_argument(
        "--timeout", type=float, default=BOOT_TIMEOUT, metavar="SECONDS", help="(default: %(default).0f)"
    )
    waiting.add_argument(
        "--ssh-only", action="store_true", help="wait only for SSH, not until systemd has started all that is enabled"
    )

    command = commands.add_parser("prepare", help="install what is missing on the machine and make the base trees")
    command.add_argument("--release", choices=tree.RELEASES, help="only this release's tree (default: all)")
    command = commands.add_parser("up", parents=[lab], help="make the lab have N hosts, and wait until they are up")
    command.add_argument("--hosts", type=int, default=1, metavar="N", help="(default: 1)")
    command.add_argument("--release", choices=tree.RELEASES, help=f"(default: {tree.RELEASES[0]})")
    command.add_argument("--uplink", choices=UPLINKS, help=f"what keeps the hosts' uplink (default: {UPLINKS[0]})")
    command.add_argument("--os", choices=SYSTEMS, help=f"what the hosts are, or act as (default: {SYSTEMS[0]})")
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


def rows(lab: Lab) -> list[dict[str, object]]:
    """What there is to say about each host of the lab."""
    spec = lab.need()
    found: list[dict[str, object]] = []
    for host in lab.hosts():
        booted = host.machine()
        found.append(
            {
                "host": host.name,
                "state": host.system_state() if booted else "off",
                "ipv4": spec.subnet.host_ipv4(host.number),
                "ipv6": spec.subnet.host_ipv6(host.number),
                "release": spec.release,
                "uplink": spec.uplink,
                "os": spec.system,
                "boots": booted.boots if booted else None,
                "pid": host.leader(),
            }
        )
    return found


def table(found: list[dict[str, object]]) -> str:
    """Rows in columns under their names."""
    lines = [[key.upper() for key in found[0]]]
    lines += [["-" if value is None else str(value) for value in row.values()] for row in found]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def run_part(command: str, path: Path) -> None:
    """Be one of the testbed's own processes."""
    if command == "_supervise":
        supervisor.supervise(path)
    elif command == "_boot":
        supervisor.boot(path)
    elif files.try_lock(path / "outside.lock") is not None:
        cgroup.enter(cgroup.path_of(f"{path.name}-outside"))
        outside.serve()


def run_lab(options: argparse.Namespace) -> None:
    """Run a command that is about a lab."""
    lab = Lab(options.lab)
    match options.command:
        case "up":
            for host in lab.up(hosts=options.hosts, release=options.release, uplink=options.uplink, system=options.os):
                print(host.name)
        case "down":
            lab.down()
        case "status":
            print(json.dumps(rows(lab), indent=1) if options.json else table(rows(lab)))
        case "inventory":
            print(lab.access().inventory(), end="")


def run_host(options: argparse.Namespace) -> None:
    """Run a command that is about a host."""
    name, number = net.split_host(options.host, options.lab)
    lab = Lab(name)
    host = lab.existing_host(number)
    rest: list[str] = getattr(options, "arguments", [])
    if rest[:1] == ["--"]:
        rest = rest[1:]
    match options.command:
        case "ssh":
            replace_with([str(host.ssh), host.name, *rest])
        case "exec":
            replace_with(host.exec_command(rest or ["sh"]))
        case "reboot":
            print(lab.reboot(number, hard=options.hard, timeout=options.timeout, settled=not options.ssh_only))
        case "wait":
            print(host.wait(timeout=options.timeout, settled=not options.ssh_only))
        case "log" if options.console or "--console" in rest:
            replace_with(["cat", str(host.directory / "console.log")])
        case "log":
            journalctl = ["journalctl", "--no-pager", *rest]
            if host.machine():
                replace_with(host.exec_command(journalctl))
            replace_with([*journalctl, "--directory", str(host.directory / "upper/var/log/journal")])


def dispatch(options: argparse.Namespace) -> None:
    """Run the command that was asked for."""
    if options.command.startswith("_"):
        run_part(options.command, options.path)
        return
    machine.check()
    if options.command == "prepare":
        machine.install_packages()
        for release in [options.release] if options.release else tree.RELEASES:
            print(tree.ensure(release))
    elif "host" in options:
        run_host(options)
    else:
        run_lab(options)


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
    except BrokenPipeError:
        # Whoever read our output has had enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("testbed: interrupted; the same command goes on, down removes what there is", file=sys.stderr)
        return 130
    return 0
