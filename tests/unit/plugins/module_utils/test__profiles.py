# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What profiles come to for a guest, and what is refused, with which words."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _profiles
from ansible_collections.microvm.fleet.plugins.module_utils._profile_frame import (
    Credential,
    Fault,
    Option,
    Profile,
    Volume,
)
from ansible_collections.microvm.fleet.plugins.module_utils._profiles import Chosen, Guest, choose, together

DATA: t.Final = Volume("data.img", "/var/lib/data", 1024)
PEERS: t.Final = {
    "db1": ("10.0.0.21/24", "fd00::21/64"),
    "db2": ("10.0.0.22",),
    "floating": (),
    "g": ("10.0.0.11/24",),
}


def _pair(values: t.Mapping[str, t.Any], credentials: frozenset[str]) -> t.Iterator[Fault]:
    if values["size"] > 100 and "key" not in credentials:
        yield Fault("size", "is too much without a key.", "Give a key.")


KINDS: t.Final = Profile(
    name="kinds",
    description="An option of every kind.",
    options={
        "flag": Option("bool", "A flag.", default=False),
        "size": Option("int", "A size.", default=5, least=1, most=1000),
        "word": Option("str", "A word in lower case.", pattern=r"[a-z]+", form="a word in lower case"),
        "mode": Option("str", "A mode.", default="a", choices=("a", "b")),
        "words": Option("list", "Words.", default=(), pattern=r"[a-z]+", form="a word in lower case"),
        "modes": Option("list", "Modes.", default=("a",), choices=("a", "b")),
        "names": Option("dict", "Names.", default={}),
        "pool": Option("subnet", "A pool.", default="10.42.0.0/16"),
        "wide": Option("subnet", "A wide pool.", pattern=r"[0-9.]+/(8|16)", form="an IPv4 network of /8 or /16"),
        "peer": Option("address", "A peer."),
        "own": Option("own_address", "An address."),
    },
    least_mem=256,
    mem=384,
    vcpu=2,
    stop_timeout=30,
    stop_option="size",
    volumes=(DATA,),
    credentials=(
        Credential("key", "A key.", required=False, along="certificate"),
        Credential("certificate", "A certificate.", required=False),
    ),
    check=_pair,
)
SMALL: t.Final = Profile(
    name="small",
    description="Little.",
    options={"peer": Option("address", "The peer to join.", required=True)},
    least_mem=64,
    mem=128,
    vcpu=1,
    stop_timeout=90,
    credentials=(Credential("token", "A token."),),
    hypervisors=("qemu", "crosvm"),
    hypervisors_why="it needs USB.",
    excludes=("lonely",),
    with_address=True,
)
LONELY: t.Final = dataclasses.replace(
    SMALL, name="lonely", options={}, credentials=(), hypervisors=(), with_address=False, excludes=("small",)
)


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_profiles, "PROFILES", {one.name: one for one in (KINDS, SMALL, LONELY)})


def guest(**options: t.Any) -> Guest:
    """A guest with the profile of all kinds and these options."""
    return Guest(
        name="g",
        hypervisor="qemu",
        profiles=("kinds",),
        options={"kinds": options},
        addresses=("10.0.0.11/24", "fd00::11/64"),
    )


def faults(one: Guest) -> list[str]:
    return [error.text() for error in choose(one, PEERS)[1]]


def test_no_profile_is_nothing() -> None:
    assert choose(Guest(name="g", hypervisor="qemu"), {}) == (Chosen(options={}), [])


def test_defaults_are_filled_in() -> None:
    chosen, errors = choose(guest(), PEERS)
    assert errors == []
    assert chosen == Chosen(
        options={
            "kinds": {
                "flag": False,
                "size": 5,
                "word": None,
                "mode": "a",
                "words": [],
                "modes": ["a"],
                "names": {},
                "pool": "10.42.0.0/16",
                "wide": None,
                "peer": None,
                "own": "10.0.0.11",
            }
        },
        mem=384,
        vcpu=2,
        stop_timeout=35,
        volumes=(DATA,),
    )


