# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Descriptions on a host: guests.json, candidates, and what networks and peers come to."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _flake_lock
from ansible_collections.microvm.fleet.plugins.module_utils._descriptions import (
    candidate,
    networks_of,
    observe,
    peers_of,
    read,
    recorded_networks,
    surroundings,
    system,
    unbuildable,
    unreadable,
    write,
)
from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy, CommandError, FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths

FILES = {
    "flake.nix": "{ }",
    "flake.lock": "{}",
    "nix/outputs.nix": "inputs: { }",
    "modules/nixos/web.nix": "{ }",
}


@pytest.fixture(name="paths")
def static_flake(tmp_path: Path) -> Paths:
    """A host that has the static flake."""
    paths = Paths(str(tmp_path))
    for place, text in FILES.items():
        path = Path(paths.flake, place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return paths


def described(paths: Paths) -> t.Any:
    return json.loads(Path(paths.descriptions).read_text(encoding="utf-8"))


def tree(directory: str) -> dict[str, str]:
    place = Path(directory)
    return {
        path.relative_to(place).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }


# guests.json


def test_entries_are_written_and_read(paths: Paths) -> None:
    assert read(paths) == {}
    write(paths, {"web1": {"mem": 1}, "web2": {"mem": 2}}, timeout=0)
    assert described(paths) == {"version": 1, "system": system(), "guests": {"web1": {"mem": 1}, "web2": {"mem": 2}}}
    assert read(paths) == {"web1": {"mem": 1}, "web2": {"mem": 2}}


def test_what_others_have_written_stays(paths: Paths) -> None:
    write(paths, {"web1": {"mem": 1}, "web2": {"mem": 2}}, timeout=0)
    write(paths, {"web1": None, "web3": {"mem": 3}, "web9": None}, timeout=0)
    assert read(paths) == {"web2": {"mem": 2}, "web3": {"mem": 3}}


def test_what_changes_nothing_is_not_written(paths: Paths) -> None:
    write(paths, {"web1": {"mem": 1}}, timeout=0)
    before = os.stat(paths.descriptions)
    write(paths, {"web1": {"mem": 1}, "web2": None}, timeout=0)
    after = os.stat(paths.descriptions)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_it_is_replaced_whole(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    write(paths, {"web1": {"mem": 1}}, timeout=0)
    text = Path(paths.descriptions).read_text(encoding="utf-8")

    def full(*_args: t.Any, **_options: t.Any) -> t.NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device", paths.descriptions)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", full)
        patched.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            write(paths, {"web2": {"mem": 2}}, timeout=0)
    assert Path(paths.descriptions).read_text(encoding="utf-8") == text
    Path(paths.flake, f"{_files.TEMPORARY}guests.json.1").touch()
    write(paths, {"web2": {"mem": 2}}, timeout=0)
    assert sorted(read(paths)) == ["web1", "web2"]
    assert sorted(tree(paths.flake)) == sorted([*FILES, "guests.json"]), "what a killed run left is removed"


def test_a_host_without_the_flake_has_nothing_to_take_out(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path))
    write(paths, {"web1": None}, timeout=0)
    assert not Path(paths.flake).exists()
    assert read(paths) == {}


def test_another_run_is_waited_for_and_named(paths: Paths) -> None:
    lock = os.path.join(paths.locks, "descriptions")
    with _files.lock(lock, what="it"), pytest.raises(Busy, match="descriptions of guests: another"):
        write(paths, {"web1": {"mem": 1}}, timeout=0)
    assert read(paths) == {}


