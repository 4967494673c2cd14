# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Closures from one store to another: whole and signed, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import time
import typing as t
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _closure_run, _files, _space
from ansible_collections.microvm.fleet.plugins.module_utils._build_places import Places, places
from ansible_collections.microvm.fleet.plugins.module_utils._closure_run import Closure, Exported
from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy, FleetError, InvalidWish
from ansible_collections.microvm.fleet.tests.unit.support.fakenix import FakeNix, store_path

NOTHING = "Nothing was added to the store."


@pytest.fixture
def builder(tmp_path: Path) -> FakeNix:
    """A host that has two runners with a kernel in common."""
    nix = FakeNix(tmp_path / "builder")
    kernel = nix.make("kernel")
    nix.make("microvm-qemu-web1", kernel, nix.make("web1-run", kernel))
    nix.make("microvm-qemu-web2", kernel)
    return nix


@pytest.fixture
def target(tmp_path: Path) -> FakeNix:
    """A host with an empty store."""
    return FakeNix(tmp_path / "target")


WEB1, WEB2, KERNEL, RUN = map(store_path, ("microvm-qemu-web1", "microvm-qemu-web2", "kernel", "web1-run"))


def places_of(nix: FakeNix) -> Places:
    return places(str(nix.root), uid=0)


def export(nix: FakeNix, *runners: str, **options: t.Any) -> Exported:
    given: dict[str, t.Any] = {"sign_key": None, "timeout": 1, "lock_timeout": 0, "check": False, **options}
    return _closure_run.export(list(runners or (WEB1,)), places=places_of(nix), commands=nix, **given)


def sent(exported: Exported) -> t.Any:
    return json.loads(json.dumps(exported.values()))["closure"]


def prepare(nix: FakeNix, exported: Exported, *runners: str, check: bool = False) -> Closure:
    return _closure_run.prepare(list(runners or (WEB1,)), sent(exported), paths=nix.paths, commands=nix, check=check)


def bring(exported: Exported, prepared: Closure) -> Path:
    """Copy the files that are to come."""
    assert prepared.directory is not None
    place = Path(prepared.directory)
    for file in prepared.files:
        (place / file["name"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(exported.directory, file["name"]), place / file["name"])
    return place


def add(nix: FakeNix, directory: Path, *runners: str, keys: t.Sequence[str], check: bool = False) -> Closure:
    return _closure_run.add(
        list(runners or (WEB1,)),
        str(directory),
        public_keys=keys,
        paths=nix.paths,
        commands=nix,
        timeout=1,
        check=check,
    )


def key_of(exported: Exported) -> list[str]:
    assert exported.public_key is not None
    return [exported.public_key]


def roots(nix: FakeNix) -> list[str]:
    place = nix.root / "nix/var/nix/gcroots/microvm-fleet-copied"
    return sorted(os.readlink(link) for link in place.iterdir()) if place.is_dir() else []


# Exporting


def test_a_closure_is_packed_and_signed(builder: FakeNix) -> None:
    exported = export(builder)
    assert exported.changed
    assert sorted(exported.parts) == sorted([WEB1, KERNEL, RUN])
    assert exported.parts[WEB1].references == (KERNEL, RUN)
    assert exported.public_key == f"microvm-fleet-{os.uname().nodename}-1:{'A' * 43}="
    key = Path(places_of(builder).key)
    assert key.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in key.parent.iterdir()) == ["sign-key"]
    assert all("Sig: microvm-fleet-" in path.read_text() for path in Path(exported.directory).glob("*.narinfo"))


def test_what_is_packed_is_not_packed_again(builder: FakeNix) -> None:
    first = export(builder)
    second = export(builder)
    assert (second.changed, second.parts, second.public_key) == (False, first.parts, first.public_key)
    assert builder.count("copy") == 1
    assert export(builder, WEB1, WEB2).changed
    assert builder.count("copy") == 2


@pytest.mark.parametrize("damage", ["torn", "flipped", "info", "lost", "both"])
def test_what_is_torn_in_the_cache_is_packed_again(builder: FakeNix, damage: str) -> None:
    exported = export(builder)
    part = exported.parts[KERNEL]
    file, info = Path(exported.directory, part.file), Path(exported.directory, part.info)
    content = file.read_text(encoding="utf-8")
    if damage == "lost":
        file.unlink()
    if damage in ("torn", "both"):
        file.write_text("torn", encoding="utf-8")
    if damage == "flipped":
        file.write_text("X" + content[1:], encoding="utf-8")
    if damage in ("info", "both"):
        info.write_text("", encoding="utf-8")
    again = export(builder)
    assert again.changed
    assert file.read_text(encoding="utf-8") == content
    assert again.parts == exported.parts


