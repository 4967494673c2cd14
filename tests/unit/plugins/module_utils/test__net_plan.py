# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans for networks: from a wish and a host that is data to steps; no host is touched."""

from __future__ import annotations

import ipaddress
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _net_files, _networkd, _nft
from ansible_collections.microvm.fleet.plugins.module_utils import _net_plan as planner
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._net_files import NETWORKD, UNIT_NAME, WAIT_ONLINE, NetPaths
from ansible_collections.microvm.fleet.plugins.module_utils._net_observe import (
    HostRecord,
    Link,
    Observed,
    Route,
    Service,
)
from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import Network, Wishes, parse, parse_all
from ansible_collections.microvm.fleet.tests.unit.support.fakenet import lan

Entry = dict[str, t.Any]
OFF = Service("loaded", "inactive", "disabled")
ON = Service("loaded", "active", "enabled")
ETH0_FORWARDS = "net/ipv4/conf/eth0/forwarding"
LAN_FORWARDS = "net/ipv4/conf/lan/forwarding"


def link(name: str, kind: str | None = None, *addresses: str, **options: t.Any) -> Link:
    values: dict[str, t.Any] = {
        "mac": "02:00:00:00:00:01",
        "mtu": 1500,
        "up": True,
        "carrier": kind != "bridge",
        "master": None,
        "tap": kind == "tun",
    }
    values.update(options)
    return Link(name=name, kind=kind, addresses=tuple(ipaddress.ip_interface(one) for one in addresses), **values)


def host(**options: t.Any) -> Observed:
    """A host without networks, whose uplink something else than networkd keeps."""
    links = [link("lo", None, "127.0.0.1/8"), link("eth0", None, "10.77.0.12/24")]
    values: dict[str, t.Any] = {
        "links": {one.name: one for one in links},
        "routes": (Route(ipaddress.IPv4Network("10.77.0.0/24"), "eth0", gateway=False),),
        "ways_out": {"4": ("eth0",), "6": ("eth0",)},
        "services": {NETWORKD: OFF, WAIT_ONLINE: OFF, UNIT_NAME: Service()},
        "settings": {
            planner.ALL_IPV6: "0",
            ETH0_FORWARDS: "0",
            "net/ipv6/conf/eth0/accept_ra": "1",
            "net/ipv6/conf/lo/accept_ra": "1",
        },
    }
    values.update(options)
    return Observed(**values)


def after(observed: Observed, *entries: Entry, **options: t.Any) -> Observed:
    """The host after a run with these wishes has ended well."""
    wishes = parse_all(entries)
    target = planner.make(wishes, observed).target
    links = dict(observed.links)
    settings = {**observed.settings, **target.settings}
    for network in target.networks.values():
        addresses = [str(one) for one in network.addresses]
        mac = network.mac or "0a:00:00:00:00:01"
        links[network.bridge] = link(network.bridge, "bridge", *addresses, mac=mac, mtu=network.mtu or 1500)
        settings.setdefault(f"net/ipv4/conf/{network.bridge}/forwarding", "0")
        settings.setdefault(f"net/ipv6/conf/{network.bridge}/accept_ra", "0")
    values: dict[str, t.Any] = {
        "links": links,
        "settings": settings,
        "table": _nft.Table(target.sets, _nft.RULES),
        "services": {NETWORKD: ON, WAIT_ONLINE: observed.service(WAIT_ONLINE), UNIT_NAME: ON},
        "files": target.files,
        "networks": target.networks,
        "record": target.record,
    }
    values.update(options)
    return replace(observed, **values)


def plan(observed: Observed, *entries: Entry, prune: bool = False) -> planner.Plan:
    return planner.make(parse_all(entries), observed, prune=prune)


def words(made: planner.Plan) -> list[str]:
    return [one.split(": ", 1)[1] if ": " in one else one for one in made.actions]


def calls(made: planner.Plan) -> list[tuple[str, ...]]:
    return [one.arguments for one in made.steps if isinstance(one, (planner.Systemctl, planner.Networkctl))]


NAT = lan(nat=True, dhcp={})
BOTH = lan(addresses=["10.0.0.1/24", "fd00::1/64"], nat=True, nat_ipv6=True)


def test_nothing_wished_and_nothing_there() -> None:
    made = plan(host())
    assert not made.changed
    assert made.actions == []
    assert made.before == made.after
    assert plan(host(), {"name": "lan", "state": "absent"}).steps == ()