def test_null_is_as_good_as_unsaid() -> None:
    assert choose(guest(flag=None, size=None, own=None, peer=None), PEERS) == choose(guest(), PEERS)


@pytest.mark.parametrize(
    ("option", "value", "becomes"),
    [
        ("flag", True, True),
        ("size", 1, 1),
        ("size", 1000, 1000),
        ("word", "abc", "abc"),
        ("mode", "b", "b"),
        ("words", ("a", "bc"), ["a", "bc"]),
        ("words", [], []),
        ("modes", ["b", "a"], ["b", "a"]),
        ("names", {"a": "b"}, {"a": "b"}),
        ("pool", "192.168.0.0/24", "192.168.0.0/24"),
        ("pool", "fd01::/56", "fd01::/56"),
        ("wide", "172.16.0.0/16", "172.16.0.0/16"),
        ("peer", "db1", "10.0.0.21"),
        ("peer", "db2", "10.0.0.22"),
        ("peer", "192.0.2.1", "192.0.2.1"),
        ("peer", "2001:db8::1", "2001:db8::1"),
        ("peer", "db.example.org", "db.example.org"),
        ("own", "fd00::11", "fd00::11"),
    ],
)
def test_what_an_option_takes(option: str, value: t.Any, becomes: t.Any) -> None:
    one = guest(**{option: value})
    if option == "size" and value > 100:
        one = dataclasses.replace(one, credentials=frozenset({"key", "certificate"}))
    chosen, errors = choose(one, PEERS)
    assert errors == []
    assert chosen.options["kinds"][option] == becomes


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("flag", "yes", "'yes' is no boolean. Give true or false."),
        ("flag", 1, "1 is no boolean. Give true or false."),
        ("size", 0, "0 is out of range. Give a whole number from 1 to 1000."),
        ("size", 1001, "1001 is out of range. Give a whole number from 1 to 1000."),
        ("size", "5", "'5' is out of range. Give a whole number from 1 to 1000."),
        ("size", True, "True is out of range. Give a whole number from 1 to 1000."),
        ("size", 101, "is too much without a key. Give a key."),
        ("word", 5, "5 is no string. Put it into quotes."),
        ("word", "Abc", "'Abc' is not a word in lower case. A word in lower case."),
        ("word", "abc\n", "'abc\\n' is not a word in lower case. A word in lower case."),
        ("mode", "c", "'c' is none of the choices. Give a or b."),
        ("words", "abc", "'abc' is no list. Give a list."),
        ("names", ["a"], "['a'] is no mapping. Give names and their values."),
        (
            "pool",
            "10.42.0.1/16",
            "'10.42.0.1/16' is no network: 10.42.0.1/16 has host bits set. Give it as 10.42.0.0/16.",
        ),
        ("pool", "10.0.0.0/8", "10.0.0.0/8 overlaps the guest's own network 10.0.0.0/24. Give one that is free."),
        ("pool", "fd00::/48", "fd00::/48 overlaps the guest's own network fd00::/64. Give one that is free."),
        ("wide", "172.16.0.0/12", "172.16.0.0/12 is not an IPv4 network of /8 or /16. A wide pool."),
        ("wide", "fd02::/16", "fd02::/16 is not an IPv4 network of /8 or /16. A wide pool."),
        (
            "peer",
            "db3",
            (
                "'db3' is neither a guest of the inventory nor an address."
                " Give a guest of the inventory, an IP address, or a host name with its domain."
            ),
        ),
        (
            "peer",
            "g",
            "'g' is the guest itself. Give a guest of the inventory, an IP address, or a host name with its domain.",
        ),
        (
            "peer",
            5,
            "5 is no string. Give a guest of the inventory, an IP address, or a host name with its domain.",
        ),
        (
            "peer",
            "floating",
            (
                "guest floating has no address that is known beforehand. Give it a network with an index, or say the"
                " address itself here."
            ),
        ),
        ("own", "10.0.0.12", "'10.0.0.12' is no address of the guest. Give 10.0.0.11 or fd00::11."),
        (
            "sise",
            5,
            (
                "there is no such option. Give some of flag, size, word, mode, words, modes, names, pool, wide, peer"
                " and own."
            ),
        ),
    ],
)
def test_what_an_option_refuses(option: str, value: t.Any, says: str) -> None:
    assert faults(guest(**{option: value})) == [f"guest g, profile_options.kinds.{option}: {says}"]


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("words", ["a", "B"], "[1]: 'B' is not a word in lower case. Words."),
        ("modes", ["c"], "[0]: 'c' is none of the choices. Give a or b."),
        ("names", {"a": 1}, ".a: 1 is no string. Put it into quotes."),
    ],
)
def test_an_element_is_named(option: str, value: t.Any, says: str) -> None:
    assert faults(guest(**{option: value})) == [f"guest g, profile_options.kinds.{option}{says}"]


