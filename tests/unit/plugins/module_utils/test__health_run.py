# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting for guests of a host whose time only goes on when it is waited."""

from __future__ import annotations

import json
import re
import typing as t
from concurrent.futures import Executor, Future
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _health_run
from ansible_collections.microvm.fleet.plugins.module_utils._health import Answer, TooSlow
from ansible_collections.microvm.fleet.plugins.module_utils._health_run import (
    Journal,
    Waiting,
    await_healthy,
    search_within,
)
from ansible_collections.microvm.fleet.plugins.module_utils._health_wish import Access, Health, Probe
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths
from ansible_collections.microvm.fleet.tests.unit.support.recorded import Answers

START = 5000.0


class Pool(Executor):
    """Does what it is given at once, or (with *late*) never."""

    def __init__(self, *, late: bool = False) -> None:
        self.late = late
        self.count = 0

    def submit(self, fn: t.Callable[..., t.Any], /, *args: t.Any, **kwargs: t.Any) -> Future[t.Any]:
        self.count += 1
        future: Future[t.Any] = Future()
        if not self.late:
            future.set_result(fn(*args, **kwargs))
        return future


class Host(Answers):
    """Units, journals and a clock.  *events* are what happens, by the second in which it does."""

    def __init__(self, events: t.Mapping[float, t.Callable[[Host], None]] | None = None) -> None:
        super().__init__()
        self.now = START
        self.units: dict[str, dict[str, str]] = {}
        self.entries: list[dict[str, t.Any]] = []
        self.broken: set[str] = set()
        self._events = dict(events or {})
        self.sleep(0)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for second in sorted(self._events):
            if self.now >= START + second:
                self._events.pop(second)(self)

    def unit(self, name: str, invocation: str = "aa", **values: str) -> None:
        self.units[name] = {
            "Id": f"microvm@{name}.service",
            "ActiveState": "active",
            "SubState": "running",
            "Result": "success",
            "NRestarts": "0",
            "ActiveEnterTimestampMonotonic": str(int(self.now * 1e6)),
            "InvocationID": invocation,
            **values,
        }

    def up(self, names: t.Iterable[str]) -> None:
        for name in names:
            self.unit(name)

    def say(self, name: str, message: t.Any, invocation: str = "aa") -> None:
        self.entries.append(
            {
                "__CURSOR": f"c{len(self.entries)}",
                "_SYSTEMD_UNIT": f"microvm@{name}.service",
                "_SYSTEMD_INVOCATION_ID": invocation,
                "MESSAGE": message,
            }
        )

    def answer(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        if argv[0] in self.broken:
            return 1, "", f"{argv[0]} is broken"
        if argv[0] == "journalctl":
            after = argv[argv.index("--after-cursor") + 1] if "--after-cursor" in argv else "c-1"
            wanted = {word.split("=", 1)[1] for word in argv if word.startswith("_SYSTEMD_UNIT=")}
            assert wanted
            new = [each for each in self.entries[int(after[1:]) + 1 :] if each["_SYSTEMD_UNIT"] in wanted]
            return 0, "".join(json.dumps(each) + "\n" for each in new), ""
        assert argv[:2] == ("systemctl", "show")
        blocks = ("".join(f"{key}={value}\n" for key, value in values.items()) for values in self.units.values())
        return 0, "\n".join(blocks), ""


def wait(
    host: Host, healths: t.Mapping[str, Health], tmp_path: Path, **options: t.Any
) -> tuple[dict[str, str | None], float]:
    """The verdicts, and the seconds that they took."""
    options.setdefault("pool", Pool())
    found = await_healthy(
        host,
        healths,
        started=dict.fromkeys(healths, START),
        paths=Paths(str(tmp_path)),
        clock=lambda: host.now,
        sleep=host.sleep,
        **options,
    )
    return found, host.now - START


TCP = Probe("tcp", address="10.1.0.11", port=80)


@pytest.fixture(name="answers")
def _answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Answer]]:
    """What guests answer to each question, by their names; the last answer holds."""
    answers: dict[str, list[Answer]] = {}

    def ask(_commands: t.Any, _probe: Probe, _hosts_file: str | None, name: str) -> Answer:
        left = answers[name]
        return left.pop(0) if len(left) > 1 else left[0]

    monkeypatch.setattr(_health_run, "ask", ask)
    return answers


def test_units_alone(tmp_path: Path) -> None:
    host = Host({0: lambda host: host.unit("web1"), 3: lambda host: host.unit("web2")})
    assert wait(host, {"web1": Health(), "web2": Health()}, tmp_path) == ({"web1": None, "web2": None}, 13.0)


