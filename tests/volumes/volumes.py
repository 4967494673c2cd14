# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of thin logical volumes, in a machine that has Debian's kernel and LVM; a table, and build/volumes.json.

README.md beside this file says what is tried.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from microvm_testbed import tree as trees

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
UTILS = Path("ansible_collections/microvm/fleet/plugins/module_utils")
PACKAGES = ("e2fsprogs", "kmod", "lvm2", "mount", "python3", "thin-provisioning-tools", "udev")
OPTIONS = (
    "--variant=minbase",
    '--aptopt=Acquire::Languages "none"',
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)
# Where in the machine's first file system nothing is needed of.
LEFT_OUT = ("var/cache", "var/lib/apt", "var/lib/dpkg", "usr/lib/modules", "usr/share/zoneinfo")
# What of the kernel's modules is needed.
MODULES = ("arch", "crypto", "drivers/block", "drivers/md", "drivers/virtio", "fs", "lib")
MEMORY = 1536
DISK = 1 << 30
# Seconds after the beginning of a merge at which the power goes.
CUTS = (0.05, 0.3, 0.8, 1.5, 3.0)
PATIENCE = 1800.0
SAID = re.compile(r"^.*?@@ (\{.*\})\s*$")


class Failed(Exception):
    """What should have been seen was not."""


# An archive of cpio, as the kernel unpacks it (Documentation/driver-api/early-userspace/buffer-format.rst)


class Archive:
    """An archive that is being written; several after each other are one to the kernel."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._count = 0

    def add(self, name: str, mode: int, content: bytes = b"", *, owner: tuple[int, int] = (0, 0)) -> None:
        """One entry: a file, a directory, or a link with its target as *content*."""
        self._count += 1
        encoded = name.encode("utf-8") + b"\0"
        fields = (self._count, mode, *owner, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        for part in (head, content):
            self._stream.write(part + bytes(-len(part) % 4))

    def add_tree(self, top: Path, place: str = "", left_out: Iterable[str] = ()) -> None:
        """All below the directory *top*, under the name *place*."""
        for path in walk(top, frozenset(left_out)):
            seen = path.lstat()
            content = b""
            if stat.S_ISLNK(seen.st_mode):
                content = os.fsencode(os.readlink(path))
            elif stat.S_ISREG(seen.st_mode):
                content = path.read_bytes()
            elif not stat.S_ISDIR(seen.st_mode):
                continue
            name = os.path.join(place, os.path.relpath(path, top))
            self.add(name, seen.st_mode, content, owner=(seen.st_uid, seen.st_gid))

    def close(self) -> None:
        """The entry that ends it."""
        self.add("TRAILER!!!", 0)


def walk(top: Path, left_out: frozenset[str]) -> Iterator[Path]:
    """All below *top*, directories before what is in them."""
    for directory, directories, files in os.walk(top):
        place = Path(directory)
        directories[:] = sorted(name for name in directories if str((place / name).relative_to(top)) not in left_out)
        for name in (*directories, *sorted(files)):
            yield place / name


# What the machine is made of


def base(release: str) -> Path:
    """The archive with Debian, made once."""
    digest = hashlib.sha256("\0".join((*PACKAGES, *OPTIONS, *LEFT_OUT)).encode()).hexdigest()[:12]
    place = trees.cache_dir().parent / "volumes" / f"{release}-{digest}.cpio"
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    print(f"making a small {release} with LVM, about a minute", flush=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        tree = Path(scratch) / "tree"
        argv = ["mmdebstrap", "--mode=root", "--format=directory", *OPTIONS, f"--include={','.join(PACKAGES)}"]
        done = subprocess.run(
            [*argv, release, str(tree), trees.mirror()],
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
            env={**os.environ, "TMPDIR": scratch},
        )
        if done.returncode:
            message = f"mmdebstrap ended with {done.returncode}: {done.stderr[-2000:]}"
            raise Failed(message)
        partial = Path(scratch) / "base.cpio"
        with partial.open("wb") as stream:
            archive = Archive(stream)
            archive.add_tree(tree, left_out=LEFT_OUT)
            archive.close()
        os.replace(partial, place)
    return place


def kernel(release: str) -> tuple[Path, Path]:
    """Debian's kernel for guests, and its modules, from the testbed's tree."""
    tree = trees.ensure(release)
    (image,) = (tree / "boot").glob("vmlinuz-*")
    return image, tree / "usr/lib/modules" / image.name[len("vmlinuz-") :]


def ours(release: str, collections: Path, target: Path) -> None:
    """The archive that comes after Debian: modules of the kernel, the collection's code, and what is to be run."""
    _image, modules = kernel(release)
    with target.open("wb") as stream:
        archive = Archive(stream)
        place = f"usr/lib/modules/{modules.name}"
        for directory in ("usr/lib/modules", place, f"{place}/kernel", f"{place}/kernel/drivers"):
            archive.add(directory, stat.S_IFDIR | 0o755)
        for part in MODULES:
            archive.add(f"{place}/kernel/{part}", stat.S_IFDIR | 0o755)
            archive.add_tree(modules / "kernel" / part, f"{place}/kernel/{part}")
        for listed in modules.glob("modules.*"):
            archive.add(f"{place}/{listed.name}", stat.S_IFREG | 0o644, listed.read_bytes())
        within = Path("collections")
        archive.add(str(within), stat.S_IFDIR | 0o755)
        for part in UTILS.parts:
            within /= part
            archive.add(str(within), stat.S_IFDIR | 0o755)
        for source in sorted((collections / UTILS).glob("*.py")):
            archive.add(str(within / source.name), stat.S_IFREG | 0o644, source.read_bytes())
        for name in ("init", "inside.py"):
            archive.add(name, stat.S_IFREG | 0o755, (HERE / "remote" / name).read_bytes())
        archive.close()


