# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The profiles that run a Docker engine: nodes of a swarm, and Portainer's server and agent.

Private to the collection: it may change at any time.

Ports, the range of the data path port and the default of the address pool that is avoided here are from the reference
of ``docker swarm init``; Portainer's ports, mounts and AGENT_SECRET from its documentation (Requirements and
prerequisites; Install Portainer with Docker; Add an agent environment).
"""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._profile_frame import (
    Credential,
    Fault,
    Option,
    Port,
    Profile,
    Volume,
)

# One default for the server and for its agents.
PORTAINER_RELEASE: t.Final = "2.39.5"
# Docker's own default, 4789, is that of VXLAN, which networks between hosts may use; 8472 is Linux's.
DATA_PATH_PORT: t.Final = 7789

_VOLUME: t.Final = Volume("docker.img", "/var/lib/docker", 20480)
# Containers get 10 s unless they ask for more, the engine and the guest have the rest.
_STOP: t.Final = 120
_EVERY: t.Final = "Every node of a swarm has the same."

_NODE: t.Final[t.Mapping[str, Option]] = {
    "advertise_address": Option("own_address", "The address of this guest that other nodes reach it by."),
    "data_path_port": Option(
        "int",
        f"The UDP port of overlay networks. {_EVERY} VXLAN between hosts has 4789 or 8472.",
        default=DATA_PATH_PORT,
        least=1024,
        most=49151,
    ),
    "encrypted_networks": Option(
        "bool", "Let ESP through, for overlay networks with the option encrypted.", default=False
    ),
}
_GOSSIP: t.Final = (
    Port("tcp", "7946", "gossip among nodes"),
    Port("udp", "7946", "gossip among nodes"),
    Port("udp", "data_path_port", "overlay networks"),
)
_PRINTED: t.Final = "What 'docker swarm join-token -q {role}' prints on a manager."


def _check_manager(values: t.Mapping[str, t.Any], credentials: frozenset[str]) -> t.Iterator[Fault]:
    """A manager that joins has a token, and a subnet of the pool is no larger than the pool."""
    if values["manager"] is not None and "swarm-manager-token" not in credentials:
        yield Fault(
            "manager",
            "joining a swarm needs the credential swarm-manager-token.",
            "Give credentials: {swarm-manager-token: {src: FILE}} with what 'docker swarm join-token -q manager'"
            " prints, or leave manager out to make a new swarm.",
        )
    pool = ipaddress.ip_network(values["address_pool"])
    if pool.version != 4:
        yield Fault("address_pool", f"{pool} is no IPv4 network.", "Give one as 10.213.0.0/16.")
    elif values["subnet_size"] < pool.prefixlen:
        yield Fault(
            "subnet_size",
            f"a subnet of /{values['subnet_size']} does not fit into the pool {pool}.",
            f"Give a number from {pool.prefixlen} to 29.",
        )


def _check_image(values: t.Mapping[str, t.Any], _credentials: frozenset[str]) -> t.Iterator[Fault]:
    """An image comes from one place."""
    if values["digest"] is not None and values["image_file"] is not None:
        yield Fault(
            "digest",
            "an image that is loaded from image_file has no digest, and would be asked of a registry.",
            "Give one of the two; what is in the store is known by its path.",
        )


def _portainer(image: str, port: int, port_description: str) -> dict[str, Option]:
    """The options of both profiles of Portainer."""
    return {
        "version": Option(
            "str",
            "The release, the same for the server and all agents of an inventory.",
            default=PORTAINER_RELEASE,
            pattern=r"[0-9]+[.][0-9]+[.][0-9]+(-[a-z0-9]+)?",
            form="a release as 2.39.5",
        ),
        "image": Option(
            "str",
            "The image's name, with the registry if it is another than Docker's, without the tag.",
            default=image,
            pattern=r"[a-z0-9][a-z0-9._:/-]*",
            form="the name of an image",
        ),
        "digest": Option(
            "str",
            "The digest that the image must have.",
            pattern=r"sha256:[0-9a-f]{64}",
            form="a digest as sha256:...",
        ),
        "image_file": Option(
            "str",
            "An archive of docker-save(1) in the host's store, loaded instead of asking a registry.",
            pattern=r"/nix/store/[0-9a-z]{32}-[A-Za-z0-9+._?=-]+",
            form="a path in the store",
        ),
        "port": Option("int", port_description, default=port, least=1, most=65535),
    }


_SECRET: t.Final = Credential(
    "portainer-agent-secret", "One line that the server and its agents share, or any server could claim an agent."
)

SWARM: t.Final[tuple[Profile, ...]] = (
    Profile(
        name="docker_swarm_manager",
        description="A manager of a Docker swarm: the first one makes the swarm, others join it.",
        options={
            "manager": Option("address", "A manager whose swarm to join; without it, this one makes a new swarm."),
            **_NODE,
            "address_pool": Option(
                "subnet",
                "Where a new swarm takes the subnets of its overlay networks from.",
                # Docker's own, 10.0.0.0/8, begins with what many a guest's network is.
                default="10.213.0.0/16",
            ),
            "subnet_size": Option("int", "The prefix length of each of these subnets.", default=24, least=16, most=29),
        },
        least_mem=512,
        # Not 2048: QEMU hangs with it (issue 171 of microvm.nix).
        mem=2304,
        vcpu=2,
        stop_timeout=_STOP,
        volumes=(_VOLUME,),
        ports=(Port("tcp", "2377", "the managers' API, for nodes that join"), *_GOSSIP),
        credentials=(
            Credential(
                "swarm-manager-token", _PRINTED.format(role="manager") + " Needed with manager.", required=False
            ),
        ),
        excludes=("docker_swarm_worker",),
        with_address=True,
        check=_check_manager,
    ),
    Profile(
        name="docker_swarm_worker",
        description="A worker of a Docker swarm.",
        options={
            "manager": Option(
                "address", "A manager of the swarm to join: a guest of the inventory, or an address.", required=True
            ),
            **_NODE,
        },
        least_mem=512,
        mem=1024,
        vcpu=1,
        stop_timeout=_STOP,
        volumes=(_VOLUME,),
        ports=_GOSSIP,
        credentials=(Credential("swarm-worker-token", _PRINTED.format(role="worker")),),
        excludes=("docker_swarm_manager",),
        with_address=True,
    ),
)

PORTAINER: t.Final[tuple[Profile, ...]] = (
    Profile(
        name="portainer_server",
        description="Portainer's server, as a container of the guest's own Docker engine.",
        options={
            **_portainer("portainer/portainer-ce", 9443, "The TCP port of the server's web interface (HTTPS)."),
            "tunnel_port": Option(
                "int", "The TCP port that edge agents connect to; without it, there is none.", least=1, most=65535
            ),
        },
        least_mem=512,
        mem=1024,
        vcpu=1,
        stop_timeout=_STOP,
        volumes=(_VOLUME, Volume("portainer.img", "/var/lib/portainer", 2048)),
        ports=(
            Port("tcp", "port", "the web interface"),
            Port("tcp", "tunnel_port", "edge agents, when tunnel_port is set"),
        ),
        credentials=(
            _SECRET,
            Credential(
                "portainer-admin-password",
                "The first password of the user admin; without it, who comes first chooses one.",
                required=False,
            ),
        ),
        check=_check_image,
    ),
    Profile(
        name="portainer_agent",
        description="Portainer's agent, as a container of the guest's own Docker engine.",
        options=_portainer("portainer/agent", 9001, "The TCP port that Portainer reaches the agent at."),
        least_mem=384,
        mem=1024,
        vcpu=1,
        stop_timeout=_STOP,
        volumes=(_VOLUME,),
        ports=(Port("tcp", "port", "the agent's API"),),
        credentials=(_SECRET,),
        check=_check_image,
    ),
)


def check_releases(options: t.Mapping[str, t.Mapping[str, t.Mapping[str, t.Any]]]) -> t.Iterator[Fault]:
    """Portainer's server and its agents understand each other for sure only within one release.

    *options* is guest -> profile -> option -> value, of all guests of the inventory.
    """
    first: tuple[str, t.Any] | None = None
    for guest, profiles in options.items():
        for profile in ("portainer_server", "portainer_agent"):
            if profile not in profiles:
                continue
            version = profiles[profile]["version"]
            if first is None:
                first = guest, version
            elif version != first[1]:
                yield Fault(
                    f"profile_options.{profile}.version",
                    f"{version}, while guest {first[0]} has {first[1]}.",
                    "Give the server and all agents the same release.",
                    guest=guest,
                )


def check_swarms(options: t.Mapping[str, t.Mapping[str, t.Mapping[str, t.Any]]]) -> t.Iterator[Fault]:
    """A node's data path port is that of the manager that it joins, when that is a guest too."""
    managers = {
        profiles["docker_swarm_manager"]["advertise_address"]: guest
        for guest, profiles in options.items()
        if "docker_swarm_manager" in profiles
    }
    for guest, profiles in options.items():
        for profile in ("docker_swarm_manager", "docker_swarm_worker"):
            if profile not in profiles or profiles[profile]["manager"] not in managers:
                continue
            manager = managers[profiles[profile]["manager"]]
            port = options[manager]["docker_swarm_manager"]["data_path_port"]
            if profiles[profile]["data_path_port"] != port:
                yield Fault(
                    f"profile_options.{profile}.data_path_port",
                    f"{profiles[profile]['data_path_port']}, while the swarm of guest {manager} has {port}.",
                    "Give all nodes of a swarm the same port.",
                    guest=guest,
                )
