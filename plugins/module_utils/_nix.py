# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Flakes resolved, evaluated and built: one process each for any number of guests.

Private to the collection: it may change at any time.

Works with Nix 2.8 and later.  Evaluation is pure; names reach it as data (``--argstr``), never as code.
"""

from __future__ import annotations

import json
import os
import re
import time
import typing as t
from dataclasses import dataclass
from urllib.parse import quote

from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands, last_lines
from ansible_collections.microvm.fleet.plugins.module_utils._contract import Runner, runner_of_dict
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError

LOG_LINES: t.Final = 20
# Enough for any host, and far below the 128 KiB that one argument may have (execve(2)).
NAMES_AT_ONCE: t.Final = 1000
# Nix tries everything that waits for a free job again whenever one ends: a thousand runners at once take it an hour,
# and many open files.  So many are enough to keep a host busy.
BUILDS_AT_ONCE: t.Final = 50

FEATURES: t.Final = ("--extra-experimental-features", "nix-command flakes")

# Facts of guests, by the option names of microvm.nix.  Options without a default throw when they are read unset,
# so each of those is tried; those that not every release has may be missing.  Contexts are dropped: the answer must
# not make a build.  What names the system among the kernel's parameters is left out: it is a fact of its own.
FACTS: t.Final = """
{ flake, names }:
let
  configurations = (builtins.getFlake flake).nixosConfigurations or { };
  text = value: builtins.unsafeDiscardStringContext (toString value);
  try = fallback: value: let result = builtins.tryEval value; in if result.success then result.value else fallback;
  known = value: try null (if value == null then null else text value);
  texts = values: if values == null then [ ] else map text values;
  facts = config: let vm = config.microvm; in {
    path = text vm.declaredRunner.outPath;
    derivation = text vm.declaredRunner.drvPath;
    hypervisor = vm.hypervisor;
    host_name = try null (config.networking.hostName or null);
    toplevel = known (config.system.build.toplevel or null);
    kernel = known (vm.kernel or null);
    initrd = known (vm.initrdPath or null);
    kernel_params = try null (
      if vm ? kernelParams then
        builtins.concatStringsSep " " (
          builtins.filter (word: builtins.match "init=.*" word == null) (texts vm.kernelParams)
        )
      else
        null
    );
    mem = try null (vm.mem or null);
    vcpu = try null (vm.vcpu or null);
    interfaces = map (interface: {
      inherit (interface) id type;
      mac = try null interface.mac;
      link = try null (interface.macvtap.link or null);
      mode = try null (interface.macvtap.mode or null);
    }) vm.interfaces;
    volumes = map (volume: {
      image = text volume.image;
      size = try null (volume.size or null);
      mount_point = try null (volume.mountPoint or null);
      fs_type = try null (volume.fsType or null);
      read_only = try false (volume.readOnly or false);
      auto_create = try true (volume.autoCreate or true);
      label = known (volume.label or null);
      mkfs_extra_args = try [ ] (texts (volume.mkfsExtraArgs or null));
    }) vm.volumes;
    vsock_cid = try null (vm.vsock.cid or null);
    can_shutdown = try null (vm.declaredRunner.passthru.canShutdown or null);
  };
  answer = name:
    if !(configurations ? ${name}) then { missing = true; }
    else let config = configurations.${name}.config; in
      if !(config ? microvm) then { foreign = true; } else facts config;