def test_all_that_is_wrong_is_said_at_once() -> None:
    assert len(faults(guest(flag=1, size=0, mode="c"))) == 3


def test_options_that_are_no_mapping() -> None:
    one = dataclasses.replace(guest(), options={"kinds": ["flag"]})
    assert faults(one) == [
        "guest g, profile_options.kinds: ['flag'] is no mapping. Give options and their values.",
    ]


def test_without_a_known_address_an_own_one_may_be_any_or_none() -> None:
    floating = dataclasses.replace(guest(), addresses=())
    assert choose(floating, PEERS)[0].options["kinds"]["own"] is None
    said = dataclasses.replace(floating, options={"kinds": {"own": "192.0.2.7"}})
    assert choose(said, PEERS)[0].options["kinds"]["own"] == "192.0.2.7"
    wrong = dataclasses.replace(floating, options={"kinds": {"own": "seven"}})
    assert faults(wrong) == [
        "guest g, profile_options.kinds.own: 'seven' is no IP address. Give it as 192.0.2.11 or 2001:db8::11."
    ]


SMALL_GUEST: t.Final = Guest(
    name="g",
    hypervisor="qemu",
    profiles=("small",),
    options={"small": {"peer": "db1"}},
    addresses=("10.0.0.11/24",),
    credentials=frozenset({"token"}),
)


def test_the_small_one_is_right() -> None:
    chosen, errors = choose(SMALL_GUEST, PEERS)
    assert errors == []
    assert (chosen.mem, chosen.vcpu, chosen.stop_timeout, chosen.volumes) == (128, 1, 90, ())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"profiles": ("small", "big")}, "profiles: 'big' is no profile. Give some of kinds, small and lonely."),
        ({"profiles": ("small", "small")}, "profiles: small is given twice. Give it once."),
        (
            {"profiles": ("small", "lonely")},
            "profiles: lonely and small exclude each other. Give each a guest of its own.",
        ),
        (
            {"profiles": ("lonely", "small")},
            "profiles: lonely and small exclude each other. Give each a guest of its own.",
        ),
        (
            {"options": {"small": {"peer": "db1"}, "kinds": {}}},
            "profile_options.kinds: the guest does not have this profile. Add it to profiles.",
        ),
        ({"options": {}}, "profile_options.small.peer: is required. The peer to join."),
        (
            {"mem": 63},
            "mem: 63 MiB, and profile small needs 64 at least. Give more, or leave it out for 128.",
        ),
        (
            {"hypervisor": "firecracker"},
            "hypervisor: profile small does not run on firecracker: it needs USB. Give qemu or crosvm.",
        ),
        (
            {"credentials": frozenset()},
            "credentials: profile small needs token: A token. Give credentials: {token: {src: FILE}}.",
        ),
        (
            {"addresses": ()},
            (
                "profiles: profile small needs an address that is known beforehand."
                " Give the guest a network with an index, or an interface with addresses."
            ),
        ),
    ],
)
def test_what_a_profile_needs(change: dict[str, t.Any], says: str) -> None:
    assert faults(dataclasses.replace(SMALL_GUEST, **change)) == [f"guest g, {says}"]