def test_first_network() -> None:
    made = plan(host(), NAT)
    assert made.actions == [
        "host: record how it was before the first network",
        "network lan: record what is wished",
        "host: write /etc/systemd/networkd.conf.d/50-microvm-fleet.conf",
        "host: write /etc/systemd/network/05-microvm-fleet-unmanaged.network",
        "network lan: write /etc/systemd/network/50-microvm-fleet-lan.netdev",
        "network lan: write /etc/systemd/network/50-microvm-fleet-lan.network",
        "network lan: write /etc/systemd/network/50-microvm-fleet-lan.taps.network",
        "host: write /usr/local/lib/microvm-fleet/network.nft",
        "host: write /usr/local/lib/microvm-fleet/network",
        "host: write /var/lib/microvm-fleet/network/sets.json",
        "host: write /etc/sysctl.d/90-microvm-fleet.conf",
        "host: write /etc/systemd/system/microvm-fleet-network.service",
        "host: enable systemd-networkd",
        "host: let the boot not wait for systemd-networkd",
        "host: start systemd-networkd",
        "host: let systemd read its units",
        "host: enable microvm-fleet-network.service",
        "host: load the table of nftables and open forwarding",
    ]
    assert made.after["networks"]["lan"]["exists"] is True
    assert made.before["networks"] == {}
    assert made.warnings == ()


def test_nothing_is_left_to_do_afterwards() -> None:
    for entry in (NAT, BOTH, lan(), lan(bridge="br0", mac="02:00:00:00:00:0a", mtu=1400)):
        observed = after(host(), entry)
        made = plan(observed, entry)
        assert made.steps == ()
        assert made.closing == ()
        assert made.before == made.after
        assert planner.differences(made.target, observed) == []


def test_record_comes_first_and_is_closed_last() -> None:
    made = plan(host(), NAT)
    first, last = made.steps[0], made.closing[-1]
    assert isinstance(first, planner.WriteFile)
    assert isinstance(last, planner.WriteFile)
    assert first.path == last.path == "/var/lib/microvm-fleet/network/host.json"
    assert first.mode == 0o600
    begun, ended = HostRecord.read(first.text, ""), HostRecord.read(last.text, "")
    assert begun.pending
    assert ended == replace(begun, pending=False)
    assert ended == HostRecord(
        settings={ETH0_FORWARDS: "0"},
        foreign=("eth0",),
        networkd_active=False,
        networkd_enabled=False,
        wait_online_enabled=False,
        uplinks={"4": ("eth0",)},
        bridges=("lan",),
    )


@pytest.mark.parametrize(
    ("services", "foreign", "asked"),
    [
        (
            {NETWORKD: OFF, WAIT_ONLINE: OFF},
            ("eth0",),
            [("enable", NETWORKD), ("disable", WAIT_ONLINE), ("start", NETWORKD)],
        ),
        (
            {NETWORKD: OFF, WAIT_ONLINE: Service("loaded", "inactive", "enabled")},
            ("eth0",),
            [("enable", NETWORKD), ("disable", WAIT_ONLINE), ("start", NETWORKD)],
        ),
        ({NETWORKD: OFF}, ("eth0",), [("enable", NETWORKD), ("start", NETWORKD)]),
        ({NETWORKD: ON, WAIT_ONLINE: ON}, None, [("reload",)]),
        (
            {NETWORKD: Service("loaded", "active", "disabled"), WAIT_ONLINE: OFF},
            None,
            [("enable", NETWORKD), ("disable", WAIT_ONLINE), ("reload",)],
        ),
        (
            {NETWORKD: Service("loaded", "active", "disabled"), WAIT_ONLINE: ON},
            None,
            [("enable", NETWORKD), ("reload",)],
        ),
        ({NETWORKD: Service("loaded", "failed", "enabled"), WAIT_ONLINE: OFF}, ("eth0",), [("start", NETWORKD)]),
    ],
)
def test_networkd_of_the_host(
    services: dict[str, Service], foreign: tuple[str, ...] | None, asked: list[tuple[str, ...]]
) -> None:
    made = plan(host(services=services), lan())
    assert calls(made)[: len(asked)] == asked
    assert calls(made)[len(asked) :] == [
        ("daemon-reload",),
        ("enable", UNIT_NAME),
        ("reload-or-restart", UNIT_NAME),
    ]
    assert made.target.record is not None
    assert made.target.record.foreign == foreign
    unmanaged = f"/etc/systemd/network/{_networkd.UNMANAGED}"
    assert (unmanaged in made.target.files) == bool(foreign)


@pytest.mark.parametrize(
    ("service", "says"),
    [
        (Service("masked", "inactive", "masked"), "is masked. Unmask it"),
        (Service("loaded", "inactive", "masked-runtime"), "is masked"),
        (Service(), "is not on this host. Install it"),
    ],
)
def test_networkd_that_cannot_be(service: Service, says: str) -> None:
    with pytest.raises(FleetError, match=says) as caught:
        plan(host(services={NETWORKD: service}), lan())
    assert caught.value.subject == "networks of the host"
    assert plan(host(services={NETWORKD: service})).steps == ()


