# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From wishes and an observed host to steps: pure functions, no I/O.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import json
import os
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.microvm.fleet.plugins.module_utils import _net_files, _networkd, _nft
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._net_files import NETWORKD, UNIT_NAME, WAIT_ONLINE, NetPaths
from ansible_collections.microvm.fleet.plugins.module_utils._net_observe import HostRecord, Link, Observed, Route
from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import Network, Wishes, check_together, overlap

if t.TYPE_CHECKING:  # pragma: no cover
    from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import Prefix

ALL_IPV6: t.Final = "net/ipv6/conf/all/forwarding"
_HOST: t.Final = "networks of the host"
# Paths are those of a real host; apply puts the root of a unit test before them.
_PATHS: t.Final = NetPaths()


@dataclass(frozen=True)
class Step:
    """One thing to do.  *words* say it, for ``actions``."""

    words: str


@dataclass(frozen=True)
class WriteFile(Step):
    """Put *text* at *path*."""

    path: str
    text: str
    mode: int = 0o644


@dataclass(frozen=True)
class RemoveFile(Step):
    """Remove the file *path*."""

    path: str


@dataclass(frozen=True)
class Systemctl(Step):
    """Call ``systemctl`` with *arguments*."""

    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Networkctl(Step):
    """Call ``networkctl`` with *arguments*."""

    arguments: tuple[str, ...]


@dataclass(frozen=True)
class DeleteBridge(Step):
    """Remove the interface *bridge* from the kernel."""

    bridge: str


@dataclass(frozen=True)
class SetKernel(Step):
    """Set the kernel setting *key*, a path below /proc/sys, if its interface is there."""

    key: str
    value: str


@dataclass(frozen=True)
class Difference:
    """A field of what is, that is not as wished."""

    network: str | None
    field: str
    wished: str
    seen: str

    @property
    def subject(self) -> str:
        """The object for a message."""
        return f"network {self.network}" if self.network else _HOST

    @property
    def words(self) -> str:
        """For a message."""
        return f"wished is {self.wished}, but the host has {self.seen}."


@dataclass(frozen=True)
class Target:
    """What the host shall be."""

    networks: dict[str, Network] = field(default_factory=dict)
    record: HostRecord | None = None
    files: dict[str, str] = field(default_factory=dict)
    sets: _nft.Sets = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    uplinks: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    target: Target
    steps: tuple[Step, ...] = ()
    # Done when all is seen to be as wished: what forgets.
    closing: tuple[Step, ...] = ()
    orphans: tuple[str, ...] = ()
    pruned: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    before: dict[str, t.Any] = field(default_factory=dict)
    after: dict[str, t.Any] = field(default_factory=dict)
    # NixOS: the system that runs was made with other networks than these.
    switch_needed: bool = False

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.steps or self.closing)

    @property
    def actions(self) -> list[str]:
        """One line a step; bookkeeping has no words."""
        return [step.words for step in (*self.steps, *self.closing) if step.words]


def make(wishes: Wishes, observed: Observed, *, prune: bool = False, stage: bool = False) -> Plan:
    """The plan.  Raises InvalidWish for a wish that this host cannot have, FleetError for a host that cannot do it.

    With *stage*, for NixOS only, it ends with the description that the host's system is to be made with.  Without, that
    description has to be there, and the system that runs has to be made with it.
    """
    if stage and not observed.nixos:
        raise InvalidWish(
            "only the networks of NixOS hosts are described before they are made.",
            subject=_HOST,
            field="stage",
            hint="Leave it out.",
        )
    orphans = tuple(sorted({*observed.networks, *observed.broken} - wishes.names))
    networks = dict(observed.networks)
    for name in (*wishes.absent, *(orphans if prune else ())):
        networks.pop(name, None)
    networks.update((one.name, one) for one in wishes.present)
    networks = dict(sorted(networks.items()))
    if not prune:
        for name in orphans:
            if name in observed.broken:
                raise FleetError(
                    f"its record, {_PATHS.record(name)}, cannot be read ({observed.broken[name]}).",
                    subject=f"network {name}",
                    hint="Wish for the network again, as present or as absent, and the record is made anew.",
                )
    _check_host(observed, networks)
    _check(wishes, networks, observed)
    target = _target(networks, observed)
    closing: list[Step] = []
    if stage:
        steps = _staging(target, observed)
    else:
        if observed.nixos:
            _check_system(target, observed)
        steps, closing = _steps(target, observed)
    return Plan(
        target=target,
        steps=tuple(steps),
        closing=tuple(closing),
        orphans=orphans,
        pruned=orphans if prune else (),
        warnings=tuple(_warnings(target)),
        before=picture(observed.networks, observed),
        after=_predicted(target, observed),
        switch_needed=observed.nixos and _description_of(target, observed) != (observed.running or _networks_json()),
    )


# Checks that need the host.


