# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the roles say of their variables agrees with what they do and with the modules."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import guest_spec, guests_spec, read_wishes

ROLES = Path(__file__).resolve().parents[3] / "roles"
OWN = ["autostart", "guests", "host"]


def load(role: str, *parts: str) -> t.Any:
    return yaml.safe_load(ROLES.joinpath(role, *parts).read_text(encoding="utf-8"))


def plain(options: dict[str, t.Any]) -> dict[str, t.Any]:
    """Options without their words: type, choices, defaults; `options` of a role or a module alike."""
    keys = ("type", "elements", "required", "choices", "default")
    result: dict[str, t.Any] = {}
    for name, option in options.items():
        said = {key: option[key] for key in keys if key in option}
        said.setdefault("type", "str")
        if said.get("required") is False:
            del said["required"]
        if said.get("default", "") is None:
            del said["default"]
        if "choices" in said:
            said["choices"] = list(said["choices"])
        if option.get("options"):
            said["options"] = plain(option["options"])
        result[name] = said
    return result


@pytest.mark.parametrize("role", OWN)
def test_defaults_are_those_that_are_described(role: str) -> None:
    defaults = load(role, "defaults", "main.yml")
    described: dict[str, t.Any] = {}
    for entry in load(role, "meta", "argument_specs.yml")["argument_specs"].values():
        described.update({name: option.get("default") for name, option in entry["options"].items()})
    assert defaults == described


@pytest.mark.parametrize("role", OWN)
def test_every_entry_point_is_described(role: str) -> None:
    tasks = ROLES / role / "tasks"
    described = load(role, "meta", "argument_specs.yml")["argument_specs"]
    assert all((tasks / f"{entry}.yml").is_file() for entry in described)
    assert "main" in described
    assert ("remove" in described) == (tasks / "remove.yml").is_file()


@pytest.mark.parametrize("role", OWN)
def test_the_readme_has_every_variable(role: str) -> None:
    text = (ROLES / role / "README.md").read_text(encoding="utf-8")
    assert [name for name in load(role, "defaults", "main.yml") if f"`{name}`" not in text] == []


def test_guests_of_the_role_are_those_of_the_module() -> None:
    role = load("guests", "meta", "argument_specs.yml")["argument_specs"]["main"]["options"]["microvm_guests"]
    module = guests_spec()
    assert plain(role["options"]) == plain(module["options"])


def test_every_static_file_of_the_host_is_installed() -> None:
    contents = [entry["content"] for entry in load("host", "vars", "main.yml")["__microvm_host_files"]]
    found = [re.search(r"'ansible\.builtin\.(file|template)', '([^']+)'", content) for content in contents]
    listed = {(one[1], one[2]) for one in found if one}
    files, templates = ROLES / "host" / "files", ROLES / "host" / "templates"
    there = {("file", str(path.relative_to(files))) for path in files.rglob("*") if path.is_file()}
    assert listed == there | {("template", path.name) for path in templates.iterdir()}
    assert len(contents) == len(listed)


def test_every_unit_can_be_removed() -> None:
    variables = load("host", "vars", "main.yml")
    units = {path.name for path in (ROLES / "host" / "files" / "units").iterdir()}
    assert set(variables["__microvm_host_units"]) == units


def test_the_example_inventory_is_twenty_lines_that_the_roles_take() -> None:
    path = ROLES.parent / "docs" / "examples" / "inventory.yml"
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 20
    variables = yaml.safe_load(text)["microvm_hosts"]["vars"]
    known: dict[str, t.Any] = {}
    for role in [*OWN, "network"]:
        known.update(load(role, "meta", "argument_specs.yml")["argument_specs"]["main"]["options"])
    assert {name for name in variables if name.startswith("microvm_")} <= set(known)
    guests = [guest.name for guest in read_wishes(filled(variables["microvm_guests"], guest_spec()), update="never")]
    assert guests == ["web1", "db1"]


def filled(entries: list[dict[str, t.Any]], spec: dict[str, t.Any]) -> list[dict[str, t.Any]]:
    """Entries as a module gets them: what is not given has its default."""
    assert [key for entry in entries for key in entry if key not in spec] == []
    inner: dict[str, t.Any] = {"mac": None, "network": None, "addresses": None}
    return [
        {key: entry.get(key, option.get("default")) for key, option in spec.items()}
        | {"interfaces": [inner | each for each in entry.get("interfaces", [])]}
        for entry in entries
    ]
