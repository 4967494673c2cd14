# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs over a host that is a directory: what they leave, what check mode says, how a killed one is finished."""

from __future__ import annotations

import json
import os
import tempfile
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _net_apply, _net_plan
from ansible_collections.microvm.fleet.plugins.module_utils._command import Completed
from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy, CommandError, FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._net_files import NETWORKD, UNIT_NAME, WAIT_ONLINE
from ansible_collections.microvm.fleet.plugins.module_utils._net_observe import observe
from ansible_collections.microvm.fleet.plugins.module_utils._net_run import (
    Limits,
    Result,
    converge,
    info,
    limits_of,
    limits_spec,
    network_options,
)
from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import parse_all
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import Killer
from ansible_collections.microvm.fleet.tests.unit.support.fakenet import SERVED, UDP, FakeNet, lan

Entry = dict[str, t.Any]
NAT = lan(nat=True, dhcp={})
BOTH = lan(addresses=["10.0.0.1/24", "fd00::1/64"], nat=True, nat_ipv6=True, taps=["vm-a*"])
DMZ: Entry = {"name": "dmz", "addresses": ["10.0.1.1/24"], "taps": ["vm-b*"]}


@pytest.fixture
def net(tmp_path: Path) -> FakeNet:
    return FakeNet(tmp_path)


def run(net: FakeNet, *entries: Entry, check: bool = False, prune: bool = False, settle: int = 2) -> Result:
    return converge(
        parse_all(entries),
        commands=net,
        paths=net.paths,
        limits=Limits(settle=settle, lock=0),
        check=check,
        prune=prune,
    )


def test_a_network_from_nothing(net: FakeNet) -> None:
    net.add("vm-web1", kind="tun")
    result = run(net, NAT)
    assert result.changed
    assert net.links["lan"]["addr_info"][0]["local"] == "10.0.0.1"
    assert net.links["vm-web1"]["master"] == "lan"
    assert net.services[NETWORKD]["ActiveState"] == "active"
    assert net.services[NETWORKD]["UnitFileState"] == "enabled"
    assert net.services[WAIT_ONLINE]["UnitFileState"] == "disabled"
    assert net.services[UNIT_NAME]["ActiveState"] == "active"
    assert net.kernel()["net/ipv4/conf/eth0/forwarding"] == "1"
    assert net.kernel()["net/ipv4/conf/lan/forwarding"] == "1"
    (network,) = result.networks
    assert network["ports"] == ["vm-web1"]
    assert network["problems"] == []
    assert json.loads(net.read("var/lib/microvm-fleet/networks/lan.json"))["nat"] is True
    assert json.loads(net.read("var/lib/microvm-fleet/network/host.json"))["pending"] is False
    assert os.stat(net.paths.loader).st_mode & 0o777 == 0o755
    assert os.stat(net.paths.sets).st_mode & 0o777 == 0o600
    assert os.stat(net.paths.records).st_mode & 0o777 == 0o700


@pytest.mark.parametrize("entries", [[lan()], [NAT], [BOTH], [BOTH, DMZ], [BOTH | {"reach": ["dmz"]}, DMZ]])
def test_check_run_check_run(net: FakeNet, entries: list[Entry]) -> None:
    fresh = net.state()
    checked = run(net, *entries, check=True)
    assert net.state() == fresh
    ran = run(net, *entries)
    assert ran.actions == checked.actions
    assert ran.before == checked.before
    assert ran.after["host"] == checked.after["host"]
    assert list(ran.after["networks"]) == list(checked.after["networks"])
    state = net.state()
    for check in (True, False):
        again = run(net, *entries, check=check)
        assert not again.changed
        assert again.actions == []
        assert again.before == again.after
        assert again.networks == ran.networks
    assert net.state() == state


@pytest.mark.parametrize("entries", [[lan()], [NAT], [BOTH], [BOTH, DMZ]])
def test_all_of_it_goes(net: FakeNet, entries: list[Entry]) -> None:
    fresh = net.state()
    run(net, *entries)
    absent = [{"name": one["name"], "state": "absent"} for one in entries]
    checked = run(net, *absent, check=True)
    gone = run(net, *absent)
    assert gone.changed
    assert gone.actions == checked.actions
    assert gone.networks == []
    assert net.state() == fresh
    assert not run(net, *absent).changed
    assert not run(net, prune=True).changed