def test_a_cache_that_stays_torn(builder: FakeNix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "_pack", lambda *_arguments: (0, "", ""))
    with pytest.raises(FleetError) as caught:
        export(builder)
    assert f"has no {min(KERNEL, RUN, WEB1)} after it was copied there." in caught.value.seen


def test_check_mode_writes_nothing(builder: FakeNix) -> None:
    exported = export(builder, check=True)
    assert (exported.changed, exported.parts) == (True, {})
    assert not Path(exported.directory).exists()
    assert not export(builder, WEB1, check=True).values()["closure"]


def test_a_runner_that_was_not_built(builder: FakeNix) -> None:
    lost = store_path("microvm-qemu-none")
    with pytest.raises(FleetError) as caught:
        export(builder, WEB1, lost)
    assert caught.value.text() == (
        f"closure, runners: {lost} is not in the store of this host. Build it here first, with"
        " microvm.fleet.microvm_build."
    )


@pytest.mark.parametrize("runner", ["/etc", "", "/nix/store/x", f"{WEB1}/bin"])
def test_what_is_no_runner(builder: FakeNix, target: FakeNix, runner: str) -> None:
    actions: list[Callable[[], object]] = [
        lambda: export(builder, runner),
        lambda: _closure_run.query([runner], commands=target),
        lambda: add(target, target.root, runner, keys=["a:" + "A" * 43 + "="]),
    ]
    for action in actions:
        with pytest.raises(InvalidWish) as caught:
            action()
        assert caught.value.text().startswith(f"closure, runners: {runner!r} is no path of a package in /nix/store.")
    assert builder.calls == target.calls == []


def test_a_cache_needs_room(builder: FakeNix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_space, "free", lambda _path: 5 * _space.MIB)
    with pytest.raises(FleetError) as caught:
        export(builder)
    assert "1 MiB for packed closures, 5 MiB are free" in caught.value.seen
    assert builder.count("copy") == 0


def test_a_key_that_is_given(builder: FakeNix, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("mine-1:secret", encoding="utf-8")
    assert export(builder, sign_key=str(key)).public_key == f"mine-1:{'A' * 43}="
    assert not Path(places_of(builder).key).exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "is no file. Give a key"), ("rubbish", "is no key to sign with: error: secret key is corrupt. Make one")],
)
def test_a_key_that_is_none(builder: FakeNix, tmp_path: Path, text: str | None, said: str) -> None:
    key = tmp_path / "key"
    if text is not None:
        key.write_text(text, encoding="utf-8")
    with pytest.raises(FleetError) as caught:
        export(builder, sign_key=str(key))
    assert f"closure, sign_key: {key} {said}" in caught.value.text()


def test_another_run_that_fills_the_cache(builder: FakeNix) -> None:
    export(builder)
    lock = os.path.join(places_of(builder).cache, ".lock")
    with _files.lock(lock, what="it"), pytest.raises(Busy) as caught:
        export(builder)
    assert caught.value.subject == "cache of closures"


def test_what_nobody_asks_for_goes_after_a_day(builder: FakeNix) -> None:
    exported = export(builder, WEB1, WEB2)
    cache = Path(exported.directory)
    stale = time.time() - _closure_run.LEFT_AFTER - 60
    for path in (*cache.glob("*.narinfo"), *cache.glob("nar/*")):
        os.utime(path, (stale, stale))
    export(builder, WEB1)
    assert not (cache / exported.parts[WEB2].info).exists()
    assert not (cache / exported.parts[WEB2].file).exists()
    assert all((cache / exported.parts[path].file).exists() for path in (WEB1, KERNEL, RUN))


def test_what_nix_says_of_a_failed_copy(builder: FakeNix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "_pack", lambda *_arguments: (1, "", "copying\nerror: No space left on device\n"))
    with pytest.raises(FleetError) as caught:
        export(builder)
    assert caught.value.text() == "closure, runners: cannot be copied: No space left on device"


# Adding


def test_a_closure_arrives(builder: FakeNix, target: FakeNix) -> None:
    exported = export(builder)
    prepared = prepare(target, exported)
    assert prepared.missing == (WEB1,)
    place = bring(exported, prepared)
    result = add(target, place, keys=key_of(exported))
    assert result.changed
    assert {path: one.content for path, one in target.objects.items()} == {
        path: builder.objects[path].content for path in (WEB1, KERNEL, RUN)
    }
    assert roots(target) == [WEB1]
    assert not place.exists()
    again = add(target, place, keys=key_of(exported))
    assert (again.changed, again.missing) == (False, ())


