# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Wishes for guests: options to dataclasses, with every check that needs no host.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils._contract import HYPERVISORS, is_store_path
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import DESCRIBED, name_faults
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import (
    Access,
    Health,
    access_spec,
    health_spec,
    read_access,
    read_health,
)

if t.TYPE_CHECKING:  # pragma: no cover
    from ansible_collections.microvm.fleet.plugins.module_utils._describe import Description, Surroundings

# IFNAMSIZ of linux/if.h is 16 with its ending zero.
INTERFACE_LIMIT: t.Final = 15
STATES: t.Final = ("present", "started", "stopped", "restarted", "absent")
UPDATES: t.Final = ("never", "stage", "activate", "activate_staged")
SWITCHES: t.Final = ("restart", "live")
# Names for generations beside their numbers.
GENERATIONS: t.Final = ("previous", "healthy")
# A day: longer than any boot or clean shutdown, and short enough to catch milliseconds given for seconds.
TIMEOUT_LIMIT: t.Final = 86400
GENERATIONS_LIMIT: t.Final = 1000
# What an interface says only of a guest that is described.
INTERFACE_OPTIONS: t.Final = ("type", "index", "link", "mode")

# Options that describe a guest.
DESCRIPTION: t.Final = (
    "vcpu",
    "mem",
    "host_name",
    "network",
    "volumes",
    "shares",
    "forward_ports",
    "store",
    "vsock_cid",
    "credentials",
    "ssh_keys",
    "release",
    "profiles",
    "profile_options",
    "modules",
    "microvm_options",
)
# The label with a guest's place in the order in which a host that is drained stops its guests.
STOP_ORDER: t.Final = "stop_order"
ORDER_LIMIT: t.Final = 999
_PLACE = re.compile(r"[0-9]{1,3}")
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:")
_PATH_SCHEMES = ("path:", "git+file:", "hg+file:", "tarball+file:", "file+file:", "file:")


@dataclass(frozen=True)
class Limits:
    """How long the parts of a run may take, in seconds, and the MiB that are to be free before a build."""

    evaluate: int = 600
    build: int = 3600
    lock: int = 60
    min_free: int = 0


@dataclass(frozen=True)
class InterfaceWish:
    """What the operator knows of one interface of a guest; compared with what the guest's runner has."""

    id: str
    mac: str | None = None
    network: str | None = None
    addresses: tuple[str, ...] = ()
    # Known of a guest that is described: its type, the option that says it, and its number in the network.
    type: str | None = None
    said: str | None = None
    index: int | None = None


