# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests that are switched live: which, what is done in them, and what becomes of those that do not take it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._contract import read_runner
from ansible_collections.microvm.fleet.plugins.module_utils._guest_live import Shape, alike, difference, read_shape
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import observe
from ansible_collections.microvm.fleet.plugins.module_utils._guest_run import Result, converge
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import Limits, read_wishes
from ansible_collections.microvm.fleet.tests.unit.plugins.conftest import Verdicts
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import (
    FLAKE,
    FakeHost,
    Killed,
    Killer,
    Spec,
    store_path,
)

KERNEL = store_path("kernel", "linux")
CONF = store_path("conf", "supervisord.conf")
SSH = {"address": "10.1.0.11", "key_file": None}


class LiveHost(FakeHost):
    """A host whose guests read its store and can be logged in to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        # The system that each guest was booted with and the one that it has, by its name.
        self.booted: dict[str, str] = {}
        self.systems: dict[str, str] = {}
        # Systems that a guest does not take, and guests that cannot be logged in to.
        self.refused: set[str] = set()
        # Systems in whose activation the process that has asked for it dies.
        self.dying: set[str] = set()
        self.deaf: set[str] = set()

    def system(self, spec: Spec) -> str:
        """The system of a runner."""
        return store_path(f"system {spec.name} {spec.version}", f"nixos-system-{spec.name}-{spec.version}")

    def put(self, path: str, text: str) -> None:
        """A file of the store, or a link where *text* is a path of the store."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("/nix/store/"):
            place.symlink_to(text)
        else:
            place.write_text(text, "utf-8")

    def equip(self, spec: Spec, *, kernel: str = KERNEL, store: str = "/nix/store", switch: bool = True) -> Spec:
        """Build the runner of *spec* as that of a guest that reads the store, and its system."""
        self.build(spec)
        system = self.system(spec)
        script = self.root / spec.path.lstrip("/") / "bin/microvm-run"
        conf = CONF.replace("supervisord", f"{spec.version}")
        self.put(conf, "[supervisord]")
        registration = store_path(system, "closure-info")
        words = f"qemu -append 'init={system}/init regInfo={registration}/registration' # {conf}\n"
        script.write_text(script.read_text("utf-8") + words, "utf-8")
        self.put(f"{spec.path}/share/microvm/virtiofs/store/source", f"{store}\n".replace("/nix/store", " /nix/store"))
        self.put(f"{spec.path}/share/microvm/system", system)
        self.put(f"{system}/kernel", kernel)
        self.put(f"{system}/kernel-params", f"quiet loglevel={len(kernel) // 1000}")
        if switch:
            self.put(f"{system}/bin/switch-to-configuration", "#!/bin/sh")
        return spec

    def start(self, name: str) -> None:
        super().start(name)
        self.booted[name] = self.systems[name] = self.system(self.specs[str(self.guest(name, "booted").readlink())])

    def _answer(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        if argv[0] != "ssh":
            return super()._answer(argv)
        name = next(word.split("=")[1] for word in argv if word.startswith("HostKeyAlias="))
        command = argv[argv.index("--") + 2 :]
        command = command[2:] if command[:2] == ("sudo", "-n") else command
        if name in self.deaf:
            return 255, "", "ssh: connect to host 10.1.0.11 port 22: Connection refused"
        if command[0] == "test":
            assert command[1:3] == ("/run/booted-system", "-ef")
            return int(command[3] != self.booted[name]), "", ""
        system = command[0][: -len("/bin/switch-to-configuration")]
        assert command[1:] == ("test",)
        if system in self.dying:
            self.systems[name] = "half"
            raise Killed
        if system in self.refused:
            return 4, "", "warning: the following units failed: x.service"
        self.systems[name] = system
        return 0, "", ""


def run(host: LiveHost, *, check: bool = False, **options: t.Any) -> Result:
    """One run that updates the guest, live."""
    entry = {"name": "web1", "flake": FLAKE, "update": "activate", "switch": "live", "ssh": SSH, **options}
    return converge(
        read_wishes([entry]), paths=host.paths, commands=host, limits=Limits(lock=0), check=check, all_guests=False
    )


@pytest.fixture(name="host")
def _host(tmp_path: Path) -> LiveHost:
    """A host with a guest that runs."""
    host = LiveHost(tmp_path)
    host.offer(host.equip(Spec("web1")))
    run(host, state="started")
    host.calls.clear()
    return host


def renew(host: LiveHost, **options: t.Any) -> Spec:
    """Another version of the guest."""
    spec = host.renew("web1")
    shutil.rmtree(host.root / spec.path.lstrip("/"), ignore_errors=True)
    return host.equip(spec, **options)


def record(host: LiveHost) -> dict[str, t.Any]:
    """What is noted of the guest."""
    text = Path(host.paths.known("web1", "record.json")).read_text("utf-8")
    noted: dict[str, t.Any] = json.loads(text)
    return noted


def current(host: LiveHost) -> str:
    return str(host.guest("web1", "current").readlink())


def test_live(host: LiveHost) -> None:
    first, spec = current(host), renew(host)
    checked = run(host, check=True)
    assert current(host) == first
    done = run(host)
    (result,) = done.results
    assert result["live"] == {"done": True}
    assert not result["failed"]
    assert any("inside it" in words for words in done.actions)
    assert not any("stop" in words or "start" in words for words in done.actions)
    assert checked.actions == done.actions
    assert checked.results[0]["live"] == {"done": True}
    assert host.count("systemctl", "stop") == host.count("systemctl", "start") == 0
    assert host.systems["web1"] == host.system(spec)
    assert current(host) == spec.path
    assert record(host)["live"] == {"runner": spec.path, "invocation": "0"}
    assert record(host)["healthy"] == spec.path
    assert record(host)["judging"] is None
    assert not result["guest"]["restart_needed"]
    assert result["guest"]["booted"] == first
    again = run(host)
    assert not again.changed


def test_live_after_live(host: LiveHost) -> None:
    first = spec = current(host)
    told: list[str] = []
    for _version in range(5):
        spec = renew(host).path
        told = run(host, check=True).actions
        done = run(host)
        assert done.results[0]["live"] == {"done": True}
        assert done.actions == told
    assert any("forget" in words for words in told)
    assert host.systems["web1"] == host.system(host.specs[spec])
    # What the guest was started from is kept, however old it is.
    kept = {each["runner"] for each in run(host).results[0]["guest"]["generations"]}
    assert {first, spec} <= kept


@pytest.mark.parametrize(
    ("options", "wished", "why"),
    [
        ({"kernel": store_path("other", "linux")}, {}, "the kernel would be another"),
        ({"kernel": KERNEL + "x" * 2000}, {}, "the kernel would be another"),
        ({"store": "/srv/x"}, {}, "the guest does not read the store of its host"),
        ({"switch": False}, {}, "the new system has no bin/switch-to-configuration (system.switch.enable)"),
        ({}, {"ssh": None}, "nothing says how the guest is reached over SSH (option ssh, or a probe of kind ssh)"),
        ({}, {"state": "restarted"}, "a restart was asked for"),
        ({}, {"stop_timeout": 99}, "its units get other settings"),
    ],
)
def test_restarted_instead(host: LiveHost, options: dict[str, t.Any], wished: dict[str, t.Any], why: str) -> None:
    spec = renew(host, **options)
    (result,) = run(host, **wished).results
    assert result["live"] == {"done": False, "why": why}
    assert not result["failed"]
    assert host.count("systemctl", "stop") == 1
    assert host.booted["web1"] == host.system(spec)


def test_other_hardware(host: LiveHost) -> None:
    host.offer(replace(host.flakes[FLAKE]["web1"], vsock_cid=7))
    renew(host)
    why = run(host).results[0]["live"]["why"]
    assert why == "the runner's vsock-cid would be another (vsock)"


@pytest.mark.parametrize("how", ["deaf", "another"])
def test_a_guest_that_is_not_what_it_should_be(host: LiveHost, how: str) -> None:
    renew(host)
    if how == "deaf":
        host.deaf.add("web1")
        why = "the guest cannot be asked: ssh: connect to host 10.1.0.11 port 22: Connection refused"
    else:
        host.booted["web1"] = store_path("x", "nixos-system-other")
        why = "the guest cannot be asked: what answers was not booted with the system of the guest's runner"
    (result,) = run(host).results
    assert result["live"] == {"done": False, "why": why}
    assert not result["failed"]
    assert host.count("systemctl", "start") == 1


def test_a_runner_that_is_not_there_yet(host: LiveHost) -> None:
    host.renew("web1")
    (result,) = run(host, check=True).results
    assert result["live"] == {"done": False, "why": "the new runner is not on the host yet"}


def test_back_without_a_restart(host: LiveHost, judge: Verdicts) -> None:
    first, spec = current(host), renew(host)
    judge[spec.path] = "not within 5 s: tcp 10.1.0.11:80: connection refused"
    (result,) = run(host).results
    assert result["failed"]
    assert result["reverted"]["to"]["runner"] == first
    assert result["reverted"]["healthy"]
    assert host.systems["web1"] == host.booted["web1"]
    assert current(host) == first
    assert host.count("systemctl", "stop") == host.count("systemctl", "start") == 0
    assert record(host)["live"] == {"runner": first, "invocation": "0"}
    assert spec.path in json.dumps(record(host)["rejected"])


def test_a_system_that_is_not_taken(host: LiveHost) -> None:
    first, spec = current(host), renew(host)
    host.refused.add(host.system(spec))
    (result,) = run(host).results
    assert result["failed"]
    assert not result["live"]["done"]
    assert "switch-to-configuration: the command ended with 4: warning: the following" in result["live"]["why"]
    assert result["reverted"]["healthy"]
    assert current(host) == first
    assert host.count("systemctl", "stop") == 0


def test_back_by_a_restart_where_nothing_else_helps(host: LiveHost) -> None:
    first, spec = current(host), renew(host)
    host.refused |= {host.system(spec), host.booted["web1"]}
    (result,) = run(host).results
    assert result["reverted"]["healthy"]
    assert current(host) == first
    assert host.count("systemctl", "stop") == host.count("systemctl", "start") == 1


# Killed


def is_whole(host: LiveHost, spec: Spec) -> bool:
    """Whether the guest has the system of *spec*, and everybody knows that; nothing is left to be found out."""
    guest = observe(host.paths, host).guest("web1")
    noted = guest.current == spec.path and not guest.judging
    return noted and host.systems["web1"] == host.system(spec) and not (guest.restart_needed or guest.interrupted)


@pytest.mark.parametrize(("good", "first"), [(True, "nothing"), (False, "nothing"), (False, "the same")])
def test_a_run_killed_anywhere_is_finished_by_the_next(
    good: bool, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: Verdicts
) -> None:
    """Whether the next run wants the update, too, or nothing but that what is there is whole."""
    numbers = itertools.count(1000)

    def next_process() -> None:
        pid = next(numbers)
        monkeypatch.setattr(os, "getpid", lambda: pid)

    def fresh(number: str) -> tuple[LiveHost, Spec, Spec]:
        host = LiveHost(tmp_path / number)
        old = host.equip(Spec("web1"))
        host.offer(old)
        run(host, state="started")
        new = renew(host)
        if not good:
            judge[new.path] = "it does not answer"
        next_process()
        return host, old, new

    (tmp_path / "whole").mkdir()
    whole, old, new = fresh("whole")
    with Killer(whole, None) as counter:
        run(whole)
    assert is_whole(whole, new if good else old)
    for at in range(counter.count):
        (tmp_path / str(at)).mkdir()
        host, old, new = fresh(str(at))
        with Killer(host, at) as killer:
            run(host)
        assert killer.dead
        next_process()
        if first == "nothing":
            run(host, update="never")
            assert host.units["web1"].active == "active", f"killed at {at}"
            guest = observe(host.paths, host).guest("web1")
            assert is_whole(host, host.specs[str(guest.current)]), f"killed at {at}"
            next_process()
        run(host)
        assert is_whole(host, new if good else old), f"killed at {at}"
        # But for a note of the length of a line, of whom to believe to be the guest.
        assert not [place for place in host.temporary() if "microvm-fleet/ssh" not in place], f"killed at {at}"
        again = run(host)
        assert not again.changed, f"killed at {at}"
        assert bool(again.failures) is not good, f"killed at {at}"


@pytest.mark.parametrize("switch", ["live", "restart"])
def test_a_run_killed_in_the_midst_of_the_activation(host: LiveHost, switch: str) -> None:
    """`current` has moved, and what the guest has is neither the one nor the other."""
    first, spec = current(host), renew(host)
    host.dying.add(host.system(spec))
    with pytest.raises(Killed):
        run(host)
    host.dying.clear()
    assert (current(host), host.systems["web1"]) == (spec.path, "half")
    guest = observe(host.paths, host).guest("web1")
    assert guest.judging
    assert guest.restart_needed
    result = run(host, update="never", switch=switch)
    assert not result.failures
    assert result.changed
    assert host.count("systemctl", "stop") == (switch == "restart")
    assert is_whole(host, spec)
    assert first != spec.path


def test_a_run_killed_on_the_way_back(host: LiveHost, judge: Verdicts) -> None:
    """`current` is what the guest was booted with, and the guest has something else, whatever `booted` says."""
    first, spec = host.specs[current(host)], renew(host)
    judge[spec.path] = "it does not answer"
    host.dying.add(host.system(first))
    with pytest.raises(Killed):
        run(host)
    host.dying.clear()
    assert current(host) == first.path == str(host.guest("web1", "booted").readlink())
    assert observe(host.paths, host).guest("web1").restart_needed
    # What it was taken back from is not tried again, and what was begun is brought to its end.
    said = run(host, check=True)
    done = run(host)
    assert said.actions == done.actions == [f"web1: activate {host.system(first)} inside it"]
    assert "was tried before, and the guest was taken back from it: it does not answer" in done.failures[0]
    assert is_whole(host, first)
    again = run(host)
    assert not again.changed
    assert "was tried before" in again.failures[0]


def test_a_system_that_was_half_taken_is_not_taken_for_the_one_before(host: LiveHost) -> None:
    """Neither the new system nor the one before is activated as a whole, so the guest is restarted."""
    first, spec = host.specs[current(host)], renew(host)
    host.refused |= {host.system(spec), host.system(first)}
    stopped: list[bool] = []

    def stop(argv: tuple[str, ...]) -> None:
        if argv[:2] == ("systemctl", "stop"):
            stopped.append(observe_record(host))

    host.before = stop
    run(host)
    assert stopped == [True]
    assert is_whole(host, first)


def observe_record(host: LiveHost) -> bool:
    """Whether the record says that nobody knows which system the guest has."""
    live = record(host)["live"]
    return live is not None and live["runner"] is None


def test_a_guest_that_is_down_is_only_switched(host: LiveHost) -> None:
    host.stop("web1")
    renew(host)
    (result,) = run(host).results
    assert "live" not in result
    assert host.count("ssh") == 0


def test_another_user(host: LiveHost) -> None:
    renew(host)
    run(host, ssh={**SSH, "user": "ops"}, check=True)
    call = next(argv for argv in host.calls if argv[0] == "ssh")
    assert call[call.index("--") + 2 :][:3] == ("sudo", "-n", "test")


A, B, C = (store_path(seed, "x") for seed in "abc")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("same", "same", True),
        (f"init={A}/init", f"init={B}/init", True),
        (f"init={A}/init", f"init={B}/other", False),
        (f"init={A}/init {C}", f"init={B}/init {A}", False),
        ("mem=128", "mem=256", False),
        (f"{A} {A}", f"{B} {B}", True),
        (f"{A}", "", False),
        (f"regInfo={A}-closure-info/registration", f"regInfo={B}-closure-info/registration", True),
        (f"{C}-one", f"{C}-two", True),
        (f"{C}-one", f"{C}-three", False),
        (f"{C}-loop1", f"{C}-loop2", False),
    ],
)
def test_alike(before: str, after: str, expected: bool) -> None:
    texts = {
        f"{C}-one": f"system {A}",
        f"{C}-two": f"system {B}",
        f"{C}-three": "system",
        f"{C}-loop1": f"{C}-loop1",
        f"{C}-loop2": f"{C}-loop2",
    }
    assert alike(before, after, (A, B), texts.get) is expected


