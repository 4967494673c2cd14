# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that acts as NixOS does where that matters to who manages it, made of a Debian tree.

What Debian has in /etc/systemd/{system,network} and their like moves to /usr/local/lib, so that these can be what they
are on NixOS: links through /etc/static into the system in the store. That system is built by Nix from the user's own
flake in /etc/nixos, and ``switch.py`` is what its ``bin/switch-to-configuration`` does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from . import files, machine, net, switch

OWN = "usr/libexec/nixos"
"""Python, the programs of every system (sw), and what switches between systems."""
PYTHON = f"/{OWN}/python3"
SYSTEM_PYTHON = "/run/current-system/sw/bin/python3"
NIXPKGS = "/srv/nixpkgs"
FLAKE = "/etc/nixos"
BOOTED = f"{OWN}/booted"
LOCAL = "usr/local/lib"
PATH = "/run/wrappers/bin:/nix/var/nix/profiles/default/bin:/run/current-system/sw/bin"
BUILD_TIMEOUT = 300.0
ACTIVATE_TIMEOUT = 120.0
# What a NixOS has not; python3 stays, elsewhere.
FOREIGN = (
    "etc/apt", "etc/debian_version", "usr/bin/apt", "usr/bin/apt-get", "usr/bin/dpkg", "usr/bin/dpkg-query",
)  # fmt: skip
OS_RELEASE = """\
ANSI_COLOR="0;38;2;126;186;228"
ID=nixos
NAME=NixOS
PRETTY_NAME="NixOS 25.11 (testbed)"
VERSION="25.11 (testbed)"
VERSION_CODENAME=testbed
VERSION_ID="25.11"
"""
# What the init of NixOS does before it becomes systemd.
STAGE_2_UNIT = f"""\
# The testbed's: what the init of NixOS does before it starts systemd.
[Unit]
DefaultDependencies=no
Before=sysinit.target systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev-early.service
Before=systemd-modules-load.service systemd-sysctl.service systemd-networkd.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/mkdir -p /run/nixos /run/wrappers/bin
ExecStart=/usr/bin/cp -P --remove-destination /{BOOTED} /run/booted-system
ExecStart=/usr/bin/cp -P --remove-destination /{BOOTED} /run/current-system
ExecStart=/usr/bin/mount --bind /nix/store /nix/store
ExecStart=/usr/bin/mount -o remount,bind,ro /nix/store
"""
SSHD = f"""\
# The testbed's: NixOS finds its programs nowhere else.
SetEnv PATH={PATH}
"""
BUILDER = f"""\
#!/bin/sh
# The testbed's: for packages that lead here, and for builders of Nix; a NixOS has no such program.
case $0:$(id -u) in
  /nix/store/*) ;;
  *:0) echo "$0: is not there on NixOS; use {SYSTEM_PYTHON}" >&2; exit 127 ;;
esac
exec {PYTHON} "$@"
"""
IN_TREE = """\
mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"
"""


def flake(name: str) -> str:
    """The flake of the user, as one who keeps their own has it."""
    return f"""\
{{
  inputs.nixpkgs.url = "path:{NIXPKGS}";

  outputs =
    {{ nixpkgs, ... }}:
    {{
      nixosConfigurations.{json.dumps(name)} = nixpkgs.lib.nixosSystem {{
        system = "x86_64-linux";
        modules = [
          ./configuration.nix
          ./hardware-configuration.nix
        ];
      }};
    }};
}}
"""


def configuration(name: str) -> str:
    """The user's configuration."""
    return f"""\
{{
  networking.hostName = {json.dumps(name)};
  networking.useNetworkd = true;
  system.stateVersion = "25.11";
}}
"""


def hardware(subnet: net.Subnet, number: int) -> str:
    """What the user's configuration says of this host alone: its uplink, and where its programs come from."""
    addresses = f'"{subnet.host_ipv4(number)}/24" "{subnet.host_ipv6(number)}/64"'
    return f"""\
{{ pkgs, ... }}:
{{
  environment.systemPackages = [
    (pkgs.runCommand "programs" {{ }} "mkdir $out && ln -s /{OWN}/sw/bin $out/bin")
  ];
  systemd.network.networks."10-uplink" = {{
    matchConfig.Name = "host0";
    address = [ {addresses} ];
    gateway = [ "{subnet.controller_ipv4}" "{subnet.controller_ipv6}" ];
    networkConfig.IPv6AcceptRA = false;
  }};
}}
"""


