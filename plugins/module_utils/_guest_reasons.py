# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why a new runner of a guest needs a restart, in words.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._contract import Interface, Runner, Volume

NEW: t.Final = "new"
# What nothing that is known of two runners tells apart: shares, devices, the hypervisor's own version or options.
OTHER: t.Final = "runner"


def reasons(before: Runner | None, after: Runner) -> list[str]:
    """What differs between the runner that a guest has and one that it is to have.

    A word or some for each difference, the hardware first and the system last; none for the same runner, and `NEW`
    alone where there was no runner.  What either side does not know is not compared.  Where all that is known is
    equal, that is `OTHER`.
    """
    if before is None:
        return [NEW]
    if before.path == after.path:
        return []
    return list(_differences(before, after)) or [OTHER]


def _differences(before: Runner, after: Runner) -> t.Iterator[str]:
    if _differ(before.hypervisor, after.hypervisor):
        yield f"hypervisor {before.hypervisor} to {after.hypervisor}"
    if _differ(before.mem, after.mem):
        yield f"memory {before.mem} to {after.mem} MiB"
    if _differ(before.vcpu, after.vcpu):
        yield f"processors {before.vcpu} to {after.vcpu}"
    if _networks(before.interfaces) != _networks(after.interfaces) or _macs_differ(before, after):
        yield "network"
    disks = _disks(_known(before, after), _known(after, before))
    if disks:
        yield f"volumes {' '.join(disks)}"
    if before.vsock_cid != after.vsock_cid:
        yield "vsock"
    if _differ(before.kernel, after.kernel):
        yield "kernel"
    if _differ(before.initrd, after.initrd):
        yield "initrd"
    if _differ(before.kernel_params, after.kernel_params):
        yield "kernel parameters"
    if _differ(before.host_name, after.host_name):
        yield f"host name {before.host_name} to {after.host_name}"
    if _differ(before.toplevel, after.toplevel):
        yield "system"


def _differ(before: object, after: object) -> bool:
    """Whether both are known, and are not the same."""
    return before is not None and after is not None and before != after


def _networks(interfaces: t.Iterable[Interface]) -> list[tuple[str, str, str, str]]:
    """What a package says of its interfaces as well as an evaluation does; their order is no matter."""
    return sorted((each.id, each.type, each.link or "", each.mode or "") for each in interfaces)


def _macs_differ(before: Runner, after: Runner) -> bool:
    """Whether an interface that both have has another MAC; a package does not say that of a tap."""
    known = {each.id: each.mac for each in before.interfaces}
    return any(_differ(known.get(each.id), each.mac) for each in after.interfaces)


def _known(runner: Runner, other: Runner) -> list[Volume]:
    """The disks of *runner* that *other* would have too if they were the same.

    A package names only those that microvm-run makes; one that was not evaluated does not say its memory either.
    """
    evaluated = runner.mem is not None and other.mem is not None
    return [volume for volume in runner.volumes if evaluated or volume.auto_create]


def _disks(before: t.Sequence[Volume], after: t.Sequence[Volume]) -> list[str]:
    """The images of disks that are new, gone or changed, in the order of the new runner, the gone ones last."""
    had = {volume.image: volume for volume in before}
    has = {volume.image: volume for volume in after}
    changed = [image for image in has if image not in had or _volumes_differ(had[image], has[image])]
    return changed + [image for image in had if image not in has]


def _volumes_differ(before: Volume, after: Volume) -> bool:
    return (
        _differ(before.size, after.size)
        or _differ(before.mount_point, after.mount_point)
        or _differ(before.fs_type, after.fs_type)
        or before.read_only != after.read_only
    )
