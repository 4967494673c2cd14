# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""On the host: kills a module, or fails a call of it, at each call that changes something, and runs it again.

Usage: drive.py [--every N] [OPERATION ...]

The modules lie in ``/srv/faults/NAME.py`` as Ansible would run them, see save.sh.  Prints a line of JSON for each
operation and kind of fault: ``operation``, ``fault``, ``calls`` (how many were tried), ``good``, and ``complaints``.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

PLACE: t.Final = Path("/srv/faults")
FLAKE: t.Final = Path("/srv/guests/guests.json")
STATE: t.Final = Path("/var/lib/microvms")
ROOTS: t.Final = Path("/nix/var/nix/gcroots/microvm-fleet/cut")
UNIT: t.Final = "microvm@cut.service"
TREES: t.Final = (
    "/var/lib/microvms",
    "/var/lib/microvm-fleet/guests",
    "/nix/var/nix/gcroots/microvm",
    "/nix/var/nix/gcroots/microvm-fleet",
    "/etc/systemd/system/microvm@cut.service.d",
    "/etc/systemd/system/microvms.target.wants",
    "/run/microvm-fleet/restart",
)
# What changes a file system (syscalls(2)), as strace names it.
CHANGING: t.Final = (
    "rename,renameat,renameat2,link,linkat,symlink,symlinkat,mkdir,mkdirat,rmdir,unlink,unlinkat,"
    "chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,fsync,fdatasync,ftruncate"
)
# Calls whose failure says that a disk is full or broken; permissions fail for other reasons.
FAILING: t.Final = {"rename": "ENOSPC", "symlink": "ENOSPC", "mkdir": "ENOSPC", "fsync": "EIO"}
LIMIT: t.Final = 300.0


