# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One end of a stream of files: a program of its own, whose text is sent to a host and run there.

Private to the collection: it may change at any time.

It imports the standard library only, so that its text is all that a host needs.  ``plugin_utils/_stream.py`` starts
two of them and passes what the one says on to the other.  Standard input begins with a request: a line with the
number of its bytes, and JSON.  A source then says frames on its standard output; a sink reads them from its standard
input, and answers with one line of JSON.

A frame is a letter, eight bytes with a number (big-endian), and for all but holes so many bytes:
``L`` JSON, the list of files that are to come; ``F`` JSON, a file begins; ``D`` data of it; ``Z`` so many zeros;
``E`` JSON, the file has ended, with its size and SHA-256; ``X`` JSON, the source has failed; ``Q`` all files were said.

Files are made under temporary names, which begin as those of ``_files.py``, and get their own when everything has
been checked and is on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import json
import os
import pwd
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
import typing as t
import zlib

# As TEMPORARY of _files.py, which this program cannot import.
TEMPORARY: t.Final = ".microvm-fleet."
# Bytes of one frame of data at most, and of the requests and lists that come as JSON.
PIECE: t.Final = 1 << 20
JSON_LIMIT: t.Final = 64 << 20
# Zeros of one frame at most: whoever watches the stream sees it move.
HOLE: t.Final = 256 << 20
# Runs of zeros from this many bytes on are not written.
BLOCK: t.Final = 64 << 10
# Bytes after which what was written is flushed: the flush at the end is short then.
FLUSH: t.Final = 256 << 20
ZEROS: t.Final = bytes(PIECE)
# Seconds after which a hold is renewed, and which systemctl may take for it.
RENEWAL: t.Final = 15.0
PATIENCE: t.Final = 30.0

# Programs that the standard library cannot do without.
PACK: t.Final = ("zstd", "-q", "-1", "-c")
UNPACK: t.Final = ("zstd", "-q", "-d", "-c")
SEARCH_PATH: t.Final = "/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:/usr/local/bin:/usr/bin:/bin"

# Data, or the number of zeros.
Item = t.Union[bytes, int]
Request = t.Mapping[str, t.Any]
Reader = t.BinaryIO


class EndError(Exception):
    """What ends the stream.  *end* is the end that it is about: source, sink, or stream."""

    def __init__(self, seen: str, *, field: str | None = None, hint: str | None = None, end: str | None = None) -> None:
        super().__init__(seen)
        self.seen = seen
        self.field = field
        self.hint = hint
        self.end = end

    def as_dict(self, end: str) -> dict[str, t.Any]:
        """For the other end, or for the controller."""
        return {"seen": self.seen, "field": self.field, "hint": self.hint, "end": self.end or end}


# Names


def name_faults(name: t.Any) -> t.Iterator[str]:
    """What is wrong with *name* as the name of a file below a directory."""
    if not isinstance(name, str) or not name:
        yield f"{name!r} is no name of a file."
        return
    parts = name.split("/")
    if name.startswith("/") or any(part in ("", ".", "..") for part in parts):
        yield f"{name!r} does not lie below its directory."
    if any(part.startswith(TEMPORARY) for part in parts):
        yield f"{name!r} has the prefix of temporary files, {TEMPORARY}"
    if any(character < " " or character == "\x7f" for character in name):
        yield f"{name!r} has a control character."


def checked(name: t.Any) -> str:
    """*name*, if it is one of a file below a directory.  Raises EndError."""
    for seen in name_faults(name):
        raise EndError(seen, field="files", hint="Give names of files relative to the directory.")
    return str(name)


# Frames


def frame(kind: bytes, content: bytes = b"") -> bytes:
    """A frame with *content*."""
    return kind + struct.pack(">Q", len(content)) + content


def hole(length: int) -> bytes:
    """The frame for *length* zeros."""
    return b"Z" + struct.pack(">Q", length)


def json_frame(kind: bytes, value: t.Any) -> bytes:
    """A frame with *value* as JSON."""
    return frame(kind, json.dumps(value).encode("utf-8"))


