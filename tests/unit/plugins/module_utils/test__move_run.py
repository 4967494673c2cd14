# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Moves between two hosts: step by step, refused, undone, and killed anywhere."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._drain_plan import DrainWish
from ansible_collections.microvm.fleet.plugins.module_utils._drain_run import converge as drain
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_inspect import inspect
from ansible_collections.microvm.fleet.plugins.module_utils._holds import CONDITIONS
from ansible_collections.microvm.fleet.plugins.module_utils._move_run import Request, Result, read_request, run
from ansible_collections.microvm.fleet.plugins.plugin_utils import _move
from ansible_collections.microvm.fleet.tests.unit.support import scenes
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost, Killer, Spec
from ansible_collections.microvm.fleet.tests.unit.support.scenes import wish

HOSTS = {"source": "host1", "target": "host2"}
NAME = "web1"
MOVE = "4f3a2b1c"
RECORD: dict[str, t.Any] = {"flake": None, "locked": None, "facts": {}, "protect": False, "labels": {}}
DATA = "what the guest has written"


class Pair:
    """Two hosts, of which the first has the guest."""

    def __init__(self, place: Path, **wished: t.Any) -> None:
        self.hosts: dict[str, FakeHost] = {}
        for which in HOSTS:
            (place / which).mkdir(parents=True)
            self.hosts[which] = FakeHost(place / which)
        # Of a size that nobody knows: there is nothing to make, and nothing to grow.
        self.spec = Spec(NAME, volumes=(("data.img", None), ("more.img", None)))
        self.source.offer(self.spec)
        given = {"state": "started", "autostart": True, "labels": {"a": "b"}, "stop_timeout": 70, **wished}
        assert not scenes.run(self.source, [wish(**given)]).failures
        for image in ("data.img", "more.img"):
            self.source.guest(NAME, image).write_text(DATA, encoding="utf-8")
        self.source.calls.clear()

    @property
    def source(self) -> FakeHost:
        return self.hosts["source"]

    @property
    def target(self) -> FakeHost:
        return self.hosts["target"]

    def do(self, which: str, step: str, **more: t.Any) -> Result:
        host = self.hosts[which]
        other = HOSTS["target" if which == "source" else "source"]
        request = Request(NAME, step, **{"move": MOVE, "other": other, **more})
        return run(request, paths=host.paths, commands=host, lock_timeout=0)

    def views(self, *, deaf: str | None = None) -> dict[str, t.Any]:
        seen: dict[str, t.Any] = {}
        carry: dict[str, t.Any] = {}
        for which in HOSTS:
            seen[which] = None if which == deaf else self.do(which, "observe", carry=carry).view
            carry = (seen[which] or {}).get("carry", {})
        return seen

    def take(self, plan: dict[str, t.Any], **more: t.Any) -> None:
        """Take the steps, as the playbook does."""
        for each in plan["steps"]:
            self.step(each["host"], each["step"], plan["move"], **more)
            self.sound()

    def step(self, which: str, step: str, move: str, **more: t.Any) -> None:
        views = self.views()
        if step == "closure":
            self.target.working = True
            self.target.build(self.spec)
            self.target.working = False
        elif step == "copy":
            self._copy(views["source"]["files"])
        elif step == "start":
            assert not scenes.run(self.target, [{"name": NAME, "state": "started"}]).failures
        else:
            carry = views["source"]["carry"] if which == "target" else {}
            self.do(which, step, move=move, carry=carry, **more)

    def _copy(self, files: list[str]) -> None:
        """As the stream does: a directory that appears when it is complete."""
        if not files:
            return
        final = self.target.paths.arriving(NAME)
        os.makedirs(os.path.dirname(final), exist_ok=True)
        partial = final + ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        os.mkdir(partial)
        for file in files:
            text = self.source.guest(NAME, file).read_text(encoding="utf-8")
            Path(partial, file).write_text(text, encoding="utf-8")
        os.rename(partial, final)

    def forward(self, **more: t.Any) -> None:
        self.take(_move.forward(NAME, self.views(), HOSTS, new=MOVE), **more)

    def back(self, *, deaf: str | None = None) -> None:
        self.take(_move.back(NAME, self.views(deaf=deaf), HOSTS))

    def up(self) -> list[str]:
        return [
            which for which, host in self.hosts.items() if host.units.get(NAME) and host.units[NAME].active == "active"
        ]

    def sound(self) -> None:
        """It never runs twice, and never can: where it is whole and nothing holds it, it is only once."""
        assert len(self.up()) < 2
        able = [
            which
            for which, host in self.hosts.items()
            if host.guest(NAME, "current").is_symlink() and not os.path.exists(host.paths.moving(NAME))
        ]
        assert len(able) < 2
        assert any(self.whole(which) for which in HOSTS)

    def whole(self, which: str) -> bool:
        host = self.hosts[which]
        image = host.guest(NAME, "data.img")
        return host.guest(NAME, "current").is_symlink() and image.exists() and image.read_text(encoding="utf-8") == DATA

    def power_cut(self) -> None:
        for host in self.hosts.values():
            host.power_cut()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def arrived(pair: Pair) -> None:
    """It is on the new host with all that it had, and not on the old one."""
    assert pair.up() == ["target"]
    assert pair.whole("target")
    (guest,) = inspect([NAME], paths=pair.target.paths, commands=pair.target)
    assert (guest["owner"], guest["labels"], guest["autostart"]) == ("fleet", {"a": "b"}, True)
    assert guest["current"] == pair.spec.path
    assert guest["problems"] == []
    assert [each["number"] for each in guest["generations"]] == [1]
    settings = Path(pair.target.paths.settings(NAME)).read_text(encoding="utf-8")
    assert settings == "[Service]\nTimeoutStopSec=70\n"
    (gone,) = inspect([NAME], paths=pair.source.paths, commands=pair.source)
    assert not gone["exists"]
    assert not os.path.exists(pair.target.paths.moving(NAME))
    assert not os.path.exists(pair.target.paths.arriving(NAME))
    assert json.loads(Path(pair.source.paths.moving(NAME)).read_text(encoding="utf-8"))["phase"] == "moved"
    assert not pair.source.temporary()
    assert not pair.target.temporary()
    # Nothing is left to do.
    assert _move.forward(NAME, pair.views(), HOSTS, new=MOVE)["steps"] == []


