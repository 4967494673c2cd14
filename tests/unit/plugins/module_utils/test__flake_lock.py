# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lock files and registries as data, and what Nix says about them."""

from __future__ import annotations

import json
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError, FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._flake_lock import (
    Lock,
    changed_input,
    due,
    explain,
    is_stub,
    kept,
    nar_hash,
    read_lock,
    read_registry,
    relocate,
    roots_of,
    words,
    write_registry,
)
from ansible_collections.microvm.fleet.plugins.module_utils._flake_wish import CONFIGURATION_BASE, NIXPKGS_BASE

REVISION = "71beea0076cd46dafcee97a5a2e7d00cbba5bd2f"
HASH = "sha256-sy1E45XWzsiVHAzo/KYfXI2cax//ATC96UVRAUJg62Q="
CONTENT: dict[str, t.Any] = {
    "nodes": {
        "base": {
            "inputs": {"nixpkgs": "nixpkgs"},
            "locked": {"type": "path", "path": "/etc/microvm-fleet/bases/nixpkgs", "narHash": "sha256-base"},
            "original": {"type": "indirect", "id": "microvm-fleet-base"},
        },
        "microvm": {
            "inputs": {"nixpkgs": ["nixpkgs"], "spectrum": "spectrum"},
            "locked": {
                "type": "github",
                "owner": "microvm-nix",
                "repo": "microvm.nix",
                "rev": REVISION,
                "narHash": "x",
            },
        },
        "nixpkgs": {"locked": {"type": "path", "path": "/srv/nixpkgs", "narHash": HASH, "lastModified": 1795438205}},
        "spectrum": {"flake": False, "locked": {"type": "git", "url": "https://git.example.org/s", "rev": "abc"}},
        "root": {"inputs": {"base": "base", "microvm": "microvm", "nixpkgs": ["base", "nixpkgs"]}},
    },
    "root": "root",
    "version": 7,
}
REFERENCES = {"base": NIXPKGS_BASE, "microvm": "github:microvm-nix/microvm.nix", "nixpkgs": "path:/srv/nixpkgs"}
RECORDED = {name: {"reference": reference, "to": {}} for name, reference in REFERENCES.items()}


@pytest.fixture
def lock() -> Lock:
    return read_lock(json.dumps(CONTENT))


def test_a_node_is_found_by_the_names_that_lead_to_it(lock: Lock) -> None:
    nixpkgs = CONTENT["nodes"]["nixpkgs"]
    assert lock.node(("base", "nixpkgs")) == nixpkgs
    assert lock.node(("nixpkgs",)) == nixpkgs
    assert lock.node(("microvm", "nixpkgs")) == nixpkgs
    assert lock.node(("microvm", "none")) is None
    assert lock.node(("none", "nixpkgs")) is None


def test_inputs_that_follow_in_a_ring_lead_nowhere() -> None:
    nodes = {"root": {"inputs": {"a": ["b"], "b": ["a"]}}}
    assert Lock({"nodes": nodes, "root": "root"}).node(("a",)) is None


def test_every_input_is_shown_once_with_what_it_is_locked_at(lock: Lock) -> None:
    assert lock.inputs() == {
        "base": "path:/etc/microvm-fleet/bases/nixpkgs (sha256-base)",
        "base/nixpkgs": f"path:/srv/nixpkgs ({HASH}, of 2026-11-23)",
        "microvm": f"github:microvm-nix/microvm.nix/{REVISION}",
        "microvm/spectrum": "git https://git.example.org/s at abc",
    }


@pytest.mark.parametrize(
    ("locked", "text"),
    [
        ({}, "nothing"),
        (
            {"type": "tarball", "url": "https://example.org/x.tgz", "narHash": "h"},
            "tarball https://example.org/x.tgz (h)",
        ),
        (
            {"type": "gitlab", "owner": "a", "repo": "b", "rev": "c", "lastModified": 1795438205},
            "gitlab:a/b/c (of 2026-11-23)",
        ),
        ({"type": "path", "path": "/x", "narHash": "h", "lastModified": 1}, "path:/x (h)"),
    ],
)
def test_what_is_locked_in_words(locked: dict[str, t.Any], text: str) -> None:
    assert words(locked) == text


def test_an_input_is_left_out_and_the_rest_stays(lock: Lock) -> None:
    content = lock.without({"microvm"})
    assert content["nodes"]["root"]["inputs"] == {"base": "base", "nixpkgs": ["base", "nixpkgs"]}
    assert content["nodes"]["base"] == CONTENT["nodes"]["base"]
    assert "microvm" in lock.inputs()


@pytest.mark.parametrize("text", ["", "hello", "[]", "{}", '{"nodes": {}}', '{"nodes": [], "root": "root"}'])
def test_what_is_no_lock_file_is_said_to_be_none(text: str) -> None:
    with pytest.raises(
        FleetError, match=r"^flake: flake\.lock is no lock file of Nix\. Put it back from a backup, or "
    ):
        read_lock(text)


