# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One end of a stream: what it says, what it makes, and what it refuses."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _stream_end as end
from ansible_collections.microvm.fleet.plugins.module_utils._files import TEMPORARY
from ansible_collections.microvm.fleet.plugins.module_utils._stream_end import EndError

needs_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="the program zstd is not there")
MIB = 1 << 20
FORMS = (None, "gzip", pytest.param("zstd", marks=needs_zstd))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    return directory


@pytest.fixture
def sink(tmp_path: Path) -> Path:
    return tmp_path / "sink"


def sparse(path: Path) -> bytes:
    """A file with data at its beginning, in the middle and nearly at its end, and holes between."""
    with path.open("wb") as stream:
        stream.write(b"first")
        stream.seek(3 * MIB + 11)
        stream.write(os.urandom(2 * MIB))
        stream.seek(9 * MIB)
        stream.write(b"last")
        stream.truncate(10 * MIB)
    return path.read_bytes()


def said(directory: Path, *files: t.Any, **request: t.Any) -> bytes:
    out = io.BytesIO()
    entries = [{"name": each} if isinstance(each, str) else each for each in files]
    end.send({"directory": str(directory), "files": entries, **request}, out)
    return out.getvalue()


def made(content: bytes, directory: Path, **request: t.Any) -> dict[str, t.Any]:
    return end.receive({"directory": str(directory), **request}, io.BytesIO(content))


def frames(content: bytes) -> list[tuple[bytes, int, bytes]]:
    stream, found = io.BytesIO(content), []
    while stream.tell() < len(content):
        found.append(end.read_frame(stream))
    return found


def left_in(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*")) if directory.exists() else []


def test_the_prefix_of_temporary_names_is_that_of_the_engine() -> None:
    assert end.TEMPORARY == TEMPORARY


def test_it_needs_nothing_of_the_collection() -> None:
    text = Path(end.__file__).read_text(encoding="utf-8")
    assert "ansible_collections" not in text
    assert "import ansible" not in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "no name of a file"),
        (7, "no name of a file"),
        ("/etc/passwd", "does not lie below"),
        ("../up", "does not lie below"),
        ("a/../../b", "does not lie below"),
        ("a//b", "does not lie below"),
        ("./a", "does not lie below"),
        (f"a/{TEMPORARY}x", "prefix of temporary files"),
        ("a\nb", "control character"),
    ],
)
def test_names_that_are_refused(name: t.Any, words: str) -> None:
    assert any(words in seen for seen in end.name_faults(name))
    with pytest.raises(EndError) as caught:
        end.checked(name)
    assert caught.value.field == "files"


@pytest.mark.parametrize("name", ["a", "a.img", "nar/1b2c.nar.xz", "...", "-x", "a b"])
def test_names_that_are_taken(name: str) -> None:
    assert not list(end.name_faults(name))
    assert end.checked(name) == name


def test_a_file_arrives_with_its_holes(source: Path, sink: Path) -> None:
    content = sparse(source / "a.img")
    stream = said(source, "a.img")
    assert len(stream) < 3 * MIB
    answer = made(stream, sink)
    assert (sink / "a.img").read_bytes() == content
    assert (sink / "a.img").stat().st_blocks * 512 < 3 * MIB
    (file,) = answer["files"]
    digest = hashlib.sha256(content).hexdigest()
    assert (file["name"], file["size"], file["sha256"]) == ("a.img", 10 * MIB, digest)
    assert (file["source"]["size"], file["source"]["sha256"]) == (10 * MIB, digest)
    assert file["allocated"] < 3 * MIB
    assert left_in(sink) == ["a.img"]


def test_zeros_that_were_written_become_holes(source: Path, sink: Path) -> None:
    (source / "z").write_bytes(bytes(4 * MIB) + b"x")
    made(said(source, "z"), sink)
    assert (sink / "z").stat().st_size == 4 * MIB + 1
    assert (sink / "z").stat().st_blocks * 512 <= MIB


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, MIB, MIB + 1])
@pytest.mark.parametrize("form", FORMS)
def test_files_of_any_size(source: Path, sink: Path, tmp_path: Path, size: int, form: str | None) -> None:
    content = os.urandom(size)
    (source / "a").write_bytes(content)
    made(said(source, {"name": "a", "encode": form}), sink)
    again = tmp_path / "again"
    made(said(sink, {"name": "a", "decode": form}), again)
    assert (again / "a").read_bytes() == content


