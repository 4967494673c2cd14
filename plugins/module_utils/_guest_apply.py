# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Carrying out the steps of many guests, each kind of work in one call.

Private to the collection: it may change at any time.

An error of one guest ends the steps of that guest and of no other.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import itertools
import json
import os
import shutil
import stat
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _nix, _systemd
from ansible_collections.microvm.fleet.plugins.module_utils import _guest_judge as judge
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._contract import NO_DATA, read_runner
from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy, CommandError, FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import (
    LOOP,
    Record,
    litter_of,
    record_of_text,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import (
    CREDENTIALS,
    GuestPlan,
    Outcome,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import (
    UNIT,
    Autostart,
    Await,
    Create,
    Describe,
    Discard,
    Forget,
    Judged,
    Keep,
    Live,
    Mark,
    Reject,
    Reload,
    Remove,
    Root,
    Settings,
    Stage,
    Start,
    Step,
    Stop,
    Sweep,
    Switch,
    Undescribe,
    Unstage,
    Unsure,
    VolumeStep,
    Write,
)
from ansible_collections.microvm.fleet.plugins.module_utils._paths import STORE, Paths
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import Unit

# Seconds that a guest has to be up before it counts as started: a hypervisor that cannot run ends sooner.
SETTLE: t.Final = 3.0
# TimeoutSec of microvm.nix's units (microvm.host.startupTimeout), for guests whose wish names none.
UNIT_TIMEOUT: t.Final = 150
# What systemd's own work may take beyond the units' timeouts.
MARGIN: t.Final = 30
POLL: t.Final = 0.2
COPY_FIRST: t.Final = (
    "Copy it to this host first, as the role microvm.fleet.build does, or give the host a substituter that has it."
)

# The group of /dev/kvm, which runners have built in (nixos-modules/microvm/interfaces.nix).
GROUP: t.Final = "kvm"


# A step in parts: before it is resumed, what it has noted has to be flushed.
Parts = t.Generator[None, None, None]


class Apply:
    """Applies plans to a host.  Holds the outcome of each guest while it works."""

    def __init__(
        self,
        paths: Paths,
        commands: Commands,
        *,
        build_timeout: float,
        lock_timeout: float = 60,
        min_free: int = 0,
    ) -> None:
        self.min_free = min_free
        self.paths = paths
        self.commands = commands
        self.build_timeout = build_timeout
        self.lock_timeout = lock_timeout
        self.outcomes: dict[str, Outcome] = {}
        # When each guest was started, in seconds of time.monotonic().
        self.started: dict[str, float] = {}
        # Why the systems of some were not activated inside them, by their names.
        self.not_live: dict[str, str] = {}
        self.warnings: list[str] = []

    def prepare(self, plans: t.Sequence[GuestPlan]) -> None:
        """Root and build what is to be staged.  What fails is unrooted again, and its guest gets the error."""
        staged = []
        for plan in plans:
            self.outcomes.setdefault(plan.name, Outcome())
            step = next((step for step in plan.steps if isinstance(step, Stage)), None)
            if step is not None:
                staged.append((plan, step))
        self.together([(plan, [step]) for plan, step in staged])
        staged = [(plan, step) for plan, step in staged if self.outcomes[plan.name].error is None]
        wanted = {step.runner: step.source for _plan, step in staged}
        # Rooted before this question is asked, what is there stays there.
        missing = _nix.invalid(self.commands, wanted)
        errors = self._build({path: wanted[path] for path in missing})
        for plan, step in staged:
            error: FleetError | None = errors.get(step.runner)
            if error is None:
                runner = read_runner(self.paths, step.runner)
                if not runner.runs:
                    error = FleetError(f"{step.runner} has no bin/microvm-run, so it is no runner of a MicroVM.")
            if error is None:
                self.outcomes[plan.name].done.append(step)
                continue
            _files.remove(self.paths.root_of(plan.name, "staged"))
            self._rmdir(self.paths.root_of(plan.name))
            self.outcomes[plan.name].error = _about(plan, "runner" if plan.wish.runner else "flake", error)

    def _build(self, wanted: t.Mapping[str, str]) -> t.Mapping[str, FleetError]:
        """Build or fetch the runners *wanted*, if there is room; the errors of those that are not there then."""
        if not wanted:
            return {}
        # Loaded for runs that build only.
        from ansible_collections.microvm.fleet.plugins.module_utils import _space  # noqa: PLC0415

        try:
            _space.require(
                [_space.Need(self.paths.store(STORE), self.min_free * _space.MIB, "a build")],
                reserve=0,
                hint="Make room there, for example with nix-collect-garbage, or lower min_free. Nothing was built.",
            )
        except FleetError as error:
            return dict.fromkeys(wanted, error)
        errors: dict[str, FleetError] = {}
        for path, failed in _nix.build(self.commands, wanted, timeout=self.build_timeout).items():
            # Without its derivation it can only be fetched or copied.
            hint = failed.hint or (COPY_FIRST if wanted[path] == path else None)
            errors[path] = FleetError(failed.seen, hint=hint)
        return errors

    def finish(self, plans: t.Sequence[GuestPlan], leftovers: t.Sequence[str] = ()) -> None:
        """All the other steps; what of them turns out not to be healthy goes back to where it was."""
        for entry in leftovers:
            shutil.rmtree(os.path.join(self.paths.guests, entry))
        for plan in plans:
            self.outcomes.setdefault(plan.name, Outcome())
        # Of these an earlier run has found out that they are not.
        known = {plan.name: plan.revert.reason for plan in plans if plan.revert is not None and plan.revert.reason}
        fresh = [plan for plan in plans if plan.name not in known]
        self.carry_out(fresh)
        if known or self._with(fresh, Await):
            # Loaded for runs that wait for something only.
            from ansible_collections.microvm.fleet.plugins.module_utils._guest_settle import (  # noqa: PLC0415
                Settling,
            )

            Settling(self).run(plans, known)
        for plan in self._with(plans, Discard):
            self._discard(plan)

    def carry_out(self, plans: t.Sequence[GuestPlan]) -> None:
        """Stops, files, settings, autostart, starts; each kind for all guests at once.  Nobody is waited for then."""
        self._credentials(plans)
        self._describe(self._with(plans, Describe), Describe)
        for plan in self._with(plans, Mark):
            self._mark(plan)
        self._stop(self._with(plans, Stop))
        self._each_or_all(self._autostarts(plans, enable=False), _systemd.disable)
        self._describe(self._with(plans, Undescribe), Undescribe)
        self.together(
            [
                (
                    plan,
                    [
                        step
                        for step in _until(plan)
                        if (type(step) in self._ACTIONS or isinstance(step, VolumeStep))
                        and not isinstance(step, (Stage, Live))
                    ],
                )
                for plan in plans
                if self.outcomes[plan.name].error is None
            ]
        )
        if self._with(plans, Settings) or self._with(plans, Reload) or self._unsettled(plans):
            _systemd.reload(self.commands)
        self._each_or_all(self._autostarts(plans, enable=True), _systemd.enable)
        self._start(self._with(plans, Start))
        self._live(self._with(plans, Live))

    def _with(self, plans: t.Sequence[GuestPlan], kind: type[Step]) -> list[GuestPlan]:
        """Plans that are still without an error and have a step of this *kind*."""
        return [
            plan
            for plan in plans
            if self.outcomes[plan.name].error is None and any(isinstance(step, kind) for step in plan.steps)
        ]

    def _autostarts(self, plans: t.Sequence[GuestPlan], *, enable: bool) -> list[GuestPlan]:
        return [
            plan
            for plan in self._with(plans, Autostart)
            if any(isinstance(step, Autostart) and step.enable is enable for step in plan.steps)
        ]

    def _unsettled(self, plans: t.Sequence[GuestPlan]) -> bool:
        """Whether settings go with their guests, or systemd may not have read those of the daemons of one that starts.

        Whether it has read its own settings, each guest's unit tells.
        """
        return any(
            plan.guest.settings is not None or plan.guest.share_settings is not None
            for plan in self._with(plans, Remove)
        ) or any(plan.guest.share_settings is not None for plan in self._with(plans, Start))

    def _credentials(self, plans: t.Sequence[GuestPlan]) -> None:
        """Before anything is changed: a unit that loads a credential without a file does not start."""
        for plan in self._with(plans, Settings):
            target = plan.target
            needed = target.credentials if target is not None and target.credentials is not None else {}
            for name in [name for names in needed.values() for name in names]:
                if not os.path.isfile(self.paths.credentials(plan.name, name)):
                    self.outcomes[plan.name].error = FleetError(
                        f"there is no file {CREDENTIALS}/{plan.name}/{name} on the host.",
                        subject=plan.wish.subject,
                        field=f"credentials.{name}",
                        hint="The role microvm.fleet.guests puts it there before it calls the module.",
                    )
                    break

    def _describe(self, plans: t.Sequence[GuestPlan], kind: type[Step]) -> None:
        """Change guests.json once for all *plans*, by their steps of this *kind*."""
        if not plans:
            return
        # Loaded for those who describe guests only: most runs never need it.
        from ansible_collections.microvm.fleet.plugins.module_utils import _descriptions  # noqa: PLC0415

        steps = {plan.name: next(step for step in plan.steps if isinstance(step, kind)) for plan in plans}
        changes = {name: step.description if isinstance(step, Describe) else None for name, step in steps.items()}
        try:
            _descriptions.write(self.paths, changes, timeout=self.lock_timeout)
        except FleetError as error:
            for plan in plans:
                # Of a lock, the subject says what it is on.
                seen = f"{error.subject}: {error.seen}" if isinstance(error, Busy) else error.seen
                self.outcomes[plan.name].error = FleetError(
                    seen, subject=plan.wish.subject, field=error.field or "hypervisor", hint=error.hint
                )
        except OSError as error:
            for plan in plans:
                self.outcomes[plan.name].error = _broken(plan, steps[plan.name], error)
        else:
            for plan in plans:
                self.outcomes[plan.name].done.append(steps[plan.name])

    def together(self, work: t.Sequence[tuple[GuestPlan, t.Sequence[Step]]]) -> None:
        """Do steps of many guests, those of each in their order.

        All guests go on to the point where what comes next relies on what was before being on the disk; that is
        flushed for all of them at once; and so on.
        """
        unflushed = {plan.name: _files.Unflushed() for plan, _steps in work}
        running = {plan.name: self._one_by_one(plan, steps, unflushed[plan.name]) for plan, steps in work}
        failed: dict[str, OSError] = {}
        while running:
            for name, rest in list(running.items()):
                try:
                    if name in failed:
                        rest.throw(failed[name])
                    else:
                        next(rest)
                except StopIteration:
                    del running[name]
            errors = _files.flush({path: None for noted in unflushed.values() for path in noted.paths})
            failed = {}
            for name, noted in unflushed.items():
                failed.update((name, errors[path]) for path in noted.paths if path in errors)
                noted.paths.clear()

    def _one_by_one(
        self, plan: GuestPlan, steps: t.Sequence[Step], unflushed: _files.Unflushed
    ) -> t.Generator[None, None, None]:
        """The *steps* of one guest; an error ends them.  Stops where *unflushed* has to be flushed."""
        outcome = self.outcomes[plan.name]
        if not steps:
            return
        step = steps[0]
        try:
            for step in steps:
                parts = self._action(step)(self, plan, step, unflushed)
                if parts is not None:
                    yield from parts
                if not isinstance(step, Stage):
                    outcome.done.append(step)
            if unflushed.paths:
                yield
        except OSError as error:
            outcome.error = _broken(plan, step, error)
        except FleetError as error:
            outcome.error = error

    def _action(self, step: Step) -> t.Callable[..., Parts | None]:
        """What does *step*."""
        if isinstance(step, VolumeStep):
            # Loaded for those who need it only.
            from ansible_collections.microvm.fleet.plugins.module_utils import _volume_apply  # noqa: PLC0415

            return _volume_apply.ACTIONS[type(step)]
        return self._ACTIONS[type(step)]

    # Files.  A step that is a generator stops where what it did has to be on the disk before it goes on.

    def _stage(self, plan: GuestPlan, step: Stage, unflushed: _files.Unflushed) -> None:
        _files.make_directory(self.paths.root_of(plan.name), unflushed=unflushed)
        _files.write_link(self.paths.root_of(plan.name, "staged"), step.runner, unflushed=unflushed)

    def _unstage(self, plan: GuestPlan, _step: Unstage, unflushed: _files.Unflushed) -> Parts:
        yield
        _files.remove(self.paths.root_of(plan.name, "staged"), unflushed=unflushed)

    def _sweep(self, plan: GuestPlan, _step: Step, _unflushed: _files.Unflushed) -> None:
        name = plan.name
        for directory in (
            self.paths.guest(name),
            self.paths.known(name),
            self.paths.root_of(name),
            os.path.dirname(self.paths.settings(name)),
            os.path.dirname(self.paths.share_settings(name)),
            self.paths.microvm_roots,
        ):
            with contextlib.suppress(FileNotFoundError):
                for entry in os.listdir(directory):
                    ours = directory != self.paths.microvm_roots or name in litter_of(entry)
                    if ours and entry.startswith(_files.TEMPORARY):
                        _files.remove(os.path.join(directory, entry))
        if not any(isinstance(each, (Start, Await)) for each in plan.steps):
            self.unmark([plan])

    def _mark(self, plan: GuestPlan) -> None:
        """Before any other step, and in a filesystem that ends with the host's boot: there is nothing to flush."""
        outcome = self.outcomes[plan.name]
        try:
            os.makedirs(self.paths.marks, mode=0o700, exist_ok=True)
            with open(os.path.join(self.paths.marks, plan.name), "w", encoding="ascii"):
                pass
        except OSError as error:
            outcome.error = _broken(plan, Mark(plan.name), error)
        else:
            outcome.done.append(Mark(plan.name))

    def _discard(self, plan: GuestPlan) -> None:
        """After everything else, when no unit can ask for them any more.  A file that is back is removed again."""
        step = next(step for step in plan.steps if isinstance(step, Discard))
        directory = self.paths.credentials(plan.name)
        try:
            for name in step.names:
                _files.remove(os.path.join(directory, name))
            _files.sync_directory(directory)
        except OSError as error:
            self.outcomes[plan.name].error = _broken(plan, step, error)
        else:
            self.outcomes[plan.name].done.append(step)

    def _keep(self, plan: GuestPlan, step: Keep, unflushed: _files.Unflushed) -> None:
        _files.make_directory(self.paths.root_of(plan.name), unflushed=unflushed)
        link, staged = self.paths.root_of(plan.name, str(step.number)), self.paths.root_of(plan.name, "staged")
        if _files.read_link(staged) == step.runner:
            _files.copy_link(link, staged, unflushed=unflushed)
        else:
            _files.write_link(link, step.runner, unflushed=unflushed)

    def _forget(self, plan: GuestPlan, step: Forget, unflushed: _files.Unflushed) -> Parts:
        yield
        for number in step.numbers:
            _files.remove(self.paths.root_of(plan.name, str(number)), unflushed=unflushed)

    def _write(self, plan: GuestPlan, step: Write, unflushed: _files.Unflushed) -> Parts:
        _files.make_directory(self.paths.known(plan.name), unflushed=unflushed, mode=0o700)
        text = json.dumps(step.record.as_dict(), indent=1, sort_keys=True) + "\n"
        yield from _files.replace_file(
            self.paths.known(plan.name, "record.json"), text, unflushed=unflushed, mode=0o600
        )

    def _create(self, plan: GuestPlan, step: Create, unflushed: _files.Unflushed) -> Parts:
        final = self.paths.guest(plan.name)
        if step.complete:
            yield from self._fill(final, step.runner, step.flake, unflushed)
            return
        directory = _files.beside(final)
        os.mkdir(directory, 0o700)
        self._own(directory)
        if step.flake is not None:
            _files.make_file(os.path.join(directory, "flake"), step.flake + "\n", unflushed=unflushed)
        os.symlink(step.runner, os.path.join(directory, "current"))
        unflushed.add(directory)
        yield
        os.rename(directory, final)
        unflushed.add(self.paths.guests)

    def _switch(self, plan: GuestPlan, step: Switch, unflushed: _files.Unflushed) -> Parts:
        yield from self._fill(self.paths.guest(plan.name), step.runner, step.flake, unflushed)

    def _fill(self, directory: str, runner: str, flake: str | None, unflushed: _files.Unflushed) -> Parts:
        """`flake` and then `current`, in a directory that is there."""
        self._own(directory)
        if flake is not None:
            yield from _files.replace_file(os.path.join(directory, "flake"), flake + "\n", unflushed=unflushed)
        yield
        _files.write_link(os.path.join(directory, "current"), runner, unflushed=unflushed)

    @staticmethod
    def _own(directory: str) -> None:
        """Let only root rearrange a state directory.

        Sticky and root's, so that the user of the hypervisors can make its sockets and volumes there, but not replace
        a link from which root runs scripts (contract of the units: tap-up, virtiofsd-run).
        """
        try:
            group = grp.getgrnam(GROUP).gr_gid
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "there is no group of that name", GROUP) from None
        os.chown(directory, 0, group)
        os.chmod(directory, 0o1775)  # noqa: S103 - the hypervisors' group writes there, as the docstring says

    def _judged(self, plan: GuestPlan, step: Judged, unflushed: _files.Unflushed) -> Parts:
        yield from self._rewrite(plan, lambda record: judge.judged(record, step.runner), unflushed)

    def _reject(self, plan: GuestPlan, step: Reject, unflushed: _files.Unflushed) -> Parts:
        yield from self._rewrite(
            plan, lambda record: judge.rejecting(record, step.runner, step.reason, step.back), unflushed
        )
        yield

    def _note_unsure(self, plan: GuestPlan, _step: Unsure, unflushed: _files.Unflushed) -> Parts:
        live = {"runner": None, "invocation": plan.guest.unit.invocation}
        yield from self._rewrite(plan, lambda record: replace(record, live=live), unflushed)

    def _note_live(self, plan: GuestPlan, step: Live, unflushed: _files.Unflushed) -> Parts:
        live = {"runner": step.runner, "invocation": plan.guest.unit.invocation}
        yield from self._rewrite(plan, lambda record: replace(record, live=live), unflushed)

    def _rewrite(self, plan: GuestPlan, change: t.Callable[[Record], Record], unflushed: _files.Unflushed) -> Parts:
        text = _files.read_text(self.paths.known(plan.name, "record.json"))
        record = record_of_text(text) if text is not None else None
        if record is not None:
            yield from self._write(plan, Write(plan.name, change(record)), unflushed)

    def _root(self, plan: GuestPlan, _step: Root, unflushed: _files.Unflushed) -> None:
        _files.make_directory(self.paths.microvm_roots, unflushed=unflushed)
        for prefix, link in (("", "current"), ("booted-", "booted")):
            _files.write_link(
                os.path.join(self.paths.microvm_roots, prefix + plan.name),
                self.paths.guest(plan.name, link),
                unflushed=unflushed,
            )

    def _settings(self, plan: GuestPlan, step: Settings, unflushed: _files.Unflushed) -> Parts:
        path = self.paths.settings(plan.name) if step.unit == UNIT else self.paths.share_settings(plan.name)
        if not step.text:
            _files.remove(path, unflushed=unflushed)
            return
        _files.make_directory(os.path.dirname(path), unflushed=unflushed)
        yield from _files.replace_file(path, step.text, unflushed=unflushed)

    def _remove(self, plan: GuestPlan, step: Remove, unflushed: _files.Unflushed) -> None:
        outcome = self.outcomes[plan.name]
        directory = self.paths.guest(plan.name)
        self._sweep(plan, step, unflushed)
        for settings in (self.paths.settings(plan.name), self.paths.share_settings(plan.name)):
            _files.remove(settings)
            self._rmdir(os.path.dirname(settings))
        if plan.guest.runner is not None:
            outcome.left = [volume.image for volume in plan.guest.runner.volumes if volume.image.startswith("/")]
        if plan.guest.directory:
            if step.purge:
                aside = _files.beside(directory)
                os.rename(directory, aside)
                _files.sync_directory(self.paths.guests)
                shutil.rmtree(aside)
            else:
                outcome.kept = self._put_aside(plan.name, directory)
        for root in plan.guest.roots:
            _files.remove(os.path.join(self.paths.microvm_roots, root))
        for tree in (self.paths.credentials(plan.name), self.paths.root_of(plan.name), self.paths.known(plan.name)):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(tree)

    def _put_aside(self, name: str, directory: str) -> str | None:
        """Leave only data in the state directory, and move it among the kept ones in one rename."""
        for entry in os.listdir(directory):
            path = os.path.join(directory, entry)
            mode = os.lstat(path).st_mode
            useless = entry in NO_DATA or entry.startswith(_files.TEMPORARY) or stat.S_ISSOCK(mode)
            if useless and not stat.S_ISDIR(mode):
                os.unlink(path)
        if self._rmdir(directory):
            return None
        os.makedirs(self.paths.kept, mode=0o700, exist_ok=True)
        base = os.path.join(self.paths.kept, f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
        kept, count = base, 1
        while os.path.lexists(kept):
            count += 1
            kept = f"{base}-{count}"
        os.rename(directory, kept)
        _files.sync_directory(self.paths.kept)
        _files.sync_directory(self.paths.guests)
        return kept

    @staticmethod
    def _rmdir(path: str) -> bool:
        """Remove the directory if it is empty."""
        try:
            os.rmdir(path)
        except OSError:
            return False
        return True

    _ACTIONS: t.ClassVar[dict[type[Step], t.Callable[..., Parts | None]]] = {
        Stage: _stage,
        Sweep: _sweep,
        Keep: _keep,
        Forget: _forget,
        Write: _write,
        Create: _create,
        Switch: _switch,
        Unstage: _unstage,
        Root: _root,
        Settings: _settings,
        Unsure: _note_unsure,
        Live: _note_live,
        Remove: _remove,
        Judged: _judged,
        Reject: _reject,
    }

    # Units

    def _each_or_all(self, plans: t.Sequence[GuestPlan], verb: t.Callable[[Commands, t.Iterable[str]], None]) -> None:
        """Enable or disable in one call; if that fails, one by one, so that the error is that of its guest."""
        try:
            verb(self.commands, [plan.name for plan in plans])
            done = list(plans)
        except CommandError:
            done = []
            for plan in plans:
                try:
                    verb(self.commands, [plan.name])
                    done.append(plan)
                except CommandError as error:
                    self.outcomes[plan.name].error = _about(plan, "autostart", error)
        for plan in done:
            self.outcomes[plan.name].done += [step for step in plan.steps if isinstance(step, Autostart)]

    def _stop(self, plans: t.Sequence[GuestPlan]) -> None:
        if not plans:
            return
        ran = {plan.name for plan in plans if plan.guest.unit.active}
        limit = max(plan.wish.stop_timeout or UNIT_TIMEOUT for plan in plans)
        # A stop may take the time of ExecStop and then that of the signals (systemd.service(5), TimeoutStopSec=).
        complaint = self._jobs("stop", plans, timeout=3 * limit + MARGIN)
        units = _systemd.show(self.commands)
        failed = []
        for plan in plans:
            unit, outcome = units.get(plan.name, Unit()), self.outcomes[plan.name]
            if unit.up:
                outcome.error = FleetError(
                    f"the unit is still {unit.active_state} after systemctl stop: {complaint.strip()}",
                    subject=plan.wish.subject,
                    field="state",
                    hint=f"See journalctl -u {_systemd.unit(plan.name)}.",
                )
                continue
            outcome.killed = plan.name in ran and unit.result != "success"
            outcome.done += [step for step in plan.steps if isinstance(step, Stop)]
            if unit.active_state == "failed":
                failed.append(plan.name)
        _systemd.reset_failed(self.commands, failed)

    def _start(self, plans: t.Sequence[GuestPlan]) -> None:
        if not plans:
            return
        # A start that was asked for is none of the tries of a guest that ends by itself (systemd.unit(5),
        # StartLimitBurst=), and is not kept from it by them.
        _systemd.reset_failed(self.commands, [plan.name for plan in plans])
        self.started.update({plan.name: time.monotonic() for plan in plans})
        judged = self._with(plans, Await)
        # Each is judged from its start on, however long that of another takes.
        self._jobs("start", judged, timeout=MARGIN, block=False)
        for plan in judged:
            # Whether it stays up is a part of what is waited for.
            self.outcomes[plan.name].done += [step for step in plan.steps if isinstance(step, Start)]
        unjudged = [plan for plan in plans if plan not in judged]
        limit = max((plan.wish.start_timeout or UNIT_TIMEOUT for plan in unjudged), default=0)
        complaint = self._jobs("start", unjudged, timeout=limit + MARGIN)
        deadline = time.monotonic() + limit
        pending = list(unjudged)
        while pending:
            units = _systemd.show(self.commands)
            now = time.monotonic()
            waiting = []
            for plan in pending:
                seen = started(units.get(plan.name, Unit()), now)
                if seen is None and now < deadline:
                    waiting.append(plan)
                elif seen:
                    self.outcomes[plan.name].done += [step for step in plan.steps if isinstance(step, Start)]
                else:
                    self.outcomes[plan.name].error = self._not_started(plan, units.get(plan.name, Unit()), complaint)
            pending = waiting
            if pending:
                time.sleep(POLL)
        self.unmark(unjudged)

    def unmark(self, plans: t.Iterable[GuestPlan]) -> None:
        """Nothing is left to be done about these guests that a later run would have to know of."""
        for plan in plans:
            _files.remove(os.path.join(self.paths.marks, plan.name))

    def _live(self, plans: t.Sequence[GuestPlan]) -> None:
        """Activate systems inside guests, all at once.  Where it fails, that is why the guest is not healthy."""
        if not plans:
            return
        # Loaded for those who switch live only.
        from ansible_collections.microvm.fleet.plugins.module_utils import _guest_live  # noqa: PLC0415

        steps = {plan.name: next(step for step in plan.steps if isinstance(step, Live)) for plan in plans}
        with ThreadPoolExecutor(max_workers=_guest_live.THREADS) as pool:
            wrong = dict(
                pool.map(
                    lambda plan: (
                        plan.name,
                        _guest_live.activate(self.paths, self.commands, plan, steps[plan.name]),
                    ),
                    plans,
                )
            )
        done = [plan for plan in plans if wrong[plan.name] is None]
        restarting = [plan for plan in plans if wrong[plan.name] is not None and steps[plan.name].restart]
        self.together([(plan, [steps[plan.name]]) for plan in done])
        self.started.update({plan.name: time.monotonic() for plan in done})
        self.not_live.update(
            {plan.name: str(wrong[plan.name]) for plan in plans if plan not in done and plan not in restarting}
        )
        again = [replace(plan, steps=(Stop(plan.name), Start(plan.name), *plan.steps)) for plan in restarting]
        self._stop(again)
        self._start([plan for plan in again if self.outcomes[plan.name].error is None])

    def _jobs(self, verb: str, plans: t.Sequence[GuestPlan], *, timeout: float, block: bool = True) -> str:
        try:
            return _systemd.jobs(self.commands, verb, [plan.name for plan in plans], timeout=timeout, block=block)
        except CommandError as error:
            return error.text()

    def _not_started(self, plan: GuestPlan, unit: Unit, complaint: str) -> FleetError:
        log = _systemd.journal(self.commands, plan.name)
        seen = not_up(unit)
        if complaint.strip() and unit.active_state == "inactive":
            seen += f"; systemctl said: {complaint.strip()}"
        return FleetError(
            f"{seen}. Its journal ends with:\n{log or '(nothing)'}",
            subject=plan.wish.subject,
            field="state",
        )


def started(unit: Unit, now: float) -> bool | None:
    """Whether the unit is up to stay (True), will not be (False), or is not decided yet (None).

    *now* is in seconds of CLOCK_MONOTONIC.
    """
    if unit.active_state == "failed" or unit.restarts >= LOOP:
        return False
    if unit.active_state == "inactive" and not unit.waiting:
        # The start job has ended, and nothing will start it again: a condition or a dependency failed.
        return False
    if unit.active and now - unit.active_since / 1e6 >= SETTLE:
        return True
    return None


def not_up(unit: Unit) -> str:
    """What is said of a guest that is not up to stay."""
    seen = f"did not stay up: the unit is {unit.active_state} ({unit.result})"
    return f"{seen} after {unit.restarts} restarts" if unit.restarts else seen


def _until(plan: GuestPlan) -> t.Iterator[Step]:
    """The steps before it is waited for whether the guest is healthy; all where nobody waits."""
    return itertools.takewhile(lambda step: not isinstance(step, Await), plan.steps)


def _about(plan: GuestPlan, option: str, error: FleetError) -> FleetError:
    """The *error* as one of this guest's option."""
    return FleetError(error.seen, subject=plan.wish.subject, field=option, hint=error.hint)


def _broken(plan: GuestPlan, step: Step, error: OSError) -> FleetError:
    """The *error* of the operating system that ended a step."""
    return FleetError(
        f"{step.words().split(': ', 1)[-1]}: {error.strerror} ({error.filename}).",
        subject=plan.wish.subject,
        field="state",
        hint="See to it on the host and run again; what was done so far is kept.",
    )
