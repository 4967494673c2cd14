# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asking a guest: TCP, HTTP, and a command over SSH, each within its time.

Private to the collection: it may change at any time.

What a guest sends is read up to a limit in bytes and in seconds, and never goes into a result as it is.
"""

from __future__ import annotations

import http.client
import io
import os
import shlex
import socket
import time
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils import _files
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands, last_lines
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError
from ansible_collections.microvm.fleet.plugins.module_utils._health import QUOTED, Answer
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import Access, Probe, place
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths

# Bytes of a page that are read, and compared with its pattern.
PAGE: t.Final = 65536
# Seconds for a connection of SSH, and between two signs of life.
CONNECT: t.Final = 20
# The status of ssh when the error is its own (ssh(1), "EXIT STATUS").
_SSH_ERROR: t.Final = 255


class _Timed(io.RawIOBase):
    """What comes from a socket, until a time of the monotonic clock: a slow guest takes no more than that in all."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        super().__init__()
        self._connection = connection
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: t.Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout("timed out")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Source:
    """As much of a socket as http.client.HTTPResponse asks of one."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._raw = _Timed(connection, deadline)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._raw)


def ask(commands: Commands, probe: Probe, hosts_file: str | None = None, alias: str = "") -> Answer:
    """Ask a guest once; takes *probe*'s timeout at most.  *hosts_file* and *alias* are for SSH, as in `ssh_argv`."""
    try:
        if probe.kind == "tcp":
            with _connect(probe):
                return Answer()
        if probe.kind == "http":
            return _http(probe)
        return _ssh(commands, probe, hosts_file or os.devnull, alias)
    except socket.timeout:
        return Answer(wrong=f"no answer within {probe.timeout} s")
    except http.client.HTTPException as error:
        return Answer(wrong=f"the answer is not HTTP ({type(error).__name__})")
    except OSError as error:
        return Answer(wrong=(error.strerror or str(error)).lower())


def _connect(probe: Probe) -> socket.socket:
    return socket.create_connection((probe.address, probe.port), timeout=probe.timeout)


def _http(probe: Probe) -> Answer:
    """One GET.  Redirections are answers like others, and are not followed."""
    deadline = time.monotonic() + probe.timeout
    with _connect(probe) as connection:
        host = f"[{probe.address}]" if ":" in probe.address else probe.address
        if probe.port != http.client.HTTP_PORT:
            host = place(probe.address, probe.port)
        request = f"GET {probe.path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode("ascii"))
        response = http.client.HTTPResponse(t.cast("socket.socket", _Source(connection, deadline)), method="GET")
        response.begin()
        if not any(first <= response.status <= last for first, last in probe.status):
            return Answer(wrong=f"status {response.status} instead of {_ranges(probe.status)}")
        if probe.body is None:
            return Answer()
        return Answer(page=response.read(PAGE).decode("utf-8", "replace"))


def _ranges(status: t.Sequence[tuple[int, int]]) -> str:
    return " or ".join(str(first) if first == last else f"{first}-{last}" for first, last in status)


def ssh_argv(access: Access, command: t.Sequence[str], *, hosts_file: str, alias: str, timeout: float) -> list[str]:
    """The call of ssh(1) that runs *command* in the guest, with no settings but these.

    *hosts_file* (ssh_known_hosts, sshd(8)) says by the name *alias* which keys the guest may have; a key of a guest of
    which it says nothing is written there, unless one is given.
    """
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(max(1, min(int(timeout), CONNECT))),
        # Of a guest that has gone silent.
        "ServerAliveInterval": str(CONNECT),
        "ServerAliveCountMax": "2",
        "StrictHostKeyChecking": "yes" if access.host_key is not None else "accept-new",
        "UserKnownHostsFile": hosts_file,
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": alias,
        "HashKnownHosts": "no",
        "CheckHostIP": "no",
        "UpdateHostKeys": "no",
        "VerifyHostKeyDNS": "no",
        "IdentityAgent": "none",
        "ClearAllForwardings": "yes",
        "ControlPath": "none",
        "LogLevel": "ERROR",
    }
    if access.key_file is not None:
        options["IdentityFile"] = access.key_file
        options["IdentitiesOnly"] = "yes"
    argv = ["ssh", "-F", "/dev/null", "-T", "-x"]
    for option, value in options.items():
        argv += ["-o", f"{option}={value}"]
    # Only ssh joins words with blanks and leaves them to the guest's shell; each has to come through it whole.
    return [*argv, "-p", str(access.port), "-l", access.user, "--", access.address, *map(shlex.quote, command)]


