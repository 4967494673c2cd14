# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Giving a guest that runs another system without a restart, where nothing but the system differs.

Private to the collection: it may change at any time.

A guest that reads the store of its host has every system that the host has.  When its new runner would start the same
machine with the same kernel, the new system's own ``bin/switch-to-configuration test`` brings the guest there, as
``microvm.deploy.sshSwitch`` of microvm.nix does (nixos-modules/microvm/ssh-deploy.nix).  What the guest was booted
with is the measure, and not what it was switched to since.
"""

from __future__ import annotations

import os
import re
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from ansible_collections.microvm.fleet.plugins.module_utils import _guest_reasons
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._contract import STORE_PATH, Runner, read_runner
from ansible_collections.microvm.fleet.plugins.module_utils._files import read_text
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import GuestPlan
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import (
    Await,
    Forget,
    Live,
    Settings,
    Start,
    Step,
    Stop,
    Switch,
    Unsure,
)
from ansible_collections.microvm.fleet.plugins.module_utils._health_probe import HostKeys, over_ssh
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import Access
from ansible_collections.microvm.fleet.plugins.module_utils._paths import STORE, Paths

# Seconds for a guest to say who it is, and for the activation of a system.
HELLO_TIMEOUT: t.Final = 15
ACTIVATION_TIMEOUT: t.Final = 600
# Files of this many bytes are compared, and files that they name, this deep.
CONTENT: t.Final = 1 << 20
DEPTH: t.Final = 4
THREADS: t.Final = 32

# nixos/modules/system/activation/top-level.nix: what of a system only a boot brings into effect.
_BOOT: t.Final = (
    ("kernel", "kernel"),
    ("initrd", "initial ramdisk"),
    ("kernel-modules", "kernel modules"),
    ("kernel-params", "kernel parameters"),
)
# lib/runners/qemu.nix: a share by 9p is in no file of its own.
_9P_STORE: t.Final = re.compile(r"\bpath=/nix/store[,'\"\s]")
# nixos-modules/microvm/store-disk.nix: what the guest's Nix is told at boot; it changes with every system.
_REGISTRATION: t.Final = "-closure-info"

Content = t.Callable[[str], t.Optional[str]]


@dataclass(frozen=True)
class Shape:
    """What of a runner and its system decides whether another can take its place in a guest that runs.

    *boot* is what `_BOOT` names, by its name; *files* are the scripts and the facts of the runner, by their names.
    """

    toplevel: str | None = None
    host_store: bool = False
    switchable: bool = False
    boot: t.Mapping[str, str] = field(default_factory=dict)
    files: t.Mapping[str, str] = field(default_factory=dict)


def read_shape(paths: Paths, runner: Runner) -> Shape:
    """The shape of a *runner* that is in the store."""
    files: dict[str, str] = {}
    for part in ("bin", "share/microvm"):
        top = paths.store(os.path.join(runner.path, part))
        for directory, _directories, names in os.walk(top):
            for name in names:
                path = os.path.join(directory, name)
                if os.path.isfile(_real(paths, path)):
                    files[os.path.relpath(path, top)] = read_text(_real(paths, path), CONTENT) or ""
    shares = {name: text.strip() for name, text in files.items() if name.endswith("/source")}
    toplevel = runner.toplevel
    boot: dict[str, str] = {}
    if toplevel is not None:
        there = paths.store(toplevel)
        for name, _words in _BOOT:
            path = os.path.join(there, name)
            if os.path.islink(path):
                boot[name] = os.readlink(path)
            elif os.path.isfile(path):
                boot[name] = read_text(path, CONTENT) or ""
        boot["kernel-params"] = " ".join(word for word in boot.get("kernel-params", "").split())
    switch = os.path.join(paths.store(toplevel or ""), "bin/switch-to-configuration")
    return Shape(
        toplevel=toplevel,
        host_store=STORE in shares.values() or _9P_STORE.search(files.get("microvm-run", "")) is not None,
        switchable=toplevel is not None and os.path.isfile(_real(paths, switch)),
        boot=boot,
        files=files,
    )


def _real(paths: Paths, path: str) -> str:
    """Where *path* leads to, when a link of the store leads elsewhere in it."""
    for _step in range(8):
        if not os.path.islink(path):
            break
        target = os.readlink(path)
        path = paths.store(target) if target.startswith("/") else os.path.join(os.path.dirname(path), target)
    return path


def difference(before: Shape, after: Shape, content: Content) -> str | None:
    """What only a restart brings a guest of *before* to, in words; None when that is nothing.

    *content* gives the text of a file of the store, None for what is none.
    """
    if not after.host_store or not before.host_store:
        return "the guest does not read the store of its host"
    if before.toplevel is None or after.toplevel is None:
        return "its runner does not say which system it starts"
    if not after.switchable:
        return "the new system has no bin/switch-to-configuration (system.switch.enable)"
    for name, words in _BOOT:
        if before.boot.get(name) != after.boot.get(name):
            return f"the {words} would be another"
    same = (before.toplevel, after.toplevel)
    for name in sorted({*before.files, *after.files}):
        one, other = before.files.get(name), after.files.get(name)
        if one is None or other is None or not alike(one, other, same, content):
            return f"the runner's {name} would be another"
    return None


def alike(before: str, after: str, same: tuple[str, str], content: Content, depth: int = DEPTH) -> bool:
    """Whether two texts say the same, but for the paths of two systems, and of files that are alike themselves."""
    if before == after:
        return True
    if depth == 0 or STORE_PATH.split(before) != STORE_PATH.split(after):
        return False
    for one, other in zip(STORE_PATH.findall(before), STORE_PATH.findall(after)):
        if one == other or (one, other) == same:
            continue
        if one.endswith(_REGISTRATION) and other.endswith(_REGISTRATION):
            continue
        texts = content(one), content(other)
        if texts[0] is None or texts[1] is None or not alike(texts[0], texts[1], same, content, depth - 1):
            return False
    return True


def wanted(plan: GuestPlan) -> bool:
    """Whether the plan restarts a guest that was to be switched live."""
    kinds = {type(step) for step in plan.steps}
    return (
        plan.wish.switch == "live" and plan.guest.unit.active and plan.error is None and {Stop, Start, Await} <= kinds
    )


def hindrance(plan: GuestPlan, before: Shape | None, after: Shape | None, content: Content) -> str | None:
    """Why the guest has to be restarted, None when nothing that is known before it is asked says so."""
    if plan.wish.state == "restarted":
        return "a restart was asked for"
    if plan.wish.access is None:
        return "nothing says how the guest is reached over SSH (option ssh, or a probe of kind ssh)"
    if any(isinstance(step, Settings) for step in plan.steps):
        return "its units get other settings"
    if before is None:
        return "the runner that the guest was started from is not there"
    if after is None:
        return "the new runner is not on the host yet"
    found = difference(before, after, content)
    if found is not None and plan.target is not None and plan.guest.runner is not None and "runner's" in found:
        # Known in other words, perhaps.
        words = [word for word in _guest_reasons.reasons(plan.guest.runner, plan.target.runner) if word != "system"]
        if words and words != [_guest_reasons.OTHER]:
            return f"{found} ({', '.join(words)})"
    return found


def switched(plan: GuestPlan, before: Shape, after: Shape) -> GuestPlan:
    """The *plan*, with the activation of the new system in place of the restart; so on the way back, if it was."""
    step = Live(plan.name, str(_current(plan)), str(after.toplevel), str(before.toplevel))
    steps: list[Step] = []
    for each in plan.steps:
        if isinstance(each, Await):
            steps += [Unsure(plan.name), step]
        if isinstance(each, Forget):
            # What the guest was started from stops it.
            kept = {one.number for one in plan.guest.generations if one.runner == plan.guest.booted}
            numbers = tuple(number for number in each.numbers if number not in kept)
            if numbers:
                steps.append(Forget(plan.name, numbers))
        elif not isinstance(each, (Stop, Start)):
            steps.append(each)
    return replace(plan, steps=tuple(steps))


def returning(plan: GuestPlan, back: Shape, before: Shape) -> GuestPlan:
    """The *plan* with a way back that needs no restart either, unless that fails."""
    revert = plan.revert
    if revert is None:
        return plan
    step = Live(plan.name, revert.back.runner, str(back.toplevel), str(before.toplevel), restart=True)
    steps: list[Step] = []
    for each in revert.steps:
        if isinstance(each, Await):
            steps.append(step)
        if not isinstance(each, (Stop, Start)):
            steps.append(each)
    return replace(plan, revert=replace(revert, steps=tuple(steps)))


def _current(plan: GuestPlan) -> str | None:
    """The runner that the guest is to have once the plan is carried out."""
    return next((step.runner for step in plan.steps if isinstance(step, Switch)), plan.guest.current)


def decide(paths: Paths, commands: Commands, plans: t.Sequence[GuestPlan]) -> tuple[GuestPlan, ...]:
    """The plans, with an activation in place of each restart that is not needed and was not wished.

    A guest is asked whether it is the one that its runner was started as, and nothing is changed.  Where a restart is
    needed, the plan says why.
    """
    asked: dict[str, tuple[Shape, Shape]] = {}
    why: dict[str, str] = {}

    def shape(path: str | None) -> Shape | None:
        runner = read_runner(paths, path) if path is not None else None
        return read_shape(paths, runner) if runner is not None and runner.runs and not runner.missing else None

    def content(path: str) -> str | None:
        there = paths.store(path)
        return read_text(there, CONTENT) if os.path.isfile(there) else None

    for plan in filter(wanted, plans):
        before, after = shape(plan.guest.booted), shape(_current(plan))
        found = hindrance(plan, before, after, content)
        if found is not None or before is None or after is None:
            why[plan.name] = str(found)
        else:
            asked[plan.name] = before, after

    def hello(plan: GuestPlan) -> str | None:
        # The link is made once a boot (nixos/modules/system/boot/stage-2-init.sh, and the system's own activation).
        test = ["test", "/run/booted-system", "-ef", str(asked[plan.name][0].toplevel)]
        wrong = call(paths, commands, plan, test, timeout=HELLO_TIMEOUT)
        if wrong is not None and wrong.startswith("the command ended with 1"):
            return "what answers was not booted with the system of the guest's runner"
        return wrong

    candidates = [plan for plan in plans if plan.name in asked]
    if candidates:
        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            for plan, wrong in zip(candidates, pool.map(hello, candidates)):
                if wrong is not None:
                    why[plan.name] = f"the guest cannot be asked: {wrong}"
    decided = []
    for plan in plans:
        if plan.name in why:
            decided.append(replace(plan, why_not_live=why[plan.name]))
        elif plan.name in asked:
            before, after = asked[plan.name]
            changed = switched(plan, before, after)
            back = shape(plan.guest.current)
            # What the guest has in effect now can be had again; another runner may need a restart.
            if back is not None and plan.revert is not None and plan.revert.back.runner == plan.guest.current:
                changed = returning(changed, back, before)
            decided.append(changed)
        else:
            decided.append(plan)
    return tuple(decided)


def call(paths: Paths, commands: Commands, plan: GuestPlan, command: t.Sequence[str], *, timeout: float) -> str | None:
    """Run *command* in the guest: None when it ended with 0, else what was wrong."""
    access: Access | None = plan.wish.access
    if access is None:
        return "nothing says how the guest is reached over SSH"
    try:
        hosts_file = HostKeys(paths).prepare(plan.name, plan.guest.unit.invocation, access)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    argv = command if access.user == "root" else ["sudo", "-n", *command]
    return over_ssh(commands, access, argv, hosts_file=hosts_file, alias=plan.name, timeout=timeout)


def activate(paths: Paths, commands: Commands, plan: GuestPlan, step: Live) -> str | None:
    """Activate the system of *step* in the guest: None, or what was wrong."""
    command = [f"{step.toplevel}/bin/switch-to-configuration", "test"]
    wrong = call(paths, commands, plan, command, timeout=ACTIVATION_TIMEOUT)
    return None if wrong is None else f"its system was not activated: switch-to-configuration: {wrong}"
