# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests whose flake another host has evaluated: nothing is asked of it here, and no runner comes from nowhere."""

from __future__ import annotations

import dataclasses
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _describe, _descriptions, _space
from ansible_collections.microvm.fleet.plugins.module_utils._contract import runner_of_dict
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._evaluated import Elsewhere, Found
from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import DESCRIBED
from ansible_collections.microvm.fleet.plugins.module_utils._guest_run import Result, converge
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import Limits, read_wishes
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost, Spec
from ansible_collections.microvm.fleet.tests.unit.support.scenes import SURROUNDINGS, described, run, wish

IDENTITY = "4f1d"
# Where nobody here has access to.
SECRET = "git+ssh://git@git.example.org/guests"


def elsewhere(*specs: Spec, identity: str = IDENTITY, **errors: FleetError) -> dict[str, t.Any]:
    """What the builder has found of SECRET."""
    guests: dict[str, Found | FleetError] = {
        spec.name: Found(runner_of_dict(spec.facts), spec.derivation) for spec in specs
    }
    return {SECRET: Elsewhere(identity, {**guests, **errors}).as_dict()}


def asked(host: FakeHost) -> list[tuple[str, ...]]:
    """What the host has asked of flakes so far."""
    return [call for call in host.calls if call[0] == "nix"]


def failures(result: Result) -> dict[str, str]:
    return {each["name"]: each["msg"] for each in result.results if each["failed"]}


def test_a_guest_of_a_flake_that_the_host_cannot_read(host: FakeHost) -> None:
    spec = Spec("web1")
    host.build(spec)
    result = run(host, [wish(flake=SECRET)], evaluated=elsewhere(spec))
    assert not result.failures
    guest = result.results[0]["guest"]
    assert (guest["current"], guest["flake"], guest["locked"]) == (spec.path, SECRET, IDENTITY)
    assert asked(host) == []
    assert not any("--realise" in call for call in host.calls)


def test_check_mode_asks_nothing_either(host: FakeHost) -> None:
    spec = Spec("web1")
    result = run(host, [wish(flake=SECRET)], evaluated=elsewhere(spec), check=True)
    assert result.actions == [f"web1: stage {spec.path}", f"web1: create with {spec.path}"]
    assert asked(host) == []


def test_a_second_run_changes_nothing(host: FakeHost) -> None:
    spec = Spec("web1")
    host.build(spec)
    given: dict[str, t.Any] = {"evaluated": elsewhere(spec), "update": "activate"}
    assert run(host, [wish(flake=SECRET)], **given).changed
    assert not run(host, [wish(flake=SECRET)], **given).changed
    # What has not changed need not be evaluated on the builder either.
    assert not run(host, [wish(flake=SECRET)], evaluated=elsewhere(), update="activate").changed
    assert asked(host) == []


def test_an_update(host: FakeHost) -> None:
    old, new = Spec("web1"), Spec("web1", version=2)
    host.build(old)
    run(host, [wish(flake=SECRET, state="started")], evaluated=elsewhere(old))
    host.build(new)
    result = run(host, [wish(flake=SECRET)], evaluated=elsewhere(new, identity="5a"), update="stage")
    assert not result.failures
    guest = result.results[0]["guest"]
    assert (guest["current"], guest["staged"]) == (old.path, new.path)


def test_a_runner_that_was_not_copied(host: FakeHost) -> None:
    spec, other = Spec("web1"), Spec("web2")
    host.build(other)
    wishes = [wish(flake=SECRET), wish("web2", flake=SECRET)]
    result = run(host, wishes, evaluated=elsewhere(spec, other))
    assert failures(result) == {
        "web1": (
            f"guest web1, flake: cannot be built or fetched: error: path '{spec.path}' does not exist and cannot be"
            " created. Copy it to this host first, as the role microvm.fleet.build does, or give the host a"
            " substituter that has it."
        )
    }
    assert result.results[1]["guest"]["exists"]


def test_a_runner_that_a_substituter_has(host: FakeHost) -> None:
    spec = host.publish(Spec("web1"))
    result = run(host, [wish(flake=SECRET)], evaluated=elsewhere(spec))
    assert not result.failures
    assert result.results[0]["guest"]["current"] == spec.path


def test_a_runner_whose_derivation_is_here_is_built(host: FakeHost) -> None:
    spec = Spec("web1")
    host.specs[spec.path] = spec
    derivation = host.root / spec.derivation.lstrip("/")
    derivation.parent.mkdir(parents=True, exist_ok=True)
    derivation.touch()
    run(host, [wish(flake=SECRET)], evaluated=elsewhere(spec), check=True)
    run(host, [wish(flake=SECRET)], evaluated=elsewhere(spec))
    assert [call for call in host.calls if "--realise" in call][-1][-1] == spec.derivation