def exactly(stream: Reader, length: int) -> bytes:
    """*length* bytes of *stream*.  Raises EndError when it ends before."""
    content = stream.read(length)
    if len(content) < length:
        raise EndError("the stream ended before all was said.", end="stream")
    return content


def read_frame(stream: Reader) -> tuple[bytes, int, bytes]:
    """The kind, the number and the content of the next frame.  Raises EndError."""
    head = exactly(stream, 9)
    kind, (number,) = head[:1], struct.unpack(">Q", head[1:])
    if kind == b"Z":
        return kind, number, b""
    limit = PIECE if kind == b"D" else JSON_LIMIT
    if kind not in (b"L", b"F", b"D", b"E", b"X", b"Q") or number > limit:
        raise EndError("what came is no stream of files.", end="stream")
    return kind, number, exactly(stream, number)


def read_request(stream: Reader) -> dict[str, t.Any]:
    """The request at the beginning of *stream*."""
    length = int(stream.readline())
    request: dict[str, t.Any] = json.loads(exactly(stream, min(length, JSON_LIMIT)).decode("utf-8"))
    return request


# Content


class Digest:
    """SHA-256 and number of bytes of what passes."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0

    def add(self, item: Item) -> None:
        """Count *item* in."""
        if isinstance(item, bytes):
            self._hash.update(item)
            self.size += len(item)
            return
        self.size += item
        for zeros in zeros_of(item):
            self._hash.update(zeros)

    def passing(self, items: t.Iterable[Item]) -> t.Iterator[Item]:
        """*items*, counted."""
        for item in items:
            self.add(item)
            yield item

    def hexdigest(self) -> str:
        """The digest as sha256sum(1) says it."""
        return self._hash.hexdigest()


def zeros_of(length: int) -> t.Iterator[bytes]:
    """*length* zeros in pieces."""
    while length > 0:
        yield ZEROS[: min(length, PIECE)]
        length -= PIECE


def data_of(items: t.Iterable[Item]) -> t.Iterator[bytes]:
    """*items* with their zeros written out."""
    for item in items:
        if isinstance(item, bytes):
            yield item
        else:
            yield from zeros_of(item)


def items_of(handle: int, size: int) -> t.Iterator[Item]:
    """The content of the open file *handle*: its data, and its holes as numbers (lseek(2), SEEK_DATA)."""
    position = 0
    while position < size:
        try:
            start = min(os.lseek(handle, position, os.SEEK_DATA), size)
            end = min(os.lseek(handle, start, os.SEEK_HOLE), size) if start < size else size
        except OSError as error:
            if error.errno == errno.ENXIO:
                start = end = size
            else:
                start, end = position, size
        while position < start:
            length = min(start - position, HOLE)
            yield length
            position += length
        while position < end:
            piece = os.pread(handle, min(end - position, PIECE), position)
            if not piece:
                raise EndError("it became shorter while it was read.", end="source")
            yield piece
            position += len(piece)


def program(name: str) -> str:
    """Where the program *name* is.  Raises EndError when it is missing."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + os.pathsep + SEARCH_PATH)
    if found is None:
        raise EndError(
            f"the program {name} is not there.", field="compress", hint=f"Install {name}, or choose gzip for a backup."
        )
    return found


if t.TYPE_CHECKING:  # pragma: no cover
    Popen = subprocess.Popen[bytes]
else:
    Popen = subprocess.Popen


class Program(Popen):
    """A program that a stream goes through.  This file runs without Ansible, so there is no run_command."""


