# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the controller checks and packs."""

from __future__ import annotations

import base64
import typing as t
from pathlib import Path
from unittest import mock

import pytest
from ansible.errors import AnsibleFileNotFound
from ansible.plugins.action import ActionBase

from ansible_collections.microvm.fleet.plugins.action import microvm_flake
from ansible_collections.microvm.fleet.plugins.action.microvm_flake import ActionModule, arguments, static_files
from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._flake_wish import read_files, read_secrets, unpack

ROOT = Path(__file__).resolve().parents[4]


def read(path: str) -> bytes:
    return Path(path).read_bytes()


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A directory beside the inventory, with modules and a secret."""
    for name in ("nixos/web.nix", "nixos/db/default.nix", "nixos/db/parts/a.nix", "nixos/db/.git/config", "only/a.nix"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    (tmp_path / "token").write_bytes(b"tok\xff")
    (tmp_path / "empty").write_bytes(b"")
    return tmp_path


def guest(**options: t.Any) -> dict[str, t.Any]:
    return {"name": "k1", "hypervisor": "qemu", **options}


def packed(beside: Path, *guests: t.Any) -> tuple[dict[str, bytes], t.Any]:
    args = arguments({"guests": list(guests), "search": ["/nowhere", str(beside)]}, read)
    return read_files(args["files"]), unpack(args["secrets"])


def test_the_static_files_are_those_of_the_role() -> None:
    names = dict(static_files())
    place = ROOT / "roles" / "flake" / "files" / "microvm-fleet"
    assert {"flake.nix", "nix/guest.nix", "nix/outputs.nix", "bases/nixpkgs/flake.nix"} <= set(names)
    assert {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()} == set(names)
    assert all(path.read_bytes() for path in names.values())


def test_what_tools_keep_among_them_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flake.nix", "nix/a.nix", "nix/.a.nix.swp", ".cache/b.nix", "nix/.cache/c/d.nix"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(microvm_flake, "STATIC", tmp_path)
    assert [name for name, _path in static_files()] == ["flake.nix", "nix/a.nix"]


def test_all_of_them_are_sent(beside: Path) -> None:
    files, secrets = packed(beside)
    assert files == {name: path.read_bytes() for name, path in static_files()}
    assert secrets == {}


def test_modules_keep_their_path(beside: Path) -> None:
    files, _secrets = packed(beside, guest(modules=["nixos/web.nix", "nixos/db"]))
    assert {name: content for name, content in files.items() if name.startswith("modules/")} == {
        "modules/nixos/web.nix": b"# nixos/web.nix\n",
        "modules/nixos/db/default.nix": b"# nixos/db/default.nix\n",
        "modules/nixos/db/parts/a.nix": b"# nixos/db/parts/a.nix\n",
    }


def test_credentials_are_read_here_or_on_the_host(beside: Path) -> None:
    _files, secrets = packed(
        beside,
        guest(credentials={"token": {"src": "token"}, "abs": {"src": str(beside / "token")}, "key": {"path": "/k"}}),
    )
    content = base64.b64encode(b"tok\xff").decode()
    assert secrets == {"k1": {"token": {"content": content}, "abs": {"content": content}, "key": {"path": "/k"}}}


def test_guests_that_are_not_described_need_nothing(beside: Path) -> None:
    _files, secrets = packed(
        beside, {"name": "web", "flake": "x", "modules": ["none"]}, {"name": "db", "hypervisor": None}
    )
    assert secrets == {}


def test_of_a_guest_that_goes_no_credentials_are_sent(beside: Path) -> None:
    _files, secrets = packed(beside, guest(state="absent", modules=["none"], credentials={"a": {"src": "none"}}))
    assert secrets == {"k1": {}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"modules": ["../x.nix"]},
            "guest k1, modules: '../x.nix' leaves its directory by '..'. Give a path from beside",
        ),
        ({"modules": ["/etc/x.nix"]}, "guest k1, modules: '/etc/x.nix' is absolute."),
        ({"modules": "nixos/web.nix"}, "guest k1, modules: 'nixos/web.nix' is no list."),
        (
            {"modules": ["nixos/no.nix"]},
            "guest k1, modules: nixos/no.nix is not there; looked for /nowhere/nixos/no.nix, ",
        ),
        ({"modules": ["only"]}, "guest k1, modules: the directory "),
        ({"credentials": ["a"]}, "guest k1, credentials: ['a'] is no dictionary. Give NAME: {src: FILE}."),
        ({"credentials": {"a": "token"}}, "guest k1, credentials.a: is not one of src and path."),
        ({"credentials": {"a": {}}}, "guest k1, credentials.a: is not one of src and path."),
        ({"credentials": {"a": {"src": "x", "path": "/y"}}}, "guest k1, credentials.a: is not one of src and path."),
        ({"credentials": {"a/b": {"src": "token"}}}, "guest k1, credentials: 'a/b' is no name of a credential."),
        ({"credentials": {"a": {"path": "k"}}}, "guest k1, credentials.a.path: 'k' is no absolute path."),
        ({"credentials": {"a": {"path": "/a/../k"}}}, "guest k1, credentials.a.path: '/a/../k' is no absolute path."),
        (
            {"credentials": {"a": {"src": "none"}}},
            "guest k1, credentials.a.src: none is not there; looked for /nowhere/none",
        ),
        (
            {"credentials": {"a": {"src": "empty"}}},
            "guest k1, credentials.a.src: empty is empty. Put the secret into it.",
        ),
        ({"name": "a/b"}, "guest a/b, name: 'a/b' is no name of a guest."),
        ({"name": ""}, "guest number 1 of the list, name: '' is no name of a guest."),
    ],
)
def test_what_is_wrong_with_a_guest_is_named(beside: Path, options: dict[str, t.Any], message: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        packed(beside, guest(**options))
    assert str(caught.value).startswith(message)


def test_all_that_is_wrong_is_named_at_once(beside: Path) -> None:
    with pytest.raises(InvalidWish) as caught:
        packed(beside, guest(modules=["no"]), guest(name="k2", credentials={"a": {"src": "no"}}))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "guest k1, modules",
        "guest k2, credentials.a.src",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "infra"}, "flake, base: 'infra' is relative."),
        ({"update": ["x"]}, "flake, update: 'x' is no input."),
        ({"guests": "k1"}, "guests: 'k1' is no list. Give a list."),
    ],
)
def test_references_are_checked_before_anything_is_read(options: dict[str, t.Any], message: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        arguments(options, read)
    assert str(caught.value).startswith(message)


def test_what_is_far_too_much_is_not_sent(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microvm_flake, "BYTES_LIMIT", 1 << 10)
    with pytest.raises(
        InvalidWish, match=r"^flake, modules: \d+ files of \d+ KiB are to be sent\. Name directories with"
    ):
        packed(beside)
    monkeypatch.setattr(microvm_flake, "FILES_LIMIT", 1)
    with pytest.raises(InvalidWish, match=r"^guest k1, modules: .*/nixos/db has more than 1 files\. Name its files\.$"):
        packed(beside, guest(modules=["nixos/db"]))


def test_to_take_it_away_nothing_is_read() -> None:
    args = arguments({"state": "absent", "force": True, "guests": "x", "search": None}, lambda path: b"")
    assert args == {"state": "absent", "force": True}


def action(args: dict[str, t.Any], **loader: t.Any) -> ActionModule:
    module = ActionModule.__new__(ActionModule)
    module._task = mock.Mock(args=args)
    module._loader = mock.Mock(**loader)
    return module


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, t.Any]]:
    """The calls of the module on the host."""
    calls: list[dict[str, t.Any]] = []

    def execute(_self: t.Any, **options: t.Any) -> dict[str, t.Any]:
        calls.append(options)
        return {"changed": True}

    monkeypatch.setattr(ActionBase, "run", lambda _self, tmp, task_vars: {})
    monkeypatch.setattr(ActionModule, "_execute_module", execute)
    return calls


def test_the_module_gets_what_was_packed(beside: Path, executed: list[dict[str, t.Any]]) -> None:
    args = {"guests": [guest(credentials={"a": {"src": "token"}})], "search": [str(beside)], "timeout": 5}
    result = action(args, get_real_file=mock.Mock(side_effect=str)).run(task_vars={"a": 1})
    assert result == {"changed": True}
    (call,) = executed
    assert call["module_name"] == "microvm.fleet.microvm_flake"
    assert call["task_vars"] == {"a": 1}
    assert sorted(call["module_args"]) == ["files", "secrets", "timeout"]
    assert read_secrets(call["module_args"]["secrets"])["k1"]["a"].content == b"tok\xff"


def test_what_is_wrong_ends_the_task_before_the_host_is_asked(executed: list[dict[str, t.Any]]) -> None:
    result = action({"base": "x"}).run()
    assert result["failed"] is True
    assert result["msg"].startswith("flake, base: 'x' is relative.")
    assert executed == []


def test_a_file_that_cannot_be_decrypted_is_named(beside: Path, executed: list[dict[str, t.Any]]) -> None:
    args = {"guests": [guest(credentials={"a": {"src": "token"}})], "search": [str(beside)]}
    result = action(args, get_real_file=mock.Mock(side_effect=AnsibleFileNotFound("no vault secrets"))).run()
    assert result["failed"] is True
    assert f"{beside}/token cannot be read: no vault secrets" in result["msg"]
    assert executed == []
