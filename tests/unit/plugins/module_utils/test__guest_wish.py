# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Wishes: what is taken, and every message about what is not."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._describe import Surroundings
from ansible_collections.microvm.fleet.plugins.module_utils._descriptions import networks_of
from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import (
    DESCRIPTION,
    STATES,
    UPDATES,
    GuestWish,
    InterfaceWish,
    absent,
    flake_faults,
    guest_spec,
    guests_spec,
    interface_faults,
    place_of,
    read_wishes,
)
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import access_spec, health_spec

RUNNER = "/nix/store/0c4mzlvsb9lvkmnmzn8sbpxzfdmlkxqp-microvm-qemu-web1"
NAME_HINT = " Use letters, digits, '-', '_' and '.', beginning with a letter or a digit."
FLAKE_HINT = " Give a reference such as git+https://HOST/REPOSITORY, github:OWNER/NAME or /ABSOLUTE/PATH."
INTERFACE_HINT = " Give a name such as vm-web1, with at most 15 characters."
MAC_HINT = " Give six pairs of hexadecimal digits, such as 02:00:00:00:00:01."


def message(*entries: dict[str, t.Any], update: str = "never") -> str:
    with pytest.raises(InvalidWish) as caught:
        read_wishes(entries, update=update)
    return caught.value.text()


def entry(name: str = "web1", **fields: t.Any) -> dict[str, t.Any]:
    return {"name": name, **fields}


def test_the_least() -> None:
    assert read_wishes([entry()]) == (
        GuestWish(
            name="web1",
            flake=None,
            runner=None,
            state="present",
            autostart=None,
            update="never",
            keep_generations=3,
            purge=False,
            protect=None,
            start_timeout=None,
            stop_timeout=None,
            labels=None,
            interfaces=(),
        ),
    )


def test_no_guests_at_all() -> None:
    assert read_wishes([]) == ()


def test_everything() -> None:
    given = entry(
        flake="git+https://git.example.org/infra",
        state="started",
        autostart=False,
        update="activate",
        keep_generations=1,
        purge=False,
        protect=True,
        start_timeout=1,
        stop_timeout=86400,
        labels={"service": "web", "rank": 1},
        interfaces=[
            {
                "id": "vm-web1",
                "mac": "02:AB:00:00:00:01",
                "network": "lan",
                "addresses": ["192.0.2.11/24", "2001:DB8::11", "192.0.2.12"],
            },
            {"id": "vm-web1-b", "mac": None, "network": None, "addresses": None},
        ],
    )
    assert read_wishes([given]) == (
        GuestWish(
            name="web1",
            flake="git+https://git.example.org/infra",
            state="started",
            autostart=False,
            update="activate",
            keep_generations=1,
            protect=True,
            start_timeout=1,
            stop_timeout=86400,
            labels={"service": "web", "rank": "1"},
            interfaces=(
                InterfaceWish("vm-web1", "02:ab:00:00:00:01", "lan", ("192.0.2.11", "2001:db8::11", "192.0.2.12")),
                InterfaceWish("vm-web1-b"),
            ),
        ),
    )


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("update", UPDATES)
def test_states_and_updates(state: str, update: str) -> None:
    (wish,) = read_wishes([entry(state=state, update=update)])
    assert (wish.state, wish.update, wish.subject) == (state, update, "guest web1")


def test_the_update_of_all_holds_where_an_entry_names_none() -> None:
    wishes = read_wishes([entry("a"), entry("b", update="never"), entry("c", update=None)], update="stage")
    assert [wish.update for wish in wishes] == ["stage", "never", "stage"]


@pytest.mark.parametrize(("label", "place"), [("0", 0), ("007", 7), (50, 50), ("999", 999)])
def test_places_in_the_order_of_stops(label: object, place: int) -> None:
    (wish,) = read_wishes([entry("web1", labels={"stop_order": label})])
    assert wish.labels is not None
    assert place_of(wish.labels["stop_order"]) == place


