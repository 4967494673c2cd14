# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and addresses of a lab. Nothing here does I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass

from .errors import TestbedError

# A lab name starts host names, and those are DNS labels and machine names.
LAB_NAME = re.compile(r"[a-z](?:-?[a-z0-9]){0,15}")
HOST_NAME = re.compile(r"(?P<lab>[a-z](?:-?[a-z0-9]){0,15})-(?P<number>[1-9][0-9]{0,2})")
MAX_HOSTS = 200

# 10.231.X.0/24 and fd4d:564d:6674:X::/64 are the labs'; what stands for the rest of the
# world has an address of the documentation ranges (RFC 5737, RFC 3849).
SUBNETS = 254
OUTSIDE_IPV4 = "198.51.100.1"
OUTSIDE_IPV6 = "2001:db8:6674::1"
OUTSIDE_PORT = 9000
BRIDGE = "br-lab"
FIRST_HOST = 10


def check_lab_name(name: str) -> str:
    """Return the name if a lab may have it."""
    if not LAB_NAME.fullmatch(name):
        raise TestbedError(
            f"lab name {name!r}: must start with a letter and have at most 16 lower-case letters, digits "
            f"and single hyphens between them"
        )
    return name


def split_host(name: str, default_lab: str) -> tuple[str, int]:
    """Lab and number of a host given as LAB-N, or as N in the default lab."""
    if re.fullmatch(r"[1-9][0-9]{0,2}", name):
        return default_lab, int(name)
    match = HOST_NAME.fullmatch(name)
    if not match:
        raise TestbedError(f"host {name!r}: must be LAB-NUMBER, such as {default_lab}-1")
    return match["lab"], int(match["number"])


def choose_subnet(lab: str, taken: Collection[int]) -> int:
    """Subnet number (1 to 254) of a lab: the one its name hashes to, or the next that no other lab has."""
    start = int.from_bytes(hashlib.sha256(lab.encode()).digest()[:4], "big") % SUBNETS
    for step in range(SUBNETS):
        number = (start + step) % SUBNETS + 1
        if number not in taken:
            return number
    raise TestbedError(f"lab {lab}: all {SUBNETS} subnets are taken; take down labs that are not needed")


@dataclass(frozen=True)
class Subnet:
    """A lab's addresses."""

    number: int

    @property
    def controller_ipv4(self) -> str:
        return f"10.231.{self.number}.1"

    @property
    def controller_ipv6(self) -> str:
        return f"fd4d:564d:6674:{self.number:x}::1"

    def host_ipv4(self, number: int) -> str:
        return f"10.231.{self.number}.{FIRST_HOST + number}"

    def host_ipv6(self, number: int) -> str:
        return f"fd4d:564d:6674:{self.number:x}::{FIRST_HOST + number:x}"


def netns_batch(subnet: Subnet) -> str:
    """Input of ``ip -batch`` that sets up the lab's network namespace."""
    lines = [
        "link set lo up",
        f"address add {OUTSIDE_IPV4}/32 dev lo",
        f"address add {OUTSIDE_IPV6}/128 dev lo nodad",
        f"link add {BRIDGE} type bridge",
        f"address add {subnet.controller_ipv4}/24 dev {BRIDGE}",
        f"address add {subnet.controller_ipv6}/64 dev {BRIDGE} nodad",
        f"link set {BRIDGE} up",
    ]
    return "\n".join(lines) + "\n"


def networkd_file(subnet: Subnet, number: int) -> str:
    """A host's uplink as a systemd.network(5) file."""
    return f"""\
[Match]
Name=host0

[Network]
Address={subnet.host_ipv4(number)}/24
Address={subnet.host_ipv6(number)}/64
Gateway={subnet.controller_ipv4}
Gateway={subnet.controller_ipv6}
IPv6AcceptRA=no
"""


def ifupdown_file(subnet: Subnet, number: int) -> str:
    """A host's uplink as an interfaces(5) file."""
    return f"""\
auto lo
iface lo inet loopback

auto host0
iface host0 inet static
    address {subnet.host_ipv4(number)}/24
    gateway {subnet.controller_ipv4}

iface host0 inet6 static
    address {subnet.host_ipv6(number)}/64
    gateway {subnet.controller_ipv6}
    accept_ra 0
"""


def networkmanager_file(subnet: Subnet, number: int) -> str:
    """A host's uplink as a connection profile (nm-settings-keyfile(5)), to be readable by root only."""
    return f"""\
[connection]
id=host0
type=ethernet
interface-name=host0

[ipv4]
method=manual
address1={subnet.host_ipv4(number)}/24,{subnet.controller_ipv4}

[ipv6]
method=manual
address1={subnet.host_ipv6(number)}/64,{subnet.controller_ipv6}
"""


def hosts_file(name: str, subnet: Subnet, number: int) -> str:
    """A host's hosts(5) file."""
    return f"""\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
{subnet.host_ipv4(number)} {name}
{subnet.host_ipv6(number)} {name}
{subnet.controller_ipv4} controller
{subnet.controller_ipv6} controller
{OUTSIDE_IPV4} outside
{OUTSIDE_IPV6} outside
"""
