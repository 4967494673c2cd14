# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Nix says of a host's system, and what an operator is told of it."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError, FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._system_plan import Wished
from ansible_collections.microvm.fleet.plugins.module_utils._system_source import difference, evaluate
from ansible_collections.microvm.fleet.plugins.module_utils._system_wish import SystemWish
from ansible_collections.microvm.fleet.tests.unit.support.fakesystem import NAME, FakeSystem, System

FLAKE = "path:/etc/microvm-fleet"
LOCK = {
    "nodes": {
        "base": {"locked": {"type": "path", "path": "/etc/nixos", "narHash": "sha256-AAAA"}},
        "root": {"inputs": {"base": "base"}},
    },
    "root": "root",
    "version": 7,
}
CHANGED = "error: NAR hash mismatch in input 'path:/etc/nixos?narHash=sha256-AAAA', expected 'a', got 'b'\n"


@pytest.fixture
def host(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


def ask(host: FakeSystem, *, keep: bool = True, **wish: t.Any) -> Wished:
    return evaluate(host.paths, host, SystemWish(**{"name": NAME, **wish}), timeout=60, keep=keep)


@pytest.mark.parametrize("keep", [True, False])
def test_the_system_of_a_flake(host: FakeSystem, *, keep: bool) -> None:
    system = host.wish(System(2))
    assert ask(host, keep=keep) == Wished(path=system.path, derivation=system.derivation)
    (call,) = (argv for argv in host.calls if "eval" in argv)
    assert ("--read-only" in call) is not keep
    # The name is data for Nix, whatever it holds, and the flake is locked to what was read.
    assert call[call.index("name") - 1 : call.index("name") + 2] == ("--argstr", "name", NAME)
    assert "narHash=" in call[call.index("flake") + 1]


def test_a_flake_without_that_host(host: FakeSystem) -> None:
    with pytest.raises(
        CommandError, match=r"system h9, name: path:.* has no nixosConfigurations.h9; it has host1. Give"
    ):
        ask(host, name="h9")
    for number in range(12):
        host.wish(System(1), f"m{number:02}")
    with pytest.raises(CommandError, match=r"it has host1, m00, .*, m08 and 3 more"):
        ask(host, name="h9")
    host.wished.clear()
    with pytest.raises(CommandError, match="it has none at all"):
        ask(host)


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        (
            "error: undefined variable 'x'\n\n       at /nix/store/a-source/configuration.nix:3:5:\n",
            "undefined variable",
        ),
        ("error: attribute 'toplevel' missing\n", "attribute 'toplevel' missing"),
    ],
)
def test_a_system_that_does_not_evaluate(host: FakeSystem, stderr: str, said: str) -> None:
    host.broken["nix --extra-experimental-features nix-command flakes eval"] = (1, "", stderr)
    with pytest.raises(
        CommandError, match=f"^system {NAME}, flake: nixosConfigurations.{NAME} of {FLAKE} does"
    ) as caught:
        ask(host)
    assert said in str(caught.value)
    assert ("configuration.nix:3:5" in str(caught.value)) == ("configuration.nix:3:5" in stderr)


def test_a_flake_that_cannot_be_read(host: FakeSystem) -> None:
    host.broken["flake metadata"] = (
        1,
        "",
        "error: getting status of '/etc/microvm-fleet': No such file or directory\n",
    )
    with pytest.raises(
        CommandError, match=rf"^system {NAME}, flake: {FLAKE} cannot be read as a flake: .*No such file"
    ):
        ask(host)


@pytest.mark.parametrize("text", [json.dumps(LOCK), "{", None])
def test_an_input_that_has_changed(host: FakeSystem, text: str | None) -> None:
    if text is not None:
        (host.root / "etc/microvm-fleet").mkdir()
        (host.root / "etc/microvm-fleet/flake.lock").write_text(text, encoding="utf-8")
    host.broken["eval"] = (1, "", CHANGED)
    with pytest.raises(FleetError, match="the content of /etc/nixos is not what it was when it was locked") as caught:
        ask(host)
    assert (caught.value.field == "base") == (text == json.dumps(LOCK))
    assert ("Name base in microvm_flake_update" in str(caught.value)) == (text == json.dumps(LOCK))


def test_closures(host: FakeSystem) -> None:
    assert difference(host, "/nix/store/a", "/nix/store/b") == "linux: 6.12 → 6.13\n"
    assert host.calls[-1][-3:] == ("diff-closures", "/nix/store/a", "/nix/store/b")
    host.broken["diff-closures"] = (1, "", "error: 'diff-closures' is not a recognised command")
    assert difference(host, "/nix/store/a", "/nix/store/b") == ""
