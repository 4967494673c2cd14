# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests that a wish describes: from options to entries of guests.json, with every check that needs no host.

Private to the collection: it may change at any time.  Pure functions.

An entry has every key, so that Nix has no defaults of its own (``nix/guest.nix`` of the static flake).  What follows
from a network and an index is the same on every run and on every host.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import ipaddress
import json
import posixpath
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils import _hypervisors, _microvm_options, _profiles
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import (
    INTERFACE_LIMIT,
    InterfaceWish,
    interface_faults,
    is_described,
    mac_fault,
)
from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import Network

if t.TYPE_CHECKING:  # pragma: no cover
    from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import Interface

# Three bytes of a MAC hold more, but the lower half of a CID does not, and its last two numbers are kept for nothing.
INDEX: t.Final = (1, 65533)
# MiB.  NixOS does not boot with less; 16 TiB is beyond any host.
MEM: t.Final = (32, 1 << 24)
VCPU: t.Final = (1, 512)
# MiB: 1 PiB.
SIZE: t.Final = (1, 1 << 30)
# vsock(7): 0 to 2 are taken, and the last is VMADDR_CID_ANY.
CID: t.Final = (3, 0xFFFFFFFE)
# lib/default.nix of microvm.nix gives volumes the letters of the alphabet; the store's disk has the first.
VOLUMES_LIMIT: t.Final = 25
# virtio-v1.2, 5.11.4: the tag of a file system has 36 bytes.
TAG_LIMIT: t.Final = 36
CREDENTIAL_NAME_LIMIT: t.Final = 64
LABEL_LIMIT: t.Final[t.Mapping[str, int]] = {"xfs": 12, "vfat": 11}
# mke2fs(8): a volume label has 16 bytes; that of btrfs may be longer.
LABEL_LIMIT_OTHERS: t.Final = 16

# What `nix/guest.nix` adds by itself.
RESERVED_TAGS: t.Final = ("ro-store", "fleet-credentials")
CREDENTIALS_MOUNT: t.Final = "/run/fleet-credentials"
# Where NixOS keeps its own in every guest: a mount over them leaves it without what it runs.
OWN_MOUNTS: t.Final = ("/", "/nix", "/nix/store", "/nix/.ro-store", "/dev", "/proc", "/sys", "/run", CREDENTIALS_MOUNT)
# Entries of a state directory that are no images.
OWN_FILES: t.Final = (
    "booted",
    "current",
    "flake",
    "new",
    "notify.vsock",
    "old",
    "supervisord.log",
    "supervisord.pid",
    "toplevel",
)

# Characters that neither a shell within single quotes nor an option of a hypervisor's command line reads as more.
_PATH = re.compile(r"[A-Za-z0-9_./@+=:-]+")
# networking.hostName of NixOS, which is RFC 1123 and the underscore; that one is of no use in names of DNS.
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_RELEASE = re.compile(r"[0-9]{2}\.(05|11)")
_CREDENTIAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_TAG = re.compile(r"[A-Za-z0-9_-]+")
_MODULE = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]*(/[A-Za-z0-9_+][A-Za-z0-9_.+-]*)*")
_PARENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")
# sshd(8), "AUTHORIZED_KEYS FILE FORMAT"; without options, which change what a key may do.
_KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)


