# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The timer by which a host starts a guest again, and what it does when its time is up."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _resume
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths
from ansible_collections.microvm.fleet.tests.unit.support.recorded import Answers


class Host(Answers):
    """Programs that do nothing, and a systemctl of its own for what the timer runs."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.paths = Paths(str(root))
        self.stop, self.state = "2s", "inactive"
        self.started = root / "started"
        self.systemctl = root / "systemctl"
        os.makedirs(self.paths.marks)
        os.makedirs(self.paths.moving())
        os.makedirs(self.paths.locks)
        self.systemctl.write_text(f'#!/bin/sh\necho "$*" >> {self.started}\n', encoding="utf-8")
        self.systemctl.chmod(0o755)

    def find(self, name: str) -> str | None:
        return str(self.systemctl) if name == "systemctl" else shutil.which(name)

    def answer(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        if argv[:2] == ("systemctl", "stop"):
            return 5, "", "Unit not loaded."
        if argv[:2] == ("systemctl", "show"):
            if "TimeoutStopUSec" in argv[3]:
                return 0, f"Id=microvm@db1.service\nTimeoutStartUSec=1min\nTimeoutStopUSec={self.stop}\n", ""
            return 0, "\n".join(f"Id={unit}\nActiveState={self.state}\n" for unit in argv[4:]), ""
        return 0, "", ""

    def mark(self, *names: str) -> None:
        for name in names:
            Path(self.paths.marks, name).touch()

    def service(self) -> list[str]:
        """What the service would run."""
        argv = [*self.calls[-1]]
        return argv[argv.index("--service-type=oneshot") + 1 :]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def wait_for_a_lock(process: subprocess.Popen[bytes]) -> None:
    """Return when *process* waits for a lock (proc_locks(5) has it with an arrow then)."""
    deadline = time.monotonic() + 30
    while not any(
        "->" in line and f" {process.pid} " in line
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines()
    ):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_timer_and_what_goes_before_it(host: Host) -> None:
    _resume.arm(host, host.paths, "db1", patience=40)
    units = ("microvm-fleet-resume-db1.timer", "microvm-fleet-resume-db1.service")
    assert host.calls[1:-1] == [
        ("systemctl", "stop", *units),
        ("systemctl", "show", "--property", "Id,ActiveState", *units),
    ]
    assert host.calls[-1][0] == "systemd-run"
    wished = {f"--on-active={40 + 2 + _resume.LEEWAY}s", "--unit=microvm-fleet-resume-db1", "--collect"}
    assert wished <= set(host.calls[-1])
    assert all(os.path.isabs(host.service()[at]) for at in (0, 1, 2))


def test_a_guest_with_its_mark_is_started_once(host: Host) -> None:
    host.mark("db1", "db2", "db11")
    _resume.arm(host, host.paths, "db1", patience=40)
    for _time in range(2):
        subprocess.run(host.service(), check=True)
    assert host.started.read_text().splitlines() == [
        "reset-failed microvm@db1.service",
        "--no-block start microvm@db1.service",
    ]
    assert sorted(os.listdir(host.paths.marks)) == ["db11", "db2"]


def test_a_guest_without_one_is_left_as_it_is(host: Host) -> None:
    _resume.arm(host, host.paths, "db1", patience=40)
    subprocess.run(host.service(), check=True)
    assert not host.started.exists()


def test_a_guest_that_moves_is_held_no_more_when_it_is_started(host: Host) -> None:
    mark = Path(host.paths.moving("db1"))
    for path in (mark, Path(host.paths.moving("db11"))):
        path.touch()
    host.mark("db1")
    # What systemd has unloaded has no tries to forget, and systemctl fails.
    script = f'#!/bin/sh\n[ "$1" != reset-failed ] && [ ! -e {mark} ] && echo "$*" >> {host.started}\n'
    host.systemctl.write_text(script, encoding="utf-8")
    _resume.arm(host, host.paths, "db1", patience=40, moving=True)
    subprocess.run(host.service(), check=True)
    assert host.started.read_text() == "--no-block start microvm@db1.service\n"
    assert os.listdir(host.paths.moving()) == ["db11.json"]
    assert os.listdir(host.paths.marks) == ["db1"]


def test_a_stop_without_a_limit_is_waited_for(host: Host) -> None:
    host.stop = "infinity"
    _resume.arm(host, host.paths, "db1", patience=40)
    assert f"--on-active={40 + _resume.LONGEST_STOP + _resume.LEEWAY}s" in host.calls[-1]


def test_a_timer_that_does_not_go_is_said(host: Host) -> None:
    host.state = "activating"
    with pytest.raises(FleetError, match="could start the guest at any time"):
        _resume.disarm(host, "db1")
    with pytest.raises(FleetError, match="could start the guest at any time"):
        _resume.arm(host, host.paths, "db1", patience=40)
    assert host.count("systemd-run") == 0


def test_it_waits_for_the_lock_of_the_guest(host: Host) -> None:
    host.mark("db1")
    _resume.arm(host, host.paths, "db1", patience=40)
    with (
        _files.lock(os.path.join(host.paths.locks, "guest-db1"), what="guest db1"),
        subprocess.Popen(host.service()) as process,
    ):
        wait_for_a_lock(process)
        assert not host.started.exists()
        # A run that decides otherwise takes the mark away.
        os.unlink(os.path.join(host.paths.marks, "db1"))
        process.terminate()
    subprocess.run(host.service(), check=True)
    assert not host.started.exists()


@pytest.mark.parametrize("missing", ["flock", "find", "systemctl"])
def test_a_program_that_is_missing_is_said(host: Host, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    found: t.Callable[[str], str | None] = host.find
    monkeypatch.setattr(host, "find", lambda name: None if name == missing else found(name))
    with pytest.raises(FleetError, match=f"the program {missing} is not on this host"):
        _resume.arm(host, host.paths, "db1", patience=40)
    assert host.count("systemd-run") == 0