def test_a_registry_is_read_as_it_is_written() -> None:
    entries: dict[str, dict[str, t.Any]] = {
        "base": {"to": {"type": "path", "path": "/x"}, "reference": "path:/x"},
        "microvm": {"to": {"type": "y"}},
    }
    text = write_registry(entries)
    assert json.loads(text)["version"] == 2
    assert json.loads(text)["flakes"][0] == {
        "from": {"type": "indirect", "id": "microvm-fleet-base"},
        "reference": "path:/x",
        "to": {"type": "path", "path": "/x"},
    }
    assert read_registry(text) == {**entries, "microvm": {"to": {"type": "y"}, "reference": None}}


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"flakes": [1]}', '{"flakes": [{"from": {}}]}'])
def test_a_registry_that_cannot_be_read_has_no_entries(text: str | None) -> None:
    assert read_registry(text) == {}


def test_entries_of_others_are_none_of_ours() -> None:
    text = json.dumps({"flakes": [{"from": {"id": "nixpkgs"}, "to": {"type": "github"}}]})
    assert read_registry(text) == {}


def test_nothing_is_due_when_all_is_as_it_was(lock: Lock) -> None:
    assert due(REFERENCES, (), recorded=RECORDED, lock=lock, base_hash="sha256-base") == {}


def test_everything_is_due_when_nothing_is_locked() -> None:
    found = due(REFERENCES, (), recorded=RECORDED, lock=None, base_hash=None)
    assert found == dict.fromkeys(REFERENCES, "it is not locked yet")


@pytest.mark.parametrize(
    ("references", "update", "recorded", "base_hash", "found"),
    [
        ({"microvm": "path:/m"}, (), {}, None, {"microvm": f"its reference was {REFERENCES['microvm']}"}),
        ({}, ("nixpkgs",), {}, None, {"nixpkgs": "an update is asked for"}),
        ({}, (), {"base": {}}, None, {"base": "nothing is known of its reference"}),
        ({}, (), {}, "sha256-other", {"base": "its files come with the collection and have changed"}),
        ({"configuration": "path:/etc/nixos"}, (), {}, None, {"configuration": "it is not locked yet"}),
    ],
)
def test_what_is_due(
    *,
    lock: Lock,
    references: dict[str, str],
    update: tuple[str, ...],
    recorded: dict[str, t.Any],
    base_hash: str | None,
    found: dict[str, str],
) -> None:
    answer = due(
        {**REFERENCES, **references}, update, recorded={**RECORDED, **recorded}, lock=lock, base_hash=base_hash
    )
    assert answer == found


def test_what_is_below_the_base_takes_the_base_along() -> None:
    assert roots_of(("nixpkgs",)) == {"base"}
    assert roots_of(("configuration", "microvm")) == {"base", "microvm"}


def test_what_stays_is_answered_from_the_lock_file(lock: Lock) -> None:
    assert kept(("nixpkgs", "configuration"), lock) == {"nixpkgs": {"to": CONTENT["nodes"]["nixpkgs"]["locked"]}}
    assert kept(("nixpkgs",), None) == {}


def test_inputs_of_a_copy_are_said_to_be_where_they_belong() -> None:
    copy = json.loads(json.dumps(CONTENT))
    copy["nodes"]["base"]["locked"] = {"type": "path", "path": "/run/copy/bases/nixpkgs", "lastModified": 5}
    moved = json.loads(relocate(json.dumps(copy), "/run/copy", "/etc/microvm-fleet"))
    # Nix 2.8 would insist on the time of files that are installed again.
    assert moved["nodes"]["base"]["locked"] == {"type": "path", "path": "/etc/microvm-fleet/bases/nixpkgs"}
    assert moved["nodes"]["nixpkgs"] == CONTENT["nodes"]["nixpkgs"]


def test_the_hash_of_a_directory_is_that_of_nix() -> None:
    # nix hash path --sri, of Nix 2.8 and 2.26.
    assert nar_hash({"flake.nix": b'{ outputs = { self }: { lib = { marker = "np"; }; }; }\n'}) == HASH


def test_the_order_of_files_is_that_of_their_bytes() -> None:
    files = {"b/c": b"1", "a": b"2", "B": b"", "b/a/x": b"12345678"}
    assert nar_hash(files) == nar_hash(dict(reversed(files.items())))
    assert nar_hash(files) != nar_hash({**files, "b/c": b"2"})
    assert nar_hash(files) != nar_hash({**files, "b/a/x": b"1234567"})


