# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the repository promises of itself and a program can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "plugins" / "modules").glob("*.py"))
MODULE_UTILS = sorted((ROOT / "plugins" / "module_utils").glob("*.py"))
ROLES = sorted(path for path in (ROOT / "roles").glob("*") if (path / "tasks").is_dir())
HEADER = (
    "# Copyright: (c) 2026, microvm.fleet contributors\n"
    "# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)\n"
    "# SPDX-License-Identifier: GPL-3.0-or-later\n"
)
DOCUMENTATION = {"DOCUMENTATION", "EXAMPLES", "RETURN"}
# Places that texts and examples may name; an address of anything else has no business here.
PLACES = {
    "docs.ansible.com",
    "docs.docker.com",
    "docs.k3s.io",
    "docs.portainer.io",
    "example.com",
    "example.net",
    "example.org",
    "git.example.org",
    "git.invalid",
    "github.com",
    "kubernetes.io",
    "microvm-nix.github.io",
    "supervisord.org",
    "www.freedesktop.org",
    "www.gnu.org",
}


def named(path: Path) -> str:
    """How a file is called in the names of tests."""
    return path.relative_to(ROOT).as_posix()


def read_yaml(path: Path) -> Any:
    """What a YAML file says."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def project_files() -> list[Path]:
    """The files that git tracks or would track."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        encoding="utf-8",
    ).stdout
    paths = (ROOT / name for name in listed.split("\0") if name)
    return sorted({path for path in paths if path.is_file() and not path.is_symlink()})


FILES = project_files()
TEXTS = {path: path.read_text(encoding="utf-8", errors="replace") for path in FILES}


def of_kind(*suffixes: str) -> list[Path]:
    """The project's files with one of the *suffixes*."""
    return [path for path in FILES if path.suffix in suffixes]


def test_there_is_something_to_check() -> None:
    assert MODULES
    assert MODULE_UTILS
    assert ROLES
    assert len(FILES) > 50


def test_the_action_group_has_all_modules() -> None:
    groups = read_yaml(ROOT / "meta" / "runtime.yml")["action_groups"]
    assert groups["fleet"] == [path.stem for path in MODULES]


