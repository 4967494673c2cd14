# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The profiles of k3s: one server and agents, or several servers."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._profile_k3s import K3S
from ansible_collections.microvm.fleet.plugins.module_utils._profiles import Guest, choose, together

TOKEN: t.Final = frozenset({"k3s-token"})
PEERS: t.Final = {"k3s-1": ("10.0.1.11/24",), "k3s-2": ("10.0.1.12/24",), "k3s-3": ("10.0.2.13/24",)}
SERVER: t.Final = Guest(name="k3s-1", hypervisor="cloud-hypervisor", profiles=("k3s_server",), addresses=PEERS["k3s-1"])
AGENT: t.Final = Guest(
    name="k3s-3",
    hypervisor="cloud-hypervisor",
    profiles=("k3s_agent",),
    options={"k3s_agent": {"server": "k3s-1"}},
    addresses=PEERS["k3s-3"],
    credentials=TOKEN,
)


def server(name: str = "k3s-1", *, credentials: frozenset[str] = TOKEN, **options: t.Any) -> Guest:
    return dataclasses.replace(
        SERVER, name=name, addresses=PEERS[name], options={"k3s_server": options}, credentials=credentials
    )


def agent(**options: t.Any) -> Guest:
    return dataclasses.replace(AGENT, options={"k3s_agent": {"server": "k3s-1", **options}})


def faults(one: Guest) -> list[str]:
    return [error.text() for error in choose(one, PEERS)[1]]


def between(*guests: Guest) -> list[str]:
    return [error.text() for error in together({one.name: choose(one, PEERS)[0].options for one in guests})]


def test_there_are_a_server_and_an_agent() -> None:
    assert [profile.name for profile in K3S] == ["k3s_server", "k3s_agent"]


def test_a_first_server_needs_no_option() -> None:
    chosen, errors = choose(SERVER, PEERS)
    assert errors == []
    assert chosen.options["k3s_server"] == {
        "server": None,
        "cluster_init": False,
        "flannel_backend": "vxlan",
        "cluster_cidr": "10.42.0.0/16",
        "service_cidr": "10.43.0.0/16",
        "disable": [],
        "tls_sans": [],
        "disable_agent": False,
        "node_ip": "10.0.1.11",
        "node_labels": [],
        "node_taints": [],
        "shutdown_grace": 60,
    }
    assert (chosen.mem, chosen.vcpu, chosen.stop_timeout) == (2560, 2, 120)
    assert [volume.mount_point for volume in chosen.volumes] == ["/var/lib/rancher", "/var/lib/kubelet"]


def test_an_agent_on_another_host_finds_its_server_by_name() -> None:
    chosen, errors = choose(AGENT, PEERS)
    assert errors == []
    assert chosen.options["k3s_agent"] == {
        "server": "10.0.1.11",
        "flannel_backend": "vxlan",
        "node_ip": "10.0.2.13",
        "node_labels": [],
        "node_taints": [],
        "shutdown_grace": 60,
    }
    assert (chosen.mem, chosen.vcpu, chosen.stop_timeout) == (1024, 1, 120)


@pytest.mark.parametrize("grace", [10, 60, 3600])
def test_pods_that_take_long_make_the_stop_long(grace: int) -> None:
    for one in (server(shutdown_grace=grace), agent(shutdown_grace=grace)):
        assert choose(one, PEERS)[0].stop_timeout == grace + 60


@pytest.mark.parametrize("label", ["a=b", "a=", "disk=ssd", "example.org/Rack_1=r-1.2", "0=0"])
def test_labels(label: str) -> None:
    assert faults(agent(node_labels=[label])) == []
    assert faults(agent(node_taints=[f"{label}:NoSchedule"])) == []


@pytest.mark.parametrize("label", ["", "a", "=b", "a=b c", "a=b,c=d", "a=$HOME", "a=%n", "-a=b", "Org/a=b", "a=b\n"])
def test_what_is_no_label(label: str) -> None:
    assert faults(agent(node_labels=[label])) == [
        (
            f"guest k3s-3, profile_options.k3s_agent.node_labels[0]: {label!r} is not a label as KEY=VALUE."
            " Labels of the node, as KEY=VALUE."
        )
    ]


@pytest.mark.parametrize("taint", ["a=b", "a=b:", "a=b:Never", "a=b:noschedule", "a:NoSchedule", "a=b:NoSchedule "])
def test_what_is_no_taint(taint: str) -> None:
    assert [fault.split(": ")[1] for fault in faults(agent(node_taints=[taint]))] == [
        (
            f"{taint!r} is not a taint as KEY=VALUE:EFFECT. Taints of the node, as KEY=VALUE:EFFECT with NoSchedule,"
            " PreferNoSchedule or NoExecute."
        )
    ]


