# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Profiles of guests: which there are, what is wrong with a wish for them, and what it comes to.

Private to the collection: it may change at any time.  Pure functions; nothing here looks at a host.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._profile_docker import (
    PORTAINER,
    SWARM,
    check_releases,
    check_swarms,
)
from ansible_collections.microvm.fleet.plugins.module_utils._profile_frame import Option, Profile, Volume
from ansible_collections.microvm.fleet.plugins.module_utils._profile_k3s import K3S
from ansible_collections.microvm.fleet.plugins.module_utils._profile_k3s import check_clusters as check_k3s
from ansible_collections.microvm.fleet.plugins.module_utils._profile_kubernetes import KUBERNETES
from ansible_collections.microvm.fleet.plugins.module_utils._profile_kubernetes import (
    check_clusters as check_kubernetes,
)
from ansible_collections.microvm.fleet.plugins.module_utils._profile_spice import SPICE

PROFILES: t.Final[t.Mapping[str, Profile]] = {
    profile.name: profile for profile in (*K3S, *KUBERNETES, *SWARM, *PORTAINER, *SPICE)
}

# RFC 1123, section 2.1, with a dot: a name without one would be that of a guest.
_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+"
)


@dataclass(frozen=True)
class Guest:
    """What of a described guest its profiles go by.  None is "not said".

    *addresses* are those of its interfaces in their order, with their prefixes (``10.0.0.11/24``).  *volumes* are as
    wished; of each the keys image, mount_point, fs_type and read_only are looked at.  *shares* are mount points.
    """

    name: str
    hypervisor: str
    profiles: tuple[str, ...] = ()
    options: t.Mapping[str, t.Any] = field(default_factory=dict)
    mem: int | None = None
    addresses: tuple[str, ...] = ()
    credentials: frozenset[str] = frozenset()
    volumes: tuple[t.Mapping[str, t.Any], ...] = ()
    shares: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """What the profiles of a guest come to.

    *options* has every option of every chosen profile.  *mem* (MiB), *vcpu* and *stop_timeout* (seconds) are defaults
    for what the wish leaves open, None without profiles.  *volumes* are those to be added to the wished ones.
    """

    options: t.Mapping[str, t.Mapping[str, t.Any]]
    mem: int | None = None
    vcpu: int | None = None
    stop_timeout: int | None = None
    volumes: tuple[Volume, ...] = ()


def choose(guest: Guest, peers: t.Mapping[str, t.Sequence[str]]) -> tuple[Chosen, list[InvalidWish]]:
    """What the profiles of *guest* come to, and all that is wrong; with an error, the former is not to be used.

    *peers* are the addresses of all guests of the inventory by name, with or without prefixes; an option that asks
    for an address may name one of them.
    """
    reader = _Reader(guest, peers)
    chosen = reader.read()
    return chosen, reader.errors


def together(options: t.Mapping[str, t.Mapping[str, t.Mapping[str, t.Any]]]) -> list[InvalidWish]:
    """What is wrong between guests: *options* has, by name, the options (of Chosen) of all guests of the inventory."""
    return [
        InvalidWish(fault.seen, subject=f"guest {fault.guest}", field=fault.option, hint=fault.hint)
        for check in (check_releases, check_swarms, check_k3s, check_kubernetes)
        for fault in check(options)
    ]