@pytest.mark.parametrize("label", ["", "-1", "1000", 1000, "1.5", "first", "1\n", True])
def test_labels_that_are_no_place_in_it(label: object) -> None:
    assert message(entry("web1", labels={"stop_order": label})) == (
        f"guest web1, labels.stop_order: {label!r} is no place in an order. Give a number from 0 to 999."
    )


@pytest.mark.parametrize(
    "name",
    ["a", "9", "web1", "web.example.org", "web-1_b", "A" * 64, "a..b", "a-", "a.", "Web1", "microvm", "current"],
)
def test_names(name: str) -> None:
    assert read_wishes([entry(name)])[0].name == name


@pytest.mark.parametrize(
    ("name", "subject", "seen"),
    [
        ("", "guest number 1 of the list", "is empty."),
        ("a" * 65, f"guest {'a' * 65}", "has 65 characters, and 64 is the limit."),
        ("..", "guest ..", "'..' is no name of a guest."),
        (".", "guest .", "'.' is no name of a guest."),
        (".kept", "guest .kept", "'.kept' is no name of a guest."),
        ("-web1", "guest -web1", "'-web1' is no name of a guest."),
        ("_web1", "guest _web1", "'_web1' is no name of a guest."),
        ("/", "guest /", "'/' is no name of a guest."),
        ("../etc", "guest ../etc", "'../etc' is no name of a guest."),
        ("web/1", "guest web/1", "'web/1' is no name of a guest."),
        ("web1\n", "guest number 1 of the list", "'web1\\n' is no name of a guest."),
        ("\n", "guest number 1 of the list", "'\\n' is no name of a guest."),
        ("web 1", "guest web 1", "'web 1' is no name of a guest."),
        ("web\x001", "guest web\x001", "'web\\x001' is no name of a guest."),
        ("wéb", "guest wéb", "'wéb' is no name of a guest."),
        ("web١", "guest web١", "'web١' is no name of a guest."),
        ("web@1", "guest web@1", "'web@1' is no name of a guest."),
        ("web%i", "guest web%i", "'web%i' is no name of a guest."),
        ("web'1", "guest web'1", '"web\'1" is no name of a guest.'),
        ("$(id)", "guest $(id)", "'$(id)' is no name of a guest."),
        ("web*", "guest web*", "'web*' is no name of a guest."),
        ("web\\x2d1", "guest web\\x2d1", "'web\\\\x2d1' is no name of a guest."),
    ],
)
def test_bad_names(name: str, subject: str, seen: str) -> None:
    assert message(entry(name)) == f"{subject}, name: {seen}{NAME_HINT}"


def test_a_bad_name_in_a_list_says_its_place() -> None:
    assert message(entry("a"), entry("b"), entry("")).startswith("guest number 3 of the list, name: is empty.")


@pytest.mark.parametrize(
    "reference",
    [
        "/etc/nixos",
        "/",
        "path:/etc/nixos",
        "path:/etc/nixos?dir=guests",
        "git+file:///srv/infra",
        "git+file:/srv/infra?ref=main",
        "git+https://git.example.org/infra",
        "git+ssh://git@git.example.org/infra?ref=main&dir=guests",
        "https://example.org/infra.tar.gz",
        "tarball+https://example.org/infra",
        "github:owner/name",
        "github:owner/name/v1.0",
        "gitlab:owner%2Fgroup/name",
        "sourcehut:~owner/name",
        "hg+https://example.org/infra",
        "file:///srv/infra.tar.gz",
        "flake:nixpkgs",
    ],
)
def test_references(reference: str) -> None:
    assert list(flake_faults(reference)) == []
    assert read_wishes([entry(flake=reference)])[0].flake == reference


