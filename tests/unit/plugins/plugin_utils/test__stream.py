# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller between two ends, which are processes as they are on hosts."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path
from unittest import mock

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.plugin_utils._stream import (
    ANY_PYTHON,
    BOOT,
    Endpoint,
    controller,
    endpoint,
    pipe,
    python_of,
    user_of,
)

MIB = 1 << 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / "a").write_bytes(os.urandom(3 * MIB))
    (directory / "b").write_bytes(b"b")
    return directory


@pytest.fixture
def sink(tmp_path: Path) -> Path:
    return tmp_path / "sink"


def shell(script: str, name: str = "host odd") -> Endpoint:
    """An end that is started by a shell with *script*; ``$PYTHON`` is the program."""
    boot = f"{shlex.quote(sys.executable)} -c {shlex.quote(BOOT)}"
    return Endpoint(name, ("/bin/sh", "-c", script.replace("$PYTHON", boot)))


def stream(
    source: Path, sink: Path, one: Endpoint | None = None, other: Endpoint | None = None, **options: t.Any
) -> t.Any:
    return pipe(
        one or controller(),
        other or controller(),
        send={"directory": str(source)},
        receive={"directory": str(sink)},
        **options,
    )


def test_files_go_from_one_end_to_the_other(source: Path, sink: Path) -> None:
    done = stream(source, sink)
    for name in ("a", "b"):
        assert (sink / name).read_bytes() == (source / name).read_bytes()
    assert [each["name"] for each in done.answer["files"]] == ["a", "b"]
    assert 3 * MIB < done.size < 4 * MIB
    assert len(done.sha256) == 64
    assert done.seconds > 0


def test_the_talk_of_a_login_is_left_out(source: Path, sink: Path) -> None:
    talk = "echo Welcome; echo BECOME-SUCCESS-abc; exec $PYTHON"
    stream(source, sink, shell(talk), shell(talk))
    assert (sink / "a").read_bytes() == (source / "a").read_bytes()


@pytest.mark.parametrize("which", ["source", "sink"])
def test_an_end_that_does_not_start_is_named_with_its_words(source: Path, sink: Path, which: str) -> None:
    broken = shell("echo no python here >&2; exit 127", name="host far")
    ends = (broken, None) if which == "source" else (None, broken)
    with pytest.raises(FleetError, match=r"host far.*could not be started. It ended with 127. no python here"):
        stream(source, sink, *ends)
    assert not sink.exists()


def test_a_program_that_is_not_there_is_an_error(source: Path, sink: Path) -> None:
    with pytest.raises(FleetError, match="/nowhere/ssh cannot be started"):
        stream(source, sink, Endpoint("host far", ("/nowhere/ssh",)))


def test_an_end_that_says_nothing_is_given_up(source: Path, sink: Path) -> None:
    with pytest.raises(FleetError, match="did not start in time"):
        stream(source, sink, shell("exec sleep 1000"), start_timeout=0.2)


def test_an_end_that_hangs_is_given_up(source: Path, sink: Path) -> None:
    hanging = shell("echo microvm-fleet-stream; exec sleep 1000")
    with pytest.raises(FleetError, match=r"nothing moved for 0.5 s"):
        stream(source, sink, hanging, stall_timeout=0.5)
    assert not sink.exists()


def test_a_source_that_dies_is_named(source: Path, sink: Path) -> None:
    dying = shell("$PYTHON | dd bs=65536 count=20 2>/dev/null; echo lost >&2; exit 9", name="host far")
    with pytest.raises(FleetError, match=r"host far.*ended in the middle. It ended with 9"):
        stream(source, sink, dying)
    assert not sink.exists()


def test_a_sink_that_is_killed_is_named_and_leaves_no_file_under_a_final_name(source: Path, sink: Path) -> None:
    with (source / "a").open("wb") as big:
        big.truncate(200 << 30)
    end = controller()
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def popen(*args: t.Any, **options: t.Any) -> t.Any:
        started.append(real(*args, **options))
        return started[-1]

    def kill_when_it_writes(*_args: t.Any) -> float:
        if len(started) == 2 and sink.is_dir() and list(sink.iterdir()):
            os.kill(started[0].pid, signal.SIGKILL)
        return time.perf_counter()

    with (
        mock.patch("subprocess.Popen", popen),
        mock.patch("time.monotonic", kill_when_it_writes),
        pytest.raises(FleetError, match=r"the controller.*ended in the middle"),
    ):
        pipe(end, end, send={"directory": str(source)}, receive={"directory": str(sink)})
    assert all(path.name.startswith(".microvm-fleet.") for path in sink.iterdir())
    assert all(each.poll() is not None for each in started)