def _check_host(observed: Observed, networks: t.Mapping[str, Network]) -> None:
    # On NixOS the system brings it.
    if not networks or observed.nixos:
        return
    networkd = observed.service(NETWORKD)
    if networkd.load == "masked" or networkd.enabled.startswith("masked"):
        raise FleetError(
            "systemd-networkd, which keeps networks, is masked.",
            subject=_HOST,
            hint="Unmask it: systemctl unmask systemd-networkd.service.",
        )
    if networkd.load != "loaded":
        raise FleetError(
            "systemd-networkd, which keeps networks, is not on this host.",
            subject=_HOST,
            hint="Install it (it comes with systemd, or as package systemd-networkd).",
        )


def _check_system(target: Target, observed: Observed) -> None:
    """Raise when this NixOS host runs a system that was not made with the networks of *target*."""
    wished = _description_of(target, observed)
    if observed.files.get(_PATHS.description, _networks_json()) != wished:
        raise FleetError(
            "what is wished is not what this NixOS host's system is described with.",
            subject=_HOST,
            field=_PATHS.description,
            hint="The role microvm.fleet.network keeps the networks of NixOS hosts: it describes them and switches the "
            "host to a system that has them. Wish for all networks of the host there.",
        )
    if (observed.running or _networks_json()) != wished:
        raise FleetError(
            "the system that this NixOS host runs was not made with it.",
            subject=_HOST,
            field=_PATHS.description,
            hint="Run the role microvm.fleet.network, or switch the host to a system of its configuration.",
        )


def _description_of(target: Target, observed: Observed) -> str:
    """What the description is to be."""
    return target.files.get(_PATHS.description, "") if observed.nixos else ""


def _check(wishes: Wishes, networks: t.Mapping[str, Network], observed: Observed) -> None:
    wished = {one.name for one in wishes.present}
    # Those that are only on the host come first, so that a message is about what was wished.
    check_together([*(one for name, one in networks.items() if name not in wished), *wishes.present])
    bridges = {one.bridge: one.name for one in networks.values()}
    ours = {*bridges, *observed.bridges}
    for network in wishes.present:
        _check_bridge(network, observed)
        _check_uplink(network, observed, bridges)
        _check_space(network, observed, ours)
    for network in networks.values():
        for name in network.reach:
            if name not in networks:
                raise InvalidWish(
                    f"there is no network {name}.",
                    subject=network.subject,
                    field="reach",
                    hint="Name networks of this host, or wish for it too.",
                )


def _check_bridge(network: Network, observed: Observed) -> None:
    link = observed.links.get(network.bridge)
    if link is None:
        return
    if link.kind != "bridge":
        raise InvalidWish(
            f"the host has an interface {link.name} of another kind ({link.kind or 'a device'}).",
            subject=network.subject,
            field="bridge",
            hint="Choose another name for the bridge.",
        )
    known = link.name in observed.bridges
    file = f"{_PATHS.networkd}/{_networkd.PREFIX}{network.name}.netdev"
    if not known and file not in observed.files and network.name not in observed.broken:
        raise InvalidWish(
            f"the host has a bridge {link.name} that the collection did not make.",
            subject=network.subject,
            field="bridge",
            hint="Choose another name, or remove that bridge first.",
        )


def _check_uplink(network: Network, observed: Observed, bridges: t.Mapping[str, str]) -> None:
    uplink = network.uplink
    if uplink is None:
        return
    if uplink in bridges:
        raise InvalidWish(
            f"{uplink} is the bridge of network {bridges[uplink]}.",
            subject=network.subject,
            field="uplink",
            hint="Name an interface that has the way out; between networks, use reach.",
        )
    if uplink not in observed.links:
        there = ", ".join(
            name for name, link in sorted(observed.links.items()) if name not in ("lo", *bridges) and link.kind != "tun"
        )
        raise InvalidWish(
            f"the host has no interface {uplink}.",
            subject=network.subject,
            field="uplink",
            hint=f"It has {there or 'none'}.",
        )


def _check_space(network: Network, observed: Observed, ours: t.Collection[str]) -> None:
    for prefix in network.prefixes:
        for link in observed.links.values():
            if link.name in ours:
                continue
            for address in link.addresses:
                if _overlap(prefix, address.network) and not address.ip.is_link_local:
                    raise InvalidWish(
                        f"{prefix} overlaps {address.network}, which interface {link.name} is in.",
                        subject=network.subject,
                        field="addresses",
                        hint="Choose a network that the host is not in.",
                    )
        for route in observed.routes:
            if route.interface not in ours and _conflicts(prefix, route):
                raise InvalidWish(
                    f"{prefix} overlaps {route.prefix}, which the host reaches through {route.interface}.",
                    subject=network.subject,
                    field="addresses",
                    hint="Choose a network that the host has no route to.",
                )


def _overlap(one: Prefix, other: Prefix) -> bool:
    return one.version == other.version and one.overlaps(t.cast("t.Any", other))