def _ssh(commands: Commands, probe: Probe, hosts_file: str, alias: str) -> Answer:
    access = probe.access
    if access is None:
        raise ValueError("a probe of kind ssh without access")
    wrong = over_ssh(commands, access, probe.command, hosts_file=hosts_file, alias=alias, timeout=probe.timeout)
    return Answer(wrong=wrong)


def over_ssh(
    commands: Commands,
    access: Access,
    command: t.Sequence[str],
    *,
    hosts_file: str,
    alias: str,
    timeout: float,
) -> str | None:
    """Run *command* in a guest: None when it ended with 0, else what was wrong."""
    if access.key_file is not None and not os.path.isfile(access.key_file):
        return f"there is no key file {access.key_file} on the host"
    argv = ssh_argv(access, command, hosts_file=hosts_file, alias=alias, timeout=timeout)
    try:
        done = commands.run(argv, timeout=timeout, check=False)
    except CommandError as error:
        return f"no answer within {timeout:g} s" if commands.find("ssh") else error.seen
    if done.rc == 0:
        return None
    if done.rc == _SSH_ERROR:
        return _ssh_error(done.stderr, access, hosts_file)
    said = last_lines(done.stderr, 1).strip()[:QUOTED]
    return f"the command ended with {done.rc}" + (f": {said}" if said else "")


def _ssh_error(said: str, access: Access, hosts_file: str) -> str:
    """Why ssh itself did not get there; the fingerprints that it prints are of no use to a reader."""
    if "Host key verification failed" in said or "HOST IDENTIFICATION HAS CHANGED" in said:
        whose = "host_key" if access.host_key is not None else f"{hosts_file}, learned in this start of the guest,"
        return f"the guest shows another SSH host key than {whose} says"
    last = last_lines(said, 1).strip()[:QUOTED]
    return last or "ssh ended with 255"


class HostKeys:
    """The files with the SSH host keys of guests, ``/var/lib/microvm-fleet/ssh/NAME``, for ssh.

    A guest whose key is given may have that and no other.  Of any other the key is learned with the first contact of
    each start, for many guests make it anew when they boot, and held until the next start.  That one differs from the
    key of the start before is told, since nobody but the operator can know whether it should.
    """

    def __init__(self, paths: Paths) -> None:
        self._directory = paths.host_keys
        self._before: dict[str, frozenset[str]] = {}

    def prepare(self, name: str, invocation: str, access: Access) -> str:
        """The file for guest *name* in the start *invocation* of its unit."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        if access.host_key is not None:
            path = os.path.join(self._directory, f"{name}.given")
            self._have(path, f"{name} {access.host_key}\n")
            return path
        path = os.path.join(self._directory, name)
        head = f"# {invocation}\n"
        text = _files.read_text(path) or ""
        if not text.startswith(head):
            self._before[name] = _keys(text)
            self._have(path, head)
        return path

    def changed(self, name: str) -> bool:
        """Whether the guest has shown a key in this start, and one that it had not in the start before."""
        before = self._before.get(name)
        now = _keys(_files.read_text(os.path.join(self._directory, name)) or "")
        return bool(before and now and not before & now)

    @staticmethod
    def _have(path: str, text: str) -> None:
        if _files.read_text(path) != text:
            _files.write_file(path, text.encode("utf-8"), mode=0o600)


def _keys(text: str) -> frozenset[str]:
    """The keys of a file for ssh, without the names that have them."""
    return frozenset(" ".join(line.split(" ")[1:3]) for line in text.splitlines() if line and not line.startswith("#"))