@pytest.mark.parametrize("name", ["k3s.example.org", "*.example.org", "10.0.0.1", "2001:db8::1", "k3s"])
def test_names_for_the_certificate(name: str) -> None:
    assert faults(server(tls_sans=[name])) == []


@pytest.mark.parametrize("name", ["", "a b", "--debug", "a;b", "${HOME}", "a\n"])
def test_what_is_no_name_for_the_certificate(name: str) -> None:
    assert faults(server(tls_sans=[name])) == [
        (
            f"guest k3s-1, profile_options.k3s_server.tls_sans[0]: {name!r} is not a host name or an address."
            " Further names and addresses for the certificate of the API."
        )
    ]


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (
            dataclasses.replace(AGENT, options={}),
            (
                "profile_options.k3s_agent.server: is required."
                " The server to join: a guest of the inventory, or an address."
            ),
        ),
        (
            dataclasses.replace(AGENT, credentials=frozenset()),
            (
                "credentials: profile k3s_agent needs k3s-token: The token of the cluster, the same file for its"
                " servers and agents. Give credentials: {k3s-token: {src: FILE}}."
            ),
        ),
        (
            server("k3s-2", credentials=frozenset(), server="k3s-1"),
            (
                "profile_options.k3s_server.server: a server that joins another needs the credential k3s-token. Give it"
                " the first one's."
            ),
        ),
        (
            server("k3s-2", server="k3s-1", cluster_init=True),
            (
                "profile_options.k3s_server.cluster_init: is for the first server, and this one joins another. Leave"
                " one of the two out."
            ),
        ),
        (
            server(disable=["flannel"]),
            (
                "profile_options.k3s_server.disable[0]: 'flannel' is none of the choices. Give coredns, local-storage,"
                " metrics-server, servicelb or traefik."
            ),
        ),
        (
            server(service_cidr="10.0.0.0/16"),
            (
                "profile_options.k3s_server.service_cidr: 10.0.0.0/16 overlaps the guest's own network 10.0.1.0/24."
                " Give one that is free."
            ),
        ),
        (
            dataclasses.replace(SERVER, mem=1024),
            "mem: 1024 MiB, and profile k3s_server needs 1536 at least. Give more, or leave it out for 2560.",
        ),
        (
            dataclasses.replace(SERVER, shares=("/var/lib/rancher",)),
            (
                "shares: /var/lib/rancher is shared from the host, and profile k3s_server needs a disk at"
                " /var/lib/rancher. Share another place, and leave this one to a volume."
            ),
        ),
        (
            dataclasses.replace(AGENT, profiles=("k3s_server", "k3s_agent")),
            "profiles: k3s_agent and k3s_server exclude each other. Give each a guest of its own.",
        ),
    ],
)
def test_what_is_refused(one: Guest, says: str) -> None:
    assert faults(one) == [f"guest {one.name}, {says}"]


def test_a_further_server_joins_the_first() -> None:
    chosen, errors = choose(server("k3s-2", server="k3s-1"), PEERS)
    assert errors == []
    assert chosen.options["k3s_server"]["server"] == "10.0.1.11"


def test_nodes_that_fit_their_server() -> None:
    assert between(server(cluster_init=True), server("k3s-2", server="k3s-1"), agent()) == []
    # Of a server that is not in the inventory nothing is known.
    assert between(server(flannel_backend="host-gw"), agent(server="k3s.example.org")) == []


def test_nodes_that_do_not_fit_their_server() -> None:
    assert between(
        server(cluster_init=True, flannel_backend="wireguard-native", cluster_cidr="10.50.0.0/16"),
        server("k3s-2", server="k3s-1"),
        agent(),
    ) == [
        (
            "guest k3s-2, profile_options.k3s_server.flannel_backend: vxlan, and that of k3s-1, which it joins, is"
            " wireguard-native. Give both the same."
        ),
        (
            "guest k3s-2, profile_options.k3s_server.cluster_cidr: 10.42.0.0/16, and that of k3s-1, which it joins, is"
            " 10.50.0.0/16. Give both the same."
        ),
        (
            "guest k3s-3, profile_options.k3s_agent.flannel_backend: vxlan, and that of k3s-1, which it joins, is"
            " wireguard-native. Give both the same."
        ),
    ]
