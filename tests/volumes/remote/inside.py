# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of thin logical volumes, made, merged and removed by the engine's own code; runs in the machine.

Prints a line ``@@ JSON`` for each case, and for each output of lvs(8) that is worth keeping.  The kernel's command line
says what is to be done: ``volumes.phase=cases``, or ``cut``, with ``volumes.cut=SECONDS`` after which the power goes
while a snapshot is merged.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import traceback
import typing as t
from pathlib import Path
from types import SimpleNamespace

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _volume_apply, _volume_lvm
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands, Completed
from ansible_collections.microvm.fleet.plugins.module_utils._contract import Runner, Volume
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._guest_judge import Place, Revert
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Guest
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import GuestPlan
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import (
    Remove,
    Start,
    Step,
    Stop,
    Switch,
    VolumeStep,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import GuestWish
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths

DISK = "/dev/vda"
DATA, LOGS = "/dev/fleet/data", "/dev/fleet/logs"
KEPT = {DATA: "microvm+db1+data", LOGS: "microvm+db1+logs"}
OLD, NEW = ("/nix/store/" + letter * 32 + "-microvm-qemu-db1" for letter in "ab")
MIB = 1 << 20
# As much of a volume as is written and compared.
SIZE = 4 * MIB
CHANGING = ("lvcreate", "lvremove", "lvconvert", "lvchange")


def sh(*argv: str, check: bool = True) -> str:
    """What a program prints: the oracle, which is none of the engine's code."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    if check and done.returncode:
        message = f"{' '.join(argv)} ended with {done.returncode}: {done.stderr}{done.stdout}"
        raise AssertionError(message)
    return done.stdout.strip()


def tell(**values: t.Any) -> None:
    """A line for the machine that started this one."""
    print("@@ " + json.dumps(values), flush=True)


def record(scene: str) -> None:
    """Keep what lvs says by now."""
    tell(scene=scene, report=json.loads(sh(*_volume_lvm.LIST)))


def names() -> set[str]:
    """The logical volumes of the group, but for those of LVM itself."""
    return set(sh("lvs", "--noheadings", "-o", "lv_name", "fleet").split())


def device_id(name: str) -> str:
    """The number that the kernel's pool has for a thin volume, from its table."""
    return sh("dmsetup", "table", f"fleet-{name}").split()[4]


def write(path: str, seed: str) -> str:
    """Fill a device with what is only there for *seed*, and give its checksum."""
    block = hashlib.sha256(seed.encode()).digest() * (MIB // 32)
    with open(path, "r+b") as stream:
        stream.writelines(number.to_bytes(8, "big") + block[8:] for number in range(SIZE // MIB))
        stream.flush()
        os.fsync(stream.fileno())
    return checksum(path)


def checksum(path: str) -> str:
    """SHA-256 of a device, as it is on the disk."""
    found = hashlib.sha256()
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        for _number in range(SIZE // MIB):
            found.update(os.read(handle, MIB))
    finally:
        os.close(handle)
    return found.hexdigest()


class Killed(BaseException):
    """The run is no more."""


class Dying(Commands):
    """Ends the run before its change number *at* of logical volumes; behind the last one nothing is left to do."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.count = at, 0

    def run(self, argv: t.Sequence[str], **options: t.Any) -> Completed:
        if argv[0] not in CHANGING:
            return super().run(argv, **options)
        if self.count == self.at:
            raise Killed
        self.count += 1
        return super().run(argv, **options)


class Cut(Commands):
    """The power goes so many seconds after LVM has begun to merge a snapshot."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def run(self, argv: t.Sequence[str], **options: t.Any) -> Completed:
        if argv[0] == "lvconvert":
            threading.Timer(self.seconds, lambda: Path("/proc/sysrq-trigger").write_text("b")).start()
        return super().run(argv, **options)


PATHS = Paths()
WISH = GuestWish("db1", snapshot_volumes=True, restore_volumes=True)


def guest(*images: str) -> Guest:
    """A guest with volumes on *images*, which is off."""
    volumes = tuple(Volume(image, auto_create=False) for image in images or (DATA, LOGS))
    return Guest("db1", directory=True, current=OLD, runner=Runner(OLD, volumes=volumes))


def updating(*images: str) -> GuestPlan:
    """The plan of an update, as the engine has it without its volumes."""
    back = Revert(
        origin=Place(NEW, 2),
        back=Place(OLD, 1),
        steps=(Stop("db1"), Switch("db1", OLD, None), Start("db1")),
    )
    return GuestPlan(WISH, guest(*images), steps=(Stop("db1"), Switch("db1", NEW, None), Start("db1")), revert=back)


def reverting() -> GuestPlan:
    """The plan of the next run, when one was killed while the guest went back."""
    plan = updating()
    assert plan.revert is not None
    rest = dataclasses.replace(plan.revert, reason="it does not answer")
    return dataclasses.replace(plan, steps=rest.steps, revert=rest)


def judging() -> GuestPlan:
    """The plan of the next run, when one was killed after the switch."""
    return dataclasses.replace(updating(), steps=(Start("db1"),))


def planned(plan: GuestPlan, commands: Commands | None = None) -> GuestPlan:
    """With what the engine adds for volumes."""
    (full,) = _volume_apply.add([plan], PATHS, commands or Commands())
    return full


def carry_out(plan: GuestPlan, steps: t.Iterable[Step], commands: Commands | None = None) -> list[str]:
    """Do the *steps* that are about volumes, and flush where they stop, as the engine does."""
    if plan.error is not None:
        raise plan.error
    done = []
    for step in steps:
        if isinstance(step, VolumeStep):
            apply = SimpleNamespace(paths=PATHS, commands=commands or Commands())
            unflushed = _files.Unflushed()
            for _part in _volume_apply.ACTIONS[type(step)](apply, plan, step, unflushed) or ():
                assert not _files.flush(unflushed.paths)
                unflushed.paths.clear()
            assert not _files.flush(unflushed.paths)
            done.append(step.words())
    return done


def keep() -> None:
    """A snapshot before an update."""
    plan = planned(updating())
    assert carry_out(plan, plan.steps) == [f"db1: keep a snapshot of {DATA}, {LOGS}"]


def put_back(plan: GuestPlan | None = None, commands: Commands | None = None) -> None:
    """The snapshot of a revert."""
    plan = planned(plan or judging())
    assert plan.revert is not None
    assert carry_out(plan, plan.revert.steps, commands) == [f"db1: put back {DATA}, {LOGS}"]


def refused(plan: GuestPlan) -> str:
    """Why a plan cannot be; it has no steps then."""
    assert plan.error is not None, "it was planned"
    assert not plan.steps
    return plan.error.text()


def refusal(action: t.Callable[[], object]) -> str:
    """What an action that has to fail says."""
    try:
        action()
    except FleetError as error:
        return error.text()
    raise AssertionError("it was done, and should have been refused")


# Cases


def kept() -> str:
    """A snapshot of two volumes; what is written then does not change it."""
    before = {image: write(image, f"one {image}") for image in KEPT}
    record("plain")
    keep()
    record("kept")
    for image in KEPT:
        write(image, f"two {image}")
    assert names() >= {"data", "logs", *KEPT.values()}
    tagged = set(sh("lvs", "--noheadings", "-o", "lv_name", "@microvm.fleet=db1").split())
    assert tagged == set(KEPT.values()), tagged
    assert not [name for name in KEPT.values() if Path(f"/dev/fleet/{name}").exists()]
    for image, name in KEPT.items():
        sh("lvchange", "-ay", "-K", f"fleet/{name}")
        seen = checksum(f"/dev/fleet/{name}")
        sh("lvchange", "-an", f"fleet/{name}")
        assert seen == before[image]
    return f"{', '.join(sorted(tagged))}, not active, the same SHA-256 when they are"


def restored() -> str:
    """They are merged back: names, identities and tags stay, the kernel's number is that of the snapshot."""
    sh("lvchange", "--addtag", "theirs", "fleet/data")
    wanted = {}
    for image, name in KEPT.items():
        write(image, f"spoiled {image}")
        sh("lvchange", "-ay", "-K", f"fleet/{name}")
        wanted[image] = checksum(f"/dev/fleet/{name}")
        sh("lvchange", "-an", f"fleet/{name}")
    identity = sh("lvs", "--noheadings", "-o", "lv_uuid", "fleet/data")
    number = device_id("data")
    put_back()
    record("merged")
    assert {image: checksum(image) for image in KEPT} == wanted
    assert not names() & set(KEPT.values())
    assert sh("lvs", "--noheadings", "-o", "lv_uuid", "fleet/data") == identity
    assert sh("lvs", "--noheadings", "-o", "lv_tags", "fleet/data") == "theirs"
    assert sh("lvs", "--noheadings", "-o", "lv_skip_activation", "fleet/data") == ""
    assert device_id("data") != number
    return f"SHA-256 as kept; the number in the pool was {number}, is {device_id('data')}"


def replaced() -> str:
    """The next update has a snapshot of its own."""
    write(DATA, "three")
    keep()
    wanted = write(DATA, "four")
    keep()
    write(DATA, "five")
    assert len(names() & set(KEPT.values())) == 2
    put_back()
    assert checksum(DATA) == wanted
    return "one snapshot a volume, of the later update"


def filesystem() -> str:
    """What a filesystem had is there again, and it is clean."""
    sh("mkfs.ext4", "-q", "-F", DATA)
    mounted = Path("/tmp/mounted")
    mounted.mkdir(exist_ok=True)
    sh("mount", DATA, str(mounted))
    (mounted / "file").write_text("of value")
    sh("umount", str(mounted))
    keep()
    sh("mount", DATA, str(mounted))
    (mounted / "file").unlink()
    (mounted / "other").write_text("x" * MIB)
    sh("umount", str(mounted))
    put_back()
    sh("e2fsck", "-f", "-n", DATA)
    sh("mount", "-o", "ro", DATA, str(mounted))
    found = {path.name: path.read_text() for path in mounted.iterdir() if path.is_file()}
    sh("umount", str(mounted))
    assert found == {"file": "of value"}, found
    return "e2fsck finds nothing, the file is back"


def in_use() -> str:
    """A volume that something has opened is not put back, nor is a snapshot in use replaced."""
    wanted = write(DATA, "six")
    keep()
    spoiled = write(DATA, "seven")
    with open(DATA, "rb"):
        record("open")
        said = refusal(put_back)
    assert "fleet/data is in use" in said, said
    assert checksum(DATA) == spoiled
    name = KEPT[DATA]
    sh("lvchange", "-ay", "-K", f"fleet/{name}")
    with open(f"/dev/fleet/{name}", "rb"):
        also = refused(planned(updating()))
    assert f"fleet/{name} is in use" in also, also
    sh("lvchange", "-an", f"fleet/{name}")
    put_back()
    assert checksum(DATA) == wanted
    return said


def delayed() -> str:
    """A merge that LVM has put off is told, and finished by the next run."""
    wanted = write(DATA, "eight")
    keep()
    write(DATA, "nine")
    pairs = {f"fleet/{KEPT[DATA]}": "fleet/data"}

    def merge() -> None:
        _volume_lvm.put_back(Commands(), _volume_lvm.read(Commands()), pairs, subject="guest db1")

    with open(DATA, "rb"):
        said = refusal(merge)
        record("delayed")
    assert "was not merged into fleet/data" in said, said
    also = refused(planned(updating()))
    assert "waits for a snapshot to be merged" in also, also
    merge()
    assert checksum(DATA) == wanted
    sh("lvremove", "-y", f"fleet/{KEPT[LOGS]}")
    return said


def killed_while_kept() -> str:
    """A run that is killed before any change of a snapshot is repeated by the next one."""
    keep()
    for at in range(20):
        wanted = write(DATA, f"kept {at}")
        plan = planned(updating())
        try:
            carry_out(plan, plan.steps, Dying(at))
        except Killed:
            keep()
        else:
            assert at > 3
            write(DATA, "spoiled")
            put_back()
            assert checksum(DATA) == wanted
            return f"at {at} moments"
        sh("lvchange", "-ay", "-K", f"fleet/{KEPT[DATA]}")
        assert checksum(f"/dev/fleet/{KEPT[DATA]}") == wanted, at
        sh("lvchange", "-an", f"fleet/{KEPT[DATA]}")
        assert len(names() & set(KEPT.values())) == 2, at
    raise AssertionError("it has no end")


def killed_while_restored() -> str:
    """A revert that is killed before any change is finished by the next run."""
    for at in range(20):
        wanted = {image: write(image, f"good {image} {at}") for image in KEPT}
        keep()
        for image in KEPT:
            write(image, "spoiled")
        try:
            put_back(commands=Dying(at))
        except Killed:
            # Somebody has taken a volume down meanwhile.
            sh("lvchange", "-an", "fleet/data")
            put_back(reverting())
        else:
            assert at > 3
            put_back(reverting())
            return f"at {at} moments"
        assert {image: checksum(image) for image in KEPT} == wanted, at
        assert not names() & set(KEPT.values()), at
    raise AssertionError("it has no end")


def dropped() -> str:
    """The snapshots go with their guest, and no others."""
    keep()
    sh("lvcreate", "-qq", "-s", "-n", "theirs", "fleet/data")
    plan = planned(dataclasses.replace(updating(), steps=(Stop("db1"), Remove("db1", purge=False)), revert=None))
    assert carry_out(plan, plan.steps) == ["db1: drop its snapshot"]
    left = names()
    assert "theirs" in left
    assert not left & set(KEPT.values())
    sh("lvremove", "-y", "fleet/theirs")
    assert not os.path.exists(_volume_apply.kept_file(PATHS, "db1"))
    return f"left: {', '.join(sorted(left))}"


def others() -> str:
    """What no snapshot can be made of is said before anything is stopped."""
    said = []
    Path("/tmp/file.img").touch()
    for image, words in (
        (DISK, "is no logical volume"),
        ("/dev/fleet/state", "is not thin (linear)"),
        ("/tmp/file.img", "is a file outside"),
    ):
        said.append(refused(planned(updating(image))))
        assert words in said[-1], said
    sh("dd", "if=/dev/urandom", "of=/dev/fleet/tight", "bs=1M", "count=16", check=False)
    sh("sync")
    said.append(refused(planned(updating("/dev/fleet/tight"))))
    assert "% full" in said[-1], said
    record("full")
    for image in ("/dev/mapper/fleet-data", os.path.realpath(DATA)):
        plan = planned(updating(image))
        assert plan.error is None, plan.error
    sh("lvchange", "-an", "fleet/logs")
    assert planned(updating(LOGS)).error is None
    sh("lvchange", "-ay", "fleet/logs")
    return said[-1]


# What a case ends with when what should be seen is not.
EXPECTED = (AssertionError, FleetError, OSError, subprocess.SubprocessError)
CASES = (
    kept,
    restored,
    replaced,
    filesystem,
    in_use,
    delayed,
    killed_while_kept,
    killed_while_restored,
    dropped,
    others,
)


# The machine


def prepare() -> None:
    """A group with a pool, and what a host has; from an earlier start of the machine, or new."""
    with open("/etc/passwd", "a", encoding="ascii") as passwd, open("/etc/group", "a", encoding="ascii") as groups:
        passwd.write("microvm:x:990:990::/nonexistent:/bin/false\n")
        groups.write("kvm:x:990:microvm\n")
    # There are no units here, so none is up.
    stand_in = Path("/usr/local/bin/systemctl")
    stand_in.parent.mkdir(parents=True, exist_ok=True)
    stand_in.write_text("#!/bin/sh\n")
    stand_in.chmod(0o755)
    if sh("vgs", "--noheadings", "-o", "vg_name", check=False):
        sh("vgchange", "-ay", "fleet")
    else:
        sh("vgcreate", "-qq", "fleet", DISK)
        sh("lvcreate", "-qq", "-y", "-L", "64m", "-n", "state", "fleet")
        sh("lvcreate", "-qq", "-y", "--type", "thin-pool", "-L", "256m", "-n", "pool", "fleet")
        sh("lvcreate", "-qq", "-y", "--type", "thin-pool", "-L", "16m", "-n", "small", "fleet")
        for name, pool in (("data", "pool"), ("logs", "pool"), ("tight", "small")):
            sh("lvcreate", "-qq", "-y", "--thin", "-V", "32m", "-n", name, "--thinpool", pool, "fleet")
        sh("mkfs.ext4", "-q", "/dev/fleet/state")
    sh("mount", "/dev/fleet/state", "/var/lib")
    os.makedirs(PATHS.guest("db1"), exist_ok=True)


def cases() -> None:
    """All of them; each stands on what the one before has left."""
    for case in CASES:
        begun = time.monotonic()
        try:
            said, ok = case(), True
        except (*EXPECTED, Killed):
            said, ok = traceback.format_exc(), False
        what = str(case.__doc__).partition("\n")[0].rstrip(".")
        tell(name=what, ok=ok, said=said, seconds=round(time.monotonic() - begun, 1))
        if not ok:
            break


def cut(seconds: float | None) -> None:
    """See what the last loss of power has left, have it finished; then lose it again."""
    note = Path("/var/lib/wanted")
    if note.exists():
        wanted, spoiled, when = json.loads(note.read_text())
        seen = checksum(DATA)
        left = sorted(names() & set(KEPT.values()))
        ok = seen in (wanted, spoiled)
        put_back(reverting())
        ok = ok and checksum(DATA) == wanted and not names() & set(KEPT.values())
        there = "merged" if seen == wanted else "as it was" if seen == spoiled else "neither"
        tell(
            name=f"power lost {when} s into the merge: finished by the next run",
            ok=ok,
            said=f"{there} then; snapshots left: {', '.join(left) or 'none'}",
            seconds=0,
        )
        note.unlink()
    if seconds is not None:
        wanted = write(DATA, f"good {seconds}")
        keep()
        spoiled = write(DATA, f"spoiled {seconds}")
        note.write_text(json.dumps([wanted, spoiled, seconds]))
        os.sync()
        begun = time.monotonic()
        put_back(commands=Cut(seconds))
        # Faster than that: the power goes now, after the merge.
        tell(took=round(time.monotonic() - begun, 2))
        time.sleep(60)


def main() -> None:
    """What the command line of the kernel says."""
    words = Path("/proc/cmdline").read_text(encoding="ascii").split()
    given = dict(word[len("volumes.") :].split("=", 1) for word in words if word.startswith("volumes."))
    tell(versions=sh("lvm", "version").splitlines()[0].split(":")[1].strip(), kernel=os.uname().release)
    prepare()
    if given["phase"] == "cases":
        cases()
    else:
        cut(float(given["cut"]) if "cut" in given else None)
    sh("umount", "/var/lib")
    tell(ended=True)


if __name__ == "__main__":
    try:
        main()
    except EXPECTED:
        tell(name="the machine", ok=False, said=traceback.format_exc(), seconds=0)
        sys.exit(1)