SAID_BY_2_8 = (
    "error: NAR hash mismatch in input 'path:/srv/nixpkgs?lastModified=1795438263&narHash=sha256-sy1E%2fX=' "
    "(/nix/store/f19ywjd6a80djb1g0xl2dpj546svhx1p-source), expected 'sha256-sy1E', got 'sha256-Ykv'\n"
    "(use '--show-trace' to show detailed location information)\n"
)
SAID_BY_2_8_OF_TIMES = (
    "error: 'lastModified' attribute mismatch in input 'path:/srv/nixpkgs?lastModified=1795438264&narHash=sha256-sy', "
    "expected 1795438263\n"
)
SAID_BY_2_26 = (
    "       error: mismatch in field 'narHash' of input "
    '\'{"__final":true,"narHash":"sha256-sy1E","path":"/srv/nixpkgs","type":"path"}\', got '
    '\'{"__final":true,"narHash":"sha256-Ykv","path":"/srv/nixpkgs","type":"path"}\'\n'
)
SAID_BY_2_26_WHEN_LOCKING = (
    "       … while fetching the input 'path:/srv/nixpkgs?narHash=sha256-sy'\n"
    "       error: NAR hash mismatch in input 'path:/srv/nixpkgs?lastModified=1&narHash=sha256-sy1E%3D', expected "
    "'sha256-sy1E=' but got 'sha256-YkvR='\n"
)


@pytest.mark.parametrize("stderr", [SAID_BY_2_8, SAID_BY_2_26, SAID_BY_2_26_WHEN_LOCKING])
def test_a_directory_that_has_changed_is_named_with_its_input(lock: Lock, stderr: str) -> None:
    error = changed_input(stderr, lock)
    assert error is not None
    assert error.field == "nixpkgs"
    assert str(error) == (
        "flake, nixpkgs: the content of /srv/nixpkgs is not what it was when it was locked, and the copy in the store "
        "is gone. Name nixpkgs in microvm_flake_update to take it as it is."
    )


def test_files_with_other_times_are_named_with_their_input(lock: Lock) -> None:
    error = changed_input(SAID_BY_2_8_OF_TIMES, lock)
    assert str(error).startswith(
        "flake, nixpkgs: the times of files in /srv/nixpkgs are not what they were when it was"
    )


def test_an_input_of_an_input_is_updated_with_it() -> None:
    content = json.loads(json.dumps(CONTENT))
    content["nodes"]["spectrum"]["locked"] = {"type": "path", "path": "/srv/nixpkgs"}
    content["nodes"]["nixpkgs"]["locked"]["path"] = "/elsewhere"
    error = changed_input(SAID_BY_2_8, Lock(content))
    assert error is not None
    assert error.field == "input microvm/spectrum"
    assert str(error).endswith("Name microvm in microvm_flake_update to take it as it is.")


def test_without_a_lock_file_the_directory_is_named() -> None:
    assert "the content of /srv/nixpkgs is not" in str(changed_input(SAID_BY_2_26, None))


def test_what_is_no_such_error_is_left_to_others(lock: Lock) -> None:
    assert changed_input("error: attribute 'web1' missing\n", lock) is None


def failed(stderr: str) -> CommandError:
    return CommandError("nix ended with 1", argv=("nix",), rc=1, stderr=stderr)


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        (SAID_BY_2_8, "flake, nixpkgs: the content of /srv/nixpkgs is not what it was"),
        (
            "error: input 'nixpkgs' follows a non-existent input 'base/nixpkgs'\n",
            f"flake, base: the base flake {NIXPKGS_BASE} has no input of the name nixpkgs.",
        ),
        (
            "error: input 'microvm/nixpkgs' follows a non-existent input 'nixpkgs'\n",
            f"flake, base: the base flake {NIXPKGS_BASE} has no input of the name nixpkgs.",
        ),
        (
            "error: cannot find flake 'flake:home' in the flake registries\n",
            "flake: a flake among the inputs asks for home by a name that registries have for it.",
        ),
        (
            "error: getting status of '/srv/nixpkgs': No such file or directory\n",
            "flake, nixpkgs: cannot be locked: getting status of '/srv/nixpkgs': No such file or directory. See that",
        ),
        (
            "… while updating the flake input 'base'\n… while fetching the flake input 'base/nixpkgs'\nerror: no //x\n",
            "flake, nixpkgs: cannot be locked: no //x. See that root on the host may fetch them",
        ),
        (
            "       … while updating the flake input 'base/home'\n       error: no\n",
            "flake, input base/home: cannot be locked: no. See",
        ),
        ("error: out of luck\n", "flake, base, microvm: cannot be locked: out of luck. See"),
    ],
)
def test_what_nix_says_is_said_of_an_input(lock: Lock, stderr: str, message: str) -> None:
    error = explain(failed(stderr), lock, references=REFERENCES, why=("base", "microvm"))
    assert str(error).startswith(message)


def test_the_bases_of_the_collection_are_known() -> None:
    assert is_stub(NIXPKGS_BASE)
    assert is_stub(CONFIGURATION_BASE)
    assert not is_stub("path:/srv/infra")
