# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What names a tree, and which mirror it comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from microvm_testbed import tree


def test_the_recipes_are_there() -> None:
    for release in tree.RELEASES:
        recipe = tree.Recipe.read(release)
        assert recipe.name.startswith(f"{release}-")
        assert {"systemd", "openssh-server", "nix-bin", "qemu-system-x86"} <= set(recipe.packages)
        assert list(recipe.packages) == sorted(set(recipe.packages))


def test_virtiofsd_is_a_package_on_trixie_only() -> None:
    assert "virtiofsd" in tree.Recipe.read("trixie").packages
    assert "virtiofsd" not in tree.Recipe.read("bookworm").packages


def test_the_name_depends_on_all_that_is_in_the_tree(tmp_path: Path) -> None:
    recipe = tree.Recipe("trixie", ("a", "b"), b"#!/bin/sh\n")
    others = [
        replace(recipe, packages=("a", "bc")),
        replace(recipe, packages=("ab",)),
        replace(recipe, release="bookworm"),
        replace(recipe, customize=b"#!/bin/sh\ntrue\n"),
    ]
    names = [recipe.name, *(other.name for other in others)]
    assert len(set(names)) == len(names)
    assert replace(recipe).name == recipe.name
    for part, text in (("packages.common", "b a\n"), ("packages.trixie", "a\n"), ("customize", "#!/bin/sh\n")):
        (tmp_path / part).write_text(text)
    assert tree.Recipe.read("trixie", tmp_path) == recipe


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert tree.cache_dir() == Path("/c/microvm-fleet/trees")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/h")
    assert tree.cache_dir() == Path("/h/.cache/microvm-fleet/trees")


TARGETS = """\
http://example.net/debian-security/|bookworm-security|Debian
http://example.net/debian/|bookworm-updates|Debian
http://example.net/other/|bookworm|Other
http://example.net/debian/|bookworm|Debian
http://example.net/later/|bookworm|Debian
"""


@pytest.mark.parametrize(
    ("targets", "codename", "expected"),
    [
        (TARGETS, "bookworm", "http://example.net/debian/"),
        (TARGETS, "trixie", None),
        ("", "bookworm", None),
        ("http://example.net/debian/|bookworm|\n", "bookworm", None),
        ("http://example.net/debian/\n", "bookworm", None),
    ],
)
def test_the_mirror_is_the_one_of_the_machines_release(targets: str, codename: str, expected: str | None) -> None:
    assert tree.choose_mirror(targets, codename) == expected


def test_the_mirror_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROVM_TESTBED_MIRROR", "file:/mirror")
    assert tree.mirror() == "file:/mirror"
