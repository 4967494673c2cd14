# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The scripts of the profiles with a Docker engine, with a stand-in for the engine; a real one is for make profiles."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import typing as t
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS: t.Final = (
    Path(__file__).resolve().parents[4] / "roles" / "flake" / "files" / "microvm-fleet" / "nix" / "profiles" / "docker"
)
TIMEOUT: t.Final = 60
TOKEN: t.Final = "SWMTKN-1-3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl-1awxwuwd3z9j1z3puu7rcgdbx"
# Every program notes its arguments.  An engine is a directory: state, address, controls, port, error.
NOTE: t.Final = '#!/bin/bash\nprintf "%s\\n" "${0##*/} $*" >> "$ENGINE/calls"\n'
DOCKER: t.Final = r"""
case "$1 ${2-}" in
  info*)
    [ ! -e "$ENGINE/silent" ] || exit 1
    case $3 in
      *LocalNodeState*)
        cat "$ENGINE/state"
        # What comes next is what the engine says the next time.
        [ ! -e "$ENGINE/next" ] || mv "$ENGINE/next" "$ENGINE/state"
        ;;
      *NodeAddr*) echo "$(<"$ENGINE/address") $(<"$ENGINE/controls") $(<"$ENGINE/port")" ;;
      *Error*) cat "$ENGINE/error" ;;
    esac
    ;;
  'swarm init')
    [ ! -e "$ENGINE/refusal" ] || { cat "$ENGINE/refusal" >&2; exit 1; }
    echo active > "$ENGINE/state"
    echo true > "$ENGINE/controls"
    ;;
  *) exit 64 ;;
esac
"""
CURL: t.Final = r"""
cat > "$ENGINE/sent"
[ ! -e "$ENGINE/refusal" ] || { cat "$ENGINE/refusal"; exit 22; }
echo pending > "$ENGINE/state"
echo active > "$ENGINE/next"
"""
PASSED: t.Final = ("cat", "date", "mv")
SHELLS: t.Final = [path for name in ("bash", "dash") if (path := shutil.which(name))]


@dataclass(frozen=True)
class Engine:
    """A stand-in for an engine, and what was asked of it."""

    place: Path
    shell: str

    def set(self, **values: str) -> None:
        for name, value in values.items():
            (self.place / name).write_text(f"{value}\n")

    def run(self, script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.shell, str(SCRIPTS / script), *arguments],
            env={"PATH": str(self.place / "bin"), "ENGINE": str(self.place), **env},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def swarm(self, role: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run("swarm.sh", role, *ADDRESS, "--patience", "0", *arguments, **env)

    def calls(self, program: str) -> list[str]:
        """What a program was called with."""
        noted = (self.place / "calls").read_text().splitlines() if (self.place / "calls").exists() else []
        return [line.partition(" ")[2] for line in noted if line.partition(" ")[0] == program]


ADDRESS: t.Final = ("--advertise", "10.5.1.11", "--data-path-port", "7789")
POOL: t.Final = ("--pool", "10.213.0.0/16", "--subnet-size", "24")
POOL_OF_DOCKER: t.Final = "--default-addr-pool 10.213.0.0/16 --default-addr-pool-mask-length 24"


@pytest.fixture(params=SHELLS)
def engine(tmp_path: Path, request: pytest.FixtureRequest) -> Engine:
    place = tmp_path / "engine"
    programs = place / "bin"
    programs.mkdir(parents=True)
    scripts = {"docker": DOCKER, "curl": CURL, "timeout": 'shift\nexec "$@"\n', "sleep": ""}
    scripts.update({name: f'PATH={os.defpath} exec {name} "$@"\n' for name in PASSED})
    for name, text in scripts.items():
        (programs / name).write_text(NOTE + text)
        (programs / name).chmod(0o755)
    made = Engine(place, request.param)
    made.set(state="inactive", address="10.5.1.11", controls="false", port="", error="")
    return made


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


def joining(token: Path, manager: str = "10.5.1.10") -> tuple[str, ...]:
    return "--join", manager, "--token-file", str(token)


def test_a_first_manager_makes_a_swarm(engine: Engine) -> None:
    done = engine.swarm("manager", *POOL)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "swarm: making a new swarm\nswarm: this node is a manager of the swarm, at 10.5.1.11\n"
    assert [call for call in engine.calls("docker") if call.startswith("swarm")] == [
        f"swarm init --advertise-addr 10.5.1.11 --data-path-port 7789 {POOL_OF_DOCKER}"
    ]


def test_a_second_run_only_looks(engine: Engine) -> None:
    assert engine.swarm("manager", *POOL).returncode == 0
    engine.set(port="7789")
    before = engine.calls("docker")
    done = engine.swarm("manager", *POOL)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "swarm: this node is a manager of the swarm, at 10.5.1.11\n"
    assert {call.partition(" ")[0] for call in engine.calls("docker")[len(before) :]} == {"info"}


@pytest.mark.parametrize(
    ("manager", "remote"),
    [
        ("10.5.1.10", "10.5.1.10:2377"),
        ("swarm.example.org", "swarm.example.org:2377"),
        ("fd00:5::a", "[fd00:5::a]:2377"),
    ],
)
def test_a_worker_joins(engine: Engine, token: Path, manager: str, remote: str) -> None:
    done = engine.swarm("worker", *joining(token, manager), "--patience", "20")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"swarm: joining the swarm of {remote}",
        "swarm: this node is a worker of the swarm, at 10.5.1.11",
    ]
    assert json.loads((engine.place / "sent").read_text()) == {
        "ListenAddr": "0.0.0.0:2377",
        "AdvertiseAddr": "10.5.1.11",
        "RemoteAddrs": [remote],
        "JoinToken": TOKEN,
    }
    (call,) = engine.calls("curl")
    assert call.endswith("http://localhost/swarm/join")


