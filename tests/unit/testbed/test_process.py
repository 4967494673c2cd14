# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes are known for certain, and only those are signalled."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from microvm_testbed import process
from microvm_testbed.process import ProcessId

STAT = "{pid} ({name}) {state} 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 {start} 9999 100 184 1 1 0 0 0 0 0 0 0 0"


@pytest.mark.parametrize("name", ["sleep", "a b", "x) R 1 (", ") Z 9 9", ""])
def test_start_time_whatever_the_name_is(name: str) -> None:
    assert process.parse_start_time(STAT.format(pid=5, name=name, state="S", start=4711)) == 4711


@pytest.mark.parametrize("state", ["Z", "X"])
def test_the_dead_have_no_start_time(state: str) -> None:
    assert process.parse_start_time(STAT.format(pid=5, name="sleep", state=state, start=4711)) is None


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "600"])
    yield child
    child.kill()
    child.wait(timeout=30)


def test_a_process_is_itself(sleeper: subprocess.Popen[bytes]) -> None:
    found = ProcessId.of(sleeper.pid)
    assert found is not None
    assert found.alive()
    assert ProcessId.from_json(found.to_json()) == found


@pytest.mark.parametrize("change", [{"start": 1}, {"boot": "another"}])
def test_a_number_that_came_again_is_another_process(
    sleeper: subprocess.Popen[bytes], change: dict[str, object]
) -> None:
    found = ProcessId.of(sleeper.pid)
    assert found is not None
    assert not replace(found, **change).alive()  # type: ignore[arg-type]


def test_a_zombie_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    found = ProcessId.of(sleeper.pid)
    assert found is not None
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not found.alive()
    assert ProcessId.of(sleeper.pid) is None


@pytest.mark.parametrize("data", [None, {}, {"pid": 1, "start": 2}, {"pid": "1", "start": 2, "boot": "b"}])
def test_other_data_is_no_process(data: dict[str, object] | None) -> None:
    assert ProcessId.from_json(data) is None


def test_only_what_the_check_knows_is_killed(sleeper: subprocess.Popen[bytes]) -> None:
    assert process.kill_if(sleeper.pid, lambda: False) is False
    assert sleeper.poll() is None
    assert process.kill_if(sleeper.pid, lambda: True) is True
    assert sleeper.wait(timeout=30) == -signal.SIGKILL
    assert process.kill_if(sleeper.pid, lambda: True) is False


def test_namespaces_are_compared_by_what_they_are() -> None:
    own = os.stat("/proc/self/ns/net")
    assert process.in_netns(os.getpid(), own)
    assert not process.in_netns(os.getpid(), os.stat("/proc/self/ns/mnt"))
    assert not process.in_netns(2**22 + 1, own)


def test_this_process_is_no_containers_first() -> None:
    assert process.is_init(os.getpid()) is False
    assert process.is_init(2**22 + 1) is False