def test_interfaces_that_come_while_networkd_is_off_are_left_alone_too() -> None:
    observed = after(host(), lan())
    links = {**observed.links, "wg0": link("wg0", "wireguard"), "vm-x": link("vm-x", "tun")}
    stopped = replace(observed, links=links, services={**observed.services, NETWORKD: replace(ON, active="inactive")})
    made = plan(stopped, lan())
    assert made.target.record is not None
    assert made.target.record.foreign == ("eth0", "wg0")
    assert "change /etc/systemd/network/05-microvm-fleet-unmanaged.network" in words(made)
    assert ("start", NETWORKD) in calls(made)
    running = replace(observed, links={**observed.links, "wg0": link("wg0", "wireguard")})
    assert plan(running, lan()).steps == ()


def test_a_manager_file_that_is_new_restarts_networkd() -> None:
    observed = after(host(), lan())
    files = {path: text for path, text in observed.files.items() if "networkd.conf.d" not in path}
    assert calls(plan(replace(observed, files=files), lan())) == [("restart", NETWORKD)]


# What the host has other than wished.


def changed_link(observed: Observed, **options: t.Any) -> Observed:
    return replace(observed, links={**observed.links, "lan": replace(observed.links["lan"], **options)})


@pytest.mark.parametrize(
    ("options", "field", "wished", "seen"),
    [
        ({"up": False}, "bridge", "lan up", "it down"),
        ({"mac": "02:00:00:00:00:99"}, "mac", "02:00:00:00:00:0a", "02:00:00:00:00:99"),
        ({"mtu": 1500}, "mtu", "1400", "1500"),
        ({"addresses": ()}, "addresses", "10.0.0.1/24", "none"),
        (
            {"addresses": (ipaddress.ip_interface("10.0.0.1/24"), ipaddress.ip_interface("10.5.0.1/24"))},
            "addresses",
            "10.0.0.1/24",
            "10.0.0.1/24, 10.5.0.1/24",
        ),
        ({"addresses": (ipaddress.ip_interface("10.0.0.1/25"),)}, "addresses", "10.0.0.1/24", "10.0.0.1/25"),
    ],
)
def test_a_bridge_that_differs_is_configured_again(
    options: dict[str, t.Any], field: str, wished: str, seen: str
) -> None:
    entry = lan(mac="02:00:00:00:00:0a", mtu=1400)
    observed = changed_link(after(host(), entry), **options)
    made = plan(observed, entry)
    assert planner.differences(made.target, observed) == [planner.Difference("lan", field, wished, seen)]
    assert calls(made) == [("reload",), ("reconfigure", "lan")]
    assert made.before["networks"]["lan"]["problems"] == [f"{field}: wished is {wished}, but the host has {seen}."]
    assert made.after["networks"]["lan"]["problems"] == []


def test_the_kernels_link_local_address_is_no_difference() -> None:
    entry = lan()
    observed = after(host(), entry)
    addresses = (*observed.links["lan"].addresses, ipaddress.ip_interface("fe80::1234/64"))
    assert plan(changed_link(observed, addresses=addresses), entry).steps == ()
    wished = lan(addresses=["10.0.0.1/24", "fe80::1/64"])
    assert plan(after(host(), wished), wished).steps == ()
    assert plan(after(host(), wished), entry).changed


def test_a_bridge_that_is_gone_is_made_again() -> None:
    observed = after(host(), NAT)
    links = {name: one for name, one in observed.links.items() if name != "lan"}
    settings = {key: value for key, value in observed.settings.items() if "lan" not in key}
    made = plan(replace(observed, links=links, settings=settings), NAT)
    assert calls(made) == [("reload",), ("reload-or-restart", UNIT_NAME)]
    assert words(made)[:2] == [
        "write /etc/systemd/network/50-microvm-fleet-lan.network again for a new bridge",
        "write /etc/systemd/network/50-microvm-fleet-lan.taps.network again for a new bridge",
    ]
    assert made.before["networks"]["lan"]["exists"] is False
    assert made.before["networks"]["lan"]["addresses"] == []


def test_taps_outside_their_bridge_are_put_in() -> None:
    observed = after(host(), lan())
    links = {
        **observed.links,
        "vm-a": link("vm-a", "tun"),
        "vm-b": link("vm-b", "tun", master="lan"),
        "vm-c": link("vm-c", "tun", master="other"),
        "vm-mac": link("vm-mac", "macvtap"),
        "tap0": link("tap0", "tun"),
    }
    observed = replace(observed, links=links)
    made = plan(observed, lan())
    assert calls(made) == [("reload",), ("reconfigure", "vm-a", "vm-c")]
    assert planner.differences(made.target, observed)[0].words == "wished is vm-a, vm-c in lan, but the host has not."
    assert made.before["networks"]["lan"]["ports"] == ["vm-b"]
    assert made.after["networks"]["lan"]["ports"] == ["vm-a", "vm-b", "vm-c"]


