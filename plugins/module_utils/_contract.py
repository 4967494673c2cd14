# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a runner says of itself: the package that microvm.nix builds for a guest.

Private to the collection: it may change at any time.

Facts from microvm.nix: ``lib/runner.nix`` (names and files), ``lib/volumes.nix`` (how a volume is made),
``nixos-modules/microvm/interfaces.nix`` (tap-up), ``nixos-modules/host/default.nix`` (what makes a runner too old).
"""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._files import read_link, read_text
from ansible_collections.microvm.fleet.plugins.module_utils._paths import STORE, Paths

# nix32 has no e, o, t, u (Nix manual, "Store Path"); names as in libstore's path checks.
STORE_PATH: t.Final = re.compile(r"/nix/store/[0-9a-df-np-sv-z]{32}-[0-9A-Za-z+._?=-]{1,211}")

HYPERVISORS: t.Final = (
    "qemu",
    "cloud-hypervisor",
    "firecracker",
    "crosvm",
    "kvmtool",
    "stratovirt",
    "alioth",
    "vfkit",
)

# What is no data among the files of a state directory (docs/architecture.md): removed even where volumes are kept.
NO_DATA: t.Final = frozenset(
    ("current", "booted", "old", "new", "flake", "toplevel", "supervisord.log", "supervisord.pid")
)

_NAME = re.compile(r"microvm-(" + "|".join(HYPERVISORS) + r")-(.+)")
# The line with which microvm-run begins to make a volume that is missing, and the one that gives it its size in MiB.
_VOLUME = re.compile(r"^\s*if \[ ! -e '?([^'\n]+?)'? \]; then$", re.MULTILINE)
_SIZE = re.compile(r"^\s*truncate -s (\d+)M '?([^'\n]+?)'?$", re.MULTILINE)
_TOPLEVEL = re.compile(r"init=(/nix/store/[^ /\"']+)/init")
# Files by which host modules before 2024 learnt what today a script in bin does.
_SCRIPT_OF = {"tap-interfaces": "tap-up", "macvtap-interfaces": "macvtap-up", "pci-devices": "pci-setup"}


@dataclass(frozen=True)
class Interface:
    """A network interface of a guest.  *mac* is None where nothing on the host tells it."""

    id: str
    type: str
    mac: str | None = None
    link: str | None = None
    mode: str | None = None

    def as_dict(self) -> dict[str, t.Any]:
        """For results and records."""
        return {"id": self.id, "type": self.type, "mac": self.mac, "link": self.link, "mode": self.mode}


@dataclass(frozen=True)
class Volume:
    """A disk of a guest.  *image* is relative to the state directory or absolute, *size* in MiB if known.

    *label* and *mkfs_extra_args* are what its filesystem is made with.
    """

    image: str
    size: int | None = None
    mount_point: str | None = None
    fs_type: str | None = None
    read_only: bool = False
    auto_create: bool = True
    label: str | None = None
    mkfs_extra_args: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, t.Any]:
        """For results and records."""
        return {
            "image": self.image,
            "size": self.size,
            "mount_point": self.mount_point,
            "fs_type": self.fs_type,
            "read_only": self.read_only,
            "auto_create": self.auto_create,
            "label": self.label,
            "mkfs_extra_args": list(self.mkfs_extra_args),
        }


@dataclass(frozen=True)
class Runner:
    """What is known of one runner, by reading its files or by evaluation.

    *mem* is in MiB.  *kernel*, *initrd* and *toplevel* are paths in the store; *kernel_params* are words with blanks
    between, but for the one that names the toplevel.  None is what nobody has said: only an evaluation knows the
    hardware and the kernel, and records that are older than a fact lack it.
    """

    path: str
    hypervisor: str | None = None
    host_name: str | None = None
    toplevel: str | None = None
    kernel: str | None = None
    initrd: str | None = None
    kernel_params: str | None = None
    mem: int | None = None
    vcpu: int | None = None
    interfaces: tuple[Interface, ...] = ()
    volumes: tuple[Volume, ...] = ()
    vsock_cid: int | None = None
    can_shutdown: bool | None = None
    missing: bool = False
    runs: bool = True
    old_contract: bool = False

    def as_dict(self) -> dict[str, t.Any]:
        """The facts for a record; the inverse is `runner_of_dict`."""
        return {
            "path": self.path,
            "hypervisor": self.hypervisor,
            "host_name": self.host_name,
            "toplevel": self.toplevel,
            "kernel": self.kernel,
            "initrd": self.initrd,
            "kernel_params": self.kernel_params,
            "mem": self.mem,
            "vcpu": self.vcpu,
            "interfaces": [interface.as_dict() for interface in self.interfaces],
            "volumes": [volume.as_dict() for volume in self.volumes],
            "vsock_cid": self.vsock_cid,
            "can_shutdown": self.can_shutdown,
        }


def runner_of_dict(facts: t.Mapping[str, t.Any]) -> Runner:
    """A runner from the facts of a record or of an evaluation (the shape of `Runner.as_dict`)."""
    return Runner(
        path=facts["path"],
        hypervisor=facts.get("hypervisor"),
        host_name=facts.get("host_name"),
        toplevel=facts.get("toplevel"),
        kernel=facts.get("kernel"),
        initrd=facts.get("initrd"),
        kernel_params=facts.get("kernel_params"),
        mem=facts.get("mem"),
        vcpu=facts.get("vcpu"),
        interfaces=tuple(
            Interface(
                id=entry["id"],
                type=entry["type"],
                mac=_lower(entry.get("mac")),
                link=entry.get("link"),
                mode=entry.get("mode"),
            )
            for entry in facts.get("interfaces", ())
        ),
        volumes=tuple(
            Volume(
                image=entry["image"],
                size=entry.get("size"),
                mount_point=entry.get("mount_point"),
                fs_type=entry.get("fs_type"),
                read_only=entry.get("read_only", False),
                auto_create=entry.get("auto_create", True),
                label=entry.get("label"),
                mkfs_extra_args=tuple(entry.get("mkfs_extra_args") or ()),
            )
            for entry in facts.get("volumes", ())
        ),
        vsock_cid=facts.get("vsock_cid"),
        can_shutdown=facts.get("can_shutdown"),
    )


def _lower(mac: str | None) -> str | None:
    return mac.lower() if mac else None


def is_store_path(path: str) -> bool:
    """Whether *path* is the path of a store object, not of something within it."""
    return STORE_PATH.fullmatch(path) is not None


def read_runner(paths: Paths, path: str) -> Runner:
    """Read the runner at store path *path* without evaluating or running anything.

    A path that is not in the store any more gives a runner with *missing* set; one that has no
    ``bin/microvm-run`` has *runs* unset.  The MAC of a tap is not in the package, so it is None.
    """
    there = paths.store(path)
    known = _known.get(there)
    if known is not None and os.path.lexists(there):
        return known
    runner = _read_runner(there, path)
    if runner.runs:
        # What is in the store never changes.
        _known[there] = runner
    return runner


# Runners that this process has read, by where they are: a run observes a host more than once.
_known: dict[str, Runner] = {}


def _read_runner(there: str, path: str) -> Runner:
    name = _NAME.match(os.path.basename(path)[33:])
    hypervisor, host_name = name.groups() if name else (None, None)
    try:
        scripts = frozenset(os.listdir(os.path.join(there, "bin")))
    except (FileNotFoundError, NotADirectoryError):
        return Runner(
            path=path, hypervisor=hypervisor, host_name=host_name, missing=not os.path.lexists(there), runs=False
        )
    share = os.path.join(there, "share", "microvm")
    try:
        files = frozenset(os.listdir(share))
    except (FileNotFoundError, NotADirectoryError):
        files = frozenset()

    def said(file: str) -> str:
        return (read_text(os.path.join(share, file)) or "") if file in files else ""

    script = (read_text(os.path.join(there, "bin", "microvm-run")) or "") if "microvm-run" in scripts else ""
    toplevel = read_link(os.path.join(share, "system")) if "system" in files else None
    if toplevel is None:
        found = _TOPLEVEL.search(script)
        toplevel = found.group(1) if found else None
    cid = said("vsock-cid").strip()
    old = any(file in files and _SCRIPT_OF[file] not in scripts and said(file).strip() for file in _SCRIPT_OF)
    return Runner(
        path=path,
        hypervisor=said("hypervisor").strip() or hypervisor,
        host_name=host_name,
        toplevel=toplevel,
        interfaces=(*_taps(said("tap-interfaces")), *_macvtaps(said("macvtap-interfaces"))),
        volumes=volumes_of_script(script),
        vsock_cid=int(cid) if cid.isdigit() else None,
        can_shutdown="microvm-shutdown" in scripts,
        runs="microvm-run" in scripts,
        old_contract=old or ("virtiofs" in files and "virtiofsd-run" not in scripts),
    )


def volumes_of_script(script: str) -> tuple[Volume, ...]:
    """The volumes that the text of ``microvm-run`` makes when they are missing, in its order."""
    sizes = {image: int(size) for size, image in _SIZE.findall(script)}
    return tuple(Volume(image=image, size=sizes.get(image)) for image in _VOLUME.findall(script))


def _taps(text: str) -> t.Iterator[Interface]:
    for line in text.splitlines():
        if line.strip():
            yield Interface(id=line.strip(), type="tap")


def _macvtaps(text: str) -> t.Iterator[Interface]:
    """Lines of ``ID MAC PARENT MODE``."""
    for line in text.splitlines():
        words = line.split()
        if len(words) == 4:
            yield Interface(id=words[0], type="macvtap", mac=words[1].lower(), link=words[2], mode=words[3])


def in_store(path: str | None) -> bool:
    """Whether *path* lies in the store."""
    return path is not None and path.startswith(STORE + "/")
