# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ``make`` runs: how it counts, what it copies, which interpreters it takes."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ansible_collections.microvm.fleet.tools import machine, process, report, sanity, scenarios, tree, unit

if TYPE_CHECKING:
    from pathlib import Path

REPORT = """\
DETAILS
net > converge: Executed: Successful

SCENARIO RECAP
default                   : actions=1  successful=1  disabled=0  skipped=0  missing=0  failed=0
net                       : actions=5  successful=2  disabled=0  skipped=0  missing=3  failed=0
site-bookworm             : actions=4  successful=2  disabled=0  skipped=0  missing=1  failed=1
default                   : actions=1  successful=1  disabled=0  skipped=0  missing=0  failed=0
"""


@pytest.mark.parametrize(
    ("blocks", "flags", "there"),
    [(unit.ROOM, 0, True), (unit.ROOM - 1, 0, False), (unit.ROOM, os.ST_NOEXEC, False)],
)
def test_files_of_unit_tests_are_in_memory_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, blocks: int, flags: int, there: bool
) -> None:
    seen = SimpleNamespace(f_bavail=blocks, f_frsize=1, f_flag=flags)
    monkeypatch.setattr(os, "statvfs", lambda path: seen)
    assert unit._memory() == (unit.MEMORY if there else None)


def test_files_of_unit_tests_are_on_the_disk_where_there_is_no_memory_for_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(unit, "MEMORY", tmp_path / "none")
    assert unit._memory() is None


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("....\n4 passed in 0.10s\n", (4, 0, 0)),
        ("1 failed, 2 passed, 3 skipped in 61.00s (0:01:01)", (2, 1, 3)),
        ("2 passed, 1 error in 0.10s", (2, 1, 0)),
        ("1 failed, 2 errors in 0.10s", (0, 3, 0)),
        ("no tests ran in 0.01s", (0, 0, 0)),
        ("", (0, 0, 0)),
        ("a test printed: 7 passed\n1 passed in 0.10s", (1, 0, 0)),
    ],
)
def test_the_summary_of_pytest_is_counted(output: str, expected: tuple[int, int, int]) -> None:
    assert unit.counts(output) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ('Running sanity test "pep8"\nRunning sanity test "import" on Python 3.8\n', (2, 0)),
        ('Running sanity test "pep8"\nFATAL: The 1 sanity test(s) listed below (out of 1) failed.\npep8\n', (1, 1)),
        ("ERROR: no such thing\n", (0, 0)),
    ],
)
def test_the_output_of_ansible_test_is_counted(output: str, expected: tuple[int, int]) -> None:
    assert sanity.counts(output) == expected


def test_each_scenario_is_a_check() -> None:
    found = {check.name: (check.passed, check.failed) for check in scenarios.results(REPORT, {"net": 12.0})}
    assert found == {"molecule default": (2, 0), "molecule net": (2, 0), "molecule site-bookworm": (2, 1)}


def test_a_scenario_has_its_time() -> None:
    assert {check.name: check.seconds for check in scenarios.results(REPORT, {"net": 12.0})}["molecule net"] == 12.0


def test_a_run_without_a_report_has_no_checks() -> None:
    assert scenarios.results("CRITICAL no scenario\n", {}) == []


@pytest.mark.parametrize(
    ("check", "ok"),
    [
        (report.Check("a", 1.0, 1, 0), True),
        (report.Check("a", 1.0, 0, 0), False),
        (report.Check("a", 1.0, 5, 1), False),
        (report.skip("a", "no interpreter"), True),
    ],
)
def test_a_check_that_ran_nothing_is_not_ok(check: report.Check, ok: bool) -> None:
    assert check.ok is ok


def test_a_report_comes_back_as_it_was(tmp_path: Path) -> None:
    checks = [report.single("lint", 1.5, ok=True, output="text"), report.skip("unit", "why")]
    report.save(tmp_path / "in" / "report.json", checks)
    assert report.load(tmp_path / "in" / "report.json") == checks
    assert report.load(tmp_path / "none.json") == []


def test_the_table_says_what_failed() -> None:
    lines = report.table([report.single("a", 1.0, ok=True), report.single("b", 2.0, ok=False), report.skip("c", "")])
    assert [line.split()[1] for line in lines.splitlines()] == ["ok", "FAILED", "skipped"]


def test_a_program_is_run_and_its_output_kept() -> None:
    seen: list[str] = []
    done = process.run(["sh", "-c", "echo one; echo two >&2; exit 3"], each=lambda line, _seconds: seen.append(line))
    assert done.status == 3
    assert not done.ok
    assert sorted(seen) == ["one\n", "two\n"]


