# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts before a run, and the runs: every kind of change that the guest engine makes."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._describe import Surroundings
from ansible_collections.microvm.fleet.plugins.module_utils._descriptions import networks_of
from ansible_collections.microvm.fleet.plugins.module_utils._guest_run import Result, converge
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import Limits, read_wishes
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FLAKE, FakeHost, Spec

Wishes = list[dict[str, t.Any]]


# What the descriptions of the scenes refer to.
SURROUNDINGS = Surroundings(networks=networks_of([{"name": "lan", "addresses": ["10.0.0.1/24", "fd00::1/64"]}]))


def run(host: FakeHost, wishes: Wishes, *, check: bool = False, **options: t.Any) -> Result:
    """One run over all guests of the host."""
    update = options.pop("update", "never")
    return converge(
        read_wishes(wishes, update=update, surroundings=lambda: SURROUNDINGS),
        paths=host.paths,
        commands=host,
        limits=Limits(lock=0),
        check=check,
        all_guests=True,
        **options,
    )


@dataclass(frozen=True)
class Scene:
    """A host before a run, and the run."""

    before: t.Callable[[FakeHost], object]
    wishes: Wishes
    options: t.Mapping[str, t.Any]


SCENES: dict[str, Scene] = {}


def scene(wishes: Wishes, **options: t.Any) -> t.Callable[[t.Callable[[FakeHost], object]], object]:
    """Register a function that prepares the host of a scene, by its name."""

    def register(before: t.Callable[[FakeHost], object]) -> object:
        SCENES[before.__name__] = Scene(before, wishes, options)
        return before

    return register


def wish(name: str = "web1", **fields: t.Any) -> dict[str, t.Any]:
    """A wish from the flake."""
    return {"name": name, "flake": FLAKE, **fields}


@scene([wish()])
def create(host: FakeHost) -> None:
    host.offer(Spec("web1"))


@scene([wish(state="started", autostart=True, start_timeout=20, labels={"a": "b"}), wish("web2", state="started")])
def create_and_start(host: FakeHost) -> None:
    host.offer(Spec("web1"), Spec("web2"))


@scene([{"name": "web1", "runner": Spec("web1").path, "state": "started"}])
def create_from_runner(host: FakeHost) -> None:
    host.publish(Spec("web1"))


@scene([wish()])
def complete(host: FakeHost) -> None:
    host.offer(Spec("web1"))
    host.guest("web1").mkdir()
    host.guest("web1", "data.img").touch()


def ran(host: FakeHost, **fields: t.Any) -> None:
    host.offer(Spec("web1"))
    run(host, [wish(state="started", autostart=True, **fields)])


@scene([wish(state="started")], update="activate")
def update_running(host: FakeHost) -> None:
    ran(host)
    host.renew("web1")


@scene([wish()], update="activate")
def update_stopped(host: FakeHost) -> None:
    host.offer(Spec("web1"))
    run(host, [wish()])
    host.renew("web1")


@scene([wish()], update="stage")
def stage(host: FakeHost) -> None:
    ran(host)
    host.renew("web1")


@scene([wish()], update="activate")
def activate_staged(host: FakeHost) -> None:
    ran(host)
    host.renew("web1")
    run(host, [wish()], update="stage")


@scene([wish()], update="activate_staged")
def activate_only_what_is_staged(host: FakeHost) -> None:
    ran(host)
    host.renew("web1")
    run(host, [wish()], update="stage")
    host.renew("web1")


@scene([wish(generation="1")], update="activate")
def go_to_a_generation(host: FakeHost) -> None:
    ran(host)
    for _time in range(2):
        host.renew("web1")
        run(host, [wish()], update="activate")


@scene([wish(state="stopped", generation="healthy")])
def go_to_a_generation_stopped(host: FakeHost) -> None:
    ran(host)
    host.renew("web1")
    run(host, [wish()], update="activate")
    run(host, [wish(state="stopped")])
    host.renew("web1")
    run(host, [wish()], update="activate")


@scene([wish(health=[{"kind": "tcp", "port": 80, "address": "10.0.0.11"}], state="started")])
def create_and_judge(host: FakeHost) -> None:
    host.offer(Spec("web1"))