@pytest.mark.parametrize(
    ("carrier", "servers", "asked"),
    [
        (False, 0, []),
        (True, 1, []),
        (True, 0, [("reload",), ("reconfigure", "lan")]),
    ],
)
def test_dhcp_server(carrier: bool, servers: int, asked: list[tuple[str, ...]]) -> None:
    observed = replace(changed_link(after(host(), NAT), carrier=carrier), dhcp_servers=servers)
    assert calls(plan(observed, NAT)) == asked


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"table": None}, [("reload-or-restart", UNIT_NAME)]),
        ({"table": _nft.Table({}, ())}, [("reload-or-restart", UNIT_NAME)]),
        ({"services": {NETWORKD: ON, UNIT_NAME: replace(ON, active="failed")}}, [("reload-or-restart", UNIT_NAME)]),
        ({"services": {NETWORKD: ON, UNIT_NAME: replace(ON, enabled="disabled")}}, [("enable", UNIT_NAME)]),
        ({"services": {NETWORKD: ON, UNIT_NAME: replace(ON, stale=True)}}, [("daemon-reload",)]),
        ({"services": {NETWORKD: replace(ON, enabled="disabled"), UNIT_NAME: ON}}, [("enable", NETWORKD)]),
        (
            {"services": {NETWORKD: ON, UNIT_NAME: ON, WAIT_ONLINE: ON}},
            [("disable", WAIT_ONLINE)],
        ),
    ],
)
def test_what_the_host_lost_comes_back(options: dict[str, t.Any], asked: list[tuple[str, ...]]) -> None:
    assert calls(plan(replace(after(host(), NAT), **options), NAT)) == asked


@pytest.mark.parametrize("key", [ETH0_FORWARDS, LAN_FORWARDS])
def test_forwarding_that_was_closed_is_opened(key: str) -> None:
    observed = after(host(), NAT)
    closed = replace(observed, settings={**observed.settings, key: "0"})
    assert calls(plan(closed, NAT)) == [("reload-or-restart", UNIT_NAME)]


def test_files_that_were_changed_or_strayed() -> None:
    observed = after(host(), NAT)
    network = "/etc/systemd/network/50-microvm-fleet-lan.network"
    stray = "/etc/systemd/network/50-microvm-fleet-old.network"
    made = plan(replace(observed, files={**observed.files, network: "x", stray: "y"}), NAT)
    assert made.actions[:2] == [f"network lan: change {network}", f"network old: remove {stray}"]
    assert calls(made) == [("reload",)]


def test_leftovers_are_removed() -> None:
    observed = replace(after(host(), NAT), leftovers=("/etc/systemd/network/.microvm-fleet.x.1",))
    made = plan(observed, NAT)
    assert made.actions == ["host: remove /etc/systemd/network/.microvm-fleet.x.1, left by a run that was interrupted"]


def test_a_run_that_was_cut_off_is_done_again() -> None:
    observed = after(host(), NAT)
    assert observed.record is not None
    made = plan(replace(observed, record=replace(observed.record, pending=True)), NAT)
    assert calls(made) == [("reload",), ("reconfigure", "lan"), ("reload-or-restart", UNIT_NAME)]
    assert [type(one) for one in made.closing] == [planner.WriteFile]
    assert all("record" not in one for one in made.actions)


# What is opened.


def test_nat_opens_the_bridge_and_its_uplink_only() -> None:
    target = plan(host(), NAT).target
    assert target.settings == {ETH0_FORWARDS: "1", LAN_FORWARDS: "1"}
    assert target.sets == {
        "bridges": {"lan"},
        "pairs": {"lan . lan"},
        "out4": {"lan . 10.0.0.0/24 . eth0"},
        "out6": set(),
        "nat4": {"10.0.0.0/24"},
        "nat6": set(),
        "closed": set(),
    }


def test_no_nat_opens_nothing() -> None:
    target = plan(host(), lan(addresses=["10.0.0.1/24", "fd00::1/64"])).target
    assert target.settings == {}
    assert {name for name, elements in target.sets.items() if elements} == {"bridges", "pairs"}
    assert target.record is not None
    assert target.record.settings == {}


def test_ipv6_opens_all_and_closes_it_for_others() -> None:
    target = plan(host(), BOTH).target
    assert list(target.settings.items()) == [
        ("net/ipv6/conf/eth0/accept_ra", "2"),
        (planner.ALL_IPV6, "1"),
        (ETH0_FORWARDS, "1"),
        (LAN_FORWARDS, "1"),
    ]
    assert target.sets["closed"] == {"ipv6"}
    assert target.sets["out6"] == {"lan . fd00::/64 . eth0"}
    assert target.sets["nat6"] == {"fd00::/64"}
    assert target.record is not None
    assert target.record.settings == {
        "net/ipv6/conf/eth0/accept_ra": "1",
        planner.ALL_IPV6: "0",
        ETH0_FORWARDS: "0",
    }