def test_enough_memory_is_enough() -> None:
    assert faults(dataclasses.replace(SMALL_GUEST, mem=64)) == []


def test_a_credential_that_goes_along_with_another() -> None:
    half = dataclasses.replace(guest(), credentials=frozenset({"key"}))
    assert faults(half) == [
        "guest g, credentials: key is given, and certificate is not. Profile kinds takes both or none."
    ]
    assert faults(dataclasses.replace(half, credentials=frozenset({"certificate"}))) == []


def test_two_profiles_have_what_the_larger_one_has() -> None:
    both = dataclasses.replace(
        SMALL_GUEST, profiles=("small", "kinds"), options={"small": {"peer": "db1"}, "kinds": {"size": 10}}
    )
    chosen, errors = choose(both, PEERS)
    assert errors == []
    assert list(chosen.options) == ["small", "kinds"]
    assert (chosen.mem, chosen.vcpu, chosen.stop_timeout, chosen.volumes) == (384, 2, 90, (DATA,))


def volume(mount_point: str | None, image: str = "own.img", **further: t.Any) -> dict[str, t.Any]:
    return {"image": image, "mount_point": mount_point, "fs_type": "ext4", "read_only": False, **further}


@pytest.mark.parametrize(
    ("volumes", "added"),
    [
        ([], True),
        ([volume("/var/lib/other")], True),
        ([volume("/var/lib/data-2")], True),
        ([volume("/var/lib/data/inner")], True),
        ([volume(None)], True),
        ([volume("/var/lib/data")], False),
        ([volume("/var/lib/data", image="data.img")], False),
        ([volume("/var/lib")], False),
        ([volume("/var/lib/")], False),
        ([volume("/")], False),
        ([volume("/var", read_only=True), volume("/var/lib")], False),
    ],
)
def test_a_volume_is_added_where_the_wish_has_none(volumes: list[dict[str, t.Any]], added: bool) -> None:
    chosen, errors = choose(dataclasses.replace(guest(), volumes=tuple(volumes)), PEERS)
    assert errors == []
    assert chosen.volumes == ((DATA,) if added else ())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"volumes": (volume("/var/lib", read_only=True),)},
            "volumes: own.img is read-only, and profile kinds writes to /var/lib/data. Leave read_only out.",
        ),
        (
            {"volumes": (volume("/srv", image="data.img"),)},
            (
                "volumes: data.img is the image that profile kinds mounts at /var/lib/data."
                " Mount it there, or add a volume with another image for /var/lib/data."
            ),
        ),
        (
            {"shares": ("/var/lib/data",)},
            (
                "shares: /var/lib/data is shared from the host, and profile kinds needs a disk at /var/lib/data. Share"
                " another place, and leave this one to a volume."
            ),
        ),
    ],
)
def test_what_is_no_place_for_a_profile(change: dict[str, t.Any], says: str) -> None:
    assert faults(dataclasses.replace(guest(), **change)) == [f"guest g, {says}"]


def test_a_place_that_two_profiles_share_is_added_once(monkeypatch: pytest.MonkeyPatch) -> None:
    again = dataclasses.replace(LONELY, name="again", excludes=(), volumes=(DATA,))
    monkeypatch.setattr(_profiles, "PROFILES", {"kinds": KINDS, "again": again})
    chosen, errors = choose(dataclasses.replace(guest(), profiles=("kinds", "again")), PEERS)
    assert errors == []
    assert chosen.volumes == (DATA,)


def test_nothing_is_wrong_between_guests_without_profiles() -> None:
    assert together({}) == []
    assert together({"a": {}, "b": {}}) == []
