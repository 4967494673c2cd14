# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from microvm_testbed import cli, machine
from microvm_testbed.host import Host


@pytest.fixture(autouse=True)
def no_labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "check", lambda: None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["up"], {"command": "up", "lab": "lab", "hosts": 1, "release": None, "uplink": None, "os": None}),
        (["up", "--os", "nixos"], {"os": "nixos"}),
        (
            ["up", "--hosts", "3", "--release", "bookworm", "--lab", "x", "--uplink", "ifupdown"],
            {"hosts": 3, "release": "bookworm", "lab": "x", "uplink": "ifupdown"},
        ),
        (["ssh", "lab-1", "ls", "-l", "--all"], {"host": "lab-1", "arguments": ["ls", "-l", "--all"]}),
        (["exec", "--lab", "x", "1", "sh", "-c", "a b"], {"lab": "x", "host": "1", "arguments": ["sh", "-c", "a b"]}),
        (["reboot", "lab-1", "--hard"], {"hard": True, "ssh_only": False, "timeout": 120.0}),
        (["reboot", "lab-1", "--ssh-only", "--timeout", "5"], {"hard": False, "ssh_only": True, "timeout": 5.0}),
        (["prepare"], {"release": None}),
        (["log", "lab-1", "-u", "ssh"], {"arguments": ["-u", "ssh"], "console": False}),
    ],
)
def test_arguments(arguments: list[str], expected: dict[str, object]) -> None:
    options = vars(cli.parser().parse_args(arguments))
    assert {key: options[key] for key in expected} == expected


@pytest.mark.parametrize(
    "arguments", [[], ["no"], ["up", "--release", "sid"], ["up", "--hosts", "x"], ["ssh"], ["reboot"]]
)
def test_bad_arguments_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2
    assert "usage: testbed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inventory"], "testbed: lab lab: does not exist; make it with: testbed up --lab lab\n"),
        (["status", "--lab", "x"], "testbed: lab x: does not exist; make it with: testbed up --lab x\n"),
        (["exec", "x-1", "true"], "testbed: lab x: does not exist; make it with: testbed up --lab x\n"),
        (["ssh", "x_1"], "testbed: host 'x_1': must be LAB-NUMBER, such as lab-1\n"),
    ],
)
def test_errors_are_one_message(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 1
    assert capsys.readouterr() == ("", message)


def test_table_is_in_columns() -> None:
    text = cli.table([{"host": "lab-1", "boots": None}, {"host": "lab-10", "boots": 2}])
    assert text.splitlines() == ["HOST    BOOTS", "lab-1   -", "lab-10  2"]


def test_a_host_without_files_is_off(tmp_path: Path) -> None:
    host = Host("lab-1", 1, tmp_path / "lab-1", tmp_path / "ssh")
    assert host.machine() is None
    assert host.leader() is None
    assert host.supervised() is False
    assert host.system_state() == "off"
