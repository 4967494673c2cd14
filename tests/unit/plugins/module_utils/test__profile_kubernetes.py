# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The profiles of Kubernetes: a master and nodes."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._profile_kubernetes import KUBERNETES
from ansible_collections.microvm.fleet.plugins.module_utils._profiles import Guest, choose, together

TOKEN: t.Final = frozenset({"kubernetes-token"})
PEERS: t.Final = {"kube-1": ("10.0.1.11/24",), "kube-2": ("10.0.2.12/24",)}
MASTER: t.Final = Guest(
    name="kube-1",
    hypervisor="cloud-hypervisor",
    profiles=("kubernetes_master",),
    addresses=PEERS["kube-1"],
    credentials=TOKEN,
)
NODE: t.Final = Guest(
    name="kube-2",
    hypervisor="cloud-hypervisor",
    profiles=("kubernetes_node",),
    options={"kubernetes_node": {"master": "kube-1"}},
    addresses=PEERS["kube-2"],
    credentials=TOKEN,
)


def master(**options: t.Any) -> Guest:
    return dataclasses.replace(MASTER, options={"kubernetes_master": options})


def node(**options: t.Any) -> Guest:
    return dataclasses.replace(NODE, options={"kubernetes_node": {"master": "kube-1", **options}})


def faults(one: Guest) -> list[str]:
    return [error.text() for error in choose(one, PEERS)[1]]


def between(*guests: Guest) -> list[str]:
    return [error.text() for error in together({one.name: choose(one, PEERS)[0].options for one in guests})]


def test_there_are_a_master_and_a_node() -> None:
    assert [profile.name for profile in KUBERNETES] == ["kubernetes_master", "kubernetes_node"]


def test_a_master_needs_no_option() -> None:
    chosen, errors = choose(MASTER, PEERS)
    assert errors == []
    assert chosen.options["kubernetes_master"] == {
        "node_ip": "10.0.1.11",
        "cluster_cidr": "10.42.0.0/16",
        "service_cidr": "10.43.0.0/16",
        "tls_sans": [],
        "allow_privileged": False,
        "run_pods": False,
        "node_labels": [],
        "node_taints": [],
        "shutdown_grace": 60,
    }
    assert (chosen.mem, chosen.vcpu, chosen.stop_timeout) == (3072, 2, 120)
    assert [volume.mount_point for volume in chosen.volumes] == [
        "/var/lib/kubernetes",
        "/var/lib/containerd",
        "/var/lib/etcd",
    ]


def test_a_node_on_another_host_finds_its_master_by_name() -> None:
    chosen, errors = choose(NODE, PEERS)
    assert errors == []
    assert chosen.options["kubernetes_node"] == {
        "master": "10.0.1.11",
        "cluster_cidr": "10.42.0.0/16",
        "service_cidr": "10.43.0.0/16",
        "node_ip": "10.0.2.12",
        "node_labels": [],
        "node_taints": [],
        "shutdown_grace": 60,
    }
    assert (chosen.mem, chosen.vcpu, chosen.stop_timeout) == (2560, 1, 120)
    assert [volume.mount_point for volume in chosen.volumes] == ["/var/lib/kubernetes", "/var/lib/containerd"]


@pytest.mark.parametrize("option", ["cluster_cidr", "service_cidr"])
@pytest.mark.parametrize("network", ["10.50.0.0/16", "192.168.0.0/22", "172.16.0.0/12", "11.0.0.0/8"])
def test_ranges(option: str, network: str) -> None:
    for one in (master(**{option: network}), node(**{option: network})):
        assert faults(one) == []


@pytest.mark.parametrize("option", ["cluster_cidr", "service_cidr"])
@pytest.mark.parametrize("network", ["10.50.0.0/23", "10.50.0.0/24", "fd01::/108"])
def test_ranges_of_which_kubernetes_makes_nothing(option: str, network: str) -> None:
    (said,) = faults(master(**{option: network}))
    assert said.startswith(
        f"guest kube-1, profile_options.kubernetes_master.{option}: {network} is not an IPv4 network of /22 or larger."
    )