def _conflicts(prefix: Prefix, route: Route) -> bool:
    """Whether a route and a network of ours cannot both be.

    A wider one through a gateway can: the longest prefix wins, as for the default route.
    """
    return _overlap(prefix, route.prefix) and not (route.gateway and route.prefix.prefixlen < prefix.prefixlen)


# What the host shall be.


def _target(networks: dict[str, Network], observed: Observed) -> Target:
    if not networks:
        return Target(files={_PATHS.description: _networks_json()} if observed.nixos else {})
    bridges = {one.bridge for one in networks.values()}
    ours = {*bridges, *observed.bridges}
    record = replace(_record(observed, ours), bridges=tuple(sorted(bridges)))
    uplinks: dict[str, tuple[str, ...]] = {}
    for version in ("4", "6"):
        if any(not one.uplink and (one.nat if version == "4" else one.nat_ipv6) for one in networks.values()):
            out = tuple(sorted(name for name in observed.ways_out.get(version, ()) if name not in ours))
            uplinks[version] = out or record.uplinks.get(version, ())
    record = replace(record, uplinks={key: value for key, value in uplinks.items() if value}, pending=False)
    sets = _sets(networks, uplinks)
    settings = _settings(sets, observed, record, ours)
    kept = {key: record.settings.get(key, observed.settings.get(key)) for key in settings if not _of(key, ours)}
    record = replace(record, settings={key: value for key, value in kept.items() if value is not None})
    if settings.get(ALL_IPV6) and record.settings.get(ALL_IPV6) == "0":
        sets["closed"] = frozenset(("ipv6",))
    return Target(
        networks=networks,
        record=record,
        files=(_described_files if observed.nixos else _target_files)(networks, record, sets, settings),
        sets=sets,
        settings=settings,
        uplinks=uplinks,
    )


def _of(key: str, interfaces: t.Collection[str]) -> bool:
    """Whether setting *key* belongs to one of *interfaces*."""
    return key.split("/")[3] in interfaces


def _record(observed: Observed, ours: t.Collection[str]) -> HostRecord:
    networkd = observed.service(NETWORKD)
    record = observed.record
    if record is None:
        record = HostRecord(
            foreign=None if networkd.running else (),
            networkd_active=networkd.running,
            networkd_enabled=networkd.boots,
            wait_online_enabled=observed.service(WAIT_ONLINE).boots,
        )
    if record.foreign is not None and not networkd.running:
        # What is there while networkd is not, something else manages.
        others = {name for name, link in observed.links.items() if name != "lo" and link.kind != "tun"}
        record = replace(record, foreign=tuple(sorted({*record.foreign, *(others - set(ours))})))
    return record


def _leads(network: Network, uplinks: t.Mapping[str, tuple[str, ...]], version: str) -> tuple[str, ...]:
    """The uplinks of *network* for an IP version."""
    if not (network.nat if version == "4" else network.nat_ipv6):
        return ()
    return (network.uplink,) if network.uplink else uplinks.get(version, ())


def _sets(networks: t.Mapping[str, Network], uplinks: t.Mapping[str, tuple[str, ...]]) -> _nft.Sets:
    found: dict[str, set[str]] = {name: set() for name in _nft.SETS}
    for network in networks.values():
        bridge = network.bridge
        found["bridges"].add(bridge)
        # With br_netfilter loaded, what guests of one bridge say to each other passes here too.
        found["pairs"].add(f"{bridge} . {bridge}")
        for name in network.reach:
            found["pairs"].add(f"{bridge} . {networks[name].bridge}")
        for version, addresses in (("4", network.ipv4), ("6", network.ipv6)):
            for uplink in _leads(network, uplinks, version):
                for address in addresses:
                    found[f"nat{version}"].add(str(address.network))
                    found[f"out{version}"].add(f"{bridge} . {address.network} . {uplink}")
    return {name: frozenset(_single(one) for one in elements) for name, elements in found.items()}


def _single(element: str) -> str:
    """An element as nft prints it: a prefix of one address is that address."""
    return " . ".join(
        part[: part.index("/")] if part.endswith(("/32", "/128")) else part for part in element.split(" . ")
    )


def _listens(link: Link, observed: Observed) -> bool:
    """Whether *link* may be one that the host takes router advertisements from.

    No port of a bridge is, and no end of a container's pair, which comes and goes, unless it is the way out.
    """
    return (
        link.name != "lo"
        and link.master is None
        and (link.kind != "veth" or any(link.name in names for names in observed.ways_out.values()))
    )