@pytest.mark.parametrize(
    ("reference", "seen"),
    [
        ("", "is empty."),
        (".", "'.' is relative."),
        ("./guests", "'./guests' is relative."),
        ("../guests", "'../guests' is relative."),
        ("guests", "'guests' is relative."),
        ("srv/guests", "'srv/guests' is relative."),
        ("~/guests", "'~/guests' is relative."),
        ("path:.", "'path:.' is relative."),
        ("path:guests", "'path:guests' is relative."),
        ("git+file:guests", "'git+file:guests' is relative."),
        ("git+file:./guests", "'git+file:./guests' is relative."),
        ("file:guests.tar", "'file:guests.tar' is relative."),
        ("hg+file:guests", "'hg+file:guests' is relative."),
        ("tarball+file:guests", "'tarball+file:guests' is relative."),
        ("/srv/guests#web1", "'/srv/guests#web1' names an output after '#', which is the guest's name already."),
        ("github:a/b#", "'github:a/b#' names an output after '#', which is the guest's name already."),
        ("/srv/my guests", "'/srv/my guests' has white space or control characters."),
        ("/srv/guests\n", "'/srv/guests\\n' has white space or control characters."),
        ("/srv/\x1b[0m", "'/srv/\\x1b[0m' has white space or control characters."),
        (" /srv", "' /srv' has white space or control characters."),
        ("--impure", "'--impure' is relative."),
        ("-/srv", "'-/srv' is relative."),
    ],
)
def test_bad_references(reference: str, seen: str) -> None:
    assert message(entry(flake=reference)) == f"guest web1, flake: {seen}{FLAKE_HINT}"


def test_a_runner() -> None:
    assert read_wishes([entry(runner=RUNNER)])[0].runner == RUNNER


@pytest.mark.parametrize(
    "runner",
    [
        "",
        "/",
        "/nix/store",
        "/nix/store/x",
        "/tmp/result",
        "result",
        RUNNER + "/bin/microvm-run",
        RUNNER + "\n",
        RUNNER[1:],
    ],
)
def test_bad_runners(runner: str) -> None:
    assert message(entry(runner=runner)) == (
        f"guest web1, runner: {runner!r} is no path of a package in /nix/store. "
        "Give the output path that the build printed."
    )


def test_two_sources() -> None:
    assert message(entry(flake="/srv", runner=RUNNER)) == (
        "guest web1, runner: given together with flake. Give one of the two."
    )


@pytest.mark.parametrize(
    ("option", "value", "most"),
    [
        ("keep_generations", 0, 1000),
        ("keep_generations", -1, 1000),
        ("keep_generations", 1001, 1000),
        ("start_timeout", 0, 86400),
        ("start_timeout", -5, 86400),
        ("start_timeout", 86401, 86400),
        ("stop_timeout", 0, 86400),
        ("stop_timeout", 10**12, 86400),
    ],
)
def test_ranges(option: str, value: int, most: int) -> None:
    assert message({**entry(), option: value}) == (
        f"guest web1, {option}: {value} is out of range. Give a number from 1 to {most}."
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [("keep_generations", 1), ("keep_generations", 1000), ("start_timeout", 1), ("stop_timeout", 86400)],
)
def test_ends_of_ranges(option: str, value: int) -> None:
    assert getattr(read_wishes([{"name": "web1", option: value}])[0], option) == value


@pytest.mark.parametrize("state", ["absent", "stopped"])
def test_what_is_protected_is_not_stopped(state: str) -> None:
    assert message(entry(protect=True, state=state)) == (
        f"guest web1, protect: the guest is protected, and its state is to be {state}. Set protect to false first."
    )


@pytest.mark.parametrize("state", ["present", "started", "stopped", "restarted"])
def test_purge_is_for_what_is_to_be_absent(state: str) -> None:
    assert message(entry(purge=True, state=state)) == (
        f"guest web1, purge: is only for state absent, not {state}. Leave it out."
    )


def test_purge() -> None:
    assert read_wishes([entry(purge=True, state="absent")])[0].purge


