# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pages of docs/profiles say what the profiles are."""

from __future__ import annotations

import re
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ansible_collections.microvm.fleet.plugins.module_utils._describe import (
    Description,
    Surroundings,
    addresses_by_name,
    describe_all,
)
from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import parse
from ansible_collections.microvm.fleet.plugins.module_utils._profiles import PROFILES, together
from ansible_collections.microvm.fleet.tests.unit.support.pages import (
    credential_rows,
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
    (example,) = re.findall(r"```yaml\n(.*?)```", page(name), re.DOTALL)
    hosts = yaml.safe_load(example)["microvm_hosts"]["hosts"].values()
    surroundings = [
        Surroundings(networks={one["name"]: parse(one) for one in variables["microvm_networks"]}) for variables in hosts
    ]
    peers: dict[str, t.Sequence[str]] = {}
    for variables, around in zip(hosts, surroundings, strict=True):
        peers.update(addresses_by_name(variables["microvm_guests"], around))
    options: dict[str, dict[str, dict[str, t.Any]]] = {}
    for variables, around in zip(hosts, surroundings, strict=True):
        entries = variables["microvm_guests"]
        for place, described in describe_all(entries, replace(around, peers=peers)).items():
            assert isinstance(described, Description), described
            assert described.warnings == ()
            options[entries[place]["name"]] = described.entry["profiles"]
    assert any(name in profiles for profiles in options.values())
    assert together(options) == []


def test_the_list_of_profiles_is_whole() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (.*) \|$", page("README"), re.MULTILINE)
    assert rows == [(name, name, profile.description) for name, profile in PROFILES.items()]
    assert {path.stem for path in PAGES.glob("*.md")} == {"README", *PROFILES}