def read_yaml_string(path: Path, name: str) -> Any:
    """What the string *name* of a module says."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return yaml.safe_load(ast.literal_eval(node.value))
    raise AssertionError(f"{path.name} has no {name}")


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_is_documentation_specification_and_main(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    documented = set()
    prose = 0
    for node in tree.body:
        match node:
            case ast.Import() | ast.ImportFrom():
                pass
            case ast.Expr(value=ast.Constant()):
                prose += (node.end_lineno or node.lineno) - node.lineno + 1
            case ast.Assign(targets=[ast.Name(id=name)]) if name in DOCUMENTATION:
                documented.add(name)
                prose += (node.end_lineno or node.lineno) - node.lineno + 1
            case ast.FunctionDef(name="main" | "argument_spec"):
                pass
            case ast.If() if ast.unparse(node.test) in {"__name__ == '__main__'", "t.TYPE_CHECKING"}:
                pass
            case _:
                pytest.fail(f"{path.name}:{node.lineno}: {ast.unparse(node)[:80]} belongs into module_utils")
    assert documented == DOCUMENTATION
    assert len(source.splitlines()) - prose <= 150, "the decisions belong into module_utils"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_says_how_it_does_in_check_mode_and_diff_mode(path: Path) -> None:
    documentation = read_yaml_string(path, "DOCUMENTATION")
    own = set(documentation.get("attributes", {}))
    fragments = documentation.get("extends_documentation_fragment", [])
    assert {"check_mode", "diff_mode", "idempotent"} <= own or "attributes" in str(fragments)
    assert documentation["author"]
    assert documentation["version_added"]


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_the_examples_of_a_module_name_it_in_full(path: Path) -> None:
    tasks = read_yaml_string(path, "EXAMPLES")
    assert any(f"microvm.fleet.{path.stem}" in task for task in tasks)
    assert all("name" in task for task in tasks)


@pytest.mark.parametrize("path", MODULE_UTILS, ids=named)
def test_module_utils_are_private_and_say_so(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert path.name.startswith("_")
    assert "Private to the collection" in docstring


@pytest.mark.parametrize("path", of_kind(".py"), ids=named)
def test_python_files_say_whose_they_are(path: Path) -> None:
    assert HEADER in TEXTS[path][:400] or not TEXTS[path]


@pytest.mark.parametrize("path", [*MODULES, *MODULE_UTILS], ids=named)
def test_what_runs_on_targets_uses_the_standard_library_alone(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, "ansible", "ansible_collections"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            module = node.module or ""
            assert module.split(".")[0] in allowed
            if module.startswith("ansible."):
                assert module.startswith("ansible.module_utils.")


def test_nothing_is_ignored() -> None:
    assert not [path for path in FILES if re.match(r"ignore-.*\.txt", path.name) and "sanity" in path.parts]
    lint = read_yaml(ROOT / ".ansible-lint")
    assert lint["profile"] == "production"
    assert not lint["skip_list"]
    assert not lint["warn_list"]
    yaml_files = [
        path for path in of_kind(".yml", ".yaml") if path.relative_to(ROOT).parts[0] in {"roles", "playbooks"}
    ]
    assert not [named(path) for path in yaml_files if re.search(r"#\s*noqa", TEXTS[path])]


def test_the_changelog_has_the_version_of_galaxy_yml() -> None:
    version = read_yaml(ROOT / "galaxy.yml")["version"]
    assert version in read_yaml(ROOT / "changelogs" / "changelog.yaml")["releases"]
    assert f"v{version}" in TEXTS[ROOT / "CHANGELOG.rst"]


def defaults_of(role: Path) -> dict[str, Any]:
    """The variables that a role has values for."""
    path = role / "defaults" / "main.yml"
    return (read_yaml(path) or {}) if path.exists() else {}


def options_of(role: Path) -> dict[str, dict[str, Any]]:
    """The options of all entry points of a role."""
    entries = read_yaml(role / "meta" / "argument_specs.yml")["argument_specs"]
    return {name: option for entry in entries.values() for name, option in (entry.get("options") or {}).items()}


@pytest.mark.parametrize("role", ROLES, ids=named)
def test_a_role_declares_what_it_has_values_for(role: Path) -> None:
    defaults, options = defaults_of(role), options_of(role)
    assert set(defaults) <= set(options)
    for name, option in options.items():
        assert name.startswith("microvm_")
        if "default" in option:
            assert defaults.get(name) == option["default"], name


@pytest.mark.parametrize("role", ROLES, ids=named)
def test_a_role_has_an_entry_point_for_each_file_that_is_meant_for_one(role: Path) -> None:
    entries = read_yaml(role / "meta" / "argument_specs.yml")["argument_specs"]
    assert "main" in entries
    for name, entry in entries.items():
        assert (role / "tasks" / f"{name}.yml").is_file()
        assert entry["short_description"]


@pytest.mark.parametrize("role", ROLES, ids=named)
def test_the_readme_of_a_role_has_all_its_options_and_no_others(role: Path) -> None:
    text = (role / "README.md").read_text(encoding="utf-8")
    for name in options_of(role):
        assert f"`{name}`" in text, name
    for name in re.findall(rf"^\| `(microvm_{role.name}_\w+)`", text, re.MULTILINE):
        assert name in options_of(role), name


def test_only_places_for_examples_and_sources_are_named() -> None:
    found = {
        (named(path), host)
        for path, text in TEXTS.items()
        if path.name != "LICENSE"
        for host in re.findall(r"\w+://(?:[^/\s@\"'`]+@)?([a-z0-9-]+(?:\.[a-z0-9-]+)+)", text)
        if host not in PLACES and not re.fullmatch(r"[\d.]+", host)
    }
    assert not found


def test_the_inventory_of_the_readme_is_the_example() -> None:
    example = (ROOT / "docs" / "examples" / "inventory.yml").read_text(encoding="utf-8")
    shown = re.search(
        r"<!-- docs/examples/inventory\.yml -->\n```yaml\n(.*?)```\n<!-- end -->", TEXTS[ROOT / "README.md"], re.DOTALL
    )
    assert shown is not None
    assert shown[1] == example
    assert len(example.splitlines()) <= 20


def test_the_example_inventory_says_only_what_roles_and_modules_take() -> None:
    group = read_yaml(ROOT / "docs" / "examples" / "inventory.yml")["microvm_hosts"]
    declared = {name for role in ROLES for name in options_of(role)}
    assert {name for name in group["vars"] if name.startswith("microvm_")} <= declared
    for variable, module, option in (
        ("microvm_guests", "microvm_guests", "guests"),
        ("microvm_networks", "microvm_nets", "networks"),
    ):
        documentation = read_yaml_string(ROOT / "plugins" / "modules" / f"{module}.py", "DOCUMENTATION")
        taken = {*documentation["options"][option]["suboptions"], *fragment_options(option)}
        for entry in group["vars"][variable]:
            assert set(entry) <= taken


def fragment_options(option: str) -> set[str]:
    """Options of one *option*'s entries that the documentation fragments describe, wherever they stand there."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "plugins" / "doc_fragments").glob("*.py")]
    return {name for text in texts if option in text for name in re.findall(r"^ +(\w+):$", text, re.MULTILINE)}


def test_nothing_is_left_to_do_in_comments() -> None:
    # put together here, so that this file has none of them
    words = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")) + r")\b")
    assert not [named(path) for path, text in TEXTS.items() if words.search(text) and path.name != "LICENSE"]


def test_no_file_depends_on_where_the_checkout_is() -> None:
    places = re.compile("|".join(("/wo" + "rk/", "/ho" + "me/[a-z]", "/us" + "r/src/")))
    assert not [named(path) for path, text in TEXTS.items() if places.search(text) and path.name != "LICENSE"]


@pytest.mark.parametrize("path", of_kind(".md"), ids=named)
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!\w+:)([^)#\s]+)", TEXTS[path]):
        assert (path.parent / target).exists(), target


def test_every_command_of_the_makefile_says_what_it_does() -> None:
    text = TEXTS[ROOT / "Makefile"]
    declared = next(line for line in text.splitlines() if line.startswith(".PHONY:")).split()[1:]
    described = re.findall(r"^([a-z-]+):.*## \S", text, re.MULTILINE)
    assert sorted(declared) == sorted(described)
