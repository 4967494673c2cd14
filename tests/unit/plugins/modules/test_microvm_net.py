# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules for networks as Ansible calls them: arguments in, JSON out."""

from __future__ import annotations

import importlib
import io
import json
import re
import sys
import typing as t
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]
from ansible.module_utils.testing import patch_module_args

from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule
from ansible_collections.microvm.fleet.plugins.module_utils._net_run import network_options
from ansible_collections.microvm.fleet.tests.unit.support.fakenet import FakeNet, lan

MODULES = ("microvm_net", "microvm_nets", "microvm_net_info")


@pytest.fixture
def net(tmp_path: Path) -> FakeNet:
    return FakeNet(tmp_path)


def module(name: str) -> t.Any:
    return importlib.import_module(f"ansible_collections.microvm.fleet.plugins.modules.{name}")


@pytest.fixture
def call(
    net: FakeNet, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> t.Callable[..., dict[str, t.Any]]:
    """Calls a module and reads what it says; *rc* is what it shall end with."""

    def _call(
        called: str, /, *, rc: int = 0, check: bool = False, diff: bool = False, **options: t.Any
    ) -> dict[str, t.Any]:
        loaded = module(called)
        monkeypatch.setattr(loaded, "Commands", lambda: net)
        monkeypatch.setattr(loaded, "NetPaths", lambda: net.paths)
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        arguments = {**options, "_ansible_check_mode": check, "_ansible_diff": diff}
        with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
            loaded.main()
        result: dict[str, t.Any] = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert ended.value.code == rc, result
        return result

    return _call


Call = t.Callable[..., dict[str, t.Any]]


def test_one_network(call: Call) -> None:
    checked = call("microvm_net", check=True, diff=True, **lan(nat=True))
    ran = call("microvm_net", diff=True, **lan(nat=True))
    assert checked["changed"]
    assert ran["actions"] == checked["actions"]
    assert ran["network"]["addresses"] == ["10.0.0.1/24"]
    assert ran["diff"]["before"]["networks"] == {}
    assert ran["diff"]["after"]["networks"]["lan"] == ran["network"]
    again = call("microvm_net", **lan(nat=True))
    assert again["changed"] is False
    assert "diff" not in again
    gone = call("microvm_net", name="lan", state="absent")
    assert gone["changed"]
    assert gone["network"] is None
    assert call("microvm_net", name="lan", state="absent")["changed"] is False


def test_networks(call: Call) -> None:
    both = [lan(taps=["vm-a*"]), {"name": "dmz", "addresses": ["10.0.1.1/24"], "taps": ["vm-b*"]}]
    ran = call("microvm_nets", networks=both)
    assert [one["name"] for one in ran["networks"]] == ["dmz", "lan"]
    assert call("microvm_net_info")["networks"] == ran["networks"]
    assert [one["name"] for one in call("microvm_net_info", names=["lan"])["networks"]] == ["lan"]
    assert call("microvm_net_info", check=True)["changed"] is False
    left = call("microvm_nets", networks=both[:1])
    assert left["orphans"] == [{"name": "dmz", "pruned": False}]
    assert left["changed"] is False
    pruned = call("microvm_nets", networks=both[:1], prune=True)
    assert pruned["orphans"] == [{"name": "dmz", "pruned": True}]
    assert [one["name"] for one in pruned["networks"]] == ["lan"]


def test_warning(call: Call, net: FakeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(FleetModule, "warn", lambda self, text: warnings.append(text))
    net.write("proc/net/route", "Iface\n")
    for name, options in (("microvm_net", lan(nat=True)), ("microvm_nets", {"networks": [lan(nat=True)]})):
        call(name, check=True, **options)
        assert "has a default route for IPv4" in warnings.pop()
    assert warnings == []


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("microvm_net", lan(mtu=5), "network lan, mtu: 5 is not between 68 and 65535"),
        ("microvm_net", lan(color="red"), "network lan: Unsupported parameters|network lan: .*color"),
        ("microvm_net", lan(kind="ring"), "network lan: .*kind"),
        ("microvm_net", lan(mtu="large"), "network lan: .*mtu"),
        ("microvm_net", lan(dhcp={"leese": 5}), "network lan: .*leese"),
        ("microvm_net", lan(dhcp={"leases": [{"name": "a"}]}), "network lan: .*missing required"),
        ("microvm_net", lan(timeout=0), "timeout: 0 is out of range"),
        ("microvm_net", {}, "missing required arguments: name"),
        ("microvm_nets", {"networks": [lan(), lan()]}, "network lan, name: two entries"),
        ("microvm_nets", {"networks": [lan(dhcp={"x": 1})]}, "network lan: .*x"),
        ("microvm_nets", {"networks": [{}]}, "network number 1 of the list: .*name"),
        ("microvm_nets", {"networks": [lan(router_advertisements={"x": 1})]}, "network lan: .*x"),
        ("microvm_nets", {"networks": [], "lock_timeout": -1}, "lock_timeout: -1 is out of range"),
        ("microvm_nets", {}, "missing required arguments: networks"),
    ],
)
def test_refused(call: Call, net: FakeNet, name: str, options: dict[str, t.Any], says: str) -> None:
    fresh = net.state()
    result = call(name, rc=1, **options)
    assert result["failed"]
    assert re.search(says, result["msg"]), result["msg"]
    assert "Traceback" not in result["msg"]
    assert net.state() == fresh


def test_errors_have_parts(call: Call) -> None:
    result = call("microvm_net", rc=1, **lan(mtu=5))
    assert (result["subject"], result["field"]) == ("network lan", "mtu")


def test_info_that_fails(call: Call, net: FakeNet) -> None:
    net.write("var/lib/microvm-fleet/network/host.json", "nonsense")
    assert "host.json cannot be read" in call("microvm_net_info", rc=1)["msg"]


@pytest.mark.parametrize("name", MODULES)
def test_documentation(name: str) -> None:
    loaded = module(name)
    documentation = yaml.safe_load(loaded.DOCUMENTATION)
    assert documentation["module"] == name
    assert yaml.safe_load(loaded.EXAMPLES)
    for entry in yaml.safe_load(loaded.RETURN).values():
        assert {"description", "type", "returned"} <= set(entry)
    for attribute in ("microvm.fleet.attributes", "microvm.fleet.attributes.action_group"):
        assert any(one.startswith(attribute) for one in documentation["extends_documentation_fragment"])


@pytest.mark.parametrize("name", ["microvm_net", "microvm_nets"])
def test_documentation_has_each_option_of_a_network(name: str) -> None:
    options = yaml.safe_load(module(name).DOCUMENTATION)["options"]
    networks = options["networks"]["suboptions"] if name == "microvm_nets" else options

    def compare(documented: dict[str, t.Any], spec: dict[str, t.Any]) -> None:
        assert set(documented) == set(spec)
        for key, one in spec.items():
            assert documented[key].get("type") == one["type"], key
            assert documented[key].get("default") == one.get("default"), key
            if "options" in one:
                compare(documented[key]["suboptions"], one["options"])

    compare(networks, network_options())