def test_nobody_to_wait_for(tmp_path: Path) -> None:
    assert wait(Host(), {}, tmp_path) == ({}, 0.0)


def test_each_is_judged_by_itself(tmp_path: Path, answers: dict[str, list[Answer]]) -> None:
    def begin(host: Host) -> None:
        for name in ("good", "slow", "dead", "gone", "panic"):
            host.unit(name)

    host = Host(
        {
            0: begin,
            2: lambda host: host.say("panic", "Kernel panic - not syncing: no init"),
            4: lambda host: host.unit("gone", ActiveState="failed", SubState="failed", Result="exit-code"),
        }
    )
    answers.update(
        good=[Answer()],
        slow=[Answer(wrong="connection refused")] * 3 + [Answer()],
        dead=[Answer(wrong="connection refused")],
        gone=[Answer()],
        panic=[Answer()],
    )
    told: list[tuple[str, str | None, float]] = []
    health = Health((TCP,), 10, 60, 600)
    found, took = wait(
        host,
        dict.fromkeys(answers, health),
        tmp_path,
        progress=lambda name, reason: told.append((name, reason, host.now - START)),
    )
    assert found == {
        "good": None,
        "slow": None,
        "dead": "not within 60 s: tcp 10.1.0.11:80: connection refused",
        "gone": "its unit has failed (exit-code)",
        "panic": "the kernel of the guest has panicked; its console says: Kernel panic - not syncing: no init",
    }
    assert took == 60.0
    assert [(name, when) for name, _reason, when in told] == [
        ("panic", 2.0),
        ("gone", 4.0),
        ("good", 10.5),
        ("slow", 25.5),
        ("dead", 60.0),
    ]
    assert {name: reason for name, reason, _when in told} == found


def test_one_look_a_round_for_all(tmp_path: Path, answers: dict[str, list[Answer]]) -> None:
    names = [f"web{number}" for number in range(20)]
    host = Host({0: lambda host: host.up(names)})
    answers.update({name: [Answer()] for name in names})
    pool = Pool()
    found, took = wait(host, {name: Health((TCP,), 2) for name in names}, tmp_path, pool=pool)
    assert set(found.values()) == {None}
    assert host.count("systemctl") == host.count("journalctl") == 1 + took / _health_run.ROUND
    assert pool.count == len(names)


def test_a_probe_is_asked_by_its_interval_and_only_while_the_guest_is_up(
    tmp_path: Path, answers: dict[str, list[Answer]]
) -> None:
    host = Host({10: lambda host: host.unit("web1")})
    answers["web1"] = [Answer()]
    pool = Pool()
    found, took = wait(host, {"web1": Health((Probe("tcp", interval=2, port=1),), 8)}, tmp_path, pool=pool)
    assert found == {"web1": None}
    assert took == 18.5
    assert pool.count == 5


def test_a_probe_that_does_not_come_back(tmp_path: Path) -> None:
    host = Host({0: lambda host: host.unit("web1")})
    pool = Pool(late=True)
    found, _took = wait(host, {"web1": Health((TCP,), 1, 30)}, tmp_path, pool=pool)
    assert found == {"web1": "not within 30 s: tcp 10.1.0.11:80: it was not answered yet"}
    assert pool.count == 1


def test_no_progress(tmp_path: Path, answers: dict[str, list[Answer]]) -> None:
    """As long as one after the other becomes healthy, the others may take their time."""
    names = ["web1", "web2", "web3"]
    host = Host({0: lambda host: host.up(names)})
    refused = [Answer(wrong="connection refused")]
    answers.update(web1=[Answer()], web2=[*refused * 4, Answer()], web3=refused)
    found, took = wait(host, {name: Health((TCP,), 1, 300, 25) for name in names}, tmp_path)
    assert found == {"web1": None, "web2": None, "web3": "no guest has become healthy for 25 s"}
    assert took == 46.5


def test_the_journal_of_this_start(tmp_path: Path) -> None:
    probe = Probe("journal", pattern="is up")

    def begin(host: Host) -> None:
        host.say("web1", "web1 is up", "earlier")
        host.say("web2", "web2 is up")
        host.unit("web1")

    host = Host({0: begin, 5: lambda host: host.say("web1", list(b"web1 \x1b[1mis\x1b[0m up"))})
    assert wait(host, {"web1": Health((probe,), 1)}, tmp_path) == ({"web1": None}, 6.0)