def _settings(sets: _nft.Sets, observed: Observed, record: HostRecord, ours: t.Collection[str]) -> dict[str, str]:
    """Kernel settings, in the order in which they have to be set."""
    forwards4: set[str] = set()
    forwards6 = bool(sets["out6"])
    for element in sets["out4"]:
        bridge, _source, uplink = element.split(" . ")
        forwards4 |= {bridge, uplink}
    for element in sets["pairs"]:
        one, other = element.split(" . ")
        if one != other:
            forwards4 |= {one, other}
            forwards6 = True
    settings = {}
    if forwards6 and record.settings.get(ALL_IPV6, observed.settings.get(ALL_IPV6)) != "1":
        # The kernel forwards IPv6 for all interfaces or none, and one that forwards ignores router advertisements
        # unless accept_ra is 2 (Documentation/networking/ip-sysctl.rst): the host would lose its own way out.
        for name, link in sorted(observed.links.items()):
            key = f"net/ipv6/conf/{name}/accept_ra"
            taking = observed.settings.get(key) == "1" or key in record.settings
            if taking and name not in ours and _listens(link, observed):
                settings[key] = "2"
    if forwards6:
        settings[ALL_IPV6] = "1"
    settings.update((f"net/ipv4/conf/{name}/forwarding", "1") for name in sorted(forwards4))
    return settings


def _target_files(
    networks: t.Mapping[str, Network], record: HostRecord, sets: _nft.Sets, settings: t.Mapping[str, str]
) -> dict[str, str]:
    files: dict[str, str] = {}
    if record.foreign is not None:
        files[_PATHS.manager] = _networkd.MANAGER
        if record.foreign:
            files[f"{_PATHS.networkd}/{_networkd.UNMANAGED}"] = _networkd.unmanaged(record.foreign)
    for network in networks.values():
        texts = _networkd.files(network, **_forwards(network, networks))
        files.update((f"{_PATHS.networkd}/{name}", text) for name, text in texts.items())
    files[_PATHS.ruleset] = _nft.RULESET
    files[_PATHS.loader] = _net_files.LOADER
    files[_PATHS.sets] = _nft.data(sets)
    lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
    files[_PATHS.sysctl] = "# Kept by the Ansible collection microvm.fleet; changes by hand are lost.\n" + lines
    files[_PATHS.unit] = _net_files.UNIT
    return files


def _forwards(network: Network, networks: t.Mapping[str, Network]) -> dict[str, bool]:
    """Whether *network* leads anywhere, by IP version."""
    linked = bool(network.reach) or any(network.name in one.reach for one in networks.values())
    return {"forwards_ipv4": network.nat or linked, "forwards_ipv6": network.nat_ipv6 or linked}


def _described_files(
    networks: t.Mapping[str, Network], record: HostRecord, sets: _nft.Sets, settings: t.Mapping[str, str]
) -> dict[str, str]:
    """As `_target_files` for NixOS: one description, of which the host's system is made."""
    files: dict[str, list[_networkd.Section]] = {}
    if record.foreign:
        files[_networkd.UNMANAGED] = _networkd.unmanaged_sections(record.foreign)
    for network in networks.values():
        files.update(_networkd.sections(network, **_forwards(network, networks)))
    return {
        _PATHS.description: _networks_json(
            files=files,
            foreign=record.foreign is not None,
            sets=_nft.document(sets),
            sysctl=list(settings.items()),
            dhcp=sorted(one.bridge for one in networks.values() if one.dhcp),
        )
    }


def _networks_json(**values: t.Any) -> str:
    """networks.json; without *values* that of no network.

    Files of networkd by their sections, whether something else than networkd keeps the uplink, the commands that fill
    the sets of nft, kernel settings in the order in which they are set, the bridges that DHCP is served on.
    """
    empty: dict[str, t.Any] = {"files": {}, "foreign": False, "sets": _nft.document({}), "sysctl": [], "dhcp": []}
    return json.dumps({"version": 1, **empty, **values}, indent=1, sort_keys=True) + "\n"


_MODES: t.Final = {_PATHS.loader: 0o755, _PATHS.sets: 0o600}


# What is not as it shall be.


def differences(target: Target, observed: Observed) -> list[Difference]:
    """What the kernel has other than wished, in the order in which a message would name it."""
    found: list[Difference] = []
    for network in target.networks.values():
        found += _bridge_differences(network, observed)
        found += _tap_differences(network, observed)
    found += _dhcp_differences(target, observed)
    for bridge, name in _gone(target, observed):
        found.append(Difference(name, "bridge", f"no interface {bridge}", "it"))
    for key, value in target.settings.items():
        seen = observed.settings.get(key)
        if seen != value:
            found.append(Difference(None, key.replace("/", "."), value, seen or "no such setting"))
    if target.networks:
        if observed.table is None:
            found.append(Difference(None, "nftables", f"table {_nft.FAMILY} {_nft.TABLE}", "none"))
        else:
            found += [
                Difference(None, f"nftables {what}", wished, seen)
                for what, wished, seen in observed.table.differences(target.sets)
            ]
    elif observed.table is not None:
        found.append(Difference(None, "nftables", f"no table {_nft.TABLE}", "it"))
    return found