def test_networkd_that_ran_before_goes_on(net: FakeNet) -> None:
    net.services[NETWORKD].update(ActiveState="active", UnitFileState="enabled")
    fresh = net.state()
    run(net, NAT)
    assert ["systemctl", "start", NETWORKD] not in net.calls
    assert not (net.root / "etc/systemd/networkd.conf.d").exists()
    run(net, prune=True)
    assert net.state() == fresh


def test_a_change(net: FakeNet) -> None:
    run(net, NAT)
    result = run(net, NAT | {"mtu": 1400, "addresses": ["10.0.5.1/24"]})
    assert net.links["lan"]["mtu"] == 1400
    assert result.networks[0]["addresses"] == ["10.0.5.1/24"]
    assert result.before["networks"]["lan"]["addresses"] == ["10.0.0.1/24"]


def test_another_bridge(net: FakeNet) -> None:
    run(net, NAT)
    run(net, NAT | {"bridge": "br0"})
    assert "lan" not in net.links
    assert "br0" in net.links
    assert not run(net, NAT | {"bridge": "br0"}).changed


def test_orphans(net: FakeNet) -> None:
    run(net, BOTH, DMZ)
    kept = run(net, BOTH)
    assert not kept.changed
    assert kept.orphans == [{"name": "dmz", "pruned": False}]
    assert run(net, BOTH, prune=True, check=True).orphans == [{"name": "dmz", "pruned": True}]
    assert run(net, BOTH, prune=True).orphans == [{"name": "dmz", "pruned": True}]
    assert run(net, BOTH, prune=True).orphans == []
    assert "dmz" not in net.links


def test_a_dhcp_server_is_waited_for(net: FakeNet) -> None:
    run(net, NAT)
    net.links["lan"]["flags"] = ["UP", "LOWER_UP"]
    net.write("proc/net/udp", UDP + SERVED)
    assert not run(net, NAT).changed


def test_warnings(net: FakeNet) -> None:
    net.write("proc/net/route", "Iface\n")
    result = run(net, NAT)
    assert len(result.warnings) == 1
    assert result.warnings[0].startswith("network lan, uplink: no interface of the host has a default route for IPv4")


@pytest.mark.parametrize(
    ("field", "entry", "says"),
    [
        ("bridge", lan(), "network lan, bridge: wished is a bridge lan, but the host has none."),
        ("mtu", lan(mtu=1400), "network lan, mtu: wished is 1400, but the host has 1500."),
        ("addresses", lan(), "network lan, addresses: wished is 10.0.0.1/24, but the host has none."),
        ("taps", lan(), "network lan, taps: wished is vm-a in lan, but the host has not."),
    ],
)
def test_what_does_not_come_about_is_an_error(
    net: FakeNet, monkeypatch: pytest.MonkeyPatch, field: str, entry: Entry, says: str
) -> None:
    monkeypatch.setattr(_net_apply, "_MEND", 0.0)
    net.add("vm-a", kind="tun")
    net.stubborn.add(field)
    with pytest.raises(FleetError) as caught:
        run(net, entry, settle=0)
    assert says in str(caught.value)
    assert "systemd-networkd configures lan with /etc/systemd/network/10-other.network" in str(caught.value)
    assert caught.value.field == field
    # It is not forgotten: the next run takes it up, and ends well when nothing is in the way.
    assert json.loads(net.read("var/lib/microvm-fleet/network/host.json"))["pending"] is True
    net.stubborn.clear()
    assert run(net, entry).changed
    assert not run(net, entry).changed


def test_networkd_is_asked_again(net: FakeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_net_apply, "_MEND", 0.0)
    net.add("vm-a", kind="tun")
    net.stubborn.add("taps")

    def before(argv: t.Sequence[str]) -> None:
        if list(argv) == ["networkctl", "reconfigure", "vm-a"]:
            net.stubborn.clear()

    net.before = before
    run(net, lan())
    assert net.links["vm-a"]["master"] == "lan"