@pytest.mark.parametrize("generation", ["1", "12", "previous", "healthy"])
def test_a_generation_wins_over_what_holds_for_all(generation: str) -> None:
    (wish,) = read_wishes([entry(generation=generation, update="never")], update="activate")
    assert (wish.generation, wish.update, wish.activates) == (generation, "never", True)
    (other,) = read_wishes([entry()], update="stage")
    assert not other.activates


@pytest.mark.parametrize("update", ["activate", "activate_staged"])
def test_updates_that_activate(update: str) -> None:
    assert read_wishes([entry(update=update)])[0].activates


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"generation": "last"}, "generation: 'last' is no generation. Give a number, previous or healthy."),
        ({"generation": "0"}, "generation: '0' is no generation. Give a number, previous or healthy."),
        ({"generation": "-1"}, "generation: '-1' is no generation. Give a number, previous or healthy."),
        ({"generation": "1" * 20}, f"generation: '{'1' * 20}' is no generation. Give a number, previous or healthy."),
        (
            {"generation": "1", "update": "stage"},
            "generation: given together with update: stage. Give one of the two.",
        ),
        ({"generation": "1", "state": "absent"}, "generation: given of a guest that is to be absent. Leave it out."),
        (
            {"restore_volumes": True},
            "restore_volumes: there is nothing to restore without a snapshot. Give snapshot_volumes: true too.",
        ),
        (
            {"health": [{"kind": "tcp", "port": 80}]},
            (
                "health[0].address: is missing, and no interface of the guest says one. "
                "Give the address at which the host reaches the guest, here or in addresses of its interfaces."
            ),
        ),
        (
            {"min_healthy_time": 30, "healthy_deadline": 20},
            (
                "healthy_deadline: 20 s are over before the 30 s of min_healthy_time are. "
                "Give more than min_healthy_time."
            ),
        ),
        (
            {"ssh": {"key_file": "key", "address": "10.0.0.1"}},
            "ssh.key_file: 'key' is no absolute path. Give the path of a private key on the host.",
        ),
    ],
)
def test_bad_switches(fields: dict[str, t.Any], said: str) -> None:
    assert message(entry(**fields)) == f"guest web1, {said}"


def test_health_is_asked_where_the_interfaces_say() -> None:
    (wish,) = read_wishes(
        [
            entry(
                interfaces=[{"id": "vm-web1", "addresses": ["10.0.0.11/24", "fd00::11"]}],
                health=[{"kind": "http"}, {"kind": "ssh", "command": ["true"], "user": "admin"}],
                healthy_deadline=60,
            )
        ]
    )
    assert wish.health.asked
    assert [probe.address for probe in wish.health.probes] == ["10.0.0.11", ""]
    assert wish.health.healthy_deadline == 60
    assert wish.access is not None
    assert (wish.access.address, wish.access.user) == ("10.0.0.11", "admin")
    (plain,) = read_wishes([entry()])
    assert not plain.health.asked
    assert plain.access is None


def test_of_what_is_to_be_absent_no_health_is_asked() -> None:
    (wish,) = read_wishes([entry(state="absent", health=[{"kind": "tcp", "port": 80}])])
    assert not wish.health.asked


def test_health_of_a_description_is_asked_at_its_address() -> None:
    around = Surroundings(networks=networks_of([{"name": "lan", "addresses": ["10.0.0.1/24"]}]))
    given = entry(hypervisor="qemu", network={"name": "lan", "index": 11}, health=[{"kind": "tcp", "port": 80}])
    (wish,) = read_wishes([given], surroundings=lambda: around)
    assert wish.health.probes[0].address == "10.0.0.11"