class Machine:
    """One machine with a disk, which is started more than once."""

    def __init__(self, release: str, collections: Path, work: Path) -> None:
        self.image, _modules = kernel(release)
        self.initrd = work / "initrd"
        self.disk = work / "disk"
        self.log = work / f"{release}.log"
        self.log.unlink(missing_ok=True)
        own = work / "ours.cpio"
        ours(release, collections, own)
        with self.initrd.open("wb") as stream:
            for part in (base(release), own):
                with part.open("rb") as source:
                    shutil.copyfileobj(source, stream)
        own.unlink()

    def fresh(self) -> None:
        """An empty disk."""
        with self.disk.open("wb") as stream:
            stream.truncate(DISK)

    def boot(self, **words: Any) -> list[dict[str, Any]]:
        """Start it and wait for its end; what it told."""
        told = " ".join(f"volumes.{key}={value}" for key, value in words.items() if value is not None)
        argv = [
            "qemu-system-x86_64", "-M", "q35,accel=tcg", "-cpu", "max", "-smp", "1", "-m", str(MEMORY), "-nodefaults",
            "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", str(self.image), "-initrd",
            str(self.initrd), "-append", f"console=ttyS0 quiet panic=-1 reboot=t rdinit=/init {told}", "-drive",
            f"file={self.disk},if=virtio,format=raw,cache=unsafe",
        ]  # fmt: skip
        with self.log.open("ab") as log:
            at = log.tell()
            try:
                subprocess.run(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, timeout=PATIENCE, check=True
                )
            except subprocess.TimeoutExpired as error:
                message = f"the machine did not end within {PATIENCE:.0f} s; see {self.log}"
                raise Failed(message) from error
        with self.log.open("rb") as log:
            log.seek(at)
            lines = log.read().decode("utf-8", "replace").splitlines()
        return [json.loads(found.group(1)) for found in map(SAID.match, lines) if found]


def results(machine: Machine, recorded: Path | None) -> Iterator[dict[str, Any]]:
    """What was seen, case by case."""
    machine.fresh()
    told = machine.boot(phase="cases")
    first = next((each for each in told if "versions" in each), None)
    if first is None:
        message = f"the machine said nothing; see {machine.log}"
        raise Failed(message)
    if recorded is not None:
        version = first["versions"].split("(")[0]
        for each in told:
            if "scene" in each:
                path = recorded / version / f"{each['scene']}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(each["report"], indent=1) + "\n", encoding="utf-8")
    yield {"name": "a machine with LVM", "ok": True, "seconds": 0, "said": f"{first['versions']}, {first['kernel']}"}
    yield from (each for each in told if "name" in each)
    if not any("ended" in each for each in told):
        yield {"name": "the end of all cases", "ok": False, "seconds": 0, "said": f"see {machine.log}"}
        return
    machine.fresh()
    for cut in (*CUTS, None):
        told = machine.boot(phase="cut", cut=cut)
        seen = [each for each in told if "name" in each]
        yield from seen
        if cut != CUTS[0] and not seen:
            yield {"name": "the start after a loss of power", "ok": False, "seconds": 0, "said": f"see {machine.log}"}
            return


def main() -> int:
    """Run, print, write the report; the exit status is 0 if all was seen."""
    parser = argparse.ArgumentParser(prog="run", description=__doc__)
    parser.add_argument(
        "--collections", type=Path, required=True, help="directory with ansible_collections/microvm/fleet"
    )
    parser.add_argument("--work", type=Path, required=True, help="directory for what is needed in between")
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "volumes.json")
    parser.add_argument("--record", type=Path, help="keep what lvs printed below this directory, by its version")
    parser.add_argument("releases", nargs="*", help=f"{', '.join(trees.RELEASES)}; all if none is given")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for release in given.releases or trees.RELEASES:
        begun = time.monotonic()
        try:
            for seen in results(Machine(release, given.collections, given.work), given.record):
                rows.append(
                    {
                        "name": f"{release}: {seen['name']}",
                        "value": seen["seconds"],
                        "unit": "s",
                        "target": None,
                        "peer": None,
                        "peer_value": None,
                        "ok": seen["ok"],
                    }
                )
                print(f"{rows[-1]['name']}: {'ok' if seen['ok'] else 'NOT OK'}\n    {seen['said']}", flush=True)
        except (Failed, subprocess.SubprocessError) as error:
            rows.append({"name": f"{release}: {error}", "value": 0, "unit": "s", "ok": False})
            print(f"{release}: NOT OK\n    {error}", flush=True)
        print(f"{release}: {time.monotonic() - begun:.0f} s", flush=True)
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if rows and all(each["ok"] for each in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