def test_an_error_of_the_builder_is_that_of_the_guest(host: FakeHost) -> None:
    web2 = Spec("web2")
    host.build(web2)
    error = FleetError("it throws.", subject="guest web1", field="flake", hint="Mend it.")
    result = run(host, [wish(flake=SECRET), wish("web2", flake=SECRET)], evaluated=elsewhere(web2, web1=error))
    assert failures(result) == {"web1": "guest web1, flake: it throws. Mend it."}


def test_what_the_builder_was_not_asked_is_found_here(host: FakeHost) -> None:
    host.offer(Spec("web1"))
    assert not run(host, [wish()], evaluated=elsewhere(Spec("web2"))).failures
    assert len(asked(host)) == 2
    result = run(host, [wish("web3", flake=SECRET)], evaluated=elsewhere(Spec("web2")))
    assert "cannot be read as a flake" in failures(result)["web3"]


def test_what_nobody_would_send(host: FakeHost) -> None:
    with pytest.raises(InvalidWish) as caught:
        run(host, [wish(flake=SECRET)], evaluated={SECRET: {"identity": "1"}})
    assert caught.value.field == f"evaluated.{SECRET}.guests"
    assert not host.guest("web1").exists()


# Described guests


@pytest.fixture(name="fleet")
def described_host(host: FakeHost) -> FakeHost:
    """A host that has the static flake."""
    host.static_flake()
    return host


def built(host: FakeHost, given: dict[str, t.Any], content: str | None = None) -> dict[str, t.Any]:
    """What a builder with the same static flake has found of a guest that is described; its runner is copied."""
    options = {key: value for key, value in given.items() if key not in ("state", "autostart", "update")}
    answer = _describe.describe_all([options], SURROUNDINGS)[0]
    assert isinstance(answer, _describe.Description)
    static = _descriptions.observe(host.paths)
    spec = host.spec_of(given["name"], dict(answer.entry))
    host.build(spec)
    found = Found(runner_of_dict(spec.facts), spec.derivation)
    identity = static.identity(given["name"], answer.entry)
    return {DESCRIBED: Elsewhere(content or static.content, {identity: found}).as_dict()}


def test_a_described_guest_by_its_identity(fleet: FakeHost) -> None:
    given = described("web2", network={"name": "lan", "index": 12})
    result = run(fleet, [given], evaluated=built(fleet, given))
    assert not result.failures
    assert list(fleet.descriptions()) == ["web2"]
    assert asked(fleet) == []


def test_another_description_is_evaluated_here(fleet: FakeHost) -> None:
    given = described("web2", network={"name": "lan", "index": 12})
    evaluated = built(fleet, given)
    assert not run(fleet, [{**given, "mem": 1024}], evaluated=evaluated).failures
    assert len(asked(fleet)) == 2


def test_a_builder_with_another_static_flake(fleet: FakeHost) -> None:
    given = described("web2", network={"name": "lan", "index": 12})
    result = run(fleet, [given], evaluated=built(fleet, given, content="other"))
    assert failures(result) == {
        "web2": (
            "guest web2, hypervisor: it is to be built on another host, whose static flake in /etc/microvm-fleet is"
            " another one. Run the role microvm.fleet.flake on both hosts with the same variables, and references that"
            " say a revision, or have this host build its described guests itself."
        )
    }
    assert not Path(fleet.paths.descriptions).exists() or fleet.descriptions() == {}


# Room for a build


@pytest.mark.parametrize(("free", "fits"), [(99, False), (100, True)])
def test_a_build_needs_room(host: FakeHost, monkeypatch: pytest.MonkeyPatch, free: int, fits: bool) -> None:
    monkeypatch.setattr(_space, "free", lambda _path: free * _space.MIB)
    host.offer(Spec("web1"))
    limits = dataclasses.replace(Limits(lock=0), min_free=100)
    wishes = read_wishes([wish()])
    result = converge(wishes, paths=host.paths, commands=host, limits=limits, check=False, all_guests=True)
    assert any("--realise" in call for call in host.calls) is fits
    if fits:
        assert not result.failures
    else:
        assert "guest web1, flake: not enough space at" in result.failures[0]
        assert result.failures[0].endswith(
            "1 MiB are missing. Make room there, for example with nix-collect-garbage, or lower min_free. Nothing was"
            " built."
        )
        assert not host.guest("web1").exists()
        assert not Path(host.paths.root_of("web1")).exists()
    # What is there already needs none.
    monkeypatch.setattr(_space, "free", lambda _path: 0)
    there = host.build(Spec("web2"))
    wishes = read_wishes([{"name": "web2", "runner": there}])
    again = converge(wishes, paths=host.paths, commands=host, limits=limits, check=False, all_guests=False)
    assert not again.failures
