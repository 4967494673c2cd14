# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The profiles of Kubernetes as NixOS packages it (services.kubernetes): a master and a node.

Private to the collection: it may change at any time.

Facts of services.kubernetes are from nixos/modules/services/cluster/kubernetes of nixpkgs.  Its own range of services,
10.0.0.0/24, is what many networks of guests have, so the defaults here are those of k3s.
"""

from __future__ import annotations

import typing as t
from dataclasses import replace

from ansible_collections.microvm.fleet.plugins.module_utils._profile_cluster import NODE, TLS_SANS, differences
from ansible_collections.microvm.fleet.plugins.module_utils._profile_frame import (
    Credential,
    Fault,
    Option,
    Port,
    Profile,
    Volume,
)

# apiserver.nix and addons/dns.nix make addresses of the first three numbers, and flannel gives every node a /24.
_RANGE: t.Final = r"[0-9.]+/([89]|1[0-9]|2[0-2])"
_RANGES: t.Final = {
    "cluster_cidr": Option(
        "subnet",
        "Addresses of pods.",
        default="10.42.0.0/16",
        pattern=_RANGE,
        form="an IPv4 network of /22 or larger",
    ),
    "service_cidr": Option(
        "subnet",
        "Addresses of services.",
        default="10.43.0.0/16",
        pattern=_RANGE,
        form="an IPv4 network of /22 or larger",
    ),
}
_SAME: t.Final = {
    name: Option(
        option.kind,
        f"{option.description[:-1]}, as the master has it.",
        default=option.default,
        pattern=option.pattern,
        form=option.form,
    )
    for name, option in _RANGES.items()
}
_VOLUMES: t.Final = (
    Volume("kubernetes.img", "/var/lib/kubernetes", 10240),
    Volume("containerd.img", "/var/lib/containerd", 20480),
)
_PORTS: t.Final = (
    Port("tcp", "10250", "kubelet: logs, exec, metrics"),
    Port("udp", "8285", "flannel"),
    Port("udp", "8472", "flannel, vxlan"),
)
_SHARED: t.Final = Credential(
    "kubernetes-token",
    "32 hexadecimal digits, the same file for the master and its nodes, by which they get certificates.",
)
_AUTHORITY: t.Final = Credential(
    "kubernetes-ca",
    "The certificate of the cluster's authority (PEM). Without it a machine believes whoever answers first at the"
    " master's address.",
    required=False,
)
# What remains of a stop when the pods are gone: kubelet, the API and etcd (40), the guest (20).
_STOP: t.Final = 60


KUBERNETES: t.Final = (
    Profile(
        name="kubernetes_master",
        description="The master of a Kubernetes cluster: its API, its state, its authority for certificates.",
        options={
            "node_ip": Option("own_address", "The address that the cluster reaches the master by.", required=True),
            **_RANGES,
            "tls_sans": TLS_SANS,
            "allow_privileged": Option("bool", "Allow pods with privileged containers.", default=False),
            "run_pods": Option("bool", "Run pods of users here too.", default=False),
            **{name: option for name, option in NODE.items() if name != "node_ip"},
        },
        least_mem=2048,
        mem=3072,
        vcpu=2,
        stop_timeout=_STOP,
        stop_option="shutdown_grace",
        volumes=(*_VOLUMES, Volume("etcd.img", "/var/lib/etcd", 8192)),
        ports=(
            Port("tcp", "6443", "the API, for nodes and kubectl"),
            Port("tcp", "8888", "the authority, where machines ask for their certificates"),
            *_PORTS,
        ),
        credentials=(
            _SHARED,
            replace(_AUTHORITY, along="kubernetes-ca-key"),
            Credential(
                "kubernetes-ca-key",
                "The private key of kubernetes-ca. Without it the master makes an authority of its own.",
                required=False,
                along="kubernetes-ca",
            ),
        ),
        excludes=("k3s_agent", "k3s_server", "kubernetes_node"),
        with_address=True,
    ),
    Profile(
        name="kubernetes_node",
        description="A node of a Kubernetes cluster, which runs pods.",
        options={
            "master": Option("address", "The master to join: a guest of the inventory, or an address.", required=True),
            **_SAME,
            **NODE,
        },
        least_mem=1024,
        mem=2560,
        vcpu=1,
        stop_timeout=_STOP,
        stop_option="shutdown_grace",
        volumes=_VOLUMES,
        ports=_PORTS,
        credentials=(_SHARED, _AUTHORITY),
        excludes=("k3s_agent", "k3s_server", "kubernetes_master"),
    ),
)


def check_clusters(options: t.Mapping[str, t.Mapping[str, t.Mapping[str, t.Any]]]) -> t.Iterator[Fault]:
    """What a node and its master have to have alike: *options* by guest and profile."""
    return differences(
        options,
        first=("kubernetes_master",),
        later=("kubernetes_node",),
        names="master",
        alike=("cluster_cidr", "service_cidr"),
    )