def test_two_that_write_at_once(paths: Paths) -> None:
    def add(name: str) -> None:
        for number in range(10):
            write(paths, {f"{name}{number}": {"mem": number}}, timeout=60)

    threads = [threading.Thread(target=add, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read(paths)) == sorted(f"{name}{number}" for name in "abc" for number in range(10))


BROKEN = [
    ("{", "/etc/microvm-fleet/guests.json is no JSON: "),
    ("[]", "/etc/microvm-fleet/guests.json has version null, and this release of the collection knows version 1."),
    ('{"version": 2, "guests": {}}', "/etc/microvm-fleet/guests.json has version 2, and this release"),
    ('{"version": 1}', "/etc/microvm-fleet/guests.json has no guests by their names."),
    ('{"version": 1, "guests": {"web1": 3}}', "/etc/microvm-fleet/guests.json has no guests by their names."),
]


@pytest.mark.parametrize(("text", "said"), BROKEN)
def test_a_file_that_cannot_be_read_is_left_as_it_is(paths: Paths, text: str, said: str) -> None:
    Path(paths.descriptions).write_text(text, encoding="utf-8")
    for attempt in (
        lambda: read(paths),
        lambda: observe(paths),
        lambda: write(paths, {"web1": {"mem": 1}}, timeout=0),
    ):
        with pytest.raises(FleetError) as caught:
            attempt()
        assert caught.value.seen.startswith(said)
        assert caught.value.hint
    assert Path(paths.descriptions).read_text(encoding="utf-8") == text


# The static flake


def test_a_host_without_the_flake(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"has no /etc/microvm-fleet/flake\.nix.*Run the role microvm\.fleet\.flake"):
        observe(Paths(str(tmp_path)))


CHANGES: dict[str, t.Callable[[Path], object]] = {
    "a static file": lambda flake: (flake / "nix/outputs.nix").write_text("inputs: { a = 1; }"),
    "the lock file": lambda flake: (flake / "flake.lock").write_text('{"a": 1}'),
    "a module": lambda flake: (flake / "modules/nixos/web.nix").write_text("{ a = 1; }"),
    "a new module": lambda flake: (flake / "modules/new.nix").write_text("{ }"),
    "the name of a module": lambda flake: (flake / "modules/nixos/web.nix").rename(flake / "modules/nixos/wec.nix"),
    "a program": lambda flake: (flake / "nix/outputs.nix").chmod(0o755),
    "a link": lambda flake: (flake / "modules/link").symlink_to("nixos"),
    "where a link leads": lambda flake: (flake / "modules/there").symlink_to("elsewhere"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_guests_are_made_of(paths: Paths, what: str) -> None:
    before = observe(paths)
    CHANGES[what](Path(paths.flake))
    after = observe(paths)
    assert before.content != after.content
    assert before.identity("web1", {"mem": 1}) != after.identity("web1", {"mem": 1})


def test_what_guests_are_not_made_of(paths: Paths) -> None:
    before = observe(paths)
    for name in ("guests.json", "host.json", "networks.json", "registry.json", f"{_files.TEMPORARY}flake.nix.7"):
        Path(paths.flake, name).write_text('{"version": 1, "guests": {}, "name": "h"}', encoding="utf-8")
    after = observe(paths)
    assert before.content == after.content
    assert (before.host, after.host) == (None, "h")


def test_identities(paths: Paths) -> None:
    static = observe(paths)
    entry = {"mem": 1, "vcpu": 2}
    assert static.identity("web1", entry) == static.identity("web1", dict(reversed(list(entry.items()))))
    assert static.identity("web1", entry) != static.identity("web2", entry)
    assert static.identity("web1", entry) != static.identity("web1", {**entry, "mem": 2})


# Candidates


def test_a_candidate_has_other_descriptions_and_nothing_of_the_host(paths: Paths) -> None:
    Path(paths.flake, "host.json").write_text('{"version": 1, "name": "h"}', encoding="utf-8")
    write(paths, {"web1": {"mem": 1}}, timeout=0)
    static = observe(paths)
    with candidate(paths, static, {"web1": {"mem": 2}}) as directory:
        assert Path(directory).parent == Path(paths.candidates)
        found = tree(directory)
        assert json.loads(found.pop("guests.json"))["guests"] == {"web1": {"mem": 2}}
        assert found == FILES
    assert not Path(directory).exists()
    assert read(paths) == {"web1": {"mem": 1}}


def test_a_candidate_goes_with_its_error(paths: Paths) -> None:
    with pytest.raises(FleetError), candidate(paths, observe(paths), {}):
        raise FleetError("x")
    assert os.listdir(paths.candidates) == []


def test_candidates_of_killed_runs_go_and_others_stay(paths: Paths) -> None:
    places = {name: Path(paths.candidates, name) for name in ("candidate-1", "candidate-2", "flake-3-x", "booted")}
    for place in places.values():
        place.mkdir(parents=True)
    handle = os.open(places["candidate-2"], os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with candidate(paths, observe(paths), {}) as directory:
        assert sorted(os.listdir(paths.candidates)) == sorted(
            ["candidate-2", "flake-3-x", "booted", os.path.basename(directory)]
        )
    os.close(handle)


def test_a_flake_that_is_not_what_was_observed(paths: Paths) -> None:
    static = observe(paths)
    Path(paths.flake, "flake.lock").write_text("another", encoding="utf-8")
    with pytest.raises(Busy, match=r"/etc/microvm-fleet was changed while it was read\."), candidate(paths, static, {}):
        raise AssertionError
    assert os.listdir(paths.candidates) == []


# Errors of Nix

COPY = "/nix/store/8c2sbwjb5vzipfrhk1yrbkcl0jbrl1cd-source"


def failed(seen: str, stderr: str = "") -> CommandError:
    return CommandError(seen, subject="guest web1", field="flake", argv=("nix",), rc=1, stderr=stderr)


def test_a_module_that_does_not_parse(paths: Paths) -> None:
    said = f"syntax error, unexpected end of file\n  at {COPY}/modules/nixos/web.nix:4:1:"
    error = unbuildable(paths, failed(said), "web1")
    assert error.text() == (
        "guest web1, modules: syntax error, unexpected end of file\n"
        "  at /etc/microvm-fleet/modules/nixos/web.nix:4:1:\nCorrect nixos/web.nix beside the inventory, and run again."
    )


def test_a_flake_that_does_not_evaluate(paths: Paths) -> None:
    error = unbuildable(paths, failed(f"attribute 'x' missing\n  at {COPY}/nix/guest.nix:1:2"), "web1")
    assert (error.field, error.seen) == (
        "hypervisor",
        "attribute 'x' missing\n  at /etc/microvm-fleet/nix/guest.nix:1:2",
    )


@pytest.mark.parametrize("path", [f"{COPY}/nixos/lib.nix", f"{COPY}-x/nix/a", "/nix/store/short-source/nix/a"])
def test_other_sources_are_named_as_they_are(paths: Paths, path: str) -> None:
    assert unbuildable(paths, failed(f"at {path}:1"), "web1").seen == f"at {path}:1"


CHANGED = (
    "error: NAR hash mismatch in input 'path:/srv/nixpkgs?narHash=sha256-a' (/srv/nixpkgs), "
    "expected 'sha256-a', got 'sha256-b'\n"
)


def test_a_candidate_that_cannot_be_read(paths: Paths) -> None:
    directory = f"{paths.candidates}/candidate-7"
    error = unreadable(paths, failed(f"path:{directory} cannot be read as a flake: {directory}/flake.nix"), directory)
    assert error.seen == "/etc/microvm-fleet cannot be read as a flake: /etc/microvm-fleet/flake.nix"
    assert error.hint == "Run the role microvm.fleet.flake again: it puts back its files and the lock file."


def test_an_input_that_is_not_what_it_was(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = FleetError("it is not what it was.", subject="flake", field="nixpkgs", hint="Name nixpkgs.")
    monkeypatch.setattr(_flake_lock, "changed_input", lambda stderr, _lock: changed if stderr else None)
    assert unreadable(paths, failed("x", "mismatch"), "/x") is changed
    error = unbuildable(paths, failed("x", "mismatch"), "web1")
    assert error.text() == "guest web1, nixpkgs: it is not what it was. Name nixpkgs."


def test_a_lock_file_that_is_none(paths: Paths) -> None:
    Path(paths.flake, "flake.lock").write_text("{", encoding="utf-8")
    assert unbuildable(paths, failed("x", "y"), "web1").seen == "x"


# Networks and peers


def test_networks_of_entries() -> None:
    found = networks_of([{"name": "lan", "addresses": ["10.0.0.1/24"]}, {"name": "old", "state": "absent"}])
    assert list(found) == ["lan"]
    assert [str(prefix) for prefix in found["lan"].prefixes] == ["10.0.0.0/24"]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (["lan"], "networks: entry number 1 is no dictionary of options."),
        ([{"name": "lan", "adresses": []}], "network lan, networks: adresses"),
        ([{"addresses": []}], "network number 1 of the list, networks: "),
        ([{"name": "lan", "addresses": ["10.0.0"]}], "network lan, addresses"),
    ],
)
def test_entries_that_are_no_networks(entries: list[t.Any], said: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        networks_of(entries)
    assert caught.value.text().startswith(said)


def record(paths: Paths, name: str, text: str) -> None:
    Path(paths.networks).mkdir(parents=True, exist_ok=True)
    Path(paths.networks, name).write_text(text, encoding="utf-8")


def test_networks_that_were_applied(paths: Paths) -> None:
    assert recorded_networks(paths) == {}
    lan = networks_of([{"name": "lan", "addresses": ["10.0.0.1/24"]}])["lan"]
    record(paths, "lan.json", json.dumps(lan.options()))
    record(paths, f"{_files.TEMPORARY}lan.json.7", "{")
    record(paths, "README", "")
    assert recorded_networks(paths) == {"lan": lan}
    assert surroundings({"networks": None, "peers": None}, paths).networks == {"lan": lan}
    assert list(surroundings({"networks": [{"name": "back"}]}, paths).networks or ()) == ["back"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"name": 3}'])
def test_a_record_that_is_damaged(paths: Paths, text: str) -> None:
    record(paths, "lan.json", text)
    with pytest.raises(FleetError, match=r"^network lan: its record cannot be read: .*microvm_net\.$"):
        recorded_networks(paths)


def test_peers() -> None:
    assert peers_of({"k1": ["10.0.0.1"], "k2": ()}) == {"k1": ("10.0.0.1",), "k2": ()}
    for bad in ("10.0.0.1", [1], None, {"a": 1}):
        with pytest.raises(InvalidWish, match=r"^peers\.k1: .* is no list of addresses\."):
            peers_of({"k1": bad})
