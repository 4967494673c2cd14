# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The scripts of the profiles for clusters, with processes in place of containers."""

from __future__ import annotations

import os
import subprocess
import threading
import typing as t
from pathlib import Path

import pytest

SCRIPTS: t.Final = (
    Path(__file__).resolve().parents[4] / "roles" / "flake" / "files" / "microvm-fleet" / "nix" / "profiles" / "cluster"
)
TIMEOUT: t.Final = 60
TOKEN: t.Final = "0a" * 16
# Both say a line once they would hear a signal, and wait for one.
POLITE: t.Final = "trap 'echo ended > \"$0\"; exit' TERM; echo; while :; do read -r line & wait; done"
STUBBORN: t.Final = "trap 'echo asked >> \"$0\"' TERM; echo; while :; do read -r line & wait; done"


def run(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts as NixOS does: with errexit."""
    return subprocess.run(
        ["bash", "-e", str(SCRIPTS / script)],
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


class Container:
    """A process with a note of what happened to it, and its place in a control group that is a plain file."""

    def __init__(self, group: Path, script: str) -> None:
        group.mkdir(parents=True)
        self.note = group / "note"
        self.process = subprocess.Popen(
            ["bash", "-c", script, str(self.note)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()
        (group / "cgroup.procs").write_text(f"{self.process.pid}\n")
        # Reaped at once, as the runtime does.
        self.reaper = threading.Thread(target=self.process.wait, daemon=True)
        self.reaper.start()

    def ended(self) -> int:
        self.reaper.join(TIMEOUT)
        assert self.process.returncode is not None
        return self.process.returncode


Start = t.Callable[[Path, str], Container]


@pytest.fixture
def start() -> t.Iterator[Start]:
    started: list[Container] = []

    def begin(group: Path, script: str) -> Container:
        started.append(Container(group, script))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.reaper.join(TIMEOUT)
        for pipe in (one.process.stdin, one.process.stdout):
            assert pipe is not None
            pipe.close()


def test_pods_are_asked_and_waited_for(tmp_path: Path, start: Start) -> None:
    one = start(tmp_path / "kubepods.slice" / "pod1" / "a", POLITE)
    other = start(tmp_path / "kubepods" / "pod2" / "b", POLITE)
    done = run("end-pods.sh", FLEET_CGROUPS=str(tmp_path), FLEET_GRACE="30")
    assert (done.returncode, done.stderr) == (0, "")
    for container in (one, other):
        assert container.ended() == 0
        assert container.note.read_text() == "ended\n"


def test_what_does_not_end_is_killed(tmp_path: Path, start: Start) -> None:
    container = start(tmp_path / "kubepods.slice" / "pod1" / "a", STUBBORN)
    done = run("end-pods.sh", FLEET_CGROUPS=str(tmp_path), FLEET_GRACE="0")
    assert done.returncode == 0
    assert container.ended() == -9
    assert container.note.read_text() == "asked\n"


def test_what_is_no_pod_is_left_alone(tmp_path: Path, start: Start) -> None:
    container = start(tmp_path / "system.slice" / "k3s.service", POLITE)
    assert run("end-pods.sh", FLEET_CGROUPS=str(tmp_path), FLEET_GRACE="0").returncode == 0
    assert container.process.poll() is None
    assert not container.note.exists()


def test_a_node_without_pods_stops_at_once(tmp_path: Path) -> None:
    done = run("end-pods.sh", FLEET_CGROUPS=str(tmp_path), FLEET_GRACE="3600")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("status", [0, 1])
def test_the_script_of_k3s_comes_last(tmp_path: Path, start: Start, status: int) -> None:
    place = tmp_path / "bin"
    place.mkdir()
    killer = place / "k3s-killall.sh"
    killer.write_text(f"#!/bin/sh\necho killed all\nexit {status}\n")
    killer.chmod(0o755)
    container = start(tmp_path / "kubepods.slice" / "a", POLITE)
    done = run("end-pods.sh", FLEET_CGROUPS=str(tmp_path), FLEET_GRACE="30", PATH=f"{place}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (0, "killed all\n")
    assert container.ended() == 0


@pytest.fixture
def programs(tmp_path: Path) -> str:
    """A PATH whose install only notes owners, which the user of a test cannot give."""
    place = tmp_path / "bin"
    place.mkdir()
    install = place / "install"
    install.write_text(
        "#!/bin/bash\n"
        'kept=()\nwhile [ $# -gt 0 ]; do case "$1" in\n'
        '-o|-g) echo "$1 $2" >> "$INSTALLED"; shift 2 ;;\n*) kept+=("$1"); shift ;;\nesac; done\n'
        'exec /usr/bin/install "${kept[@]}"\n'
    )
    install.chmod(0o755)
    return f"{place}:{os.environ['PATH']}"


def put(tmp_path: Path, programs: str, *, authority: bool, **given: str) -> subprocess.CompletedProcess[str]:
    """Run secrets.sh with these credentials."""
    credentials = tmp_path / "credentials"
    credentials.mkdir(exist_ok=True)
    runtime = tmp_path / "runtime"
    runtime.mkdir(exist_ok=True)
    for name, content in given.items():
        (credentials / name.replace("_", "-")).write_text(content)
    return run(
        "secrets.sh",
        PATH=programs,
        INSTALLED=str(tmp_path / "installed"),
        CREDENTIALS_DIRECTORY=str(credentials),
        RUNTIME_DIRECTORY=str(runtime),
        SECRETS=str(tmp_path / "secrets"),
        AUTHORITY=str(tmp_path / "authority") if authority else "",
    )


def files(place: Path) -> dict[str, tuple[str, str]]:
    """Content and mode of every file of a directory."""
    return {path.name: (path.read_text(), f"{path.stat().st_mode & 0o7777:o}") for path in place.iterdir()}


def test_a_node_gets_the_token(tmp_path: Path, programs: str) -> None:
    done = put(tmp_path, programs, authority=False, kubernetes_token=f"{TOKEN}\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert files(tmp_path / "secrets") == {"apitoken.secret": (TOKEN, "600")}
    assert not (tmp_path / "authority").exists()
    assert not (tmp_path / "installed").exists()


def test_a_node_gets_the_certificate_of_the_authority(tmp_path: Path, programs: str) -> None:
    done = put(tmp_path, programs, authority=False, kubernetes_token=f"{TOKEN}\n", kubernetes_ca="CA\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert files(tmp_path / "secrets") == {"apitoken.secret": (TOKEN, "600"), "ca.pem": ("CA\n", "444")}


def test_a_master_that_makes_its_own_authority(tmp_path: Path, programs: str) -> None:
    done = put(tmp_path, programs, authority=True, kubernetes_token=f"{TOKEN}\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert files(tmp_path / "authority") == {"apitoken.secret": (TOKEN, "400")}
    link = tmp_path / "secrets" / "apitoken.secret"
    assert link.readlink() == tmp_path / "authority" / "apitoken.secret"
    assert (tmp_path / "authority").stat().st_mode & 0o777 == 0o700
    assert set((tmp_path / "installed").read_text().split()) == {"-o", "-g", "cfssl"}


def test_a_master_that_is_given_its_authority(tmp_path: Path, programs: str) -> None:
    done = put(
        tmp_path,
        programs,
        authority=True,
        kubernetes_token=f"{TOKEN}\n",
        kubernetes_ca="CA\n",
        kubernetes_ca_key="KEY\n",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert files(tmp_path / "authority") == {
        "apitoken.secret": (TOKEN, "400"),
        "ca.pem": ("CA\n", "444"),
        "ca-key.pem": ("KEY\n", "400"),
    }
    assert files(tmp_path / "secrets")["ca.pem"] == ("CA\n", "444")


@pytest.mark.parametrize("authority", [False, True])
def test_the_next_start_brings_what_is_new(tmp_path: Path, programs: str, authority: bool) -> None:
    for token in (TOKEN, "0b" * 16):
        done = put(tmp_path, programs, authority=authority, kubernetes_token=token, kubernetes_ca=f"CA of {token}")
        assert (done.returncode, done.stderr) == (0, "")
        found = files(tmp_path / "secrets")
        assert found["apitoken.secret"][0] == token
        assert found["ca.pem"][0] == f"CA of {token}"


def test_without_the_token_nothing_is_put(tmp_path: Path, programs: str) -> None:
    done = put(tmp_path, programs, authority=False)
    assert done.returncode != 0
    assert "kubernetes-token" in done.stderr
    assert not (tmp_path / "secrets").exists()


@pytest.mark.parametrize("white", ["", "\n", "\r\n", " \n\n"])
def test_white_space_around_the_token_is_not_part_of_it(tmp_path: Path, programs: str, white: str) -> None:
    assert put(tmp_path, programs, authority=True, kubernetes_token=f"{TOKEN}{white}").returncode == 0
    assert files(tmp_path / "authority") == {"apitoken.secret": (TOKEN, "400")}
    assert list((tmp_path / "runtime").iterdir()) == []


@pytest.mark.parametrize("token", ["", "0a", "0a" * 15, "0a" * 16 + "0", "0g" * 16, "K10::server:0a0b"])
def test_what_is_no_token(tmp_path: Path, programs: str, token: str) -> None:
    done = put(tmp_path, programs, authority=True, kubernetes_token=token)
    assert (done.returncode, done.stderr) == (
        1,
        f"The credential kubernetes-token has {len(token)} characters and is to be 32 hexadecimal digits.\n",
    )
    assert not (tmp_path / "secrets").exists()
