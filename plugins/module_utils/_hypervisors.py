# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What hypervisors can do under microvm.nix, as a table, and what of a description one of them cannot.

Private to the collection: it may change at any time.

Facts from microvm.nix: ``lib/runners/*.nix`` (what is thrown, ignored or passed on), ``README.md`` (what its authors
know not to work), ``nixos-modules/microvm/asserts.nix``.  What evaluates there and does not work is no feature here.
"""

from __future__ import annotations

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._contract import HYPERVISORS

# Those that run on Linux: what a wish can choose from.
CHOICES: t.Final = tuple(name for name in HYPERVISORS if name != "vfkit")

_BARE_USER: t.Final = "user interfaces without addresses"

# Feature to the hypervisors that have it.  A feature is named as a message names it.
FEATURES: t.Final[t.Mapping[str, tuple[str, ...]]] = {
    "tap interfaces": CHOICES,
    "macvtap interfaces": ("qemu", "cloud-hypervisor", "crosvm", "kvmtool"),
    "user interfaces": ("qemu", "kvmtool"),
    # lkvm answers no DHCP there.
    _BARE_USER: ("qemu",),
    "forwarded ports": ("qemu",),
    "9p shares": ("qemu", "kvmtool"),
    "read-only 9p shares": ("qemu",),
    "virtiofs shares": ("qemu", "cloud-hypervisor", "crosvm"),
    "the host's store": ("qemu", "cloud-hypervisor", "crosvm"),
    "vsock": ("qemu", "cloud-hypervisor", "firecracker", "crosvm", "kvmtool", "alioth"),
    "credentials": ("qemu", "cloud-hypervisor", "crosvm"),
    "a memory balloon": ("qemu", "cloud-hypervisor", "crosvm", "kvmtool"),
    "a balloon that is filled from the start": ("cloud-hypervisor",),
    "memory that is plugged in while it runs": ("qemu", "cloud-hypervisor"),
    "huge pages": ("cloud-hypervisor",),
    "PCI devices": ("qemu", "cloud-hypervisor", "crosvm"),
    "USB devices": ("qemu",),
    "a user of its own": ("qemu",),
    "graphics": ("qemu", "cloud-hypervisor", "crosvm"),
    "a chosen CPU model": ("qemu",),
    "a clean shutdown": ("qemu", "cloud-hypervisor", "firecracker", "crosvm"),
}

# How a credential reaches the guest: as a file of the hypervisor's unit (qemu's fw_cfg), or of the one of its shares.
CREDENTIAL_UNITS: t.Final[t.Mapping[str, str]] = {
    "qemu": "microvm",
    "cloud-hypervisor": "microvm-virtiofsd",
    "crosvm": "microvm-virtiofsd",
}

# Whose vsock is a unix socket in the state directory: it needs nothing of the host.
SOCKET_VSOCK: t.Final = ("cloud-hypervisor", "firecracker")

# qemu's FW_CFG_MAX_FILE_PATH is 56 with its ending zero, and names begin with opt/io.systemd.credentials/.
CREDENTIAL_LIMIT: t.Final[t.Mapping[str, int]] = {"qemu": 28}

# firecracker, src/vmm/src/vmm_config/machine_config.rs: MAX_SUPPORTED_VCPUS.
VCPU_LIMIT: t.Final[t.Mapping[str, int]] = {"firecracker": 32}

# The option of microvm.nix, as it is named in guests.json, to the feature that it asks for when it is set at all.
_OPTION_FEATURES: t.Final[t.Mapping[str, str]] = {
    "microvm.balloon": "a memory balloon",
    "microvm.initialBalloonMem": "a balloon that is filled from the start",
    "microvm.hotplugMem": "memory that is plugged in while it runs",
    "microvm.hotpluggedMem": "memory that is plugged in while it runs",
    "microvm.hugepageMem": "huge pages",
    "microvm.user": "a user of its own",
    "microvm.graphics.enable": "graphics",
    "microvm.cpu": "a chosen CPU model",
}


class Fault(t.NamedTuple):
    """What of a description cannot be: the option, what was seen, what to do."""

    option: str
    seen: str
    hint: str


def faults(description: t.Mapping[str, t.Any]) -> t.Iterator[Fault]:
    """What the hypervisor of *description* (an entry of guests.json) cannot do."""
    hypervisor = description["hypervisor"]
    if hypervisor not in CHOICES:
        yield Fault("hypervisor", f"{hypervisor} runs on macOS only.", f"Choose one of {words(CHOICES)}.")
        return
    said = set()
    for option, feature in wanted(description):
        able = FEATURES[feature]
        if feature == _BARE_USER and hypervisor not in FEATURES["user interfaces"]:
            continue
        if hypervisor not in able and (option, feature) not in said:
            said.add((option, feature))
            yield Fault(option, f"{hypervisor} has no support for {feature}.", f"{words(able)} can do that.")
    most = VCPU_LIMIT.get(hypervisor)
    if most is not None and description["vcpu"] > most:
        yield Fault("vcpu", f"{description['vcpu']}, and {hypervisor} takes {most} at most.", "Give fewer.")
    longest = CREDENTIAL_LIMIT.get(hypervisor)
    for name in description["credentials"]:
        if longest is not None and len(name) > longest:
            yield Fault(
                "credentials",
                f"{name} has {len(name)} characters, and {hypervisor} takes {longest}.",
                "Give it a shorter name.",
            )
    yield from _option_faults(hypervisor, description["options"])


def wanted(description: t.Mapping[str, t.Any]) -> t.Iterator[tuple[str, str]]:
    """Option and feature of everything that *description* asks of its hypervisor."""
    for place, interface in enumerate(description["interfaces"]):
        yield f"interfaces[{place}].type", f"{interface['type']} interfaces"
        if interface["type"] == "user" and not interface["addresses"]:
            yield f"interfaces[{place}].addresses", _BARE_USER
    if description["forward_ports"]:
        yield "forward_ports", "forwarded ports"
    for place, share in enumerate(description["shares"]):
        yield f"shares[{place}].proto", f"{share['proto']} shares"
        if share["proto"] == "9p" and share["read_only"]:
            yield f"shares[{place}].read_only", "read-only 9p shares"
    if description["store"] == "host":
        yield "store", "the host's store"
    if description["vsock_cid"] is not None:
        yield "vsock_cid", "vsock"
    if description["credentials"]:
        yield "credentials", "credentials"
    for name, value in description["options"].items():
        if name in _OPTION_FEATURES and value:
            yield option_of(name), _OPTION_FEATURES[name]
        if name == "microvm.devices":
            for device in value:
                yield option_of(name), f"{device['bus'].upper()} devices"


def option_of(name: str) -> str:
    """How messages call the option *name* of microvm.nix in a wish."""
    return "microvm_options." + name.partition(".")[2]


def _option_faults(hypervisor: str, options: t.Mapping[str, t.Any]) -> t.Iterator[Fault]:
    """Options of another hypervisor, which this one would pass over in silence, and memory that does not fit."""
    for name in options:
        owner = name.split(".")[1]
        if owner in HYPERVISORS and owner != hypervisor:
            yield Fault(option_of(name), f"is one of {owner}, and the guest has {hypervisor}.", "Leave it out.")
    if hypervisor == "qemu" and options.get("microvm.hotplugMem") and _machine(options) == "microvm":
        yield Fault(
            option_of("microvm.hotplugMem"),
            "qemu's machine microvm cannot plug in memory.",
            "Give microvm.qemu.machine another value, such as q35.",
        )
    if options.get("microvm.hotpluggedMem", 0) > options.get("microvm.hotplugMem", 0):
        yield Fault(
            option_of("microvm.hotpluggedMem"),
            "more memory is to be plugged in than microvm.hotplugMem allows.",
            "Raise microvm.hotplugMem.",
        )
    if options.get("microvm.initialBalloonMem") and not options.get("microvm.balloon"):
        yield Fault(option_of("microvm.initialBalloonMem"), "there is no balloon.", "Set microvm.balloon to true.")


def _machine(options: t.Mapping[str, t.Any]) -> str:
    return str(options.get("microvm.qemu.machine", "microvm"))


def warnings(description: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    """What of *description* can be, and will disappoint."""
    hypervisor = description["hypervisor"]
    if hypervisor == "qemu" and description["mem"] == 2048:
        # microvm.nix, lib/runners/qemu.nix.
        yield "mem: qemu hangs with exactly 2048 MiB. Give one MiB more or less."
    if hypervisor in CHOICES and hypervisor not in FEATURES["a clean shutdown"]:
        yield (
            f"hypervisor: {hypervisor} cannot ask a guest to power off, so every stop is like a power cut. "
            f"{words(FEATURES['a clean shutdown'])} can."
        )


def words(names: t.Sequence[str], last: str = "and") -> str:
    """*names* as one enumeration."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
