# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the flake is to be, before any host is asked."""

from __future__ import annotations

import base64
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._errors import InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._flake_wish import (
    CONFIGURATION_BASE,
    NIXPKGS_BASE,
    Secret,
    credential_faults,
    flake_spec,
    pack,
    read_files,
    read_references,
    read_secrets,
    read_update,
    read_wish,
    relative_faults,
    unpack,
)

OWN = "git+https://git.example.org/infra"


def given(**options: t.Any) -> dict[str, t.Any]:
    return {**{name: option.get("default") for name, option in flake_spec().items()}, **options}


def encoded(files: dict[str, bytes]) -> str:
    return pack({name: base64.b64encode(content).decode() for name, content in files.items()})


@pytest.mark.parametrize(
    ("base", "names"),
    [
        (NIXPKGS_BASE, ["base", "microvm", "nixpkgs"]),
        (CONFIGURATION_BASE, ["base", "configuration", "microvm", "nixpkgs"]),
        (OWN, ["base", "microvm"]),
        ("path:/srv/infra", ["base", "microvm"]),
    ],
)
def test_a_base_decides_which_references_count(base: str, names: list[str]) -> None:
    references = read_references(given(base=base))
    assert sorted(references) == names
    assert references["base"] == base


@pytest.mark.parametrize(
    "written", ["/etc/microvm-fleet/bases/nixpkgs", "path:///etc/microvm-fleet/bases/nixpkgs/", NIXPKGS_BASE]
)
def test_the_collections_base_is_known_however_it_is_written(written: str) -> None:
    # As /absolute/path Nix would look for a Git repository, which /etc can be.
    assert read_references(given(base=written))["base"] == NIXPKGS_BASE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"microvm": "microvm.nix"}, "flake, microvm: 'microvm.nix' is relative."),
        ({"microvm": "./x"}, "flake, microvm: './x' is relative."),
        ({"microvm": "path:x"}, "flake, microvm: 'path:x' is relative."),
        ({"microvm": ""}, "flake, microvm: is empty."),
        ({"nixpkgs": "github:a/b#c"}, "flake, nixpkgs: 'github:a/b#c' names an output after '#'"),
        ({"nixpkgs": "github:a/b c"}, "flake, nixpkgs: 'github:a/b c' has white space or control characters."),
        ({"nixpkgs": "github:a/b\n#c"}, "flake, nixpkgs: 'github:a/b\\n#c' has white space or control characters."),
        ({"base": "flake:infra"}, "flake, base: 'flake:infra' is an entry of a registry"),
        ({"base": CONFIGURATION_BASE, "configuration": "nixos"}, "flake, configuration: 'nixos' is relative."),
    ],
)
def test_a_reference_that_cannot_be_is_named(options: dict[str, t.Any], message: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        read_references(given(**options))
    assert str(caught.value).startswith(message)
    assert "Give one such as github:OWNER/NAME/BRANCH" in str(caught.value)


def test_all_references_that_are_wrong_are_named_at_once() -> None:
    with pytest.raises(InvalidWish) as caught:
        read_references(given(base="x", microvm="y"))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["flake, base", "flake, microvm"]


def test_a_reference_that_is_not_used_may_be_anything() -> None:
    assert read_references(given(base=OWN, nixpkgs="what you will"))["base"] == OWN


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, []),
        (False, []),
        ("", []),
        ([], []),
        (True, ["base", "microvm", "nixpkgs"]),
        (["nixpkgs", "microvm"], ["microvm", "nixpkgs"]),
        ("microvm", ["microvm"]),
    ],
)
def test_inputs_to_update(value: t.Any, names: list[str]) -> None:
    assert sorted(read_update(value, read_references(given()))) == names


