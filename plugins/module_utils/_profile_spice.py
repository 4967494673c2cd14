# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The profile of a desktop over SPICE.

Private to the collection: it may change at any time.

What QEMU can do with SPICE is from its manual page (-spice, -chardev spicevmc, -device usb-redir).
"""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._profile_frame import (
    Credential,
    Fault,
    Option,
    Profile,
    Volume,
)


def _check(values: t.Mapping[str, t.Any], credentials: frozenset[str]) -> t.Iterator[Fault]:
    """A port that anybody can reach has a ticket."""
    address = values["address"]
    if address is None:
        return
    try:
        ipaddress.ip_address(address)
    except ValueError:
        yield Fault("address", f"{address!r} is no IP address.", "Give one of the host's, or none for a socket.")
    if "spice-ticket" not in credentials:
        yield Fault(
            "address",
            f"SPICE on {address} without a ticket would let everybody in who reaches it.",
            "Give credentials: {spice-ticket: {src: FILE}}, or leave address out: microvm.fleet.console reaches the"
            " socket through SSH.",
        )
    if values["group_access"]:
        yield Fault("group_access", "is for the socket, and with address there is none.", "Leave one of them out.")


SPICE: t.Final[tuple[Profile, ...]] = (
    Profile(
        name="spice_desktop",
        description="A desktop that is used over SPICE.",
        options={
            "desktop": Option(
                "str",
                "The desktop that starts by itself; with none, a module of yours brings one.",
                default="icewm",
                choices=("icewm", "none"),
            ),
            "user": Option(
                "str",
                "Whose session it is. This user is made, without a password.",
                default="desktop",
                pattern=r"[a-z_][a-z0-9_-]{0,30}",
                form="the name of a user",
            ),
            "packages": Option(
                "list",
                "Programs to have at hand, as nixpkgs names them.",
                default=("xterm", "pcmanfm"),
                pattern=r"[A-Za-z_][A-Za-z0-9_'-]*([.][A-Za-z_][A-Za-z0-9_'-]*)*",
                form="the name of a package",
            ),
            "clipboard": Option("bool", "Share the clipboard with the client.", default=True),
            "file_transfer": Option("bool", "Let the client send files into the guest.", default=True),
            "resize": Option("bool", "Follow the size of the client's window.", default=True),
            "usb_ports": Option(
                "int", "How many USB devices of the client can be redirected at a time.", default=0, least=0, most=8
            ),
            "group_access": Option("bool", "Let the host's group kvm open the socket too (mode 0660).", default=False),
            "address": Option(
                "str",
                "Listen on this address of the host over TCP, instead of on a socket. Needs the credential"
                " spice-ticket.",
                pattern=r"[0-9A-Fa-f:.]+",
                form="an IP address",
            ),
            "port": Option("int", "The TCP port for address.", default=5900, least=1024, most=65535),
        },
        least_mem=768,
        # Not 2048: QEMU hangs with it (issue 171 of microvm.nix).
        mem=2560,
        vcpu=2,
        stop_timeout=90,
        volumes=(Volume("home.img", "/home", 10240),),
        credentials=(
            Credential(
                "spice-ticket",
                "The password for SPICE over TCP, without a newline at its end. Needed with address.",
                required=False,
            ),
        ),
        hypervisors=("qemu",),
        hypervisors_why="only QEMU speaks SPICE.",
        check=_check,
    ),
)