@pytest.mark.parametrize("form", ["gzip", pytest.param("zstd", marks=needs_zstd)])
def test_a_packed_file_arrives_packed_and_can_be_unpacked_by_anyone(source: Path, sink: Path, form: str) -> None:
    content = sparse(source / "a.img")
    answer = made(said(source, {"name": "a.img", "as": "a.packed", "encode": form}), sink)
    (file,) = answer["files"]
    stored = (sink / "a.packed").read_bytes()
    assert (file["size"], file["sha256"]) == (len(stored), hashlib.sha256(stored).hexdigest())
    assert (file["source"]["name"], file["source"]["size"]) == ("a.img", 10 * MIB)
    assert file["source"]["sha256"] == hashlib.sha256(content).hexdigest()
    if form == "gzip":
        assert gzip.decompress(stored) == content
    assert b"".join(end.data_of(end.unpacked([stored], form))) == content


@pytest.mark.parametrize("form", ["gzip", pytest.param("zstd", marks=needs_zstd)])
@pytest.mark.parametrize("damage", ["cut", "changed", "longer", "empty"])
def test_a_damaged_packed_file_is_refused(source: Path, sink: Path, form: str, damage: str) -> None:
    packed = bytearray(b"".join(end.data_of(end.packed([os.urandom(100_000)], form))))
    if damage == "cut":
        del packed[-20:]
    elif damage == "changed":
        packed[5000] ^= 1
    elif damage == "longer":
        packed += b"rubbish"
    else:
        packed.clear()
    (source / "a").write_bytes(packed)
    with pytest.raises(EndError):
        made(said(source, {"name": "a", "decode": form}), sink, expect={"a": {"size": 100_000, "sha256": "0" * 64}})
    assert left_in(sink) == []


def test_what_unpacks_to_more_than_expected_is_not_written(source: Path, sink: Path) -> None:
    (source / "a").write_bytes(gzip.compress(bytes(20 * MIB)))
    with pytest.raises(EndError, match="more than 10 bytes"):
        made(said(source, {"name": "a", "decode": "gzip"}), sink, expect={"a": {"size": 10}})
    assert left_in(sink) == []


def test_a_program_that_is_missing_is_said_before_anything(
    source: Path, sink: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "a").write_bytes(b"a")
    monkeypatch.setattr(shutil, "which", lambda *_args, **_options: None)
    with pytest.raises(EndError, match="program zstd is not there") as caught:
        said(source, {"name": "a", "encode": "zstd"})
    assert caught.value.hint is not None
    stream = said(source, {"name": "a", "decode": "zstd"})
    with pytest.raises(EndError, match="program zstd is not there"):
        made(stream, sink)
    assert not sink.exists()


def test_all_regular_files_below_a_directory(source: Path, sink: Path) -> None:
    (source / "deep" / "er").mkdir(parents=True)
    (source / "a").write_text("a")
    (source / "deep" / "er" / "b").write_text("b")
    (source / "link").symlink_to("a")
    (source / "away").symlink_to("/etc")
    os.mkfifo(source / "pipe")
    (source / f"{TEMPORARY}x.1").write_text("left")
    made(said(source), sink)
    assert left_in(sink) == ["a", "deep", "deep/er", "deep/er/b"]


@pytest.mark.parametrize("name", ["link", "away/passwd"])
def test_symbolic_links_are_never_followed(source: Path, name: str) -> None:
    (source / "link").symlink_to("/etc/shadow")
    (source / "away").symlink_to("/etc")
    with pytest.raises(EndError, match="symbolic link"):
        said(source, name)