def test_errors_of_an_end_are_of_its_host(source: Path, sink: Path) -> None:
    with pytest.raises(FleetError) as caught:
        stream(source / "none", sink, shell("exec $PYTHON", name="host one"))
    assert caught.value.subject == "host one"
    assert caught.value.seen == f"{source}/none: No such file or directory."
    sink.mkdir()
    (sink / "b").write_text("there")
    with pytest.raises(FleetError) as caught:
        stream(source, sink, None, shell("exec $PYTHON", name="host two"))
    assert caught.value.subject == "host two"
    assert caught.value.field == "path"
    assert (sink / "b").read_text() == "there"
    assert sorted(path.name for path in sink.iterdir()) == ["b"]


def test_a_password_is_given_when_it_is_asked_for(source: Path, sink: Path, tmp_path: Path) -> None:
    script = f"printf 'Password:' >&2; read -r word; printf %s \"$word\" > {tmp_path}/word; exec $PYTHON"
    asking = shell(script)
    asking = Endpoint(asking.name, asking.argv, b"Password:", "s3cret")
    stream(source, sink, asking, asking)
    assert (tmp_path / "word").read_text() == "s3cret"
    assert (sink / "a").read_bytes() == (source / "a").read_bytes()
    assert "s3cret" not in repr(asking)


@pytest.mark.parametrize(
    ("variables", "python"),
    [
        ({}, ANY_PYTHON),
        ({"ansible_python_interpreter": "auto_silent"}, ANY_PYTHON),
        ({"ansible_python_interpreter": "/opt/python"}, "/opt/python"),
        ({"ansible_facts": {"discovered_interpreter_python": "/usr/bin/python3.13"}}, "/usr/bin/python3.13"),
        (
            {"ansible_python_interpreter": "auto", "ansible_facts": {"discovered_interpreter_python": "/a"}},
            "/a",
        ),
    ],
)
def test_which_python_is_run(variables: dict[str, t.Any], python: str) -> None:
    assert python_of(variables) == python


class Connection:
    """What is asked of a connection plugin."""

    def __init__(self, transport: str = "ssh", become: t.Any = None) -> None:
        self.transport = transport
        self.become = become
        self.default_user = "me"
        self._shell = object()
        self.options = {"host": "10.0.0.1", "ssh_executable": "/bin/ssh", "remote_user": "ops"}

    def get_option(self, name: str) -> t.Any:
        return self.options[name]

    def _build_command(self, binary: str, _subsystem: str, *words: str) -> list[bytes]:
        return [binary.encode(), b"-o", b"X=y", *(word.encode() for word in words)]


class Become:
    """What is asked of a become plugin."""

    def __init__(self, user: str = "root", password: str | None = None) -> None:
        self.options = {"become_user": user, "become_pass": password}
        self.prompt = "[sudo] password:" if password else ""

    def get_option(self, name: str) -> t.Any:
        return self.options[name]

    def build_become_command(self, command: str, _shell: t.Any) -> str:
        return f"sudo -u {self.options['become_user']} {command}"


def test_ssh_is_started_as_its_plugin_would() -> None:
    found = endpoint(Connection(), name="h", python="/usr/bin/python3", user="root")
    assert found.name == "host h"
    assert found.argv[:5] == ("/bin/ssh", "-o", "X=y", "10.0.0.1", found.argv[4])
    shell_words = shlex.split(found.argv[4])
    assert shell_words[:2] == ["/bin/sh", "-c"]
    assert shlex.split(shell_words[2]) == ["/usr/bin/python3", "-c", BOOT]


def test_become_is_the_plugins() -> None:
    found = endpoint(Connection(become=Become()), name="h", python="python3", user="ops")
    assert shlex.split(shlex.split(found.argv[4])[2])[:4] == ["sudo", "-u", "root", "python3"]
    assert (found.prompt, found.password) == (None, None)
    same = endpoint(Connection(become=Become(user="root")), name="h", python="python3", user="root")
    assert "sudo" not in same.argv[4]
    asked = endpoint(Connection(become=Become(password="word")), name="h", python="python3", user="ops")
    assert (asked.prompt, asked.password) == (b"[sudo] password:", "word")


def test_a_local_host_is_a_shell() -> None:
    found = endpoint(Connection("local", Become()), name="h", python="python3", user="me")
    assert found.argv[:2] == ("/bin/sh", "-c")
    assert found.argv[2].startswith("sudo -u root python3 -c ")


def test_other_connections_are_refused() -> None:
    with pytest.raises(InvalidWish, match=r"host h, ansible_connection.*plugin docker, which cannot stream"):
        endpoint(Connection("docker"), name="h", python="python3", user=None)


def test_who_logs_in() -> None:
    assert user_of(Connection("local")) == "me"
    assert user_of(Connection()) == "ops"
    silent = Connection()
    silent.options["remote_user"] = ""
    assert user_of(silent) is None
