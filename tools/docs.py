# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``make docs``: the pages of the repository and the reference of modules and roles, as HTML."""

from __future__ import annotations

import shutil
from pathlib import Path

from . import tree
from .machine import BUILD, install_packages, primary, search_path, venv_of
from .process import ToolError, must, run, say

SPHINX = Path(__file__).with_name("sphinx")


def build() -> None:
    """Make build/docs/html.  Raises ToolError on any warning: a link that leads nowhere, a page that does not parse."""
    install_packages()
    environment = venv_of(primary())
    place = tree.make("docs")
    source = BUILD / "docs" / "source"
    shutil.rmtree(BUILD / "docs", ignore_errors=True)
    source.mkdir(parents=True)
    # The pages link to each other by their places in the repository, so they keep them.
    for page in [*place.glob("*.md"), *place.glob("docs/**/*"), *place.glob("roles/*/README.md"), place / "LICENSE"]:
        if page.is_file():
            target = source / page.relative_to(place)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(page, target)
    for name in ("conf.py", "index.md", "ansible.rst"):
        shutil.copy2(SPHINX / name, source / name)
    extra = {
        "PATH": search_path(environment / "bin"),
        "ANSIBLE_COLLECTIONS_PATH": str(tree.base_of(place)),
        "ANSIBLE_HOME": str(BUILD / "docs" / "ansible-home"),
    }
    reference: list[str | Path] = [
        "--use-current",
        "--fail-on-error",
        "--squash-hierarchy",
        "--dest-dir",
        source / "collections",
    ]
    (source / "collections").mkdir()
    must([environment / "bin" / "antsibull-docs", "collection", *reference, "microvm.fleet"], cwd=place, env=extra)
    html = BUILD / "docs" / "html"
    sphinx: list[str | Path] = [
        environment / "bin" / "sphinx-build",
        "-q",
        "-W",
        "--keep-going",
        "-j",
        "2",
        "-b",
        "html",
    ]
    done = run([*sphinx, "-d", BUILD / "docs" / "doctrees", source, html], env=extra, show=True)
    if not done.ok:
        raise ToolError("the documentation has the faults above.")
    say(f"{len(list(html.rglob('*.html')))} pages, see {html / 'index.html'}")