def test_what_is_no_regular_file_is_refused(source: Path) -> None:
    os.mkfifo(source / "pipe")
    with pytest.raises(EndError, match="pipe is no regular file"):
        said(source, "pipe")


def test_a_file_that_is_missing_is_an_error_before_anything_was_said(source: Path) -> None:
    (source / "a").write_text("a")
    out = io.BytesIO()
    with pytest.raises(FileNotFoundError):
        end.send({"directory": str(source), "files": [{"name": "a"}, {"name": "b"}]}, out)
    assert out.getvalue() == b""


@pytest.mark.parametrize("which", ["a", "b"])
def test_a_file_that_changes_meanwhile_is_an_error(source: Path, sink: Path, which: str) -> None:
    for name in ("a", "b"):
        (source / name).write_bytes(b"x" * MIB)

    class Meddling(io.BytesIO):
        """Changes the file while the second one is being said."""

        def write(self, content: t.Any) -> int:
            if content[:1] == b"F" and b'"b"' in content:
                (source / which).write_bytes(b"y" * MIB)
                os.utime(source / which, (1, 1))
            return super().write(content)

    out = Meddling()
    with pytest.raises(EndError, match=f"{which} was changed while it was read"):
        end.send({"directory": str(source), "files": [{"name": "a"}, {"name": "b"}]}, out)
    with pytest.raises(EndError, match="ended before all was said"):
        made(out.getvalue(), sink)
    assert left_in(sink) == []


def test_a_file_that_gets_shorter_is_an_error(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "a").write_bytes(b"x" * MIB)
    monkeypatch.setattr(os, "pread", lambda *_args: b"")
    with (source / "a").open("rb") as stream, pytest.raises(EndError, match="shorter"):
        list(end.items_of(stream.fileno(), MIB))


def test_a_filesystem_that_does_not_tell_holes_is_read_as_data(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "a").write_bytes(b"x" * 10)

    def lseek(*_args: t.Any) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "lseek", lseek)
    with (source / "a").open("rb") as stream:
        assert list(end.items_of(stream.fileno(), 10)) == [b"x" * 10]


def test_long_holes_are_said_in_pieces(source: Path) -> None:
    with (source / "a").open("wb") as stream:
        stream.truncate(600 * MIB)
    with (source / "a").open("rb") as stream:
        assert list(end.items_of(stream.fileno(), 600 * MIB)) == [256 * MIB, 256 * MIB, 88 * MIB]


def test_a_stream_that_is_cut_anywhere_leaves_nothing(source: Path, sink: Path) -> None:
    (source / "a").write_bytes(os.urandom(500))
    (source / "b").write_bytes(b"b")
    stream = said(source, "a", "b")
    for cut in range(0, len(stream), 7):
        with pytest.raises(EndError) as caught:
            made(stream[:cut], sink)
        assert caught.value.end == "stream"
        assert left_in(sink) == []


def test_a_stream_that_is_changed_is_noticed(source: Path, sink: Path) -> None:
    (source / "a").write_bytes(b"abcdef" * 100)
    stream = bytearray(said(source, "a"))
    stream[stream.index(b"abcdef") + 3] ^= 1
    with pytest.raises(EndError, match="did not arrive as it was sent"):
        made(bytes(stream), sink)
    assert left_in(sink) == []


@pytest.mark.parametrize(
    "content",
    [
        b"rubbish" * 10,
        end.frame(b"Q"),
        end.json_frame(b"L", []) + end.frame(b"D", b"x"),
        end.json_frame(b"L", [{"name": "a", "as": "a", "size": 1, "allocated": 1}]) + end.frame(b"Q"),
        end.json_frame(b"L", [{"name": "a", "as": "a", "size": 1, "allocated": 1}])
        + end.json_frame(b"F", {"name": "b"}),
        end.json_frame(b"L", [{"name": "a", "as": "a", "size": 1, "allocated": 1}])
        + end.json_frame(b"F", {"name": "a"})
        + end.frame(b"Q"),
        b"D" + (1 << 40).to_bytes(8, "big"),
    ],
)
def test_what_is_no_stream_is_refused(sink: Path, content: bytes) -> None:
    with pytest.raises(EndError, match="no stream of files"):
        made(content, sink)
    assert left_in(sink) == []


