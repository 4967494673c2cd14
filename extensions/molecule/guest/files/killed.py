# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stands for the interpreter of one module: kills it when it is about to do $KILL_ON to the path $KILL_AT.

$KILL_ON has events of the interpreter's audit table: os.symlink, os.link and os.rename (to that path), os.remove, or
subprocess.Popen (of a command with that in one of its words).  With $KILL_AFTER it waits for such a command first.

The module comes on standard input, as Ansible sends it with pipelining.
"""

from __future__ import annotations

import os
import signal
import sys

KILL_AT = os.environ["KILL_AT"]
KILL_ON = os.environ["KILL_ON"].split()
waits_for = [os.environ["KILL_AFTER"]] if "KILL_AFTER" in os.environ else []


def runs(event: str, arguments: tuple[object, ...], word: str) -> bool:
    """Whether a command begins that has *word* in its words."""
    words = arguments[1] if event == "subprocess.Popen" else None
    return isinstance(words, (list, tuple)) and any(word in str(each) for each in words)


def watch(event: str, arguments: tuple[object, ...]) -> None:
    """Look at each event of the interpreter (PEP 578), which comes before the call is made."""
    if waits_for:
        if runs(event, arguments, waits_for[0]):
            waits_for.clear()
    elif event in KILL_ON and (KILL_AT in arguments or runs(event, arguments, KILL_AT)):
        os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(watch)
exec(compile(sys.stdin.read(), "<stdin>", "exec"))  # noqa: S102
