# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why a new runner needs a restart."""

from __future__ import annotations

import dataclasses
import itertools
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._contract import Interface, Runner, Volume
from ansible_collections.microvm.fleet.plugins.module_utils._guest_reasons import reasons

OLD = "/nix/store/1ci258innix3ldhhwj2as4915h8vlp79-microvm-qemu-web1"
NEW = "/nix/store/32sqyxb0gfzp0cvdxvshfwhiwgx84jl4-microvm-qemu-web1"
TAP = Interface(id="vm-web1", type="tap", mac="02:00:00:00:00:0b")
MACVTAP = Interface(id="vm-lan", type="macvtap", mac="02:00:00:00:00:0c", link="eth0", mode="bridge")
DATA = Volume(image="data.img", size=16, mount_point="/data", fs_type="ext4")
LOGS = Volume(image="/dev/vg0/logs", mount_point="/var/log", fs_type="ext4", auto_create=False)
RUNNER = Runner(
    path=OLD,
    hypervisor="qemu",
    host_name="web1",
    toplevel="/nix/store/1ci258innix3ldhhwj2as4915h8vlp79-nixos-system-web1",
    kernel="/nix/store/1ci258innix3ldhhwj2as4915h8vlp79-linux-6.12",
    initrd="/nix/store/1ci258innix3ldhhwj2as4915h8vlp79-initrd",
    kernel_params="quiet panic=1",
    mem=512,
    vcpu=1,
    interfaces=(TAP, MACVTAP),
    volumes=(DATA, LOGS),
    vsock_cid=31,
)


def changed(**values: t.Any) -> Runner:
    return dataclasses.replace(RUNNER, **{"path": NEW, **values})


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (RUNNER, []),
        (changed(path=OLD, mem=1024), []),
        (changed(), ["runner"]),
        (changed(hypervisor="cloud-hypervisor"), ["hypervisor qemu to cloud-hypervisor"]),
        (changed(mem=1024), ["memory 512 to 1024 MiB"]),
        (changed(vcpu=2), ["processors 1 to 2"]),
        (changed(interfaces=(TAP,)), ["network"]),
        (changed(interfaces=(MACVTAP, TAP)), ["runner"]),
        (changed(interfaces=(TAP, dataclasses.replace(MACVTAP, mode="private"))), ["network"]),
        (changed(interfaces=(dataclasses.replace(TAP, mac="02:00:00:00:00:0d"), MACVTAP)), ["network"]),
        (changed(interfaces=(dataclasses.replace(TAP, mac=None), MACVTAP)), ["runner"]),
        (changed(volumes=(DATA,)), ["volumes /dev/vg0/logs"]),
        (changed(volumes=(LOGS, DATA)), ["runner"]),
        (changed(volumes=(dataclasses.replace(DATA, size=32), LOGS)), ["volumes data.img"]),
        (changed(volumes=(dataclasses.replace(DATA, size=None), LOGS)), ["runner"]),
        (changed(volumes=(dataclasses.replace(DATA, read_only=True), LOGS)), ["volumes data.img"]),
        (changed(volumes=(DATA, Volume(image="new.img"))), ["volumes new.img /dev/vg0/logs"]),
        (changed(vsock_cid=None), ["vsock"]),
        (changed(kernel=NEW), ["kernel"]),
        (changed(initrd=NEW), ["initrd"]),
        (changed(kernel_params="quiet"), ["kernel parameters"]),
        (changed(host_name="web"), ["host name web1 to web"]),
        (changed(toplevel=NEW), ["system"]),
        (changed(toplevel=NEW, kernel=NEW, mem=1024), ["memory 512 to 1024 MiB", "kernel", "system"]),
    ],
)
def test_each_difference_has_its_words(after: Runner, said: list[str]) -> None:
    assert reasons(RUNNER, after) == said


def test_a_guest_without_a_runner_has_a_new_one() -> None:
    assert reasons(None, RUNNER) == ["new"]


def test_what_is_not_known_is_not_compared() -> None:
    assert reasons(Runner(path=OLD, vsock_cid=31, interfaces=(TAP, MACVTAP), volumes=(DATA, LOGS)), changed()) == [
        "runner"
    ]
    assert reasons(RUNNER, Runner(path=NEW, vsock_cid=31, interfaces=(TAP, MACVTAP), volumes=(DATA, LOGS))) == [
        "runner"
    ]


@pytest.mark.parametrize("field", ["mem", "vcpu", "kernel", "initrd", "kernel_params", "host_name", "toplevel"])
def test_a_fact_that_only_one_knows_says_nothing(field: str) -> None:
    for one, other in itertools.permutations((RUNNER, changed(**{field: None}))):
        assert reasons(one, other) == ["runner"]


def test_disks_that_a_package_does_not_name_are_not_missed() -> None:
    read = Runner(path=OLD, vsock_cid=31, interfaces=(TAP, MACVTAP), volumes=(Volume(image="data.img", size=16),))
    assert reasons(read, changed()) == ["runner"]
    assert reasons(read, changed(volumes=(dataclasses.replace(DATA, size=32), LOGS))) == ["volumes data.img"]
