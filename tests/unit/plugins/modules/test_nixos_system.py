# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module for a host's system as Ansible calls it: arguments in, JSON out."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import typing as t
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]
from ansible.module_utils.testing import patch_module_args

from ansible_collections.microvm.fleet.plugins.module_utils._system_wish import system_spec
from ansible_collections.microvm.fleet.plugins.modules import nixos_system
from ansible_collections.microvm.fleet.tests.unit.support.fakesystem import NAME, FakeSystem, System

Call = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def host(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


@pytest.fixture
def call(host: FakeSystem, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Calls the module and reads what it says; *rc* is what it shall end with."""

    def _call(*, rc: int = 0, check: bool = False, diff: bool = False, **options: t.Any) -> dict[str, t.Any]:
        monkeypatch.setattr(nixos_system, "Commands", lambda: host)
        monkeypatch.setattr(nixos_system, "SystemPaths", lambda: host.paths)
        monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", NAME, "6.12", "#1", "x86_64")))
        monkeypatch.setattr(signal, "signal", lambda number, action: None)
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        arguments = {**options, "_ansible_check_mode": check, "_ansible_diff": diff}
        with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
            nixos_system.main()
        result: dict[str, t.Any] = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert ended.value.code == rc, result
        return result

    return _call


def test_check_run_run(call: Call, host: FakeSystem) -> None:
    new = host.wish(System(2))
    checked = call(check=True, diff=True)
    assert checked["changed"]
    assert host.running == 1
    ran = call(diff=True)
    assert (ran["changed"], ran["actions"]) == (True, checked["actions"])
    assert ran["diff"][1]["prepared"].startswith("linux: 6.12")
    assert ran["after"]["running"] == new.path
    assert set(yaml.safe_load(nixos_system.RETURN)) <= set(ran)
    again = call()
    assert not again["changed"]
    assert "diff" not in again
    assert host.running == 2


def test_a_confirmation_takes_three_calls(call: Call, host: FakeSystem) -> None:
    host.wish(System(2))
    token = call(confirm_timeout=60)["confirm"]["token"]
    assert len(token) == 16
    assert call(confirm_timeout=60, watch=token)["state"] == "activated"
    assert (host.running, host.profile) == (2, 1)
    assert call(confirm_timeout=60, confirm=token)["state"] == "confirmed"
    assert (host.running, host.profile, host.boots_next) == (2, 2, 2)


def test_errors_name_the_system_and_the_field(call: Call, host: FakeSystem) -> None:
    refused = call(rc=1, confirm_timeout=3)
    assert refused["msg"].startswith(f"system {NAME}, confirm_timeout: 3 is out of range.")
    assert (refused["subject"], refused["field"]) == (f"system {NAME}", "confirm_timeout")
    assert "system h2: value of mode must be one of: switch, test, boot" in call(rc=1, name="h2", mode="x")["msg"]
    assert "has no nixosConfigurations.h2" in call(rc=1, name="h2")["msg"]
    assert "another run has taken its place" in call(rc=1, watch="0")["msg"]
    assert host.activations == []


def test_documentation_has_each_option() -> None:
    documented = yaml.safe_load(nixos_system.DOCUMENTATION)["options"]
    assert set(documented) == set(system_spec())
    for name, option in system_spec().items():
        for key in ("type", "elements", "default", "choices"):
            assert documented[name].get(key) == option.get(key), name
    assert yaml.safe_load(nixos_system.EXAMPLES)