NEEDS_TOKEN: t.Final = (
    "needs kubernetes-token: 32 hexadecimal digits, the same file for the master and its nodes, by which they get"
    " certificates. Give credentials: {kubernetes-token: {src: FILE}}."
)


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (dataclasses.replace(MASTER, credentials=frozenset()), f"credentials: profile kubernetes_master {NEEDS_TOKEN}"),
        (dataclasses.replace(NODE, credentials=frozenset()), f"credentials: profile kubernetes_node {NEEDS_TOKEN}"),
        (
            dataclasses.replace(MASTER, credentials=TOKEN | {"kubernetes-ca"}),
            (
                "credentials: kubernetes-ca is given, and kubernetes-ca-key is not."
                " Profile kubernetes_master takes both or none."
            ),
        ),
        (
            dataclasses.replace(MASTER, credentials=TOKEN | {"kubernetes-ca-key"}),
            (
                "credentials: kubernetes-ca-key is given, and kubernetes-ca is not."
                " Profile kubernetes_master takes both or none."
            ),
        ),
        (
            dataclasses.replace(NODE, options={}),
            (
                "profile_options.kubernetes_node.master: is required. The master to join: a guest of the inventory, or"
                " an address."
            ),
        ),
        (
            master(node_ip="10.0.1.12"),
            ("profile_options.kubernetes_master.node_ip: '10.0.1.12' is no address of the guest. Give 10.0.1.11."),
        ),
        (
            master(service_cidr="10.0.0.0/16"),
            (
                "profile_options.kubernetes_master.service_cidr: 10.0.0.0/16 overlaps the guest's own network"
                " 10.0.1.0/24. Give one that is free."
            ),
        ),
        (
            dataclasses.replace(MASTER, mem=1024),
            "mem: 1024 MiB, and profile kubernetes_master needs 2048 at least. Give more, or leave it out for 3072.",
        ),
        (
            dataclasses.replace(NODE, profiles=("kubernetes_node", "k3s_server")),
            "profiles: k3s_server and kubernetes_node exclude each other. Give each a guest of its own.",
        ),
    ],
)
def test_what_is_refused(one: Guest, says: str) -> None:
    assert faults(one) == [f"guest {one.name}, {says}"]


def test_a_master_has_an_address_that_is_known() -> None:
    floating = dataclasses.replace(MASTER, addresses=())
    assert faults(floating) == [
        (
            "guest kube-1, profiles: profile kubernetes_master needs an address that is known beforehand. Give"
            " the guest a network with an index, or an interface with addresses."
        ),
        (
            "guest kube-1, profile_options.kubernetes_master.node_ip: is required. The address that the cluster"
            " reaches the master by."
        ),
    ]


@pytest.mark.parametrize("given", [{"kubernetes-ca"}, set()])
def test_a_node_takes_the_certificate_alone(given: set[str]) -> None:
    assert faults(dataclasses.replace(NODE, credentials=TOKEN | given)) == []


def test_a_master_takes_certificate_and_key() -> None:
    both = {"kubernetes-ca", "kubernetes-ca-key"}
    assert faults(dataclasses.replace(MASTER, credentials=TOKEN | both)) == []


def test_nodes_and_their_master() -> None:
    assert between(MASTER, NODE) == []
    assert between(master(cluster_cidr="10.50.0.0/16"), node(cluster_cidr="10.50.0.0/16")) == []
    assert between(master(cluster_cidr="10.50.0.0/16"), node(master="192.0.2.1")) == []
    assert between(master(cluster_cidr="10.50.0.0/16", service_cidr="10.51.0.0/16"), NODE) == [
        (
            "guest kube-2, profile_options.kubernetes_node.cluster_cidr: 10.42.0.0/16, and that of kube-1,"
            " which it joins, is 10.50.0.0/16. Give both the same."
        ),
        (
            "guest kube-2, profile_options.kubernetes_node.service_cidr: 10.43.0.0/16, and that of kube-1,"
            " which it joins, is 10.51.0.0/16. Give both the same."
        ),
    ]
