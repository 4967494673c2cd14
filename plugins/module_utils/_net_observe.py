# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The networks of a host as they are: one read of the kernel, of systemd and of the collection's files.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import struct
import typing as t
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils import _nft, _nixos
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError, FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._files import TEMPORARY, read_text
from ansible_collections.microvm.fleet.plugins.module_utils._net_files import (
    NETWORKD,
    UNIT_NAME,
    WAIT_ONLINE,
    NetPaths,
)
from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import Network, parse
from ansible_collections.microvm.fleet.plugins.module_utils._networkd import PREFIX, UNMANAGED

if t.TYPE_CHECKING:  # pragma: no cover
    from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import Interface, Prefix

# linux/route.h and linux/ipv6_route.h.
_RTF_UP: t.Final = 0x1
_RTF_GATEWAY: t.Final = 0x2
_RTF_REJECT: t.Final = 0x200
# BOOTP's port for servers (RFC 951), which a DHCP server listens on.
_DHCP_PORT: t.Final = 67


@dataclass(frozen=True)
class Link:
    """One interface of the kernel.  *kind* is that of ``ip -d link`` (bridge, tun, veth), None for hardware."""

    name: str
    kind: str | None
    mac: str
    mtu: int
    up: bool
    carrier: bool
    master: str | None
    addresses: tuple[Interface, ...]
    # A tap, rather than a tun: both are of kind tun.
    tap: bool = False


@dataclass(frozen=True)
class Route:
    """One route that is no default route and no reject route."""

    prefix: Prefix
    interface: str
    gateway: bool


@dataclass(frozen=True)
class Service:
    """A unit as systemd has it (systemctl(1), ActiveState and UnitFileState)."""

    load: str = "not-found"
    active: str = "inactive"
    enabled: str = ""
    stale: bool = False

    @property
    def running(self) -> bool:
        """Whether it is up or on its way."""
        return self.active in ("active", "activating", "reloading")

    @property
    def boots(self) -> bool:
        """Whether it starts when the host boots."""
        return self.enabled in ("enabled", "enabled-runtime", "static", "linked", "generated", "alias", "indirect")


