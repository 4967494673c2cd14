# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Atomic files and locks."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from microvm_testbed import files
from microvm_testbed.errors import TestbedError

PACKAGE = Path(files.__file__).resolve().parent.parent


def test_a_file_is_replaced_whole_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_atomic(path, "one\n", 0o600)
    files.write_atomic(path, "two\n", 0o755)
    assert path.read_text() == "two\n"
    assert path.stat().st_mode & 0o777 == 0o755
    assert list(tmp_path.iterdir()) == [path]


def test_json_comes_back(tmp_path: Path) -> None:
    files.write_json(tmp_path / "x.json", {"b": 1, "a": "é"})
    assert files.read_json(tmp_path / "x.json") == {"a": "é", "b": 1}
    assert files.read_json(tmp_path / "none.json") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "1"])
def test_a_broken_state_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lab.json"
    path.write_text(text)
    with pytest.raises(TestbedError, match=r"lab\.json: not a state file of the testbed"):
        files.read_json(path)


def test_a_lock_is_one_holders(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "lock"
    order: list[str] = []

    def second() -> None:
        with files.locked(path):
            order.append("second")

    with files.locked(path):
        assert files.try_lock(path) is None
        other = threading.Thread(target=second)
        other.start()
        order.append("first")
    other.join(timeout=30)
    assert order == ["first", "second"]
    assert not path.parent.exists()
    assert files.held == set()


@pytest.mark.parametrize("error", [FileExistsError, FileNotFoundError])
def test_a_directory_that_goes_away_while_a_lock_is_taken_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    path = tmp_path / "sub" / "lock"
    mkdir, calls = Path.mkdir, 0

    def gone_at_first(self: Path, mode: int = 0o777, *, parents: bool = False, exist_ok: bool = False) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise error(self)
        mkdir(self, mode, parents=parents, exist_ok=exist_ok)

    monkeypatch.setattr(Path, "mkdir", gone_at_first)
    with files.locked(path):
        assert path.exists()
    assert not path.parent.exists()


def test_no_lock_is_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "sub").write_text("")
    with pytest.raises(FileExistsError), files.locked(tmp_path / "sub" / "lock"):
        pass
    assert files.held == set()


def test_a_kept_lock_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with files.locked(path, keep=True):
        assert len(files.held) == 1
    assert path.exists()


def test_a_program_that_outlives_a_killed_holder_keeps_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import os, signal, subprocess, sys; from pathlib import Path; from microvm_testbed import files\n"
        "with files.locked(Path(sys.argv[1])):\n"
        "    child = subprocess.Popen(['cat'], stdin=0, pass_fds=tuple(files.held))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, env={"PYTHONPATH": str(PACKAGE)}
    )
    holder.wait(timeout=30)
    assert files.try_lock(path) is None
    assert holder.stdin is not None
    holder.stdin.close()
    with files.locked(path):
        assert path.exists()
    assert not path.exists()


def test_removing_what_is_not_there_is_fine(tmp_path: Path) -> None:
    files.remove_tree(tmp_path / "none")
    files.remove_empty(tmp_path / "none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    files.remove_empty(tmp_path / "full")
    assert (tmp_path / "full" / "file").exists()
    files.remove_tree(tmp_path / "full")
    assert list(tmp_path.iterdir()) == []
