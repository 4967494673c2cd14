# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Networks of NixOS hosts: what is written before a switch, what is repaired after it, what is refused."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _net_files, _networkd, _nft
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._net_files import NETWORKD
from ansible_collections.microvm.fleet.plugins.module_utils._net_run import Limits, Result, converge
from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import parse_all
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import Killer
from ansible_collections.microvm.fleet.tests.unit.support.fakenet import FakeNet, lan

Entry = dict[str, t.Any]
NAT = lan(nat=True, dhcp={})
BOTH = lan(addresses=["10.0.0.1/24", "fd00::1/64"], nat=True, nat_ipv6=True, taps=["vm-a*"])
DMZ: Entry = {"name": "dmz", "addresses": ["10.0.1.1/24"], "taps": ["vm-b*"]}
JSON = "etc/microvm-fleet/networks.json"
UNITS = Path(__file__).parents[4] / "roles/flake/files/microvm-fleet/nix/units"


@pytest.fixture
def net(tmp_path: Path) -> FakeNet:
    host = FakeNet(tmp_path)
    host.nixos()
    return host


def run(net: FakeNet, *entries: Entry, check: bool = False, prune: bool = False, stage: bool = False) -> Result:
    return converge(
        parse_all(entries),
        commands=net,
        paths=net.paths,
        limits=Limits(settle=2, lock=0),
        check=check,
        prune=prune,
        stage=stage,
    )


def described(net: FakeNet) -> dict[str, t.Any]:
    value: dict[str, t.Any] = json.loads(net.read(JSON))
    return value


def all_of_it(net: FakeNet, *entries: Entry, prune: bool = False) -> tuple[Result, Result]:
    """What the role does: write, switch, repair and read back."""
    staged = run(net, *entries, stage=True, prune=prune)
    if staged.switch_needed:
        net.switch()
    return staged, run(net, *entries, prune=prune)


def test_staging_writes_and_touches_nothing_that_runs(net: FakeNet) -> None:
    checked = run(net, NAT, stage=True, check=True)
    assert not (net.root / JSON).exists()
    kernel, links = net.kernel(), dict(net.links)
    staged = run(net, NAT, stage=True)
    assert staged.actions == checked.actions
    assert staged.changed
    assert staged.switch_needed
    assert (net.kernel(), net.links, net.table) == (kernel, links, None)
    assert net.services[NETWORKD]["ActiveState"] == "inactive"
    assert all(argv[:2] in (["systemctl", "show"], ["ip", "-j"], ["nft", "-j"]) for argv in net.calls)
    assert staged.actions == [
        "host: record how it was before the first network",
        "network lan: record what is wished",
        "host: write /etc/microvm-fleet/networks.json",
    ]
    again = run(net, NAT, stage=True)
    assert not again.changed
    assert again.switch_needed


def test_the_description(net: FakeNet) -> None:
    run(net, NAT, stage=True)
    value = described(net)
    assert value["version"] == 1
    assert value["foreign"] is True
    assert value["dhcp"] == ["lan"]
    assert value["sysctl"] == [["net/ipv4/conf/eth0/forwarding", "1"], ["net/ipv4/conf/lan/forwarding", "1"]]
    assert sorted(value["files"]) == [
        "05-microvm-fleet-unmanaged.network",
        "50-microvm-fleet-lan.netdev",
        "50-microvm-fleet-lan.network",
        "50-microvm-fleet-lan.taps.network",
    ]
    assert value["files"]["50-microvm-fleet-lan.netdev"] == [["NetDev", [["Name", "lan"], ["Kind", "bridge"]]]]
    assert {"add": {"element": {**_where("bridges"), "elem": ["lan"]}}} in value["sets"]["nftables"]


def _where(name: str) -> dict[str, str]:
    return {"family": _nft.FAMILY, "table": _nft.TABLE, "name": name}


def test_order_of_kernel_settings_is_kept(net: FakeNet) -> None:
    run(net, BOTH, stage=True)
    keys = [key for key, _value in described(net)["sysctl"]]
    assert keys.index("net/ipv6/conf/eth0/accept_ra") < keys.index("net/ipv6/conf/all/forwarding")


def test_no_uplink_of_others_where_networkd_runs(net: FakeNet) -> None:
    net.services[NETWORKD].update(ActiveState="active", UnitFileState="enabled")
    run(net, NAT, stage=True)
    assert described(net)["foreign"] is False
    assert "05-microvm-fleet-unmanaged.network" not in described(net)["files"]


@pytest.mark.parametrize("entries", [[lan()], [NAT], [BOTH], [BOTH, DMZ], [BOTH | {"reach": ["dmz"]}, DMZ]])
def test_same_networks_as_on_other_hosts(
    net: FakeNet, tmp_path_factory: pytest.TempPathFactory, entries: t.Any
) -> None:
    plain = FakeNet(tmp_path_factory.mktemp("plain"))
    converge(
        parse_all(entries), commands=plain, paths=plain.paths, limits=Limits(settle=2, lock=0), check=False, prune=False
    )
    _staged, ended = all_of_it(net, *entries)
    assert net.links == plain.links
    assert net.kernel() == plain.kernel()
    assert net.table == plain.table
    assert all(one["problems"] == [] for one in ended.networks)
    assert not ended.switch_needed
    record = json.loads(net.read("var/lib/microvm-fleet/network/host.json"))
    assert record == json.loads(plain.read("var/lib/microvm-fleet/network/host.json"))
    for again in all_of_it(net, *entries):
        assert not again.changed
        assert again.actions == []


