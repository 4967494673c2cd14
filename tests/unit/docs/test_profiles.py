# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pages of docs/profiles say what the profiles are."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._profiles import PROFILES, together
from ansible_collections.microvm.fleet.tests.unit.support.pages import (
    credential_rows,
    example_of,
    needs_rows,
    option_rows,
    port_rows,
    tables,
    volume_rows,
)

PAGES: t.Final = Path(__file__).resolve().parents[3] / "docs" / "profiles"
each = pytest.mark.parametrize("name", PROFILES)


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


@each
def test_the_tables_of_a_page_are_those_of_its_profile(name: str) -> None:
    profile = PROFILES[name]
    wished = [rows(profile) for rows in (needs_rows, credential_rows, option_rows, port_rows, volume_rows)]
    assert tables(page(name)) == [rows for rows in wished if rows]


@each
def test_a_page_says_all_that_an_operator_asks(name: str) -> None:
    text = page(name)
    assert text.startswith(f"# {name}\n")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    for heading in ("Example", "Needs", "Options", "Ports", "Volumes", "Update and shutdown", "Limits"):
        assert heading in headings


@each
def test_links_lead_to_pages(name: str) -> None:
    for target in re.findall(r"\]\(([a-z_0-9]+\.md)\)", page(name)):
        assert (PAGES / target).is_file(), target


@each
def test_the_examples_of_a_page_are_right(name: str) -> None:
    options: dict[str, t.Mapping[str, t.Mapping[str, t.Any]]] = {}
    for guests in example_of(page(name)).values():
        for guest, described in guests.items():
            assert described.warnings == ()
            options[guest] = described.entry["profiles"]
    assert any(name in profiles for profiles in options.values())
    assert together(options) == []


def test_the_list_of_profiles_is_whole() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (.*) \|$", page("README"), re.MULTILINE)
    assert rows == [(name, name, profile.description) for name, profile in PROFILES.items()]
    assert {path.stem for path in PAGES.glob("*.md")} == {"README", *PROFILES}
