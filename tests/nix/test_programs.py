# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The programs of tests/nix, as somebody calls them by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.tests.nix import test_guests
from ansible_collections.microvm.fleet.tests.nix.fleet import HERE

VARIABLES = ("MICROVM_NIX", "NIXPKGS", "NIXPKGS_LIB", "NIXOS_MODULES")


def call(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    return subprocess.run(
        argv, capture_output=True, check=False, encoding="utf-8", env={**clean, **environment}, timeout=120
    )


def test_real_says_what_it_lacks_and_is_content(tmp_path: Path) -> None:
    done = call(str(HERE / "real"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("skipped: no copy of microvm.nix was given")
    done = call(str(HERE / "real"), MICROVM_NIX=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("skipped: no copy of nixpkgs or of its lib was given")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--microvm"], "real: --microvm needs a path"),
        (["--microvm", "{}", "--lib", "{}"], "real: --microvm: there is no nixos-modules/microvm/options.nix in {}"),
        (["--all"], "Usage: tests/nix/real"),
    ],
)
def test_real_refuses_what_cannot_be(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = call(str(HERE / "real"), *(argument.format(tmp_path) for argument in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert words.format(tmp_path) in done.stderr


def test_real_says_how_it_is_called() -> None:
    done = call(str(HERE / "real"), "--help")
    assert done.returncode == 0
    assert [name for name in VARIABLES if name not in done.stdout] == []


def test_evaluate_shows_runners_and_errors_by_name(tmp_path: Path) -> None:
    good = test_guests.described(test_guests.PLAIN_WISH)["plain"]
    guests = {"good": good, "bad": {**good, "modules": ["nope.nix"]}}
    document = tmp_path / "guests.json"
    document.write_text(json.dumps({"version": 1, "system": "x86_64-linux", "guests": guests}), encoding="utf-8")
    done = call(sys.executable, str(HERE / "evaluate"), str(document))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("bad: error: guest bad, modules: nope.nix is not in /etc/microvm-fleet/modules. ")
    assert [line for line in lines if line.startswith("good: /nix/store/") and line.endswith("cloud-hypervisor-plain")]


def test_evaluate_shows_what_is_asked_for(tmp_path: Path) -> None:
    guests = test_guests.described(test_guests.PLAIN_WISH)
    document = tmp_path / "guests.json"
    document.write_text(json.dumps({"version": 1, "system": "x86_64-linux", "guests": guests}), encoding="utf-8")
    done = call(sys.executable, str(HERE / "evaluate"), str(document), "--show", "config.microvm.mem")
    assert (done.returncode, done.stdout) == (0, "plain: 512\n")
