# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``make dist``: the archive that Galaxy takes, made and then used as a user would."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from . import tree
from .machine import BUILD, CORES, REQUIREMENTS, ROOT, install_packages, primary, python_for, search_path, venv, venv_of
from .process import ToolError, must, run, say

# What works on the sources only, and is not for those who install the collection.
LEFT_OUT = ("tests/", "tools/", "extensions/", ".ci/", "Makefile", "pyproject.toml", ".ansible-lint", ".yamllint")


def build() -> None:
    """Make build/microvm-fleet-VERSION.tar.gz.  Raises ToolError when it cannot be installed and used."""
    install_packages()
    environment = venv_of(primary())
    place = tree.make("dist")
    extra = {"PATH": search_path(environment / "bin"), "ANSIBLE_HOME": str(BUILD / "dist" / "ansible-home")}
    galaxy = environment / "bin" / "ansible-galaxy"
    must([galaxy, "collection", "build", "--force", "--output-path", BUILD], cwd=place, env=extra)
    version = re.search(r"^version: (\S+)", (ROOT / "galaxy.yml").read_text(encoding="utf-8"), re.MULTILINE)
    if version is None:
        raise ToolError("galaxy.yml has no version.")
    archive = BUILD / f"microvm-fleet-{version[1]}.tar.gz"
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    stray = [name for name in names if name.startswith(LEFT_OUT)]
    if stray:
        raise ToolError(f"{archive.name} has files that are not for users: {' '.join(stray[:5])}; see build_ignore.")
    with tempfile.TemporaryDirectory() as directory:
        _use(archive, Path(directory), environment, extra)
    _import(archive)
    say(f"{archive.relative_to(ROOT)}: {len(names)} files, {archive.stat().st_size // 1024} KiB")


def _use(archive: Path, directory: Path, environment: Path, extra: dict[str, str]) -> None:
    """Install the archive, read every module's documentation, check every playbook's syntax by its full name."""
    extra = {**extra, "ANSIBLE_COLLECTIONS_PATH": str(directory), "ANSIBLE_LOCALHOST_WARNING": "false"}
    programs = environment / "bin"
    install: list[str | Path] = [
        programs / "ansible-galaxy",
        "collection",
        "install",
        "--offline",
        "--collections-path",
        directory,
    ]
    must([*install, archive], cwd=directory, env=extra)
    installed = directory / tree.INSIDE
    modules = sorted(path.stem for path in installed.glob("plugins/modules/*.py"))
    names = [f"microvm.fleet.{name}" for name in modules]
    documented = json.loads(must([programs / "ansible-doc", "--json", *names], cwd=directory, env=extra))
    if sorted(documented) != names:
        raise ToolError(f"ansible-doc knows {sorted(documented)} of {names}.")
    playbooks = sorted(path.stem for path in installed.glob("playbooks/*.yml"))
    for name in playbooks:
        check = ["--syntax-check", "--inventory", "localhost,", f"microvm.fleet.{name}"]
        must([programs / "ansible-playbook", *check], cwd=directory, env=extra)
    say(f"installed: {len(modules)} modules have documentation, playbooks {', '.join(playbooks) or 'none'} are sound")


def _import(archive: Path) -> None:
    """Let Galaxy's importer judge the archive, in an environment of its own."""
    python = python_for(CORES[0])
    if python is None:
        say(f"Galaxy's importer needs the Python of {CORES[0].name}; not run")
        return
    environment = venv("galaxy", python, REQUIREMENTS / "galaxy.txt")
    work = BUILD / "dist"
    work.mkdir(parents=True, exist_ok=True)
    config = work / "importer.cfg"
    config.write_text("[galaxy-importer]\nCHECK_REQUIRED_TAGS = False\nRUN_ANSIBLE_TEST = False\n", encoding="utf-8")
    extra = {
        "PATH": search_path(environment / "bin"),
        "GALAXY_IMPORTER_CONFIG": str(config),
        "ANSIBLE_HOME": str(work / "ansible-home"),
    }
    copy = work / archive.name
    shutil.copy2(archive, copy)
    done = run([environment / "bin" / "python", "-m", "galaxy_importer.main", copy], cwd=work, env=extra)
    (work / "importer.log").write_text(done.output, encoding="utf-8")
    faults = [line for line in done.output.splitlines() if re.match(r"(ERROR|WARNING)", line)]
    if not done.ok or faults:
        lines = "\n".join(faults or done.output.splitlines()[-20:])
        raise ToolError(f"Galaxy's importer found fault:\n{lines}")
    say("Galaxy's importer is content")
