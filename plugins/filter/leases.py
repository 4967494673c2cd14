# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests' wishes to what the network of their host has to know."""

from __future__ import annotations

import ipaddress
import re
import typing as t
from collections.abc import Callable, Mapping

from ansible.errors import AnsibleFilterError

from ansible_collections.microvm.fleet.plugins.plugin_utils._values import sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAC = re.compile(r"[0-9a-f]{2}([:-]?[0-9a-f]{2}){5}")


def leases(guests: t.Any, network: str, *, only: bool = False) -> list[dict[str, str]]:
    """DHCP leases for the guests with an interface in *network*: name, mac and address, by address.

    *guests* are entries of ``microvm_guests``.  An interface counts when it has a MAC, and an IPv4 address among its
    addresses (the first is taken), and names *network* or, with *only* true, no network: *only* says that the host has
    but this one.  Raises AnsibleFilterError, naming guest and field.
    """
    found: list[tuple[ipaddress.IPv4Address, dict[str, str]]] = []
    for name, interface, addresses in _interfaces(guests, network, only=only):
        ipv4 = [one for one in addresses if isinstance(one, ipaddress.IPv4Address)]
        if ipv4 and interface.get("mac") is not None:
            lease = {"name": name, "mac": _mac(interface["mac"], name), "address": str(ipv4[0])}
            found.append((ipv4[0], lease))
    return [lease for _ip, lease in sorted(found, key=lambda one: one[0])]


def host_entries(guests: t.Any) -> list[str]:
    """Lines for hosts(5), an address and its guest's name each, of all interfaces of *guests*, by address."""
    found = {(one, name) for name, _mac, addresses in _interfaces(guests, None, only=True) for one in addresses}
    return [
        f"{address} {name}" for address, name in sorted(found, key=lambda one: (one[0].version, int(one[0]), one[1]))
    ]


def network_wishes(networks: t.Any, guests: t.Any) -> list[t.Any]:
    """*networks* as ``microvm_nets`` takes them, with the leases of *guests* after those that are written down.

    A network without DHCP stays so; a lease that is written down stands for the guest's.
    """
    entries = sequence(networks, "networks")
    present = [one for one in entries if isinstance(one, Mapping) and one.get("state") != "absent"]
    wishes: list[t.Any] = []
    for entry in entries:
        dhcp = entry.get("dhcp") if isinstance(entry, Mapping) else None
        if entry in present and isinstance(dhcp, Mapping):
            written = list(sequence(dhcp.get("leases"), f"network {entry.get('name')}, dhcp.leases"))
            names = [one.get("name") for one in written if isinstance(one, Mapping)]
            known = leases(guests, str(entry.get("name")), only=len(present) == 1)
            wishes.append(
                {**entry, "dhcp": {**dhcp, "leases": written + [one for one in known if one["name"] not in names]}}
            )
        else:
            wishes.append(entry)
    return wishes


def _interfaces(
    guests: t.Any, network: str | None, *, only: bool
) -> t.Iterator[tuple[str, Mapping[str, t.Any], list[Address]]]:
    """Name, interface and addresses of each guest's interface in *network*; in any if that is None."""
    for number, guest in enumerate(sequence(guests, "guests"), 1):
        if not isinstance(guest, Mapping) or not guest.get("name"):
            message = f"leases: guest number {number} of the list has no name."
            raise AnsibleFilterError(message)
        if guest.get("state") == "absent":
            continue
        name = str(guest["name"])
        for interface in sequence(guest.get("interfaces"), f"guest {name}, interfaces"):
            if not isinstance(interface, Mapping):
                message = f"guest {name}, interfaces: {interface!r} is no dictionary."
                raise AnsibleFilterError(message)
            of = interface.get("network")
            if network is None or of == network or (of is None and only):
                values = sequence(interface.get("addresses"), f"guest {name}, addresses")
                yield name, interface, [_address(value, name) for value in values]


def _address(value: t.Any, name: str) -> Address:
    """The address of *value*, which may have a prefix length."""
    try:
        return ipaddress.ip_interface(str(value)).ip
    except ValueError as error:
        message = f"guest {name}, addresses: {value!r} is no address. Write it as 10.0.0.11 or 10.0.0.11/24."
        raise AnsibleFilterError(message) from error


def _mac(value: t.Any, name: str) -> str:
    text = str(value).strip().lower()
    if not _MAC.fullmatch(text):
        message = f"guest {name}, mac: {value!r} is no MAC address. Write it as 02:00:00:00:00:01."
        raise AnsibleFilterError(message)
    digits = re.sub("[:-]", "", text)
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


class FilterModule:
    """The filters of this file, as Ansible finds them."""

    def filters(self) -> dict[str, Callable[..., t.Any]]:
        """By name."""
        return {"leases": leases, "host_entries": host_entries, "network_wishes": network_wishes}