@scene([wish(keep_generations=2)], update="activate")
def forget(host: FakeHost) -> None:
    ran(host)
    for _time in range(3):
        host.renew("web1")
        run(host, [wish(keep_generations=4)], update="activate")
    host.renew("web1")


@scene([wish()], update="activate")
def roll_back(host: FakeHost) -> None:
    ran(host)
    host.renew("web1")
    run(host, [wish()], update="activate")
    host.renew("web1", version=1)


@scene([wish()], update="activate")
def adopt_and_update(host: FakeHost) -> None:
    host.offer(Spec("web1"))
    host.microvm_create(Spec("web1", version=0))
    host.start("web1")


@scene([wish(protect=True, labels={"a": "b"}, stop_timeout=9, autostart=True)])
def adopt_and_protect(host: FakeHost) -> None:
    host.microvm_create(Spec("web1"))


@scene([wish(state="restarted", stop_timeout=30)])
def restart(host: FakeHost) -> None:
    ran(host, stop_timeout=20)


@scene([wish(state="stopped", autostart=False)])
def stop(host: FakeHost) -> None:
    ran(host)


@scene([wish(state="absent")])
def remove(host: FakeHost) -> None:
    ran(host, stop_timeout=20)


@scene([wish(state="absent", purge=True)])
def purge(host: FakeHost) -> None:
    ran(host, stop_timeout=20)
    host.guest("web1", "share").mkdir()
    host.guest("web1", "share", "file").touch()


@scene([wish("web2")], prune=True)
def prune(host: FakeHost) -> None:
    ran(host)
    host.offer(Spec("web2"))


# Guests that are described


def described(name: str = "web1", **fields: t.Any) -> dict[str, t.Any]:
    """A wish that describes its guest."""
    return {"name": name, "hypervisor": "qemu", "network": {"name": "lan", "index": 11}, **fields}


TOKEN = {"token": {"src": "token.txt"}}


def described_before(host: FakeHost, **fields: t.Any) -> None:
    """A guest that was described before, and runs."""
    host.static_flake()
    host.put_credential("web1", "token")
    run(host, [described(state="started", **fields)])


@scene([described(state="started"), described("web2", network={"name": "lan", "index": 12}), wish("web3")])
def describe(host: FakeHost) -> None:
    host.static_flake()
    host.offer(Spec("web3"))


@scene([described(state="started", credentials=TOKEN, stop_timeout=30)])
def describe_with_credentials(host: FakeHost) -> None:
    host.static_flake()
    host.put_credential("web1", "token")


@scene([described(hypervisor="crosvm", credentials=TOKEN, state="started")])
def describe_with_shared_credentials(host: FakeHost) -> None:
    host.static_flake()
    host.put_credential("web1", "token")


@scene([described(mem=1024)], update="activate")
def describe_otherwise(host: FakeHost) -> None:
    described_before(host)


@scene([described(mem=1024, credentials=TOKEN)], update="stage")
def describe_for_later(host: FakeHost) -> None:
    described_before(host)


@scene([described(hypervisor="cloud-hypervisor", credentials=TOKEN)], update="activate")
def describe_on_another_hypervisor(host: FakeHost) -> None:
    described_before(host, credentials=TOKEN)


@scene([described()], update="activate")
def describe_without_credentials(host: FakeHost) -> None:
    described_before(host, hypervisor="cloud-hypervisor", credentials=TOKEN)


@scene([{"name": "web1", "state": "absent"}])
def remove_described(host: FakeHost) -> None:
    described_before(host, hypervisor="cloud-hypervisor", credentials=TOKEN)


@scene([wish()], update="activate")
def describe_no_more(host: FakeHost) -> None:
    described_before(host)
    host.offer(Spec("web1"))


@scene([described()], update="activate")
def describe_what_was_of_a_flake(host: FakeHost) -> None:
    host.static_flake()
    ran(host)


@scene([described(mem=1024)], update="activate_staged")
def activate_a_staged_description(host: FakeHost) -> None:
    described_before(host)
    run(host, [described(mem=1024)], update="stage")
