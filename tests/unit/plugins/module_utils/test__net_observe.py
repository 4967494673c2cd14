# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is read of a host, from recorded output of real ones."""

from __future__ import annotations

import ipaddress
import json
import os
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._command import Completed
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError, FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._net_files import NETWORKD, UNIT_NAME, WAIT_ONLINE
from ansible_collections.microvm.fleet.plugins.module_utils._net_observe import (
    HostRecord,
    Observed,
    Route,
    Service,
    look,
    observe,
    parse_links,
    parse_routes_ipv4,
    parse_routes_ipv6,
    parse_services,
    parse_udp,
)
from ansible_collections.microvm.fleet.plugins.module_utils._net_plan import record_text
from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import parse
from ansible_collections.microvm.fleet.tests.unit.support.fakenet import FakeNet, lan
from ansible_collections.microvm.fleet.tests.unit.support.recorded import FIXTURES, SYSTEMD

NFT = "nft -j list table inet microvm_fleet"


def recorded(version: str, name: str) -> str:
    return Path(FIXTURES, "net", version, name).read_text("utf-8")


@pytest.fixture
def net(tmp_path: Path) -> FakeNet:
    return FakeNet(tmp_path)


@pytest.mark.parametrize("version", SYSTEMD)
def test_links(version: str) -> None:
    links = parse_links(json.loads(recorded(version, "ip_address.json")))
    bridge = links["lan"]
    assert (bridge.kind, bridge.up, bridge.carrier, bridge.mtu, bridge.master) == ("bridge", True, True, 1500, None)
    assert {str(one) for one in bridge.addresses if not one.ip.is_link_local} == {"10.9.0.1/24", "fd00:9::1/64"}
    assert bridge.tap is False
    tap = links["vm-web1"]
    assert (tap.kind, tap.tap, tap.master, tap.carrier) == ("tun", True, "lan", False)
    assert links["vp"].kind == "veth"
    assert links["vp"].master == "lan"
    assert links["lo"].kind is None
    assert ipaddress.ip_interface("127.0.0.1/8") in links["lo"].addresses


@pytest.mark.parametrize("nothing", [None, [], [{}], [{"mtu": 5}]])
def test_no_links(nothing: t.Any) -> None:
    assert parse_links(nothing) == {}


def test_link_without_anything() -> None:
    link = parse_links([{"ifname": "x", "addr_info": [{}, {"local": "10.0.0.1"}]}])["x"]
    assert (link.kind, link.mac, link.mtu, link.up, link.addresses) == (None, "", 0, False, ())


def test_tun_is_no_tap() -> None:
    links = parse_links([{"ifname": "vm-t", "linkinfo": {"info_kind": "tun", "info_data": {"type": "tun"}}}])
    assert links["vm-t"].tap is False


@pytest.mark.parametrize("version", SYSTEMD)
def test_routes(version: str) -> None:
    routes, out = parse_routes_ipv4(recorded(version, "proc_net_route.txt"))
    assert out == ("host0",)
    assert Route(ipaddress.IPv4Network("10.77.0.0/24"), "host0", gateway=False) in routes
    assert Route(ipaddress.IPv4Network("10.9.0.0/24"), "lan", gateway=False) in routes
    routes, out = parse_routes_ipv6(recorded(version, "proc_net_ipv6_route.txt"))
    assert out == ("host0",)
    assert {(str(one.prefix), one.interface) for one in routes} == {("fd77::/64", "host0"), ("fd00:9::/64", "lan")}


IPV4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"


@pytest.mark.parametrize(
    ("line", "routes", "out"),
    [
        ("eth0\t0000000A\t01004D0A\t0003\t0\t0\t0\t000000FF", [("10.0.0.0/8", "eth0", True)], ()),
        ("eth0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF", [("10.0.0.0/8", "eth0", False)], ()),
        ("eth0\t00000000\t01004D0A\t0003\t0\t0\t0\t00000000", [], ("eth0",)),
        ("ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000", [], ("ppp0",)),
        ("eth0\t0000000A\t00000000\t0000\t0\t0\t0\t000000FF", [], ()),
        ("*\t0000000A\t00000000\t0201\t0\t0\t0\t000000FF", [], ()),
        ("eth0\t0000000A", [], ()),
    ],
)
def test_one_ipv4_route(line: str, routes: list[t.Any], out: tuple[str, ...]) -> None:
    found, ways = parse_routes_ipv4(IPV4 + line + "\n")
    assert [(str(one.prefix), one.interface, one.gateway) for one in found] == routes
    assert ways == out