def _gone(target: Target, observed: Observed) -> list[tuple[str, str | None]]:
    """Bridges of ours that no network needs any more, with the network that had them, if that is known."""
    needed = {one.bridge for one in target.networks.values()}
    owners = {one.bridge: name for name, one in observed.networks.items()}
    return [
        (bridge, owners.get(bridge))
        for bridge in sorted(observed.bridges - needed)
        if bridge in observed.links and observed.links[bridge].kind == "bridge"
    ]


def _bridge_differences(network: Network, observed: Observed) -> t.Iterator[Difference]:
    name = network.name
    link = observed.links.get(network.bridge)
    if link is None or link.kind != "bridge":
        yield Difference(name, "bridge", f"a bridge {network.bridge}", "none")
        return
    if not link.up:
        yield Difference(name, "bridge", f"{network.bridge} up", "it down")
    if network.mac and link.mac != network.mac:
        yield Difference(name, "mac", network.mac, link.mac)
    if network.mtu is not None and link.mtu != network.mtu:
        yield Difference(name, "mtu", str(network.mtu), str(link.mtu))
    wished = set(network.addresses)
    # The kernel gives the bridge a link-local address of its own.
    seen = {one for one in link.addresses if not one.ip.is_link_local or one in wished}
    if seen != wished:
        yield Difference(name, "addresses", _joined(wished), _joined(seen))


def _joined(values: t.Iterable[t.Any]) -> str:
    return ", ".join(sorted(str(one) for one in values)) or "none"


def matching_taps(network: Network, observed: Observed) -> list[Link]:
    """The host's taps that the patterns of *network* match."""
    return [
        link
        for _name, link in sorted(observed.links.items())
        if link.tap and any(overlap(link.name, pattern) for pattern in network.taps)
    ]


def _tap_differences(network: Network, observed: Observed) -> t.Iterator[Difference]:
    loose = [link.name for link in matching_taps(network, observed) if link.master != network.bridge]
    if loose:
        yield Difference(network.name, "taps", f"{', '.join(loose)} in {network.bridge}", "not")


def _dhcp_differences(target: Target, observed: Observed) -> t.Iterator[Difference]:
    # networkd serves once the bridge has a carrier, which the first running guest gives it.
    wished = [
        one.name
        for one in target.networks.values()
        if one.dhcp and one.bridge in observed.links and observed.links[one.bridge].carrier
    ]
    if len(wished) > observed.dhcp_servers:
        yield Difference(
            wished[0] if len(wished) == 1 else None,
            "dhcp",
            f"a server each for {', '.join(wished)}",
            f"{observed.dhcp_servers} listening on port 67",
        )


# Steps.


def _staging(target: Target, observed: Observed) -> list[Step]:
    """NixOS: what is written down before the host is switched to a system that has it."""
    if not target.networks and not _anything(observed):
        return []
    steps = list(_writing(target, observed))
    return [*_interim(target, observed), *steps] if steps else []


def _steps(target: Target, observed: Observed) -> tuple[list[Step], list[Step]]:
    """What to do, and what to do when it has been seen that all is as wished."""
    if not target.networks and not _anything(observed):
        return [], []
    steps = list(_work(target, observed))
    closing: list[Step] = [
        RemoveFile(f"network {name}: forget what was wished", _PATHS.record(name))
        for name in sorted({*observed.networks, *observed.broken} - set(target.networks))
    ]
    if target.record is None:
        if observed.record is not None:
            closing.append(RemoveFile("host: forget how it was before the first network", _PATHS.host_record))
    elif steps or closing or observed.record != target.record:
        closing.append(WriteFile("", _PATHS.host_record, target.record.text(), 0o600))
    if not steps and not closing:
        return [], []
    return [*_interim(target, observed), *steps], closing


def _interim(target: Target, observed: Observed) -> t.Iterator[Step]:
    """While steps are carried out, the record has both what is wanted and what is still to be put back."""
    interim = target.record or observed.record
    if interim is None:
        return
    known = observed.record.settings if observed.record else {}
    bridges = tuple(sorted({*interim.bridges, *observed.bridges}))
    interim = replace(interim, settings={**known, **interim.settings}, bridges=bridges, pending=True)
    if interim != observed.record:
        words = "" if observed.record else "host: record how it was before the first network"
        yield WriteFile(words, _PATHS.host_record, interim.text(), 0o600)


def _writing(target: Target, observed: Observed) -> t.Iterator[Step]:
    """Records and files.  The wish comes first, so that a run after a kill knows of it."""
    for path in observed.leftovers:
        yield RemoveFile(f"host: remove {path}, left by a run that was interrupted", path)
    for network in target.networks.values():
        if observed.networks.get(network.name) != network:
            words = f"{network.subject}: record what is wished"
            yield WriteFile(words, _PATHS.record(network.name), record_text(network), 0o600)
    yield from _file_steps(target, observed)