@dataclass(frozen=True)
class Surroundings:
    """What descriptions refer to.

    *networks* None means that they are not known here, so nothing is said about what follows from them.  *peers* are
    addresses of guests elsewhere, by name: options of profiles may name one of them.
    """

    networks: t.Mapping[str, Network] | None = None
    peers: t.Mapping[str, t.Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """A guest as it is described.

    *entry* is that of guests.json.  *stop_timeout* (seconds) is what its profiles ask for.  *claims* are kind, value
    and option of what only one guest of a host may have, beside its interfaces.
    """

    entry: t.Mapping[str, t.Any]
    interfaces: tuple[InterfaceWish, ...]
    stop_timeout: int | None = None
    warnings: tuple[str, ...] = ()
    claims: tuple[tuple[str, str, str], ...] = ()


# Derivations


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()


def mac_of(network: str, index: int) -> str:
    """The MAC address of number *index* in *network*: locally administered, of one interface (IEEE 802, 8.4)."""
    return ":".join(f"{byte:02x}" for byte in b"\x02" + _digest(network)[:2] + index.to_bytes(3, "big"))


def tap_of(network: str, index: int) -> str:
    """The name of the tap of number *index* in *network*, short enough for the kernel."""
    name = f"vm-{network}-{index}"
    return name if len(name) <= INTERFACE_LIMIT else f"vm-{_digest(network).hex()[:6]}-{index}"


def cid_of(network: str, index: int) -> int:
    """The vsock context identifier of number *index* in *network*."""
    return (1 + (int.from_bytes(_digest(network)[:2], "big") >> 1)) * 65536 + index


def addresses_of(network: Network, index: int) -> tuple[str, ...]:
    """The addresses of number *index* in *network*, one for each of its prefixes, with their lengths."""
    return tuple(f"{prefix[index]}/{prefix.prefixlen}" for prefix in network.prefixes)


def hosts_of(network: Network) -> list[Interface]:
    """The addresses of the host itself in *network*."""
    return [*network.ipv4, *network.ipv6]


def first_of(network: Network) -> tuple[str, ...]:
    """The first address of the host in *network*, of each family."""
    hosts: list[Interface] = [*network.ipv4[:1], *network.ipv6[:1]]
    return tuple(str(host.ip) for host in hosts)


def gateways_of(network: Network) -> tuple[str, ...]:
    """The way out of *network*, one a family: its router, or the bridge."""
    router = [str(network.dhcp.router)] if network.dhcp and network.dhcp.router else []
    own = first_of(network)
    return (*router, *(address for address in own if not (router and "." in address)))


def servers_of(network: Network) -> tuple[str, ...]:
    """The DNS servers of *network*: those that its clients are told of, or the bridge."""
    told: list[t.Any] = []
    if network.dhcp and network.dhcp.dns:
        told += network.dhcp.dns
    if network.advertisements and network.advertisements.dns:
        told += network.advertisements.dns
    if told:
        return tuple(str(one) for one in told)
    return first_of(network)


def index_faults(network: Network, index: int) -> t.Iterator[tuple[str, str]]:
    """What is wrong with number *index* in *network*: what was seen, and what to do."""
    for prefix in network.prefixes:
        # The first address of a subnet is the subnet's, and the last of IPv4's is for all (RFC 919), but in /31 and
        # /127 (RFC 3021, RFC 6164).
        last = prefix.num_addresses - (2 if prefix.version == 4 and prefix.num_addresses > 2 else 1)
        if index > last:
            yield f"{index} is outside {prefix} of network {network.name}.", f"Give a number from 1 to {last}."
            return
    for host in hosts_of(network):
        if host.network[index] == host.ip:
            yield f"{index} gives {host.ip}, which is the host's own address there.", "Give another number."
    pool = network.dhcp
    if pool is not None:
        for prefix in network.prefixes:
            if prefix.version == 4 and pool.first <= prefix[index] <= pool.last:
                seen = f"{index} gives {prefix[index]}, which the DHCP server of network {network.name} hands out"
                yield f"{seen} ({pool.first} to {pool.last}).", "Give another number, or move the pool."


# Reading


def describe_all(
    entries: t.Sequence[t.Mapping[str, t.Any]], surroundings: Surroundings
) -> dict[int, Description | list[FleetError]]:
    """The description, or all that is wrong with it, of each of *entries* that has a hypervisor, by its place.

    Entries are as the argument spec leaves them, and their names are names of guests.
    """
    readers = _readers(entries, surroundings)
    peers: dict[str, t.Sequence[str]] = {name: tuple(addresses) for name, addresses in surroundings.peers.items()}
    peers.update(_addresses(entries, readers))
    return {place: reader.read(peers) for place, reader in readers.items()}


def addresses_by_name(
    entries: t.Sequence[t.Mapping[str, t.Any]], surroundings: Surroundings
) -> dict[str, t.Sequence[str]]:
    """The addresses that are known beforehand of each guest of *entries* that is not to go."""
    return _addresses(entries, _readers(entries, surroundings))


def _readers(entries: t.Sequence[t.Mapping[str, t.Any]], surroundings: Surroundings) -> dict[int, _Reader]:
    return {place: _Reader(entry, surroundings) for place, entry in enumerate(entries) if is_described(entry)}


def _addresses(
    entries: t.Sequence[t.Mapping[str, t.Any]], readers: t.Mapping[int, _Reader]
) -> dict[str, t.Sequence[str]]:
    found: dict[str, t.Sequence[str]] = {}
    for place, entry in enumerate(entries):
        if place in readers:
            found[str(entry["name"])] = readers[place].addresses
        elif entry.get("state") != "absent":
            interfaces = entry.get("interfaces") or ()
            found[str(entry["name"])] = [str(one) for each in interfaces for one in each.get("addresses") or ()]
    return found


class _Reader:
    """Reads one description and gathers what is wrong."""

    def __init__(self, entry: t.Mapping[str, t.Any], surroundings: Surroundings) -> None:
        self.given = entry
        self.name = str(entry["name"])
        self.hypervisor = str(entry["hypervisor"])
        self.networks = surroundings.networks
        self.errors: list[FleetError] = []
        self.index: tuple[str, int] | None = None
        self.said: list[tuple[str, int | None]] = []
        self.interfaces = self._interfaces()

    def wrong(self, option: str, seen: str, hint: str) -> None:
        self.errors.append(InvalidWish(seen, subject=f"guest {self.name}", field=option, hint=hint))

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses that are known beforehand, with the lengths of their networks."""
        return tuple(address for interface in self.interfaces for address in interface["addresses"])

    def read(self, peers: t.Mapping[str, t.Sequence[str]]) -> Description | list[FleetError]:
        """The description, or what is wrong."""
        given = self.given
        entry: dict[str, t.Any] = {
            "hypervisor": self.hypervisor,
            "vcpu": self._number("vcpu", VCPU),
            "mem": self._number("mem", MEM),
            "host_name": self._host_name(),
            "release": self._release(),
            "interfaces": self.interfaces,
            "volumes": self._volumes(),
            "shares": self._shares(),
            "forward_ports": self._forward_ports(),
            "store": given.get("store") or "disk",
            "credentials": self._credentials(),
            "ssh_keys": self._ssh_keys(),
            "modules": self._modules(),
            "options": self._options(),
        }
        entry["vsock_cid"] = self._vsock_cid()
        chosen = self._profiles(entry, peers)
        entry["profiles"] = {name: dict(options) for name, options in chosen.options.items()}
        entry["vcpu"] = entry["vcpu"] or chosen.vcpu or 1
        entry["mem"] = entry["mem"] or chosen.mem or 512
        entry["volumes"] += [
            {
                "image": volume.image,
                "mount_point": volume.mount_point,
                "size": volume.size,
                "fs_type": volume.fs_type,
                "label": None,
                "read_only": False,
                "auto_create": True,
            }
            for volume in chosen.volumes
        ]
        self._mounts(entry)
        if not any(error.field and error.field.startswith("microvm_options") for error in self.errors):
            for fault in _hypervisors.faults(entry):
                self.wrong(self._said(fault.option), fault.seen, fault.hint)
        if self.errors:
            return self.errors
        return Description(
            # As it is read back from the file: what is compared there has no tuples.
            entry=json.loads(json.dumps(entry)),
            interfaces=tuple(
                InterfaceWish(
                    id=one["id"],
                    mac=one["mac"],
                    network=one["network"],
                    addresses=tuple(address.partition("/")[0] for address in one["addresses"]),
                    type=one["type"],
                    said=said,
                    index=index,
                )
                for one, (said, index) in zip(self.interfaces, self.said)
            ),
            stop_timeout=chosen.stop_timeout,
            warnings=tuple(f"guest {self.name}, {warning}" for warning in _hypervisors.warnings(entry)),
            claims=tuple(self._claims(entry)),
        )

    def _said(self, option: str) -> str:
        """*option* of an entry as the wish has it: the first interface may be that of ``network``."""
        if self.given.get("network") is None:
            return option
        match = re.match(r"interfaces\[(\d+)\](.*)", option)
        if match is None:
            return option
        place = int(match.group(1)) - 1
        return "network" if place < 0 else f"interfaces[{place}]{match.group(2)}"

    def _claims(self, entry: t.Mapping[str, t.Any]) -> t.Iterator[tuple[str, str, str]]:
        yield "host name", entry["host_name"], "host_name"
        if entry["vsock_cid"] is not None:
            yield "vsock CID", str(entry["vsock_cid"]), "vsock_cid"
        for place, volume in enumerate(entry["volumes"]):
            if volume["image"].startswith("/") and not volume["read_only"]:
                yield "image", volume["image"], f"volumes[{place}].image"
        for place, port in enumerate(entry["forward_ports"]):
            where = f"{port['host_address'] or '*'}:{port['host_port']}/{port['proto']}"
            yield "port", where, f"forward_ports[{place}].host_port"

    # Plain values

    def _number(self, option: str, limits: tuple[int, int]) -> int | None:
        value = self.given.get(option)
        if value is not None and not limits[0] <= value <= limits[1]:
            self.wrong(option, f"{value} is out of range.", f"Give a number from {limits[0]} to {limits[1]}.")
        return value

    def _host_name(self) -> str:
        given = self.given.get("host_name")
        name = str(given) if given is not None else re.sub("[._]", "-", self.name)
        if _HOST_NAME.fullmatch(name) is None:
            self.wrong(
                "host_name",
                f"{name!r} is no host name." if given is not None else f"{name!r}, made of its name, is no host name.",
                "Give letters, digits and '-', beginning and ending with a letter or a digit, 63 at most.",
            )
        return name

    def _release(self) -> str | None:
        given = self.given.get("release")
        if given is not None and _RELEASE.fullmatch(given) is None:
            self.wrong("release", f"{given!r} is no release of NixOS.", "Give one such as '25.11', in quotes.")
        return given

    def _vsock_cid(self) -> int | None:
        given = self.given.get("vsock_cid")
        if given is None:
            return (
                cid_of(*self.index) if self.index is not None and self.hypervisor in _hypervisors.SOCKET_VSOCK else None
            )
        if given == 0:
            return None
        if not CID[0] <= given <= CID[1]:
            self.wrong("vsock_cid", f"{given} is out of range.", f"Give a number from {CID[0]} to {CID[1]}, or 0.")
        return int(given)

    # Interfaces

    def _interfaces(self) -> list[dict[str, t.Any]]:
        """All interfaces as entries have them, that of ``network`` first."""
        found = []
        network = self.given.get("network")
        if network is not None:
            found.append(self._interface({"network": network["name"], "index": network["index"]}, "network", number=0))
        for place, given in enumerate(self.given.get("interfaces") or ()):
            found.append(self._interface(given, f"interfaces[{place}]", number=len(found)))
        seen: dict[tuple[str, str], int] = {}
        for place, one in enumerate(found):
            for key in ("id", "mac"):
                other = seen.setdefault((key, one[key]), place)
                if one[key] and other != place:
                    where = f"interfaces[{place - (network is not None)}].{key}"
                    self.wrong(where, f"{one[key]} is already that of another interface.", "Give each its own.")
        return found

    def _interface(self, given: t.Mapping[str, t.Any], option: str, *, number: int) -> dict[str, t.Any]:
        kind = given.get("type") or "tap"
        network, index = given.get("network"), given.get("index")
        known = self._network(network, option, kind)
        name_option = f"{option}.name" if option == "network" else f"{option}.network"
        if index is not None:
            if network is None:
                self.wrong(f"{option}.index", f"{index} is a number in no network.", "Give network too.")
            elif not INDEX[0] <= index <= INDEX[1]:
                hint = f"Give a number from {INDEX[0]} to {INDEX[1]}."
                self.wrong(f"{option}.index", f"{index} is out of range.", hint)
                index = None
            elif known is not None:
                for seen, hint in index_faults(known, index):
                    self.wrong(f"{option}.index", seen, hint)
                    index = None
                    break
        self.said.append((option, index))
        placed = network is not None and index is not None
        if placed and self.index is None:
            self.index = (str(network), int(t.cast("int", index)))
        identity = self._identity(given, option, kind, placed=placed, number=number)
        if identity and known is not None and not any(fnmatch.fnmatchcase(identity, one) for one in known.taps):
            self.wrong(
                name_option,
                f"the bridge of network {network} takes no tap with the name {identity}; "
                f"its taps are {', '.join(known.taps)}.",
                "Give the interface another id, or the network another pattern in taps.",
            )
        addresses = self._addresses(given, option, known)
        if not addresses and placed and known is not None and given.get("index") is not None:
            addresses = list(addresses_of(known, int(t.cast("int", index))))
        return {
            "type": kind,
            "id": identity,
            "mac": self._mac(given, option, kind, identity, placed=placed),
            "network": network,
            "addresses": addresses,
            "gateways": list(gateways_of(known)) if known is not None and addresses else [],
            "dns": list(servers_of(known)) if known is not None and addresses else [],
            "dhcp": not addresses and self._leased(network, known),
            "link": self._link(given, option, kind),
            "mode": self._mode(given, option, kind),
        }

    def _leased(self, network: str | None, known: Network | None) -> bool:
        """Whether an interface without addresses asks a DHCP server for some."""
        if network is None:
            return True
        return known is not None and known.dhcp is not None

    def _network(self, network: str | None, option: str, kind: str) -> Network | None:
        """The network of that name, where networks are known at all."""
        name_option = f"{option}.name" if option == "network" else f"{option}.network"
        if network is not None and kind != "tap":
            self.wrong(name_option, f"a {kind} interface is in no network of the host.", "Leave it out.")
            return None
        if network is None or self.networks is None:
            return None
        known = self.networks.get(network)
        if known is None:
            there = ", ".join(sorted(self.networks)) or "none"
            self.wrong(name_option, f"there is no network {network}; there are: {there}.", "Name one of them.")
        return known

    def _identity(self, given: t.Mapping[str, t.Any], option: str, kind: str, *, placed: bool, number: int) -> str:
        identity = given.get("id")
        if identity is not None:
            for seen in interface_faults(identity):
                self.wrong(f"{option}.id", seen, "Give a name such as vm-web1, with at most 15 characters.")
            return str(identity)
        if placed:
            return tap_of(str(given["network"]), int(given["index"]))
        if kind == "user":
            return f"user{number}"
        if given.get("index") is None:
            self.wrong(f"{option}.id", "is missing.", "Give a name such as vm-web1, or network and index.")
        return ""

    def _mac(self, given: t.Mapping[str, t.Any], option: str, kind: str, identity: str, *, placed: bool) -> str:
        mac = given.get("mac")
        if mac is not None:
            fault = mac_fault(mac)
            if fault is not None:
                self.wrong(f"{option}.mac", *fault)
            return str(mac).lower()
        if placed:
            return mac_of(str(given["network"]), int(given["index"]))
        if kind == "user":
            # Nobody but the guest's own hypervisor sees it.
            return ":".join(f"{byte:02x}" for byte in b"\x02" + _digest(f"{self.name}/{identity}")[:5])
        if given.get("index") is None:
            hint = "Give six pairs such as 02:00:00:00:00:01, or network and index."
            self.wrong(f"{option}.mac", "is missing, and others on the same link must not have it.", hint)
        return ""

    def _addresses(self, given: t.Mapping[str, t.Any], option: str, known: Network | None) -> list[str]:
        """The addresses that were given, with the lengths of their networks."""
        found = []
        for place, text in enumerate(given.get("addresses") or ()):
            where = f"{option}.addresses[{place}]"
            try:
                one = ipaddress.ip_interface(text)
            except ValueError:
                self.wrong(where, f"{text!r} is no IP address.", "Give it as 192.0.2.11/24 or 2001:db8::11/64.")
                continue
            hosts = hosts_of(known) if known is not None else []
            around = [host for host in hosts if host.version == one.version and one.ip in host.network]
            if "/" not in text:
                if not around:
                    self.wrong(where, f"{text} has no length of its network.", f"Give it as {text}/24, or the like.")
                    continue
                one = ipaddress.ip_interface(f"{one.ip}/{around[0].network.prefixlen}")
            if any(host.ip == one.ip for host in hosts):
                self.wrong(where, f"{one.ip} is the host's own address there.", "Give another.")
            if known is not None and hosts and not around:
                inside = ", ".join(str(prefix) for prefix in known.prefixes)
                self.wrong(where, f"{one.ip} is outside network {known.name}, {inside}.", "Give one inside it.")
            found.append(str(one))
        return found

    def _link(self, given: t.Mapping[str, t.Any], option: str, kind: str) -> str | None:
        link = given.get("link")
        if kind != "macvtap":
            if link is not None:
                self.wrong(f"{option}.link", f"a {kind} interface has none.", "Leave it out, or let type be macvtap.")
            return None
        if link is None:
            self.wrong(f"{option}.link", "is missing.", "Name the interface of the host that it is made on.")
        elif len(link) > INTERFACE_LIMIT or _PARENT.fullmatch(link) is None:
            self.wrong(f"{option}.link", f"{link!r} is no name of an interface.", "See ip link for those of the host.")
        return t.cast("str | None", link)

    def _mode(self, given: t.Mapping[str, t.Any], option: str, kind: str) -> str | None:
        mode = given.get("mode")
        if kind == "macvtap":
            return str(mode or "bridge")
        if mode is not None:
            self.wrong(f"{option}.mode", "is for a macvtap interface.", "Leave it out, or let type be macvtap.")
        return None

    # Disks and directories

    def _volumes(self) -> list[dict[str, t.Any]]:
        found = []
        for place, given in enumerate(self.given.get("volumes") or ()):
            option = f"volumes[{place}]"
            create = given.get("auto_create") is not False
            size, fs_type, label = given.get("size"), given.get("fs_type") or "ext4", given.get("label")
            if size is not None and not SIZE[0] <= size <= SIZE[1]:
                self.wrong(f"{option}.size", f"{size} MiB is out of range.", f"Give MiB from {SIZE[0]} to {SIZE[1]}.")
            elif size is None and create:
                self.wrong(f"{option}.size", "is missing.", "Give MiB, or auto_create: false for one that exists.")
            image = self._image(str(given["image"]), option, create=create)
            limit = LABEL_LIMIT.get(fs_type, LABEL_LIMIT_OTHERS)
            if label is not None and (len(label) > limit or _TAG.fullmatch(label) is None):
                self.wrong(
                    f"{option}.label",
                    f"{label!r} is no label of {fs_type}.",
                    f"Give letters, digits, - and _, {limit} at most.",
                )
            found.append(
                {
                    "image": image,
                    "mount_point": self._mount_point(given.get("mount_point"), option),
                    "size": size,
                    "fs_type": fs_type,
                    "label": label,
                    "read_only": bool(given.get("read_only")),
                    "auto_create": create,
                }
            )
        return found

    def _image(self, image: str, option: str, *, create: bool) -> str:
        """*image* without detours; what leaves the state directory has to say so by beginning with a slash."""
        where = f"{option}.image"
        if _PATH.fullmatch(image) is None or image.endswith("/"):
            self.wrong(where, f"{image!r} is no path of an image.", "Use letters, digits and any of _./@+=:- in it.")
            return image
        if ".." in image.split("/"):
            self.wrong(where, f"{image!r} leads out of where it begins.", "Give an absolute path, or one without '..'.")
            return image
        path = posixpath.normpath(image)
        own = (*OWN_FILES, f"{self.given.get('host_name') or self.name}.sock")
        if path in own or path.startswith(".microvm-fleet."):
            self.wrong(where, f"{image!r} is a file of the guest's directory with another use.", "Give another name.")
        if path.startswith("/dev/") and create:
            self.wrong(where, f"{image!r} is a device, and cannot be made.", "Give auto_create: false.")
        return path

    def _mount_point(self, path: str | None, option: str) -> str | None:
        if path is None:
            return None
        where = f"{option}.mount_point"
        if not path.startswith("/") or _PATH.fullmatch(path) is None or ".." in path.split("/"):
            self.wrong(where, f"{path!r} is no directory to mount at.", "Give an absolute path without '..'.")
            return path
        place = posixpath.normpath(path)
        if place in OWN_MOUNTS or place.startswith(("/proc/", "/sys/", "/dev/", "/nix/store/")):
            self.wrong(where, f"{place} is what the guest itself stands on.", "Mount it at another place.")
        return place

    def _shares(self) -> list[dict[str, t.Any]]:
        found = []
        tags: set[str] = set(RESERVED_TAGS)
        for place, given in enumerate(self.given.get("shares") or ()):
            option = f"shares[{place}]"
            tag, source = str(given["tag"]), str(given["source"])
            if _TAG.fullmatch(tag) is None or len(tag) > TAG_LIMIT:
                hint = f"Give letters, digits, - and _, {TAG_LIMIT} at most."
                self.wrong(f"{option}.tag", f"{tag!r} is no tag.", hint)
            elif tag in tags:
                why = "is kept for the collection." if tag in RESERVED_TAGS else "is that of another share."
                self.wrong(f"{option}.tag", f"{tag} {why}", "Give each share its own.")
            tags.add(tag)
            if not source.startswith("/") or _PATH.fullmatch(source) is None or ".." in source.split("/"):
                self.wrong(
                    f"{option}.source",
                    f"{source!r} is no directory of the host.",
                    "Give an absolute path without '..', of letters, digits and any of _./@+=:-.",
                )
            else:
                source = posixpath.normpath(source)
            read_only = bool(given.get("read_only"))
            if not read_only and (source == "/" or _within("/nix/store", source) or _within(source, "/nix/store")):
                self.wrong(
                    f"{option}.source",
                    f"{source} has the host's /nix/store, and the guest could change the host's programs there.",
                    "Give read_only: true, or share another directory.",
                )
            found.append(
                {
                    "tag": tag,
                    "source": source,
                    "mount_point": self._mount_point(str(given["mount_point"]), option),
                    "proto": given.get("proto") or "virtiofs",
                    "read_only": read_only,
                }
            )
        return found

    def _mounts(self, entry: t.Mapping[str, t.Any]) -> None:
        """What is there twice among all volumes and shares, those of profiles included."""
        if len(entry["volumes"]) > VOLUMES_LIMIT:
            count = len(entry["volumes"])
            self.wrong("volumes", f"{count}, and a guest has {VOLUMES_LIMIT} at most.", "Give fewer.")
        seen: dict[tuple[str, str], str] = {}
        for kind, values in (("volumes", entry["volumes"]), ("shares", entry["shares"])):
            for place, one in enumerate(values):
                for key in ("image", "label", "mount_point"):
                    value = one.get(key)
                    if value is None:
                        continue
                    where = f"{kind}[{place}].{key}"
                    other = seen.setdefault((key, value), where)
                    if other != where:
                        self.wrong(where, f"{value} is already that of {other.rpartition('.')[0]}.", "Give another.")

    def _forward_ports(self) -> list[dict[str, t.Any]]:
        found: list[dict[str, t.Any]] = []
        for place, given in enumerate(self.given.get("forward_ports") or ()):
            option = f"forward_ports[{place}]"
            for key in ("host_port", "guest_port"):
                if not 1 <= given[key] <= 65535:
                    self.wrong(f"{option}.{key}", f"{given[key]} is no port.", "Give a number from 1 to 65535.")
            address = given.get("host_address")
            address = "127.0.0.1" if address is None else address
            try:
                if address:
                    ipaddress.IPv4Address(address)
            except ValueError:
                self.wrong(
                    f"{option}.host_address",
                    f"{address!r} is no IPv4 address.",
                    "Give one of the host's, or '' for all of them.",
                )
            one = {
                "proto": given.get("proto") or "tcp",
                "host_address": address,
                "host_port": given["host_port"],
                "guest_port": given["guest_port"],
            }
            if any(one["proto"] == other["proto"] and one["host_port"] == other["host_port"] for other in found):
                self.wrong(f"{option}.host_port", f"{one['host_port']} is forwarded already.", "Give another.")
            found.append(one)
        if found and not any(one["type"] == "user" for one in self.interfaces):
            self.wrong(
                "forward_ports",
                "they lead to an interface of type user, and the guest has none.",
                "Add {type: user} to interfaces, or reach the guest by its own address.",
            )
        return found

    # What is put into the guest

    def _credentials(self) -> list[str]:
        names = []
        for name, source in (self.given.get("credentials") or {}).items():
            option = f"credentials.{name}"
            if not isinstance(name, str) or _CREDENTIAL.fullmatch(name) is None or len(name) > CREDENTIAL_NAME_LIMIT:
                self.wrong(
                    "credentials",
                    f"{name!r} is no name of a credential.",
                    f"Use letters, digits, '_', '-' and '.', {CREDENTIAL_NAME_LIMIT} at most.",
                )
            elif (
                not isinstance(source, t.Mapping)
                or len(source) != 1
                or not set(source) <= {"src", "path"}
                or not all(isinstance(value, str) and value for value in source.values())
            ):
                self.wrong(
                    option,
                    "says not where its file is.",
                    "Give src, a file on the controller, or path, a file on the host.",
                )
            elif "path" in source and not source["path"].startswith("/"):
                self.wrong(f"{option}.path", f"{source['path']!r} is relative.", "Give an absolute path.")
            names.append(str(name))
        return sorted(names)

    def _ssh_keys(self) -> list[str]:
        found = []
        for place, text in enumerate(self.given.get("ssh_keys") or ()):
            key = str(text).strip()
            seen = key_fault(key)
            if seen is not None:
                self.wrong(
                    f"ssh_keys[{place}]", seen, "Give a line of a .pub file, such as 'ssh-ed25519 AAAA... name'."
                )
            found.append(key)
        return found

    def _modules(self) -> list[str]:
        found: list[str] = []
        for place, text in enumerate(self.given.get("modules") or ()):
            option = f"modules[{place}]"
            path = str(text)
            if _MODULE.fullmatch(path) is None or ".." in path.split("/"):
                self.wrong(
                    option,
                    f"{path!r} is no path of a module.",
                    "Give a relative path without '..', such as nixos/extra.nix.",
                )
            elif path in found:
                self.wrong(option, f"{path} is given twice.", "Give it once.")
            found.append(path)
        return found

    def _options(self) -> dict[str, t.Any]:
        given = self.given.get("microvm_options") or {}
        options: dict[str, t.Any] = {}
        for name, value in given.items():
            full = _microvm_options.full(str(name))
            if full in options:
                self.wrong(f"microvm_options.{name}", "is given twice.", "Give it once.")
            options[full] = value
        for fault in _microvm_options.faults(options):
            self.wrong(_hypervisors.option_of(fault.option), fault.seen, fault.hint)
        return options

    def _profiles(self, entry: t.Mapping[str, t.Any], peers: t.Mapping[str, t.Sequence[str]]) -> _profiles.Chosen:
        """What the profiles come to.

        Where networks are not known, addresses that follow from them are not either: who knows them checks it all.
        """
        guest = _profiles.Guest(
            name=self.name,
            hypervisor=self.hypervisor,
            profiles=tuple(self.given.get("profiles") or ()),
            options=self.given.get("profile_options") or {},
            mem=entry["mem"],
            addresses=self.addresses,
            credentials=frozenset(entry["credentials"]),
            volumes=tuple(entry["volumes"]),
            shares=tuple(str(share["mount_point"]) for share in entry["shares"]),
        )
        chosen, errors = _profiles.choose(guest, peers)
        if self.networks is not None or self.given.get("network") is None:
            self.errors += errors
        return chosen


def _within(place: str, outer: str) -> bool:
    """Whether directory *place* is *outer* or lies in it."""
    return place == outer or place.startswith(outer.rstrip("/") + "/")


def key_fault(key: str) -> str | None:
    """What is wrong with *key* as a public key of SSH (RFC 4253, section 6.6), or None."""
    if "PRIVATE KEY" in key:
        return "is a private key, which belongs to nobody else."
    if "\n" in key:
        return "has more than one line."
    words = key.split(None, 2)
    if len(words) < 2 or words[0] not in _KEY_TYPES:
        return f"{key[:40]!r} is no public key of SSH."
    try:
        data = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        return f"the key after {words[0]} is cut or misspelt."
    size = int.from_bytes(data[:4], "big")
    if data[4 : 4 + size] != words[0].encode("ascii") or len(data) <= 4 + size:
        return f"the key after {words[0]} is cut or misspelt."
    return None
