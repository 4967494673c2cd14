# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Ansible keeps in private attributes what an action plugin needs of its task and connection.
# ruff: noqa: SLF001

"""Streams of files between hosts, and between a host and the controller.

Private to the collection: it may change at any time.

Two processes of ``module_utils/_stream_end.py`` are started as Ansible's connection plugins would start a command, and
the controller passes on what the one says to the other, without touching its own disk.  So hosts need no access to
each other, and Ansible's own settings (keys, jump hosts, become) hold.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import select
import selectors
import shlex
import signal
import subprocess
import sys
import threading
import time
import typing as t
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ansible import constants as C  # noqa: N812 - as Ansible calls it everywhere
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.loader import become_loader, connection_loader

from ansible_collections.microvm.fleet.plugins.module_utils import _stream_end
from ansible_collections.microvm.fleet.plugins.module_utils._command import last_lines
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish

# What an end prints before it reads: what comes before it is the talk of a login or of become.
HELLO: t.Final = b"microvm-fleet-stream\n"
# Runs the program that comes first on standard input, after a line with its length.
BOOT: t.Final = (
    "import sys;i=sys.stdin.buffer;print('microvm-fleet-stream',flush=True);"
    "exec(compile(i.read(int(i.readline())),'microvm-fleet-stream','exec'),{'__name__':'__main__'})"
)
# For a host of which nobody knows where its Python is.
ANY_PYTHON: t.Final = (
    'env PATH="$PATH:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:/usr/local/bin:/usr/bin:/bin" python3'
)
# Bytes on their way: as much as a pipe can be given (pipe(7), F_SETPIPE_SZ).
BUFFER: t.Final = 1 << 20
SETPIPE: t.Final = getattr(fcntl, "F_SETPIPE_SZ", 1031)
# Bytes of complaints to keep, and seconds to wait for those of a process that has ended, and for its end.
WORDS: t.Final = 64 << 10
PATIENCE: t.Final = 0.5
# Seconds to wait for the end of a process whose stream has ended, before another is blamed.
ENDING: t.Final = 5.0
POLL: t.Final = 0.5

Values = Mapping[str, t.Any]


@dataclass(frozen=True)
class Endpoint:
    """Where one end of a stream runs: *argv* starts it on the controller, *name* is for messages.

    *password* is written when the process asks for it with *prompt* on its standard error.
    """

    name: str
    argv: tuple[str, ...]
    prompt: bytes | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Streamed:
    """What a stream has done.  *size* and *sha256* are of the stream itself, *seconds* is how long it took."""

    answer: dict[str, t.Any]
    size: int
    sha256: str
    seconds: float


def controller() -> Endpoint:
    """The controller itself, as the user who runs Ansible."""
    return Endpoint("the controller", (sys.executable, "-c", BOOT))


def python_of(variables: Values) -> str:
    """The words that start Python on the host of *variables*, as a shell reads them."""
    said = variables.get("ansible_python_interpreter")
    if said and not str(said).startswith("auto"):
        return str(said)
    facts = variables.get("ansible_facts") or {}
    found = facts.get("discovered_interpreter_python") or variables.get("discovered_interpreter_python")
    return str(found) if found else ANY_PYTHON


def endpoint(connection: t.Any, *, name: str, python: str, user: str | None) -> Endpoint:
    """The endpoint on the host of an Ansible *connection* (ssh or local), with its become.

    *user* is the one that the connection logs in as, if it is known.  Raises InvalidWish for other connections.
    """
    command = f"{python} -c {shlex.quote(BOOT)}"
    become = connection.become
    prompt: bytes | None = None
    password: str | None = None
    if become is not None and _needs_become(become, user):
        command = become.build_become_command(command, connection._shell)
        asked = become.get_option("become_pass")
        if asked and become.prompt:
            prompt, password = str(become.prompt).encode(), str(asked)
    kind = str(connection.transport)
    if kind == "ssh":
        host = connection.get_option("host")
        words = connection._build_command(
            connection.get_option("ssh_executable"), "ssh", host, f"/bin/sh -c {shlex.quote(command)}"
        )
        argv = tuple(each.decode() if isinstance(each, bytes) else str(each) for each in words)
    elif kind == "local":
        argv = ("/bin/sh", "-c", command)
    else:
        raise InvalidWish(
            f"it is reached by the connection plugin {kind}, which cannot stream.",
            subject=f"host {name}",
            field="ansible_connection",
            hint="Reach it by ssh, or local.",
        )
    return Endpoint(f"host {name}", argv, prompt, password)


def _needs_become(become: t.Any, user: str | None) -> bool:
    """As Ansible decides it: not for the user that one is already."""
    wished = become.get_option("become_user")
    return bool(C.BECOME_ALLOW_SAME_USER or wished != user or not (wished or user))


def connect(name: str, variables: Values, *, task: t.Any, play_context: t.Any) -> tuple[t.Any, str | None]:
    """A connection to another host of the inventory than the task's, and the user that it logs in as.

    *variables* are those of the host.  The task's become holds where the host says nothing else.
    """
    kind = str(variables.get("ansible_connection") or task.connection)
    # Where the task itself runs on the controller, this is no word about another host.
    kind = "ssh" if kind in ("smart", "local", "None") and not variables.get("ansible_connection") else kind
    context = play_context.copy()
    context.remote_addr = str(variables.get("ansible_host") or name)
    connection = connection_loader.get(
        kind, context, None, task_uuid=task._uuid, ansible_playbook_pid=str(os.getppid())
    )
    if connection is None:
        raise InvalidWish(
            f"there is no connection plugin {kind}.",
            subject=f"host {name}",
            field="ansible_connection",
            hint="Use ssh.",
        )
    keys = dict(task.dump_attrs())
    keys["timeout"] = context.timeout
    keys.pop("retries", None)
    if context.password:
        keys["password"] = context.password
    mine = {**_plugin_variables("connection", connection._load_name, variables), "inventory_hostname": name}
    connection.set_options(task_keys=keys, var_options=mine)
    shell = connection._shell
    shell.set_options(task_keys=keys, var_options=_plugin_variables("shell", shell._load_name, variables))
    wanted = variables.get("ansible_become")
    if boolean(wanted) if wanted is not None else task.become:
        method = str(variables.get("ansible_become_method") or task.become_method or C.DEFAULT_BECOME_METHOD)
        become = become_loader.get(method)
        if become is None:
            raise InvalidWish(
                f"there is no become plugin {method}.",
                subject=f"host {name}",
                field="ansible_become_method",
                hint="Use sudo.",
            )
        if context.become_pass:
            keys["become_pass"] = context.become_pass
        become.set_options(task_keys=keys, var_options=_plugin_variables("become", become._load_name, variables))
        connection.set_become_plugin(become)
    else:
        connection.set_become_plugin(None)
    return connection, user_of(connection)


def end_of(action: t.Any, place: Values, task_vars: Values) -> Endpoint:
    """The endpoint that *place* names (host, controller), for the task of *action*; without both, the task's host.

    Raises InvalidWish for a host that is not in the inventory, or cannot stream.
    """
    if place.get("controller"):
        return controller()
    task = action._task
    own = str(task.delegate_to or task_vars["inventory_hostname"])
    name = str(place.get("host") or own)
    if name == own:
        connection = action._connection
        delegated = (task_vars.get("ansible_delegated_vars") or {}).get(name) if task.delegate_to else None
        variables = task_vars if delegated is None else delegated
        said = variables.get("ansible_python_interpreter")
        known = {
            "ansible_python_interpreter": None if said is None else action._templar.template(said),
            "ansible_facts": variables.get("ansible_facts"),
        }
        return endpoint(connection, name=name, python=python_of(known), user=user_of(connection))
    hostvars = task_vars["hostvars"]
    if name not in hostvars:
        raise InvalidWish(
            "is not in the inventory.", subject=f"host {name}", field="host", hint="Give the name of a host that is."
        )
    connection, user = connect(name, hostvars[name], task=task, play_context=action._play_context)
    return endpoint(connection, name=name, python=python_of(hostvars[name]), user=user)


def user_of(connection: t.Any) -> str | None:
    """The user that *connection* logs in as, None when ssh's own settings say it."""
    if connection.transport == "local":
        return str(connection.default_user) or None
    user = connection.get_option("remote_user")
    return str(user) if user else None


