# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests of a fleet evaluated and built in one place: once, and the fault of one is its own."""

from __future__ import annotations

import dataclasses
import os
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _build_run, _descriptions, _evaluated, _space
from ansible_collections.microvm.fleet.plugins.module_utils._build_places import places
from ansible_collections.microvm.fleet.plugins.module_utils._build_run import Built, Entry, Source
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._evaluated import Found
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import DESCRIBED
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import Limits
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FLAKE, FakeHost, Spec

OTHER = "git+https://git.example.org/other"


@pytest.fixture(name="nix")
def builder(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """A host that can say how large closures are."""
    plain = host.answer

    def answer(argv: tuple[str, ...]) -> tuple[int, str, str]:
        if "path-info" in argv:
            return 0, "".join(f"{path} 1000\n" for path in argv if path.startswith("/nix/store")), ""
        if "--add-root" in argv:
            os.symlink(argv[-1], argv[argv.index("--add-root") + 1])
            return 0, "", ""
        return plain(argv)

    monkeypatch.setattr(host, "answer", answer)
    return host


def build(nix: FakeHost, *sources: Source, described: t.Sequence[Entry] = (), **options: t.Any) -> Built:
    given: dict[str, t.Any] = {"make": True, "check": False, "limits": Limits(lock=0), "uid": 0, **options}
    environment = {"HOME": str(nix.root / "u")}
    return _build_run.build(
        sources,
        described,
        places=places(str(nix.root), uid=given.pop("uid"), environment=environment),
        paths=nix.paths,
        commands=nix,
        **given,
    )


def path_of(built: Built, name: str, flake: str = FLAKE) -> str:
    found = built.flakes[flake].guests[name]
    assert isinstance(found, Found)
    return found.runner.path


def links(nix: FakeHost, place: str = "nix/var/nix/gcroots/microvm-fleet-build") -> dict[str, str]:
    """Roots: guest to runner."""
    return {path.name: os.readlink(path) for path in (nix.root / place).glob("*/*") if path.is_symlink()}


def test_a_fleet_of_one_flake_is_one_evaluation(nix: FakeHost) -> None:
    specs = [Spec(f"web{number}") for number in range(40)]
    nix.offer(*specs)
    built = build(nix, Source(FLAKE, tuple(spec.name for spec in specs)))
    assert (nix.count("metadata"), nix.count("eval"), nix.count("--realise")) == (1, 1, 1)
    assert built.runners == sorted(spec.path for spec in specs)
    assert built.missing == built.runners
    assert built.sizes == dict.fromkeys(built.runners, 1000)
    assert built.failures == []
    assert links(nix) == {spec.name: spec.path for spec in specs}


def test_what_it_returns_is_what_hosts_read(nix: FakeHost) -> None:
    nix.offer(Spec("web1"))
    values = build(nix, Source(FLAKE, ("web1",))).values()
    read = _evaluated.read(values["evaluated"])
    assert read[FLAKE].identity == nix.revisions[FLAKE]
    found = read[FLAKE].guests["web1"]
    assert isinstance(found, Found)
    assert found.runner.path == values["runners"][0] == values["built"][0]
    assert found.derivation == Spec("web1").derivation
    assert values["changed"]


def test_a_second_run_changes_nothing(nix: FakeHost) -> None:
    nix.offer(Spec("web1"))
    build(nix, Source(FLAKE, ("web1",)))
    nix.calls.clear()
    again = build(nix, Source(FLAKE, ("web1",)))
    assert (again.missing, nix.count("--realise")) == ([], 0)


def test_what_is_recorded_everywhere_is_not_evaluated(nix: FakeHost) -> None:
    nix.offer(Spec("web1"), Spec("web2"))
    identity = nix.revisions[FLAKE]
    built = build(nix, Source(FLAKE, ("web1", "web2"), {"web1": (identity,), "web2": (identity,)}))
    assert nix.count("eval") == 0
    assert built.flakes[FLAKE].identity == identity
    assert (built.runners, built.missing) == ([], [])
    built = build(nix, Source(FLAKE, ("web1", "web2"), {"web1": (identity,), "web2": (identity, "older")}))
    assert sorted(built.flakes[FLAKE].guests) == ["web2"]


def test_check_mode_writes_nothing(nix: FakeHost) -> None:
    nix.offer(Spec("web1"))
    built = build(nix, Source(FLAKE, ("web1",)), check=True)
    assert built.missing == [Spec("web1").path]
    assert built.sizes == {}
    assert nix.count("--read-only") == 1
    assert nix.count("--realise") == 0
    assert links(nix) == {}


def test_only_to_evaluate(nix: FakeHost) -> None:
    nix.offer(Spec("web1"))
    built = build(nix, Source(FLAKE, ("web1",)), make=False)
    assert path_of(built, "web1") == Spec("web1").path
    assert built.missing == []
    assert not any("--realise" in call or "--check-validity" in call for call in nix.calls)


def test_the_fault_of_one_is_its_own(nix: FakeHost) -> None:
    nix.offer(Spec("web1"), Spec("web2", behaviour="unevaluable"), Spec("web3", behaviour="unbuildable"))
    built = build(nix, Source(FLAKE, ("web1", "web2", "web3", "web4")))
    assert built.runners == [Spec("web1").path]
    said = {name: guest.text() for name, guest in built.flakes[FLAKE].guests.items() if isinstance(guest, FleetError)}
    assert sorted(said) == ["web2", "web3", "web4"]
    assert said["web2"].startswith("guest web2, flake: nixosConfigurations.web2 of ")
    assert "its log ends with:\nbuild log line 11 of 30" in said["web3"]
    assert "has no nixosConfigurations.web4" in said["web4"]
    assert built.failures == [said["web2"], said["web4"], said["web3"]] or sorted(built.failures) == sorted(
        said.values()
    )


def test_a_flake_that_cannot_be_read(nix: FakeHost) -> None:
    nix.offer(Spec("web1"))
    built = build(nix, Source(OTHER, ("a", "b")), Source(FLAKE, ("web1",)))
    assert built.runners == [Spec("web1").path]
    assert [text.split(",")[0] for text in built.failures] == ["guest a", "guest b"]
    assert f"{OTHER} cannot be read as a flake" in built.failures[0]


def test_nothing_to_do(nix: FakeHost) -> None:
    built = build(nix)
    assert built.values() == {
        "changed": False,
        "evaluated": {},
        "runners": [],
        "built": [],
        "sizes": {},
        "identities": [],
    }
    assert nix.calls == []


@pytest.mark.parametrize("free", [9, 10])
def test_a_build_needs_room(nix: FakeHost, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(_space, "free", lambda _path: free * _space.MIB)
    nix.offer(Spec("web1"))
    limits = dataclasses.replace(Limits(lock=0), min_free=10)
    if free == 10:
        assert build(nix, Source(FLAKE, ("web1",)), limits=limits).missing
        return
    with pytest.raises(FleetError) as caught:
        build(nix, Source(FLAKE, ("web1",)), limits=limits)
    assert caught.value.text().startswith("builder, min_free: not enough space at ")
    assert caught.value.text().endswith("or lower min_free. Nothing was built.")
    assert nix.count("--realise") == 0


def test_a_newer_runner_takes_the_root_of_the_older(nix: FakeHost) -> None:
    nix.offer(Spec("web1"), Spec("web2"))
    build(nix, Source(FLAKE, ("web1", "web2")))
    new = nix.renew("web1")
    build(nix, Source(FLAKE, ("web1",)))
    assert links(nix) == {"web1": new.path, "web2": Spec("web2").path}


def test_guests_of_two_flakes_may_have_one_name(nix: FakeHost) -> None:
    nix.offer(Spec("web1"))
    nix.offer(Spec("web1", version=2), flake=OTHER)
    built = build(nix, Source(FLAKE, ("web1",)), Source(OTHER, ("web1",)))
    place = nix.root / "nix/var/nix/gcroots/microvm-fleet-build"
    assert sorted(os.readlink(path) for path in place.glob("*/*")) == built.runners


def test_the_roots_of_a_user(nix: FakeHost) -> None:
    nix.offer(Spec("web1"), Spec("web2", behaviour="unbuildable"))
    build(nix, Source(FLAKE, ("web1", "web2")), uid=1000)
    state = "u/.local/state/microvm-fleet/build/roots"
    assert links(nix, state) == {"web1": Spec("web1").path}
    assert links(nix) == {}
    assert nix.count("--add-root", "--indirect") == 1
    build(nix, Source(FLAKE, ("web1",)), uid=1000)
    assert nix.count("--add-root") == 1


# Described guests


def entry_of(name: str, **changes: t.Any) -> dict[str, t.Any]:
    """An entry of guests.json."""
    return {
        "hypervisor": "qemu",
        "host_name": name,
        "interfaces": [],
        "volumes": [],
        "vsock_cid": None,
        "credentials": {},
        **changes,
    }


def test_guests_that_are_described(nix: FakeHost) -> None:
    nix.static_flake()
    nix.calls.clear()
    entries = [Entry("web1", entry_of("web1")), Entry("web2", entry_of("web2"))]
    built = build(nix, described=entries)
    static = _descriptions.observe(nix.paths)
    assert built.identities == [static.identity(one.name, one.entry) for one in entries]
    assert built.flakes[DESCRIBED].identity == static.content
    assert sorted(built.flakes[DESCRIBED].guests) == sorted(built.identities)
    assert (nix.count("metadata"), nix.count("eval")) == (1, 1)
    assert len(built.runners) == 2
    # What the builder itself has described is left alone.
    assert nix.descriptions() == {}


def test_guests_of_two_hosts_with_one_name(nix: FakeHost) -> None:
    nix.static_flake()
    nix.calls.clear()
    entries = [Entry("web1", entry_of("a")), Entry("web1", entry_of("b")), Entry("web1", entry_of("a"))]
    built = build(nix, described=entries)
    assert len(set(built.identities)) == 2
    assert built.identities[0] == built.identities[2]
    assert len(built.runners) == 2
    assert nix.count("eval") == 2


def test_a_description_that_its_host_has_is_not_evaluated(nix: FakeHost) -> None:
    nix.static_flake()
    nix.calls.clear()
    identity = _descriptions.observe(nix.paths).identity("web1", entry_of("web1"))
    built = build(nix, described=[Entry("web1", entry_of("web1"), identity)])
    assert built.flakes[DESCRIBED].guests == {}
    assert nix.count("eval") == 0


def test_a_description_that_does_not_evaluate(nix: FakeHost) -> None:
    nix.static_flake()
    nix.behaviours["web1"] = "unevaluable"
    nix.behaviours["web2"] = "unbuildable"
    built = build(nix, described=[Entry("web1", entry_of("web1")), Entry("web2", entry_of("web2"))])
    assert [text.split(":")[0] for text in sorted(built.failures)] == ["guest web1, hypervisor", "guest web2, flake"]


def test_a_builder_without_the_static_flake(nix: FakeHost) -> None:
    with pytest.raises(FleetError) as caught:
        build(nix, described=[Entry("web1", entry_of("web1"))])
    assert caught.value.text() == (
        "builder, described: guests that are described cannot be built here: this host has no"
        " /etc/microvm-fleet/flake.nix, of which described guests are made. Run the role microvm.fleet.flake on this"
        " host with the variables of the hosts that it builds for, or have those build their described guests"
        " themselves."
    )


# What is to be built


def test_sources_of_one_flake_are_one() -> None:
    read = _build_run.read_sources(
        [
            {"flake": FLAKE, "guests": ["b", "a"], "recorded": {"a": "1"}},
            {"flake": OTHER, "guests": ["a"], "recorded": {}},
            {"flake": FLAKE, "guests": ["c", "a"], "recorded": {"a": ["2", "3"], "c": None}},
        ]
    )
    assert read == (
        Source(FLAKE, ("a", "b", "c"), {"a": ("1", "2", "3"), "c": ()}),
        Source(OTHER, ("a",), {}),
    )


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"flake": "", "guests": []}, "sources[0].flake: is empty."),
        ({"flake": "guests", "guests": []}, "sources[0].flake: 'guests' is relative."),
        ({"flake": "/x#y", "guests": []}, "sources[0].flake: '/x#y' names an output after '#'"),
        ({"flake": DESCRIBED, "guests": []}, "sources[0].flake: is the static flake; its guests go by"),
        ({"flake": "/x", "guests": [""]}, "sources[0].guests: is empty."),
        ({"flake": "/x", "guests": ["a/b", "-"]}, "sources[0].guests: 'a/b' is no name of a guest.\nsources[0].guests"),
    ],
)
def test_what_cannot_be_built(entry: dict[str, t.Any], said: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        _build_run.read_sources([entry])
    assert caught.value.text().startswith(said)