def test_the_journal_of_the_start_before_one_that_is_still_to_come(tmp_path: Path) -> None:
    """Its job waits for another unit, and until then systemd has the invocation of the start before."""

    def begin(host: Host) -> None:
        host.unit("web1", "before", ActiveState="inactive", SubState="dead", Job="7")
        host.say("web1", "You are in emergency mode.", "before")

    host = Host({0: begin, 5: lambda host: host.unit("web1")})
    assert wait(host, {"web1": Health((), 1)}, tmp_path) == ({"web1": None}, 6.0)

    def end(host: Host) -> None:
        host.unit("web1", ActiveState="inactive", SubState="dead")
        host.say("web1", "You are in emergency mode.")

    (reason,) = wait(Host({0: begin, 5: end}), {"web1": Health((), 1)}, tmp_path)[0].values()
    assert "emergency" in str(reason)


def test_what_journalctl_is_asked() -> None:
    host = Host()
    journal = Journal(host)
    assert journal.read([]) == {}
    assert host.calls == []
    assert journal.read(["web1"]) == {}
    assert "--after-cursor" not in host.calls[-1]
    assert host.calls[-1][host.calls[-1].index("--lines") + 1] == str(_health_run.LINES)
    host.say("web1", "one")
    host.say("web2", "two")
    # Fields that are too long, and what is no text.
    host.say("web1", None)
    host.say("web1", ["x"])
    host.say("web1", "\u2028")
    assert journal.read(["web1", "web2"]) == {"web1": [("aa", "one"), ("aa", "\u2028")], "web2": [("aa", "two")]}
    assert journal.read(["web1", "web2"]) == {}
    assert host.calls[-1][-3:] == ("c4", "_SYSTEMD_UNIT=microvm@web1.service", "_SYSTEMD_UNIT=microvm@web2.service")


def test_what_journalctl_prints_that_is_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    entry = {"_SYSTEMD_UNIT": "microvm@web1.service", "_SYSTEMD_INVOCATION_ID": "aa", "MESSAGE": "x"}
    printed = f"-- No entries --\n[1]\n{json.dumps(entry)}\n"
    monkeypatch.setattr(host, "answer", lambda _argv: (0, printed, ""))
    assert Journal(host).read(["web1"]) == {"web1": [("aa", "x")]}


def test_a_journal_that_cannot_be_read(tmp_path: Path) -> None:
    host = Host({0: lambda host: host.unit("web1")})
    host.broken.add("journalctl")
    probe = Probe("journal", pattern="oops", absent=True)
    found, took = wait(host, {"web1": Health((probe,), 1, 5)}, tmp_path)
    assert "journal without 'oops': the journal cannot be read: " in str(found["web1"])
    assert took == 5.0
    # It concerns nobody else.
    assert wait(host, {"web1": Health((), 1, 30)}, tmp_path)[0] == {"web1": None}


def test_units_that_cannot_be_read(tmp_path: Path) -> None:
    host = Host({0: lambda host: host.unit("web1"), 3: lambda host: host.broken.clear()})
    host.broken.add("systemctl")
    assert wait(host, {"web1": Health((), 1, 30)}, tmp_path) == ({"web1": None}, 4.0)
    host = Host()
    host.broken.add("systemctl")
    found, took = wait(host, {"web1": Health((), 1, 30)}, tmp_path)
    assert (found, took) == ({"web1": "not within 30 s: its unit is inactive"}, 30.0)


SSH = Probe("ssh", access=Access("10.1.0.11"), command=("true",))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


@pytest.mark.parametrize(("before", "told"), [(None, 0), (KEY, 0), ("ssh-ed25519 AAAAother", 1)])
def test_host_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None, told: int) -> None:
    path = tmp_path / "var/lib/microvm-fleet/ssh/web1"
    path.parent.mkdir(parents=True)
    path.write_text(f"# before\nweb1 {before}\n" if before else "", "utf-8")

    def ask(_commands: t.Any, _probe: Probe, hosts_file: str | None, name: str) -> Answer:
        assert hosts_file == str(path)
        assert name == "web1"
        if KEY not in path.read_text("utf-8"):
            with path.open("a", encoding="utf-8") as file:
                file.write(f"web1 {KEY}\n")
        return Answer()

    monkeypatch.setattr(_health_run, "ask", ask)
    host = Host({0: lambda host: host.unit("web1")})
    notes: list[str] = []
    found, _took = wait(host, {"web1": Health((SSH,), 1)}, tmp_path, note=notes.append)
    assert found == {"web1": None}
    assert path.read_text("utf-8") == f"# aa\nweb1 {KEY}\n"
    assert len(notes) == told
    assert all("guest web1 has another SSH host key" in note and "AAAA" not in note for note in notes)


