# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What this machine needs: Debian packages, interpreters, virtual environments with pinned packages."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .process import ToolError, must, run, say

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
REQUIREMENTS = ROOT / "tests" / "requirements"

# What each part runs that is not Python: Debian's package, and a file that is there when it is installed.
PACKAGES = {
    "ca-certificates": "/etc/ssl/certs/ca-certificates.crt",
    "erofs-utils": "/usr/bin/mkfs.erofs",
    "git": "/usr/bin/git",
    "nix-bin": "/usr/bin/nix-instantiate",
    "openssh-client": "/usr/bin/ssh",
    "python3-venv": "/usr/share/doc/python3-venv",
    "shellcheck": "/usr/bin/shellcheck",
}


@dataclass(frozen=True)
class Core:
    """A release of ansible-core that the collection is tested with.

    *pythons* are the (major, minor) that it runs on as controller, the one to take first first.
    """

    name: str
    pythons: tuple[tuple[int, int], ...]

    @property
    def requirements(self) -> Path:
        """The file that pins ansible-core and every package beside it."""
        return REQUIREMENTS / f"{self.name}.txt"


# 2.21: https://docs.ansible.com/ansible-core/2.21/ , "controller: Python 3.12 to 3.14"; 2.19: 3.11 to 3.13.
# The newest release takes the newest interpreter and the oldest the oldest, so that both ends are tested.
CORES = (
    Core("core-2.21", ((3, 14), (3, 13), (3, 12))),
    Core("core-2.19", ((3, 11), (3, 12), (3, 13))),
)


def cache() -> Path:
    """The directory for what is slow to make and the same for every checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "microvm-fleet"


def install_packages() -> None:
    """Install what `PACKAGES` names and is missing.  Raises ToolError when that is not possible here."""
    missing = [name for name, path in PACKAGES.items() if not Path(path).exists()]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ToolError(f"these Debian packages are missing: {' '.join(missing)}. Install them, or run this as root.")
    say(f"installing Debian packages: {' '.join(missing)}")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
    # The package lists of a fresh machine are empty or old.
    must(["apt-get", "update", "-q"], env=environment)
    must(install, env=environment)


def interpreters() -> dict[tuple[int, int], Path]:
    """The real CPython interpreters of this machine, the newest patch release of each (major, minor).

    Debian's, those of /usr/local, and those that pyenv installed; pyenv's shims, which run another interpreter
    in another directory, are none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found: dict[tuple[int, int], Path] = {}
    for directory in (Path("/usr/bin"), Path("/usr/local/bin"), *_newest_first(pyenv)):
        for path in sorted(directory.glob("python3.*")):
            version = re.fullmatch(r"python(3)\.(\d+)", path.name)
            if version and os.access(path, os.X_OK):
                found.setdefault((int(version[1]), int(version[2])), path)
    return found


def _newest_first(pyenv: Path) -> list[Path]:
    names = [path.name for path in pyenv.glob("*") if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    names.sort(key=lambda name: [int(part) for part in name.split(".")], reverse=True)
    return [pyenv / name / "bin" for name in names]


def python_for(core: Core) -> Path | None:
    """The interpreter to run *core* with, or None when this machine has none that it runs on."""
    here = interpreters()
    return next((here[version] for version in core.pythons if version in here), None)


def primary() -> Core:
    """The newest core that this machine has an interpreter for: it runs the linters, the scenarios and the demo."""
    for core in CORES:
        if python_for(core) is not None:
            return core
    raise ToolError(f"no Python that any of {', '.join(core.name for core in CORES)} runs on was found.")


def core_named(name: str) -> Core:
    """The core with that name.  Raises ToolError for others."""
    for core in CORES:
        if core.name == name:
            return core
    raise ToolError(f"unknown core {name}; there are {', '.join(core.name for core in CORES)}.")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold flock(2) on *path* for the block, waiting for other holders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def venv_of(core: Core) -> Path:
    """The virtual environment of *core*, made when it is not there.  Raises ToolError without an interpreter."""
    python = python_for(core)
    if python is None:
        wanted = ", ".join(f"{major}.{minor}" for major, minor in core.pythons)
        raise ToolError(f"{core.name} needs one of Python {wanted}, and this machine has none of them.")
    return venv(core.name, python, core.requirements)


def venv(name: str, python: Path, requirements: Path) -> Path:
    """A virtual environment with exactly the packages that *requirements* pins, made when it is not there.

    Its directory is named after the pins and the interpreter.  One without its mark was not finished and is
    made anew: scripts in it hold its path, so it cannot be made elsewhere and moved.
    """
    pins = requirements.read_text(encoding="utf-8")
    # The link /usr/bin/python3.11 stays while Debian updates what it is; the prefix tells pyenv's apart.
    digest = hashlib.sha256(json.dumps([pins, str(python)]).encode()).hexdigest()[:12]
    place = cache() / f"venv-{name}-{digest}"
    mark = place / "finished"
    if mark.exists():
        return place
    install_packages()
    with locked(cache() / f"venv-{name}-{digest}.lock"):
        if mark.exists():
            return place
        count = sum(1 for line in pins.splitlines() if "==" in line)
        say(f"installing {count} pinned Python packages of {requirements.relative_to(ROOT)} with {python} into {place}")
        shutil.rmtree(place, ignore_errors=True)
        must([python, "-m", "venv", place])
        pip: list[str | Path] = [place / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
        # Everything is pinned, so there is nothing to resolve; `pip check` says whether the pins fit each other.
        # Compiled here, since PYTHONDONTWRITEBYTECODE would else have every later start compile it all again.
        must([*pip, "install", "--no-deps", "--compile", "--requirement", requirements], env=_unset())
        must([*pip, "check"])
        mark.touch()
    return place


def _unset() -> dict[str, str]:
    return {"PYTHONDONTWRITEBYTECODE": "", "PIP_REQUIRE_VIRTUALENV": ""}


def real_interpreters() -> Path:
    """A directory for the front of PATH with the real interpreters under their versioned names."""
    place = cache() / "interpreters"
    place.mkdir(parents=True, exist_ok=True)
    with locked(cache() / "interpreters.lock"):
        wanted = {f"python{major}.{minor}": path for (major, minor), path in interpreters().items()}
        for link in place.iterdir():
            if link.name not in wanted or Path(os.readlink(link)) != wanted[link.name]:
                link.unlink()
        for name, path in wanted.items():
            if not (place / name).is_symlink():
                (place / name).symlink_to(path)
    return place


def search_path(*first: Path) -> str:
    """PATH with the directories *first* at its front and without pyenv's shims."""
    rest = [part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if "/shims" not in part]
    return os.pathsep.join([*(str(part) for part in first), *rest])


def describe() -> str:
    """One line on this machine for logs."""
    release = Path("/etc/os-release").read_text(encoding="utf-8") if Path("/etc/os-release").exists() else ""
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', release, re.MULTILINE)
    cores = len(os.sched_getaffinity(0))
    kernel = run(["uname", "-r"]).output.strip()
    return f"{name[1] if name else 'unknown system'}, Linux {kernel}, {cores} cores, Python {sys.version.split()[0]}"
