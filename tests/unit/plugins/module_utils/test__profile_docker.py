# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The profiles that run a Docker engine: nodes of a swarm, and Portainer."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._profile_docker import (
    DATA_PATH_PORT,
    PORTAINER,
    PORTAINER_RELEASE,
    SWARM,
)
from ansible_collections.microvm.fleet.plugins.module_utils._profiles import Guest, choose, together

PEERS: t.Final = {"m1": ("10.5.0.11/24",), "w1": ("10.5.0.21/24",), "unplaced": ()}
DIGEST: t.Final = f"sha256:{'0a' * 32}"
IMAGE_FILE: t.Final = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-portainer.tar.gz"
MANAGER_TOKEN: t.Final = frozenset({"swarm-manager-token"})
WORKER_TOKEN: t.Final = frozenset({"swarm-worker-token"})
SECRET: t.Final = frozenset({"portainer-agent-secret"})


def guest(profile: str, options: dict[str, t.Any] | None = None, **further: t.Any) -> Guest:
    wish: dict[str, t.Any] = {"name": "m1", "hypervisor": "qemu", "addresses": ("10.5.0.11/24",), **further}
    return Guest(profiles=(profile,), options={} if options is None else {profile: options}, **wish)


def words(one: Guest) -> list[str]:
    return [str(error) for error in choose(one, PEERS)[1]]


def values(one: Guest) -> t.Mapping[str, t.Any]:
    chosen, errors = choose(one, PEERS)
    assert errors == []
    return chosen.options[one.profiles[0]]


def test_a_first_manager_needs_no_option() -> None:
    one = guest("docker_swarm_manager")
    assert values(one) == {
        "manager": None,
        "advertise_address": "10.5.0.11",
        "data_path_port": DATA_PATH_PORT,
        "encrypted_networks": False,
        "address_pool": "10.213.0.0/16",
        "subnet_size": 24,
    }
    chosen = choose(one, PEERS)[0]
    assert [(volume.mount_point, volume.fs_type) for volume in chosen.volumes] == [("/var/lib/docker", "ext4")]
    assert (chosen.mem, chosen.vcpu, chosen.stop_timeout) == (2304, 2, 120)


def test_a_worker_finds_its_manager_by_the_name_of_a_guest() -> None:
    one = guest("docker_swarm_worker", {"manager": "m1"}, name="w1", credentials=WORKER_TOKEN)
    assert values(one)["manager"] == "10.5.0.11"


def test_ports_stay_clear_of_vxlan() -> None:
    assert DATA_PATH_PORT not in (4789, 8472)
    assert 1024 <= DATA_PATH_PORT <= 49151


def test_one_release_is_the_default_of_server_and_agent() -> None:
    assert {profile.options["version"].default for profile in PORTAINER} == {PORTAINER_RELEASE}


def test_profiles_need_memory_that_qemu_does_not_hang_with() -> None:
    assert all(profile.mem != 2048 and profile.mem >= profile.least_mem for profile in (*SWARM, *PORTAINER))


@pytest.mark.parametrize(
    ("one", "field", "seen"),
    [
        (
            guest("docker_swarm_manager", {"manager": "w1"}),
            "profile_options.docker_swarm_manager.manager",
            "needs the credential swarm-manager-token",
        ),
        (
            guest("docker_swarm_manager", {"manager": "m1"}, credentials=MANAGER_TOKEN),
            "profile_options.docker_swarm_manager.manager",
            "is the guest itself",
        ),
        (
            guest("docker_swarm_manager", {"manager": "unplaced"}, credentials=MANAGER_TOKEN),
            "profile_options.docker_swarm_manager.manager",
            "has no address that is known beforehand",
        ),
        (
            guest("docker_swarm_manager", {"address_pool": "fd00:1::/48"}),
            "profile_options.docker_swarm_manager.address_pool",
            "is no IPv4 network",
        ),
        (
            guest("docker_swarm_manager", {"address_pool": "10.5.0.0/16"}),
            "profile_options.docker_swarm_manager.address_pool",
            "overlaps the guest's own network 10.5.0.0/24",
        ),
        (
            guest("docker_swarm_manager", {"address_pool": "10.213.0.0/20", "subnet_size": 16}),
            "profile_options.docker_swarm_manager.subnet_size",
            "does not fit into the pool 10.213.0.0/20",
        ),
        (
            guest("docker_swarm_manager", {"data_path_port": 49152}),
            "profile_options.docker_swarm_manager.data_path_port",
            "is out of range",
        ),
        (
            guest("docker_swarm_manager", {"advertise_address": "10.5.0.12"}),
            "profile_options.docker_swarm_manager.advertise_address",
            "is no address of the guest",
        ),
        (guest("docker_swarm_manager", addresses=()), "profiles", "needs an address that is known beforehand"),
        (guest("docker_swarm_manager", mem=256), "mem", "256 MiB"),
        (
            guest("docker_swarm_worker", credentials=WORKER_TOKEN),
            "profile_options.docker_swarm_worker.manager",
            "is required",
        ),
        (
            guest("docker_swarm_worker", {"manager": "10.5.0.9"}),
            "credentials",
            "needs swarm-worker-token: What 'docker swarm join-token -q worker' prints on a manager",
        ),
        (
            guest(
                "docker_swarm_worker", {"manager": "10.5.0.9"}, credentials=WORKER_TOKEN, shares=("/var/lib/docker",)
            ),
            "shares",
            "needs a disk at /var/lib/docker",
        ),
        (guest("portainer_server"), "credentials", "needs portainer-agent-secret"),
        (guest("portainer_agent"), "credentials", "needs portainer-agent-secret"),
        (
            guest("portainer_agent", {"version": "latest"}, credentials=SECRET),
            "profile_options.portainer_agent.version",
            "'latest' is not a release as 2.39.5",
        ),
        (
            guest("portainer_agent", {"digest": "sha256:1"}, credentials=SECRET),
            "profile_options.portainer_agent.digest",
            "is not a digest",
        ),
        (
            guest("portainer_agent", {"image_file": "/root/agent.tar"}, credentials=SECRET),
            "profile_options.portainer_agent.image_file",
            "is not a path in the store",
        ),
        (
            guest("portainer_server", {"digest": DIGEST, "image_file": IMAGE_FILE}, credentials=SECRET),
            "profile_options.portainer_server.digest",
            "has no digest",
        ),
    ],
)
def test_what_cannot_be_is_refused(one: Guest, field: str, seen: str) -> None:
    (said,) = words(one)
    assert said.startswith(f"guest {one.name}, {field}: ")
    assert seen in said


