# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The flake of a host in a directory, with a Nix that only knows directories."""

from __future__ import annotations

import json
import os
import re
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _flake_run
from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy, CommandError, FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._flake_lock import nar_hash
from ansible_collections.microvm.fleet.plugins.module_utils._flake_run import FlakePaths, Result, converge, take_away
from ansible_collections.microvm.fleet.plugins.module_utils._flake_wish import (
    CONFIGURATION_BASE,
    NIXPKGS_BASE,
    FlakeWish,
    Secret,
    read_references,
    read_update,
)
from ansible_collections.microvm.fleet.tests.unit.support.recorded import Answers

FILES = {
    "flake.nix": b"{ outputs = _: { }; }\n",
    "nix/guest.nix": b"{ }\n",
    "nix/profiles/default.nix": b"{ }\n",
    "bases/nixpkgs/flake.nix": b"{ outputs = _: { }; }\n",
    "bases/configuration/flake.nix": b"{ outputs = _: { }; }\n",
}
REFERENCES = {"nixpkgs": "path:/srv/nixpkgs", "microvm": "path:/srv/microvm", "configuration": "path:/etc/nixos"}


class FakeNix(Answers):
    """Nix: *content* has what each directory of the host has, as a hash.  Bases are read where they are."""

    def __init__(self) -> None:
        super().__init__()
        self.content = {
            "/srv/nixpkgs": "n1",
            "/srv/microvm": "m1",
            "/etc/nixos": "c1",
            "/srv/infra": "i1",
            "/srv/m2": "2",
        }
        # Nix's own words, when an input of this place is fetched.
        self.errors: dict[str, str] = {}
        self.here = True
        self.asked: list[str] = []

    def find(self, name: str) -> str | None:
        return f"/usr/bin/{name}" if self.here else None

    def answer(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        words = argv[3:]
        assert argv[:3] == ("nix", "--extra-experimental-features", "nix-command flakes")
        if words[:2] == ("registry", "add"):
            return self.add(words[3], words[4][len("flake:") :], words[5])
        assert words[:2] == ("flake", "lock")
        assert words[3:5] == ("--option", "flake-registry")
        return self.lock(Path(words[2][len("path:") :]), Path(words[5]))

    def add(self, registry: str, name: str, reference: str) -> tuple[int, str, str]:
        if reference.startswith("foo:"):
            return 1, "", f"error: input '{reference}' is unsupported\n"
        place = Path(registry)
        known: dict[str, t.Any] = json.loads(place.read_text()) if place.exists() else {"version": 2, "flakes": []}
        to = {"type": "path", "path": reference[len("path:") :]}
        known["flakes"].append({"from": {"type": "indirect", "id": name}, "to": to})
        place.write_text(json.dumps(known))
        return 0, "", ""

    def lock(self, flake: Path, registry: Path) -> tuple[int, str, str]:
        entries = {one["from"]["id"]: one["to"] for one in json.loads(registry.read_text())["flakes"]}
        place = flake / "flake.lock"
        content: dict[str, t.Any] = (
            json.loads(place.read_text()) if place.exists() else {"nodes": {"root": {}}, "root": "root", "version": 7}
        )
        nodes = content["nodes"]
        inputs = nodes["root"].setdefault("inputs", {})
        inputs["nixpkgs"] = ["base", "nixpkgs"]
        try:
            for name in ("base", "microvm"):
                if name not in inputs:
                    inputs[name] = name
                    nodes[name] = {"locked": self.fetch(entries[f"microvm-fleet-{name}"])}
                    path = nodes[name]["locked"]["path"]
                    below = {"nixpkgs": ("nixpkgs",), "configuration": ("nixpkgs", "configuration")}
                    for one in below.get(path.rpartition("/bases/")[2], ()):
                        nodes[name].setdefault("inputs", {})[one] = one
                        nodes[one] = {"locked": self.fetch(entries[f"microvm-fleet-{one}"])}
        except LookupError as error:
            return 1, "", str(error.args[0])
        place.write_text(json.dumps(content))
        return 0, "", "warning: updating lock file\n"

    def fetch(self, entry: dict[str, t.Any]) -> dict[str, t.Any]:
        path = entry["path"]
        self.asked.append(path)
        if path in self.errors:
            raise LookupError(self.errors[path])
        if "/bases/" in path:
            files = {p.relative_to(path).as_posix(): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()}
            return {"type": "path", "path": path, "narHash": nar_hash(files), "lastModified": 99999999}
        if entry.get("narHash", self.content[path]) != self.content[path]:
            raise LookupError(f"error: NAR hash mismatch in input 'path:{path}?narHash=x', expected 'x', got 'y'\n")
        return {"type": "path", "path": path, "narHash": self.content[path]}


def wish_of(*, update: t.Any = None, files: dict[str, bytes] | None = None, **options: t.Any) -> FlakeWish:
    secrets = options.pop("secrets", {})
    references = read_references({"base": NIXPKGS_BASE, **REFERENCES, **options})
    return FlakeWish(references, read_update(update, references), FILES if files is None else files, secrets)


@pytest.fixture
def nix() -> FakeNix:
    return FakeNix()


@pytest.fixture
def paths(tmp_path: Path) -> FlakePaths:
    return FlakePaths(root=str(tmp_path))


@pytest.fixture
def flake(paths: FlakePaths) -> Path:
    return Path(paths.flake)


Run = t.Callable[..., Result]


@pytest.fixture
def run(nix: FakeNix, paths: FlakePaths) -> Run:
    def call(wish: FlakeWish | None = None, *, check: bool = False) -> Result:
        return converge(wish or wish_of(), commands=nix, paths=paths, check=check, timeout=10, lock_timeout=0)

    return call


def tree(place: Path) -> dict[str, bytes]:
    return {p.relative_to(place).as_posix(): p.read_bytes() for p in sorted(place.rglob("*")) if p.is_file()}


def test_check_run_check_run(run: Run, flake: Path, paths: FlakePaths, nix: FakeNix) -> None:
    told = run(check=True)
    assert told.changed
    assert not flake.exists()
    assert os.listdir(paths.scratch) == []
    done = run()
    assert done == told
    assert done.actions == [
        "flake: install 5 of 5 static files",
        f"flake: lock the input base at {NIXPKGS_BASE} ({nar_hash({'flake.nix': FILES['flake.nix']})})",
        "flake: lock the input base/nixpkgs at path:/srv/nixpkgs (n1)",
        "flake: lock the input microvm at path:/srv/microvm (m1)",
        "flake: write registry.json",
    ]
    assert {name: content for name, content in tree(flake).items() if name in FILES} == FILES
    assert sorted(tree(flake)) == sorted([*FILES, "flake.lock", "registry.json"])
    asked = len(nix.calls)
    for check in (True, False):
        again = run(check=check)
        assert not again.changed
        assert again.actions == []
        assert again.inputs == done.inputs
    assert len(nix.calls) == asked, "what is locked is not looked up again"


def test_files_and_directories_have_their_modes(run: Run, flake: Path) -> None:
    before = os.umask(0o077)
    try:
        run()
    finally:
        os.umask(before)
    assert {oct(p.stat().st_mode & 0o7777) for p in flake.rglob("*") if p.is_dir()} == {"0o755"}
    assert {oct(p.stat().st_mode & 0o7777) for p in flake.rglob("*") if p.is_file()} == {"0o644"}


def test_what_differs_is_installed_again_and_nothing_else(run: Run, flake: Path) -> None:
    run()
    before = (flake / "flake.nix").stat().st_ino
    (flake / "nix/guest.nix").write_text("changed")
    (flake / "nix/profiles/default.nix").chmod(0o600)
    os.unlink(flake / "bases/nixpkgs/flake.nix")
    (flake / "bases/nixpkgs/flake.nix").symlink_to("/etc/passwd")
    passwd = Path("/etc/passwd").read_bytes()
    result = run()
    assert result.actions == ["flake: install 3 of 5 static files"]
    assert sorted(result.after["files"]) == ["bases/nixpkgs/flake.nix", "nix/guest.nix", "nix/profiles/default.nix"]
    assert result.before["files"]["bases/nixpkgs/flake.nix"] == "no plain file"
    assert {name: content for name, content in tree(flake).items() if name in FILES} == FILES
    assert (flake / "flake.nix").stat().st_ino == before
    assert Path("/etc/passwd").read_bytes() == passwd
    assert not run().changed


def test_a_mode_of_a_directory_is_put_right(run: Run, flake: Path) -> None:
    run()
    (flake / "nix").chmod(0o777)
    assert run().actions == ["flake: have its directories as they are to be: nix"]
    assert (flake / "nix").stat().st_mode & 0o777 == 0o755


def test_what_an_older_version_had_goes_and_what_is_the_users_stays(run: Run, flake: Path) -> None:
    run()
    for name in ("nix/old.nix", "nix/gone/a.nix", ".microvm-fleet.guests.json.7", "modules/mine.nix", "host.json", "x"):
        (flake / name).parent.mkdir(exist_ok=True)
        (flake / name).write_text("{}")
    result = run()
    assert result.actions == [
        "flake: remove .microvm-fleet.guests.json.7",
        "flake: remove nix/gone/a.nix",
        "flake: remove nix/old.nix",
    ]
    assert not (flake / "nix/gone").exists()
    assert (flake / "modules/mine.nix").exists()
    assert (flake / "host.json").exists()
    assert (flake / "x").exists()
    assert not run().changed


def test_modules_of_the_user_are_named_one_by_one(run: Run, flake: Path) -> None:
    run()
    result = run(wish_of(files={**FILES, "modules/nixos/web.nix": b"{ }", "modules/a.nix": b"{ }"}))
    assert result.actions == ["flake: install modules/a.nix", "flake: install modules/nixos/web.nix"]
    assert (flake / "modules/nixos/web.nix").read_bytes() == b"{ }"
    assert not run().changed, "a module that no guest names any more stays"


def test_a_file_where_a_directory_is_to_be_is_said(run: Run, flake: Path) -> None:
    run()
    (flake / "modules").write_text("x")
    with pytest.raises(FleetError, match=r"^flake: .*/etc/microvm-fleet/modules is no directory\. Move it away\.$"):
        run(wish_of(files={**FILES, "modules/a.nix": b""}))


def test_a_directory_where_a_file_is_to_be_is_said(run: Run, flake: Path) -> None:
    (flake / "flake.nix").mkdir(parents=True)
    with pytest.raises(FleetError, match=r"flake\.nix is a directory, and is to be a file\. Move it away\.$"):
        run()


def test_a_changed_reference_moves_that_input_only(run: Run, nix: FakeNix) -> None:
    run()
    nix.asked.clear()
    nix.content["/srv/nixpkgs"] = "n2"
    told = run(wish_of(microvm="path:/srv/m2"), check=True)
    result = run(wish_of(microvm="path:/srv/m2"))
    assert told == result
    assert result.actions == [
        "flake: move the input microvm from path:/srv/microvm (m1) to path:/srv/m2 (2)",
        "flake: write registry.json",
    ]
    assert set(nix.asked) == {"/srv/m2"}
    assert result.before["inputs"]["microvm"] == "path:/srv/microvm (m1)"
    assert result.after["inputs"]["base/nixpkgs"] == "path:/srv/nixpkgs (n1)"
    assert not run(wish_of(microvm="path:/srv/m2")).changed


def test_an_update_moves_what_it_names(run: Run, nix: FakeNix) -> None:
    run()
    nix.content.update({"/srv/nixpkgs": "n2", "/srv/microvm": "m2"})
    result = run(wish_of(update=["nixpkgs"]))
    assert result.actions == [
        "flake: move the input base/nixpkgs from path:/srv/nixpkgs (n1) to path:/srv/nixpkgs (n2)"
    ]
    assert run(wish_of(update=["nixpkgs"])).changed is False
    assert run(wish_of(update=True)).inputs["microvm"] == "path:/srv/microvm (m2)"


def test_what_the_update_of_another_input_looks_up_again_is_what_it_was(run: Run, nix: FakeNix) -> None:
    wish = wish_of(base=CONFIGURATION_BASE)
    run(wish)
    nix.content["/etc/nixos"] = "c2"
    result = run(replace(wish, update=frozenset(["configuration"])))
    assert [line for line in result.actions if "move" in line] == [
        "flake: move the input base/configuration from path:/etc/nixos (c1) to path:/etc/nixos (c2)"
    ]
    nix.content["/srv/nixpkgs"] = "n2"
    with pytest.raises(FleetError, match=r"^flake, nixpkgs: the content of /srv/nixpkgs is not what it was"):
        run(replace(wish, update=frozenset(["configuration"])))


def test_a_base_of_the_collection_that_has_changed_is_locked_anew(run: Run, nix: FakeNix) -> None:
    run()
    nix.content["/srv/microvm"] = "m2"
    files = {**FILES, "bases/nixpkgs/flake.nix": b"{ outputs = _: { a = 1; }; }\n"}
    result = run(wish_of(files=files))
    assert result.actions[0] == "flake: install 1 of 5 static files"
    assert result.actions[1].startswith("flake: move the input base from path:/etc/microvm-fleet/bases/nixpkgs (")
    assert len(result.actions) == 2
    assert not run(wish_of(files=files)).changed


def test_another_base_brings_its_own_inputs(run: Run, flake: Path) -> None:
    run()
    result = run(wish_of(base="path:/srv/infra"))
    assert "flake: drop the input base/nixpkgs, which was path:/srv/nixpkgs (n1)" in result.actions
    assert result.inputs == {"base": "path:/srv/infra (i1)", "microvm": "path:/srv/microvm (m1)"}
    known = json.loads((flake / "registry.json").read_text())["flakes"]
    assert [one["from"]["id"] for one in known] == ["microvm-fleet-base", "microvm-fleet-microvm"]
    assert not run(wish_of(base="path:/srv/infra")).changed


def test_a_run_that_was_killed_before_the_registry_locks_again(run: Run, flake: Path) -> None:
    run()
    old = (flake / "registry.json").read_text()
    run(wish_of(microvm="path:/srv/m2"))
    (flake / "registry.json").write_text(old)
    result = run(wish_of(microvm="path:/srv/m2"))
    assert result.actions == ["flake: write registry.json"]
    assert not run(wish_of(microvm="path:/srv/m2")).changed


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("error: no network\n", "flake, microvm: cannot be locked: no network. See that root on the host may fetch"),
        (
            "error: NAR hash mismatch in input 'path:/srv/microvm?x=y', expected 'a'\n",
            "flake, microvm: the content of /srv/microvm is not what it was when it was locked",
        ),
    ],
)
def test_an_input_that_cannot_be_locked_leaves_all_as_it_was(
    *, run: Run, flake: Path, nix: FakeNix, paths: FlakePaths, stderr: str, message: str
) -> None:
    run()
    before = tree(flake)
    nix.errors["/srv/microvm"] = stderr
    with pytest.raises(FleetError) as caught:
        run(wish_of(update=["microvm"], files={**FILES, "nix/new.nix": b""}))
    assert str(caught.value).startswith(message)
    assert tree(flake) == before
    assert os.listdir(paths.scratch) == []