def _plugin_variables(kind: str, name: str, variables: Values) -> dict[str, t.Any]:
    """Those of *variables* that are options of a plugin."""
    return {each: variables[each] for each in C.config.get_plugin_vars(kind, name) if variables.get(each) is not None}


class _End:
    """A running end."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.words = bytearray()
        self._asked = False
        try:
            # A session of its own has no terminal: nobody could answer there.
            self.process = subprocess.Popen(
                endpoint.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise FleetError(
                f"{endpoint.argv[0]} cannot be started: {error.strerror}.", subject=endpoint.name, field="connection"
            ) from error
        self.out = _fileno(self.process.stdout)
        self.into = _fileno(self.process.stdin)
        for handle in (self.out, self.into):
            with contextlib.suppress(OSError):
                fcntl.fcntl(handle, SETPIPE, BUFFER)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        """Keep the end of what it complains of, and answer the question for a password once."""
        handle = _fileno(self.process.stderr)
        while True:
            # The control process of ssh holds on to the pipe when ssh itself has ended.
            if not select.select([handle], [], [], PATIENCE)[0]:
                if self.process.poll() is not None:
                    return
                continue
            content = os.read(handle, 4096)
            if not content:
                return
            self.words += content
            del self.words[:-WORDS]
            prompt, password = self.endpoint.prompt, self.endpoint.password
            if prompt and password is not None and not self._asked and prompt in self.words:
                self._asked = True
                with contextlib.suppress(OSError):
                    os.write(self.into, password.encode() + b"\n")

    def greet(self, request: Values, deadline: float) -> None:
        """Wait until it has started, and give it program and request.  Raises FleetError."""
        said = b""
        selector = selectors.DefaultSelector()
        selector.register(self.out, selectors.EVENT_READ)
        with selector:
            while not said.endswith(HELLO):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self.failure("did not start in time.")
                # Byte by byte: what follows is the stream's.
                content = os.read(self.out, 1)
                if not content:
                    raise self.failure("could not be started.")
                said = (said + content)[-WORDS:]
        program = Path(_stream_end.__file__).read_bytes()
        text = json.dumps(request).encode("utf-8")
        content = b"%d\n%s%d\n%s" % (len(program), program, len(text), text)
        os.set_blocking(self.into, False)
        while content:
            try:
                content = content[os.write(self.into, content) :]
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise self.failure("did not read its request in time.") from None
                time.sleep(0.01)
            except OSError:
                raise self.failure("ended before it had read its request.") from None

    def broken(self) -> bool:
        """Whether it has ended with an error; one that has said all that it will is about to end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDING)
        return self.process.poll() not in (None, 0)

    def failure(self, seen: str) -> FleetError:
        """The error for an end that did not do its part, with its own words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        self._listener.join(2 * PATIENCE)
        words = last_lines(bytes(self.words).decode("utf-8", "replace"), 5)
        code = self.process.poll()
        ended = f" It ended with {code}." if code else ""
        return FleetError(
            f"its end of the stream {seen}{ended}{' ' + words if words else ''}",
            subject=self.endpoint.name,
            field="connection",
            hint="See that the host answers and has Python 3.8 or newer.",
        )

    def shut(self) -> None:
        """Close its input."""
        if self.process.stdin is not None:
            self.process.stdin.close()

    def close(self) -> None:
        """End it, if it has not ended."""
        for handle in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if handle is not None:
                    handle.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._listener.join()
        if self.process.stderr is not None:
            self.process.stderr.close()


def _fileno(stream: t.IO[bytes] | None) -> int:
    if stream is None:
        raise AssertionError("all streams were asked for")
    return stream.fileno()


def pipe(
    source: Endpoint,
    sink: Endpoint,
    *,
    send: Values,
    receive: Values,
    start_timeout: float = 60.0,
    stall_timeout: float = 300.0,
) -> Streamed:
    """Stream files from *source* to *sink*; requests as ``_stream_end.send`` and ``receive`` take them.

    *start_timeout* is how long, in seconds, each end may take to start, *stall_timeout* how long nothing may move.
    Raises FleetError; then the sink has left nothing behind, or, where it was killed, only what has a temporary name.
    """
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        ends = []
        for one, request in ((sink, {**receive, "role": "receive"}), (source, {**send, "role": "send"})):
            end = _End(one)
            stack.callback(end.close)
            ends.append((end, request))
        for end, request in ends:
            end.greet(request, time.monotonic() + start_timeout)
        digest, size, answer = _passing(ends[1][0], ends[0][0], stall_timeout)
    return Streamed(answer, size, digest, time.monotonic() - began)


def _passing(source: _End, sink: _End, stall_timeout: float) -> tuple[str, int, dict[str, t.Any]]:
    """Pass on all that *source* says, and give its digest, its size, and the answer of *sink*.

    One piece is on its way at a time: nothing is read from the source while the sink cannot take more.
    """
    digest, size = hashlib.sha256(), 0
    waiting = answer = b""
    moved = time.monotonic()
    os.set_blocking(source.out, False)
    with selectors.DefaultSelector() as selector:
        selector.register(source.out, selectors.EVENT_READ)
        selector.register(sink.out, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _events in selector.select(POLL)}
            if ready:
                moved = time.monotonic()
            elif time.monotonic() - moved > stall_timeout:
                raise FleetError(
                    f"nothing moved for {stall_timeout:g} s.",
                    subject="stream",
                    field=f"{source.endpoint.name} to {sink.endpoint.name}",
                    hint="See whether both hosts answer.",
                )
            if sink.out in ready:
                content = os.read(sink.out, BUFFER)
                answer += content
                if not content or content.endswith(b"\n"):
                    return digest.hexdigest(), size, _answer(answer, source, sink)
            if source.out in ready:
                try:
                    waiting = os.read(source.out, BUFFER)
                except BlockingIOError:
                    continue
                digest.update(waiting)
                size += len(waiting)
                selector.unregister(source.out)
                if waiting:
                    selector.register(sink.into, selectors.EVENT_WRITE)
                else:
                    # All was said: the sink is to see the end too.
                    sink.shut()
            elif waiting and sink.into in ready:
                try:
                    waiting = waiting[os.write(sink.into, waiting) :]
                except BlockingIOError:
                    continue
                except OSError:
                    # It has ended, and its answer, which comes, says why.
                    waiting = b""
                    selector.unregister(sink.into)
                    continue
                if not waiting:
                    selector.unregister(sink.into)
                    selector.register(source.out, selectors.EVENT_READ)


def _answer(answer: bytes, source: _End, sink: _End) -> dict[str, t.Any]:
    """The answer of the sink.  Raises FleetError for one that is an error, or none."""
    try:
        said: dict[str, t.Any] = json.loads(answer)
    except ValueError:
        raise sink.failure("ended in the middle.") from None
    error = said.get("error")
    if error is None:
        return said
    if error["end"] == "stream" and source.broken():
        raise source.failure("ended in the middle.")
    subject = {"source": source.endpoint.name, "sink": sink.endpoint.name}.get(error["end"], "stream")
    raise FleetError(error["seen"], subject=subject, field=error["field"], hint=error["hint"])
