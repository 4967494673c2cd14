# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tree that is made to look as NixOS does."""

from __future__ import annotations

from pathlib import Path

import pytest

from microvm_testbed import net, nixos, supervisor, switch


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A little Debian."""
    for name, text in {
        "usr/bin/python3.13": "python",
        "usr/bin/nix": "nix",
        "usr/bin/apt": "apt",
        "usr/sbin/nft": "nft",
        "usr/lib/os-release": "ID=debian\n",
        "etc/debian_version": "13\n",
        "etc/apt/sources.list": "",
        "etc/ssh/sshd_config": "",
        "etc/systemd/system/multi-user.target.wants/ssh.service": "",
        "etc/systemd/network/80-container-host0.network": "",
        "etc/systemd/system.conf": "",
        "etc/tmpfiles.d/testbed-dev.conf": "c",
        "usr/local/lib/.keep": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "usr/bin/python3").symlink_to("python3.13")
    (tmp_path / "etc/os-release").symlink_to("../usr/lib/os-release")
    (tmp_path / "etc/ssh/sshd_config.d").mkdir()
    return tmp_path


def listing(root: Path) -> dict[str, str]:
    """What is where: links by their target."""
    return {
        str(path.relative_to(root)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_a_tree_looks_as_nixos_does(root: Path) -> None:
    nixos.disguise(root)
    seen = listing(root)
    assert not [name for name in seen if name.startswith(("usr/bin/python3.", "usr/bin/apt", "etc/apt", "etc/debian"))]
    assert not (root / "etc/systemd/system").exists()
    assert not (root / "etc/systemd/network").exists()
    assert "etc/systemd/system.conf" in seen
    assert "usr/local/lib/systemd/system/multi-user.target.wants/ssh.service" in seen
    assert "usr/local/lib/systemd/network/80-container-host0.network" in seen
    assert seen["usr/local/lib/tmpfiles.d/testbed-dev.conf"] == "c"
    assert "ID=nixos\n" in (root / "usr/lib/os-release").read_text()
    assert (root / "etc/NIXOS").exists()
    programs = {name.rpartition("/")[2]: seen[name] for name in seen if name.startswith("usr/libexec/nixos/sw/bin/")}
    assert programs == {"nix": "/usr/bin/nix", "nft": "/usr/sbin/nft", "python3": "/usr/libexec/nixos/python3"}
    assert seen["usr/libexec/nixos/python3"] == "python"
    assert "is not there on NixOS" in seen["usr/bin/python3"]
    assert seen["usr/libexec/nixos/switch.py"] == Path(switch.__file__).read_text()


def test_it_may_be_cut_short_and_done_again(root: Path) -> None:
    nixos.disguise(root)
    once = listing(root)
    (root / "etc/systemd/system").mkdir()
    (root / "etc/systemd/system/ssh.service").write_text("left")
    nixos.disguise(root)
    assert listing(root) == {**once, "usr/local/lib/systemd/system/ssh.service": "left"}


def test_a_link_into_the_system_is_not_moved(root: Path) -> None:
    nixos.disguise(root)
    (root / "etc/systemd/system").symlink_to("/etc/static/systemd/system")
    nixos.disguise(root)
    assert (root / "etc/systemd/system").readlink() == Path("/etc/static/systemd/system")


def test_the_user_has_a_flake_of_their_own() -> None:
    text = nixos.flake("lab-1")
    assert 'inputs.nixpkgs.url = "path:/srv/nixpkgs";' in text
    assert 'nixosConfigurations."lab-1" = nixpkgs.lib.nixosSystem {' in text
    assert 'networking.hostName = "lab-1";' in nixos.configuration("lab-1")
    text = nixos.hardware(net.Subnet(7), 1)
    assert 'address = [ "10.231.7.11/24" "fd4d:564d:6674:7::b/64" ];' in text
    assert 'gateway = [ "10.231.7.1" "fd4d:564d:6674:7::1" ];' in text


def test_a_boot_starts_what_the_loader_says(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / switch.PROFILES).mkdir(parents=True)
    (root / switch.PROFILES / "system-3-link").symlink_to("/nix/store/x-system")
    switch.install_boot_loader(Path("/nix/store/x-system"), root)
    (root / nixos.OWN).mkdir(parents=True)
    ran: list[list[str]] = []
    monkeypatch.setattr(nixos, "inside", lambda _root, argv, timeout: ran.append(argv))
    nixos.activate(root)
    assert (root / nixos.BOOTED).readlink() == Path("/nix/store/x-system")
    assert ran == [[nixos.PYTHON, "/usr/libexec/nixos/switch.py", "--boot", "/nix/store/x-system"]]


def test_the_stand_in_is_where_the_testbed_looks() -> None:
    text = (supervisor.NIXPKGS / "switch-to-configuration").read_text()
    assert f'exec {nixos.PYTHON} /{nixos.OWN}/switch.py "$0" "$@"\n' in text