def test_what_the_source_says_of_itself_reaches_the_answer(sink: Path) -> None:
    error = EndError("a is gone.", field="files", hint="Look.").as_dict("source")
    with pytest.raises(EndError) as caught:
        made(end.json_frame(b"X", error), sink)
    assert caught.value.as_dict("sink") == {"seen": "a is gone.", "field": "files", "hint": "Look.", "end": "source"}


def test_names_of_the_source_cannot_lead_out_of_the_directory(source: Path, sink: Path) -> None:
    (source / "a").write_text("a")
    stream = said(source, "a").replace(b'"as": "a"', b'"as": "../a"')
    head, rest = stream[:9], stream[9:]
    stream = head[:1] + (int.from_bytes(head[1:], "big") + 3).to_bytes(8, "big") + rest
    with pytest.raises(EndError, match="does not lie below"):
        made(stream, sink)
    assert not sink.exists()


def test_a_name_that_comes_twice_is_refused(source: Path, sink: Path) -> None:
    (source / "a").write_text("a")
    (source / "b").write_text("b")
    with pytest.raises(EndError, match="c comes twice"):
        made(said(source, {"name": "a", "as": "c"}, {"name": "b", "as": "c"}), sink)


def test_what_is_there_stays_unless_it_is_to_be_replaced(source: Path, sink: Path) -> None:
    (source / "a").write_text("new")
    sink.mkdir()
    (sink / "a").write_text("old")
    with pytest.raises(EndError, match="a is there already"):
        made(said(source, "a"), sink)
    assert (sink / "a").read_text() == "old"
    made(said(source, "a"), sink, replace=True)
    assert (sink / "a").read_text() == "new"


def test_a_whole_directory_appears_at_the_end(source: Path, sink: Path) -> None:
    (source / "deep").mkdir()
    (source / "deep" / "a").write_text("a")
    place = sink / "backups" / "one"
    answer = made(said(source), place, whole=True, manifest={"name": "manifest.json", "content": {"x": 1}})
    assert left_in(sink / "backups") == ["one", "one/deep", "one/deep/a", "one/manifest.json"]
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest == {"x": 1, "files": answer["files"]}
    assert manifest["files"][0]["sha256"] == hashlib.sha256(b"a").hexdigest()
    with pytest.raises(EndError, match="one is there already"):
        made(said(source), place, whole=True)


def test_a_whole_directory_that_fails_leaves_nothing(source: Path, sink: Path) -> None:
    (source / "a").write_text("a")
    with pytest.raises(EndError):
        made(said(source, "a")[:-3], sink / "one", whole=True)
    assert left_in(sink) == []


def test_what_a_killed_sink_left_is_removed_by_the_next(source: Path, sink: Path) -> None:
    gone = 2**22 + 1
    (source / "a").write_text("a")
    sink.mkdir()
    (sink / f"{TEMPORARY}stream.0.{gone}").write_text("half")
    (sink / f"{TEMPORARY}stream.0.{os.getpid()}x").write_text("no number")
    (sink / f"{TEMPORARY}stream.7.{os.getppid()}").write_text("of one that runs")
    (sink / f"{TEMPORARY}one.{gone}").mkdir()
    (sink / f"{TEMPORARY}one.{gone}" / "a").write_text("half")
    made(said(source, "a"), sink)
    assert f"{TEMPORARY}stream.0.{gone}" not in left_in(sink)
    made(said(source, "a"), sink / "one", whole=True)
    assert left_in(sink) == sorted(
        [f"{TEMPORARY}stream.0.{os.getpid()}x", f"{TEMPORARY}stream.7.{os.getppid()}", "a", "one", "one/a"]
    )