class _Reader:
    """Reads the profiles of one guest and gathers what is wrong."""

    def __init__(self, guest: Guest, peers: t.Mapping[str, t.Sequence[str]]) -> None:
        self.guest = guest
        self.peers = peers
        self.errors: list[InvalidWish] = []

    def wrong(self, option: str, seen: str, hint: str) -> None:
        self.errors.append(InvalidWish(seen, subject=f"guest {self.guest.name}", field=option, hint=hint))

    def read(self) -> Chosen:
        """What the profiles come to."""
        profiles = self._profiles()
        self._strays()
        for profile in profiles:
            self._needs(profile)
        options = {profile.name: self._values(profile) for profile in profiles}
        return Chosen(
            options=options,
            mem=max((profile.mem for profile in profiles), default=None),
            vcpu=max((profile.vcpu for profile in profiles), default=None),
            stop_timeout=max((_stop_timeout(profile, options[profile.name]) for profile in profiles), default=None),
            volumes=tuple(self._volumes(profiles)),
        )

    def _profiles(self) -> list[Profile]:
        """The chosen profiles that exist, each once."""
        found: dict[str, Profile] = {}
        for name in self.guest.profiles:
            profile = PROFILES.get(name)
            if profile is None:
                self.wrong("profiles", f"{name!r} is no profile.", f"Give some of {_words(PROFILES)}.")
            elif name in found:
                self.wrong("profiles", f"{name} is given twice.", "Give it once.")
            else:
                found[name] = profile
        for profile in found.values():
            for other in profile.excludes:
                if other in found and profile.name < other:
                    self.wrong(
                        "profiles", f"{profile.name} and {other} exclude each other.", "Give each a guest of its own."
                    )
        return list(found.values())

    def _strays(self) -> None:
        """Options for profiles that were not chosen."""
        for name in self.guest.options:
            if name not in self.guest.profiles:
                self.wrong(f"profile_options.{name}", "the guest does not have this profile.", "Add it to profiles.")

    def _needs(self, profile: Profile) -> None:
        """What a profile needs of its guest."""
        guest = self.guest
        if guest.mem is not None and guest.mem < profile.least_mem:
            self.wrong(
                "mem",
                f"{guest.mem} MiB, and profile {profile.name} needs {profile.least_mem} at least.",
                f"Give more, or leave it out for {profile.mem}.",
            )
        if profile.hypervisors and guest.hypervisor not in profile.hypervisors:
            self.wrong(
                "hypervisor",
                f"profile {profile.name} does not run on {guest.hypervisor}: {profile.hypervisors_why}",
                f"Give {_words(profile.hypervisors, 'or')}.",
            )
        for credential in profile.credentials:
            if credential.required and credential.name not in guest.credentials:
                self.wrong(
                    "credentials",
                    f"profile {profile.name} needs {credential.name}: {credential.description}",
                    f"Give credentials: {{{credential.name}: {{src: FILE}}}}.",
                )
            elif (
                credential.along and credential.name in guest.credentials and credential.along not in guest.credentials
            ):
                self.wrong(
                    "credentials",
                    f"{credential.name} is given, and {credential.along} is not.",
                    f"Profile {profile.name} takes both or none.",
                )
        if profile.with_address and not guest.addresses:
            self.wrong(
                "profiles",
                f"profile {profile.name} needs an address that is known beforehand.",
                "Give the guest a network with an index, or an interface with addresses.",
            )

    def _volumes(self, profiles: t.Iterable[Profile]) -> t.Iterator[Volume]:
        """The volumes that profiles add."""
        added: set[str] = set()
        images = {str(volume["image"]) for volume in self.guest.volumes}
        for profile in profiles:
            for volume in profile.volumes:
                if volume.mount_point in added or self._kept(profile, volume):
                    continue
                if volume.image in images:
                    self.wrong(
                        "volumes",
                        f"{volume.image} is the image that profile {profile.name} mounts at {volume.mount_point}.",
                        f"Mount it there, or add a volume with another image for {volume.mount_point}.",
                    )
                added.add(volume.mount_point)
                images.add(volume.image)
                yield volume

    def _kept(self, profile: Profile, volume: Volume) -> bool:
        """Whether the wish itself has a place for what *volume* is for; an unfit one is said."""
        for share in self.guest.shares:
            if _within(volume.mount_point, share):
                self.wrong(
                    "shares",
                    f"{share} is shared from the host, and profile {profile.name} needs a disk at"
                    f" {volume.mount_point}.",
                    "Share another place, and leave this one to a volume.",
                )
                return True
        inner: t.Mapping[str, t.Any] | None = None
        for wished in self.guest.volumes:
            place = wished.get("mount_point")
            if (
                place
                and _within(volume.mount_point, str(place))
                and (inner is None or len(str(place)) > len(str(inner["mount_point"])))
            ):
                inner = wished
        if inner is None:
            return False
        if inner.get("read_only"):
            self.wrong(
                "volumes",
                f"{inner['image']} is read-only, and profile {profile.name} writes to {volume.mount_point}.",
                "Leave read_only out.",
            )
        return True

    def _values(self, profile: Profile) -> dict[str, t.Any]:
        """Every option of *profile* with its value."""
        given = self.guest.options.get(profile.name)
        where = f"profile_options.{profile.name}"
        if given is not None and not isinstance(given, t.Mapping):
            self.wrong(where, f"{given!r} is no mapping.", "Give options and their values.")
            given = None
        given = given or {}
        before = len(self.errors)
        for name in given:
            if name not in profile.options:
                self.wrong(f"{where}.{name}", "there is no such option.", f"Give some of {_words(profile.options)}.")
        values = {
            name: self._value(f"{where}.{name}", option, given.get(name)) for name, option in profile.options.items()
        }
        if profile.check is not None and len(self.errors) == before:
            for fault in profile.check(values, self.guest.credentials):
                self.wrong(f"{where}.{fault.option}", fault.seen, fault.hint)
        return values

    def _value(self, where: str, option: Option, value: t.Any) -> t.Any:
        """The value of one option; None is as good as unsaid."""
        if value is None and option.kind == "own_address" and self.guest.addresses:
            return _bare(self.guest.addresses[0])
        if value is None and option.default is not None:
            value = option.default
        if value is None:
            if option.required:
                self.wrong(where, "is required.", f"{option.description}")
            return None
        return self._READERS[option.kind](self, where, option, value)

    def _read_bool(self, where: str, _option: Option, value: t.Any) -> t.Any:
        if not isinstance(value, bool):
            self.wrong(where, f"{value!r} is no boolean.", "Give true or false.")
        return value

    def _read_int(self, where: str, option: Option, value: t.Any) -> t.Any:
        if isinstance(value, bool) or not isinstance(value, int) or not option.least <= value <= option.most:
            self.wrong(
                where, f"{value!r} is out of range.", f"Give a whole number from {option.least} to {option.most}."
            )
        return value

    def _read_str(self, where: str, option: Option, value: t.Any) -> t.Any:
        if not isinstance(value, str):
            self.wrong(where, f"{value!r} is no string.", "Put it into quotes.")
        elif option.choices and value not in option.choices:
            self.wrong(where, f"{value!r} is none of the choices.", f"Give {_words(option.choices, 'or')}.")
        elif option.pattern is not None and re.fullmatch(option.pattern, value) is None:
            self.wrong(where, f"{value!r} is not {option.form}.", option.description)
        return value

    def _read_list(self, where: str, option: Option, value: t.Any) -> t.Any:
        if not isinstance(value, (list, tuple)):
            self.wrong(where, f"{value!r} is no list.", "Give a list.")
            return value
        return [self._read_str(f"{where}[{place}]", option, element) for place, element in enumerate(value)]

    def _read_dict(self, where: str, _option: Option, value: t.Any) -> t.Any:
        if not isinstance(value, t.Mapping):
            self.wrong(where, f"{value!r} is no mapping.", "Give names and their values.")
            return value
        for name, element in value.items():
            if not isinstance(name, str) or not isinstance(element, str):
                self.wrong(f"{where}.{name}", f"{element!r} is no string.", "Put it into quotes.")
        return dict(value)

    def _read_subnet(self, where: str, option: Option, value: t.Any) -> t.Any:
        try:
            subnet = ipaddress.ip_network(str(value))
        except ValueError as error:
            self.wrong(where, f"{value!r} is no network: {error}.", "Give it as 10.42.0.0/16.")
            return value
        if option.pattern is not None and re.fullmatch(option.pattern, str(subnet)) is None:
            self.wrong(where, f"{subnet} is not {option.form}.", option.description)
            return value
        for address in self.guest.addresses:
            own = ipaddress.ip_interface(address).network
            if own.version == subnet.version and own.overlaps(subnet):
                self.wrong(where, f"{subnet} overlaps the guest's own network {own}.", "Give one that is free.")
        return str(subnet)

    def _read_own_address(self, where: str, _option: Option, value: t.Any) -> t.Any:
        own = [_bare(address) for address in self.guest.addresses]
        if own and value not in own:
            self.wrong(where, f"{value!r} is no address of the guest.", f"Give {_words(own, 'or')}.")
        elif not _is_address(value):
            self.wrong(where, f"{value!r} is no IP address.", "Give it as 192.0.2.11 or 2001:db8::11.")
        return value

    def _read_address(self, where: str, _option: Option, value: t.Any) -> t.Any:
        hint = "Give a guest of the inventory, an IP address, or a host name with its domain."
        if not isinstance(value, str):
            self.wrong(where, f"{value!r} is no string.", hint)
            return value
        if value == self.guest.name:
            self.wrong(where, f"{value!r} is the guest itself.", hint)
        elif value in self.peers:
            if not self.peers[value]:
                self.wrong(
                    where,
                    f"guest {value} has no address that is known beforehand.",
                    "Give it a network with an index, or say the address itself here.",
                )
                return value
            return _bare(self.peers[value][0])
        elif not _is_address(value) and _HOST.fullmatch(value) is None:
            self.wrong(where, f"{value!r} is neither a guest of the inventory nor an address.", hint)
        return value

    _READERS: t.ClassVar[t.Mapping[str, t.Callable[[_Reader, str, Option, t.Any], t.Any]]] = {
        "bool": _read_bool,
        "int": _read_int,
        "str": _read_str,
        "list": _read_list,
        "dict": _read_dict,
        "subnet": _read_subnet,
        "address": _read_address,
        "own_address": _read_own_address,
    }


def _stop_timeout(profile: Profile, values: t.Mapping[str, t.Any]) -> int:
    """The seconds that a clean shutdown of *profile* may take; a wrong value counts nothing."""
    more = values.get(profile.stop_option or "")
    return profile.stop_timeout + (more if isinstance(more, int) else 0)


def _bare(address: str) -> str:
    """An address without its prefix."""
    return address.partition("/")[0]


def _is_address(value: t.Any) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return isinstance(value, str)


def _within(place: str, outer: str) -> bool:
    """Whether directory *place* is *outer* or lies in it."""
    outer = outer.rstrip("/")
    return place == outer or place.startswith(f"{outer}/")


def _words(names: t.Iterable[str], last: str = "and") -> str:
    """Names as one enumeration."""
    every = list(names)
    return "".join(every) if len(every) < 2 else f"{', '.join(every[:-1])} {last} {every[-1]}"
