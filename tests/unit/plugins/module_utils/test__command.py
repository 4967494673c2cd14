# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs of the host: found, bounded in time, read as text.  The programs here are real and small."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._command import (
    SEARCH_PATH,
    Commands,
    Completed,
    last_lines,
    short,
)
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError


@pytest.fixture
def commands() -> Commands:
    return Commands(timeout=30)


def script(directory: Path, name: str, text: str) -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def gone(pid: int) -> bool:
    """Whether the process has ended, waiting for that a while; a zombie that nobody reaps has ended too."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_run_gives_status_and_both_outputs(commands: Commands) -> None:
    done = commands.run(["sh", "-c", "echo out; echo err >&2"])
    assert done == Completed(("sh", "-c", "echo out; echo err >&2"), 0, "out\n", "err\n")


def test_run_gives_a_bad_status_when_it_is_not_to_check(commands: Commands) -> None:
    assert commands.run(["sh", "-c", "exit 3"], check=False).rc == 3


def test_run_hands_over_its_input(commands: Commands) -> None:
    assert commands.run(["cat"], stdin="grüße\n").stdout == "grüße\n"


def test_run_has_no_input_else(commands: Commands) -> None:
    assert commands.run(["cat"]).stdout == ""


def test_run_adds_to_the_environment(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGUAGE", "de")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("KEPT", "kept")
    text = 'echo "$LC_ALL,${LANGUAGE-unset},$KEPT,$MORE,$PATH"'
    said = commands.run(["sh", "-c", text], env={"MORE": "more"}).stdout.strip().split(",")
    assert said[:4] == ["C.UTF-8", "unset", "kept", "more"]
    assert said[4].split(":")[1:] == list(SEARCH_PATH)


def test_a_program_finds_those_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "fleet-inner", "echo inner")
    script(tmp_path, "fleet-outer", "PATH=${PATH%%:*} && fleet-inner")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Commands().run(["fleet-outer"]).stdout == "inner\n"


def test_find_looks_beyond_the_path_of_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = Commands().find("sh")
    assert found is not None
    assert os.path.dirname(found) in SEARCH_PATH


def test_find_remembers_what_it_found_but_not_what_it_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    commands = Commands()
    assert commands.find("fleet-late") is None
    path = script(tmp_path, "fleet-late", "true")
    assert commands.find("fleet-late") == path
    monkeypatch.setenv("PATH", "")
    assert commands.find("fleet-late") == path


def test_find_takes_no_file_that_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = Path(script(tmp_path, "fleet-plain", "true"))
    path.chmod(stat.S_IRUSR)
    assert Commands().find("fleet-plain") is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {},
            "the program fleet-none is not on this host. Install it, or run the role microvm.fleet.host first.",
        ),
        (
            {"subject": "guest web1"},
            (
                "guest web1: the program fleet-none is not on this host. "
                "Install it, or run the role microvm.fleet.host first."
            ),
        ),
        ({"hint": "Get it."}, "the program fleet-none is not on this host. Get it."),
    ],
)
def test_a_missing_program(commands: Commands, options: dict[str, str], text: str) -> None:
    with pytest.raises(CommandError) as caught:
        commands.run(["fleet-none", "--now"], subject=options.get("subject"), hint=options.get("hint"))
    assert caught.value.text() == text
    assert caught.value.argv == ("fleet-none", "--now")
    assert caught.value.rc is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo why >&2; exit 2", "sh -c echo why >&2; exit 2 ended with 2: why"),
        ("echo only out; exit 1", "sh -c echo only out; exit 1 ended with 1: only out"),
        ("exit 1", "sh -c exit 1 ended with 1: "),
        ("kill -9 $$", "sh -c kill -9 $$ ended with -9: "),
    ],
)
def test_a_bad_end(commands: Commands, text: str, said: str) -> None:
    with pytest.raises(CommandError) as caught:
        commands.run(["sh", "-c", text])
    assert caught.value.text() == said


def test_a_bad_end_tells_the_last_twenty_lines(commands: Commands) -> None:
    with pytest.raises(CommandError) as caught:
        commands.run(["sh", "-c", "seq 1 30 >&2; exit 1"], subject="guest web1", hint="Look.")
    lines = caught.value.text().splitlines()
    assert lines[0] == "guest web1: sh -c seq 1 30 >&2; exit 1 ended with 1: 11"
    assert lines[1:] == [*map(str, range(12, 30)), "30. Look."]
    assert (caught.value.rc, caught.value.stdout) == (1, "")
    assert caught.value.stderr.splitlines() == [str(number) for number in range(1, 31)]


def test_output_that_is_no_text_is_read_all_the_same(commands: Commands) -> None:
    done = commands.run(["sh", "-c", r"printf 'a\377\376b'; printf '\200' >&2"])
    assert done.stdout == "a\ufffd\ufffdb"
    assert done.stderr == "\ufffd"


def test_a_program_that_does_not_end_in_time(commands: Commands) -> None:
    with pytest.raises(CommandError) as caught:
        commands.run(["sleep", "60"], timeout=0.1, subject="guest web1")
    assert caught.value.text() == (
        "guest web1: sleep 60 did not end within 0.1 s. Raise the timeout, or see what the command waits for."
    )
    assert caught.value.rc is None


def test_the_time_of_the_object_holds_where_no_other_is_given() -> None:
    with pytest.raises(CommandError, match=r"^sleep 60 did not end within 0\.1 s\. Wait longer\.$"):
        Commands(timeout=0.1).run(["sleep", "60"], hint="Wait longer.")


def test_what_was_said_until_then_is_kept(commands: Commands) -> None:
    with pytest.raises(CommandError) as caught:
        commands.run(["sh", "-c", "echo out; echo err >&2; exec sleep 60"], timeout=1)
    assert (caught.value.stdout, caught.value.stderr) == ("out\n", "err\n")


def test_children_end_with_the_program(commands: Commands, tmp_path: Path) -> None:
    note = tmp_path / "pids"
    text = f"sleep 60 & echo $! > {note}; echo $$ >> {note}; wait"
    with pytest.raises(CommandError, match=r"did not end within 1 s"):
        commands.run(["sh", "-c", text], timeout=1)
    pids = [int(word) for word in note.read_text(encoding="ascii").split()]
    assert len(pids) == 2
    assert [gone(pid) for pid in pids] == [True, True]


def test_a_program_that_ignores_signals_ends_too(commands: Commands) -> None:
    with pytest.raises(CommandError, match=r"did not end within 0\.5 s"):
        commands.run(["sh", "-c", "trap '' TERM INT HUP; while :; do sleep 60; done"], timeout=0.5)


def test_the_program_ends_when_the_caller_is_interrupted(commands: Commands, tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        with pytest.raises(KeyboardInterrupt):
            commands.run(["sh", "-c", f"echo $$ > {note}; exec sleep 60"])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert gone(int(note.read_text(encoding="ascii")))


@pytest.mark.parametrize(
    ("text", "value"),
    [("echo '{\"a\": [1, null]}'", {"a": [1, None]}), ("echo '[]'", []), ("true", None), ("echo; echo ' '", None)],
)
def test_json(commands: Commands, text: str, value: object) -> None:
    assert commands.json(["sh", "-c", text]) == value


def test_json_that_is_none(commands: Commands) -> None:
    with pytest.raises(CommandError) as caught:
        commands.json(["sh", "-c", "echo oops"], subject="network lan")
    assert caught.value.text() == (
        "network lan: sh -c echo oops printed no JSON: Expecting value: line 1 column 1 (char 0)."
    )
    assert (caught.value.rc, caught.value.stdout) == (0, "oops\n")


def test_json_of_a_program_that_failed(commands: Commands) -> None:
    with pytest.raises(CommandError, match=r"^sh -c exit 4 ended with 4: $"):
        commands.json(["sh", "-c", "exit 4"])


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["nix", "build"], "nix build"),
        (["nix", "--expr", "a\nb"], "nix --expr a b"),
        (["x" * 120], "x" * 120),
        (["x" * 121], "x" * 120 + " ..."),
        ([], ""),
    ],
)
def test_short(argv: list[str], text: str) -> None:
    assert short(argv) == text


def test_short_of_another_length() -> None:
    assert short(["abcdef"], limit=3) == "abc ..."


@pytest.mark.parametrize(
    ("text", "count", "answer"),
    [
        ("", 3, ""),
        ("a\nb\nc", 2, "b\nc"),
        ("a\n\n \nb\n", 2, "a\nb"),
        ("a", 20, "a"),
        ("a\r\nb", 1, "b"),
    ],
)
def test_last_lines(text: str, count: int, answer: str) -> None:
    assert last_lines(text, count) == answer