def stayed(pair: Pair, before: dict[str, str]) -> None:
    """Both hosts are as they were."""
    assert pair.up() == ["source"]
    now = {place: text for place, text in pair.source.tree().items() if not _is_container(place)}
    assert now == {place: text for place, text in before.items() if not _is_container(place)}
    assert not [place for place in pair.target.tree() if NAME in place and ".kept" not in place]
    assert _move.back(NAME, pair.views(), HOSTS)["steps"] == []


def _is_container(place: str) -> bool:
    return place.endswith(("/moving", "/restart", "/.arriving", "run/microvm-fleet", "run"))


def test_a_move(pair: Pair) -> None:
    pair.forward()
    arrived(pair)
    (kept,) = Path(pair.source.paths.kept).iterdir()
    assert (kept / "data.img").read_text(encoding="utf-8") == DATA
    pair.power_cut()
    assert pair.up() == ["target"]


def test_volumes_can_be_deleted_in_the_end(pair: Pair) -> None:
    pair.forward(purge=True)
    arrived(pair)
    assert not os.path.exists(pair.source.paths.kept)


def test_a_guest_that_does_not_run_is_not_started(tmp_path: Path) -> None:
    pair = Pair(tmp_path, state="present", autostart=False)
    pair.source.start(NAME)
    pair.source.stop(NAME)
    pair.source.guest(NAME, "data.img").write_text(DATA, encoding="utf-8")
    pair.forward()
    assert pair.up() == []
    assert pair.whole("target")


def test_a_guest_that_would_run_if_its_host_were_not_drained(pair: Pair) -> None:
    assert not drain(DrainWish(), paths=pair.source.paths, commands=pair.source, lock_timeout=0, check=False).failures
    pair.forward()
    arrived(pair)
    done = drain(DrainWish(drained=False), paths=pair.source.paths, commands=pair.source, lock_timeout=0, check=False)
    assert done.warnings == ["guest web1 ran before and is not there any more."]


def test_a_drained_host_does_not_start_what_comes_back(pair: Pair) -> None:
    assert not drain(DrainWish(), paths=pair.source.paths, commands=pair.source, lock_timeout=0, check=False).failures
    pair.do("source", "leave")
    pair.back()
    assert pair.up() == []
    assert not drain(
        DrainWish(drained=False), paths=pair.source.paths, commands=pair.source, lock_timeout=0, check=False
    ).failures
    assert pair.up() == ["source"]