def test_ipv6_of_a_host_that_forwards_it_already() -> None:
    observed = host()
    target = plan(replace(observed, settings={**observed.settings, planner.ALL_IPV6: "1"}), BOTH).target
    assert target.sets["closed"] == set()
    assert "net/ipv6/conf/eth0/accept_ra" not in target.settings
    assert target.settings[planner.ALL_IPV6] == "1"


@pytest.mark.parametrize(
    ("options", "ways_out", "listens"),
    [
        ({}, (), True),
        ({"kind": "wireguard"}, (), True),
        ({"kind": "veth"}, (), False),
        ({"kind": "veth"}, ("net1",), True),
        ({"master": "br0"}, (), False),
        ({"kind": "veth", "master": "br0"}, ("net1",), False),
    ],
)
def test_interfaces_that_go_on_taking_router_advertisements(
    options: dict[str, t.Any],
    ways_out: tuple[str, ...],
    listens: bool,
) -> None:
    key = "net/ipv6/conf/net1/accept_ra"
    base = host()
    observed = replace(
        base,
        links={**base.links, "net1": replace(link("net1"), **options)},
        settings={**base.settings, key: "1"},
        ways_out={"4": (), "6": ways_out},
    )
    settings = plan(observed, BOTH | {"uplink": "eth0"}).target.settings
    assert (settings.get(key) == "2") is listens
    assert "net/ipv6/conf/lo/accept_ra" not in settings


def test_uplink_that_is_named() -> None:
    observed = host()
    observed = replace(observed, links={**observed.links, "wg0": link("wg0", "wireguard")})
    target = plan(observed, lan(nat=True, uplink="wg0")).target
    assert target.sets["out4"] == {"lan . 10.0.0.0/24 . wg0"}
    assert target.settings == {LAN_FORWARDS: "1", "net/ipv4/conf/wg0/forwarding": "1"}
    assert target.record is not None
    assert target.record.uplinks == {}


def test_several_ways_out() -> None:
    target = plan(host(ways_out={"4": ("eth1", "eth0"), "6": ()}), NAT).target
    assert target.sets["out4"] == {"lan . 10.0.0.0/24 . eth0", "lan . 10.0.0.0/24 . eth1"}


def test_a_way_out_that_is_lost_is_remembered() -> None:
    observed = replace(after(host(), NAT), ways_out={"4": (), "6": ()})
    made = plan(observed, NAT)
    assert made.steps == ()
    assert made.warnings == ()


def test_no_way_out_is_a_warning() -> None:
    made = plan(host(ways_out={}), BOTH)
    assert [one.split(":")[0] for one in made.warnings] == ["network lan, uplink", "network lan, uplink"]
    assert "no interface of the host has a default route for IPv4" in made.warnings[0]
    assert made.target.sets["out4"] == set()


def test_single_addresses_are_spelt_as_nft_does() -> None:
    target = plan(host(), lan(addresses=["10.0.0.1/32"], nat=True)).target
    assert target.sets["nat4"] == {"10.0.0.1"}
    assert target.sets["out4"] == {"lan . 10.0.0.1 . eth0"}


FRONT = lan(taps=["vm-a*"], reach=["back"])
BACK: Entry = {"name": "back", "bridge": "br-back", "addresses": ["10.0.1.1/24"], "taps": ["vm-b*"]}


def test_reach() -> None:
    target = plan(host(), FRONT, BACK).target
    assert target.sets["pairs"] == {"lan . lan", "br-back . br-back", "lan . br-back"}
    assert target.settings[LAN_FORWARDS] == "1"
    assert target.settings["net/ipv4/conf/br-back/forwarding"] == "1"
    assert target.settings[planner.ALL_IPV6] == "1"
    assert target.sets["nat4"] == set()
    text = target.files["/etc/systemd/network/50-microvm-fleet-lan.network"]
    assert "EmitRouter" not in text


# What the host does not allow.


