# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of hypervisors: a row each, and what is refused, with those that can."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._contract import HYPERVISORS
from ansible_collections.microvm.fleet.plugins.module_utils._hypervisors import (
    CHOICES,
    CREDENTIAL_UNITS,
    FEATURES,
    SOCKET_VSOCK,
    Fault,
    faults,
    option_of,
    wanted,
    warnings,
    words,
)

QEMU, CLOUD, FIRE, CROS, LKVM, STRATO, ALIOTH = (
    "qemu",
    "cloud-hypervisor",
    "firecracker",
    "crosvm",
    "kvmtool",
    "stratovirt",
    "alioth",
)

NOTHING: dict[str, t.Any] = {
    "hypervisor": QEMU,
    "vcpu": 1,
    "mem": 512,
    "interfaces": [],
    "forward_ports": [],
    "shares": [],
    "store": "disk",
    "vsock_cid": None,
    "credentials": [],
    "options": {},
}


def interface(kind: str, *addresses: str) -> dict[str, t.Any]:
    return {"type": kind, "addresses": list(addresses)}


def share(proto: str, *, read_only: bool = False) -> dict[str, t.Any]:
    return {"proto": proto, "read_only": read_only}


# A wish, the option that is named where it cannot be, and the hypervisors on which it can: all others refuse it.
ROWS: dict[str, tuple[dict[str, t.Any], str, tuple[str, ...]]] = {
    "a tap": ({"interfaces": [interface("tap")]}, "interfaces[0].type", CHOICES),
    "a macvtap": ({"interfaces": [interface("macvtap")]}, "interfaces[0].type", (QEMU, CLOUD, CROS, LKVM)),
    "a user interface": ({"interfaces": [interface("user", "10.0.2.15/24")]}, "interfaces[0].type", (QEMU, LKVM)),
    "a second interface": (
        {"interfaces": [interface("tap"), interface("macvtap")]},
        "interfaces[1].type",
        (QEMU, CLOUD, CROS, LKVM),
    ),
    "ports": ({"forward_ports": [{"host_port": 1}]}, "forward_ports", (QEMU,)),
    "a virtiofs share": ({"shares": [share("virtiofs")]}, "shares[0].proto", (QEMU, CLOUD, CROS)),
    "a read-only virtiofs share": (
        {"shares": [share("virtiofs", read_only=True)]},
        "shares[0].proto",
        (QEMU, CLOUD, CROS),
    ),
    "a 9p share": ({"shares": [share("9p")]}, "shares[0].proto", (QEMU, LKVM)),
    "the store of the host": ({"store": "host"}, "store", (QEMU, CLOUD, CROS)),
    "vsock": ({"vsock_cid": 3}, "vsock_cid", (QEMU, CLOUD, FIRE, CROS, LKVM, ALIOTH)),
    "credentials": ({"credentials": ["token"]}, "credentials", (QEMU, CLOUD, CROS)),
    "a balloon": ({"options": {"microvm.balloon": True}}, "microvm_options.balloon", (QEMU, CLOUD, CROS, LKVM)),
    "huge pages": ({"options": {"microvm.hugepageMem": True}}, "microvm_options.hugepageMem", (CLOUD,)),
    "a user": ({"options": {"microvm.user": "web"}}, "microvm_options.user", (QEMU,)),
    "graphics": (
        {"options": {"microvm.graphics.enable": True}},
        "microvm_options.graphics.enable",
        (QEMU, CLOUD, CROS),
    ),
    "a CPU model": ({"options": {"microvm.cpu": "host"}}, "microvm_options.cpu", (QEMU,)),
    "a PCI device": (
        {"options": {"microvm.devices": [{"bus": "pci", "path": "0000:06:00.1"}]}},
        "microvm_options.devices",
        (QEMU, CLOUD, CROS),
    ),
    "a USB device": (
        {"options": {"microvm.devices": [{"bus": "usb", "path": "vendorid=0x0451"}]}},
        "microvm_options.devices",
        (QEMU,),
    ),
    "what is not asked for": ({"options": {"microvm.balloon": False, "microvm.user": None}}, "", CHOICES),
}


def seen(hypervisor: str, **fields: t.Any) -> list[Fault]:
    return list(faults({**NOTHING, "hypervisor": hypervisor, **fields}))


def test_every_hypervisor_of_linux_can_be_chosen() -> None:
    assert sorted(CHOICES) == sorted((QEMU, CLOUD, FIRE, CROS, LKVM, STRATO, ALIOTH))
    assert set(HYPERVISORS) - set(CHOICES) == {"vfkit"}


@pytest.mark.parametrize("hypervisor", CHOICES)
@pytest.mark.parametrize("row", ROWS)
def test_row(hypervisor: str, row: str) -> None:
    fields, option, able = ROWS[row]
    found = seen(hypervisor, **fields)
    if hypervisor in able:
        assert found == []
        return
    assert [fault.option for fault in found] == [option]
    assert found[0].seen.startswith(f"{hypervisor} has no support for ")
    assert found[0].hint == f"{words(able)} can do that."


@pytest.mark.parametrize("hypervisor", CHOICES)
def test_the_least_is_possible_on_all(hypervisor: str) -> None:
    assert seen(hypervisor) == []


def test_vfkit_is_refused() -> None:
    assert seen("vfkit", store="host") == [
        Fault("hypervisor", "vfkit runs on macOS only.", f"Choose one of {words(CHOICES)}.")
    ]


def test_every_feature_is_of_hypervisors_that_can_be_chosen() -> None:
    for able in FEATURES.values():
        assert able
        assert set(able) <= set(CHOICES)


