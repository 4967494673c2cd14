# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs over guests that are described: guests.json follows the guests, and credentials what their units load."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _descriptions, _files
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import observe
from ansible_collections.microvm.fleet.plugins.module_utils._guest_run import Result
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FLAKE, FakeHost, Spec
from ansible_collections.microvm.fleet.tests.unit.support.scenes import TOKEN, described, run, wish

WEB2 = {"name": "lan", "index": 12}


@pytest.fixture(name="host")
def described_host(host: FakeHost) -> FakeHost:
    """A host that has the static flake, and a credential for web1."""
    host.static_flake()
    return host


def failures(result: Result) -> dict[str, str]:
    return {each["name"]: each["msg"] for each in result.results if each["failed"]}


def secrets(host: FakeHost, name: str = "web1") -> list[str]:
    directory = Path(host.paths.credentials(name))
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def test_all_that_are_described_are_one_evaluation(host: FakeHost) -> None:
    wishes = [described(f"web{index}", network={"name": "lan", "index": index}) for index in range(2, 12)]
    host.calls.clear()
    result = run(host, wishes)
    assert not result.failures
    assert sorted(host.descriptions()) == sorted(each["name"] for each in wishes)
    calls = [call for call in host.calls if call[0] == "nix"]
    assert ["metadata" in call for call in calls] == [True, False]
    assert sum("--realise" in call for call in host.calls) == 1
    host.calls.clear()
    assert not run(host, wishes, update="activate").changed
    assert not [call for call in host.calls if call[0] == "nix"], "what did not change is not evaluated again"


def test_no_candidate_is_left(host: FakeHost) -> None:
    run(host, [described()], check=True)
    run(host, [described()])
    assert [entry for entry in Path(host.paths.candidates).iterdir() if entry.name.startswith("candidate-")] == []


def test_check_mode_writes_no_description(host: FakeHost) -> None:
    said = run(host, [described()], check=True)
    assert said.changed
    assert host.descriptions() == {}


def test_a_guest_that_is_left_alone_keeps_its_description(host: FakeHost) -> None:
    run(host, [described()])
    before = host.descriptions()
    result = run(host, [described(mem=1024), described("web2", network=WEB2)])
    assert host.descriptions()["web1"] == before["web1"]
    assert sorted(host.descriptions()) == ["web1", "web2"]
    assert [each["changed"] for each in result.results] == [False, True]


def test_a_guest_that_does_not_build_is_not_described(host: FakeHost) -> None:
    host.behaviours["web1"] = "unbuildable"
    result = run(host, [described(), described("web2", network=WEB2)])
    assert list(failures(result)) == ["web1"]
    assert list(host.descriptions()) == ["web2"]


def test_a_guest_that_does_not_evaluate_is_not_described(host: FakeHost) -> None:
    host.behaviours["web1"] = "unevaluable"
    result = run(host, [described(), described("web2", network=WEB2)])
    assert failures(result) == {
        "web1": "guest web1, hypervisor: nixosConfigurations.web1 of path:/etc/microvm-fleet does not evaluate: "
        "guest web1: it throws"
    }
    assert list(host.descriptions()) == ["web2"]