@dataclass(frozen=True)
class HostRecord:
    """How the host was before the collection touched it, so that the last network's end can put it back.

    *settings* are kernel settings by their path below /proc/sys, with the value that they had.  *foreign* are the
    interfaces that something else manages; None when systemd-networkd ran already, and then its manager has decided.
    *uplinks* are the interfaces with a default route when last there was one, by IP version.  *bridges* are all that
    the collection has made, those included that are to go.  *pending* is true from before the first step of a run until
    its end has been seen: a run that finds it so does again what leaves no trace.
    """

    settings: dict[str, str] = field(default_factory=dict)
    foreign: tuple[str, ...] | None = None
    networkd_active: bool = True
    networkd_enabled: bool = True
    wait_online_enabled: bool = True
    uplinks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    bridges: tuple[str, ...] = ()
    pending: bool = False

    def text(self) -> str:
        """The record as a file."""
        return (
            json.dumps(
                {
                    "settings": self.settings,
                    "foreign": None if self.foreign is None else list(self.foreign),
                    "networkd_active": self.networkd_active,
                    "networkd_enabled": self.networkd_enabled,
                    "wait_online_enabled": self.wait_online_enabled,
                    "uplinks": {key: list(value) for key, value in self.uplinks.items()},
                    "bridges": list(self.bridges),
                    "pending": self.pending,
                },
                indent=1,
                sort_keys=True,
            )
            + "\n"
        )

    @classmethod
    def read(cls, text: str, path: str) -> HostRecord:
        """The record of a file's *text*.  Raises FleetError, naming *path*."""
        try:
            value = json.loads(text)
            foreign = value["foreign"]
            return cls(
                settings={str(key): str(one) for key, one in value["settings"].items()},
                foreign=None if foreign is None else tuple(str(one) for one in foreign),
                networkd_active=bool(value["networkd_active"]),
                networkd_enabled=bool(value["networkd_enabled"]),
                wait_online_enabled=bool(value["wait_online_enabled"]),
                uplinks={str(key): tuple(one) for key, one in value["uplinks"].items()},
                bridges=tuple(str(one) for one in value.get("bridges", ())),
                pending=bool(value.get("pending", False)),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FleetError(
                f"{path} cannot be read ({error}).",
                subject="networks of the host",
                hint="It says how the host was before its first network. Restore it from a backup, or remove it, and "
                "the host's present state will count as what it was.",
            ) from None


@dataclass(frozen=True)
class Observed:
    """All that the planner needs to know of a host."""

    links: dict[str, Link] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    # Interfaces with a default route, by IP version ("4", "6").
    ways_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    table: _nft.Table | None = None
    services: dict[str, Service] = field(default_factory=dict)
    # Our files, by path as on the host.
    files: dict[str, str] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    # Records that say nothing: name of the network to what is wrong.
    broken: dict[str, str] = field(default_factory=dict)
    record: HostRecord | None = None
    settings: dict[str, str] = field(default_factory=dict)
    dhcp_servers: int = 0
    leftovers: tuple[str, ...] = ()
    # NixOS: `files` has what the system is to be made with, these have what the one that runs was made with.
    nixos: bool = False
    running: str | None = None
    sysctl: str = ""

    @property
    def bridges(self) -> frozenset[str]:
        """All bridges that the collection has made here, or began to make."""
        recorded = self.record.bridges if self.record else ()
        return frozenset((*recorded, *(one.bridge for one in self.networks.values())))

    def service(self, name: str) -> Service:
        """The unit *name*; one that systemd does not know is the default."""
        return self.services.get(name, Service())


def observe(commands: Commands, paths: NetPaths) -> Observed:
    """Read the host.  Raises CommandError when one of its tools fails, FleetError for a record that is damaged."""
    links = parse_links(commands.json(["ip", "-j", "-d", "address", "show"]))
    routes4, out4 = parse_routes_ipv4(read_text(paths.at("proc/net/route")) or "")
    routes6, out6 = parse_routes_ipv6(read_text(paths.at("proc/net/ipv6_route"), 1 << 24) or "")
    networks, broken = _records(paths)
    host = read_text(paths.host_record)
    nixos = _nixos.is_nixos(paths.root)
    files, leftovers = _files(paths, nixos=nixos)
    return Observed(
        links=links,
        routes=(*routes4, *routes6),
        ways_out={"4": out4, "6": out6},
        table=_table(commands),
        services=_services(commands),
        files=files,
        networks=networks,
        broken=broken,
        record=None if host is None else HostRecord.read(host, paths.shown(paths.host_record)),
        settings=_settings(paths, links),
        dhcp_servers=parse_udp(read_text(paths.at("proc/net/udp"), 1 << 24) or ""),
        leftovers=leftovers,
        nixos=nixos,
        running=read_text(paths.running) if nixos else None,
        sysctl=(read_text(paths.sysctl) or "") if nixos else "",
    )


def look(commands: Commands, paths: NetPaths, before: Observed) -> Observed:
    """Read again what the kernel has, and take the rest from *before*: for waiting."""
    links = parse_links(commands.json(["ip", "-j", "-d", "address", "show"]))
    return Observed(
        **{
            **before.__dict__,
            "links": links,
            "settings": _settings(paths, links),
            "dhcp_servers": parse_udp(read_text(paths.at("proc/net/udp"), 1 << 24) or ""),
        }
    )


def parse_links(document: t.Any) -> dict[str, Link]:
    """Interfaces by name of what ``ip -j -d address show`` printed."""
    found: dict[str, Link] = {}
    for item in document or ():
        name = item.get("ifname")
        if not name:
            continue
        info = item.get("linkinfo") or {}
        flags = item.get("flags") or ()
        addresses = [
            ipaddress.ip_interface(f"{one['local']}/{one['prefixlen']}")
            for one in item.get("addr_info") or ()
            if one.get("local") and "prefixlen" in one
        ]
        found[name] = Link(
            name=name,
            kind=info.get("info_kind"),
            mac=item.get("address", ""),
            mtu=int(item.get("mtu", 0)),
            up="UP" in flags,
            carrier="LOWER_UP" in flags,
            master=item.get("master"),
            addresses=tuple(addresses),
            tap=info.get("info_kind") == "tun" and (info.get("info_data") or {}).get("type") == "tap",
        )
    return found


def parse_routes_ipv4(text: str) -> tuple[list[Route], tuple[str, ...]]:
    """Routes, and interfaces with a default route, of /proc/net/route (net/ipv4/fib_trie.c): the main table."""
    routes: list[Route] = []
    ways_out: list[str] = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8:
            continue
        interface, flags = fields[0], int(fields[3], 16)
        if not flags & _RTF_UP or flags & _RTF_REJECT or interface == "*":
            continue
        mask = bin(int(fields[7], 16)).count("1")
        # Host byte order, as the kernel prints an unsigned long of what it has in network byte order.
        address = socket.inet_ntoa(struct.pack("=I", int(fields[1], 16)))
        if mask == 0:
            ways_out.append(interface)
        else:
            prefix = ipaddress.IPv4Network(f"{address}/{mask}", strict=False)
            routes.append(Route(prefix, interface, bool(flags & _RTF_GATEWAY)))
    return routes, tuple(dict.fromkeys(ways_out))


def parse_routes_ipv6(text: str) -> tuple[list[Route], tuple[str, ...]]:
    """As `parse_routes_ipv4`, of /proc/net/ipv6_route (net/ipv6/ip6_fib.c), less link-local, multicast and hosts."""
    routes: list[Route] = []
    ways_out: list[str] = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 10:
            continue
        interface, flags, length = fields[9], int(fields[8], 16), int(fields[1], 16)
        if not flags & _RTF_UP or flags & _RTF_REJECT or interface == "lo":
            continue
        address = ipaddress.IPv6Address(bytes.fromhex(fields[0]))
        if length == 0:
            ways_out.append(interface)
        elif not address.is_link_local and not address.is_multicast and length < 128:
            prefix = ipaddress.IPv6Network(f"{address}/{length}", strict=False)
            routes.append(Route(prefix, interface, bool(flags & _RTF_GATEWAY)))
    return routes, tuple(dict.fromkeys(ways_out))


def parse_udp(text: str) -> int:
    """How many sockets listen on the port of DHCP servers, of /proc/net/udp."""
    return sum(1 for line in text.splitlines()[1:] if line.split()[1].endswith(f":{_DHCP_PORT:04X}"))


def parse_services(text: str) -> dict[str, Service]:
    """Units by name of what ``systemctl show`` printed: blocks of ``Key=value``, an empty line between."""
    found: dict[str, Service] = {}
    for block in text.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in values:
            found[values["Id"]] = Service(
                load=values.get("LoadState", ""),
                active=values.get("ActiveState", ""),
                enabled=values.get("UnitFileState", ""),
                stale=values.get("NeedDaemonReload") == "yes",
            )
    return found


def _services(commands: Commands) -> dict[str, Service]:
    done = commands.run(
        [
            "systemctl",
            "show",
            "--property=Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload",
            NETWORKD,
            WAIT_ONLINE,
            UNIT_NAME,
        ]
    )
    return parse_services(done.stdout)


def _table(commands: Commands) -> _nft.Table | None:
    argv = ["nft", "-j", "list", "table", _nft.FAMILY, _nft.TABLE]
    done = commands.run(argv, check=False)
    if done.rc != 0:
        if "No such file or directory" in done.stderr:
            return None
        raise CommandError(
            f"nft -j list table ended with {done.rc}: {done.stderr.strip()}",
            subject="networks of the host",
            hint="Run as root, on a kernel with nf_tables.",
            argv=argv,
            rc=done.rc,
            stdout=done.stdout,
            stderr=done.stderr,
        )
    try:
        return _nft.parse(json.loads(done.stdout))
    except ValueError as error:
        raise CommandError(f"nft -j list table printed no JSON: {error}.", argv=argv, stdout=done.stdout) from None


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []


def _records(paths: NetPaths) -> tuple[dict[str, Network], dict[str, str]]:
    networks: dict[str, Network] = {}
    broken: dict[str, str] = {}
    for entry in _names(paths.records):
        name, dot, ending = entry.rpartition(".")
        if not dot or ending != "json" or entry.startswith(TEMPORARY):
            continue
        try:
            network = parse(json.loads(read_text(os.path.join(paths.records, entry)) or ""))
            if network.name != name:
                broken[name] = f"it is about {network.name}"
            else:
                networks[name] = network
        except (ValueError, TypeError, AttributeError, FleetError) as error:
            broken[name] = str(error)
    return networks, broken


def _files(paths: NetPaths, *, nixos: bool) -> tuple[dict[str, str], tuple[str, ...]]:
    """Our files by path as on the host, and what a killed run left beside them."""
    candidates = [paths.manager, paths.unit, paths.loader, paths.ruleset, paths.sets, paths.sysctl]
    if nixos:
        candidates = [paths.description]
    leftovers: list[str] = []
    fixed = (*candidates, paths.host_record)
    directories = {*(os.path.dirname(path) for path in fixed), paths.records}
    if not nixos:
        directories.add(paths.networkd)
        candidates += [
            os.path.join(paths.networkd, name)
            for name in _names(paths.networkd)
            if name.startswith(PREFIX) or name == UNMANAGED
        ]
    for directory in sorted(directories):
        for name in _names(directory):
            # `beside` of _files.py puts the name of the target between this and the number of its process.
            target = os.path.join(directory, name[len(TEMPORARY) :].rpartition(".")[0])
            ours = directory == paths.records or os.path.basename(target).startswith((PREFIX, UNMANAGED))
            if name.startswith(TEMPORARY) and (ours or target in fixed):
                leftovers.append(paths.shown(os.path.join(directory, name)))
    files = {paths.shown(path): text for path in candidates for text in [read_text(path)] if text is not None}
    return files, tuple(sorted(leftovers))


def _settings(paths: NetPaths, links: t.Mapping[str, Link]) -> dict[str, str]:
    """Kernel settings about forwarding, by their path below /proc/sys; taps have none that matters here."""
    keys = ["net/ipv6/conf/all/forwarding"]
    for name, link in links.items():
        if link.kind != "tun":
            keys += [f"net/ipv4/conf/{name}/forwarding", f"net/ipv6/conf/{name}/accept_ra"]
    found = {}
    for key in keys:
        text = read_text(os.path.join(paths.settings, key), 64)
        if text is not None:
            found[key] = text.strip()
    return found
