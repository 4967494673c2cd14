# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the testbed needs of the machine that it runs on."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from . import files
from .errors import TestbedError

# Program: the Debian package that has it.
PROGRAMS = {
    "ip": "iproute2",
    "mkfs.btrfs": "btrfs-progs",
    "mmdebstrap": "mmdebstrap",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
}

INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
INOTIFY_INSTANCES = 8192


def say(text: str) -> None:
    """A line of progress, on stderr: stdout is for what was asked."""
    print(f"testbed: {text}", file=sys.stderr, flush=True)


def run(command: list[str], *, timeout: float) -> str:
    """Run a program and return its stdout; its failure is an error that ends with its last lines."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False,
            pass_fds=tuple(files.held),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TestbedError(f"{' '.join(command)}: not done after {timeout:.0f} s") from error
    except OSError as error:
        raise TestbedError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-20:]
        raise TestbedError(f"{' '.join(command)}: ended with status {done.returncode}:\n" + "\n".join(last))
    return done.stdout


def check() -> None:
    """Refuse a machine that cannot hold a testbed."""
    if os.geteuid() != 0:
        raise TestbedError("user: namespaces and mounts need root; run as root")
    if platform.machine() != "x86_64":
        raise TestbedError(f"machine: is {platform.machine()}; the hosts' trees are for x86_64 only")


def missing_packages() -> list[str]:
    return sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})


def raise_limit(kept: Path, limit: Path = INOTIFY) -> None:
    """Let many hosts share one kernel: each takes a dozen of root's inotify(7) instances, and the default is 128.

    ``kept`` remembers what the limit was, for ``restore_limit``.
    """
    before = int(limit.read_text())
    if before >= INOTIFY_INSTANCES:
        return
    if not kept.exists():
        files.write_atomic(kept, f"{before}\n")
    try:
        limit.write_text(f"{INOTIFY_INSTANCES}\n")
    except OSError as error:
        say(f"{limit}: stays {before} ({error.strerror}), which is enough for about {before // 16} hosts")
        return
    say(f"raised {limit} from {before} to {INOTIFY_INSTANCES} until the last lab is down")


def restore_limit(kept: Path, limit: Path = INOTIFY) -> None:
    """Put the limit back, unless someone has changed it since."""
    try:
        before = int(kept.read_text())
    except FileNotFoundError:
        return
    with contextlib.suppress(OSError):
        if int(limit.read_text()) == INOTIFY_INSTANCES:
            limit.write_text(f"{before}\n")
    kept.unlink()


def install_packages() -> None:
    """Install with apt what is missing, and say so."""
    packages = missing_packages()
    if not packages:
        return
    if not shutil.which("apt-get"):
        raise TestbedError(f"programs of {', '.join(packages)} are missing and there is no apt-get; install them")
    say(f"installing {', '.join(packages)} with apt-get")
    env = ["env", "DEBIAN_FRONTEND=noninteractive"]
    run([*env, "apt-get", "-qq", "update"], timeout=300)
    run([*env, "apt-get", "-qq", "-y", "--no-install-recommends", "install", *packages], timeout=900)