def test_what_follows_from_the_table() -> None:
    assert set(CREDENTIAL_UNITS) == set(FEATURES["credentials"])
    assert set(SOCKET_VSOCK) < set(FEATURES["vsock"])
    assert set(FEATURES["the host's store"]) == set(FEATURES["virtiofs shares"])


def test_every_wish_is_a_feature_of_the_table() -> None:
    everything = {
        **NOTHING,
        "interfaces": [interface(kind) for kind in ("tap", "macvtap", "user")],
        "forward_ports": [{}],
        "shares": [share("virtiofs"), share("9p", read_only=True)],
        "store": "host",
        "vsock_cid": 3,
        "credentials": ["a"],
        "options": {
            "microvm.balloon": True,
            "microvm.initialBalloonMem": 1,
            "microvm.hotplugMem": 1,
            "microvm.hotpluggedMem": 1,
            "microvm.hugepageMem": True,
            "microvm.user": "a",
            "microvm.graphics.enable": True,
            "microvm.cpu": "a",
            "microvm.devices": [{"bus": "pci"}, {"bus": "usb"}],
        },
    }
    asked = {feature for _option, feature in wanted(everything)}
    assert asked == set(FEATURES) - {"a clean shutdown"}


def test_a_share_that_is_read_only_over_9p() -> None:
    assert seen(QEMU, shares=[share("9p", read_only=True)]) == []
    assert seen(LKVM, shares=[share("9p", read_only=True)]) == [
        Fault("shares[0].read_only", "kvmtool has no support for read-only 9p shares.", "qemu can do that.")
    ]


def test_a_user_interface_without_addresses() -> None:
    assert seen(QEMU, interfaces=[interface("user")]) == []
    assert [fault.option for fault in seen(LKVM, interfaces=[interface("user")])] == ["interfaces[0].addresses"]
    assert [fault.option for fault in seen(CROS, interfaces=[interface("user")])] == ["interfaces[0].type"]


def test_what_is_asked_for_twice_is_told_once() -> None:
    devices = [{"bus": "usb", "path": "vendorid=1"}] * 2
    assert len(seen(CROS, options={"microvm.devices": devices})) == 1


@pytest.mark.parametrize(("vcpu", "found"), [(32, 0), (33, 1)])
def test_processors_of_firecracker(vcpu: int, found: int) -> None:
    assert len(seen(FIRE, vcpu=vcpu)) == found
    assert seen(QEMU, vcpu=vcpu) == []


def test_a_name_that_is_too_long_for_qemu() -> None:
    assert seen(QEMU, credentials=["a" * 28]) == []
    assert seen(QEMU, credentials=["a" * 29]) == [
        Fault("credentials", f"{'a' * 29} has 29 characters, and qemu takes 28.", "Give it a shorter name.")
    ]
    assert seen(CLOUD, credentials=["a" * 29]) == []


@pytest.mark.parametrize("name", ["microvm.qemu.serialConsole", "microvm.qemu.extraArgs", "microvm.crosvm.extraArgs"])
def test_an_option_of_another_hypervisor(name: str) -> None:
    owner = name.split(".")[1]
    other = next(one for one in CHOICES if one != owner)
    assert seen(owner, options={name: []}) == []
    assert seen(other, options={name: []}) == [
        Fault(option_of(name), f"is one of {owner}, and the guest has {other}.", "Leave it out.")
    ]


MEMORY = [
    ({"microvm.hotplugMem": 512}, "microvm_options.hotplugMem"),
    ({"microvm.hotplugMem": 512, "microvm.qemu.machine": "q35"}, None),
    (
        {"microvm.hotplugMem": 512, "microvm.hotpluggedMem": 513, "microvm.qemu.machine": "q35"},
        "microvm_options.hotpluggedMem",
    ),
    ({"microvm.hotplugMem": 512, "microvm.hotpluggedMem": 512, "microvm.qemu.machine": "q35"}, None),
]


@pytest.mark.parametrize(("options", "option"), MEMORY)
def test_memory_that_is_plugged_in(options: dict[str, t.Any], option: str | None) -> None:
    assert [fault.option for fault in seen(QEMU, options=options)] == ([] if option is None else [option])


def test_a_balloon_that_is_filled_needs_one() -> None:
    filled = {"microvm.initialBalloonMem": 64}
    assert [fault.seen for fault in seen(CLOUD, options=filled)] == ["there is no balloon."]
    assert seen(CLOUD, options={**filled, "microvm.balloon": True}) == []


@pytest.mark.parametrize("hypervisor", CHOICES)
def test_a_guest_that_cannot_be_asked_to_power_off(hypervisor: str) -> None:
    found = list(warnings({**NOTHING, "hypervisor": hypervisor}))
    if hypervisor in (QEMU, CLOUD, FIRE, CROS):
        assert found == []
    else:
        assert found == [
            (
                f"hypervisor: {hypervisor} cannot ask a guest to power off, so every stop is like a power cut. "
                "qemu, cloud-hypervisor, firecracker and crosvm can."
            )
        ]


def test_the_memory_with_which_qemu_hangs() -> None:
    assert list(warnings({**NOTHING, "mem": 2048})) == [
        "mem: qemu hangs with exactly 2048 MiB. Give one MiB more or less."
    ]
    assert list(warnings({**NOTHING, "mem": 2049})) == []
    assert list(warnings({**NOTHING, "mem": 2048, "hypervisor": CLOUD})) == []


@pytest.mark.parametrize(("names", "said"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")])
def test_words(names: list[str], said: str) -> None:
    assert words(names) == said