def test_nothing_is_missing(builder: FakeNix, target: FakeNix) -> None:
    exported = export(builder)
    add(target, bring(exported, prepare(target, exported)), keys=key_of(exported))
    prepared = prepare(target, exported)
    assert (prepared.changed, prepared.directory, prepared.files) == (False, None, [])
    assert _closure_run.query([WEB1, WEB2], commands=target).missing == (WEB2,)


def test_only_what_is_missing_comes(builder: FakeNix, target: FakeNix) -> None:
    exported = export(builder, WEB1, WEB2)
    add(target, bring(exported, prepare(target, exported, WEB2)), WEB2, keys=key_of(exported))
    prepared = prepare(target, exported, WEB1, WEB2)
    names = [file["name"] for file in prepared.files]
    assert exported.parts[KERNEL].file not in names
    assert exported.parts[KERNEL].info in names
    assert exported.parts[WEB2].info not in names
    assert [file for file in prepared.files if file["name"] == exported.parts[RUN].file] == [
        {
            "name": exported.parts[RUN].file,
            "size": exported.parts[RUN].size,
            "sha256": exported.parts[RUN].sha256,
        }
    ]
    add(target, bring(exported, prepared), WEB1, WEB2, keys=key_of(exported))
    assert WEB1 in target.objects


def test_check_mode_of_the_target(builder: FakeNix, target: FakeNix) -> None:
    exported = export(builder)
    prepared = prepare(target, exported, check=True)
    assert prepared.changed
    assert not target.root.exists()
    place = bring(exported, prepared)
    result = add(target, place, keys=key_of(exported), check=True)
    assert result.changed
    assert (target.objects, place.exists()) == ({}, True)


