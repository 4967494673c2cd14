# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files, links and locks: whole or not at all, and left to nobody."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import os
import stat
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _files
from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy


def entries(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def fail(*_arguments: object, **_options: object) -> t.NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device", "the disk")


def test_beside_is_a_name_in_the_same_directory() -> None:
    assert _files.beside("/a/b") == f"/a/.microvm-fleet.b.{os.getpid()}"


@pytest.mark.parametrize("before", [None, "old", "link"])
def test_write_file(tmp_path: Path, owners: dict[str, tuple[int, int]], before: str | None) -> None:
    path = tmp_path / "file"
    if before == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif before is not None:
        path.write_text(before, encoding="utf-8")
    _files.write_file(str(path), "grüße\n", mode=0o600, uid=1, gid=2)
    assert path.read_text(encoding="utf-8") == "grüße\n"
    assert not path.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(owners.values()) == [(1, 2)]
    assert entries(tmp_path) == ["file"]


def test_write_file_is_for_all_to_read_and_of_root(tmp_path: Path, owners: dict[str, tuple[int, int]]) -> None:
    _files.write_file(str(tmp_path / "file"), "text")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    assert list(owners.values()) == [(0, 0)]


def test_write_file_takes_over_what_a_killed_run_of_the_same_number_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    Path(_files.beside(str(path))).write_text("half", encoding="utf-8")
    _files.write_file(str(path), "whole")
    assert path.read_text(encoding="utf-8") == "whole"
    assert entries(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["rename", "fsync", "fchmod", "fchown"])
def test_write_file_that_fails_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        _files.write_file(str(path), "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert entries(tmp_path) == ["file"]


def test_write_file_into_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _files.write_file(str(tmp_path / "none" / "file"), "text")


@pytest.mark.parametrize("before", [None, "old", "file"])
def test_write_link(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "link"
    if before == "file":
        path.write_text("text", encoding="utf-8")
    elif before is not None:
        path.symlink_to(before)
    _files.write_link(str(path), "/nix/store/x")
    assert os.readlink(path) == "/nix/store/x"
    assert entries(tmp_path) == ["link"]


def test_write_link_takes_over_what_a_killed_run_of_the_same_number_left(tmp_path: Path) -> None:
    path = tmp_path / "link"
    path.symlink_to("old")
    os.symlink("half", _files.beside(str(path)))
    _files.write_link(str(path), "whole")
    assert os.readlink(path) == "whole"
    assert entries(tmp_path) == ["link"]


def test_write_link_that_fails_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "link"
    path.symlink_to("old")
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="No space left"):
        _files.write_link(str(path), "new")
    assert os.readlink(path) == "old"
    assert entries(tmp_path) == ["link"]


def test_copy_link_is_another_name_and_of_now(tmp_path: Path) -> None:
    link, copy, unflushed = tmp_path / "staged", tmp_path / "1", _files.Unflushed()
    link.symlink_to("/nix/store/x")
    os.utime(link, (1, 1), follow_symlinks=False)
    _files.copy_link(str(copy), str(link), unflushed=unflushed)
    assert os.readlink(copy) == "/nix/store/x"
    assert copy.lstat().st_ino == link.lstat().st_ino
    assert copy.lstat().st_mtime > 1
    assert list(unflushed.paths) == [str(tmp_path)]
    link.unlink()
    assert os.readlink(copy) == "/nix/store/x"


@pytest.mark.parametrize("there", [True, False])
def test_copy_link_where_there_is_one_already_or_the_filesystem_has_no_second_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    link, copy, unflushed = tmp_path / "staged", tmp_path / "1", _files.Unflushed()
    link.symlink_to("/nix/store/x")
    if there:
        copy.symlink_to("/nix/store/old")
    else:
        monkeypatch.setattr(os, "link", fail)
    _files.copy_link(str(copy), str(link), unflushed=unflushed)
    assert os.readlink(copy) == "/nix/store/x"
    assert copy.lstat().st_ino != link.lstat().st_ino
    assert entries(tmp_path) == ["1", "staged"]


def test_write_link_never_replaces_a_directory(tmp_path: Path) -> None:
    (tmp_path / "link").mkdir()
    with pytest.raises(IsADirectoryError):
        _files.write_link(str(tmp_path / "link"), "new")
    assert entries(tmp_path) == ["link"]


def test_remove(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    assert _files.remove(str(tmp_path / "file"))
    assert _files.remove(str(tmp_path / "dangling"))
    assert not _files.remove(str(tmp_path / "file"))
    assert not _files.remove(str(tmp_path / "none" / "file"))
    assert entries(tmp_path) == []


def test_remove_flushes_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(_files, "sync_directory", flushed.append)
    (tmp_path / "file").touch()
    _files.remove(str(tmp_path / "file"))
    assert flushed == [str(tmp_path)]


def test_sync_directory_closes_what_it_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail)
    before = entries(Path("/proc/self/fd"))
    with pytest.raises(OSError, match="No space left"):
        _files.sync_directory(str(tmp_path))
    assert entries(Path("/proc/self/fd")) == before


def test_sync_directory_takes_directories_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        _files.sync_directory(str(tmp_path / "file"))


def test_read_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "file").touch()
    assert _files.read_link(str(tmp_path / "link")) == "target"
    assert _files.read_link(str(tmp_path / "file")) is None
    assert _files.read_link(str(tmp_path / "none")) is None
    assert _files.read_link(str(tmp_path / "file" / "none")) is None


def test_read_link_of_a_loop_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        _files.read_link(str(tmp_path / "loop" / "current"))


def test_read_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\xffb\n")
    assert _files.read_text(str(tmp_path / "file")) == "a\ufffdb\n"
    assert _files.read_text(str(tmp_path / "file"), 1) == "a"
    assert _files.read_text(str(tmp_path / "none")) is None
    assert _files.read_text(str(tmp_path)) is None
    assert _files.read_text(str(tmp_path / "file" / "none")) is None


HOLD = """
import sys
from ansible_collections.microvm.fleet.plugins.module_utils import _files
with _files.lock(sys.argv[1], what="guest web1", shared=sys.argv[2] == "shared"):
    print(flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def other(path: Path, *, shared: bool = False) -> t.Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock for the block."""
    argv = [sys.executable, "-c", HOLD, str(path), "shared" if shared else "exclusive"]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        yield process


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "lock" / "guest-web1"


def test_lock_holds_for_the_block(place: Path) -> None:
    with _files.lock(str(place), what="guest web1"):
        assert place.read_text(encoding="ascii") == f"{os.getpid()}\n"
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        with place.open() as again, pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with place.open() as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_lock_is_dropped_when_the_block_fails(place: Path) -> None:
    with pytest.raises(KeyError), _files.lock(str(place), what="guest web1"):
        raise KeyError
    with _files.lock(str(place), what="guest web1"):
        assert place.exists()


def test_lock_does_not_outlive_what_it_starts(place: Path) -> None:
    with _files.lock(str(place), what="guest web1"):
        handles = [os.path.realpath(f"/proc/self/fd/{entry}") for entry in os.listdir("/proc/self/fd")]
        assert handles.count(str(place)) == 1
        number = next(n for n in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{n}") == str(place))
        assert not os.get_inheritable(int(number))


def test_a_lock_that_is_held_names_the_process(place: Path) -> None:
    with other(place) as process:
        with pytest.raises(Busy) as caught, _files.lock(str(place), what="guest web1"):
            pytest.fail("held twice")
        assert caught.value.text() == (
            f"guest web1: another run (process {process.pid}) is working on it. "
            "Wait for it to end, or raise lock_timeout."
        )


def test_a_holder_that_wrote_nothing_is_unknown(place: Path) -> None:
    place.parent.mkdir()
    with place.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(Busy, match=r"^host: another run \(process unknown\)"), _files.lock(str(place), what="host"):
            pytest.fail("held twice")


def test_shared_locks_go_together(place: Path) -> None:
    with other(place, shared=True), _files.lock(str(place), what="host", shared=True):
        assert place.exists()


def test_a_shared_lock_keeps_out_an_exclusive_one(place: Path) -> None:
    with other(place, shared=True), pytest.raises(Busy), _files.lock(str(place), what="host"):
        pytest.fail("held twice")


def test_an_exclusive_lock_keeps_out_a_shared_one(place: Path) -> None:
    with other(place), pytest.raises(Busy), _files.lock(str(place), what="host", shared=True):
        pytest.fail("held twice")


def test_lock_waits_for_its_time(place: Path) -> None:
    with other(place), pytest.raises(Busy), _files.lock(str(place), what="host", timeout=0.2):
        pytest.fail("held twice")


def test_lock_comes_when_the_holder_ends(place: Path) -> None:
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(other(place))
        process.kill()
        with _files.lock(str(place), what="host", timeout=30):
            assert place.read_text(encoding="ascii") == f"{os.getpid()}\n"


def test_replace_file_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    unflushed = _files.Unflushed()
    parts = _files.replace_file(str(path), "new", unflushed=unflushed)
    next(parts)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(unflushed.paths) == [_files.beside(str(path))]
    assert next(parts, None) is None
    assert path.read_text(encoding="utf-8") == "new"
    assert str(tmp_path) in unflushed.paths


def test_replace_file_that_is_told_of_an_error_leaves_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    parts = _files.replace_file(str(path), "new", unflushed=_files.Unflushed())
    next(parts)
    with pytest.raises(OSError, match="broken"):
        parts.throw(OSError(errno.EIO, "broken"))
    assert path.read_text(encoding="utf-8") == "old"
    assert entries(tmp_path) == ["file"]


def test_replace_file_that_is_never_resumed_leaves_what_the_next_run_removes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    parts = _files.replace_file(str(path), "new", unflushed=_files.Unflushed())
    next(parts)
    parts.close()
    assert entries(tmp_path) == [os.path.basename(_files.beside(str(path)))]


def test_make_directory_notes_what_got_an_entry(tmp_path: Path) -> None:
    unflushed = _files.Unflushed()
    _files.make_directory(str(tmp_path / "a" / "b"), unflushed=unflushed, mode=0o700)
    assert list(unflushed.paths) == [str(tmp_path), str(tmp_path / "a")]
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    again = _files.Unflushed()
    _files.make_directory(str(tmp_path / "a" / "b"), unflushed=again)
    assert not again.paths


def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what os.fsync is called for, as it is called."""
    names: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: names.append(os.readlink(f"/proc/self/fd/{handle}")))
    return names


def test_flush_of_a_few_is_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = flushed(monkeypatch)
    (tmp_path / "file").touch()
    wanted = [str(tmp_path), str(tmp_path / "file")]
    assert _files.flush(wanted) == {}
    assert names == wanted


def test_flush_of_many_is_of_the_filesystem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = flushed(monkeypatch)
    paths = [tmp_path / str(number) for number in range(_files.MANY + 1)]
    for path in paths:
        path.touch()
    assert _files.flush([str(path) for path in paths]) == {}
    assert names == []


@pytest.mark.parametrize("error", [ImportError, AttributeError, OSError])
def test_flush_of_many_without_syncfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def no_library(_name: str) -> t.NoReturn:
        raise error

    names = flushed(monkeypatch)
    monkeypatch.setattr(importlib, "import_module", no_library)
    paths = [tmp_path / str(number) for number in range(_files.MANY + 1)]
    for path in paths:
        path.touch()
    assert _files.flush([str(path) for path in paths]) == {}
    assert names == [str(path) for path in paths]


def test_flush_names_what_could_not_be(tmp_path: Path) -> None:
    paths = [str(tmp_path / str(number)) for number in range(_files.MANY + 1)]
    for path in paths[1:]:
        Path(path).touch()
    errors = _files.flush(paths)
    assert list(errors) == paths[:1]
    assert errors[paths[0]].filename == paths[0]


def test_what_killed_runs_have_left_of_a_file_is_swept(tmp_path: Path) -> None:
    left = [f"{_files.TEMPORARY}a.json.17", f"{_files.TEMPORARY}a.json.18"]
    kept = ["a.json", "b.json", f"{_files.TEMPORARY}b.json.17", f"{_files.TEMPORARY}a.jsonx.17"]
    for name in (*left, *kept):
        (tmp_path / name).write_text(name)
    _files.sweep(str(tmp_path / "a.json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
