# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NixOS hosts whose own flake imports parts of what the static flake would add."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.tests.nix.fleet import NixError, evaluate, lay

HOST = {"name": "tower", "autostart": ["web1"]}
WANTS = "fleet.nixosConfigurations.tower.config.systemd.targets.microvms.wants"
WANTED = ["microvm@web1.service"]


def base(modules: str) -> str:
    """The outputs of a user's flake with the host tower, which imports *modules* too."""
    return f"""
      ({{ nixpkgs, microvm }}: {{
        inputs = {{ inherit nixpkgs; }};
        nixosConfigurations.tower = nixpkgs.lib.nixosSystem {{
          system = "x86_64-linux";
          modules = [ {{ networking.hostName = "tower"; }} {modules} ];
        }};
      }})
    """


def place(directory: Path, **host: object) -> Path:
    """A static flake in *directory*, with the description of the host."""
    settings = {"start_timeout": 150, "stop_timeout": 150, "writable_paths": [], "kernel_modules": [], "guests": {}}
    return lay(directory, host={**settings, **HOST, **host})


def test_a_host_that_imports_nothing(tmp_path: Path) -> None:
    assert evaluate(place(tmp_path), WANTS, base("")) == WANTED


def test_the_host_module_of_microvm_nix_is_imported_once(tmp_path: Path) -> None:
    # Another copy, as of another revision.
    module = '({ config, lib, pkgs, ... }@args: import (microvm.outPath + "/host.nix") args)'
    own = base(module + ' { microvm.autostart = [ "mine" ]; }')
    assert sorted(evaluate(place(tmp_path), WANTS, own)) == ["microvm@mine.service", *WANTED]


def test_the_host_part_is_imported_once(tmp_path: Path) -> None:
    made = place(tmp_path)
    assert evaluate(made, WANTS, base(f"microvm.nixosModules.host {made}/nix/host.nix")) == WANTED


def test_the_host_part_of_another_place_is_refused(tmp_path: Path) -> None:
    made, other = place(tmp_path / "here"), place(tmp_path / "there", autostart=[])
    with pytest.raises(NixError, match=r"imports nix/host.nix from (.|\n)*/there(.|\n)*the name microvm-fleet"):
        evaluate(made, WANTS, base(f"microvm.nixosModules.host {other}/nix/host.nix"))


def test_a_host_part_that_is_imported_and_left_says_nothing(tmp_path: Path) -> None:
    made = place(tmp_path, bare=True)
    modules = f"microvm.nixosModules.host {made}/nix/host.nix"
    assert evaluate(made, WANTS, base(modules)) == []
    etc = "builtins.attrNames fleet.nixosConfigurations.tower.config.environment.etc"
    assert "microvm-fleet-system/host.json" not in evaluate(made, etc, base(modules))