def test_modes_and_owners(source: Path, sink: Path) -> None:
    (source / "a").write_text("a")
    before = os.umask(0o077)
    try:
        made(said(source, "a"), sink, mode=0o640, directory_mode=0o750)
    finally:
        os.umask(before)
    assert stat.S_IMODE((sink / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE(sink.stat().st_mode) == 0o750
    with pytest.raises(EndError, match="no such user or group"):
        made(said(source, "a"), sink, owner="nobody-of-that-name")


def test_room_is_compared_before_anything_is_made(source: Path, sink: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse(source / "a")
    real = os.statvfs("/")

    class Free:
        f_frsize = 4096
        f_bavail = 100

    monkeypatch.setattr(os, "statvfs", lambda _path: Free)
    with pytest.raises(EndError, match="has 1 MiB, and 3 MiB are needed: 2 MiB are missing") as caught:
        made(said(source, "a"), sink)
    assert caught.value.field == "space"
    assert not sink.exists()
    monkeypatch.setattr(os, "statvfs", lambda _path: real)
    with pytest.raises(EndError, match=f"has 0 MiB beside {1 << 40} MiB that are to stay free, and 3 MiB are needed:"):
        made(said(source, "a"), sink, reserve=1 << 60)


def test_for_packed_files_it_is_their_content_that_needs_room(source: Path, sink: Path) -> None:
    (source / "a").write_bytes(gzip.compress(b"x" * MIB))
    expect = {"a": {"size": MIB, "allocated": 1 << 60}}
    with pytest.raises(EndError, match="are missing"):
        made(said(source, {"name": "a", "decode": "gzip"}), sink, expect=expect)


def test_measuring_makes_nothing(source: Path, sink: Path) -> None:
    sparse(source / "a")
    stream = said(source, "a", measure=True)
    assert [kind for kind, _number, _content in frames(stream)] == [b"L", b"Q"]
    answer = made(stream, sink, measure=True)
    assert answer["files"][0]["size"] == 10 * MIB
    assert answer["need"] < 3 * MIB < answer["free"]
    assert not sink.exists()


@pytest.mark.parametrize(
    ("expect", "words"),
    [
        ({"a": {"size": 4}}, "a has 3 bytes, and 4 are expected"),
        ({"a": {"sha256": "0" * 64}}, "are expected"),
        ({"b": {}}, "b is missing"),
    ],
)
def test_what_is_not_as_expected_is_refused(source: Path, sink: Path, expect: dict[str, t.Any], words: str) -> None:
    (source / "a").write_text("abc")
    with pytest.raises(EndError, match=words) as caught:
        made(said(source, "a"), sink, expect=expect)
    assert caught.value.end == "source"
    assert left_in(sink) == []


def test_a_packed_file_that_was_changed_is_refused_even_where_its_content_is_right(source: Path, sink: Path) -> None:
    (source / "a").write_bytes(gzip.compress(b"abc", mtime=5))
    expect = {"a": {"size": 3, "wire_sha256": hashlib.sha256(gzip.compress(b"abc", mtime=6)).hexdigest()}}
    with pytest.raises(EndError, match="a has the SHA-256"):
        made(said(source, {"name": "a", "decode": "gzip"}), sink, expect=expect)
    assert left_in(sink) == []


def test_a_cut_packed_file_is_refused_before_it_is_read(source: Path, sink: Path) -> None:
    (source / "a").write_bytes(gzip.compress(b"abc")[:-1])
    stream = said(source, {"name": "a", "decode": "gzip"}, measure=True)
    with pytest.raises(EndError, match="bytes, and 999 are expected"):
        made(stream, sink, expect={"a": {"wire_size": 999}}, measure=True)


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Callable[[], list[str]]:
    """A systemctl that notes its calls, which this gives, and fails for timers once there is a file ``lost``."""
    directory = tmp_path / "bin"
    directory.mkdir()
    calls = directory / "calls"
    script = directory / "systemctl"
    script.write_text(
        f'#!/bin/sh\necho "$*" >> {calls}\ncase $2 in *.timer) test ! -e {directory}/lost ;; esac\n', encoding="utf-8"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return lambda: calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []


LET_GO = ["start --no-block resume-a.service", "stop resume-a.timer"]


@pytest.mark.parametrize(("every", "least"), [(1e9, 1), (0.0, 4)])
def test_what_holds_files_still_is_renewed_as_they_are_read(
    source: Path, systemctl: t.Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, every: float, least: int
) -> None:
    monkeypatch.setattr(end, "RENEWAL", every)
    sparse(source / "a")
    assert frames(said(source, "a", hold="resume-a"))[-1][0] == b"Q"
    assert set(systemctl()) == {"restart resume-a.timer"}
    assert len(systemctl()) >= least
    assert (len(systemctl()) == 1) == (least == 1)


def test_files_that_nothing_holds_are_read_as_ever(source: Path, systemctl: t.Callable[[], list[str]]) -> None:
    (source / "a").write_text("a")
    assert frames(said(source, "a"))[-1][0] == b"Q"
    assert systemctl() == []


def test_files_that_are_held_no_more_are_an_error(
    source: Path, tmp_path: Path, systemctl: t.Callable[[], list[str]]
) -> None:
    (source / "a").write_text("a")
    (tmp_path / "bin" / "lost").touch()
    with pytest.raises(EndError, match="held no more"):
        said(source, "a", hold="resume-a")
    assert systemctl() == ["restart resume-a.timer", *LET_GO]


class Closed(io.BytesIO):
    """A pipe whose other end goes after the first frame."""

    def writelines(self, _lines: t.Iterable[t.Any]) -> None:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("form", [None, "gzip"])
def test_an_end_that_gives_up_lets_go_at_once(
    source: Path, systemctl: t.Callable[[], list[str]], form: str | None
) -> None:
    sparse(source / "a")
    request = {"directory": str(source), "files": [{"name": "a", "encode": form}], "hold": "resume-a"}
    with pytest.raises(BrokenPipeError):
        end.send(request, Closed())
    assert systemctl() == LET_GO


def test_a_systemctl_that_does_not_answer_holds_nothing(
    source: Path, tmp_path: Path, systemctl: t.Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(end, "PATIENCE", 0.01)
    (tmp_path / "bin" / "systemctl").write_text("#!/bin/sh\nexec sleep 60\n")
    (source / "a").write_text("a")
    with pytest.raises(EndError, match="held no more"):
        said(source, "a", hold="resume-a")
    assert systemctl() == []


class Standard:
    """Standard input or output of the program."""

    def __init__(self, content: bytes = b"") -> None:
        self.buffer = io.BytesIO(content)


def run(monkeypatch: pytest.MonkeyPatch, request: dict[str, t.Any], content: bytes = b"") -> tuple[int, bytes]:
    text = json.dumps(request).encode()
    out = Standard()
    monkeypatch.setattr("sys.stdin", Standard(b"%d\n%s%s" % (len(text), text, content)))
    monkeypatch.setattr("sys.stdout", out)
    status = end.main()
    return status, out.buffer.getvalue()


def test_the_program_from_request_to_answer(source: Path, sink: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "a").write_text("abc")
    status, stream = run(monkeypatch, {"role": "send", "directory": str(source)})
    assert status == 0
    status, answer = run(monkeypatch, {"role": "receive", "directory": str(sink)}, stream)
    assert status == 0
    assert json.loads(answer)["files"][0]["name"] == "a"
    assert (sink / "a").read_text() == "abc"


def test_errors_of_the_program_are_answers(source: Path, sink: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, stream = run(monkeypatch, {"role": "send", "directory": str(source / "none")})
    assert status == 1
    kind, _number, content = end.read_frame(io.BytesIO(stream))
    assert kind == b"X"
    assert json.loads(content)["seen"] == f"{source}/none: No such file or directory."
    status, answer = run(monkeypatch, {"role": "receive", "directory": str(sink)}, stream)
    assert status == 1
    assert json.loads(answer)["error"]["end"] == "source"
    status, answer = run(monkeypatch, {"role": "receive", "directory": str(sink)}, b"")
    assert json.loads(answer)["error"]["end"] == "stream"