def test_a_reference_that_nix_does_not_take_is_named(run: Run) -> None:
    with pytest.raises(FleetError) as caught:
        run(wish_of(microvm="foo:bar"))
    assert str(caught.value) == (
        "flake, microvm: Nix does not take 'foo:bar' for a reference of a flake: input 'foo:bar' is unsupported. "
        "Correct it."
    )


def test_a_lock_file_that_is_none_is_not_overwritten(run: Run, flake: Path) -> None:
    run()
    (flake / "flake.lock").write_text("<<<<<<< HEAD")
    with pytest.raises(FleetError, match=r"flake\.lock is no lock file of Nix"):
        run()
    assert (flake / "flake.lock").read_text() == "<<<<<<< HEAD"


def test_a_host_without_nix_can_be_checked_but_not_run(run: Run, nix: FakeNix, flake: Path) -> None:
    nix.here = False
    result = run(check=True)
    assert "flake: lock the input microvm, because it is not locked yet" in result.actions
    nix.answer = lambda argv: (127, "", "nix: not found")  # type: ignore[method-assign]
    with pytest.raises(CommandError, match="not found"):
        run()
    assert not flake.exists()


def test_a_run_that_nix_does_not_end_in_is_said_as_it_is(run: Run, nix: FakeNix) -> None:
    def late(argv: tuple[str, ...]) -> tuple[int, str, str]:
        raise CommandError("nix did not end within 10 s.", argv=argv)

    nix.lock = lambda flake, registry: late(("nix",))  # type: ignore[method-assign]
    with pytest.raises(CommandError, match=r"^nix did not end within 10 s\.$"):
        run()