def test_one_guest_is_either_manager_or_worker() -> None:
    one = Guest(
        name="m1",
        hypervisor="qemu",
        profiles=("docker_swarm_manager", "docker_swarm_worker"),
        options={"docker_swarm_worker": {"manager": "w1"}},
        addresses=("10.5.0.11/24",),
        credentials=WORKER_TOKEN,
    )
    (said,) = words(one)
    assert "docker_swarm_manager and docker_swarm_worker exclude each other" in said


def test_an_engine_has_one_volume_for_all_its_profiles() -> None:
    one = Guest(
        name="m1",
        hypervisor="cloud-hypervisor",
        profiles=("docker_swarm_manager", "portainer_server", "portainer_agent"),
        addresses=("10.5.0.11/24",),
        credentials=SECRET,
    )
    chosen, errors = choose(one, PEERS)
    assert errors == []
    assert [volume.mount_point for volume in chosen.volumes] == ["/var/lib/docker", "/var/lib/portainer"]


@pytest.mark.parametrize(
    "option", [{"digest": DIGEST}, {"image_file": IMAGE_FILE}, {"image": "registry.lan:5000/agent"}]
)
def test_an_image_comes_from_where_it_is_said(option: dict[str, t.Any]) -> None:
    one = guest("portainer_agent", option, credentials=SECRET)
    assert values(one).items() >= option.items()


def described(*guests: Guest) -> dict[str, t.Mapping[str, t.Mapping[str, t.Any]]]:
    options = {}
    for one in guests:
        chosen, errors = choose(one, PEERS)
        assert errors == []
        options[one.name] = chosen.options
    return options


def test_guests_that_fit_together() -> None:
    assert (
        together(
            described(
                guest("docker_swarm_manager"),
                guest("docker_swarm_worker", {"manager": "m1"}, name="w1", credentials=WORKER_TOKEN),
                guest("portainer_server", name="p1", credentials=SECRET),
                guest("portainer_agent", name="p2", credentials=SECRET),
                guest("docker_swarm_worker", {"manager": "192.0.2.1"}, name="w2", credentials=WORKER_TOKEN),
            )
        )
        == []
    )


@pytest.mark.parametrize(
    ("guests", "said"),
    [
        (
            (
                guest("portainer_server", name="p1", credentials=SECRET),
                guest("portainer_agent", {"version": "2.33.6"}, name="p2", credentials=SECRET),
            ),
            ("guest p2", "profile_options.portainer_agent.version", f"2.33.6, while guest p1 has {PORTAINER_RELEASE}"),
        ),
        (
            (
                guest("docker_swarm_manager"),
                guest(
                    "docker_swarm_worker",
                    {"manager": "m1", "data_path_port": 7000},
                    name="w1",
                    credentials=WORKER_TOKEN,
                ),
            ),
            (
                "guest w1",
                "profile_options.docker_swarm_worker.data_path_port",
                f"7000, while the swarm of guest m1 has {DATA_PATH_PORT}",
            ),
        ),
    ],
)
def test_guests_that_do_not_fit_together(guests: tuple[Guest, ...], said: tuple[str, ...]) -> None:
    (error,) = together(described(*guests))
    assert all(part in str(error) for part in said)