def test_a_place_for_host_keys_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("no directory", "utf-8")
    host = Host({0: lambda host: host.unit("web1")})
    found, _took = wait(host, {"web1": Health((SSH,), 1, 5)}, tmp_path)
    assert "ssh root@10.1.0.11:22: " in str(found["web1"])
    assert ": Not a directory" in str(found["web1"])


def test_threads_of_its_own(tmp_path: Path) -> None:
    """With the pool that modules use, and a port where nobody listens."""
    host = Host({0: lambda host: host.unit("web1")})
    probe = Probe("tcp", address="127.0.0.1", port=1)
    found, _took = wait(host, {"web1": Health((probe,), 1, 20)}, tmp_path, pool=None)
    assert "tcp 127.0.0.1:1: " in str(found["web1"])


def waiting_on(host: Host, tmp_path: Path, **options: t.Any) -> Waiting:
    return Waiting(host, paths=Paths(str(tmp_path)), clock=lambda: host.now, pool=Pool(), **options)


def test_one_that_comes_again_is_judged_anew(tmp_path: Path) -> None:
    """What it said while nobody waited for it counts, and what it said in its start before does not."""
    host = Host()
    host.up(["web1", "web2"])
    waiting = waiting_on(host, tmp_path)
    assert waiting.look() == {}
    assert host.calls == []
    for name in ("web1", "web2"):
        waiting.add(name, Health((Probe("journal", pattern="is up"),), 1), host.now)
    host.say("web1", "Kernel panic - not syncing: no init")
    assert list(waiting.look()) == ["web1"]
    host.sleep(1)
    host.unit("web1", "bb")
    host.say("web1", "web1 is up", "bb")
    # Others are read on beyond that.
    host.say("web2", "web2 is up")
    assert waiting.look() == {}
    waiting.add("web1", Health((Probe("journal", pattern="is up"),), 1), host.now)
    host.sleep(0.5)
    assert waiting.look() == {}
    # Its line came before; that is read once, and then on.
    assert host.count("journalctl", "--lines") == 2
    host.sleep(0.5)
    assert waiting.look() == {"web2": None}
    host.sleep(0.5)
    assert waiting.look() == {"web1": None}
    assert not waiting.pending
    assert host.count("journalctl", "--lines") == 2


def test_progress_counts_from_when_one_came(tmp_path: Path) -> None:
    host = Host()
    host.up(["web1", "web2"])
    host.units["web2"]["ActiveState"] = "activating"
    waiting = waiting_on(host, tmp_path)
    late = Health((), 1, 300, 25)
    waiting.add("web1", Health((), 60, 300, 0), host.now)
    host.sleep(24)
    waiting.add("web2", late, host.now)
    host.sleep(24)
    assert waiting.look() == {}
    host.sleep(1)
    assert waiting.look() == {"web2": "no guest has become healthy for 25 s"}


def test_a_host_key_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "var/lib/microvm-fleet/ssh/web1"
    path.parent.mkdir(parents=True)
    path.write_text("# before\nweb1 ssh-ed25519 AAAAother\n", "utf-8")

    def ask(_commands: t.Any, _probe: Probe, _hosts_file: str | None, name: str) -> Answer:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{name} ssh-ed25519 AAAA{host.now:.0f}\n")
        return Answer()

    monkeypatch.setattr(_health_run, "ask", ask)
    host = Host()
    notes: list[str] = []
    waiting = waiting_on(host, tmp_path, note=notes.append)
    for invocation in ("aa", "bb"):
        host.unit("web1", invocation)
        waiting.add("web1", Health((SSH,), 0), host.now)
        assert waiting.look() == {}
        host.sleep(1)
        assert waiting.look() == {"web1": None}
    assert len(notes) == 1


def test_patterns_within_their_time() -> None:
    assert search_within(re.compile("b+"), ["a", "abb"]) == "abb"
    assert search_within(re.compile("c"), ["a", "abb"]) is None


def test_a_pattern_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_health_run, "PATTERN_TIME", 0.1)
    with pytest.raises(TooSlow):
        search_within(re.compile(r"(x+x+)+y"), ["x" * 60])
    # And nothing is left of the alarm.
    assert search_within(re.compile("x"), ["x"]) == "x"


def test_a_guest_with_a_pattern_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_health_run, "PATTERN_TIME", 0.1)
    host = Host({0: lambda host: host.unit("web1"), 1: lambda host: host.say("web1", "x" * 60)})
    found, took = wait(host, {"web1": Health((Probe("journal", pattern="(x+x+)+y", absent=True),))}, tmp_path)
    assert "takes too long, so make it simpler" in str(found["web1"])
    assert took == 1.0
