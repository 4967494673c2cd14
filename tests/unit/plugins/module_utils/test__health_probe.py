# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests that are asked: servers on the loopback, and what ssh would be called with."""

from __future__ import annotations

import contextlib
import socket
import threading
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _health_probe
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError
from ansible_collections.microvm.fleet.plugins.module_utils._health import Answer
from ansible_collections.microvm.fleet.plugins.module_utils._health_probe import HostKeys, ask, over_ssh, ssh_argv
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import Access, Probe
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths
from ansible_collections.microvm.fleet.tests.unit.support.recorded import Answers

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHgBAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


class Server:
    """Answers each connection with *replies*, one for each time the other side is read; then closes or waits."""

    def __init__(self, *replies: bytes, waits: bool = False, family: int = socket.AF_INET) -> None:
        self.heard: list[bytes] = []
        self._replies = replies
        self._waits = waits
        self._over = threading.Event()
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        self._socket.listen()
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _peer = self._socket.accept()
                with connection:
                    if self._replies:
                        self.heard.append(connection.recv(65536))
                    for reply in self._replies:
                        connection.sendall(reply)
                    if self._waits:
                        self._over.wait()

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture(name="serve")
def _serve() -> t.Iterator[t.Callable[..., Server]]:
    servers: list[Server] = []

    def serve(*replies: bytes, **options: t.Any) -> Server:
        servers.append(Server(*replies, **options))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


Serve = t.Callable[..., Server]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def tcp(port: int) -> Answer:
    return ask(Commands(), Probe("tcp", timeout=1, address="127.0.0.1", port=port))


def http(port: int, **options: t.Any) -> Answer:
    options.setdefault("address", "127.0.0.1")
    return ask(Commands(), Probe("http", timeout=1, port=port, **options))


def test_tcp(serve: Serve) -> None:
    assert tcp(serve().port) == Answer()
    assert tcp(closed_port()) == Answer(wrong="connection refused")