def test_a_change_and_the_end(net: FakeNet) -> None:
    fresh = (dict(net.links), net.kernel())
    all_of_it(net, BOTH, DMZ)
    staged, ended = all_of_it(net, {**BOTH, "nat": False, "nat_ipv6": False, "bridge": "br0"}, DMZ)
    assert staged.changed
    assert "lan" not in net.links
    assert ended.networks[1]["bridge"] == "br0"
    assert net.kernel()["net/ipv6/conf/all/forwarding"] == "0"
    all_of_it(net, prune=True)
    assert (net.links, net.kernel()) == fresh
    assert net.table is None
    assert described(net) == {
        "version": 1, "files": {}, "foreign": False, "sets": _nft.document({}), "sysctl": [], "dhcp": [],
    }  # fmt: skip
    for again in all_of_it(net, prune=True):
        assert not again.changed
        assert not again.switch_needed


def test_a_bridge_that_forwards_no_more(net: FakeNet) -> None:
    all_of_it(net, NAT)
    assert net.kernel()["net/ipv4/conf/lan/forwarding"] == "1"
    all_of_it(net, NAT | {"nat": False})
    assert net.kernel()["net/ipv4/conf/lan/forwarding"] == "0"
    assert net.kernel()["net/ipv4/conf/eth0/forwarding"] == "0"


def test_nothing_wished_and_nothing_there(net: FakeNet) -> None:
    for stage in (True, False):
        result = run(net, prune=True, stage=stage)
        assert not result.changed
        assert not result.switch_needed
    assert not (net.root / JSON).exists()


def test_repairs_what_the_system_has(net: FakeNet) -> None:
    all_of_it(net, NAT)
    net.drop("lan")
    mended = run(net, NAT)
    assert "lan" in net.links
    assert "host: let systemd-networkd read its files" in mended.actions
    net.run(["nft", "delete", "table", _nft.FAMILY, _nft.TABLE])
    assert run(net, NAT).actions == ["host: load the table of nftables and open forwarding"]
    assert net.table is not None
    assert not [argv for argv in net.calls if argv[1] in ("enable", "disable", "daemon-reload")]


def test_a_call_beside_the_role_is_refused(net: FakeNet) -> None:
    with pytest.raises(FleetError) as refused:
        run(net, NAT)
    assert "role microvm.fleet.network" in str(refused.value)
    assert refused.value.field == "/etc/microvm-fleet/networks.json"
    assert not (net.root / "var").exists()
    all_of_it(net, NAT)
    with pytest.raises(FleetError, match="described with"):
        run(net, NAT | {"mtu": 1400}, check=True)


def test_a_host_that_was_not_switched_is_refused(net: FakeNet) -> None:
    run(net, NAT, stage=True)
    with pytest.raises(FleetError, match="was not made with it"):
        run(net, NAT)
    assert net.links.keys() == {"lo", "eth0"}


def test_staging_is_for_nixos(net: FakeNet) -> None:
    net.write("etc/os-release", "ID=debian\n")
    with pytest.raises(InvalidWish) as refused:
        run(net, NAT, stage=True)
    assert refused.value.field == "stage"


@pytest.mark.parametrize("stage", [True, False])
def test_killed_anywhere(tmp_path_factory: pytest.TempPathFactory, stage: bool) -> None:
    """A run that ends between any two changes is finished by the next."""

    def prepared() -> FakeNet:
        host = FakeNet(tmp_path_factory.mktemp("host"))
        host.nixos()
        if not stage:
            run(host, NAT, stage=True)
            host.switch()
            host.drop("lan")
        return host

    clean = prepared()
    with Killer(t.cast("t.Any", clean), None) as counted:
        run(clean, NAT, stage=stage)
    assert counted.count > 5
    all_of_it(clean, NAT)
    for at in range(counted.count):
        host = prepared()
        with Killer(t.cast("t.Any", host), at) as killer:
            run(host, NAT, stage=stage)
        assert killer.dead
        all_of_it(host, NAT)
        assert host.files() == clean.files(), f"killed at change {at}"
        assert host.links.keys() == clean.links.keys()
        for again in all_of_it(host, NAT):
            assert not again.changed


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (_net_files.UNIT_NAME, _net_files.UNIT),
        ("network", _net_files.LOADER),
        ("network.nft", _nft.RULESET),
        ("networkd.conf", _networkd.MANAGER),
    ],
)
def test_the_flake_has_the_same_files(name: str, text: str) -> None:
    assert (UNITS / name).read_text("utf-8") == text