def test_nix_that_writes_nothing_is_not_believed(run: Run, nix: FakeNix) -> None:
    nix.lock = lambda flake, registry: (0, "", "")  # type: ignore[method-assign]
    with pytest.raises(FleetError, match=r"^flake: Nix has written no flake\.lock\."):
        run()


def test_what_another_run_has_locked_meanwhile_is_seen(run: Run, nix: FakeNix, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    lock = _files.lock

    def slow(path: str, **options: t.Any) -> t.Any:
        monkeypatch.setattr(_files, "lock", lock)
        run(wish_of(microvm="path:/srv/m2"))
        return lock(path, **options)

    monkeypatch.setattr(_files, "lock", slow)
    nix.content["/srv/nixpkgs"] = "n2"
    result = run(wish_of(microvm="path:/srv/m2", update=["nixpkgs"]))
    assert result.before["inputs"]["microvm"] == "path:/srv/m2 (2)"
    assert result.inputs["base/nixpkgs"] == "path:/srv/nixpkgs (n2)"


def test_another_run_is_waited_for_and_named(run: Run, paths: FlakePaths) -> None:
    with (
        _files.lock(paths.lock, what="the flake of the host"),
        pytest.raises(Busy, match="the flake of the host: another"),
    ):
        run()


def test_copies_of_runs_that_were_killed_are_swept_up(run: Run, paths: FlakePaths) -> None:
    alive, dead = f"flake-{os.getpid()}-x", "flake-99999999-x"
    for name in (alive, dead, "booted", "flake-x"):
        Path(paths.scratch, name).mkdir(parents=True)
    run()
    assert sorted(os.listdir(paths.scratch)) == sorted(["booted", alive, "flake-x"])


def secrets_of(paths: FlakePaths) -> dict[str, tuple[bytes, str]]:
    place = Path(paths.credentials)
    return {
        p.relative_to(place).as_posix(): (p.read_bytes(), oct(p.stat().st_mode & 0o7777))
        for p in place.rglob("*")
        if p.is_file()
    }


def test_credentials_are_for_root_alone(run: Run, paths: FlakePaths, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"\0key")
    secrets = {"k1": {"token": Secret(content=b"tok"), "key": Secret(path=str(key))}, "k2": {}}
    told = run(wish_of(secrets=secrets), check=True)
    assert not Path(paths.credentials).exists()
    result = run(wish_of(secrets=secrets))
    assert told == result
    assert result.actions[-2:] == ["guest k1: write the credential key", "guest k1: write the credential token"]
    assert secrets_of(paths) == {"k1/token": (b"tok", "0o600"), "k1/key": (b"\0key", "0o600")}
    for place in (paths.credentials, os.path.join(paths.credentials, "k1"), os.path.dirname(paths.credentials)):
        assert oct(os.stat(place).st_mode & 0o7777) == "0o700"
    assert not run(wish_of(secrets=secrets)).changed


def test_a_changed_credential_is_written_and_never_shown(run: Run, paths: FlakePaths) -> None:
    run(wish_of(secrets={"k1": {"token": Secret(content=b"old-secret")}}))
    result = run(wish_of(secrets={"k1": {"token": Secret(content=b"new-secret")}}))
    assert result.actions == ["guest k1: write the credential token"]
    assert result.before["credentials"] == ["k1/token"]
    assert result.after["credentials"] == ["k1/token (written anew)"]
    assert not re.search("secret", json.dumps(result.values()))
    Path(paths.credentials, "k1/token").chmod(0o644)
    assert run(wish_of(secrets={"k1": {"token": Secret(content=b"new-secret")}})).changed
    assert secrets_of(paths) == {"k1/token": (b"new-secret", "0o600")}


def test_credentials_that_a_guest_has_no_more_stay_for_its_unit(run: Run, paths: FlakePaths) -> None:
    two = {"a": Secret(content=b"1"), "b": Secret(content=b"2")}
    run(wish_of(secrets={"k1": two, "k2": two}))
    fewer: list[dict[str, dict[str, Secret]]] = [{"k1": {"a": Secret(content=b"1")}}, {"k1": {}}]
    for secrets in fewer:
        result = run(wish_of(secrets=secrets))
        assert not result.changed
        assert sorted(secrets_of(paths)) == ["k1/a", "k1/b", "k2/a", "k2/b"]


def test_what_a_killed_run_left_of_a_credential_is_removed(run: Run, paths: FlakePaths) -> None:
    secrets = {"k1": {"token": Secret(content=b"tok")}}
    run(wish_of(secrets=secrets))
    left = Path(paths.credentials, "k1", f"{_files.TEMPORARY}token.1")
    left.write_bytes(b"to")
    result = run(wish_of(secrets=secrets))
    assert result.actions == ["guest k1: remove what a killed run left of a credential"]
    assert result.before["credentials"] == result.after["credentials"] == ["k1/token"]
    assert not left.exists()
    assert not run(wish_of(secrets=secrets)).changed


def test_a_file_of_the_host_that_is_missing_is_named_before_anything_is_done(run: Run, flake: Path) -> None:
    with pytest.raises(FleetError) as caught:
        run(wish_of(secrets={"k1": {"key": Secret(path="/nowhere/key")}}))
    assert str(caught.value) == (
        "guest k1, credentials.key.path: /nowhere/key cannot be read on the host: No such file or directory. "
        "Put the file there, or give src for a file beside the inventory."
    )
    assert not flake.exists()


def test_what_the_kernel_refuses_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: t.Any, **_options: t.Any) -> None:
        raise PermissionError(13, "Permission denied", "/etc/microvm-fleet")

    monkeypatch.setattr(_flake_run, "_directory", refuse)
    with pytest.raises(FleetError, match=r"^host: /etc/microvm-fleet: Permission denied\. Run as root on the host"):
        run()