@pytest.mark.parametrize(
    ("value", "base", "message"),
    [
        (
            ["frob"],
            NIXPKGS_BASE,
            "flake, update: 'frob' is no input. Name some of base, microvm, nixpkgs, or say true.",
        ),
        ({"a": 1}, NIXPKGS_BASE, "flake, update: {'a': 1} is neither true nor a list of inputs."),
        (
            ["nixpkgs"],
            OWN,
            f"flake, update: nixpkgs is an input of the base flake, {OWN}, and locked there. Update it there",
        ),
        (
            ["configuration"],
            OWN,
            f"flake, update: configuration is an input of the base flake, {OWN}, and locked there.",
        ),
    ],
)
def test_an_input_that_is_not_there_cannot_be_updated(value: t.Any, base: str, message: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        read_update(value, read_references(given(base=base)))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("nixos/web.nix", None),
        ("a.nix", None),
        ("", "is empty."),
        ("/etc/x.nix", "'/etc/x.nix' is absolute."),
        ("../x.nix", "'../x.nix' leaves its directory by '..'."),
        ("a/../../x.nix", "'a/../../x.nix' leaves its directory by '..'."),
        ("a//b.nix", "'a//b.nix' has an empty part or '.'."),
        ("./b.nix", "'./b.nix' has an empty part or '.'."),
        ("a\nb.nix", "'a\\nb.nix' has control characters."),
    ],
)
def test_paths_below_a_directory(path: str, seen: str | None) -> None:
    assert next(relative_faults(path), None) == seen


@pytest.mark.parametrize("name", ["k3s-token", "ssh_host_ed25519_key", "a.b", "A1"])
def test_names_of_credentials(name: str) -> None:
    assert not list(credential_faults(name))


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "..", ".a", "a b", "a\n", "%n", "x" * 256])
def test_names_that_no_credential_has(name: str) -> None:
    assert list(credential_faults(name)) == [f"{name!r} is no name of a credential."]


def test_what_is_packed_comes_out_again() -> None:
    value = {"a": [1, None, "ä"], "b": {"c": True}}
    text = pack(value)
    assert text.isascii()
    assert "\n" not in text
    assert unpack(text) == value
    assert pack(dict(reversed(value.items()))) == text


@pytest.mark.parametrize("text", ["", "x", "aGVsbG8=", "ä"])
def test_what_was_never_packed_is_refused(text: str) -> None:
    with pytest.raises(InvalidWish, match=r"^flake: the files did not arrive\. Call microvm\.fleet\.microvm_flake"):
        unpack(text)


def test_files_arrive_as_they_are() -> None:
    files = {"flake.nix": b"{ }\n", "modules/a.bin": bytes(range(256))}
    assert read_files(encoded(files)) == files
    assert read_files(None) == {}


def test_a_file_cannot_leave_the_directory() -> None:
    with pytest.raises(InvalidWish, match=r"'\.\./passwd' leaves its directory"):
        read_files(encoded({"../passwd": b""}))


def test_secrets_have_a_content_or_a_path() -> None:
    packed = pack({"k1": {"token": {"content": "dG9r"}, "key": {"path": "/root/key"}}, "k2": {}})
    assert read_secrets(packed) == {
        "k1": {"token": Secret(content=b"tok"), "key": Secret(path="/root/key")},
        "k2": {},
    }


@pytest.mark.parametrize(
    ("secrets", "message"),
    [
        ({"a/b": {}}, "guest 'a/b', credentials: 'a/b' is no name of a guest."),
        ({"..": {}}, "guest '..', credentials: '..' is no name of a guest."),
        ({"k1": {"../x": {"path": "/x"}}}, "guest k1, credentials: '../x' is no name of a credential."),
    ],
)
def test_secrets_cannot_leave_their_directory(secrets: t.Any, message: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        read_secrets(pack(secrets))
    assert str(caught.value) == message


def test_a_wish_is_complete() -> None:
    files = {"flake.nix": b"{ }"}
    wish = read_wish(given(files=encoded(files), secrets=pack({"k1": {}}), update=["base"]))
    assert wish.references["base"] == NIXPKGS_BASE
    assert wish.update == {"base"}
    assert wish.files == files
    assert wish.secrets == {"k1": {}}


def test_a_wish_without_the_flake_is_none() -> None:
    with pytest.raises(InvalidWish, match="did not arrive"):
        read_wish(given())
