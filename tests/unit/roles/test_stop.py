# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The stop script of the units, with processes in place of hypervisors."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import threading
import typing as t
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "roles" / "host" / "files" / "scripts" / "stop.py"
DEADLINE = 30.0


def _load() -> t.Any:
    spec = importlib.util.spec_from_file_location("microvm_fleet_stop", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stop = _load()


class Hypervisor:
    """A process that lives until it is told to end; its arguments are what a hypervisor would have."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(["sh", "-c", "read line", "hypervisor", *arguments], stdin=subprocess.PIPE)
        # Popen waits for execve(2) to close its pipe, which the kernel does before it lays out the arguments.
        while not Path(f"/proc/{self.process.pid}/cmdline").read_bytes():
            os.sched_yield()
        # Reaped at once, as systemd does.
        self.reaper = threading.Thread(target=self.process.wait, daemon=True)
        self.reaper.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def power_off(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.reaper.join(DEADLINE)
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()


class Qmp:
    """A QMP server for one connection after the other; *answers* by command, in place of an empty return."""

    def __init__(self, path: Path, answers: dict[str, t.Any] | None = None, greeting: bytes | None = None) -> None:
        self.path = path
        self.answers = answers or {}
        self.greeting = greeting if greeting is not None else b'{"QMP": {"version": {}, "capabilities": []}}\n'
        self.commands: list[str] = []
        self.on_powerdown: t.Callable[[], None] = lambda: None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _address = self.listener.accept()
                with connection, connection.makefile("rwb") as stream:
                    stream.write(self.greeting)
                    stream.flush()
                    for line in stream:
                        command = json.loads(line)["execute"]
                        self.commands.append(command)
                        stream.write(b'{"event": "NIC_RX_FILTER_CHANGED"}\n')
                        stream.write(json.dumps(self.answers.get(command, {"return": {}})).encode() + b"\n")
                        stream.flush()
                        if command == "system_powerdown":
                            self.on_powerdown()


@pytest.fixture
def hypervisor() -> t.Iterator[t.Callable[..., Hypervisor]]:
    made: list[Hypervisor] = []

    def make(*arguments: str) -> Hypervisor:
        made.append(Hypervisor(*arguments))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory with a runner that ``booted`` leads to; the time for a stop is 2 seconds."""
    (tmp_path / "runner" / "bin").mkdir(parents=True)
    (tmp_path / "booted").symlink_to("runner")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stop, "budget", lambda _unit: 2.0)
    return tmp_path


