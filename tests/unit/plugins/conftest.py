# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests of the plugins share."""

from __future__ import annotations

import grp
import json
import os
import typing as t
from concurrent.futures import Executor, Future
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.microvm.fleet.plugins.module_utils import _guest_settle, _systemd
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost

# Why guests are not healthy, by their names or by the runners that they have.
Verdicts = dict[str, str | None]


@pytest.fixture(autouse=True)
def owners(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """The owners that files were given, by path: the tests are not always root, and have no group of that name.

    Nothing is flushed to the disk either: what the tests lose in a power cut is no loss.
    """
    given: dict[str, tuple[int, int]] = {}

    def chown(path: t.Any, uid: int, gid: int, **_options: t.Any) -> None:
        given[str(path)] = (uid, gid)

    def fchown(handle: int, uid: int, gid: int) -> None:
        given[os.readlink(f"/proc/self/fd/{handle}")] = (uid, gid)

    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(os, "fchown", fchown)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(grp, "getgrnam", lambda name: grp.struct_group((name, "x", 78, [])))
    return given


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """A host that the role has prepared, without guests."""
    return FakeHost(tmp_path)


class AtOnce(Executor):
    """In place of threads: does what it is given right away, so that tests see the same order each time."""

    def __init__(self, max_workers: int | None = None) -> None:
        """As many as there may be is one."""

    def submit(self, fn: t.Callable[..., t.Any], /, *args: t.Any, **kwargs: t.Any) -> Future[t.Any]:
        """As the real one."""
        future: Future[t.Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class Oracle:
    """In place of the wait: verdicts at the first look."""

    def __init__(self, verdicts: Verdicts, commands: t.Any) -> None:
        self._verdicts = verdicts
        self._commands = commands
        self._names: list[str] = []

    def add(self, name: str, _health: t.Any, _started: float, **_options: t.Any) -> None:
        """Wait for a guest."""
        self._names.append(name)

    def look(self) -> Verdicts:
        """What is known of guests by now."""
        names, self._names = self._names, []
        units = _systemd.show(self._commands) if names else {}
        up = {name for name, unit in units.items() if unit.active}
        current = {name: os.readlink(self._commands.paths.guest(name, "current")) for name in names}
        return {
            name: self._verdicts.get(name, self._verdicts.get(current[name]))
            if name in up
            else "its unit is not active"
            for name in names
        }

    def close(self) -> None:
        """There is nothing to end."""


@pytest.fixture(autouse=True)
def judge(monkeypatch: pytest.MonkeyPatch) -> Verdicts:
    """Verdicts of the engine at once: a guest is healthy when its unit is active, and nothing is said of it here."""
    verdicts: Verdicts = {}
    monkeypatch.setattr(_guest_settle, "Waiting", lambda commands, **_options: Oracle(verdicts, commands))
    monkeypatch.setattr(_guest_settle, "ThreadPoolExecutor", AtOnce)
    return verdicts


Play = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def play(host: FakeHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Play:
    """Run a module on the host, as Ansible would: arguments in, the JSON that it printed out."""

    def run(module: t.Any, *, check: bool = False, diff: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
        monkeypatch.setattr(module, "Paths", lambda: host.paths)
        monkeypatch.setattr(module, "Commands", lambda: host)
        given = {**arguments, "_ansible_check_mode": check, "_ansible_diff": diff}
        with patch_module_args(given), pytest.raises(SystemExit) as ended:
            module.main()
        said = capsys.readouterr()
        answer: dict[str, t.Any] = json.loads(said.out)
        assert bool(ended.value.code) is answer.get("failed", False)
        # Where parts of the controller were loaded before, warnings are told at once, and not with the answer.
        assert said.err == "" or said.err.startswith("[WARNING]: ")
        if said.err:
            answer.setdefault("warnings", [said.err])
        return answer

    return run