in {
  answer = {
    guests = builtins.listToAttrs (map (name: { inherit name; value = answer name; }) (builtins.fromJSON names));
    available = builtins.attrNames configurations;
  };
}
"""


@dataclass(frozen=True)
class Flake:
    """A flake reference and what it is at this moment."""

    reference: str
    # What evaluation reads: locked, so it is the same flake however often it is read.
    url: str
    # What records keep: two references with the same identity have the same content.
    identity: str


@dataclass(frozen=True)
class Evaluated:
    """One guest as its flake describes it: its runner, and the derivation that builds it."""

    runner: Runner
    derivation: str


def resolve(commands: Commands, reference: str, *, timeout: float, subject: str | None = None) -> Flake:
    """What *reference* is now.  Raises CommandError when it cannot be fetched or is no flake."""
    try:
        metadata = commands.json(
            ["nix", *FEATURES, "flake", "metadata", "--json", "--no-write-lock-file", reference],
            timeout=timeout,
            subject=subject,
        )
    except CommandError as error:
        raise CommandError(
            f"{reference} cannot be read as a flake: {reason(error)}",
            subject=subject,
            field="flake",
            hint="See that it exists, has a flake.nix, and that root on the host may fetch it.",
            argv=error.argv,
            rc=error.rc,
            stderr=error.stderr,
        ) from error
    return flake_of_metadata(reference, metadata)


def flake_of_metadata(reference: str, metadata: t.Mapping[str, t.Any]) -> Flake:
    """The flake of what ``nix flake metadata --json`` printed.

    A Git tree with changes that are not committed has a hash of its content, but no locked reference; it is read
    from the store, where Nix has just copied it.
    """
    locked = metadata["locked"]
    url = metadata["url"]
    content = locked.get("narHash", "")
    directory = f"&dir={quote(locked['dir'])}" if locked.get("dir") else ""
    if "rev" not in locked and "narHash=" not in url:
        url = f"path:{metadata['path']}?narHash={quote(content, safe='')}{directory}"
    return Flake(reference=reference, url=url, identity=locked.get("rev", content) + directory)


def evaluate(
    commands: Commands, flake: Flake, names: t.Sequence[str], *, timeout: float, keep: bool
) -> dict[str, Evaluated | CommandError]:
    """Runners of the guests *names* of *flake*, or the error of each that has none.

    One process for all of them; only when it fails are halves tried, until the guests at fault are alone.
    With *keep* the derivations are written to the store, to be built; without, nothing is written there.
    """
    answers: dict[str, Evaluated | CommandError] = {}
    for start in range(0, len(names), NAMES_AT_ONCE):
        some = names[start : start + NAMES_AT_ONCE]
        try:
            answers.update(_evaluate(commands, flake, some, timeout=timeout, keep=keep))
        except CommandError as error:
            answers.update(_at_fault(commands, flake, some, error, timeout=timeout, keep=keep))
    return answers


def _evaluate(
    commands: Commands, flake: Flake, names: t.Sequence[str], *, timeout: float, keep: bool
) -> dict[str, Evaluated | CommandError]:
    """One process.  The attribute at the end of the command is why Nix applies the function to the arguments."""
    argv = ["nix", *FEATURES, "eval", "--json", "--no-write-lock-file"]
    if not keep:
        argv.append("--read-only")
    argv += ["--expr", FACTS, "--argstr", "flake", flake.url, "--argstr", "names", json.dumps(list(names)), "answer"]
    answer = commands.json(argv, timeout=timeout)
    return {name: _answer(flake, name, answer) for name in names}


def _at_fault(
    commands: Commands, flake: Flake, names: t.Sequence[str], error: CommandError, *, timeout: float, keep: bool
) -> dict[str, Evaluated | CommandError]:
    """Runners of those of *names* that evaluate, and an error for each that does not, by halving."""
    if error.rc is None or len(names) == 1:
        return {name: _failed(flake, name, error) for name in names}
    try:
        # A flake that does not even list its guests fails for all of them.
        _evaluate(commands, flake, (), timeout=timeout, keep=keep)
    except CommandError as whole:
        return {name: _failed(flake, name, whole) for name in names}
    answers: dict[str, Evaluated | CommandError] = {}
    parts = [names[: len(names) // 2], names[len(names) // 2 :]]
    while parts:
        part = parts.pop()
        try:
            answers.update(_evaluate(commands, flake, part, timeout=timeout, keep=keep))
        except CommandError as failed:
            if len(part) == 1 or failed.rc is None:
                answers.update({name: _failed(flake, name, failed) for name in part})
            else:
                parts += [part[: len(part) // 2], part[len(part) // 2 :]]
    return answers


def _answer(flake: Flake, name: str, answer: t.Mapping[str, t.Any]) -> Evaluated | CommandError:
    facts = answer["guests"][name]
    subject = f"guest {name}"
    if facts.get("missing"):
        others = ", ".join(answer["available"][:10]) or "no guest at all"
        return CommandError(
            f"{flake.reference} has no nixosConfigurations.{name}; it has {others}.",
            subject=subject,
            field="flake",
            hint="Add the guest to the flake, or correct the name.",
        )
    if facts.get("foreign"):
        return CommandError(
            f"nixosConfigurations.{name} of {flake.reference} is no MicroVM: it has no option microvm.",
            subject=subject,
            field="flake",
            hint="Import microvm.nixosModules.microvm in that configuration.",
        )
    return Evaluated(runner=runner_of_dict(facts), derivation=facts["derivation"])


def _failed(flake: Flake, name: str, error: CommandError) -> CommandError:
    return CommandError(
        f"nixosConfigurations.{name} of {flake.reference} does not evaluate: {reason(error)}",
        subject=f"guest {name}",
        field="flake",
        argv=error.argv,
        rc=error.rc,
        stderr=error.stderr,
    )


def reason(error: CommandError) -> str:
    """The words of Nix that say why: what follows its last ``error:``, after the trace of where it was."""
    if error.rc is None:
        return error.seen
    text = re.sub(r"^\(use '--show-trace'.*\n?", "", error.stderr, flags=re.MULTILINE)
    said = last_lines(re.split(r"^\s*error:\s*", text, flags=re.MULTILINE)[-1], LOG_LINES).strip()
    # Of a fetch that failed, only Git itself says why, and before Nix speaks.
    git = re.search(r"^fatal: (.*)$", text, re.MULTILINE)
    return f"{said} (git: {git.group(1)})" if git and git.group(0) not in said else said


def build(commands: Commands, wanted: t.Mapping[str, str], *, timeout: float) -> dict[str, CommandError]:
    """Build or fetch everything *wanted*: output path to the derivation that makes it, or to itself.

    The answer holds an error for each path that is not valid afterwards; an empty answer is success.  *timeout* is
    for all of it.  Who calls has made roots for the paths before, so the garbage collector cannot take them in between.
    """
    deadline = time.monotonic() + timeout
    by_source = sorted(wanted.items(), key=lambda item: item[1])
    errors: dict[str, CommandError] = {}
    for start in range(0, len(by_source), BUILDS_AT_ONCE):
        some = dict(by_source[start : start + BUILDS_AT_ONCE])
        errors.update(_build(commands, some, timeout=max(deadline - time.monotonic(), 1.0)))
    return errors


def _build(commands: Commands, wanted: t.Mapping[str, str], *, timeout: float) -> dict[str, CommandError]:
    """One process."""
    sources = sorted(set(wanted.values()))
    argv = ["nix-store", "--realise", "--keep-going", *sources]
    try:
        done = commands.run(argv, timeout=timeout, check=False)
    except CommandError as error:
        return dict.fromkeys(invalid(commands, wanted), error)
    if done.rc == 0:
        return {}
    blamed = broken_derivations(done.stderr)
    logs: dict[str, str] = {}
    errors = {}
    for path in invalid(commands, wanted):
        source = wanted[path]
        culprit = _culprit(commands, source, blamed)
        if culprit is not None and culprit not in logs:
            logs[culprit] = read_log(commands, culprit)
        log = logs.get(culprit, "") if culprit else ""
        if log:
            seen = f"the build of {os.path.basename(culprit or source)} failed; its log ends with:\n{log}"
        else:
            seen = f"cannot be built or fetched: {last_lines(done.stderr, LOG_LINES)}"
        errors[path] = CommandError(seen, argv=argv, rc=done.rc, stderr=done.stderr)
    return errors


# Up to Nix 2.28 in one line; later ones say "Cannot build ..." and give the reason in the next.
_BROKEN = re.compile(
    r"(?:builder for|Cannot build) '(/nix/store/[^'^]+\.drv)(?:\^[^']*)?'"
    r"(?:[^\n]* failed|\.\n?\s*Reason: builder)"
)


def broken_derivations(stderr: str) -> tuple[str, ...]:
    """Derivations whose own builder failed, by what ``nix-store --realise`` said (Nix 2.8 to 2.31)."""
    found = _BROKEN.findall(stderr)
    return tuple(dict.fromkeys(found))


def _culprit(commands: Commands, source: str, blamed: t.Sequence[str]) -> str | None:
    """Which of the derivations that failed is why *source* was not built."""
    if source in blamed:
        return source
    if not blamed or not source.endswith(".drv"):
        return None
    done = commands.run(["nix-store", "--query", "--requisites", source], check=False)
    needed = frozenset(done.stdout.split())
    return next((derivation for derivation in blamed if derivation in needed), None)


def read_log(commands: Commands, derivation: str) -> str:
    """The end of the log of the last build of *derivation*; empty when there is none."""
    done = commands.run(["nix-store", "--read-log", derivation], check=False)
    return last_lines(done.stdout, LOG_LINES) if done.rc == 0 else ""


def invalid(commands: Commands, paths: t.Iterable[str]) -> tuple[str, ...]:
    """Which of *paths* are not in the store."""
    wanted = sorted(set(paths))
    if not wanted:
        return ()
    done = commands.run(["nix-store", "--check-validity", "--print-invalid", *wanted], check=False)
    if done.rc != 0 and not done.stdout.strip():
        # The program itself failed, so nothing is known to be there.
        return tuple(wanted)
    missing = frozenset(done.stdout.split())
    return tuple(path for path in wanted if path in missing)