def test_networkd_is_started_again_for_a_bridge_that_takes_no_taps(
    net: FakeNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_net_apply, "_MEND", 0.0)
    monkeypatch.setattr(_net_apply, "_RESTART", 0.0)
    net.add("vm-a", kind="tun")
    net.stubborn.add("taps")
    restarts = []

    def before(argv: t.Sequence[str]) -> None:
        if list(argv) == ["systemctl", "restart", "systemd-networkd.service"]:
            restarts.append(argv)
            net.stubborn.clear()

    net.before = before
    run(net, lan())
    assert net.links["vm-a"]["master"] == "lan"
    assert len(restarts) == 1


def test_rules_that_do_not_come_about_are_an_error(net: FakeNet) -> None:
    net.answers[f"systemctl reload-or-restart {UNIT_NAME}"] = Completed((), 0, "", "")
    with pytest.raises(FleetError, match="networks of the host, nftables: wished is table inet microvm_fleet"):
        run(net, lan())


def test_a_unit_that_fails_is_an_error(net: FakeNet) -> None:
    net.answers[f"systemctl reload-or-restart {UNIT_NAME}"] = Completed((), 1, "", "Job failed.")
    with pytest.raises(CommandError, match=r"Job failed.*See its journal"):
        run(net, lan())


def test_a_bridge_that_cannot_be_deleted_is_an_error(net: FakeNet) -> None:
    run(net, lan())
    net.answers["ip link delete dev lan type bridge"] = Completed((), 2, "", "RTNETLINK answers: Busy")
    with pytest.raises(CommandError, match="Busy"):
        run(net, prune=True)


def test_what_is_gone_need_not_be_deleted(net: FakeNet) -> None:
    apply = _net_apply.Apply(net, net.paths, timeout=1)
    apply.step(_net_plan.DeleteBridge("", "gone"))
    net.answers["nft delete table inet microvm_fleet"] = Completed((), 1, "", "Error: No such file or directory")
    apply.step(_net_plan.DeleteTable(""))
    apply.step(_net_plan.SetKernel("", "net/ipv4/conf/gone/forwarding", "0"))
    apply.step(_net_plan.RemoveFile("", "/etc/gone"))
    assert not (net.root / "proc/sys/net/ipv4/conf/gone").exists()
    with pytest.raises(TypeError):
        apply.step(_net_plan.Step("of no kind"))


def test_a_unit_that_failed_goes_too(net: FakeNet) -> None:
    fresh = net.state()
    run(net, lan())
    net.services[UNIT_NAME]["ActiveState"] = "failed"
    net.answers[f"systemctl reset-failed {UNIT_NAME}"] = Completed((), 1, "", "Unit not loaded.")
    run(net, prune=True)
    assert net.state() == fresh


def test_a_table_that_lost_its_unit_is_deleted(net: FakeNet) -> None:
    net.table = {"nftables": []}
    assert run(net).actions == ["host: delete the table of nftables"]
    assert net.table is None


def test_nothing_is_changed_by_a_bad_wish(net: FakeNet) -> None:
    fresh = net.state()
    with pytest.raises(InvalidWish, match="network lan, uplink: the host has no interface eth9"):
        run(net, lan(uplink="eth9"))
    assert net.state() == fresh
    assert not (net.root / "run").exists()


def test_another_run_is_waited_for_no_longer_than_wished(net: FakeNet) -> None:
    fresh = net.state()
    with _files.lock(net.paths.lock, what="test"), pytest.raises(Busy, match="networks of the host: another run"):
        run(net, lan())
    assert net.state() == fresh
    assert run(net, lan()).changed


def test_a_run_without_work_takes_no_lock(net: FakeNet) -> None:
    run(net, lan())
    with _files.lock(net.paths.lock, what="test"):
        assert not run(net, lan()).changed
        assert run(net, NAT, check=True).changed