def test_the_token_is_in_no_arguments(engine: Engine, token: Path) -> None:
    assert engine.swarm("worker", *joining(token), "--patience", "20").returncode == 0
    assert "curl" in (engine.place / "calls").read_text()
    assert TOKEN not in (engine.place / "calls").read_text()


@pytest.mark.parametrize(
    ("variables", "socket"),
    [({}, "/run/docker.sock"), ({"DOCKER_HOST": "unix:///run/second.sock"}, "/run/second.sock")],
)
def test_the_engine_is_the_one_that_docker_asks(
    engine: Engine, token: Path, variables: dict[str, str], socket: str
) -> None:
    assert engine.swarm("worker", *joining(token), "--patience", "20", **variables).returncode == 0
    assert f"--unix-socket {socket} " in engine.calls("curl")[0]


def test_a_further_manager_joins(engine: Engine, token: Path) -> None:
    engine.set(controls="true", port="7789")
    done = engine.swarm("manager", *joining(token), "--patience", "20")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "swarm: this node is a manager of the swarm, at 10.5.1.11"


@pytest.mark.parametrize("port", ["", "0"])
def test_a_swarm_without_a_leader_does_not_know_its_port(engine: Engine, token: Path, port: str) -> None:
    engine.set(state="active", controls="true", port=port)
    done = engine.swarm("manager", *joining(token))
    assert (done.returncode, done.stderr) == (0, "")


def test_who_is_in_needs_no_token(engine: Engine, tmp_path: Path) -> None:
    engine.set(state="active")
    assert engine.swarm("worker", *joining(tmp_path / "missing")).returncode == 0
    assert engine.calls("curl") == []


def test_a_token_that_is_not_there_yet(engine: Engine, tmp_path: Path) -> None:
    done = engine.swarm("worker", *joining(tmp_path / "missing"))
    assert (done.returncode, done.stderr) == (1, f"swarm: the token cannot be read from {tmp_path / 'missing'}\n")
    assert engine.calls("curl") == []


@pytest.mark.parametrize(
    "content", ["", "hello", f" {TOKEN}", f"{TOKEN}\n{TOKEN}", 'SWMTKN-1-a", "b', "xSWMTKN-1-a", "SWMTKN-1-a b"]
)
def test_what_is_no_token(engine: Engine, token: Path, content: str) -> None:
    token.write_text(content)
    done = engine.swarm("worker", *joining(token))
    assert done.returncode == 3
    assert done.stderr == (f"swarm: {token} has no token; 'docker swarm join-token -q worker' on a manager prints it\n")
    assert engine.calls("curl") == []


def test_a_manager_that_refuses(engine: Engine, token: Path) -> None:
    engine.set(refusal='{"message": "invalid join token"}')
    done = engine.swarm("worker", *joining(token))
    assert done.returncode == 1
    assert done.stderr == '{"message": "invalid join token"}\nswarm: the engine is part of no swarm\n'
    assert "swarm: joining did not end well yet, see above" in done.stdout


