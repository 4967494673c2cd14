# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The base tree of a Debian release, made once by mmdebstrap(1) and shared by all hosts as a lower layer."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import files, machine
from .errors import TestbedError

RELEASES = ("trixie", "bookworm")
RECIPE = Path(__file__).resolve().parent.parent / "recipe"
OPTIONS = (
    "--variant=minbase",
    '--aptopt=Acquire::Languages "none"',
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)
BUILD_TIMEOUT = 1800.0


@dataclass(frozen=True)
class Recipe:
    """All that decides what is in a tree."""

    release: str
    packages: tuple[str, ...]
    customize: bytes

    @classmethod
    def read(cls, release: str, directory: Path = RECIPE) -> Recipe:
        names: set[str] = set()
        for part in ("common", release):
            names.update((directory / f"packages.{part}").read_text(encoding="utf-8").split())
        return cls(release, tuple(sorted(names)), (directory / "customize").read_bytes())

    @property
    def name(self) -> str:
        """RELEASE-HASH, another one for anything else in the tree."""
        digest = hashlib.sha256()
        for part in (self.release, *self.packages, *OPTIONS):
            digest.update(part.encode() + b"\0")
        digest.update(self.customize)
        return f"{self.release}-{digest.hexdigest()[:12]}"


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "microvm-fleet" / "trees"


def choose_mirror(targets: str, codename: str) -> str | None:
    """The mirror of the machine's own release, from lines ``REPO_URI RELEASE ORIGIN`` of apt-get indextargets."""
    for line in targets.splitlines():
        uri, release, origin = (*line.split("|"), "", "")[:3]
        if release == codename and origin == "Debian":
            return uri
    return None


def mirror() -> str:
    """The Debian mirror that the machine's apt is configured with."""
    if chosen := os.environ.get("MICROVM_TESTBED_MIRROR"):
        return chosen
    codename = ""
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        key, _sep, value = line.partition("=")
        if key == "VERSION_CODENAME":
            codename = value.strip('"')
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)|$(RELEASE)|$(ORIGIN)", "Created-By: Packages"]
    found = choose_mirror(machine.run(command, timeout=60), codename)
    if found is None:
        # The origin is known only once apt has fetched the release file.
        machine.run(["apt-get", "-qq", "update"], timeout=300)
        found = choose_mirror(machine.run(command, timeout=60), codename)
    if found is None:
        raise TestbedError(
            f"apt: no Debian mirror for {codename or 'this release'} is configured; set MICROVM_TESTBED_MIRROR to one"
        )
    return found


def ensure(release: str) -> Path:
    """Return the tree of the release, made first if it is not in the cache.

    It is made beside its place and renamed, under a lock, by processes that end with this one.
    """
    recipe = Recipe.read(release)
    tree = cache_dir() / recipe.name
    if tree.is_dir():
        return tree
    with files.locked(cache_dir() / f".{recipe.name}.lock", keep=True):
        if tree.is_dir():
            return tree
        partial = cache_dir() / f".{recipe.name}.partial"
        scratch = cache_dir() / f".{recipe.name}.tmp"
        files.remove_tree(partial)
        files.remove_tree(scratch)
        scratch.mkdir()
        source = mirror()
        machine.say(f"making the {release} tree from {source} ({len(recipe.packages)} packages), about a minute")
        begin = time.monotonic()
        log = cache_dir() / f"{recipe.name}.log"
        command = [
            *("setpriv", "--pdeathsig", "KILL"),
            *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("mmdebstrap", "--mode=root", "--format=directory", *OPTIONS),
            f"--include={','.join(recipe.packages)}",
            f"--customize-hook={RECIPE / 'customize'}",
            *(release, str(partial), source),
        ]
        with log.open("wb") as output:
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=BUILD_TIMEOUT, check=False,
                    pass_fds=tuple(files.held), env={**os.environ, "TMPDIR": str(scratch)},
                )  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise TestbedError(f"{release} tree: not made after {BUILD_TIMEOUT:.0f} s; see {log}") from error
        if done.returncode:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise TestbedError(
                f"{release} tree: mmdebstrap ended with status {done.returncode}; {log} ends with:\n{last}"
            )
        machine.run(["sync", "--file-system", str(partial)], timeout=300)
        files.remove_tree(scratch)
        os.rename(partial, tree)
        files.sync_dir(cache_dir())
        machine.say(f"made {tree} in {time.monotonic() - begin:.0f} s")
    return tree