def inside(root: Path, argv: list[str], *, timeout: float) -> str:
    """Run a program in the tree of a host that is not booted; it ends with this process."""
    clean = ["env", "-i", f"PATH=/{OWN}/sw/bin", "HOME=/root", "LANG=C.UTF-8"]
    enter = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    return machine.run([*clean[:2], "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *enter, "sh", "-c", IN_TREE, str(root),
                        "/usr/bin/env", *clean[1:], *argv], timeout=timeout)  # fmt: skip


def move(source: Path, target: Path) -> None:
    """Move what is in a directory to another, unless that is done already."""
    if source.is_symlink() or not source.is_dir():
        return
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        if entry.is_dir() and not entry.is_symlink() and (target / entry.name).is_dir():
            move(entry, target / entry.name)
        else:
            shutil.move(entry, target / entry.name)
    source.rmdir()


def programs(root: Path) -> Iterator[tuple[str, str]]:
    """Name and path of each program of the tree, as it is found on its own PATH."""
    found = {"python3": PYTHON}
    for directory in ("usr/bin", "usr/sbin"):
        for entry in sorted((root / directory).iterdir()):
            found.setdefault(entry.name, f"/{directory}/{entry.name}")
    yield from sorted(found.items())


def disguise(root: Path) -> None:
    """Make a Debian tree look as NixOS does; may be done again after it was cut short."""
    own = root / OWN
    own.mkdir(parents=True, exist_ok=True)
    for path in (root / "usr/bin").glob("python3*"):
        if path.is_symlink():
            path.unlink()
        elif not (own / "python3").exists():
            path.rename(own / "python3")
    files.write_atomic(root / "usr/bin/python3", BUILDER, 0o755)
    for name in FOREIGN:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (own / "sw/bin").mkdir(parents=True, exist_ok=True)
    for name, target in programs(root):
        switch.link(own / "sw/bin" / name, target)
    shutil.copyfile(Path(switch.__file__), own / "switch.py")
    for part in ("systemd/system", "systemd/network", "tmpfiles.d", "sysctl.d", "modules-load.d"):
        move(root / "etc" / part, root / LOCAL / part)
    files.write_atomic(root / LOCAL / "systemd/system/nixos-stage-2.service", STAGE_2_UNIT)
    wants = root / LOCAL / "systemd/system/sysinit.target.wants"
    wants.mkdir(exist_ok=True)
    switch.link(wants / "nixos-stage-2.service", "../nixos-stage-2.service")
    switch.link(root / "etc/os-release", "/usr/lib/os-release")
    files.write_atomic(root / "usr/lib/os-release", OS_RELEASE)
    files.write_atomic(root / "etc/NIXOS", "")
    files.write_atomic(root / "etc/ssh/sshd_config.d/nixos.conf", SSHD)


def provision(root: Path, name: str, subnet: net.Subnet, nixpkgs: Path) -> None:
    """Make the tree a NixOS of the name, with its first system built and to be booted."""
    number = int(name.rpartition("-")[2])
    disguise(root)
    files.remove_tree(root / NIXPKGS.lstrip("/"))
    shutil.copytree(nixpkgs, root / NIXPKGS.lstrip("/"))
    own = root / FLAKE.lstrip("/")
    own.mkdir(exist_ok=True)
    files.write_atomic(own / "configuration.nix", configuration(name))
    files.write_atomic(own / "hardware-configuration.nix", hardware(subnet, number))
    files.write_atomic(own / "flake.nix", flake(name))
    if "kvm:" not in (root / "etc/group").read_text():
        inside(root, ["groupadd", "--system", "kvm"], timeout=30)
    profile = f"/{switch.PROFILES}/system"
    attribute = f'path:{FLAKE}#nixosConfigurations."{name}".config.system.build.toplevel'
    inside(root, ["nix", "build", "--no-link", "--profile", profile, attribute], timeout=BUILD_TIMEOUT)
    system = inside(root, ["readlink", "-f", profile], timeout=30).strip()
    inside(root, [PYTHON, f"/{OWN}/switch.py", "--first", system], timeout=ACTIVATE_TIMEOUT)


def activate(root: Path) -> None:
    """Do for the boot that comes what a boot loader and the init of NixOS do: choose a system, and activate it."""
    system = switch.boot_default(root)
    switch.link(root / BOOTED, system)
    inside(root, [PYTHON, f"/{OWN}/switch.py", "--boot", str(system)], timeout=ACTIVATE_TIMEOUT)
