# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module that describes a NixOS host as Ansible calls it: arguments in, JSON out."""

from __future__ import annotations

import io
import json
import socket
import sys
import typing as t
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]
from ansible.module_utils.testing import patch_module_args

from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import surroundings_spec
from ansible_collections.microvm.fleet.plugins.module_utils._host_description import host_spec
from ansible_collections.microvm.fleet.plugins.modules import nixos_host
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost

Call = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text("ID=nixos\n", "utf-8")
    return FakeHost(tmp_path)


@pytest.fixture
def call(host: FakeHost, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Calls the module and reads what it says; *rc* is what it shall end with."""

    def _call(*, rc: int = 0, check: bool = False, diff: bool = False, **options: t.Any) -> dict[str, t.Any]:
        monkeypatch.setattr(nixos_host, "Commands", lambda: host)
        monkeypatch.setattr(nixos_host, "Paths", lambda: host.paths)
        monkeypatch.setattr(socket, "gethostname", lambda: "host1.example.org")
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        arguments = {**options, "_ansible_check_mode": check, "_ansible_diff": diff}
        with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
            nixos_host.main()
        result: dict[str, t.Any] = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert ended.value.code == rc, result
        return result

    return _call


def test_describes_the_host(call: Call, host: FakeHost) -> None:
    wished: dict[str, t.Any] = {
        "start_timeout": 60,
        "guests": [
            {"name": "web1", "flake": "/srv", "autostart": True, "stop_timeout": 90},
            {
                "name": "db1",
                "hypervisor": "qemu",
                "network": {"name": "lan", "index": 10},
                "credentials": {"token": {"path": "/root/token"}},
            },
        ],
        "networks": [{"name": "lan", "addresses": ["10.0.0.1/24"]}],
    }
    checked = call(check=True, diff=True, **wished)
    assert checked["changed"]
    assert not Path(host.paths.flake).exists()
    ran = call(diff=True, **wished)
    assert ran["actions"] == checked["actions"] == ["host: describe /etc/microvm-fleet/host.json"]
    assert ran["switch_needed"]
    assert ran["diff"]["after"] == ran["description"]
    assert ran["description"]["name"] == "host1"
    assert ran["description"]["autostart"] == ["web1"]
    assert ran["description"]["guests"] == {
        "db1": {
            "settings": [["Service", "LoadCredential", "token:/var/lib/microvm-fleet/credentials/db1/token"]],
        },
        "web1": {"settings": [["Service", "TimeoutStopSec", "90"]]},
    }
    again = call(**wished)
    assert not again["changed"]
    assert "diff" not in again
    assert call(name="host2")["description"]["guests"] == ran["description"]["guests"]


def test_errors_name_the_field(call: Call) -> None:
    assert "host, start_timeout: 1 is out of range." in call(rc=1, start_timeout=1)["msg"]
    assert "guest web1: " in call(rc=1, guests=[{"name": "web1", "autostart": "perhaps"}])["msg"]
    assert call(rc=1, guests=[{"name": "../web1", "flake": "/srv"}])["msg"].startswith("guest ")
    lost = {"name": "db1", "hypervisor": "qemu", "network": {"name": "lan", "index": 10}}
    assert "lan" in call(rc=1, guests=[lost])["msg"]


def test_other_hosts_are_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "etc/os-release").write_text("ID=debian\n", "utf-8")
    result = call(rc=1)
    assert "does not run NixOS" in result["msg"]
    assert result["subject"] == "host"


def test_documentation_has_each_option() -> None:
    documented = yaml.safe_load(nixos_host.DOCUMENTATION)["options"]
    spec = {**host_spec(), **surroundings_spec()}
    assert set(documented) == set(spec)
    for name, option in spec.items():
        for key in ("type", "elements", "default", "choices"):
            assert documented[name].get(key) == option.get(key), name
    assert yaml.safe_load(nixos_host.EXAMPLES)
    assert set(yaml.safe_load(nixos_host.RETURN)) == {"changed", "actions", "switch_needed", "description", "diff"}