def _work(target: Target, observed: Observed) -> t.Iterator[Step]:
    """In the order of doing."""
    yield from _writing(target, observed)
    kernel = differences(target, observed)
    yield from _networkd_steps(target, observed, kernel)
    for bridge, name in _gone(target, observed):
        yield DeleteBridge(f"{f'network {name}' if name else 'host'}: delete bridge {bridge}", bridge)
    yield from _unit_steps(target, observed, kernel)
    yield from _restore_steps(target, observed)


def _pending(observed: Observed) -> bool:
    """Whether an earlier run was cut off."""
    return observed.record is not None and observed.record.pending


def record_text(network: Network) -> str:
    """The record of a network as a file."""
    return json.dumps(network.options(), indent=1, sort_keys=True) + "\n"


def _anything(observed: Observed) -> bool:
    """Whether anything of the collection's networks is on the host."""
    return bool(
        observed.networks
        or observed.broken
        or observed.files
        or observed.record
        or observed.leftovers
        or observed.table is not None
    )


def _subject_of(path: str) -> str:
    name = os.path.basename(path)
    if name.startswith(_networkd.PREFIX):
        return f"network {name[len(_networkd.PREFIX) :].split('.')[0]}"
    return "host"


def _file_steps(target: Target, observed: Observed) -> t.Iterator[Step]:
    # A .network file that networkd has read points to the bridge that there was then; unless it changes (and a new
    # inode is a change), systemd 252 goes on trying to put taps into a bridge that is gone.
    renewed = {one.subject for one in target.networks.values() if one.bridge not in observed.links}
    for path, text in target.files.items():
        if observed.files.get(path) != text:
            verb = "change" if path in observed.files else "write"
            yield WriteFile(f"{_subject_of(path)}: {verb} {path}", path, text, _MODES.get(path, 0o644))
        elif path.endswith(".network") and _subject_of(path) in renewed:
            yield WriteFile(f"{_subject_of(path)}: write {path} again for a new bridge", path, text)
    # What the unit's stop needs goes last, with the unit.
    for path in sorted(set(observed.files) - set(target.files) - set(_UNIT_FILES)):
        yield RemoveFile(f"{_subject_of(path)}: remove {path}", path)


_UNIT_FILES: t.Final = (_PATHS.unit, _PATHS.loader, _PATHS.ruleset, _PATHS.sets, _PATHS.sysctl)


def _networkd_steps(target: Target, observed: Observed, kernel: t.Sequence[Difference]) -> t.Iterator[Step]:
    networkd, wait = observed.service(NETWORKD), observed.service(WAIT_ONLINE)
    if target.record is None:
        yield from _networkd_back(observed)
        return
    if not networkd.boots and not observed.nixos:
        yield Systemctl("host: enable systemd-networkd", ("enable", NETWORKD))
    # Enabling networkd enables this along with it (Also= of its unit).  Where networkd has no uplink to wait for, it
    # would hold up the boot until its time runs out.
    unwanted = target.record.foreign is not None or not target.record.wait_online_enabled
    if unwanted and (wait.boots or not networkd.boots) and wait.load == "loaded" and not observed.nixos:
        yield Systemctl("host: let the boot not wait for systemd-networkd", ("disable", WAIT_ONLINE))
    if not networkd.running:
        yield Systemctl("host: start systemd-networkd", ("start", NETWORKD))
        return
    manager = target.files.get(_PATHS.manager)
    if manager is not None and observed.files.get(_PATHS.manager) != manager:
        yield Systemctl("host: restart systemd-networkd with its new settings", ("restart", NETWORKD))
        return
    mine = {path for path in {*target.files, *observed.files} if path.startswith(f"{_PATHS.networkd}/")}
    changed = any(target.files.get(path) != observed.files.get(path) for path in mine)
    missing = any(one.field == "bridge" and one.seen == "none" for one in kernel)
    if changed or missing:
        yield Networkctl("host: let systemd-networkd read its files", ("reload",))
        return
    links = links_to_mend(target, observed, kernel)
    if _pending(observed):
        bridges = (one.bridge for one in target.networks.values())
        links = tuple(dict.fromkeys((*links, *(bridge for bridge in bridges if bridge in observed.links))))
    if links:
        # Of what a run wrote before it was cut off, networkd may not know yet.
        yield Networkctl("host: let systemd-networkd read its files", ("reload",))
        yield Networkctl(f"host: let systemd-networkd configure {', '.join(links)} again", ("reconfigure", *links))


def links_to_mend(target: Target, observed: Observed, kernel: t.Sequence[Difference]) -> tuple[str, ...]:
    """The interfaces that networkd has to configure again to mend *kernel*."""
    links: dict[str, None] = {}
    for one in kernel:
        if one.field in ("bridge", "mac", "mtu", "addresses") and one.network in target.networks:
            links[target.networks[one.network].bridge] = None
        elif one.field == "taps" and one.network in target.networks:
            network = target.networks[one.network]
            links.update((tap.name, None) for tap in matching_taps(network, observed) if tap.master != network.bridge)
        elif one.field == "dhcp":
            links.update((network.bridge, None) for network in target.networks.values() if network.dhcp)
    return tuple(link for link in links if link in observed.links)


