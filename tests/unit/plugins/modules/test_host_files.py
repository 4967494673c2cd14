# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module for a host's directories and files as Ansible calls it: arguments in, JSON out."""

from __future__ import annotations

import io
import json
import os
import sys
import typing as t
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]
from ansible.module_utils.testing import patch_module_args

from ansible_collections.microvm.fleet.plugins.module_utils import _host_files
from ansible_collections.microvm.fleet.plugins.modules import host_files

Call = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Calls the module and reads what it says; *rc* is what it shall end with."""

    def _call(*, rc: int = 0, check: bool = False, diff: bool = False, **options: t.Any) -> dict[str, t.Any]:
        monkeypatch.setattr(_host_files, "ROOT", (os.getuid(), os.getgid()))
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        arguments = {**options, "_ansible_check_mode": check, "_ansible_diff": diff}
        with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
            host_files.main()
        result: dict[str, t.Any] = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert ended.value.code == rc, result
        return result

    return _call


def test_makes_a_directory(call: Call, tmp_path: Path) -> None:
    wished = {"directories": [{"path": f"{tmp_path}/a", "mode": "755"}]}
    checked = call(check=True, diff=True, **wished)
    assert checked["actions"] == [f"host: make {tmp_path}/a"]
    assert [each["before"] for each in checked["diff"]] == [""]
    assert not (tmp_path / "a").exists()
    ran = call(**wished)
    assert ran["changed"]
    assert "diff" not in ran
    assert (tmp_path / "a").is_dir()
    assert not call(**wished)["changed"]


def test_refuses(call: Call, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    wished = {"files": [{"path": f"{tmp_path}/a", "mode": "644", "content": "text"}]}
    assert call(rc=1, **wished)["msg"].startswith(f"host, {tmp_path}/a: There is a directory where a file is to be.")


def test_documentation() -> None:
    """Options are those of the argument spec."""
    documented = yaml.safe_load(host_files.DOCUMENTATION)["options"]
    spec = _host_files.files_spec()
    assert {name: set(option["suboptions"]) for name, option in documented.items()} == {
        name: set(option["options"]) for name, option in spec.items()
    }
