# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Wishes for guests: options to dataclasses, with every check that needs no host.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils._contract import is_store_path
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish

NAME_LIMIT: t.Final = 64
# IFNAMSIZ of linux/if.h is 16 with its ending zero.
INTERFACE_LIMIT: t.Final = 15
STATES: t.Final = ("present", "started", "stopped", "restarted", "absent")
UPDATES: t.Final = ("never", "stage", "activate")
# A day: longer than any boot or clean shutdown, and short enough to catch milliseconds given for seconds.
TIMEOUT_LIMIT: t.Final = 86400
GENERATIONS_LIMIT: t.Final = 1000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:")
_PATH_SCHEMES = ("path:", "git+file:", "hg+file:", "tarball+file:", "file+file:", "file:")


@dataclass(frozen=True)
class InterfaceWish:
    """What the operator knows of one interface of a guest; compared with what the guest's runner has."""

    id: str
    mac: str | None = None
    network: str | None = None
    addresses: tuple[str, ...] = ()


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
                "id": {"type": "str", "required": True},
                "mac": {"type": "str"},
                "network": {"type": "str"},
                "addresses": {"type": "list", "elements": "str"},
            },
        },
    }


def read_wishes(entries: t.Sequence[t.Mapping[str, t.Any]], *, update: str = "never") -> tuple[GuestWish, ...]:
    """Wishes of the entries of a ``guests`` option, each as the argument spec leaves it.

    *update* holds for entries that name none.  Raises InvalidWish with all that is wrong, one line each.
    """
    wrong: list[FleetError] = []
    wishes = []
    for number, entry in enumerate(entries, 1):
        try:
            wishes.append(read_wish(entry, update=update, number=number))
        except _Wrong as error:
            wrong.extend(error.errors)
    wrong.extend(_clashes(wishes))
    if wrong:
        raise InvalidWish("\n".join(error.text() for error in wrong))
    return tuple(wishes)


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
    if flake is not None and runner is not None:
        wrong("runner", "given together with flake.", "Give one of the two.")
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
    interfaces = tuple(
        _interface(given, position, wrong) for position, given in enumerate(entry.get("interfaces") or ())
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
        update=entry.get("update") or update,
        keep_generations=3 if entry.get("keep_generations") is None else entry["keep_generations"],
        purge=bool(entry.get("purge")),
        protect=entry.get("protect"),
        start_timeout=entry.get("start_timeout"),
        stop_timeout=entry.get("stop_timeout"),
        labels=None if labels is None else {str(key): str(value) for key, value in labels.items()},
        interfaces=interfaces,
    )


def name_faults(name: str) -> t.Iterator[str]:
    """What is wrong with *name* as the name of a guest: a directory, a unit's instance, and a Nix attribute."""
    if not name:
        yield "is empty."
    elif len(name) > NAME_LIMIT:
        yield f"has {len(name)} characters, and {NAME_LIMIT} is the limit."
    elif _NAME.fullmatch(name) is None:
        yield f"{name!r} is no name of a guest."


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


def _interface(given: t.Mapping[str, t.Any], position: int, wrong: t.Callable[[str, str, str], None]) -> InterfaceWish:
    option = f"interfaces[{position}]"
    identity = str(given["id"])
    for seen in interface_faults(identity):
        wrong(f"{option}.id", seen, "Give a name such as vm-web1, with at most 15 characters.")
    mac = given.get("mac")
    if mac is not None:
        mac = mac.lower()
        if _MAC.fullmatch(mac) is None:
            wrong(
                f"{option}.mac",
                f"{mac!r} is no MAC address.",
                "Give six pairs of hexadecimal digits, such as 02:00:00:00:00:01.",
            )
        elif int(mac[:2], 16) & 1:
            wrong(f"{option}.mac", f"{mac!r} is a group address.", "Clear the lowest bit of its first byte.")
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


def _claims(wish: GuestWish) -> t.Iterator[tuple[str, str, str]]:
    """Kind, value and option of what only one guest may have.  A guest that is to be absent claims only its name."""
    yield "name", wish.name, "name"
    if wish.state == "absent":
        return
    for position, interface in enumerate(wish.interfaces):
        yield "interface", interface.id, f"interfaces[{position}].id"
        if interface.mac:
            yield "MAC", interface.mac, f"interfaces[{position}].mac"
        for place, address in enumerate(interface.addresses):
            yield "address", address, f"interfaces[{position}].addresses[{place}]"


def absent(name: str) -> GuestWish:
    """The wish by which `prune` removes a guest: its volumes stay."""
    return GuestWish(name=name, state="absent")