def _networkd_back(observed: Observed) -> t.Iterator[Step]:
    """After the last network: networkd as it was before the first.  On NixOS the switch has seen to it."""
    record, networkd = observed.record, observed.service(NETWORKD)
    if observed.nixos:
        return
    if record is None or record.networkd_active:
        ours = any(path.startswith(f"{_PATHS.networkd}/") for path in observed.files)
        if networkd.running and (ours or _pending(observed)):
            yield Networkctl("host: let systemd-networkd read its files", ("reload",))
    elif networkd.running:
        sockets = ("systemd-networkd.socket",)
        yield Systemctl("host: stop systemd-networkd", ("stop", *sockets, NETWORKD))
    if record is None:
        return
    if networkd.boots and not record.networkd_enabled:
        yield Systemctl("host: disable systemd-networkd", ("disable", NETWORKD))
    if record.wait_online_enabled and not observed.service(WAIT_ONLINE).boots:
        yield Systemctl("host: let the boot wait for systemd-networkd again", ("enable", WAIT_ONLINE))


def _unit_steps(target: Target, observed: Observed, kernel: t.Sequence[Difference]) -> t.Iterator[Step]:
    unit = observed.service(UNIT_NAME)
    if observed.nixos:
        yield from _unit_steps_nixos(target, observed, kernel)
        return
    if not target.networks:
        there = _PATHS.unit in observed.files
        if there:
            yield Systemctl(f"host: stop and disable {UNIT_NAME}", ("disable", "--now", UNIT_NAME))
        if observed.table is not None and (not there or unit.active != "active"):
            # The stop of a unit that failed does nothing.
            yield DeleteTable("host: delete the table of nftables")
        for path in _UNIT_FILES:
            if path in observed.files:
                yield RemoveFile(f"host: remove {path}", path)
        if there or unit.load == "loaded":
            yield Systemctl("host: let systemd read its units", ("daemon-reload",))
        if unit.active == "failed":
            yield Systemctl("", ("reset-failed", UNIT_NAME))
        return
    if observed.files.get(_PATHS.unit) != target.files[_PATHS.unit] or unit.stale or unit.load != "loaded":
        yield Systemctl("host: let systemd read its units", ("daemon-reload",))
    if not unit.boots:
        yield Systemctl(f"host: enable {UNIT_NAME}", ("enable", UNIT_NAME))
    if any(observed.files.get(path) != target.files[path] for path in _UNIT_FILES) or _to_load(observed, kernel):
        yield Systemctl(_LOAD, ("reload-or-restart", UNIT_NAME))


_LOAD: t.Final = "host: load the table of nftables and open forwarding"


def _to_load(observed: Observed, kernel: t.Sequence[Difference]) -> bool:
    """Whether the unit has to load what its files say once more."""
    wrong = any(one.network is None and one.field.startswith(("nftables", "net.")) for one in kernel)
    # A bridge that is made anew forwards nothing until it is told to.
    missing = any(one.field == "bridge" and one.seen == "none" for one in kernel)
    return wrong or missing or _pending(observed) or observed.service(UNIT_NAME).active != "active"


def _unit_steps_nixos(target: Target, observed: Observed, kernel: t.Sequence[Difference]) -> t.Iterator[Step]:
    """As `_unit_steps` where the unit is the system's."""
    if target.networks:
        if _to_load(observed, kernel):
            yield Systemctl(_LOAD, ("reload-or-restart", UNIT_NAME))
        return
    if observed.table is not None:
        yield DeleteTable("host: delete the table of nftables")
    if observed.service(UNIT_NAME).active == "failed":
        yield Systemctl("", ("reset-failed", UNIT_NAME))


@dataclass(frozen=True)
class DeleteTable(Step):
    """Delete the table of nftables without its unit."""


def _restore_steps(target: Target, observed: Observed) -> t.Iterator[Step]:
    """Kernel settings that no network needs any more, put back to what they were."""
    if observed.record is None:
        return
    # The setting for all interfaces comes before those of single ones.
    for key, value in sorted(observed.record.settings.items(), key=lambda one: (one[0] != ALL_IPV6, one[0])):
        if key not in target.settings and key in observed.settings and observed.settings[key] != value:
            yield SetKernel(f"host: set {key.replace('/', '.')} to {value} again", key, value)
    bridges = {one.bridge for one in target.networks.values()}
    for bridge in sorted(bridges):
        key = f"net/ipv4/conf/{bridge}/forwarding"
        earlier = {one.bridge for one in observed.networks.values()}
        if key not in target.settings and bridge in earlier and observed.settings.get(key) == "1":
            yield from _close(key, observed)


def _close(key: str, observed: Observed) -> t.Iterator[Step]:
    """Close forwarding of a bridge, if our settings had opened it.

    On NixOS they are gone by now, and a switch has left the kernel as it was.
    """
    if f"{key} = 1\n" in _opened(observed) or (observed.nixos and _pending(observed)):
        yield SetKernel(f"host: set {key.replace('/', '.')} to 0 again", key, "0")