def test_a_guest_without_data(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    for image in ("data.img", "more.img"):
        pair.source.guest(NAME, image).unlink()
    for each in _move.forward(NAME, pair.views(), HOSTS, new=MOVE)["steps"]:
        pair.step(each["host"], each["step"], MOVE)
    assert pair.up() == ["target"]
    assert not os.path.exists(pair.source.guest(NAME))
    assert not os.path.exists(pair.source.paths.kept)


def test_there_and_back_again(pair: Pair) -> None:
    pair.forward()
    pair.hosts = {"source": pair.hosts["target"], "target": pair.hosts["source"]}
    HOSTS_BACK = {"source": "host2", "target": "host1"}  # noqa: N806 - as HOSTS
    plan = _move.forward(NAME, pair.views(), HOSTS_BACK, new="00aa11bb")
    for each in plan["steps"]:
        other = HOSTS_BACK["target" if each["host"] == "source" else "source"]
        if each["step"] in ("closure", "copy", "start"):
            pair.step(each["host"], each["step"], plan["move"])
        else:
            carry = pair.views()["source"]["carry"] if each["host"] == "target" else {}
            pair.do(each["host"], each["step"], move=plan["move"], other=other, carry=carry)
    assert pair.up() == ["target"]
    assert pair.whole("target")


@pytest.mark.parametrize("last", [step for _host, step in _move.FORWARD if step not in ("check", "release")])
@pytest.mark.parametrize("cut", [False, True])
def test_it_gets_back_from_every_step(pair: Pair, last: str, cut: bool) -> None:
    before = pair.source.tree()
    for each in _move.forward(NAME, pair.views(), HOSTS, new=MOVE)["steps"]:
        pair.step(each["host"], each["step"], MOVE)
        if each["step"] == last:
            break
    if cut:
        pair.power_cut()
        pair.sound()
    pair.back()
    if cut and last == "leave":
        # It ran when it was marked, so it runs again.
        assert pair.up() == ["source"]
    stayed(pair, before)


@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize("back", [False, True])
def test_a_move_killed_anywhere_goes_on_or_back(
    back: bool, itself: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count(1000)

    def next_process() -> None:
        number = next(numbers)
        monkeypatch.setattr(os, "getpid", lambda: number)

    def fresh(number: str) -> Pair:
        pair = Pair(tmp_path / number)
        next_process()
        return pair

    def killing(pair: Pair, at: int | None) -> Killer:
        killer = Killer(pair.source, at)

        def before(argv: tuple[str, ...]) -> None:
            pair.source.before(argv)

        pair.target.before = before
        return killer

    whole = fresh("whole")
    with killing(whole, None) as counter:
        whole.forward()
    arrived(whole)
    assert counter.count > 60
    by_itself = 0
    # Every change of every step is a place to be killed at; some of them are tried each way.
    for at in range(*((0, counter.count, 9) if back else (1, counter.count, 7))):
        pair = fresh(str(at))
        with killing(pair, at) as killer:
            pair.forward()
        assert killer.dead, f"killed at {at}"
        pair.source.working = pair.target.working = False
        pair.target.before = lambda argv: None
        next_process()
        pair.sound()
        if itself:
            if NAME not in pair.source.resuming:
                continue
            pair.source.time_is_up(NAME)
            pair.sound()
            assert pair.up() == ["source"]
            by_itself += 1
        if at % 2:
            pair.power_cut()
            pair.sound()
        if not back:
            pair.forward()
            arrived(pair)
            continue
        if json.loads(pair.source.tree().get("var/lib/microvm-fleet/moving/web1.json", "{}")).get("phase") == "moved":
            with pytest.raises(InvalidWish, match="it is on host2 already"):
                pair.back()
            pair.forward()
            arrived(pair)
        else:
            pair.back()
            assert pair.up() == ["source"], f"killed at {at}"
            assert pair.whole("source")
    assert (by_itself > 1) == itself


def test_nobody_has_it_back_once_it_is_handed_over(pair: Pair) -> None:
    for each in _move.forward(NAME, pair.views(), HOSTS, new=MOVE)["steps"]:
        pair.step(each["host"], each["step"], MOVE)
        armed = NAME in pair.source.resuming
        assert armed == (each["step"] in ("stop", "copy", "place")), each["step"]
        if armed:
            assert pair.source.resuming[NAME] > 360
    assert pair.up() == ["target"]


def test_no_handing_over_while_the_host_may_have_it_back(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in ("leave", "stop"):
        pair.do("source", step)
    monkeypatch.setattr(pair.source, "_state_of", lambda unit: "activating")
    with pytest.raises(FleetError, match="could start the guest at any time"):
        pair.do("source", "hand_over")
    assert pair.views()["source"]["phase"] == "leaving"


def test_a_controller_that_comes_back_too_late(pair: Pair) -> None:
    plan = _move.forward(NAME, pair.views(), HOSTS, new=MOVE)
    for each in plan["steps"]:
        if each["step"] == "hand_over":
            break
        pair.step(each["host"], each["step"], MOVE)
    pair.source.time_is_up(NAME)
    pair.sound()
    with pytest.raises(InvalidWish, match="it has no mark of a move on this host"):
        pair.do("source", "hand_over")
    pair.back()
    assert pair.up() == ["source"]
    assert not pair.views()["target"]["traces"]
    pair.forward()
    arrived(pair)


def test_what_it_wrote_while_it_was_tried_is_kept(pair: Pair) -> None:
    for each in _move.forward(NAME, pair.views(), HOSTS, new=MOVE)["steps"]:
        pair.step(each["host"], each["step"], MOVE)
        if each["step"] == "start":
            break
    pair.target.guest(NAME, "data.img").write_text("newer", encoding="utf-8")
    pair.back()
    (kept,) = Path(pair.target.paths.kept).iterdir()
    assert (kept / "data.img").read_text(encoding="utf-8") == "newer"
    assert pair.whole("source")
    assert pair.up() == ["source"]


def test_what_a_stream_that_was_cut_has_left_goes(pair: Pair) -> None:
    pair.do("target", "announce", carry=pair.views()["source"]["carry"])
    arriving = Path(pair.target.paths.arriving(NAME)).parent
    # Processes have numbers below 2^22 (proc_sys_kernel(5)).
    left = [arriving / f".microvm-fleet.{NAME}.5000000", arriving / f".microvm-fleet.{NAME}.{os.getpid()}"]
    for directory in left:
        directory.mkdir(parents=True)
        (directory / "data.img").touch()
    assert "web1: remove what was being copied" in pair.do("target", "withdraw").actions
    assert [directory.exists() for directory in left] == [False, True]


def test_the_new_host_goes_away_while_it_is_copied_to(pair: Pair) -> None:
    for each in _move.forward(NAME, pair.views(), HOSTS, new=MOVE)["steps"]:
        pair.step(each["host"], each["step"], MOVE)
        if each["step"] == "copy":
            break
    plan = _move.back(NAME, pair.views(deaf="target"), HOSTS)
    pair.take(plan)
    assert pair.up() == ["source"]
    # What is left on the new host is held, and goes with the next move.
    pair.power_cut()
    assert pair.up() == ["source"]
    plan = _move.forward(NAME, pair.views(), HOSTS, new="00aa11bb")
    assert plan["steps"][0] == {"host": "target", "step": "withdraw"}
    pair.take(plan)
    arrived(pair)


def test_the_new_host_goes_away_while_it_tries(pair: Pair) -> None:
    for each in _move.forward(NAME, pair.views(), HOSTS, new=MOVE)["steps"]:
        pair.step(each["host"], each["step"], MOVE)
        if each["step"] == "accept":
            break
    with pytest.raises(InvalidWish, match="host2 does not answer, and may run it; so host1 must not start it"):
        pair.back(deaf="target")
    assert pair.up() == []
    pair.forward()
    arrived(pair)


def test_the_engine_leaves_it_alone_meanwhile(pair: Pair) -> None:
    pair.do("source", "leave")
    done = scenes.run(pair.source, [wish(state="restarted")])
    assert "it is being moved to host2" in done.failures[0]
    pair.forward()
    done = scenes.run(pair.source, [wish(state="started", autostart=True)])
    assert "it was moved to host2" in done.failures[0]
    assert not done.changed
    # Until somebody says that there is to be another one.
    os.unlink(pair.source.paths.moving(NAME))
    assert not scenes.run(pair.source, [wish()]).failures


# Refused


@pytest.mark.parametrize(
    ("prepare", "more", "said"),
    [
        (lambda pair: None, {"carry": {"machine": "riscv64"}}, "it is for riscv64, and this host is "),
        (lambda pair: None, {"carry": {"facts": {}}}, "carry: it does not say what the runner is."),
        (
            lambda pair: None,
            {"carry": {"runner": "/tmp/x", "record": {"runner": "/tmp/x", **RECORD}}},
            "carry: its runner /tmp/x is not in the store.",
        ),
        (lambda pair: None, {"carry": {"record": {}}}, "carry: its record cannot be read."),
        (lambda pair: None, {"carry": {"record": None}}, "carry: its record cannot be read."),
        (lambda pair: None, {"carry": {"runner": "/nix/store/x"}}, "carry: its record cannot be read."),
        (
            lambda pair: None,
            {"carry": {"runner": "/tmp/x", "record": {"runner": "/tmp/x", **RECORD, "labels": ["a"]}}},
            "carry: its record cannot be read.",
        ),
        (
            lambda pair: None,
            {"carry": {"runner": "/tmp/x", "record": {"runner": "/tmp/x", **RECORD, "flake": "./infra"}}},
            "flake: './infra' is relative. See /var/lib/microvms on the other host.",
        ),
        (lambda pair: None, {"carry": {"bridges": ["br-x"]}}, "its network interfaces are on br-x, which this host"),
        (
            lambda pair: Path(pair.target.paths.units, "microvm@.service").write_text("", encoding="utf-8"),
            {},
            "step: the units of guests do not look at the marks of moves. Run the role microvm.fleet.host on this",
        ),
        (lambda pair: pair.target.microvm_create(Spec(NAME)), {}, "name: this host has a guest of that name."),
        (
            lambda pair: pair.target.microvm_create(
                Spec("other", interfaces=(("vm-web1", "tap", "02:00:00:00:00:01"),))
            ),
            {},
            "its interface vm-web1 is also that of guest other on this host.",
        ),
        (
            lambda pair: drain(DrainWish(), paths=pair.target.paths, commands=pair.target, lock_timeout=0, check=False),
            {},
            "other: this host is drained since ",
        ),
    ],
)
def test_a_host_that_cannot_have_it(pair: Pair, prepare: t.Any, more: t.Any, said: str) -> None:
    prepare(pair)
    carry = {**pair.views()["source"]["carry"], **more.get("carry", {})}
    before = {place: text for place, text in pair.target.tree().items() if place != "run"}
    for step in ("check", "announce"):
        with pytest.raises(FleetError) as caught:
            pair.do("target", step, carry=carry)
        assert said in caught.value.text()
        assert caught.value.text().startswith("guest web1, ")
    # The locks are in a directory of their own.
    assert {place: text for place, text in pair.target.tree().items() if place != "run"} == before


def test_a_host_that_was_not_set_up(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    pair.hosts["target"] = FakeHost(tmp_path / "bare", prepared=False)
    with pytest.raises(InvalidWish, match=r"this host has no units for guests\. Run the role microvm.fleet.host"):
        pair.do("target", "check", carry=pair.views()["source"]["carry"])


@pytest.mark.parametrize(("elsewhere", "there"), [(False, False), (False, True), (True, False), (True, True)])
def test_volumes_that_are_elsewhere(tmp_path: Path, elsewhere: bool, there: bool) -> None:
    image = tmp_path / "shared.img"
    if there:
        image.touch()
    pair = Pair(tmp_path)
    carry = pair.views()["source"]["carry"]
    carry["facts"]["volumes"][0]["image"] = str(image)
    if elsewhere and there:
        assert pair.do("target", "check", carry=carry, elsewhere=elsewhere).actions == []
        return
    with pytest.raises(InvalidWish, match="is outside of its state directory, and is not moved"):
        pair.do("target", "check", carry=carry, elsewhere=elsewhere)


@pytest.mark.parametrize(
    ("which", "step", "said"),
    [
        ("source", "stop", "it has no mark of a move on this host."),
        ("source", "hand_over", "it has no mark of a move on this host."),
        ("source", "release", "it has no mark of a move on this host."),
        ("source", "take_back", "it has no mark of a move on this host."),
        ("target", "place", "it has no mark of a move on this host."),
        ("target", "accept", "it has no mark of a move on this host."),
    ],
)
def test_no_step_without_the_one_before(pair: Pair, which: str, step: str, said: str) -> None:
    carry = pair.views()["source"]["carry"]
    with pytest.raises(InvalidWish) as caught:
        pair.do(which, step, carry=carry)
    assert caught.value.seen == said
    pair.sound()


def test_steps_of_another_move(pair: Pair) -> None:
    pair.do("source", "leave")
    for step in ("leave", "stop", "hand_over", "resume"):
        with pytest.raises(InvalidWish, match="it is being moved to host2"):
            pair.do("source", step, move="00aa11bb")
    assert pair.up() == ["source"]


def test_no_handing_over_of_a_guest_that_runs(pair: Pair) -> None:
    pair.do("source", "leave")
    with pytest.raises(InvalidWish, match="it still runs here"):
        pair.do("source", "hand_over")


def test_no_placing_without_the_runner(pair: Pair) -> None:
    carry = pair.views()["source"]["carry"]
    pair.do("target", "announce", carry=carry)
    with pytest.raises(InvalidWish, match=r"is not in the store of this host\. Copy it first"):
        pair.do("target", "place", carry=carry)


def test_no_accepting_before_it_is_there(pair: Pair) -> None:
    pair.do("target", "announce", carry=pair.views()["source"]["carry"])
    with pytest.raises(InvalidWish, match="it is not here yet"):
        pair.do("target", "accept")


def test_a_protected_guest(tmp_path: Path) -> None:
    pair = Pair(tmp_path, protect=True)
    with pytest.raises(
        InvalidWish, match=r"it is protected, and would be stopped and removed here\. Say protected: true\."
    ):
        pair.do("source", "leave")
    assert pair.do("source", "leave", protected=True).actions == ["web1: hold it here"]


def test_a_guest_of_the_hosts_configuration(pair: Pair) -> None:
    pair.source.guest(NAME, "toplevel").symlink_to("/nix/store/x")
    with pytest.raises(InvalidWish, match="belongs to the NixOS configuration of this host"):
        pair.do("source", "leave")


def test_a_guest_that_is_not_there(pair: Pair) -> None:
    with pytest.raises(InvalidWish, match="there is no such guest on this host"):
        run(
            Request("web9", "leave", move=MOVE, other="host2"),
            paths=pair.source.paths,
            commands=pair.source,
            lock_timeout=0,
        )


def test_a_guest_that_had_to_be_killed_is_said(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.do("source", "leave")
    object.__setattr__(pair.source.specs[pair.spec.path], "behaviour", "hang")
    done = pair.do("source", "stop")
    assert done.killed
    assert done.actions[-1] == "web1: kill, for it did not end within its time"


def test_settings_are_made_of_values_only(pair: Pair) -> None:
    carry = pair.views()["source"]["carry"]
    pair.target.build(pair.spec)
    pair.do("target", "announce", carry=carry)
    carry["settings"] = {"TimeoutStartSec": "1\nExecStartPre=+/bin/evil", "TimeoutStopSec": 9, "ExecStart": "x"}
    carry["loads"] = {"microvm": ["token", "a:/etc/shadow\n"], "other@": ["x"]}
    pair.do("target", "place", carry=carry)
    text = Path(pair.target.paths.settings(NAME)).read_text(encoding="utf-8")
    assert text == f"[Service]\nLoadCredential=token:{pair.target.paths.credentials(NAME, 'token')}\nTimeoutStopSec=9\n"


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"name": "../x"}, "guest '../x', name: '../x' is no name of a guest. Give the name of a guest."),
        ({"move": "xyz"}, "guest web1, move: 'xyz' is no name of a move."),
        ({"move": None}, "guest web1, move: None is no name of a move."),
        ({"other": "a b"}, "guest web1, other: 'a b' is no name of a host."),
        ({"step": "place"}, "guest web1, carry: nothing says what moves."),
    ],
)
def test_requests_that_cannot_be(params: dict[str, t.Any], said: str) -> None:
    given = {
        "name": NAME,
        "step": "leave",
        "move": MOVE,
        "other": "host2",
        "carry": None,
        "purge": False,
        "protected": False,
        "elsewhere": False,
    }
    assert read_request(given) == Request(NAME, "leave", move=MOVE, other="host2")
    with pytest.raises(InvalidWish) as caught:
        read_request({**given, **params})
    assert caught.value.text().startswith(said)


def test_conditions_are_in_the_units_of_the_stand_in(pair: Pair) -> None:
    text = Path(pair.source.paths.units, "microvm@.service").read_text(encoding="utf-8")
    assert all(condition in text for condition in CONDITIONS)
