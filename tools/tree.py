# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection where Ansible looks for one: a copy at ``.../ansible_collections/microvm/fleet``.

A checkout can be anywhere and be worked on while tests run; each part runs on a copy of its own, of all files that
git tracks or would track.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .machine import BUILD, ROOT, locked
from .process import must, run

INSIDE = Path("ansible_collections") / "microvm" / "fleet"
LEFT_OUT = {".git", "build", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".ansible"}


def files(root: Path) -> list[str]:
    """The paths, relative to *root*, of the files there that belong to the project."""
    listed = run(["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
    if (root / ".git").exists() and listed.ok:
        names = [name for name in listed.output.split("\0") if name]
    else:  # an unpacked archive
        names = []
        for directory, directories, entries in os.walk(root):
            directories[:] = [name for name in directories if name not in LEFT_OUT]
            names += [os.path.relpath(os.path.join(directory, name), root) for name in entries]
    return sorted({name for name in names if os.path.lexists(root / name)})


def make(name: str) -> Path:
    """Bring the copy *name* up to date and give its path; what tests left in it and git ignores stays."""
    base = BUILD / "tree" / name
    place = base / INSIDE
    with locked(BUILD / "tree" / f"{name}.lock"):
        place.mkdir(parents=True, exist_ok=True)
        if not (place / ".git").exists():
            must(["git", "init", "--quiet", "--initial-branch", "main", place])
        wanted = files(ROOT)
        for old in set(files(place)) - set(wanted):
            (place / old).unlink()
        for entry in wanted:
            _copy(ROOT / entry, place / entry)
        # git does not know empty directories, Ansible takes an empty roles/x for a role
        for directory, _directories, _names in os.walk(place, topdown=False):
            if ".git" not in Path(directory).parts and not os.listdir(directory):
                os.rmdir(directory)
        must(["git", "-C", place, "add", "--all"])
    return place


def base_of(place: Path) -> Path:
    """The directory to put into ANSIBLE_COLLECTIONS_PATH or PYTHONPATH for the copy *place*."""
    return place.parents[2]


def _copy(source: Path, target: Path) -> None:
    """Copy a file or link with its times, unless the same is there already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    status = source.lstat()
    if os.path.lexists(target):
        present = target.lstat()
        same = (present.st_size, present.st_mtime_ns, present.st_mode) == (
            status.st_size,
            status.st_mtime_ns,
            status.st_mode,
        )
        if same and not source.is_symlink():
            return
        target.unlink()
    shutil.copy2(source, target, follow_symlinks=False)
