# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options of microvm.nix that a described guest may set by name, with their types.

Private to the collection: it may change at any time.

Names and types are those of microvm.nix (``nixos-modules/microvm/options.nix``).  Options that hold packages or code
are not among them, nor those whose words reach a shell as they are (``lib/runners/*.nix``,
``nixos-modules/microvm/virtiofsd``), nor those that a wish says in another way.
"""

from __future__ import annotations

import difflib
import re
import typing as t

PREFIX: t.Final = "microvm."

# Option to its type, in words of the option lists that NixOS prints.
OPTIONS: t.Final[t.Mapping[str, str]] = {
    "microvm.balloon": "boolean",
    "microvm.cloud-hypervisor.extraArgs": "list of string",
    "microvm.cpu": "null or string",
    "microvm.crosvm.extraArgs": "list of string",
    "microvm.deflateOnOOM": "boolean",
    "microvm.devices": "list of (submodule)",
    "microvm.firecracker.driveIoEngine": 'one of "Async", "Sync"',
    "microvm.firecracker.extraArgs": "list of string",
    "microvm.graphics.backend": 'one of "gtk", "cocoa", "headless"',
    "microvm.graphics.enable": "boolean",
    "microvm.graphics.hostmem": "string",
    "microvm.graphics.vulkan": 'null or one of "venus", "drm_native_context"',
    "microvm.hotplugMem": "unsigned integer, meaning >=0",
    "microvm.hotpluggedMem": "unsigned integer, meaning >=0",
    "microvm.hugepageMem": "boolean",
    "microvm.initialBalloonMem": "unsigned integer, meaning >=0",
    "microvm.kernelParams": "list of string",
    "microvm.machineId": "null or string",
    "microvm.optimize.enable": "boolean",
    "microvm.prettyProcnames": "boolean",
    "microvm.qemu.extraArgs": "list of string",
    "microvm.qemu.machine": "string",
    "microvm.qemu.machineOpts": "null or (attribute set of string)",
    "microvm.qemu.serialConsole": "boolean",
    "microvm.registerClosure": "boolean",
    "microvm.registerWithMachined": "boolean",
    "microvm.storeDiskType": 'one of "squashfs", "erofs"',
    "microvm.systemSymlink": "boolean",
    "microvm.user": "null or string",
    "microvm.virtiofsd.inodeFileHandles": 'null or one of "never", "prefer", "mandatory"',
    "microvm.writableStoreOverlay": "null or string",
}

# The path of a device, by its bus: PCI addresses as in /sys/bus/pci/devices, USB devices as qemu names them.
DEVICES: t.Final[t.Mapping[str, tuple[str, str]]] = {
    "pci": (r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", "0000:06:00.1"),
    "usb": (r"[a-z]+=(0x)?[0-9a-f]+(,[a-z]+=(0x)?[0-9a-f]+)*", "vendorid=0x0451,productid=0x16a8"),
}

# Options that a wish says in words of its own.
ELSEWHERE: t.Final[t.Mapping[str, str]] = {
    "microvm.credentialFiles": "credentials",
    "microvm.forwardPorts": "forward_ports",
    "microvm.hypervisor": "hypervisor",
    "microvm.interfaces": "interfaces",
    "microvm.mem": "mem",
    "microvm.shares": "shares",
    "microvm.storeOnDisk": "store",
    "microvm.vcpu": "vcpu",
    "microvm.volumes": "volumes",
    "microvm.vsock.cid": "vsock_cid",
}


class Fault(t.NamedTuple):
    """What is wrong with an option: its name in the wish, what was seen, what to do."""

    option: str
    seen: str
    hint: str


def full(name: str) -> str:
    """The full name of an option, whether or not it was given with its first word."""
    return name if name.startswith(PREFIX) else PREFIX + name


def faults(options: t.Mapping[str, t.Any]) -> t.Iterator[Fault]:
    """What is wrong with *options*, by their full names."""
    for name, value in options.items():
        if name in ELSEWHERE:
            yield Fault(name, "is said in another way here.", f"Use {ELSEWHERE[name]}.")
        elif name not in OPTIONS:
            yield Fault(name, "is no option that a description can set.", _others(name))
        elif name == "microvm.devices":
            yield from _devices(name, value)
        elif not fits(value, OPTIONS[name]):
            yield Fault(name, f"{value!r} is of another type.", f"Give: {OPTIONS[name]}.")


def _devices(name: str, value: t.Any) -> t.Iterator[Fault]:
    if not isinstance(value, list):
        yield Fault(name, f"{value!r} is no list.", "Give a list of devices, each with bus and path.")
        return
    for place, device in enumerate(value):
        where = f"{name}[{place}]"
        if not isinstance(device, t.Mapping) or set(device) != {"bus", "path"}:
            yield Fault(where, f"{device!r} is no device.", "Give bus and path, and nothing else.")
        elif device["bus"] not in DEVICES:
            yield Fault(f"{where}.bus", f"{device['bus']!r} is no bus of devices.", "Give pci or usb.")
        else:
            form, example = DEVICES[device["bus"]]
            if not isinstance(device["path"], str) or re.fullmatch(form, device["path"]) is None:
                yield Fault(f"{where}.path", f"{device['path']!r} is no such device.", f"Give it as {example}.")


def fits(value: t.Any, kind: str) -> bool:
    """Whether *value* is of the type *kind*, one of those that `OPTIONS` names."""
    if kind.startswith("null or "):
        return value is None or fits(value, kind[len("null or ") :])
    if kind.startswith("one of "):
        return value in re.findall(r'"([^"]*)"', kind)
    return _KINDS[kind](value)


def _is_count(value: t.Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_KINDS: t.Final[t.Mapping[str, t.Callable[[t.Any], bool]]] = {
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "unsigned integer, meaning >=0": _is_count,
    "list of string": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "(attribute set of string)": lambda value: (
        isinstance(value, t.Mapping) and all(isinstance(one, str) for one in value.values())
    ),
}


def _others(name: str) -> str:
    """Options whose names resemble *name*, or all of them."""
    known = [option[len(PREFIX) :] for option in OPTIONS]
    near = difflib.get_close_matches(name[len(PREFIX) :], known, cutoff=0.7)
    return f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(known)}."
