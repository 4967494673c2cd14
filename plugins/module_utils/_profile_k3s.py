# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The profiles of k3s: a server and an agent.

Private to the collection: it may change at any time.

Networks and ports are those of the k3s documentation (Requirements; k3s server), least memory is from its Resource
Profiling.
"""

from __future__ import annotations

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._profile_cluster import NODE, TLS_SANS, differences
from ansible_collections.microvm.fleet.plugins.module_utils._profile_frame import (
    Credential,
    Fault,
    Option,
    Port,
    Profile,
    Volume,
)

# Not 2048 MiB, with which QEMU guests hang (microvm.nix, lib/runners/qemu.nix).
_MEM: t.Final = 2560
_VOLUMES: t.Final = (
    Volume("rancher.img", "/var/lib/rancher", 20480),
    Volume("kubelet.img", "/var/lib/kubelet", 10240),
)
_KUBELET: t.Final = Port("tcp", "10250", "kubelet: logs, exec, metrics")
_OVERLAY: t.Final = (
    Port("udp", "8472", "flannel, vxlan"),
    Port("udp", "51820-51821", "flannel, wireguard-native"),
)
_SHARED: t.Final = "The token of the cluster, the same file for its servers and agents."
# What remains of a stop when the pods are gone: k3s itself (30), what its containers left (20), the guest (10).
_STOP: t.Final = 60


def _servers(values: t.Mapping[str, t.Any], credentials: frozenset[str]) -> t.Iterator[Fault]:
    """What a further server needs, and what only the first one is for."""
    if values["server"] is None:
        return
    if "k3s-token" not in credentials:
        yield Fault("server", "a server that joins another needs the credential k3s-token.", "Give it the first one's.")
    if values["cluster_init"]:
        yield Fault("cluster_init", "is for the first server, and this one joins another.", "Leave one of the two out.")


K3S: t.Final = (
    Profile(
        name="k3s_server",
        description="A server of a k3s cluster: the first one, or a further one.",
        options={
            "server": Option("address", "An earlier server to join; without it, this is the first one."),
            "cluster_init": Option(
                "bool", "Keep the cluster's state in etcd, so that further servers can join.", default=False
            ),
            "flannel_backend": Option(
                "str",
                "How pods reach pods on other nodes; the same on all servers.",
                default="vxlan",
                choices=("vxlan", "host-gw", "wireguard-native", "none"),
            ),
            "cluster_cidr": Option("subnet", "Addresses of pods.", default="10.42.0.0/16"),
            "service_cidr": Option("subnet", "Addresses of services.", default="10.43.0.0/16"),
            "disable": Option(
                "list",
                "Parts of k3s that are not deployed.",
                default=(),
                choices=("coredns", "local-storage", "metrics-server", "servicelb", "traefik"),
            ),
            "tls_sans": TLS_SANS,
            "disable_agent": Option("bool", "Run no pods here.", default=False),
            **NODE,
        },
        least_mem=1536,
        mem=_MEM,
        vcpu=2,
        stop_timeout=_STOP,
        stop_option="shutdown_grace",
        volumes=_VOLUMES,
        ports=(
            Port("tcp", "6443", "the API, for agents and kubectl"),
            Port("tcp", "2379-2380", "etcd between servers, with cluster_init or server"),
            _KUBELET,
            *_OVERLAY,
        ),
        credentials=(Credential("k3s-token", f"{_SHARED} Without it a first server makes one up.", required=False),),
        excludes=("k3s_agent", "kubernetes_master", "kubernetes_node"),
        check=_servers,
    ),
    Profile(
        name="k3s_agent",
        description="A node of a k3s cluster that runs pods.",
        options={
            "server": Option("address", "The server to join: a guest of the inventory, or an address.", required=True),
            "flannel_backend": Option(
                "str",
                "The backend that the servers have; decides which port is opened.",
                default="vxlan",
                choices=("vxlan", "host-gw", "wireguard-native", "none"),
            ),
            **NODE,
        },
        least_mem=512,
        mem=1024,
        vcpu=1,
        stop_timeout=_STOP,
        stop_option="shutdown_grace",
        volumes=_VOLUMES,
        ports=(_KUBELET, *_OVERLAY),
        credentials=(Credential("k3s-token", _SHARED),),
        excludes=("k3s_server", "kubernetes_master", "kubernetes_node"),
    ),
)


def check_clusters(options: t.Mapping[str, t.Mapping[str, t.Mapping[str, t.Any]]]) -> t.Iterator[Fault]:
    """What a node and the server that it joins have to have alike: *options* by guest and profile."""
    return differences(
        options,
        first=("k3s_server",),
        later=("k3s_server", "k3s_agent"),
        names="server",
        alike=("flannel_backend", "cluster_cidr", "service_cidr"),
    )
