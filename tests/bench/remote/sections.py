# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module of an exploded payload on the host and says where its time goes.

Usage: sections.py DEBUG_DIR [applies], the directory that ``AnsiballZ_*.py explode`` names, and whether the run changes
something.  Functions are wrapped before those modules are loaded that take them over by name; the time of one is
without that of those that it calls.
"""

from __future__ import annotations

import functools
import importlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from typing import Any

UTILS = "ansible_collections.microvm.fleet.plugins.module_utils."
# Module, class or "", function, section.  In the order of loading.
WRAPPED = (
    ("_files", "", "sync_directory", "flushing"),
    ("_files", "", "flush", "flushing"),
    ("_files", "", "write_file", "writing files"),
    ("_files", "", "write_link", "writing links"),
    ("_contract", "", "read_runner", "reading runners"),
    ("_guest_observe", "", "record_of_text", "reading records: JSON"),
    ("_guest_observe", "", "observe", "reading directories"),
    ("_guest_observe", "", "describe", "results: describing guests"),
    ("_guest_wish", "", "read_wishes", "wishes"),
    ("_guest_plan", "", "plan", "planning"),
    ("_guest_plan", "", "conflicts", "planning: conflicts"),
    ("_guest_apply", "Apply", "finish", "applying: the rest"),
    ("_guest_apply", "Apply", "prepare", "applying: the rest"),
    ("_guest_run", "", "converge", "the rest of the engine"),
)


class Clock:
    """Exclusive seconds by section."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.stack: list[str] = []
        self.since = time.perf_counter()

    def switch(self) -> None:
        """Book the time since the last switch."""
        now = time.perf_counter()
        if self.stack:
            self.spent[self.stack[-1]] = self.spent.get(self.stack[-1], 0.0) + now - self.since
        self.since = now

    def section(self, name: str, action: Callable[[], Any]) -> Any:
        """Run *action* and book its time to *name*."""
        self.switch()
        self.stack.append(name)
        try:
            return action()
        finally:
            self.switch()
            self.stack.pop()

    def wrap(self, holder: Any, function: str, section: str) -> None:
        """Have *function* of *holder* booked to *section*; one that is not there any more is left out."""
        wrapped = getattr(holder, function, None)
        if wrapped is None:
            return

        @functools.wraps(wrapped)
        def timed(*arguments: Any, **options: Any) -> Any:
            return self.section(section, lambda: wrapped(*arguments, **options))

        setattr(holder, function, timed)

    def wrap_commands(self, commands: Any) -> None:
        """Have each program of the host booked to its own name."""
        run = commands.run

        @functools.wraps(run)
        def timed(this: Any, argv: Any, **options: Any) -> Any:
            words = [os.path.basename(argv[0]), *(word for word in argv[1:] if word[:1] != "-" and " " not in word)][:2]
            if argv[0] == "nix-store":
                words = list(argv[:2])
            return self.section(f"programs: {' '.join(words)}", lambda: run(this, argv, **options))

        commands.run = timed


def main(directory: str, *, applies: bool) -> None:
    """Run the module, and print the sections as the last line.  Only a run that *applies* loads what does."""
    clock = Clock()
    sys.path.insert(0, directory)
    basic = clock.section("loading Ansible's part", lambda: importlib.import_module("ansible.module_utils.basic"))
    for name, holder, function, section in WRAPPED:
        if name == "_guest_apply" and not applies:
            continue
        module = clock.section("loading the collection", functools.partial(importlib.import_module, UTILS + name))
        clock.wrap(getattr(module, holder) if holder else module, function, section)
    clock.wrap_commands(importlib.import_module(UTILS + "_command").Commands)
    clock.wrap(basic.AnsibleModule, "__init__", "reading and checking arguments")
    clock.wrap(basic.AnsibleModule, "_return_formatted", "writing the result")
    loader = importlib.import_module("ansible.module_utils._internal._ansiballz._loader")
    with open(os.path.join(directory, "args"), "rb") as stream:
        parameters = stream.read()
    with suppress(SystemExit), redirect_stdout(io.StringIO()):
        clock.section(
            "the rest of the module",
            lambda: loader.run_module(
                json_params=parameters,
                profile="legacy",
                module_fqn="ansible_collections.microvm.fleet.plugins.modules.microvm_guests",
                modlib_path=directory,
                extensions={},
            ),
        )
    print(json.dumps(sorted(clock.spent.items())))


if __name__ == "__main__":
    main(sys.argv[1], applies="applies" in sys.argv[2:])