@dataclass(frozen=True)
class GuestWish:
    """What the operator wishes of one guest.  None is "not said": nothing is done about it."""

    name: str
    flake: str | None = None
    runner: str | None = None
    state: str = "present"
    autostart: bool | None = None
    update: str = "never"
    keep_generations: int = 3
    purge: bool = False
    protect: bool | None = None
    start_timeout: int | None = None
    stop_timeout: int | None = None
    labels: t.Mapping[str, str] | None = None
    interfaces: tuple[InterfaceWish, ...] = field(default=())
    # Its entry of guests.json, when the guest is described here.
    description: t.Mapping[str, t.Any] | None = None
    # Kind, value and option of what only one guest of a host may have, beside interfaces.
    claims: tuple[tuple[str, str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    # What healthy means of it, and how the host reaches it over SSH.
    health: Health = field(default_factory=Health)
    access: Access | None = None
    # A generation to go to: a number, "previous" or "healthy".
    generation: str | None = None
    retry: bool = False
    switch: str = "restart"
    snapshot_volumes: bool = False
    restore_volumes: bool = False

    @property
    def activates(self) -> bool:
        """Whether a guest that exists is to run what it is to have, if need be by a restart."""
        return self.generation is not None or self.update in ("activate", "activate_staged")

    @property
    def subject(self) -> str:
        """The guest in words, for messages."""
        return f"guest {self.name}"


def guests_spec() -> dict[str, t.Any]:
    """The argument spec of the option that lists guests."""
    return {"type": "list", "elements": "dict", "required": True, "options": guest_spec()}


def guest_spec(*, update: str | None = None) -> dict[str, t.Any]:
    """The argument spec of one guest, shared by the modules for one guest and for all of a host.

    *update* is the default of the option of that name; an entry of a list has none of its own.
    """
    updates: dict[str, t.Any] = {"type": "str", "choices": list(UPDATES)}
    if update is not None:
        updates["default"] = update
    return {
        "name": {"type": "str", "required": True},
        "flake": {"type": "str"},
        "runner": {"type": "str"},
        "state": {"type": "str", "choices": list(STATES), "default": "present"},
        "autostart": {"type": "bool"},
        "update": updates,
        "generation": {"type": "str"},
        "retry": {"type": "bool", "default": False},
        "switch": {"type": "str", "choices": list(SWITCHES), "default": "restart"},
        "snapshot_volumes": {"type": "bool", "default": False},
        "restore_volumes": {"type": "bool", "default": False},
        **health_spec(),
        **access_spec(),
        "keep_generations": {"type": "int", "default": 3},
        "purge": {"type": "bool", "default": False},
        "protect": {"type": "bool"},
        "start_timeout": {"type": "int"},
        "stop_timeout": {"type": "int"},
        "labels": {"type": "dict"},
        "interfaces": {
            "type": "list",
            "elements": "dict",
            "options": {
                "id": {"type": "str"},
                "mac": {"type": "str"},
                "network": {"type": "str"},
                "addresses": {"type": "list", "elements": "str"},
                "type": {"type": "str", "choices": ["tap", "macvtap", "user"]},
                "index": {"type": "int"},
                "link": {"type": "str"},
                "mode": {"type": "str", "choices": ["private", "vepa", "bridge", "passthru", "source"]},
            },
        },
        **_description_spec(),
    }


def _description_spec() -> dict[str, t.Any]:
    """The argument spec of what describes a guest.

    There are no defaults: what is said of a guest that is not described is an error.
    """
    return {
        "hypervisor": {"type": "str", "choices": list(HYPERVISORS)},
        "vcpu": {"type": "int"},
        "mem": {"type": "int"},
        "host_name": {"type": "str"},
        "network": {
            "type": "dict",
            "options": {"name": {"type": "str", "required": True}, "index": {"type": "int", "required": True}},
        },
        "volumes": {
            "type": "list",
            "elements": "dict",
            "options": {
                "image": {"type": "str", "required": True},
                "mount_point": {"type": "str"},
                "size": {"type": "int"},
                "fs_type": {"type": "str", "choices": ["ext4", "ext3", "ext2", "xfs", "btrfs", "vfat"]},
                "label": {"type": "str"},
                "read_only": {"type": "bool"},
                "auto_create": {"type": "bool"},
            },
        },
        "shares": {
            "type": "list",
            "elements": "dict",
            "options": {
                "tag": {"type": "str", "required": True},
                "source": {"type": "str", "required": True},
                "mount_point": {"type": "str", "required": True},
                "proto": {"type": "str", "choices": ["virtiofs", "9p"]},
                "read_only": {"type": "bool"},
            },
        },
        "forward_ports": {
            "type": "list",
            "elements": "dict",
            "options": {
                "proto": {"type": "str", "choices": ["tcp", "udp"]},
                "host_address": {"type": "str"},
                "host_port": {"type": "int", "required": True},
                "guest_port": {"type": "int", "required": True},
            },
        },
        "store": {"type": "str", "choices": ["disk", "host"]},
        "vsock_cid": {"type": "int"},
        "credentials": {"type": "dict"},
        # Public keys.
        "ssh_keys": {"type": "list", "elements": "str", "no_log": False},
        "release": {"type": "str"},
        "profiles": {"type": "list", "elements": "str"},
        "profile_options": {"type": "dict"},
        "modules": {"type": "list", "elements": "str"},
        "microvm_options": {"type": "dict"},
    }


def surroundings_spec() -> dict[str, t.Any]:
    """The argument spec of what descriptions refer to, shared by the modules."""
    return {
        "networks": {"type": "list", "elements": "dict"},
        "peers": {"type": "dict"},
    }


def read_wishes(
    entries: t.Sequence[t.Mapping[str, t.Any]],
    *,
    update: str = "never",
    surroundings: t.Callable[[], Surroundings] | None = None,
) -> tuple[GuestWish, ...]:
    """Wishes of the entries of a ``guests`` option, each as the argument spec leaves it.

    *update* holds for entries that name none.  *surroundings* gives what descriptions refer to, and is called only when
    there is one.  Raises InvalidWish with all that is wrong, one line each.
    """
    wrong: list[FleetError] = []
    wishes = []
    described = _described(entries, surroundings) if any(map(is_described, entries)) else {}
    for number, entry in enumerate(entries, 1):
        description = described.get(number - 1)
        try:
            wish = read_wish(entry, update=update, number=number)
        except _Wrong as error:
            wrong.extend(error.errors)
            if isinstance(description, list) and not any(each.field == "name" for each in error.errors):
                wrong.extend(description)
            continue
        if isinstance(description, list):
            wrong.extend(description)
        else:
            wishes.append(_judged(wish if description is None else _with(wish, description), entry, wrong))
    wrong.extend(_clashes(wishes))
    if wrong:
        raise InvalidWish("\n".join(error.text() for error in wrong))
    return tuple(wishes)


def is_described(entry: t.Mapping[str, t.Any]) -> bool:
    """Whether *entry* describes its guest.  For one that is to go, nothing but its name counts."""
    return entry.get("hypervisor") is not None and entry.get("state") != "absent"


def _described(
    entries: t.Sequence[t.Mapping[str, t.Any]], surroundings: t.Callable[[], Surroundings] | None
) -> t.Mapping[int, Description | list[FleetError]]:
    """What the description of each entry that has one comes to, by its place."""
    # Loaded for those who describe guests only: most runs never need it.
    from ansible_collections.microvm.fleet.plugins.module_utils import _describe  # noqa: PLC0415

    return _describe.describe_all(entries, surroundings() if surroundings is not None else _describe.Surroundings())


def _with(wish: GuestWish, description: Description) -> GuestWish:
    """The *wish* of a guest that is described."""
    return dataclasses.replace(
        wish,
        flake=DESCRIBED,
        description=description.entry,
        interfaces=description.interfaces,
        stop_timeout=wish.stop_timeout or description.stop_timeout,
        claims=description.claims,
        warnings=description.warnings,
    )


def _judged(wish: GuestWish, entry: t.Mapping[str, t.Any], wrong: list[FleetError]) -> GuestWish:
    """The *wish* with what its *entry* says of health; what is wrong with that goes to *wrong*."""
    if wish.state == "absent":
        return wish

    def say(option: str, seen: str, hint: str) -> None:
        wrong.append(InvalidWish(seen, subject=wish.subject, field=option, hint=hint))

    addresses = [address for interface in wish.interfaces for address in interface.addresses]
    health = read_health(entry, addresses, say)
    return dataclasses.replace(wish, health=health, access=read_access(entry, addresses, health.probes, say))


class _Wrong(Exception):
    """All that is wrong with one entry."""

    def __init__(self, errors: list[FleetError]) -> None:
        super().__init__("; ".join(error.text() for error in errors))
        self.errors = errors


def read_wish(entry: t.Mapping[str, t.Any], *, update: str, number: int) -> GuestWish:
    """The wish of one *entry*; *number* is its place in the list, for a message about an entry without a name."""
    errors: list[FleetError] = []
    name = str(entry["name"])
    subject = f"guest {name}" if name and "\n" not in name else f"guest number {number} of the list"

    def wrong(option: str, seen: str, hint: str) -> None:
        errors.append(InvalidWish(seen, subject=subject, field=option, hint=hint))

    for seen in name_faults(name):
        wrong("name", seen, "Use letters, digits, '-', '_' and '.', beginning with a letter or a digit.")
    flake, runner = entry.get("flake"), entry.get("runner")
    described = entry.get("hypervisor") is not None
    _check_source(entry, wrong)
    for option, least, most in (
        ("keep_generations", 1, GENERATIONS_LIMIT),
        ("start_timeout", 1, TIMEOUT_LIMIT),
        ("stop_timeout", 1, TIMEOUT_LIMIT),
    ):
        value = entry.get(option)
        if value is not None and not least <= value <= most:
            wrong(option, f"{value} is out of range.", f"Give a number from {least} to {most}.")
    state = entry.get("state") or "present"
    if entry.get("protect") and state in ("absent", "stopped"):
        wrong("protect", f"the guest is protected, and its state is to be {state}.", "Set protect to false first.")
    if entry.get("purge") and state != "absent":
        wrong("purge", f"is only for state absent, not {state}.", "Leave it out.")
    _check_switch(entry, state, wrong)
    order = (entry.get("labels") or {}).get(STOP_ORDER)
    if order is not None and place_of(str(order)) is None:
        wrong(f"labels.{STOP_ORDER}", f"{order!r} is no place in an order.", f"Give a number from 0 to {ORDER_LIMIT}.")
    interfaces = tuple(
        _interface(given, position, wrong)
        for position, given in enumerate((entry.get("interfaces") or ()) if not described else ())
    )
    if errors:
        raise _Wrong(errors)
    labels = entry.get("labels")
    return GuestWish(
        name=name,
        flake=flake,
        runner=runner,
        state=state,
        autostart=entry.get("autostart"),
        update="never" if entry.get("generation") is not None else entry.get("update") or update,
        generation=entry.get("generation"),
        retry=bool(entry.get("retry")),
        switch=entry.get("switch") or "restart",
        snapshot_volumes=bool(entry.get("snapshot_volumes")),
        restore_volumes=bool(entry.get("restore_volumes")),
        keep_generations=3 if entry.get("keep_generations") is None else entry["keep_generations"],
        purge=bool(entry.get("purge")),
        protect=entry.get("protect"),
        start_timeout=entry.get("start_timeout"),
        stop_timeout=entry.get("stop_timeout"),
        labels=None if labels is None else {str(key): str(value) for key, value in labels.items()},
        interfaces=interfaces,
    )


def place_of(label: str) -> int | None:
    """The place in the order of stops that the label STOP_ORDER gives, None when it gives none."""
    return int(label) if _PLACE.fullmatch(label) else None


def _check_switch(entry: t.Mapping[str, t.Any], state: str, wrong: t.Callable[[str, str, str], None]) -> None:
    """What is wrong with how the guest is to come to its runner."""
    generation = entry.get("generation")
    if generation is not None:
        if generation not in GENERATIONS and _NUMBER.fullmatch(generation) is None:
            wrong("generation", f"{generation!r} is no generation.", "Give a number, previous or healthy.")
        if entry.get("update") not in (None, "never"):
            wrong("generation", f"given together with update: {entry['update']}.", "Give one of the two.")
        if state == "absent":
            wrong("generation", "given of a guest that is to be absent.", "Leave it out.")
    if entry.get("restore_volumes") and not entry.get("snapshot_volumes"):
        wrong("restore_volumes", "there is nothing to restore without a snapshot.", "Give snapshot_volumes: true too.")


def _check_source(entry: t.Mapping[str, t.Any], wrong: t.Callable[[str, str, str], None]) -> None:
    """What is wrong with where the guest is to come from: a flake, a runner, or its description here."""
    flake, runner = entry.get("flake"), entry.get("runner")
    if flake is not None and runner is not None:
        wrong("runner", "given together with flake.", "Give one of the two.")
    described = entry.get("hypervisor") is not None
    for option in DESCRIPTION if not described else ():
        if entry.get(option) is not None:
            wrong(option, "describes the guest, and nothing says that it is described here.", "Give hypervisor too.")
    for option in ("flake", "runner") if described else ():
        if entry.get(option) is not None:
            hint = f"Give {option}, or hypervisor and what else describes it."
            wrong(option, "given together with hypervisor.", hint)
    if flake is not None:
        for seen in flake_faults(flake):
            wrong(
                "flake",
                seen,
                "Give a reference such as git+https://HOST/REPOSITORY, github:OWNER/NAME or /ABSOLUTE/PATH.",
            )
    if runner is not None and not is_store_path(runner):
        wrong(
            "runner",
            f"{runner!r} is no path of a package in /nix/store.",
            "Give the output path that the build printed.",
        )


def flake_faults(reference: str) -> t.Iterator[str]:
    """What is wrong with *reference* as a flake reference (nix3-flake(1), "Flake references")."""
    if not reference:
        yield "is empty."
        return
    if re.search(r"[\s\x00-\x1f\x7f]", reference):
        yield f"{reference!r} has white space or control characters."
        return
    if "#" in reference:
        yield f"{reference!r} names an output after '#', which is the guest's name already."
        return
    scheme = next((scheme for scheme in _PATH_SCHEMES if reference.startswith(scheme)), None)
    if scheme is not None:
        path = reference[len(scheme) :]
        if not path.startswith("/"):
            yield f"{reference!r} is relative."
    elif not reference.startswith("/") and _SCHEME.match(reference) is None:
        yield f"{reference!r} is relative."


def interface_faults(name: str) -> t.Iterator[str]:
    """What is wrong with *name* as the interface of a guest on its host."""
    if len(name) > INTERFACE_LIMIT:
        yield f"{name!r} has {len(name)} characters, and the kernel takes {INTERFACE_LIMIT}."
    elif _INTERFACE.fullmatch(name) is None:
        yield f"{name!r} is no name of an interface."
    elif name.startswith("vt-"):
        yield f"{name!r} begins with vt-, which systemd-networkd gives a network of its own (80-vm-vt.network)."


def mac_fault(text: str) -> tuple[str, str] | None:
    """What is wrong with *text* as the MAC address of an interface, and what to do; None when nothing is."""
    mac = text.lower()
    if _MAC.fullmatch(mac) is None:
        return f"{mac!r} is no MAC address.", "Give six pairs of hexadecimal digits, such as 02:00:00:00:00:01."
    if int(mac[:2], 16) & 1:
        return f"{mac!r} is a group address.", "Clear the lowest bit of its first byte."
    return None


def _interface(given: t.Mapping[str, t.Any], position: int, wrong: t.Callable[[str, str, str], None]) -> InterfaceWish:
    option = f"interfaces[{position}]"
    identity = given.get("id")
    if identity is None:
        wrong(f"{option}.id", "is missing.", "Give the name of the interface on the host.")
        identity = ""
    else:
        identity = str(identity)
        for seen in interface_faults(identity):
            wrong(f"{option}.id", seen, "Give a name such as vm-web1, with at most 15 characters.")
    for name in INTERFACE_OPTIONS:
        if given.get(name) is not None:
            wrong(f"{option}.{name}", "is said by the guest's own configuration.", "Leave it out, or give hypervisor.")
    mac = given.get("mac")
    if mac is not None:
        mac = mac.lower()
        fault = mac_fault(mac)
        if fault is not None:
            wrong(f"{option}.mac", *fault)
    addresses = []
    for place, address in enumerate(given.get("addresses") or ()):
        try:
            addresses.append(str(ipaddress.ip_interface(address).ip))
        except ValueError:
            wrong(
                f"{option}.addresses[{place}]",
                f"{address!r} is no IP address.",
                "Give it as 192.0.2.11 or 2001:db8::11.",
            )
    return InterfaceWish(id=identity, mac=mac, network=given.get("network"), addresses=tuple(addresses))


def _clashes(wishes: t.Sequence[GuestWish]) -> t.Iterator[FleetError]:
    """What is claimed twice."""
    claimed: dict[tuple[str, str], str] = {}
    for wish in wishes:
        for kind, value, option in _claims(wish):
            other = claimed.get((kind, value))
            if other is None:
                claimed[kind, value] = wish.name
                continue
            yield InvalidWish(
                f"{kind} {value} is already that of guest {other}.",
                subject=wish.subject,
                field=option,
                hint="Give each its own.",
            )
            if kind == "number":
                # Everything else that follows from it is the same too.
                break


def _claims(wish: GuestWish) -> t.Iterator[tuple[str, str, str]]:
    """Kind, value and option of what only one guest may have.  A guest that is to be absent claims only its name."""
    yield "name", wish.name, "name"
    if wish.state == "absent":
        return
    for interface in wish.interfaces:
        if interface.index is not None:
            yield "number", f"{interface.index} of network {interface.network}", f"{interface.said}.index"
    for position, interface in enumerate(wish.interfaces):
        option = interface.said or f"interfaces[{position}]"
        if interface.type != "user":
            yield "interface", interface.id, f"{option}.id"
        if interface.mac:
            yield "MAC", interface.mac, f"{option}.mac"
        for place, address in enumerate(interface.addresses):
            yield "address", address, f"{option}.addresses[{place}]"
    yield from wish.claims


def absent(name: str) -> GuestWish:
    """The wish by which `prune` removes a guest: its volumes stay."""
    return GuestWish(name=name, state="absent")
