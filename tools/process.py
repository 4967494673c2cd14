# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running programs, and saying so."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class ToolError(Exception):
    """Something that the person at the terminal has to know; shown without a traceback."""


@dataclass(frozen=True)
class Done:
    """What a program left: exit status, standard output and error in one text, seconds it took."""

    status: int
    output: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it ended with 0."""
        return self.status == 0


def say(text: str) -> None:
    """One line for the person at the terminal."""
    print(f"==> {text}", flush=True)


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    show: bool = False,
    each: Callable[[str, float], None] | None = None,
    timeout: float | None = None,
) -> Done:
    """Run *argv* and wait, at most *timeout* seconds.

    *show* passes its output on line by line as it comes; *each* is called with every line and the seconds since the
    start.
    *env* is added to the environment.  The program gets its own process group, which ends as a whole on time-out
    or interruption.  Status 124 is a time-out, as of timeout(1); 127 a program that is not there.
    """
    started = time.monotonic()
    lines: list[str] = []
    try:
        process = subprocess.Popen(
            [str(part) for part in argv],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError as error:
        return Done(127, f"{error}\n", 0.0)
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _end(process)

    timer = threading.Timer(timeout or 0, expire)
    if timeout is not None:
        timer.start()
    try:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.append(line)
                if each is not None:
                    each(line, time.monotonic() - started)
                if show:
                    sys.stdout.write(line)
                    sys.stdout.flush()
        process.wait()
    except BaseException:
        _end(process)
        process.wait()
        raise
    finally:
        timer.cancel()
    if expired.is_set():
        lines.append(f"did not end within {timeout:g} s\n")
    return Done(124 if expired.is_set() else process.returncode, "".join(lines), time.monotonic() - started)


def must(argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run *argv* and give its output.  Raises ToolError, with that output, when it fails."""
    done = run(argv, cwd=cwd, env=env)
    if not done.ok:
        words = " ".join(str(part) for part in argv)
        raise ToolError(f"{words} ended with {done.status}:\n{done.output.rstrip()}")
    return done.output


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