@pytest.mark.parametrize("name", ["vm-web1", "tap0", "a", "_x", "vm-web1.100", "v" * 15, "vt", "VT-a"])
def test_interfaces(name: str) -> None:
    assert list(interface_faults(name)) == []


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("vm-web1-long-name", "'vm-web1-long-name' has 17 characters, and the kernel takes 15."),
        ("v" * 16, "'vvvvvvvvvvvvvvvv' has 16 characters, and the kernel takes 15."),
        ("", "'' is no name of an interface."),
        (".", "'.' is no name of an interface."),
        ("..", "'..' is no name of an interface."),
        ("-a", "'-a' is no name of an interface."),
        ("a/b", "'a/b' is no name of an interface."),
        ("a b", "'a b' is no name of an interface."),
        ("a:1", "'a:1' is no name of an interface."),
        ("a\n", "'a\\n' is no name of an interface."),
        (
            "vt-web1",
            "'vt-web1' begins with vt-, which systemd-networkd gives a network of its own (80-vm-vt.network).",
        ),
    ],
)
def test_bad_interfaces(name: str, seen: str) -> None:
    said = message(entry(interfaces=[{"id": "vm-good"}, {"id": name}]))
    assert said == f"guest web1, interfaces[1].id: {seen}{INTERFACE_HINT}"


@pytest.mark.parametrize(
    ("mac", "seen"),
    [
        ("", "'' is no MAC address."),
        ("02:00:00:00:00", "'02:00:00:00:00' is no MAC address."),
        ("02:00:00:00:00:01:02", "'02:00:00:00:00:01:02' is no MAC address."),
        ("02-00-00-00-00-01", "'02-00-00-00-00-01' is no MAC address."),
        ("0200.0000.0001", "'0200.0000.0001' is no MAC address."),
        ("02:00:00:00:00:0g", "'02:00:00:00:00:0g' is no MAC address."),
        ("02:00:00:00:00:01\n", "'02:00:00:00:00:01\\n' is no MAC address."),
    ],
)
def test_bad_macs(mac: str, seen: str) -> None:
    said = message(entry(interfaces=[{"id": "vm-web1", "mac": mac}]))
    assert said == f"guest web1, interfaces[0].mac: {seen}{MAC_HINT}"


@pytest.mark.parametrize("mac", ["01:00:5e:00:00:01", "FF:FF:FF:FF:FF:FF", "03:00:00:00:00:00"])
def test_group_macs(mac: str) -> None:
    assert message(entry(interfaces=[{"id": "vm-web1", "mac": mac}])) == (
        f"guest web1, interfaces[0].mac: {mac.lower()!r} is a group address. Clear the lowest bit of its first byte."
    )


@pytest.mark.parametrize(
    "address",
    [
        "",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.1/33",
        "2001:db8::/129",
        "2001:db8:::1",
        "host",
        "192.0.2.1 ",
        "fe80::1%eth0/129",
    ],
)
def test_bad_addresses(address: str) -> None:
    assert message(entry(interfaces=[{"id": "vm-web1", "addresses": ["192.0.2.1", address]}])) == (
        f"guest web1, interfaces[0].addresses[1]: {address!r} is no IP address. Give it as 192.0.2.11 or 2001:db8::11."
    )


def test_all_that_is_wrong_is_said_at_once() -> None:
    said = message(
        entry("a", flake="x", keep_generations=0, interfaces=[{"id": "", "mac": "x", "addresses": ["y"]}]),
        entry("b", runner="z"),
        entry("c"),
        entry("c"),
    )
    assert [line.partition(": ")[0] for line in said.splitlines()] == [
        "guest a, flake",
        "guest a, keep_generations",
        "guest a, interfaces[0].id",
        "guest a, interfaces[0].mac",
        "guest a, interfaces[0].addresses[0]",
        "guest b, runner",
        "guest c, name",
    ]