def run(argv: t.Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of the host."""
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=check)


def module(name: str, *, strace: t.Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run the module that was saved as *name*, under strace when options for it are given."""
    under = ["strace", "-qq", *strace] if strace else []
    return run([*under, "/usr/bin/python3", str(PLACE / f"{name}.py")], check=False)


def result(done: subprocess.CompletedProcess[str]) -> dict[str, t.Any]:
    """What the module answered; empty when it answered nothing."""
    try:
        answer: dict[str, t.Any] = json.loads(done.stdout)
    except ValueError:
        return {}
    return answer


def failed(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether the module failed, or answered nothing."""
    answer = result(done)
    return not answer or bool(answer.get("failed"))


def describe(version: int) -> None:
    """Say which version of the guest the flake has."""
    FLAKE.write_text(json.dumps({"defaults": {}, "guests": {"cut": {"version": version}}}), encoding="utf-8")


def clear() -> None:
    """Leave nothing of any guest."""
    run(["systemctl", "kill", "--signal=KILL", UNIT], check=False)
    run(["systemctl", "stop", UNIT], check=False)
    for tree in TREES:
        if tree.startswith("/var/lib") or "gcroots" in tree:
            for entry in Path(tree).iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        else:
            shutil.rmtree(tree, ignore_errors=True)


def snapshot(name: str) -> None:
    """Keep all trees, to begin from them again."""
    there = [tree.lstrip("/") for tree in TREES if os.path.isdir(tree)]
    run(["tar", "-C", "/", "-cpf", str(PLACE / f"{name}.tar"), *there])


def restore(name: str) -> None:
    """Begin where `snapshot` was made."""
    clear()
    run(["tar", "-C", "/", "-xpf", str(PLACE / f"{name}.tar")])
    run(["systemctl", "daemon-reload"])
    run(["systemctl", "reset-failed", UNIT], check=False)


def fingerprint() -> list[str]:
    """A line for each file: what an undisturbed run and a finished one must have in common."""
    lines = []
    for tree in TREES:
        for path in [Path(tree), *sorted(Path(tree).rglob("*"))]:
            if not os.path.lexists(path):
                continue
            seen = path.lstat()
            words = [str(path), stat.filemode(seen.st_mode), f"{seen.st_uid}:{seen.st_gid}"]
            if path.is_symlink():
                words += ["->", os.readlink(path)]
            elif path.suffix != ".sock" and path.is_file():
                words.append(hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix != ".img" else "a volume")
            lines.append(" ".join(words))
    # When a volume was put aside is part of the name of its place.
    lines = [re.sub(r"/cut-\d{8}T\d{6}Z", "/cut-TIME", line) for line in lines]
    shown = run(["systemctl", "show", "--property=ActiveState,NeedDaemonReload,UnitFileState", UNIT]).stdout
    return [*lines, *shown.splitlines()]


def half_made() -> list[str]:
    """What nobody may ever see: a guest without a runner, or with one that nothing holds in the store."""
    seen = []
    for place in STATE.iterdir():
        if place.name.startswith("."):
            continue
        current = place / "current"
        if not current.is_symlink() or not current.exists():
            seen.append(f"{place} has no runner")
        else:
            held = {os.readlink(link) for link in ROOTS.iterdir() if link.is_symlink()} if ROOTS.is_dir() else set()
            if os.readlink(current) not in held:
                seen.append(f"{current} is not held in the store")
    return seen


def volumes() -> list[str]:
    """The volume has to be in one place, whatever happened."""
    found = [str(path) for path in STATE.rglob("data.img")]
    return [] if len(found) == 1 else [f"the volume is at {found or 'no place'}"]


def nothing() -> list[str]:
    """Where there is nothing to keep."""
    return []


@dataclass(frozen=True)
class Operation:
    """A module that was saved, what comes before it, and what must hold at any moment."""

    name: str
    # Versions of the flake before and in the operation, and modules that make its beginning.
    before: int
    version: int
    beginning: tuple[str, ...]
    always: t.Callable[[], list[str]]
    volume: bool = False
    # Only calls of these kinds, because each takes the start of a guest.
    only: tuple[str, ...] = ()
    faults: tuple[str, ...] = ("kill", "error")


OPERATIONS: t.Final = (
    Operation("create", before=1, version=1, beginning=(), always=half_made),
    Operation("update", before=1, version=2, beginning=("create",), always=half_made),
    Operation("remove", before=1, version=1, beginning=("create",), always=volumes, volume=True),
    Operation("purge", before=1, version=1, beginning=("create",), always=nothing, volume=True, faults=("kill",)),
    Operation(
        "restart", before=1, version=2, beginning=("start",), always=half_made, only=("rename",), faults=("kill",)
    ),
)


def begin(operation: Operation) -> None:
    """Make the beginning of an operation."""
    restore(operation.name)
    describe(operation.version)
    for name in operation.beginning:
        if name == "start":
            describe(operation.before)
            done = module(name)
            if failed(done):
                message = f"{name}: {done.stdout}{done.stderr}"
                raise RuntimeError(message)
            describe(operation.version)


def prepare(operation: Operation) -> None:
    """Keep the beginning of an operation; a guest that is to run is started anew each time."""
    clear()
    run(["systemctl", "daemon-reload"])
    describe(operation.before)
    for name in operation.beginning:
        if name != "start":
            done = module(name)
            if failed(done):
                message = f"{name}: {done.stdout}{done.stderr}"
                raise RuntimeError(message)
    if operation.volume:
        (STATE / "cut/data.img").write_bytes(b"what must not be lost")
    snapshot(operation.name)


def moments(operation: Operation) -> tuple[list[tuple[str, int]], list[str]]:
    """Calls that an undisturbed run makes, by kind and number, and where that run ends."""
    begin(operation)
    trace = PLACE / "trace"
    done = module(operation.name, strace=["-o", str(trace), "-e", f"trace={CHANGING}"])
    if failed(done):
        message = f"{operation.name}: {done.stdout}{done.stderr}"
        raise RuntimeError(message)
    counted: collections.Counter[str] = collections.Counter()
    calls = []
    for line in trace.read_text(encoding="utf-8").splitlines():
        kind = line.partition("(")[0]
        if kind.isidentifier():
            counted[kind] += 1
            # Ansible unpacks the module there, before any of it runs.
            if '"/tmp/' not in line:
                calls.append((kind, counted[kind]))
    return calls, settle(operation)


def settle(operation: Operation) -> list[str]:
    """The fingerprint, as soon as a guest that runs has made its socket and its link."""
    if operation.name == "restart":
        deadline = time.monotonic() + 60
        while not (STATE / "cut/booted").is_symlink() or not list(STATE.glob("cut/*.sock")):
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
    return fingerprint()


def disturb(operation: Operation, kind: str, number: int, fault: str, end: list[str]) -> list[str]:
    """One fault at one call; what was wrong afterwards."""
    begin(operation)
    if fault == "kill":
        done = module(operation.name, strace=["-o", "/dev/null", "-e", f"inject={kind}:signal=KILL:when={number}"])
        if done.returncode not in (-9, 137):
            return [f"it was not killed: {done.returncode}"]
        wrong = operation.always()
    else:
        wanted = f"inject={kind}:error={FAILING[kind]}:when={number}"
        done = module(operation.name, strace=["-o", "/dev/null", "-e", wanted])
        said = str(result(done).get("msg", ""))
        wrong = operation.always()
        if not result(done):
            wrong.append(f"it answered nothing: {done.stderr.strip()[-400:]}")
        elif result(done).get("failed") and "guest cut" not in said:
            wrong.append(f"its message does not name the guest: {said[-400:]}")
        if "Traceback" in done.stdout + done.stderr:
            wrong.append("it showed a traceback")
    done = module(operation.name)
    if failed(done):
        return [*wrong, f"the next run failed: {result(done).get('msg') or done.stderr[-400:]}"]
    seen = settle(operation)
    wrong += [f"missing: {line}" for line in end if line not in seen]
    wrong += [f"left: {line}" for line in seen if line not in end]
    again = result(module(operation.name))
    if again.get("changed", True):
        wrong.append(f"the run after the next changed: {again.get('actions')}")
    return wrong


def main() -> None:
    """Try what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="try each Nth call only")
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    for operation in OPERATIONS:
        if given.names and operation.name not in given.names:
            continue
        prepare(operation)
        calls, end = moments(operation)
        for fault in operation.faults:
            kinds = operation.only or (tuple(FAILING) if fault == "error" else ())
            tried = [call for call in calls if not kinds or call[0] in kinds][:: given.every]
            complaints = []
            good = 0
            for kind, number in tried:
                wrong = disturb(operation, kind, number, fault, end)
                good += not wrong
                complaints += [f"{kind} {number}: {each}" for each in wrong]
            answer = {"operation": operation.name, "fault": fault, "calls": len(tried), "good": good}
            print(json.dumps({**answer, "complaints": complaints}), flush=True)
    clear()
    run(["systemctl", "daemon-reload"])


if __name__ == "__main__":
    main()