def away(paths: FlakePaths, *, check: bool = False, force: bool = False) -> Result:
    return take_away(paths=paths, check=check, force=force, lock_timeout=0)


def test_it_is_taken_away(run: Run, paths: FlakePaths, flake: Path) -> None:
    done = run(wish_of(secrets={"k1": {"token": Secret(content=b"tok")}}, files={**FILES, "modules/a.nix": b""}))
    (flake / "guests.json").write_text('{"version": 1, "guests": {}}')
    told = away(paths, check=True)
    assert flake.exists()
    result = away(paths)
    assert told == result
    assert result.changed
    assert result.before["inputs"] == done.inputs
    assert not flake.exists()
    assert not Path(paths.credentials).exists()
    again = away(paths)
    assert not again.changed
    assert again.actions == []


def test_data_of_the_host_stays(run: Run, paths: FlakePaths, flake: Path) -> None:
    run()
    (flake / "host.json").write_text("{}")
    away(paths)
    assert sorted(tree(flake)) == ["host.json"]


@pytest.mark.parametrize(
    ("text", "names"),
    [('{"guests": {"k2": {}, "k1": {}}}', "k1, k2"), ("{", "what guests.json should list")],
)
def test_it_stays_while_there_are_guests(run: Run, paths: FlakePaths, flake: Path, text: str, names: str) -> None:
    run()
    (flake / "guests.json").write_text(text)
    before = tree(flake)
    with pytest.raises(FleetError) as caught:
        away(paths)
    assert str(caught.value) == (
        f"flake: guests.json still describes {names}. Remove these guests first, or say "
        "microvm_flake_remove_with_guests; nobody could update them."
    )
    assert tree(flake) == before
    assert away(paths, force=True).changed
    assert not flake.exists()
