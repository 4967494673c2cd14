# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The profile of a desktop over SPICE."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._profile_spice import SPICE
from ansible_collections.microvm.fleet.plugins.module_utils._profiles import Guest, choose

TICKET: t.Final = frozenset({"spice-ticket"})


def guest(options: dict[str, t.Any] | None = None, **further: t.Any) -> Guest:
    wish: dict[str, t.Any] = {"name": "desk", "hypervisor": "qemu", **further}
    return Guest(profiles=("spice_desktop",), options={} if options is None else {"spice_desktop": options}, **wish)


def words(one: Guest) -> list[str]:
    return [str(error) for error in choose(one, {})[1]]


def test_by_default_there_is_no_port() -> None:
    chosen, errors = choose(guest(), {})
    assert errors == []
    assert chosen.options["spice_desktop"] == {
        "desktop": "icewm",
        "user": "desktop",
        "packages": ["xterm", "pcmanfm"],
        "clipboard": True,
        "file_transfer": True,
        "resize": True,
        "usb_ports": 0,
        "group_access": False,
        "address": None,
        "port": 5900,
    }
    assert [volume.mount_point for volume in chosen.volumes] == ["/home"]
    assert SPICE[0].ports == ()


@pytest.mark.parametrize("address", ["127.0.0.1", "192.0.2.7", "::1", "::", "2001:db8::7"])
def test_a_port_without_a_ticket_is_refused(address: str) -> None:
    (said,) = words(guest({"address": address}))
    assert "profile_options.spice_desktop.address" in said
    assert f"SPICE on {address} without a ticket would let everybody in" in said
    assert "spice-ticket" in said


def test_a_port_with_a_ticket() -> None:
    chosen, errors = choose(guest({"address": "192.0.2.7", "port": 5901}, credentials=TICKET), {})
    assert errors == []
    assert chosen.options["spice_desktop"]["address"] == "192.0.2.7"
    assert chosen.options["spice_desktop"]["port"] == 5901


@pytest.mark.parametrize("hypervisor", ["cloud-hypervisor", "firecracker", "crosvm", "kvmtool", "stratovirt", "alioth"])
def test_only_qemu_speaks_spice(hypervisor: str) -> None:
    (said,) = words(guest(hypervisor=hypervisor))
    assert f"profile spice_desktop does not run on {hypervisor}: only QEMU speaks SPICE" in said
    assert "Give qemu" in said


@pytest.mark.parametrize(
    ("options", "field", "seen"),
    [
        ({"desktop": "gnome"}, "desktop", "'gnome' is none of the choices"),
        ({"user": "Root User"}, "user", "is not the name of a user"),
        ({"packages": ["firefox", "a b"]}, "packages[1]", "is not the name of a package"),
        ({"packages": ["${evil}"]}, "packages[0]", "is not the name of a package"),
        ({"usb_ports": 9}, "usb_ports", "is out of range"),
        ({"clipboard": "yes"}, "clipboard", "is no boolean"),
        ({"address": "host.example"}, "address", "is not an IP address"),
        # Written as an address, and still none.
        ({"address": "1.2.3"}, "address", "is no IP address"),
        ({"address": "192.0.2.7,disable-ticketing=on"}, "address", "is not an IP address"),
        ({"address": "192.0.2.7", "group_access": True}, "group_access", "with address there is none"),
        ({"port": 80}, "port", "is out of range"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, t.Any], field: str, seen: str) -> None:
    (said,) = words(guest(options, credentials=TICKET))
    assert f"profile_options.spice_desktop.{field}" in said
    assert seen in said