@pytest.mark.parametrize(
    ("options", "entry", "field", "says"),
    [
        ({"links": {"lan": link("lan", "veth")}}, lan(), "bridge", "an interface lan of another kind (veth)"),
        ({"links": {"lan": link("lan")}}, lan(), "bridge", "of another kind (a device)"),
        ({"links": {"lan": link("lan", "bridge")}}, lan(), "bridge", "that the collection did not make"),
        ({}, lan(uplink="eth7"), "uplink", "the host has no interface eth7. It has eth0."),
        ({"links": {}}, lan(uplink="eth7"), "uplink", "It has none."),
        ({}, lan(reach=["nowhere"]), "reach", "there is no network nowhere"),
        (
            {},
            lan(addresses=["10.77.0.129/25"]),
            "addresses",
            "10.77.0.128/25 overlaps 10.77.0.0/24, which interface eth0 is in",
        ),
        (
            {"routes": (Route(ipaddress.IPv4Network("10.0.0.0/16"), "eth0", gateway=False),)},
            lan(),
            "addresses",
            "10.0.0.0/24 overlaps 10.0.0.0/16, which the host reaches through eth0",
        ),
        (
            {"routes": (Route(ipaddress.IPv4Network("10.0.0.0/24"), "tun0", gateway=True),)},
            lan(),
            "addresses",
            "which the host reaches through tun0",
        ),
        (
            {"routes": (Route(ipaddress.IPv4Network("10.0.0.64/26"), "tun0", gateway=True),)},
            lan(),
            "addresses",
            "overlaps 10.0.0.64/26",
        ),
        (
            {"routes": (Route(ipaddress.IPv6Network("fd00::/64"), "eth0", gateway=False),)},
            lan(addresses=["fd00::1/64"]),
            "addresses",
            "overlaps fd00::/64",
        ),
    ],
)
def test_refused(options: dict[str, t.Any], entry: Entry, field: str, says: str) -> None:
    base = host()
    links = {**base.links, **options["links"]} if options.get("links") else options.get("links", base.links)
    with pytest.raises(InvalidWish) as caught:
        plan(replace(base, **{**options, "links": links}), entry)
    assert (caught.value.subject, caught.value.field) == ("network lan", field)
    assert says in str(caught.value)


def test_a_wider_route_through_a_gateway_is_no_obstacle() -> None:
    route = Route(ipaddress.IPv4Network("10.0.0.0/8"), "tun0", gateway=True)
    assert plan(host(routes=(route,)), lan()).changed


def test_uplink_that_is_a_bridge_of_guests() -> None:
    with pytest.raises(InvalidWish, match="br-back is the bridge of network back"):
        plan(host(), lan(taps=["vm-a*"], uplink="br-back"), BACK)


def test_a_bridge_whose_record_was_lost_is_known_by_its_file() -> None:
    observed = after(host(), lan())
    made = plan(replace(observed, networks={}, record=None), lan())
    assert "record what is wished" in words(made)


def test_a_network_of_the_host_counts_in_what_is_wished() -> None:
    observed = after(host(), FRONT | {"reach": []})
    with pytest.raises(InvalidWish, match=r"10.0.0.0/25 overlaps 10.0.0.0/24 of network lan") as caught:
        plan(observed, {"name": "dmz", "addresses": ["10.0.0.9/25"], "taps": []})
    assert caught.value.subject == "network dmz"
    assert plan(observed, {"name": "lan", "state": "absent"}, {"name": "dmz", "addresses": ["10.0.0.9/25"]}).changed


def test_a_network_that_others_reach_cannot_go() -> None:
    observed = after(host(), FRONT, BACK)
    with pytest.raises(InvalidWish, match="network lan, reach: there is no network back"):
        plan(observed, {"name": "back", "state": "absent"})


def test_record_that_says_nothing() -> None:
    observed = replace(after(host(), lan()), networks={}, broken={"lan": "Expecting value"})
    with pytest.raises(FleetError, match=r"network lan: its record, .*/lan\.json, cannot be read") as caught:
        plan(observed)
    assert "Wish for the network again" in str(caught.value)
    assert "record what is wished" in words(plan(observed, lan()))
    assert "forget what was wished" in words(plan(observed, {"name": "lan", "state": "absent"}))
    assert plan(observed, prune=True).pruned == ("lan",)


# What goes.


def test_orphans_are_reported_and_pruned_when_asked() -> None:
    observed = after(host(), lan(taps=["vm-a*"]), BACK)
    made = plan(observed, lan(taps=["vm-a*"]))
    assert (made.orphans, made.pruned, made.changed) == (("back",), (), False)
    made = plan(observed, lan(taps=["vm-a*"]), prune=True)
    assert (made.orphans, made.pruned) == (("back",), ("back",))
    assert "network back: delete bridge br-back" in made.actions
    assert made.actions[-1] == "network back: forget what was wished"
    assert list(made.after["networks"]) == ["lan"]


def test_the_last_network_takes_all_with_it() -> None:
    observed = after(host(), BOTH)
    made = plan(observed, {"name": "lan", "state": "absent"})
    assert made.actions == [
        "host: remove /etc/systemd/network/05-microvm-fleet-unmanaged.network",
        "network lan: remove /etc/systemd/network/50-microvm-fleet-lan.netdev",
        "network lan: remove /etc/systemd/network/50-microvm-fleet-lan.network",
        "network lan: remove /etc/systemd/network/50-microvm-fleet-lan.taps.network",
        "host: remove /etc/systemd/networkd.conf.d/50-microvm-fleet.conf",
        "host: stop systemd-networkd",
        "host: disable systemd-networkd",
        "network lan: delete bridge lan",
        "host: stop and disable microvm-fleet-network.service",
        "host: remove /etc/systemd/system/microvm-fleet-network.service",
        "host: remove /usr/local/lib/microvm-fleet/network",
        "host: remove /usr/local/lib/microvm-fleet/network.nft",
        "host: remove /var/lib/microvm-fleet/network/sets.json",
        "host: remove /etc/sysctl.d/90-microvm-fleet.conf",
        "host: let systemd read its units",
        "host: set net.ipv6.conf.all.forwarding to 0 again",
        "host: set net.ipv4.conf.eth0.forwarding to 0 again",
        "host: set net.ipv6.conf.eth0.accept_ra to 1 again",
        "network lan: forget what was wished",
        "host: forget how it was before the first network",
    ]
    assert made.after["host"] == {
        "systemd_networkd": "inactive, disabled",
        "unmanaged": [],
        "forwarding": {},
        "nftables": None,
    }
    assert isinstance(made.closing[-1], planner.RemoveFile)


