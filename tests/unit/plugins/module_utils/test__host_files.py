# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tests of the directories and files that a host needs."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _files, _host_files
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._host_files import Seen, Step, Wish, observe, plan

DIRECTORY = Wish("/etc/a", 0o755)
FILE = Wish("/etc/a/b", 0o644, b"text\n")
ROOT = (0, 0)


@pytest.fixture
def me(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has whoever runs the tests be root."""
    mine = (os.getuid(), os.getgid())
    monkeypatch.setattr(_host_files, "ROOT", mine)
    write = _files.replace_file
    monkeypatch.setattr(_files, "replace_file", lambda *args, **rest: write(*args, **rest, uid=mine[0], gid=mine[1]))


@pytest.mark.parametrize(
    ("wish", "seen", "act"),
    [
        (DIRECTORY, None, "make"),
        (DIRECTORY, Seen("directory", ROOT, 0o755), None),
        (DIRECTORY, Seen("directory", ROOT, 0o700), "mode"),
        (DIRECTORY, Seen("directory", (1, 0), 0o755), "mode"),
        (FILE, None, "write"),
        (FILE, Seen("file", ROOT, 0o644, b"text\n"), None),
        (FILE, Seen("file", ROOT, 0o600, b"text\n"), "mode"),
        (FILE, Seen("file", (0, 5), 0o644, b"text\n"), "mode"),
        (FILE, Seen("file", ROOT, 0o644, b"text"), "write"),
        (FILE, Seen("link", ROOT, 0o777), "write"),
    ],
)
def test_plan(wish: Wish, seen: Seen | None, act: str | None) -> None:
    """What is as wished is left alone; else owner and mode are set, or the whole is made."""
    assert plan([wish], {} if seen is None else {wish.path: seen}) == (() if act is None else (Step(act, wish, seen),))


@pytest.mark.parametrize(
    ("wish", "kind", "words"),
    [
        (DIRECTORY, "file", "host, /etc/a: There is a file where a directory is to be. Nothing was changed."),
        (FILE, "directory", "host, /etc/a/b: There is a directory where a file is to be. Nothing was changed."),
        (FILE, "special file", "host, /etc/a/b: There is a special file where a file is to be. Nothing was changed."),
    ],
)
def test_in_the_way(wish: Wish, kind: str, words: str) -> None:
    """What cannot be replaced is an error."""
    with pytest.raises(FleetError) as caught:
        plan([wish], {wish.path: Seen(kind, ROOT, 0o755)})
    assert caught.value.text() == f"{words} Move it away."


def test_words() -> None:
    """Each step has a line of its own, and a diff with owner and mode."""
    old = Seen("file", (1, 2), 0o600, b"old\n")
    steps = [
        Step("make", DIRECTORY, None),
        Step("write", FILE, None),
        Step("write", FILE, old),
        Step("mode", FILE, old),
    ]
    assert [step.word() for step in steps] == [
        "host: make /etc/a",
        "host: write /etc/a/b",
        "host: change /etc/a/b",
        "host: set owner and mode of /etc/a/b",
    ]
    assert steps[2].diff() == {
        "before_header": "/etc/a/b",
        "after_header": "/etc/a/b",
        "before": "owner 1:2 mode 0600\nold\n",
        "after": "owner 0:0 mode 0644\ntext\n",
    }
    assert steps[0].diff()["before"] == ""
    assert steps[0].diff()["after"] == "owner 0:0 mode 0755\n"


@pytest.mark.parametrize(
    ("path", "mode", "words"),
    [
        ("etc/a", "755", "host, etc/a, path: It is no absolute path in its shortest form. Correct it."),
        ("/etc/../a", "755", "host, /etc/../a, path: It is no absolute path in its shortest form. Correct it."),
        ("/", "755", "host, /, path: It is no absolute path in its shortest form. Correct it."),
        ("/etc/a", "rwx", "host, /etc/a, mode: 'rwx' is no mode of three octal digits. Correct it."),
        ("/etc/a", "4755", "host, /etc/a, mode: '4755' is no mode of three octal digits. Correct it."),
    ],
)
def test_no_wish(path: str, mode: str, words: str) -> None:
    """Paths and modes are checked before anything is looked at."""
    with pytest.raises(InvalidWish) as caught:
        _host_files.read_wishes({"directories": [{"path": path, "mode": mode}], "files": []})
    assert caught.value.text() == words


def test_twice() -> None:
    """One path is one thing."""
    entry = {"path": "/etc/a", "mode": "755"}
    with pytest.raises(InvalidWish, match=r"^host, /etc/a, path: It is wished for twice\. Correct it\.$"):
        _host_files.read_wishes({"directories": [entry], "files": [{**entry, "content": ""}]})


def wishes(place: Path) -> tuple[Wish, ...]:
    """A directory with a script and a setting, and an empty file elsewhere, as a module is told of them."""
    params: dict[str, t.Any] = {
        "directories": [{"path": f"{place}/lib/tool", "mode": "0755"}, {"path": f"{place}/own", "mode": "700"}],
        "files": [
            {"path": f"{place}/lib/tool/run", "mode": "755", "content": "#!/bin/sh\n"},
            {
                "path": f"{place}/lib/tool/setting",
                "mode": "0644",
                "content": "name = \N{LATIN SMALL LETTER E WITH ACUTE}\n",
            },
            {"path": f"{place}/own/empty", "mode": "600", "content": ""},
        ],
    }
    return _host_files.read_wishes(params)


@pytest.mark.usefixtures("me")
def test_check_run_check_run(tmp_path: Path) -> None:
    """A check tells what a run does, and changes nothing; a second run has nothing to do."""
    checked = _host_files.converge(wishes(tmp_path), check=True)
    assert checked["changed"]
    assert list(tmp_path.iterdir()) == []
    ran = _host_files.converge(wishes(tmp_path), check=False)
    assert ran == checked
    assert (tmp_path / "lib/tool/run").read_text("utf-8") == "#!/bin/sh\n"
    assert (tmp_path / "lib/tool/setting").read_bytes() == b"name = \xc3\xa9\n"
    assert (tmp_path / "own/empty").read_bytes() == b""
    modes = {path: (tmp_path / path).stat().st_mode & 0o7777 for path in ("own", "lib/tool/run", "own/empty")}
    assert modes == {"own": 0o700, "lib/tool/run": 0o755, "own/empty": 0o600}
    assert sorted(path.name for path in (tmp_path / "lib/tool").iterdir()) == ["run", "setting"]
    for check in (True, False):
        assert _host_files.converge(wishes(tmp_path), check=check) == {
            "changed": False,
            "actions": [],
            "paths": [],
            "diff": [],
        }


@pytest.mark.usefixtures("me")
def test_mended(tmp_path: Path) -> None:
    """What was changed by hand is told and put right: a mode, a text, a longer text, a link, what a killed run left."""
    _host_files.converge(wishes(tmp_path), check=False)
    tool = tmp_path / "lib/tool"
    (tool / "run").chmod(0o644)
    (tool / "setting").write_text("longer" * 2000, "utf-8")
    (tool / ".microvm-fleet.setting.1").write_text("half", "utf-8")
    (tmp_path / "own/empty").unlink()
    (tmp_path / "own/empty").symlink_to(tool / "run")
    ran = _host_files.converge(wishes(tmp_path), check=False)
    assert ran["actions"] == [
        f"host: set owner and mode of {tool}/run",
        f"host: change {tool}/setting",
        f"host: change {tmp_path}/own/empty",
    ]
    assert ran["paths"] == [f"{tool}/run", f"{tool}/setting", f"{tmp_path}/own/empty"]
    assert not (tmp_path / "own/empty").is_symlink()
    assert (tool / "run").read_text("utf-8") == "#!/bin/sh\n"
    assert sorted(path.name for path in tool.iterdir()) == ["run", "setting"]


@pytest.mark.usefixtures("me")
def test_directory_elsewhere(tmp_path: Path) -> None:
    """A link to a directory counts as one."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "own").symlink_to("elsewhere")
    ran = _host_files.converge(wishes(tmp_path), check=False)
    assert f"host: make {tmp_path}/own" not in ran["actions"]
    assert (tmp_path / "elsewhere/empty").is_file()


@pytest.mark.usefixtures("me")
def test_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel refuses is told in words, and what is there stays as it is."""
    _host_files.converge(wishes(tmp_path), check=False)
    (tmp_path / "own/empty").write_text("kept", "utf-8")

    def refuse(*_paths: str) -> None:
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(FleetError, match="No space left on device"):
        _host_files.converge(wishes(tmp_path), check=False)
    assert (tmp_path / "own/empty").read_text("utf-8") == "kept"


def test_observe(tmp_path: Path) -> None:
    """What is in the place of a file is told by its kind, and a path below a file has nothing."""
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("directory")
    (tmp_path / "file").write_text("x", "utf-8")
    names = ("directory", "pipe", "link", "file", "file/below", "missing")
    found = observe(Wish(str(tmp_path / name), 0o644, b"") for name in names)
    assert {Path(path).name: seen.kind for path, seen in found.items()} == {
        "directory": "directory",
        "pipe": "special file",
        "link": "link",
        "file": "file",
    }
    assert found[str(tmp_path / "file")].content == b"x"