def test_a_host_without_the_flake(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    result = run(host, [described()])
    assert failures(result) == {
        "web1": "guest web1, hypervisor: this host has no /etc/microvm-fleet/flake.nix, of which described guests are "
        "made. Run the role microvm.fleet.flake on it first."
    }


def test_a_guest_that_is_described_no_more_needs_its_description_only(host: FakeHost) -> None:
    run(host, [described()])
    result = run(host, [{"name": "web1", "state": "present", "update": "activate"}])
    assert not result.changed
    assert not result.failures


def test_a_guest_without_a_description_is_named(host: FakeHost) -> None:
    run(host, [described()])
    Path(host.paths.descriptions).unlink()
    result = run(host, [{"name": "web1", "state": "present", "update": "activate"}])
    assert failures(result) == {
        "web1": "guest web1, hypervisor: /etc/microvm-fleet/guests.json has no description of it. "
        "Describe it: give hypervisor, and what else it is to have."
    }


# What one guest has and another cannot


def test_an_address_that_a_guest_has_that_no_wish_names(host: FakeHost) -> None:
    run(host, [described()])
    other = described("web2", network=None, interfaces=[TAP])
    result = run(host, [other])
    assert failures(result) == {
        "web2": "guest web2, interfaces: its address 10.0.0.11 is also that of guest web1 on this host. "
        "Give each guest its own."
    }
    assert list(host.descriptions()) == ["web1"]


TAP = {"id": "vm-x", "mac": "02:00:00:00:00:0a", "addresses": ["10.0.0.11/24"]}


def test_the_number_of_a_guest_that_goes_is_free(host: FakeHost) -> None:
    run(host, [described(state="started")])
    wishes = [{"name": "web1", "state": "absent"}, described("web2", state="started")]
    said = run(host, wishes, check=True)
    result = run(host, wishes)
    assert not result.failures
    assert said.actions == result.actions
    assert list(host.descriptions()) == ["web2"]
    assert not run(host, wishes).changed


def test_the_number_of_a_guest_that_is_pruned_is_free(host: FakeHost) -> None:
    run(host, [described()])
    result = run(host, [described("web2")], prune=True)
    assert not result.failures
    assert list(host.descriptions()) == ["web2"]


def test_two_guests_change_places(host: FakeHost) -> None:
    run(host, [described(state="started"), described("web2", network=WEB2, state="started")])
    wishes = [described(network=WEB2), described("web2")]
    result = run(host, wishes, update="activate")
    assert not result.failures
    assert host.descriptions()["web1"]["interfaces"][0]["addresses"] == ["10.0.0.12/24", "fd00::c/64"]
    assert not run(host, wishes, update="activate").changed


def test_the_name_of_the_host(host: FakeHost) -> None:
    Path(host.paths.flake, "host.json").write_text('{"version": 1, "name": "web1"}', encoding="utf-8")
    result = run(host, [described()])
    assert failures(result) == {
        "web1": "guest web1, name: the host itself has this name in its flake. Give the guest another name."
    }


# Credentials


def test_a_credential_that_is_wished_for_no_more_stays_until_the_guest_is_updated(host: FakeHost) -> None:
    host.put_credential("web1", "token")
    run(host, [described(credentials=TOKEN, state="started")])
    result = run(host, [described()])
    assert not result.changed
    assert secrets(host) == ["token"], "the unit loads it at the next start"
    said = run(host, [described()], check=True, update="activate")
    result = run(host, [described()], update="activate")
    assert result.actions == said.actions
    assert result.actions[-1] == "web1: discard the credential token"
    assert secrets(host) == []
    assert not run(host, [described()], update="activate").changed


def test_a_credential_waits_for_the_update(host: FakeHost) -> None:
    run(host, [described()])
    host.put_credential("web1", "token")
    for update in ("never", "stage"):
        run(host, [described(credentials=TOKEN)], update=update)
        assert secrets(host) == ["token"]
    assert not run(host, [{"name": "web1", "state": "present"}]).changed, "nothing is said about where it comes from"
    assert secrets(host) == ["token"]
    run(host, [described(credentials=TOKEN)], update="activate")
    assert secrets(host) == ["token"]
    assert Path(host.paths.settings("web1")).read_text(encoding="utf-8") == (
        "[Service]\nLoadCredential=token:/var/lib/microvm-fleet/credentials/web1/token\n"
    )


def test_a_credential_that_nobody_ever_took_is_discarded(host: FakeHost) -> None:
    for name in ("key", "token"):
        host.put_credential("web1", name)
    said = run(host, [described()], check=True)
    result = run(host, [described()])
    assert result.actions == said.actions
    assert result.actions[-1] == "web1: discard the credentials key, token"
    assert secrets(host) == []


def test_credentials_of_a_guest_that_never_came_to_be_go_with_it(host: FakeHost) -> None:
    host.put_credential("web1", "token")
    wishes = [{"name": "web1", "state": "absent"}]
    assert run(host, wishes).actions == ["web1: remove, keep its volumes"]
    assert not Path(host.paths.credentials("web1")).exists()
    assert not run(host, wishes).changed


def test_credentials_of_a_protected_guest_stay(host: FakeHost) -> None:
    host.put_credential("web1", "token")
    run(host, [described(credentials=TOKEN, protect=True)])
    assert list(failures(run(host, [{"name": "web1", "state": "absent"}]))) == ["web1"]
    assert secrets(host) == ["token"]


def test_a_credential_without_a_file(host: FakeHost) -> None:
    result = run(host, [described(credentials=TOKEN)])
    assert failures(result) == {
        "web1": "guest web1, credentials.token: there is no file /var/lib/microvm-fleet/credentials/web1/token on the "
        "host. The role microvm.fleet.guests puts it there before it calls the module."
    }
    assert host.descriptions() == {}


def test_a_directory_that_cannot_be_changed(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.put_credential("web1", "token")
    remove = _files.remove

    def refuse(path: str, **options: t.Any) -> None:
        if path == host.paths.credentials("web1", "token"):
            raise PermissionError(1, "Operation not permitted", path)
        remove(path, **options)

    monkeypatch.setattr(_files, "remove", refuse)
    result = run(host, [described()])
    assert list(failures(result)) == ["web1"]
    assert "discard the credential token: Operation not permitted" in failures(result)["web1"]


# What is read and written while others write


def test_descriptions_that_another_run_changes(host: FakeHost) -> None:
    run(host, [described(state="started")])
    before = host.tree()
    with _files.lock(f"{host.paths.locks}/descriptions", what="it"):
        result = run(host, [described(mem=1024)], update="activate")
    assert re.fullmatch(
        r"guest web1, hypervisor: descriptions of guests: another run \(process \d+\) is working on it\. "
        r"Wait for it to end, or raise lock_timeout\.",
        failures(result)["web1"],
    )
    changed = {place for place, text in host.tree().items() if before.get(place) != text}
    assert all(place.endswith("/staged") for place in changed), "what was built waits for the next run"
    assert not run(host, [described(mem=1024)], update="activate").failures
    assert host.descriptions()["web1"]["mem"] == 1024


def test_a_flake_that_changes_while_it_is_read(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    observed = _descriptions.observe

    def meanwhile(paths: t.Any) -> t.Any:
        static = observed(paths)
        Path(paths.flake, "flake.nix").write_text("another", encoding="utf-8")
        return static

    monkeypatch.setattr(_descriptions, "observe", meanwhile)
    result = run(host, [described()])
    assert failures(result) == {
        "web1": "guest web1, hypervisor: /etc/microvm-fleet was changed while it was read. "
        "Another run is at it. Run again when that has ended."
    }
    assert host.descriptions() == {}


def test_a_guest_of_a_flake_beside_one_that_is_described(host: FakeHost) -> None:
    host.offer(Spec("web3"))
    result = run(host, [described(), wish("web3")])
    assert not result.failures
    guests = observe(host.paths, host).guests
    assert {name: guest.source for name, guest in guests.items()} == {"web1": "path:/etc/microvm-fleet", "web3": FLAKE}
