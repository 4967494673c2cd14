# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The inventories of docs/profiles become guests; what the nodes of a cluster on several hosts know of each other."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._profiles import PROFILES
from ansible_collections.microvm.fleet.tests.nix.fleet import HERE, evaluate, lay
from ansible_collections.microvm.fleet.tests.unit.support.pages import example_of

PAGES = HERE.parents[1] / "docs" / "profiles"
# cloud-hypervisor shows its credentials as a share of the unit that virtiofsd runs in.
CREDENTIALS = "/run/fleet-credentials"


def guests_of(page: str, directory: Path, what: str) -> dict[str, Any]:
    """*what*, an expression with `config`, of each guest of a page's inventory; every host has a flake of its own."""
    found: dict[str, Any] = {}
    for host, guests in example_of((PAGES / f"{page}.md").read_text(encoding="utf-8")).items():
        place = lay(directory / host, guests={name: dict(one.entry) for name, one in guests.items()})
        found.update(
            evaluate(
                place, f"builtins.mapAttrs (_: guest: let inherit (guest) config; in {what}) fleet.nixosConfigurations"
            )
        )
    return found


@pytest.mark.parametrize("page", list(PROFILES))
def test_the_guests_of_a_page_are_built(page: str, tmp_path: Path) -> None:
    runners = guests_of(page, tmp_path, "config.microvm.declaredRunner.outPath")
    assert runners != {}
    assert [name for name, runner in runners.items() if not runner.endswith(f"-{name}")] == []


def test_a_cluster_of_k3s(tmp_path: Path) -> None:
    nodes = guests_of("k3s_server", tmp_path, "{ inherit (config.services.k3s) role serverAddr tokenFile extraFlags; }")
    server, agents = nodes.pop("k3s-1"), nodes
    assert (server["role"], server["serverAddr"]) == ("server", "")
    assert set(agents) == {"k3s-2", "k3s-3"}
    for agent in agents.values():
        assert (agent["role"], agent["serverAddr"]) == ("agent", "https://10.0.1.11:6443")
    assert {node["tokenFile"] for node in (server, *agents.values())} == {f"{CREDENTIALS}/k3s-token"}
    addresses = {"k3s-1": "10.0.1.11", "k3s-2": "10.0.1.12", "k3s-3": "10.0.2.13"}
    for name, node in {"k3s-1": server, **agents}.items():
        assert f"--node-ip={addresses[name]}" in node["extraFlags"]
    assert "--tls-san=k3s.example.org" in server["extraFlags"]


def test_a_cluster_of_kubernetes(tmp_path: Path) -> None:
    nodes = guests_of(
        "kubernetes_master",
        tmp_path,
        """{
          inherit (config.services.kubernetes) roles masterAddress apiserverAddress;
          given = config.systemd.services.fleet-kubernetes-secrets.serviceConfig.LoadCredential;
        }""",
    )
    assert {name: node["roles"] for name, node in nodes.items()} == {
        "kube-1": ["master"],
        "kube-2": ["node"],
        "kube-3": ["node"],
    }
    assert {node["apiserverAddress"] for node in nodes.values()} == {"https://10.0.1.11:6443"}
    for node in nodes.values():
        assert f"kubernetes-token:{CREDENTIALS}/kubernetes-token" in node["given"]
    # The key of the authority is for who signs.
    keys = [name for name, node in nodes.items() if any("kubernetes-ca-key" in one for one in node["given"])]
    assert keys == ["kube-1"]


def test_a_swarm(tmp_path: Path) -> None:
    started = guests_of("docker_swarm_manager", tmp_path, "config.systemd.services.fleet-swarm.serviceConfig.ExecStart")
    calls = {name: shlex.split(command)[2:] for name, command in started.items()}
    assert {name: call[0] for name, call in calls.items()} == {
        "swarm-1": "manager",
        "swarm-2": "worker",
        "swarm-3": "worker",
    }
    assert "--join" not in calls["swarm-1"]
    for name in ("swarm-2", "swarm-3"):
        assert calls[name][calls[name].index("--join") + 1] == "10.5.1.11"
        assert calls[name][calls[name].index("--token-file") + 1] == f"{CREDENTIALS}/swarm-worker-token"
    assert {call[call.index("--data-path-port") + 1] for call in calls.values()} == {"7789"}
    assert {name: call[call.index("--advertise") + 1] for name, call in calls.items()} == {
        "swarm-1": "10.5.1.11",
        "swarm-2": "10.5.1.12",
        "swarm-3": "10.5.2.11",
    }


def test_portainer_and_its_agents(tmp_path: Path) -> None:
    containers = guests_of(
        "portainer_server",
        tmp_path,
        "builtins.mapAttrs (_: one: { inherit (one) image; }) config.virtualisation.oci-containers.containers",
    )
    images = {name: container["image"] for guest in containers.values() for name, container in guest.items()}
    assert images == {"portainer": "portainer/portainer-ce:2.39.5", "portainer-agent": "portainer/agent:2.39.5"}