def test_what_another_run_did_meanwhile_is_not_done_again(net: FakeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    original = _files.lock

    def late(path: str, **options: t.Any) -> t.Any:
        monkeypatch.setattr(_files, "lock", original)
        run(net, lan())
        return original(path, **options)

    monkeypatch.setattr(_files, "lock", late)
    result = run(net, lan())
    assert not result.changed
    assert result.networks[0]["name"] == "lan"


def test_info(net: FakeNet) -> None:
    assert info((), commands=net, paths=net.paths) == []
    ran = run(net, BOTH, DMZ)
    assert info((), commands=net, paths=net.paths) == ran.networks
    assert [one["name"] for one in info(["lan", "nowhere"], commands=net, paths=net.paths)] == ["lan"]
    net.drop("lan")
    (one,) = info(["lan"], commands=net, paths=net.paths)
    assert one["exists"] is False
    assert one["problems"] == ["bridge: wished is a bridge lan, but the host has none."]


def test_result_of_one() -> None:
    result = Result(changed=True, actions=["a"], networks=[{"name": "lan"}], orphans=[], warnings=[])
    assert result.one("lan") == {
        "changed": True,
        "actions": ["a"],
        "network": {"name": "lan"},
        "diff": {"before": {}, "after": {}},
    }
    assert result.one("gone")["network"] is None
    assert set(result.values()) == {"changed", "actions", "networks", "orphans", "switch_needed", "diff"}


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"timeout": 0, "lock_timeout": 0}, "timeout"),
        ({"timeout": 3601, "lock_timeout": 0}, "timeout"),
        ({"timeout": 1, "lock_timeout": -1}, "lock_timeout"),
        ({"timeout": 1, "lock_timeout": 3601}, "lock_timeout"),
    ],
)
def test_limits_out_of_range(params: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidWish, match="is out of range") as caught:
        limits_of(params)
    assert caught.value.field == field


def test_limits() -> None:
    assert limits_of({"timeout": 1, "lock_timeout": 0}) == Limits(1, 0)
    assert {key: one["default"] for key, one in limits_spec().items()} == {"timeout": 30, "lock_timeout": 60}
    assert set(network_options()) == {
        *("name", "kind", "bridge", "addresses", "mac", "mtu", "taps", "nat", "nat_ipv6", "uplink", "reach", "dhcp"),
        *("router_advertisements", "state"),
    }


# Killed anywhere.

SCENES: dict[str, tuple[list[Entry], list[Entry]]] = {
    "first": ([], [NAT]),
    "change": ([BOTH], [BOTH | {"mtu": 1400, "nat_ipv6": False}]),
    "leases": (
        [NAT],
        [NAT | {"dhcp": {"leases": [{"name": "a", "mac": "02:00:00:00:00:0a", "address": "10.0.0.9"}]}}],
    ),
    "another": ([BOTH], [BOTH, DMZ]),
    "one goes": ([BOTH, DMZ], [DMZ]),
    "all go": ([BOTH, DMZ], []),
    "bridge": ([NAT], [NAT | {"bridge": "br0"}]),
}


@pytest.mark.parametrize("name", list(SCENES))
def test_a_killed_run_is_finished_by_the_next(name: str) -> None:
    before, wishes = SCENES[name]

    def prepared(directory: str) -> FakeNet:
        net = FakeNet(Path(directory))
        if before:
            run(net, *before)
        return net

    with tempfile.TemporaryDirectory() as directory:
        net = prepared(directory)
        killer = Killer(t.cast("t.Any", net), None)
        with killer:
            run(net, *wishes, prune=True)
        changes = killer.count
        clean = net.state()
    assert changes > 10
    # Every other place, for the time it takes; which of two is hit differs between the scenes.
    for at in range(len(name) % 2, changes, 2):
        with tempfile.TemporaryDirectory() as directory:
            net = prepared(directory)
            with Killer(t.cast("t.Any", net), at) as killer:
                run(net, *wishes, prune=True)
            assert killer.dead
            run(net, *wishes, prune=True)
            assert net.state() == clean, f"killed at change {at}"
            assert not run(net, *wishes, prune=True).changed
            assert observe(net, net.paths).leftovers == ()