def test_a_target_needs_room_for_both(builder: FakeNix, target: FakeNix, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = export(builder)
    monkeypatch.setattr(_space, "free", lambda _path: 0)
    with pytest.raises(FleetError) as caught:
        prepare(target, exported)
    assert "1 MiB for what comes over and 1 MiB for the closure itself, 0 MiB are free" in caught.value.seen
    assert not target.root.exists()


def test_what_earlier_runs_left_goes(builder: FakeNix, target: FakeNix) -> None:
    exported = export(builder)
    prepared = prepare(target, exported)
    assert prepared.directory is not None
    above = Path(prepared.directory).parent
    mine, old, new = Path(prepared.directory), above / "old", above / "new"
    stale = time.time() - _closure_run.LEFT_AFTER - 60
    for directory in (mine, old, new):
        directory.mkdir(parents=True)
        (directory / "x").touch()
    os.utime(old, (stale, stale))
    root = target.root / "nix/var/nix/gcroots/microvm-fleet-copied/old"
    root.parent.mkdir(parents=True)
    root.symlink_to(WEB2)
    os.utime(root, (stale, stale), follow_symlinks=False)
    prepare(target, exported)
    assert sorted(path.name for path in above.iterdir()) == ["new"]
    assert roots(target) == []


def unsigned(place: Path, _parts: t.Any) -> None:
    for info in place.glob("*.narinfo"):
        info.write_text(info.read_text().partition("Sig:")[0], encoding="utf-8")


def one_unsigned(place: Path, parts: t.Any) -> None:
    info = place / parts[RUN].info
    info.write_text(info.read_text().partition("Sig:")[0], encoding="utf-8")


def torn(place: Path, parts: t.Any) -> None:
    file = place / parts[KERNEL].file
    file.write_text(file.read_text()[:-7], encoding="utf-8")


def damaged(place: Path, parts: t.Any) -> None:
    file = place / parts[KERNEL].file
    file.write_text("X" + file.read_text()[1:], encoding="utf-8")


def replaced(place: Path, parts: t.Any) -> None:
    file = place / parts[KERNEL].file
    file.unlink()
    file.symlink_to("/etc/passwd")


def lost(place: Path, parts: t.Any) -> None:
    (place / parts[KERNEL].file).unlink()


def untold(place: Path, parts: t.Any) -> None:
    (place / parts[KERNEL].info).unlink()


def foreign(place: Path, parts: t.Any) -> None:
    shutil.copy(place / parts[RUN].info, place / parts[KERNEL].info)


def empty(place: Path, parts: t.Any) -> None:
    (place / parts[WEB1].info).write_text("", encoding="utf-8")


def headless(place: Path, _parts: t.Any) -> None:
    (place / "nix-cache-info").unlink()


@pytest.mark.parametrize(
    ("spoil", "field", "said"),
    [
        (unsigned, "public_keys", "has no signature by microvm-fleet-"),
        (one_unsigned, "public_keys", f"{RUN} has no signature by microvm-fleet-"),
        (torn, "directory", "the content of " + KERNEL + ", has 893 bytes and should have 900."),
        (damaged, "directory", "the content of " + KERNEL + ", is damaged: its checksum is another one."),
        (replaced, "directory", "the content of " + KERNEL + ", is missing."),
        (lost, "directory", "the content of " + KERNEL + ", is missing."),
        (untold, "directory", "which tells of " + KERNEL + ", is missing."),
        (foreign, "directory", f"tells of {RUN}, and not of {KERNEL}."),
        (empty, "directory", "does not say what it should."),
        (headless, "directory", "nix-cache-info is missing."),
    ],
)
def test_what_is_not_whole_or_not_signed_is_refused(
    builder: FakeNix, target: FakeNix, spoil: Callable[[Path, t.Any], None], field: str, said: str
) -> None:
    exported = export(builder)
    place = bring(exported, prepare(target, exported))
    spoil(place, exported.parts)
    with pytest.raises(FleetError) as caught:
        add(target, place, keys=key_of(exported))
    assert (caught.value.subject, caught.value.field) == ("closure", field)
    assert said in caught.value.seen
    assert NOTHING in caught.value.text()
    assert target.objects == {}
    assert target.count("copy") == 0, "Nix is not even asked to"
    assert roots(target) == []
    assert not place.exists()


def test_a_key_that_nobody_trusts(builder: FakeNix, target: FakeNix) -> None:
    exported = export(builder, WEB1, WEB2)
    place = bring(exported, prepare(target, exported, WEB1, WEB2))
    with pytest.raises(FleetError) as caught:
        add(target, place, WEB1, WEB2, keys=[f"other-1:{'A' * 43}=", f"more:{'B' * 43}="])
    refused = sorted([WEB1, WEB2, KERNEL, RUN])
    assert caught.value.text() == (
        f"closure, public_keys: {', '.join(refused[:3])} and 1 more has no signature by other-1, more. Sign it where it"
        f" was built, or name the key that it was signed with. {NOTHING}"
    )
    assert target.objects == {}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ([], "names no key, and nothing is added without a signature. Give the public key of the host that has built"),
        (["rubbish"], "'rubbish' is no public key. Give NAME:KEY"),
        ([f"a:{'A' * 43}= b:{'A' * 43}="], "is no public key."),
    ],
)
def test_keys_that_are_none(target: FakeNix, keys: list[str], said: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        add(target, target.root, keys=keys)
    assert said in caught.value.text()
    assert target.calls == []


def test_a_verification_that_fails_otherwise(
    builder: FakeNix, target: FakeNix, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = export(builder)
    place = bring(exported, prepare(target, exported))
    monkeypatch.setattr(target, "_verify", lambda _words: (1, "", "error: cannot connect to the daemon\n"))
    with pytest.raises(FleetError) as caught:
        add(target, place, keys=key_of(exported))
    assert "its signatures cannot be verified: error: cannot connect to the daemon" in caught.value.text()


def test_an_addition_that_breaks(builder: FakeNix, target: FakeNix) -> None:
    exported = export(builder)
    place = bring(exported, prepare(target, exported))
    target.breaks = True
    with pytest.raises(FleetError) as caught:
        add(target, place, keys=key_of(exported))
    assert caught.value.text() == "closure, runners: cannot be copied: writing to file: No space left on device"
    assert roots(target) == []
    target.breaks = False
    place = bring(exported, prepare(target, exported))
    assert add(target, place, keys=key_of(exported)).changed


def test_nix_is_never_told_to_leave_out_its_checks(builder: FakeNix, target: FakeNix) -> None:
    exported = export(builder)
    add(target, bring(exported, prepare(target, exported)), keys=key_of(exported))
    assert not any("--no-check-sigs" in call for call in (*builder.calls, *target.calls))
    copy = next(call for call in target.calls if "copy" in call)
    assert copy[copy.index("trusted-public-keys") + 1] == exported.public_key


def test_a_directory_that_nix_would_read_otherwise(builder: FakeNix, target: FakeNix, tmp_path: Path) -> None:
    exported = export(builder)
    odd = tmp_path / "a?b"
    shutil.copytree(exported.directory, odd)
    with pytest.raises(InvalidWish) as caught:
        add(target, odd, keys=key_of(exported))
    assert "has characters that Nix would read otherwise." in caught.value.text()
    assert odd.exists(), "what is elsewhere is not removed"


def test_a_cache_elsewhere_stays(builder: FakeNix, target: FakeNix) -> None:
    exported = export(builder)
    assert add(target, Path(exported.directory), keys=key_of(exported)).changed
    assert Path(exported.directory).exists()