@pytest.mark.parametrize(
    ("destination", "length", "flags", "interface", "routes", "out"),
    [
        ("fd00" + "0" * 28, "40", "00000001", "eth0", [("fd00::/64", False)], ()),
        ("fd00" + "0" * 28, "08", "00000003", "eth0", [("fd00::/8", True)], ()),
        ("fe80" + "0" * 28, "40", "00000001", "eth0", [], ()),
        ("ff00" + "0" * 28, "08", "00000001", "eth0", [], ()),
        ("fd00" + "0" * 27 + "1", "80", "80200001", "eth0", [], ()),
        ("0" * 32, "00", "00000003", "eth0", [], ("eth0",)),
        ("0" * 32, "00", "00200200", "lo", [], ()),
        ("0" * 32, "00", "00000201", "eth0", [], ()),
    ],
)
def test_one_ipv6_route(  # noqa: PLR0917
    destination: str, length: str, flags: str, interface: str, routes: list[t.Any], out: tuple[str, ...]
) -> None:
    nothing = "0" * 32
    line = f"{destination} {length} {nothing} 00 {nothing} 00000400 00000001 00000000 {flags} {interface}\nshort\n"
    found, ways = parse_routes_ipv6(line)
    assert [(str(one.prefix), one.gateway) for one in found] == routes
    assert ways == out


@pytest.mark.parametrize("version", SYSTEMD)
def test_services(version: str) -> None:
    services = parse_services(recorded(version, "systemctl_show.txt"))
    assert services[NETWORKD] == Service("loaded", "active", "enabled")
    assert services[NETWORKD].running
    assert services[NETWORKD].boots
    assert services[UNIT_NAME].active == "active"
    assert not services[WAIT_ONLINE].boots
    assert Observed(services=services).service("other.service") == Service()


def test_service_that_is_stale() -> None:
    assert parse_services("Id=a.service\nNeedDaemonReload=yes\n\nLoadState=x\n") == {
        "a.service": Service("", "", "", stale=True)
    }


@pytest.mark.parametrize(
    ("active", "running"), [("active", True), ("activating", True), ("failed", False), ("", False)]
)
def test_running(active: str, running: bool) -> None:
    assert Service(active=active).running is running


def test_udp() -> None:
    assert parse_udp("head\n  1: 00000000:0043 0:0\n  2: 0100007F:0035 0:0\n  3: 0100000A:0043 0:0\n") == 2
    assert parse_udp("") == 0


def test_observe_a_host_without_networks(net: FakeNet) -> None:
    seen = observe(net, net.paths)
    assert set(seen.links) == {"lo", "eth0"}
    assert seen.ways_out == {"4": ("eth0",), "6": ("eth0",)}
    assert (seen.table, seen.files, seen.networks, seen.broken, seen.record) == (None, {}, {}, {}, None)
    assert seen.settings == {
        "net/ipv6/conf/all/forwarding": "0",
        "net/ipv4/conf/lo/forwarding": "0",
        "net/ipv6/conf/lo/accept_ra": "0",
        "net/ipv4/conf/eth0/forwarding": "0",
        "net/ipv6/conf/eth0/accept_ra": "1",
    }
    assert [argv[0] for argv in net.calls] == ["ip", "nft", "systemctl"]


def test_observe_reads_our_files_and_no_others(net: FakeNet) -> None:
    net.write("etc/systemd/network/10-other.network", "x")
    net.write("etc/systemd/network/50-microvm-fleet-lan.netdev", "y")
    net.write("etc/systemd/network/05-microvm-fleet-unmanaged.network", "z")
    net.write("etc/sysctl.d/90-microvm-fleet.conf", "s")
    assert observe(net, net.paths).files == {
        "/etc/systemd/network/50-microvm-fleet-lan.netdev": "y",
        "/etc/systemd/network/05-microvm-fleet-unmanaged.network": "z",
        "/etc/sysctl.d/90-microvm-fleet.conf": "s",
    }


def test_observe_finds_what_a_killed_run_left(net: FakeNet) -> None:
    ours = [
        "etc/systemd/network/.microvm-fleet.50-microvm-fleet-lan.netdev.77",
        "var/lib/microvm-fleet/networks/.microvm-fleet.lan.json.77",
        "var/lib/microvm-fleet/network/.microvm-fleet.sets.json.77",
        "usr/local/lib/microvm-fleet/.microvm-fleet.network.77",
    ]
    for path in (
        *ours,
        "usr/local/lib/microvm-fleet/.microvm-fleet.stop.py.77",
        "etc/systemd/system/.microvm-fleet.microvm@.service.77",
    ):
        net.write(path, "half")
    seen = observe(net, net.paths)
    assert seen.leftovers == tuple(sorted(f"/{path}" for path in ours))
    assert seen.networks == {}