def _opened(observed: Observed) -> str:
    """What sysctl.d says of us."""
    return observed.sysctl if observed.nixos else observed.files.get(_PATHS.sysctl, "")


def _warnings(target: Target) -> t.Iterator[str]:
    for network in target.networks.values():
        for version, wished in (("4", network.nat), ("6", network.nat_ipv6)):
            if wished and not _leads(network, target.uplinks, version):
                yield (
                    f"{network.subject}, uplink: no interface of the host has a default route for IPv{version}, so "
                    "guests have no way out. Name an uplink, or run again when there is one."
                )


# What is returned.


def describe(network: Network, observed: Observed, uplinks: t.Mapping[str, tuple[str, ...]]) -> dict[str, t.Any]:
    """One network as it is: the wish that was recorded, with what the kernel has where the kernel knows."""
    link = observed.links.get(network.bridge)
    exists = link is not None and link.kind == "bridge"
    ports = sorted(one.name for one in observed.links.values() if one.master == network.bridge)
    nat = observed.table.sets if observed.table else {}
    options = network.options()
    return {
        **options,
        "exists": exists,
        "up": bool(exists and link and link.up),
        "addresses": [str(one) for one in _order(network, link)] if exists and link else [],
        "mac": link.mac if exists and link else None,
        "mtu": link.mtu if exists and link else None,
        "ports": ports,
        "nat": bool(network.ipv4) and all(_has(nat, "nat4", one.network) for one in network.ipv4),
        "nat_ipv6": bool(network.ipv6) and all(_has(nat, "nat6", one.network) for one in network.ipv6),
        "uplinks": sorted({*_leads(network, uplinks, "4"), *_leads(network, uplinks, "6")}),
        "problems": [
            f"{one.field}: {one.words}"
            for one in (*_bridge_differences(network, observed), *_tap_differences(network, observed))
        ],
    }


def _has(sets: t.Mapping[str, t.Collection[str]], name: str, prefix: Prefix) -> bool:
    return _single(str(prefix)) in sets.get(name, ())


def _order(network: Network, link: Link) -> list[t.Any]:
    """The addresses of the bridge, those that were wished first and in that order, link-local ones left out."""
    there = [one for one in network.addresses if one in link.addresses]
    return there + [one for one in link.addresses if one not in there and not one.ip.is_link_local]


def picture(networks: t.Mapping[str, Network], observed: Observed) -> dict[str, t.Any]:
    """All networks and what the host does for them: the one half of a diff."""
    uplinks = observed.record.uplinks if observed.record else {}
    table = observed.table
    return {
        "networks": {name: describe(one, observed, uplinks) for name, one in sorted(networks.items())},
        "host": {
            "systemd_networkd": _service_words(observed.service(NETWORKD).running, observed.service(NETWORKD).boots),
            "unmanaged": list(observed.record.foreign or ()) if observed.record else [],
            "forwarding": {
                key.replace("/", "."): value
                for key, value in sorted(observed.settings.items())
                if f"{key} = " in _opened(observed)
            },
            "nftables": None if table is None else {name: sorted(table.sets.get(name, ())) for name in _nft.SETS},
        },
    }


def _service_words(active: bool, boots: bool) -> str:  # noqa: FBT001
    return f"{'active' if active else 'inactive'}, {'enabled' if boots else 'disabled'}"


def _predicted(target: Target, observed: Observed) -> dict[str, t.Any]:
    """The picture after the steps."""
    networks = {}
    for name, network in target.networks.items():
        was = describe(network, observed, target.uplinks)
        taps = {one.name for one in matching_taps(network, observed)}
        networks[name] = {
            **was,
            **{key: value for key, value in network.options().items() if key not in ("mac", "mtu")},
            "exists": True,
            "up": True,
            # None is "whatever it becomes": networkd makes a lasting one from the machine's identity.
            "mac": network.mac or was["mac"],
            "mtu": network.mtu or was["mtu"] or 1500,
            "ports": sorted({*was["ports"], *taps}),
            "problems": [],
        }
    host: dict[str, t.Any]
    if target.record:
        host = {
            "systemd_networkd": _service_words(active=True, boots=True),
            "unmanaged": list(target.record.foreign or ()),
            "forwarding": {key.replace("/", "."): value for key, value in sorted(target.settings.items())},
            "nftables": {name: sorted(target.sets.get(name, ())) for name in _nft.SETS},
        }
    else:
        networkd, record = observed.service(NETWORKD), observed.record
        host = {
            "systemd_networkd": _service_words(
                active=networkd.running and (record is None or record.networkd_active),
                boots=networkd.boots and (record is None or record.networkd_enabled),
            ),
            "unmanaged": [],
            "forwarding": {},
            "nftables": None,
        }
    return {"networks": networks, "host": host}
