# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running the host's own tools: found by name, bounded in time, read as text.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError

# Where Debian, a multi-user Nix and NixOS keep their programs; the PATH of an SSH session may lack any of them.
SEARCH_PATH: t.Final = (
    "/run/current-system/sw/bin",
    "/nix/var/nix/profiles/default/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
)


@dataclass(frozen=True)
class Completed:
    """What a command left behind."""

    argv: tuple[str, ...]
    rc: int
    stdout: str
    stderr: str


# Python learned to subscript it in 3.9, and hosts may have 3.8.
if t.TYPE_CHECKING:
    Popen = subprocess.Popen[str]
else:
    Popen = subprocess.Popen


class Group(Popen):
    """A program with a process group of its own: AnsibleModule.run_command knows no end of its time."""

    def __init__(self, argv: t.Sequence[str], *, stdin: bool, env: t.Mapping[str, str]) -> None:
        super().__init__(
            argv,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        )

    def end(self) -> None:
        """End the process and all of its group; that it has ended by itself meanwhile is no error."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class Commands:
    """Runs programs of the host.  *timeout* is in seconds and holds for every call that names no other.

    Replaced as a whole in unit tests by an object that answers from recorded output.
    """

    def __init__(self, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self._found: dict[str, str] = {}

    def find(self, name: str) -> str | None:
        """The absolute path of program *name*, or None."""
        if name not in self._found:
            path = os.pathsep.join((os.environ.get("PATH", ""), *SEARCH_PATH))
            found = shutil.which(name, path=path)
            if found is None:
                return None
            self._found[name] = found
        return self._found[name]

    def run(
        self,
        argv: t.Sequence[str],
        *,
        timeout: float | None = None,
        check: bool = True,
        stdin: str | None = None,
        env: t.Mapping[str, str] | None = None,
        subject: str | None = None,
        hint: str | None = None,
    ) -> Completed:
        """Run ``argv`` and wait.

        The child has its own process group, which is ended as a whole when the time is up.
        Raises CommandError when the program is missing, ran out of time, or (with *check*) ended with other than 0.
        """
        program = self.find(argv[0])
        if program is None:
            raise CommandError(
                f"the program {argv[0]} is not on this host.",
                subject=subject,
                hint=hint or "Install it, or run the role microvm.fleet.host first.",
                argv=argv,
            )
        limit = self.timeout if timeout is None else timeout
        # The tools' words are parsed, so they must not be translated.
        environment = dict(os.environ, LC_ALL="C.UTF-8", PATH=os.pathsep.join((os.path.dirname(program), *SEARCH_PATH)))
        environment.pop("LANGUAGE", None)
        environment.update(env or {})
        with Group([program, *argv[1:]], stdin=stdin is not None, env=environment) as process:
            try:
                stdout, stderr = process.communicate(stdin, timeout=limit)
            except subprocess.TimeoutExpired:
                process.end()
                stdout, stderr = process.communicate()
                raise CommandError(
                    f"{short(argv)} did not end within {limit:g} s.",
                    subject=subject,
                    hint=hint or "Raise the timeout, or see what the command waits for.",
                    argv=argv,
                    stdout=stdout,
                    stderr=stderr,
                ) from None
            except BaseException:
                process.end()
                process.wait()
                raise
        if check and process.returncode != 0:
            raise CommandError(
                f"{short(argv)} ended with {process.returncode}: {last_lines(stderr or stdout, 20)}",
                subject=subject,
                hint=hint,
                argv=argv,
                rc=process.returncode,
                stdout=stdout,
                stderr=stderr,
            )
        return Completed(tuple(argv), process.returncode, stdout, stderr)

    def json(self, argv: t.Sequence[str], **options: t.Any) -> t.Any:
        """Run ``argv`` and read its output as JSON; no output at all is None.  Raises as `run`."""
        done = self.run(argv, **options)
        if not done.stdout.strip():
            return None
        try:
            return json.loads(done.stdout)
        except ValueError as error:
            raise CommandError(
                f"{short(argv)} printed no JSON: {error}.",
                subject=options.get("subject"),
                argv=argv,
                rc=done.rc,
                stdout=done.stdout,
                stderr=done.stderr,
            ) from error


def short(argv: t.Sequence[str], limit: int = 120) -> str:
    """The command for a message, cut at *limit* characters: expressions and long lists say nothing there."""
    text = " ".join(argv).replace("\n", " ")
    return text if len(text) <= limit else text[:limit] + " ..."


def last_lines(text: str, count: int) -> str:
    """The last *count* lines of *text* that are not empty."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])