def test_observe_reads_records(net: FakeNet) -> None:
    network = parse(lan(nat=True, dhcp={}))
    net.write("var/lib/microvm-fleet/networks/lan.json", record_text(network))
    net.write("var/lib/microvm-fleet/networks/README", "no record")
    assert observe(net, net.paths).networks == {"lan": network}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expecting value"),
        ("nonsense", "Expecting value"),
        ("[]", "get"),
        ('{"name": "dmz"}', "it is about dmz"),
        ('{"name": "lan", "mtu": 5}', "mtu: 5 is not between"),
    ],
)
def test_observe_reports_records_that_say_nothing(net: FakeNet, text: str, says: str) -> None:
    net.write("var/lib/microvm-fleet/networks/lan.json", text)
    seen = observe(net, net.paths)
    assert seen.networks == {}
    assert says in seen.broken["lan"]


def test_host_record_round() -> None:
    record = HostRecord(
        settings={"net/ipv4/conf/eth0/forwarding": "0"},
        foreign=("eth0",),
        networkd_active=False,
        networkd_enabled=False,
        wait_online_enabled=False,
        uplinks={"4": ("eth0",)},
        bridges=("lan", "old"),
        pending=True,
    )
    assert HostRecord.read(record.text(), "x") == record
    assert HostRecord.read(HostRecord().text(), "x") == HostRecord()


def test_host_record_of_an_earlier_version() -> None:
    value = json.loads(HostRecord(foreign=("eth0",), bridges=("lan",), pending=True).text())
    del value["bridges"], value["pending"]
    assert HostRecord.read(json.dumps(value), "x") == HostRecord(foreign=("eth0",))


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '"x"', '{"foreign": 5, "settings": {}}', '{"foreign": null, "settings": []}']
)
def test_host_record_that_is_damaged(net: FakeNet, text: str) -> None:
    net.write("var/lib/microvm-fleet/network/host.json", text)
    with pytest.raises(FleetError, match=r"host\.json cannot be read") as caught:
        observe(net, net.paths)
    assert caught.value.subject == "networks of the host"
    assert "Restore it from a backup" in str(caught.value)


def test_nft_that_fails(net: FakeNet) -> None:
    net.answers[NFT] = Completed((), 1, "", "Operation not permitted (you must be root)")
    with pytest.raises(CommandError, match="nft -j list table ended with 1: Operation not permitted") as caught:
        observe(net, net.paths)
    assert "Run as root" in str(caught.value)


def test_nft_that_talks_nonsense(net: FakeNet) -> None:
    net.answers[NFT] = Completed((), 0, "table", "")
    with pytest.raises(CommandError, match="printed no JSON"):
        observe(net, net.paths)


@pytest.mark.parametrize("version", SYSTEMD)
def test_nft_without_the_table(net: FakeNet, version: str) -> None:
    net.answers[NFT] = Completed((), 1, "", recorded(version, "nft_no_table.txt"))
    assert observe(net, net.paths).table is None


def test_look_reads_the_kernel_only(net: FakeNet) -> None:
    before = observe(net, net.paths)
    net.add("lan", kind="bridge", addresses=["10.0.0.1/24"])
    net.write("etc/sysctl.d/90-microvm-fleet.conf", "s")
    net.calls.clear()
    seen = look(net, net.paths, before)
    assert "lan" in seen.links
    assert seen.settings["net/ipv4/conf/lan/forwarding"] == "0"
    assert seen.files == before.files
    assert net.calls == [["ip", "-j", "-d", "address", "show"]]


def test_taps_have_no_settings_that_matter(net: FakeNet) -> None:
    net.add("vm-a", kind="tun")
    assert not [key for key in observe(net, net.paths).settings if "vm-a" in key]


def test_paths_below_a_root(net: FakeNet) -> None:
    assert net.paths.shown(net.paths.record("lan")) == "/var/lib/microvm-fleet/networks/lan.json"
    assert net.paths.at("/etc/x") == os.path.join(str(net.root), "etc/x")
    assert net.paths.lock == os.path.join(str(net.root), "run/lock/microvm-fleet/host")