def test_a_program_that_takes_too_long_is_ended() -> None:
    done = process.run(["sh", "-c", "echo begin; exec sleep 600"], timeout=0.5)
    assert done.status == 124
    assert done.output.startswith("begin\n")
    assert done.output.endswith("did not end within 0.5 s\n")


def test_a_program_that_is_missing_is_said() -> None:
    done = process.run(["no-such-program-anywhere"])
    assert done.status == 127
    assert "no-such-program-anywhere" in done.output


def test_a_program_that_must_succeed_is_quoted_when_it_does_not() -> None:
    with pytest.raises(process.ToolError, match=r"sh -c echo no; exit 2 ended with 2:\nno"):
        process.must(["sh", "-c", "echo no; exit 2"])


def fake_python(path: Path) -> Path:
    """A file that looks like an interpreter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_the_newest_interpreter_of_each_version_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_python(tmp_path / "versions" / "3.31.2" / "bin" / "python3.31")
    newest = fake_python(tmp_path / "versions" / "3.31.10" / "bin" / "python3.31")
    fake_python(tmp_path / "versions" / "pypy3.32-7.3" / "bin" / "python3.32")
    fake_python(tmp_path / "shims" / "python3.33")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    found = machine.interpreters()
    assert found[3, 31] == newest
    assert (3, 32) not in found
    assert (3, 33) not in found


def test_a_core_takes_the_first_interpreter_it_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    core = machine.Core("core-0", ((3, 13), (3, 12)))
    monkeypatch.setattr(machine, "interpreters", lambda: {(3, 11): tmp_path / "a", (3, 12): tmp_path / "b"})
    assert machine.python_for(core) == tmp_path / "b"
    monkeypatch.setattr(machine, "interpreters", lambda: {(3, 11): tmp_path / "a"})
    assert machine.python_for(core) is None


def test_a_core_without_an_interpreter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "interpreters", dict)
    with pytest.raises(process.ToolError, match=r"core-2\.21 needs one of Python 3\.14, 3\.13, 3\.12"):
        machine.venv_of(machine.CORES[0])
    with pytest.raises(process.ToolError, match=r"no Python that any of core-2\.21, core-2\.19 runs on"):
        machine.primary()


def test_an_unknown_core_is_refused() -> None:
    with pytest.raises(process.ToolError, match=r"unknown core core-1; there are core-2\.21, core-2\.19"):
        machine.core_named("core-1")


def test_shims_leave_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "/root/.pyenv/shims:/usr/bin")
    assert machine.search_path(tmp_path) == f"{tmp_path}:/usr/bin"


def test_missing_packages_are_named_where_they_cannot_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PACKAGES", {"no-such-package": "/no/such/file"})
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(process.ToolError, match=r"missing: no-such-package\. Install them, or run this as root"):
        machine.install_packages()


def test_every_pin_is_exact() -> None:
    for path in sorted(machine.REQUIREMENTS.glob("*.txt")):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        assert len(lines) > 20
        assert not [line for line in lines if "==" not in line], path.name


def test_a_copy_has_what_git_would_track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, build = tmp_path / "source", tmp_path / "build"
    (source / "roles" / "empty").mkdir(parents=True)
    for name in ("tracked", "gone", "new", "ignored"):
        (source / name).write_text(name, encoding="utf-8")
    (source / ".gitignore").write_text("ignored\n", encoding="utf-8")
    (source / "link").symlink_to("tracked")
    subprocess.run(["git", "init", "--quiet", source], check=True)
    subprocess.run(["git", "-C", source, "add", "tracked", "gone", ".gitignore"], check=True)
    monkeypatch.setattr(tree, "ROOT", source)
    monkeypatch.setattr(tree, "BUILD", build)
    place = tree.make("test")
    assert place == build / "tree" / "test" / "ansible_collections" / "microvm" / "fleet"
    assert tree.base_of(place) == build / "tree" / "test"
    assert tree.files(place) == [".gitignore", "gone", "link", "new", "tracked"]
    assert not (place / "roles").exists()
    assert (place / "link").readlink().name == "tracked"

    (source / "gone").unlink()
    (source / "new").write_text("other", encoding="utf-8")
    (place / "ignored").write_text("left by a test", encoding="utf-8")
    assert tree.make("test") == place
    assert tree.files(place) == [".gitignore", "link", "new", "tracked"]
    assert (place / "new").read_text(encoding="utf-8") == "other"
    assert (place / "ignored").exists()


def test_an_unpacked_archive_is_copied_too(tmp_path: Path) -> None:
    (tmp_path / "plugins" / "__pycache__").mkdir(parents=True)
    (tmp_path / "plugins" / "__pycache__" / "a.pyc").touch()
    (tmp_path / "plugins" / "a.py").touch()
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "b").touch()
    assert tree.files(tmp_path) == ["plugins/a.py"]
