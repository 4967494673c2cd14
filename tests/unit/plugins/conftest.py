# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests of the plugins share."""

from __future__ import annotations

import grp
import json
import os
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.microvm.fleet.plugins.module_utils import _guest_apply, _systemd
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


@pytest.fixture(autouse=True)
def judge(monkeypatch: pytest.MonkeyPatch) -> Verdicts:
    """Verdicts of the engine at once: a guest is healthy when its unit is active, and nothing is said of it here."""
    verdicts: Verdicts = {}

    def at_once(commands: t.Any, healths: t.Mapping[str, t.Any], **_options: t.Any) -> dict[str, str | None]:
        units = _systemd.show(commands)
        up = {name for name, unit in units.items() if unit.active}
        return {
            name: verdicts.get(name, verdicts.get(os.readlink(commands.paths.guest(name, "current"))))
            if name in up
            else "its unit is not active"
            for name in healths
        }

    monkeypatch.setattr(_guest_apply, "await_healthy", at_once)
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
