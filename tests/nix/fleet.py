# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The static flake with data beside it, evaluated by Nix with the stand-ins: no store, no daemon, no network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
STATIC = HERE.parents[1] / "roles" / "flake" / "files" / "microvm-fleet"
TIMEOUT = 300.0
NIX = ("nix-instantiate", "--store", "dummy://", "--eval", "--strict", "--json")
# A base flake without a host, and one with the host `tower`; both as functions of the inputs.
PLAIN = "null"


class NixError(Exception):
    """Nix refused; the text is what it said, without the trace."""


def lay(
    directory: Path,
    *,
    guests: Mapping[str, Any] | None = None,
    host: Mapping[str, Any] | None = None,
    networks: Mapping[str, Any] | None = None,
    modules: Mapping[str, str] | None = None,
) -> Path:
    """Put the static flake and its data into *directory*; *guests* are entries by name, *modules* texts by path."""
    place = directory / "microvm-fleet"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(STATIC, place)
    if guests is not None:
        document = {"version": 1, "system": "x86_64-linux", "guests": guests}
        (place / "guests.json").write_text(json.dumps(document), encoding="utf-8")
    for name, data in (("host", host), ("networks", networks)):
        if data is not None:
            (place / f"{name}.json").write_text(json.dumps({"version": 1, **data}), encoding="utf-8")
    for name, text in (modules or {}).items():
        path = place / "modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return place


def nix(expression: str) -> Any:
    """The value of *expression*.  Raises NixError."""
    # As on a machine that never had Nix: no configuration, no channels.
    environment = {**os.environ, "NIX_CONF_DIR": os.devnull, "NIX_PATH": "", "NIX_REMOTE": ""}
    done = subprocess.run(
        [*NIX, "--expr", expression],
        capture_output=True,
        check=False,
        encoding="utf-8",
        env=environment,
        timeout=TIMEOUT,
    )
    if done.returncode:
        message = re.sub(r"\n?\(use '--show-trace'.*", "", done.stderr, flags=re.DOTALL)
        raise NixError(message.strip())
    return json.loads(done.stdout)


def evaluate(place: Path, what: str, base: str = PLAIN) -> Any:
    """The value of *what*, an expression in which `fleet` is the static flake in *place*, and `lib` that of nixpkgs."""
    return nix(
        f"let flakes = import {HERE}/flakes.nix {{ directory = {place}; base = {base}; }};"
        f" inherit (flakes) fleet nixpkgs microvm; inherit (nixpkgs) lib; in {what}"
    )


def runner(name: str) -> str:
    """The expression for the runner of a guest; to evaluate it is to check the guest."""
    return f"fleet.nixosConfigurations.{json.dumps(name)}.config.microvm.declaredRunner.outPath"


def string(text: str) -> str:
    """*text* as a string of Nix."""
    return json.dumps(text).replace("$", "\\$")