def test_the_last_network_of_a_host_whose_networkd_ran_before() -> None:
    observed = after(host(services={NETWORKD: ON, WAIT_ONLINE: ON}), lan())
    made = plan(observed, prune=True)
    assert calls(made) == [("reload",), ("disable", "--now", UNIT_NAME), ("daemon-reload",)]


def test_the_last_network_of_a_host_whose_unit_failed() -> None:
    observed = after(host(), lan())
    failed = replace(observed, services={**observed.services, UNIT_NAME: replace(ON, active="failed")})
    made = plan(failed, prune=True)
    assert "host: delete the table of nftables" in made.actions
    assert calls(made)[-1] == ("reset-failed", UNIT_NAME)
    assert "host: delete the table of nftables" not in plan(observed, prune=True).actions


def test_wait_online_comes_back() -> None:
    observed = after(host(services={NETWORKD: OFF, WAIT_ONLINE: replace(OFF, enabled="enabled")}), lan())
    observed = replace(observed, services={**observed.services, WAIT_ONLINE: OFF})
    assert ("enable", WAIT_ONLINE) in calls(plan(observed, prune=True))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"table": _nft.Table({}, ())}, [planner.DeleteTable]),
        ({"files": {NetPaths().sysctl: "x"}}, [planner.RemoveFile]),
        ({"leftovers": ("/x",)}, [planner.RemoveFile]),
        (
            {"services": {NETWORKD: OFF, UNIT_NAME: Service("loaded", "inactive", "")}, "leftovers": ("/x",)},
            [planner.RemoveFile, planner.Systemctl],
        ),
    ],
)
def test_remains_of_a_removal_that_was_cut_off(options: dict[str, t.Any], expected: list[type[planner.Step]]) -> None:
    assert [type(one) for one in plan(host(**options)).steps] == expected


def test_a_removal_that_was_cut_off_lets_networkd_read_again() -> None:
    record = HostRecord(pending=True)
    observed = host(services={NETWORKD: ON, WAIT_ONLINE: ON}, record=record)
    made = plan(observed)
    assert calls(made) == [("reload",)]
    assert [one.words for one in made.closing] == ["host: forget how it was before the first network"]


def test_another_bridge_for_the_same_network() -> None:
    observed = after(host(), NAT)
    made = plan(observed, {**NAT, "bridge": "br0"})
    assert "network lan: delete bridge lan" in made.actions
    assert ("reload",) in calls(made)
    assert made.target.sets["bridges"] == {"br0"}


def test_a_bridge_of_a_run_that_was_cut_off_is_known() -> None:
    observed = after(host(), NAT)
    assert observed.record is not None
    half = replace(observed.record, bridges=("br0", "lan"), pending=True)
    wish = parse({**NAT, "bridge": "br0"})
    made = plan(replace(observed, record=half, networks={"lan": wish}), {**NAT, "bridge": "br0"})
    assert "host: delete bridge lan" in made.actions
    found = planner.differences(made.target, replace(observed, record=half, networks={"lan": wish}))
    assert [one.wished for one in found if one.seen == "it"] == ["no interface lan"]


def test_nat_that_ends_puts_forwarding_back() -> None:
    observed = after(host(), BOTH)
    made = plan(observed, lan(addresses=["10.0.0.1/24", "fd00::1/64"]))
    sets = [(one.key, one.value) for one in made.steps if isinstance(one, planner.SetKernel)]
    assert sets == [
        (planner.ALL_IPV6, "0"),
        (ETH0_FORWARDS, "0"),
        ("net/ipv6/conf/eth0/accept_ra", "1"),
        (LAN_FORWARDS, "0"),
    ]
    first = made.steps[0]
    assert isinstance(first, planner.WriteFile)
    assert HostRecord.read(first.text, "").settings[ETH0_FORWARDS] == "0"
    last = made.closing[-1]
    assert isinstance(last, planner.WriteFile)
    assert HostRecord.read(last.text, "").settings == {}