def pair(first: dict[str, t.Any], second: dict[str, t.Any]) -> list[dict[str, t.Any]]:
    return [entry("a", interfaces=[first]), entry("b", interfaces=[second])]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            [entry("a"), entry("a")],
            "guest a, name: name a is already that of guest a. Give each its own.",
        ),
        (
            [entry("a", state="absent"), entry("a")],
            "guest a, name: name a is already that of guest a. Give each its own.",
        ),
        (
            pair({"id": "vm-x"}, {"id": "vm-x"}),
            "guest b, interfaces[0].id: interface vm-x is already that of guest a. Give each its own.",
        ),
        (
            pair({"id": "vm-a", "mac": "02:00:00:00:00:0A"}, {"id": "vm-b", "mac": "02:00:00:00:00:0a"}),
            "guest b, interfaces[0].mac: MAC 02:00:00:00:00:0a is already that of guest a. Give each its own.",
        ),
        (
            pair({"id": "vm-a", "addresses": ["192.0.2.1/24"]}, {"id": "vm-b", "addresses": ["192.0.2.1"]}),
            "guest b, interfaces[0].addresses[0]: address 192.0.2.1 is already that of guest a. Give each its own.",
        ),
        (
            pair({"id": "vm-a", "addresses": ["2001:db8::1"]}, {"id": "vm-b", "addresses": ["2001:DB8:0::1/64"]}),
            "guest b, interfaces[0].addresses[0]: address 2001:db8::1 is already that of guest a. Give each its own.",
        ),
        (
            [entry("a", interfaces=[{"id": "vm-a"}, {"id": "vm-a"}])],
            "guest a, interfaces[1].id: interface vm-a is already that of guest a. Give each its own.",
        ),
    ],
)
def test_clashes(entries: list[dict[str, t.Any]], said: str) -> None:
    assert message(*entries) == said


@pytest.mark.parametrize(
    "entries",
    [
        pair({"id": "vm-a", "mac": None}, {"id": "vm-b", "mac": None}),
        pair({"id": "vm-a", "addresses": ["192.0.2.1"]}, {"id": "vm-b", "addresses": ["192.0.2.2"]}),
        [entry("a", interfaces=[{"id": "vm-x"}], state="absent"), entry("b", interfaces=[{"id": "vm-x"}])],
        [entry("a"), entry("A")],
        [entry("a", flake="/srv"), entry("b", flake="/srv")],
    ],
)
def test_no_clashes(entries: list[dict[str, t.Any]]) -> None:
    assert len(read_wishes(entries)) == 2


def test_three_of_a_kind_are_two_clashes() -> None:
    assert len(message(entry("a"), entry("a"), entry("a")).splitlines()) == 2


def test_the_wish_by_which_prune_removes_keeps_volumes() -> None:
    assert absent("web1") == GuestWish(name="web1", state="absent", purge=False)


def test_the_spec_of_one_and_of_many_have_the_same_options() -> None:
    many = guests_spec()
    assert (many["type"], many["elements"], many["required"]) == ("list", "dict", True)
    assert many["options"] == guest_spec()


def test_only_the_spec_of_one_has_a_default_of_update() -> None:
    assert guest_spec(update="never")["update"]["default"] == "never"
    assert "default" not in guest_spec()["update"]


def test_every_option_of_the_spec_is_a_field_of_the_wish() -> None:
    described = {"description", "claims", "warnings", "access"}
    elsewhere = {"hypervisor", "ssh", *health_spec()} - {"health"}
    assert set(guest_spec()) - {*elsewhere, *DESCRIPTION} == set(GuestWish.__dataclass_fields__) - described
    options = set(guest_spec()["interfaces"]["options"]) - {"link", "mode"}
    assert options == set(InterfaceWish.__dataclass_fields__) - {"said"}


def test_every_option_that_describes_is_known_as_one() -> None:
    own = {"interfaces", "name", "flake", "runner", "state", "autostart", "update", "keep_generations", "purge"}
    own |= {"protect", "start_timeout", "stop_timeout", "labels", "hypervisor", "generation", "retry", "switch"}
    own |= {"snapshot_volumes", "restore_volumes", *health_spec(), *access_spec()}
    assert {*DESCRIPTION} == set(guest_spec()) - own