@pytest.mark.parametrize(
    ("replies", "options", "expected"),
    [
        ((HEAD + b"Content-Length: 2\r\n\r\nok",), {}, Answer()),
        ((HEAD + b"Content-Length: 2\r\n\r\nok",), {"body": "ok"}, Answer(page="ok")),
        ((HEAD + b"\r\nup to the end",), {"body": "x"}, Answer(page="up to the end")),
        ((HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\no", b"k\r\n0\r\n\r\n"), {"body": "x"}, Answer(page="ok")),
        ((HEAD + b"\r\n\xff\xfe",), {"body": "x"}, Answer(page="\ufffd\ufffd")),
        ((b"HTTP/1.0 200 OK\r\n\r\nold",), {"body": "x"}, Answer(page="old")),
        ((b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",), {}, Answer(wrong="status 503 instead of 200")),
        ((b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n",), {}, Answer(wrong="status 302 instead of 200")),
        (
            (b"HTTP/1.1 404 No\r\n\r\n",),
            {"status": ((200, 299), (301, 301))},
            Answer(wrong="status 404 instead of 200-299 or 301"),
        ),
        ((b"HTTP/1.1 204 No Content\r\n\r\n",), {"status": ((200, 299),)}, Answer()),
        ((b"SSH-2.0-OpenSSH\r\n",), {}, Answer(wrong="the answer is not HTTP (BadStatusLine)")),
        ((b"",), {}, Answer(wrong="the answer is not HTTP (RemoteDisconnected)")),
        # What came of it is what counts.
        ((HEAD + b"Content-Length: 9\r\n\r\nok",), {"body": "x"}, Answer(page="ok")),
        ((HEAD + b"x" * 70000 + b"\r\n\r\n",), {}, Answer(wrong="the answer is not HTTP (LineTooLong)")),
    ],
)
def test_http(serve: Serve, replies: tuple[bytes, ...], options: dict[str, t.Any], expected: Answer) -> None:
    server = serve(*replies)
    assert http(server.port, **options) == expected


def test_what_is_asked(serve: Serve) -> None:
    server = serve(HEAD + b"\r\n")
    assert http(server.port, path="/a?b=c") == Answer()
    asked = server.heard[0].decode().split("\r\n")
    assert asked[0] == "GET /a?b=c HTTP/1.1"
    assert f"Host: 127.0.0.1:{server.port}" in asked
    assert "Connection: close" in asked


def test_http_over_ipv6(serve: Serve) -> None:
    try:
        server = serve(HEAD + b"\r\n", family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert http(server.port, address="::1") == Answer()
    assert f"Host: [::1]:{server.port}\r\n".encode() in server.heard[0]


def test_a_page_without_end(serve: Serve) -> None:
    server = serve(HEAD + b"\r\n", *(b"x" * 65536 for _part in range(32)))
    answer = http(server.port, body="x")
    assert answer.page == "x" * _health_probe.PAGE


@pytest.mark.parametrize("replies", [(), (b"HTTP/1.1 200 OK\r\nX-Slow: y",), (HEAD + b"Content-Length: 9\r\n\r\nok",)])
def test_a_guest_that_does_not_go_on(serve: Serve, replies: tuple[bytes, ...]) -> None:
    assert http(serve(*replies, waits=True).port, body="x") == Answer(wrong="no answer within 1 s")


def test_the_time_of_an_answer_is_that_of_all_its_parts() -> None:
    """Each part would come in time, and all of them would not."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x")
        late = _health_probe._Timed(ours, 0.0)
        with pytest.raises(TimeoutError):
            late.readinto(bytearray(1))


class Ssh(Answers):
    """A host with an ssh that says what it is told to."""

    def __init__(self, rc: int, stderr: str = "") -> None:
        super().__init__()
        self._answer = rc, stderr

    def find(self, name: str) -> str | None:
        return f"/usr/bin/{name}"

    def answer(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        assert argv[0] == "ssh"
        rc, stderr = self._answer
        return rc, "what the guest says, which is for nobody", stderr


CHANGED = """@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
The fingerprint for the ED25519 key sent by the remote host is
SHA256:2PrT2xJvqN2cMZo2J3Z0cA8tW9eXq5m1xj9wC5eC5wA.
Host key verification failed.
"""
HOSTS = "/var/lib/microvm-fleet/ssh/web1"


@pytest.mark.parametrize(
    ("rc", "stderr", "access", "expected"),
    [
        (0, "", Access("10.1.0.11"), None),
        (3, "", Access("10.1.0.11"), "the command ended with 3"),
        (1, "warning\nno such unit\n", Access("10.1.0.11"), "the command ended with 1: no such unit"),
        (1, "x" * 500, Access("10.1.0.11"), "the command ended with 1: " + "x" * 200),
        (
            255,
            "ssh: connect to host 10.1.0.11 port 22: Connection refused\r\n",
            Access("10.1.0.11"),
            "ssh: connect to host 10.1.0.11 port 22: Connection refused",
        ),
        (255, "", Access("10.1.0.11"), "ssh ended with 255"),
        (
            255,
            CHANGED,
            Access("10.1.0.11"),
            f"the guest shows another SSH host key than {HOSTS}, learned in this start of the guest, says",
        ),
        (255, CHANGED, Access("10.1.0.11", host_key=KEY), "the guest shows another SSH host key than host_key says"),
    ],
)
def test_ssh(rc: int, stderr: str, access: Access, expected: str | None) -> None:
    assert over_ssh(Ssh(rc, stderr), access, ["true"], hosts_file=HOSTS, alias="web1", timeout=5) == expected
    probe = Probe("ssh", access=access, command=("true",))
    assert ask(Ssh(rc, stderr), probe, HOSTS, "web1") == Answer(wrong=expected)


def test_ssh_without_its_key(tmp_path: Path) -> None:
    host = Ssh(0)
    access = Access("10.1.0.11", key_file=str(tmp_path / "id"))
    said = over_ssh(host, access, ["true"], hosts_file=HOSTS, alias="web1", timeout=5)
    assert said == f"there is no key file {tmp_path}/id on the host"
    assert host.calls == []


class Late(Ssh):
    """One whose ssh does not end, or that has none."""

    def __init__(self, *, there: bool) -> None:
        super().__init__(0)
        self._there = there

    def find(self, name: str) -> str | None:
        return f"/usr/bin/{name}" if self._there else None

    def run(self, argv: t.Sequence[str], **_options: t.Any) -> t.Any:
        raise CommandError("the program ssh is not on this host.", argv=argv)


@pytest.mark.parametrize(
    ("there", "expected"), [(True, "no answer within 5 s"), (False, "the program ssh is not on this host.")]
)
def test_ssh_that_does_not_run(there: bool, expected: str) -> None:
    access = Access("10.1.0.11")
    assert over_ssh(Late(there=there), access, ["true"], hosts_file=HOSTS, alias="web1", timeout=5) == expected


def test_the_call_of_ssh() -> None:
    access = Access("2001:db8::11", 2222, "ops", "/root/.ssh/guests", KEY)
    argv = ssh_argv(access, ["sh", "-c", "exit 'x y'; $HOME"], hosts_file=HOSTS, alias="web1", timeout=7.5)
    assert argv[:3] == ["ssh", "-F", "/dev/null"]
    options = [argv[place + 1] for place, word in enumerate(argv) if word == "-o"]
    assert {
        "BatchMode=yes",
        "ConnectTimeout=7",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={HOSTS}",
        "GlobalKnownHostsFile=/dev/null",
        "HostKeyAlias=web1",
        "IdentityFile=/root/.ssh/guests",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
    } <= set(options)
    assert argv[argv.index("-p") :] == [
        "-p",
        "2222",
        "-l",
        "ops",
        "--",
        "2001:db8::11",
        "sh",
        "-c",
        "'exit '\"'\"'x y'\"'\"'; $HOME'",
    ]
    assert KEY not in " ".join(argv)


def test_the_call_of_ssh_by_default() -> None:
    argv = ssh_argv(Access("10.1.0.11"), ["true"], hosts_file=HOSTS, alias="web1", timeout=0.5)
    assert "StrictHostKeyChecking=accept-new" in argv
    assert "ConnectTimeout=1" in argv
    assert not any("Identit" in word for word in argv if "Agent" not in word)


def test_a_probe_without_access_is_an_error() -> None:
    with pytest.raises(ValueError, match="without access"):
        ask(Ssh(0), Probe("ssh", command=("true",)))


def test_host_keys(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path))
    directory = tmp_path / "var/lib/microvm-fleet/ssh"
    first = HostKeys(paths)
    learned = first.prepare("web1", "aa", Access("10.1.0.11"))
    assert learned == str(directory / "web1")
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "web1").read_text("utf-8") == "# aa\n"
    assert (directory / "web1").stat().st_mode & 0o777 == 0o600
    with (directory / "web1").open("a", encoding="utf-8") as file:
        file.write(f"web1 {KEY}\n")
    # The same start: what was learned holds.
    again = HostKeys(paths)
    assert again.prepare("web1", "aa", Access("10.1.0.11")) == learned
    assert KEY in (directory / "web1").read_text("utf-8")
    assert not again.changed("web1")


@pytest.mark.parametrize(("shown", "changed"), [(KEY, False), (OTHER, True), (None, False)])
def test_host_keys_of_another_start(tmp_path: Path, shown: str | None, changed: bool) -> None:
    paths = Paths(str(tmp_path))
    path = tmp_path / "var/lib/microvm-fleet/ssh/web1"
    path.parent.mkdir(parents=True)
    path.write_text(f"# aa\nweb1 {KEY}\n", "utf-8")
    keys = HostKeys(paths)
    keys.prepare("web1", "bb", Access("10.1.0.11"))
    assert path.read_text("utf-8") == "# bb\n"
    if shown is not None:
        path.write_text(f"# bb\nweb1 {shown}\n", "utf-8")
    assert keys.changed("web1") == changed
    assert not keys.changed("web2")


def test_host_keys_that_are_given(tmp_path: Path) -> None:
    keys = HostKeys(Paths(str(tmp_path)))
    for start in ("aa", "bb"):
        path = keys.prepare("web1", start, Access("10.1.0.11", host_key=KEY))
        assert Path(path).read_text("utf-8") == f"web1 {KEY}\n"
    path = keys.prepare("web1", "bb", Access("10.1.0.11", host_key=OTHER))
    assert Path(path).read_text("utf-8") == f"web1 {OTHER}\n"
    assert not keys.changed("web1")