def test_a_swarm_that_cannot_be_made(engine: Engine) -> None:
    engine.set(refusal="no such pool")
    done = engine.swarm("manager", *POOL)
    assert (done.returncode, done.stderr) == (1, "no such pool\nswarm: no swarm was made, see above\n")


def test_an_engine_that_does_not_answer(engine: Engine) -> None:
    engine.set(silent="")
    done = engine.swarm("manager", *POOL)
    assert (done.returncode, done.stderr) == (1, "swarm: the Docker engine did not answer within 0 s\n")


@pytest.mark.parametrize(
    ("values", "status", "words"),
    [
        ({"state": "pending", "error": "no leader"}, 1, "the engine is not yet part of the swarm: pending no leader"),
        ({"state": "locked"}, 3, "the swarm's state on this manager is locked: 'docker swarm unlock' opens it"),
        ({"state": "error", "error": "disk full"}, 3, "the engine says error: disk full"),
        ({"controls": "false"}, 3, "this node is a worker. It was left so; 'docker node promote' on a manager"),
        ({"address": "10.5.1.12"}, 3, "this node has the advertised address 10.5.1.12, and 10.5.1.11 is wished."),
        ({"port": "4789"}, 3, "this node has the data path port 4789, and 7789 is wished."),
    ],
)
def test_a_node_that_is_not_as_wished_is_left_as_it_is(
    engine: Engine, values: dict[str, str], status: int, words: str
) -> None:
    engine.set(**{"state": "active", "controls": "true", "port": "7789", **values})
    done = engine.swarm("manager", *POOL)
    assert done.returncode == status
    assert done.stderr.startswith(f"swarm: {words}")
    assert {call.partition(" ")[0] for call in engine.calls("docker")} == {"info"}


def test_a_worker_that_is_a_manager(engine: Engine, token: Path) -> None:
    engine.set(state="active", controls="true")
    done = engine.swarm("worker", *joining(token))
    assert done.returncode == 3
    assert done.stderr.startswith("swarm: this node is a manager. It was left so; 'docker node demote'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say manager or worker, not ''"),
        (("leader", *ADDRESS, *POOL), "say manager or worker, not 'leader'"),
        (("manager", *ADDRESS, "--pool"), "option --pool has no value"),
        (("manager", *ADDRESS, "--color", "red"), "there is no option --color"),
        (("manager", *POOL), "give --advertise and --data-path-port"),
        (("manager", *ADDRESS), "a new swarm needs --pool and --subnet-size"),
        (("worker", *ADDRESS), "a worker needs --join"),
        (("worker", *ADDRESS, "--join", "10.5.1.10"), "--join needs --token-file"),
        (
            ("worker", *ADDRESS, "--join", 'x"', "--token-file", "/nowhere"),
            "--advertise and --join want addresses, not '10.5.1.11' and 'x\"'",
        ),
    ],
)
def test_wrong_calls(engine: Engine, arguments: tuple[str, ...], words: str) -> None:
    done = engine.run("swarm.sh", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"swarm: {words}\n")
    assert engine.calls("docker") == []


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_a_secret_becomes_a_variable(engine: Engine, tmp_path: Path, end: str) -> None:
    secret, made = tmp_path / "secret", tmp_path / "environment"
    secret.write_text(f"a 'b' \"c\" $d{end}")
    done = engine.run("environment.sh", "AGENT_SECRET", str(secret), str(made))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert made.read_text() == "AGENT_SECRET=a 'b' \"c\" $d\n"
    assert made.stat().st_mode & 0o777 == 0o600
    assert not made.with_name("environment.new").exists()


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read"), ("\n", "is empty"), ("a\nb\n", "has more than one line")]
)
def test_a_secret_that_cannot_be_one(engine: Engine, tmp_path: Path, content: str | None, words: str) -> None:
    secret, made = tmp_path / "secret", tmp_path / "environment"
    if content is not None:
        secret.write_text(content)
    done = engine.run("environment.sh", "AGENT_SECRET", str(secret), str(made))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{secret} {words}\n")
    assert not made.exists()


def test_a_secret_without_a_place(engine: Engine) -> None:
    done = engine.run("environment.sh", "AGENT_SECRET")
    assert (done.returncode, done.stderr) == (2, "usage: environment.sh VARIABLE SECRET-FILE FILE\n")