def test_forwarding_that_others_opened_stays() -> None:
    observed = host(settings={ETH0_FORWARDS: "1", planner.ALL_IPV6: "1"})
    made = plan(after(observed, NAT), lan())
    assert ETH0_FORWARDS not in [one.key for one in made.steps if isinstance(one, planner.SetKernel)]


# What is told.


def test_description() -> None:
    entry = lan(nat=True, dhcp={"leases": [{"name": "a", "mac": "02:00:00:00:00:0b", "address": "10.0.0.11"}]})
    observed = after(host(), entry)
    links = {**observed.links, "vm-a": link("vm-a", "tun", master="lan")}
    observed = replace(observed, links=links)
    (one,) = planner.picture(observed.networks, observed)["networks"].values()
    assert one == {
        "name": "lan",
        "kind": "bridge",
        "bridge": "lan",
        "exists": True,
        "up": True,
        "addresses": ["10.0.0.1/24"],
        "mac": "0a:00:00:00:00:01",
        "mtu": 1500,
        "taps": ["vm-*"],
        "ports": ["vm-a"],
        "nat": True,
        "nat_ipv6": False,
        "uplink": None,
        "uplinks": ["eth0"],
        "reach": [],
        "dhcp": {
            "enabled": True,
            "range_start": "10.0.0.128",
            "range_end": "10.0.0.254",
            "lease_time": 3600,
            "dns": None,
            "router": None,
            "leases": [{"name": "a", "mac": "02:00:00:00:00:0b", "address": "10.0.0.11"}],
        },
        "router_advertisements": None,
        "problems": [],
    }


def test_description_of_a_bridge_that_is_gone() -> None:
    observed = after(host(), NAT)
    gone = replace(observed, links={"lo": observed.links["lo"]}, table=None)
    (one,) = planner.picture(gone.networks, gone)["networks"].values()
    assert (one["exists"], one["up"], one["mac"], one["mtu"], one["nat"]) == (False, False, None, None, False)
    assert one["problems"] == ["bridge: wished is a bridge lan, but the host has none."]


def test_addresses_are_told_in_the_order_of_the_wish() -> None:
    entry = lan(addresses=["10.0.0.2/24", "10.0.0.1/24"])
    observed = after(host(), entry)
    addresses = tuple(reversed(observed.links["lan"].addresses))
    extra = ipaddress.ip_interface("10.9.0.1/24")
    made = plan(changed_link(observed, addresses=(extra, *addresses)), entry)
    assert made.before["networks"]["lan"]["addresses"] == ["10.0.0.2/24", "10.0.0.1/24", "10.9.0.1/24"]


def test_differences_name_their_object() -> None:
    assert planner.Difference("lan", "mtu", "1", "2").subject == "network lan"
    assert planner.Difference(None, "nftables", "1", "2").subject == "networks of the host"


def test_differences_of_the_table() -> None:
    target = plan(host(), NAT).target
    observed = after(host(), NAT)
    (one,) = planner.differences(target, replace(observed, table=None))
    assert (one.field, one.wished, one.seen) == ("nftables", "table inet microvm_fleet", "none")
    sets = {**target.sets, "nat4": frozenset[str]()}
    (one,) = planner.differences(target, replace(observed, table=_nft.Table(sets, _nft.RULES)))
    assert (one.network, one.field, one.wished, one.seen) == (None, "nftables set nat4", "10.0.0.0/24", "nothing")
    (one,) = planner.differences(planner.Target(), replace(host(), table=_nft.Table({}, ())))
    assert (one.wished, one.seen) == ("no table microvm_fleet", "it")


def test_differences_of_two_dhcp_servers() -> None:
    entries = (lan(taps=["vm-a*"], dhcp={}), {**BACK, "dhcp": {}})
    observed = after(host(), *entries)
    links = {name: replace(one, carrier=True) for name, one in observed.links.items()}
    target = plan(observed, *entries).target
    (one,) = planner.differences(target, replace(observed, links=links, dhcp_servers=1))
    assert (one.network, one.field) == (None, "dhcp")
    assert one.wished == "a server each for back, lan"


def test_static_files_name_what_they_need() -> None:
    paths = NetPaths()
    assert paths.loader in _net_files.UNIT
    for path in (paths.ruleset, paths.sets, paths.sysctl):
        assert path in _net_files.LOADER
    assert paths.unit.rsplit("/", 1)[1] == UNIT_NAME
    modes = {one.path: one.mode for one in plan(host(), lan()).steps if isinstance(one, planner.WriteFile)}
    assert modes[paths.loader] == 0o755
    assert modes[paths.sets] == modes[paths.record("lan")] == 0o600
    assert modes[paths.unit] == 0o644


def test_networks_of_a_wish_by_themselves() -> None:
    network: Network = parse(lan())
    assert Wishes((network,), ("old",)).names == {"lan", "old"}
    assert Wishes().names == frozenset()