def through(argv: t.Sequence[str], chunks: t.Iterable[bytes]) -> t.Iterator[bytes]:
    """What the program *argv* makes of *chunks*.  It ends with the stream, whose time is watched by the controller."""
    wrong: list[BaseException] = []
    process = Program([program(argv[0]), *argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    source, sink = process.stdout, process.stdin
    if source is None or sink is None:
        raise AssertionError("both ends were asked for")

    def feed() -> None:
        try:
            for chunk in chunks:
                sink.write(chunk)
            sink.close()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
            wrong.append(error)
            process.kill()

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        while True:
            chunk = source.read1(PIECE)  # type: ignore[attr-defined]
            if not chunk:
                break
            yield chunk
        feeder.join()
        # A program that ends before all was said breaks the pipe: what it says itself is more.
        if wrong and not isinstance(wrong[0], BrokenPipeError):
            raise wrong[0]
        if process.wait() != 0 or wrong:
            raise EndError(f"{argv[0]} ended with {process.returncode}: it is damaged.")
    finally:
        process.kill()
        process.wait()
        source.close()
        with contextlib.suppress(OSError):
            sink.close()


def gzip_pack(items: t.Iterable[Item]) -> t.Iterator[bytes]:
    """*items* as gzip(1) would pack them."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    for chunk in data_of(items):
        packed = packer.compress(chunk)
        if packed:
            yield packed
    yield packer.flush()


def gzip_unpack(chunks: t.Iterable[bytes]) -> t.Iterator[bytes]:
    """What was packed in *chunks*.  Raises EndError."""
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                data = unpacker.decompress(rest, PIECE)
                rest = unpacker.unconsumed_tail
                if data:
                    yield data
                elif not rest or unpacker.eof:
                    break
            if unpacker.unused_data:
                raise EndError("there is more behind its end: it is damaged.")
    except zlib.error as error:
        raise EndError(f"it is damaged: {error}.") from error
    if not unpacker.eof:
        raise EndError("it ends too soon: it is damaged.")


def packed(items: t.Iterable[Item], form: str | None) -> t.Iterator[Item]:
    """*items* in the *form* none, gzip or zstd."""
    if form == "gzip":
        return iter(gzip_pack(items))
    if form == "zstd":
        return iter(through(PACK, data_of(items)))
    return iter(items)


def unpacked(items: t.Iterable[Item], form: str | None) -> t.Iterator[Item]:
    """The content of *items*, which are in the *form* none, gzip or zstd."""
    if form == "gzip":
        return iter(gzip_unpack(data_of(items)))
    if form == "zstd":
        return iter(through(UNPACK, data_of(items)))
    return iter(items)


# The source


class Hold:
    """What keeps the files still: a timer of systemd on this host, which lets go of them when its time is up.

    *unit* is its name without a suffix, None for files that nothing holds.  The timer begins anew as long as the files
    are read; a connection that hangs lets it run out.  When this end gives up, its service runs at once.
    """

    def __init__(self, unit: str | None) -> None:
        self.unit = unit
        self.renewed = time.monotonic()

    def moved(self) -> None:
        """Something was taken from this end.  Raises EndError as `renew`."""
        if time.monotonic() - self.renewed >= RENEWAL:
            self.renew()

    def renew(self) -> None:
        """Begin anew.  Raises EndError when the files are held no more."""
        self.renewed = time.monotonic()
        if self.unit is not None and not self._systemctl("restart", f"{self.unit}.timer"):
            raise EndError(
                "they are held no more, for nothing was taken of them for too long.",
                field="files",
                hint="See whether both ends answer, and run again.",
            )

    def let_go(self) -> None:
        """Do at once what the timer would do later."""
        if self.unit is not None:
            self._systemctl("start", "--no-block", f"{self.unit}.service")
            self._systemctl("stop", f"{self.unit}.timer")

    @staticmethod
    def _systemctl(*words: str) -> bool:
        null = subprocess.DEVNULL
        process = Program([program("systemctl"), *words], stdin=null, stdout=null, stderr=null)
        try:
            return process.wait(PATIENCE) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False


def open_below(directory: int, name: str) -> int:
    """Open the file *name* below the open *directory* for reading; no part of it may be a symbolic link."""
    parts = name.split("/")
    place = os.dup(directory)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
            os.close(place)
            place = inner
        handle = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise EndError(
                f"{name} is a symbolic link or behind one, and none is followed.", field="files", hint="Give the file."
            ) from error
        error.filename = name
        raise
    finally:
        os.close(place)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise EndError(f"{name} is no regular file.", field="files", hint="Leave it out.")
    return handle


def files_below(path: str) -> list[str]:
    """All regular files below the directory *path*, by their names from there; links and the like are left out."""
    found = []
    for place, directories, names in os.walk(path):
        directories[:] = sorted(each for each in directories if not each.startswith(TEMPORARY))
        for name in sorted(names):
            file = os.path.join(place, name)
            if not name.startswith(TEMPORARY) and stat.S_ISREG(os.lstat(file).st_mode):
                found.append(os.path.relpath(file, path))
    return found


def _identity(handle: int) -> tuple[int, ...]:
    """What is another when the file was changed or replaced."""
    seen = os.fstat(handle)
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns


def send(request: Request, out: t.BinaryIO) -> None:
    """Say the files of *request* on *out*.

    *request*: ``directory``; ``files`` (name, as, encode, decode; all below the directory without); ``measure``;
    ``hold`` (see `Hold`).
    Raises EndError or OSError before anything was said of a file that cannot be.
    """
    hold = Hold(request.get("hold"))
    try:
        _send(request, out, hold)
    except BaseException:
        hold.let_go()
        raise


def _send(request: Request, out: t.BinaryIO, hold: Hold) -> None:
    directory = os.open(request["directory"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    wished = request.get("files") or [{"name": name} for name in files_below(request["directory"])]
    listed, identities = [], []
    for entry in wished:
        name = checked(entry["name"])
        if entry.get("encode") == "zstd":
            program("zstd")
        handle = open_below(directory, name)
        try:
            seen = os.fstat(handle)
            identities.append(_identity(handle))
        finally:
            os.close(handle)
        listed.append(
            {
                "name": name,
                "as": checked(entry.get("as") or name),
                "decode": entry.get("decode"),
                "size": seen.st_size,
                "allocated": min(seen.st_blocks * 512, seen.st_size),
            }
        )
    out.write(json_frame(b"L", listed))
    out.flush()
    if not request.get("measure"):
        for entry, item, identity in zip(wished, listed, identities):
            handle = open_below(directory, item["name"])
            try:
                _unchanged(handle, item["name"], identity)
                _send_file(handle, item, entry.get("encode"), out, hold)
                _unchanged(handle, item["name"], identity)
            finally:
                os.close(handle)
        # A guest that was started meanwhile writes to any of them.
        for item, identity in zip(listed, identities):
            handle = open_below(directory, item["name"])
            try:
                _unchanged(handle, item["name"], identity)
            finally:
                os.close(handle)
        hold.renew()
    out.write(frame(b"Q"))
    out.flush()


def _unchanged(handle: int, name: str, identity: tuple[int, ...]) -> None:
    if _identity(handle) != identity:
        raise EndError(f"{name} was changed while it was read.", field="files", hint="See what uses it, and run again.")


def _send_file(handle: int, item: Request, form: str | None, out: t.BinaryIO, hold: Hold) -> None:
    out.write(json_frame(b"F", {"name": item["name"]}))
    source, wire = Digest(), Digest()
    try:
        for each in packed(source.passing(items_of(handle, item["size"])), form):
            if isinstance(each, bytes):
                # What cannot be packed gets a little longer.
                out.writelines(frame(b"D", each[start : start + PIECE]) for start in range(0, len(each), PIECE))
            else:
                out.write(hole(each))
            hold.moved()
            if form is not None:
                wire.add(each)
    except EndError as error:
        raise EndError(f"{item['name']}: {error.seen}", field=error.field, hint=error.hint) from error
    said = wire if form is not None else source
    end = {"size": said.size, "sha256": said.hexdigest()}
    end.update(source_size=source.size, source_sha256=source.hexdigest())
    out.write(json_frame(b"E", end))
    out.flush()


# The sink


def receive(request: Request, stream: Reader) -> dict[str, t.Any]:
    """Make the files that *stream* tells of, and give the answer.

    *request*: ``directory``; ``whole`` (the directory is new, and appears when it is complete); ``mode`` and
    ``directory_mode`` (octal numbers); ``owner`` and ``group``; ``expect`` by name (size, sha256, allocated; wire_size
    and wire_sha256 of what is to be unpacked);
    ``manifest`` (written last, with the files in it); ``replace``; ``reserve`` (bytes to leave free); ``measure``.
    Raises EndError or OSError; what was made by then is gone again.
    """
    kind, _number, content = read_frame(stream)
    _said(kind, content)
    if kind != b"L":
        raise EndError("what came is no stream of files.", end="stream")
    listed = json.loads(content.decode("utf-8"))
    place = Place(request)
    place.check(listed)
    need, free = place.space(listed)
    if need > free:
        reserve = int(request.get("reserve") or 0)
        beside = f" beside {mib(reserve)} MiB that are to stay free" if reserve else ""
        raise EndError(
            f"{request['directory']} has {mib(free)} MiB{beside}, and {mib(need)} MiB are needed: "
            f"{mib(need - free)} MiB are missing.",
            field="space",
            hint="Make room, or choose another place.",
        )
    answer: dict[str, t.Any] = {"directory": request["directory"], "need": need, "free": free}
    if request.get("measure"):
        _end(stream)
        return {**answer, "files": [_measured(item) for item in listed]}
    place.begin()
    try:
        answer["files"] = [_receive_file(place, item, stream) for item in listed]
        _end(stream)
        place.finish(answer["files"])
    finally:
        place.close()
    return answer


def mib(count: int) -> int:
    """*count* bytes in MiB, rounded up."""
    return -(-count >> 20)


def _measured(item: Request) -> dict[str, t.Any]:
    return {"name": item["as"], "size": item["size"], "allocated": item["allocated"]}


def _end(stream: Reader) -> None:
    kind, _number, content = read_frame(stream)
    _said(kind, content)
    if kind != b"Q":
        raise EndError("what came is no stream of files.", end="stream")


def _said(kind: bytes, content: bytes) -> None:
    """Raise what the source says of itself."""
    if kind == b"X":
        said = json.loads(content.decode("utf-8"))
        raise EndError(said["seen"], field=said["field"], hint=said["hint"], end=said["end"])


class Place:
    """The directory of a sink."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.final = str(request["directory"]).rstrip("/") or "/"
        self.whole = bool(request.get("whole"))
        self.mode = int(request.get("mode") or 0o600)
        self.directory_mode = int(request.get("directory_mode") or 0o700)
        self.expect: t.Mapping[str, t.Mapping[str, t.Any]] = request.get("expect") or {}
        self.base = self.final
        self.made: list[tuple[str, str]] = []
        # Empty directories, from the outermost on.
        self.directories: list[str] = []
        self.done = False
        owner, group = request.get("owner"), request.get("group")
        try:
            self.uid = pwd.getpwnam(owner).pw_uid if owner else -1
            self.gid = grp.getgrnam(group).gr_gid if group else -1
        except KeyError as error:
            raise EndError(
                f"there is no such user or group: {error.args[0]}.", field="owner", hint="Set the host up first."
            ) from error

    def check(self, listed: t.Sequence[Request]) -> None:
        """Raise EndError for what cannot be made, or is not what is expected."""
        names = [checked(item["as"]) for item in listed]
        for name in names:
            if names.count(name) > 1:
                raise EndError(f"{name} comes twice.", field="files", hint="Name each file once.")
        for name in self.expect:
            if name not in names:
                raise EndError(f"{name} is missing.", field="files", end="source")
        for item in listed:
            wished = self.expect.get(item["as"], {})
            size = wished.get("wire_size") if item.get("decode") else wished.get("size")
            if size is not None and size != item["size"]:
                raise EndError(
                    f"{item['name']} has {item['size']} bytes, and {size} are expected.",
                    field="files",
                    hint="It is damaged. Take another.",
                    end="source",
                )
            if item.get("decode") == "zstd":
                program("zstd")
        if self.whole and os.path.lexists(self.final):
            raise EndError(f"{self.final} is there already.", field="path", hint="Choose another place.")
        if not self.whole and not self.request.get("replace"):
            for name in names:
                if os.path.lexists(os.path.join(self.final, name)):
                    raise EndError(
                        f"{os.path.join(self.final, name)} is there already.",
                        field="path",
                        hint="Choose another place, or say replace: true.",
                    )

    def space(self, listed: t.Sequence[Request]) -> tuple[int, int]:
        """Bytes that are needed, and bytes that are free (statvfs(3))."""
        there = self.final
        while not os.path.isdir(there):
            there = os.path.dirname(there)
        seen = os.statvfs(there)
        need = 0
        for item in listed:
            wished = self.expect.get(item["as"], {})
            need += wished.get("allocated", item["allocated"]) if item.get("decode") else item["allocated"]
        return need, max(0, seen.f_bavail * seen.f_frsize - int(self.request.get("reserve") or 0))

    def begin(self) -> None:
        """Make the directory, under a temporary name when it is to appear as a whole."""
        self._sweep()
        if self.whole:
            parent, name = os.path.split(self.final)
            self._directories(parent)
            self.base = os.path.join(parent, f"{TEMPORARY}{name}.{os.getpid()}")
            self._directory(self.base)
        else:
            self._directories(self.final)

    def _sweep(self) -> None:
        """Remove what a sink that was killed left of the same."""
        parent, name = os.path.split(self.final)
        for directory in (parent, self.final):
            with contextlib.suppress(OSError):
                for entry in os.listdir(directory):
                    of, _dot, pid = entry[len(TEMPORARY) :].rpartition(".")
                    path = os.path.join(directory, entry)
                    if not entry.startswith(TEMPORARY) or not pid.isdigit() or os.path.exists(f"/proc/{pid}"):
                        continue
                    if directory == parent and of == name and self.whole:
                        shutil.rmtree(path)
                    elif directory == self.final and of.startswith("stream."):
                        os.unlink(path)

    def _directories(self, path: str) -> None:
        if not os.path.isdir(path):
            self._directories(os.path.dirname(path))
            self._directory(path)
            self.directories.append(path)
            _flush(os.path.dirname(path))

    def _directory(self, path: str) -> None:
        """A new directory, whatever the umask of who runs this."""
        os.mkdir(path, 0o700)
        os.chmod(path, self.directory_mode)

    def create(self, name: str) -> int:
        """A new file, which gets the name *name* in the end."""
        final = os.path.join(self.base, name)
        directory = os.path.dirname(final)
        self._directories(directory)
        if self.whole:
            temporary = final
        else:
            temporary = os.path.join(directory, f"{TEMPORARY}stream.{len(self.made)}.{os.getpid()}")
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self.made.append((temporary, final))
        os.fchown(handle, self.uid, self.gid)
        os.fchmod(handle, self.mode)
        return handle

    def finish(self, files: t.Sequence[Request]) -> None:
        """Give everything its own name; all of it is on the disk."""
        manifest = self.request.get("manifest")
        if manifest is not None:
            handle = self.create(checked(manifest["name"]))
            with os.fdopen(handle, "wb") as stream:
                text = json.dumps({**manifest["content"], "files": list(files)}, indent=1, sort_keys=True) + "\n"
                stream.write(text.encode("utf-8"))
                stream.flush()
                os.fsync(stream.fileno())
        for temporary, final in self.made:
            if temporary != final:
                os.rename(temporary, final)
        for directory in {os.path.dirname(final) for _temporary, final in self.made}:
            _flush(directory)
        if self.whole:
            # A directory that came meanwhile and is not empty stays.
            os.rename(self.base, self.final)
            _flush(os.path.dirname(self.final))
        self.done = True

    def close(self) -> None:
        """Remove what was made, if it did not get finished."""
        if self.done:
            return
        if self.whole and self.base != self.final:
            shutil.rmtree(self.base, ignore_errors=True)
        for temporary, _final in self.made:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        for directory in reversed(self.directories):
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def _receive_file(place: Place, item: Request, stream: Reader) -> dict[str, t.Any]:
    kind, _number, content = read_frame(stream)
    _said(kind, content)
    if kind != b"F" or json.loads(content.decode("utf-8"))["name"] != item["name"]:
        raise EndError("what came is no stream of files.", end="stream")
    name, form = item["as"], item.get("decode")
    wished = place.expect.get(name, {})
    wire, written = Digest(), Digest()
    end: dict[str, t.Any] = {}

    def said() -> t.Iterator[Item]:
        while True:
            kind, number, content = read_frame(stream)
            _said(kind, content)
            if kind == b"E":
                end.update(json.loads(content.decode("utf-8")))
                return
            if kind not in (b"D", b"Z"):
                raise EndError("what came is no stream of files.", end="stream")
            each: Item = content if kind == b"D" else number
            wire.add(each)
            yield each

    handle = place.create(name)
    try:
        content_of = unpacked(said(), form)
        write(handle, written.passing(content_of) if form else content_of, limit=wished.get("size") if form else None)
        allocated = os.fstat(handle).st_blocks * 512
    except EndError as error:
        if error.end in ("stream", "source"):
            raise
        raise EndError(f"{item['name']}: {error.seen}", field=error.field, hint=error.hint) from error
    finally:
        os.close(handle)
    if (wire.size, wire.hexdigest()) != (end["size"], end["sha256"]):
        raise EndError(f"{item['name']} did not arrive as it was sent.", end="stream", hint="Run again.")
    final = written if form else wire
    size, sha256 = final.size, final.hexdigest()
    if form and wished.get("wire_sha256", wire.hexdigest()) != wire.hexdigest():
        raise EndError(
            f"{item['name']} has the SHA-256 {wire.hexdigest()}, and {wished['wire_sha256']} is expected.",
            field="files",
            hint="It is damaged. Take another.",
            end="source",
        )
    if wished.get("size", size) != size or wished.get("sha256", sha256) != sha256:
        raise EndError(
            f"{name} has {size} bytes with the SHA-256 {sha256}, and {wished.get('size')} with "
            f"{wished.get('sha256')} are expected.",
            field="files",
            hint="It is damaged. Take another.",
            end="source",
        )
    return {
        "name": name,
        "size": size,
        "sha256": sha256,
        "allocated": allocated,
        "source": {
            "name": item["name"],
            "size": end["source_size"],
            "sha256": end["source_sha256"],
            "allocated": item["allocated"],
        },
    }


def write(handle: int, items: t.Iterable[Item], *, limit: int | None = None) -> None:
    """Write *items* to the new file *handle*, with holes for zeros, and have it on the disk.

    Raises EndError when there is more than *limit* bytes.
    """
    position = unflushed = 0
    for item in items:
        length = len(item) if isinstance(item, bytes) else item
        if limit is not None and position + length > limit:
            raise EndError(f"it has more than {limit} bytes: it is damaged.")
        if isinstance(item, bytes):
            for start in range(0, length, BLOCK):
                block = memoryview(item)[start : start + BLOCK]
                if block != memoryview(ZEROS)[: len(block)]:
                    _write_all(handle, block, position + start)
                    unflushed += len(block)
        position += length
        if unflushed >= FLUSH:
            os.fsync(handle)
            unflushed = 0
    os.ftruncate(handle, position)
    os.fsync(handle)


def _write_all(handle: int, block: memoryview, position: int) -> None:
    while block:
        count = os.pwrite(handle, block, position)
        block, position = block[count:], position + count


def _flush(directory: str) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def main() -> int:
    """Do what the request on standard input asks for."""
    stream, out = sys.stdin.buffer, sys.stdout.buffer
    request = read_request(stream)
    sends = request["role"] == "send"
    try:
        if sends:
            send(request, out)
            return 0
        answer = receive(request, stream)
    except (EndError, OSError) as error:
        said = error if isinstance(error, EndError) else _of_system(error)
        report = said.as_dict("source" if sends else "sink")
        with contextlib.suppress(BrokenPipeError):
            out.write(json_frame(b"X", report) if sends else json.dumps({"error": report}).encode("utf-8") + b"\n")
            out.flush()
        return 1
    out.write(json.dumps(answer).encode("utf-8") + b"\n")
    out.flush()
    return 0


def _of_system(error: OSError) -> EndError:
    place = f"{error.filename}: " if error.filename else ""
    return EndError(f"{place}{error.strerror or error}.", hint="See to it there.")


if __name__ == "__main__":
    # What is left in buffers of a pipe that is closed is of no use to anyone.
    STATUS = main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(STATUS)