SHAPE = Shape(A, host_store=True, switchable=True, boot={"kernel": C}, files={"microvm-run": "x", "tap-up": "y"})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"toplevel": None}, "its runner does not say which system it starts"),
        ({"boot": {}}, "the kernel would be another"),
        ({"boot": {"kernel": C, "initrd": A}}, "the initial ramdisk would be another"),
        ({"boot": {"kernel": C, "kernel-modules": A}}, "the kernel modules would be another"),
        ({"files": {"microvm-run": "x"}}, "the runner's tap-up would be another"),
        ({"files": {**SHAPE.files, "pci-setup": ""}}, "the runner's pci-setup would be another"),
    ],
)
def test_difference(changes: dict[str, t.Any], expected: str | None) -> None:
    assert difference(SHAPE, replace(SHAPE, **changes), lambda _path: None) == expected


def test_the_shape_of_a_guest_with_a_9p_store(tmp_path: Path) -> None:
    host = LiveHost(tmp_path)
    spec = host.equip(Spec("web1"), store="/srv/x")
    assert not read_shape(host.paths, read_runner(host.paths, spec.path)).host_store
    script = tmp_path / spec.path.lstrip("/") / "bin/microvm-run"
    script.write_text(script.read_text("utf-8") + "-fsdev local,id=fs0,path=/nix/store,readonly=on", "utf-8")
    assert read_shape(host.paths, read_runner(host.paths, spec.path)).host_store