def shutdown_script(state: Path, text: str) -> None:
    path = state / "runner" / "bin" / "microvm-shutdown"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ("2min 30s", 150.0),
        ("1min 1s", 61.0),
        ("500ms", 0.5),
        ("1h 2min", 3720.0),
        ("1d 1s", 86401.0),
        ("1.500s", 1.5),
        ("infinity", None),
        ("", None),
        ("5 parsecs", None),
        ("12parsecs", None),
    ],
)
def test_spans(span: str, expected: float | None) -> None:
    assert stop.seconds(span) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("2min 30s", 140.0),
        ("20s", 18.0),
        ("5s", 4.0),
        ("1s", 0.5),
        ("infinity", None),
        ("1h", 3590.0),
        ("gibberish", 140.0),
    ],
)
def test_budget_is_less_than_the_units_time(
    monkeypatch: pytest.MonkeyPatch, answer: str, expected: float | None
) -> None:
    asked: list[list[str]] = []

    def run(argv: list[str], **_options: t.Any) -> subprocess.CompletedProcess[str]:
        asked.append(argv)
        return subprocess.CompletedProcess(argv, 0, stdout=answer + "\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert stop.budget("microvm@web1.service") == expected
    assert asked[0][-1] == "microvm@web1.service"


def test_budget_without_an_answer(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def run(argv: list[str], **_options: t.Any) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(argv, 10)

    monkeypatch.setattr(subprocess, "run", run)
    assert stop.budget("microvm@web1.service") == 140.0
    assert "<4>systemd did not say how long microvm@web1.service may take" in capfd.readouterr().out


@pytest.mark.parametrize("pid", ["", "0", "abc"])
def test_nothing_to_stop(monkeypatch: pytest.MonkeyPatch, pid: str) -> None:
    monkeypatch.setenv("MAINPID", pid)
    assert stop.main(["stop.py", "web1"]) == stop.ENDED


def test_called_wrongly(capfd: pytest.CaptureFixture[str]) -> None:
    assert stop.main(["stop.py"]) == stop.MISUSED
    assert "usage" in capfd.readouterr().out


def test_process_that_has_gone(hypervisor: t.Callable[..., Hypervisor]) -> None:
    process = hypervisor()
    process.end()
    assert stop.Guest(process.pid).ended(0)


def test_process_without_pidfd(monkeypatch: pytest.MonkeyPatch, hypervisor: t.Callable[..., Hypervisor]) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    process = hypervisor()
    guest = stop.Guest(process.pid)
    assert not guest.ended(0)
    process.power_off()
    assert guest.ended(DEADLINE)


def test_qmp_socket_is_what_the_hypervisor_was_given(hypervisor: t.Callable[..., Hypervisor]) -> None:
    process = hypervisor("-m", "128M", "-qmp", "unix:web1.sock,server,nowait", "-nographic")
    assert stop.Guest(process.pid).qmp_socket() == "web1.sock"
    assert stop.Guest(hypervisor("-qmp").pid).qmp_socket() is None
    assert stop.Guest(hypervisor("-qmp", "tcp:localhost:4444").pid).qmp_socket() is None


@pytest.mark.parametrize(
    ("answers", "greeting", "expected"),
    [
        ({}, None, None),
        ({"system_powerdown": {"error": {"desc": "no such command"}}}, None, "system_powerdown: no such command"),
        ({"qmp_capabilities": {"error": {}}}, None, "qmp_capabilities: refused"),
        ({}, b'{"hello": 1}\n', "sent no QMP greeting"),
        ({}, b"SSH-2.0\n", "Expecting value"),
    ],
)
def test_powerdown(tmp_path: Path, answers: dict[str, t.Any], greeting: bytes | None, expected: str | None) -> None:
    server = Qmp(tmp_path / "s", answers, greeting)
    said = stop.powerdown(str(server.path))
    if expected is None:
        assert said is None
        assert server.commands == ["qmp_capabilities", "system_powerdown"]
    else:
        assert expected in said


def test_powerdown_without_a_server(tmp_path: Path) -> None:
    assert "No such file" in stop.powerdown(str(tmp_path / "s"))


def test_script_that_works(
    state: Path, hypervisor: t.Callable[..., Hypervisor], capfd: pytest.CaptureFixture[str]
) -> None:
    process = hypervisor()
    shutdown_script(state, "touch asked; exec cat")
    stopped: list[int] = []
    thread = threading.Thread(target=lambda: stopped.append(stop.stop("web1", stop.Guest(process.pid))))
    thread.start()
    deadline = threading.Event()
    while not (state / "asked").exists() and thread.is_alive():
        deadline.wait(0.01)
    process.power_off()
    thread.join(DEADLINE)
    assert stopped == [stop.ENDED]
    assert "<6>guest web1 has shut down after" in capfd.readouterr().out


def test_input_of_the_script_stays_open(state: Path, hypervisor: t.Callable[..., Hypervisor]) -> None:
    """The script of QEMU's runners ends too early when it reads the end of its input."""
    process = hypervisor()
    shutdown_script(state, "cat; touch input-ended")
    assert stop.stop("web1", stop.Guest(process.pid)) == stop.KILLED_LATE
    assert not (state / "input-ended").exists()


def test_script_that_does_not_help_then_qmp(state: Path, hypervisor: t.Callable[..., Hypervisor]) -> None:
    process = hypervisor("-qmp", "unix:web1.sock,server")
    server = Qmp(state / "web1.sock")
    server.on_powerdown = process.power_off
    shutdown_script(state, "echo $$ >> asked")
    assert stop.stop("web1", stop.Guest(process.pid)) == stop.ENDED
    assert len((state / "asked").read_text().split()) == 1
    assert server.commands == ["qmp_capabilities", "system_powerdown"]


def test_script_that_holds_on_is_ended_before_qmp(state: Path, hypervisor: t.Callable[..., Hypervisor]) -> None:
    process = hypervisor("-qmp", "unix:web1.sock,server")
    server = Qmp(state / "web1.sock")
    server.on_powerdown = process.power_off
    shutdown_script(state, "echo $$ > script; exec cat")
    assert stop.stop("web1", stop.Guest(process.pid)) == stop.ENDED
    assert not Path("/proc", (state / "script").read_text().strip()).exists()


def test_guest_that_does_not_end(
    state: Path, hypervisor: t.Callable[..., Hypervisor], capfd: pytest.CaptureFixture[str]
) -> None:
    process = hypervisor("-qmp", "unix:web1.sock,server")
    Qmp(state / "web1.sock")
    shutdown_script(state, "exit 7")
    assert stop.stop("web1", stop.Guest(process.pid)) == stop.KILLED_LATE
    said = capfd.readouterr().out
    assert "<4>KILLED: guest web1 did not shut down within 2 s" in said
    assert "microvm-shutdown x" in said
    assert "QMP system_powerdown x" in said
    assert "last failure: microvm-shutdown ended with 7" in said


def test_guest_that_cannot_be_asked(
    state: Path, hypervisor: t.Callable[..., Hypervisor], capfd: pytest.CaptureFixture[str]
) -> None:
    assert state.exists()
    assert stop.stop("web1", stop.Guest(hypervisor().pid)) == stop.KILLED_UNASKED
    assert "<4>KILLED: the runner of guest web1 has no way to shut its guest down." in capfd.readouterr().out


def test_guest_whose_monitor_refuses(
    state: Path, hypervisor: t.Callable[..., Hypervisor], capfd: pytest.CaptureFixture[str]
) -> None:
    """stratovirt has a QMP socket and no powerdown."""
    process = hypervisor("-qmp", "unix:web1.sock,server")
    Qmp(state / "web1.sock", {"system_powerdown": {"error": {"desc": "not supported"}}})
    assert stop.stop("web1", stop.Guest(process.pid)) == stop.KILLED_UNASKED
    assert "(QMP system_powerdown: not supported)" in capfd.readouterr().out
