# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs over a whole host: check mode is the run, a second run changes nothing, and one guest's fault is its own."""

from __future__ import annotations

import copy
import grp
import json
import os
import subprocess
import sys
import tempfile
import typing as t
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.microvm.fleet.plugins.module_utils import _files
from ansible_collections.microvm.fleet.plugins.module_utils._errors import Busy, FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import observe
from ansible_collections.microvm.fleet.plugins.module_utils._guest_run import (
    Result,
    converge,
    limits_of,
    limits_spec,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import Limits, read_wishes
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FLAKE, START_LIMIT, FakeHost, Spec
from ansible_collections.microvm.fleet.tests.unit.support.scenes import SCENES, ran, run, wish

OTHER = "git+https://git.example.org/other"


def one(host: FakeHost, given: dict[str, t.Any], *, check: bool = False) -> Result:
    """One run of the module for one guest."""
    return converge(
        read_wishes([given]), paths=host.paths, commands=host, limits=Limits(lock=0), check=check, all_guests=False
    )


def told(guest: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What check mode can know of a guest: not the clock, nor how its unit does."""
    shown = {key: copy.deepcopy(value) for key, value in guest.items() if key not in ("unit", "problems")}
    for generation in shown["generations"]:
        del generation["created"]
    # Facts that a package tells only when it is there, or only the evaluation knows.
    for interface in shown["interfaces"]:
        del interface["mac"]
    for volume in shown["volumes"]:
        for key in ("mount_point", "fs_type", "auto_create"):
            del volume[key]
    return shown


def agree(said: Result, done: Result) -> None:
    """Check mode has said what was done, and the guests are as it said."""
    assert said.changed == done.changed
    assert said.actions == done.actions
    assert [each["failed"] for each in said.results] == [each["failed"] for each in done.results]
    assert [each["changed"] for each in said.results] == [each["changed"] for each in done.results]
    assert [told(each["guest"]) for each in said.results] == [told(each["guest"]) for each in done.results]
    assert said.before == done.before
    assert sorted(said.after) == sorted(done.after)
    assert said.orphans == done.orphans


@pytest.mark.parametrize("name", sorted(set(SCENES) - {"create_from_runner"}))
def test_check_mode_says_what_a_run_does(name: str, host: FakeHost) -> None:
    scene = SCENES[name]
    scene.before(host)
    before = host.tree()
    said = run(host, scene.wishes, check=True, **scene.options)
    assert host.tree() == before
    agree(said, run(host, scene.wishes, **scene.options))
    again = run(host, scene.wishes, **scene.options)
    assert again.changed is (name == "restart")
    assert again.failures == []


def test_check_mode_knows_of_a_runner_only_its_name(host: FakeHost) -> None:
    scene = SCENES["create_from_runner"]
    scene.before(host)
    said = run(host, scene.wishes, check=True)
    done = run(host, scene.wishes)
    assert said.actions == done.actions
    for key in ("exists", "owner", "current", "booted", "staged", "active", "hypervisor", "host_name"):
        assert said.results[0]["guest"][key] == done.results[0]["guest"][key]
    assert not run(host, scene.wishes).changed


EVENTS = st.one_of(
    st.sampled_from(["renew", "start", "stop", "power", "garbage", "microvm"]),
    st.fixed_dictionaries(
        {
            "state": st.sampled_from(["present", "started", "stopped", "absent"]),
            "update": st.sampled_from(["never", "stage", "activate"]),
        },
        optional={
            "autostart": st.booleans(),
            "keep_generations": st.integers(1, 3),
            "start_timeout": st.integers(1, 3),
            "stop_timeout": st.integers(1, 3),
            "labels": st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), max_size=2),
        },
    ),
)


def happen(host: FakeHost, event: str) -> None:
    """What others do on the host."""
    if event == "renew":
        host.renew("web1")
    elif event == "start":
        host.start("web1")
    elif event == "stop":
        host.stop("web1")
    elif event == "power":
        host.power_cut()
    elif event == "garbage":
        host.collect_garbage()
    elif not host.guest("web1").exists():
        host.microvm_create(host.flakes[FLAKE]["web1"], rooted=not os.path.lexists(host.paths.microvm_roots + "/web1"))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENTS, max_size=7))
def test_check_mode_says_what_a_run_does_whatever_happened(
    events: list[t.Any],
    tmp_path: Path,
) -> None:
    host = FakeHost(Path(tempfile.mkdtemp(dir=tmp_path)))
    host.offer(Spec("web1"))
    for event in events:
        if isinstance(event, str):
            happen(host, event)
            continue
        wishes = [wish(**event)]
        before = host.tree()
        said = run(host, wishes, check=True)
        assert host.tree() == before
        done = run(host, wishes)
        assert done.failures == []
        agree(said, done)
        guest = done.results[0]["guest"]
        assert guest["exists"] is (event["state"] != "absent")
        if event["state"] in ("started", "stopped"):
            assert guest["active"] is (event["state"] == "started")
        tree = host.tree()
        again = run(host, wishes)
        assert not again.changed
        assert again.actions == []
        assert host.tree() == tree
        # Nothing that the guest may run is taken by the garbage collector.
        assert not {guest["current"], guest["booted"], guest["staged"]} & set(host.collect_garbage())


# What a run costs


def test_a_second_run_is_one_call(host: FakeHost) -> None:
    host.offer(*(Spec(f"g{number}") for number in range(10)))
    wishes = [wish(f"g{number}", state="started") for number in range(10)]
    run(host, wishes)
    host.calls.clear()
    assert not run(host, wishes).changed
    assert [argv[:2] for argv in host.calls] == [("systemctl", "show")]


def test_a_generation_takes_few_calls(host: FakeHost) -> None:
    """Each look at the host costs as much as the whole of the engine's own work."""
    for version in (1, 2):
        host.offer(Spec("web1", version))
        one(host, wish(state="started", update="activate"))
    host.calls.clear()
    assert one(host, wish(generation="1")).changed
    looks = [argv[:2] for argv in host.calls]
    # Before the locks and with them, after the stop, of who is up, and at the end; one of `judge` is for the wait.
    assert looks.count(("systemctl", "show")) == 6
    assert [argv[1] for argv in looks if argv != ("systemctl", "show")] == ["stop", "reset-failed", "start"]


def test_many_guests_are_one_evaluation_one_build_and_one_start(host: FakeHost) -> None:
    host.offer(*(Spec(f"g{number}") for number in range(10)))
    run(host, [wish(f"g{number}", state="started", autostart=True) for number in range(10)])
    assert host.count("nix", "metadata") == 1
    assert host.count("nix", "eval") == 1
    assert host.count("nix-store", "--realise") == 1
    assert host.count("systemctl", "start") == 1
    assert host.count("systemctl", "enable") == 1


def test_a_flake_that_has_not_changed_is_not_evaluated(host: FakeHost) -> None:
    ran(host)
    host.calls.clear()
    assert not run(host, [wish()], update="activate").changed
    assert (host.count("metadata"), host.count("eval"), host.count("--realise")) == (1, 0, 0)


def test_a_flake_that_gives_the_same_runner_is_evaluated_once(host: FakeHost) -> None:
    ran(host)
    host.offer(Spec("other"))
    host.calls.clear()
    assert not run(host, [wish()], update="activate").changed
    assert host.count("eval") == 1
    assert not run(host, [wish()], update="activate").changed
    assert host.count("eval") == 1


def test_what_is_to_be_left_alone_asks_for_no_flake(host: FakeHost) -> None:
    ran(host)
    host.flakes.clear()
    assert not run(host, [wish()]).changed


def test_each_flake_is_resolved_once(host: FakeHost) -> None:
    host.offer(Spec("a"), Spec("b"))
    host.offer(Spec("c"), flake=OTHER)
    run(host, [wish("a"), wish("c", flake=OTHER), wish("b")])
    assert (host.count("metadata"), host.count("eval"), host.count("--realise")) == (2, 2, 1)


# Faults of one guest


def messages(result: Result) -> dict[str, str]:
    return {each["name"]: each["msg"] for each in result.results if each["failed"]}


def exist(host: FakeHost) -> list[str]:
    return sorted(name for name, guest in observe(host.paths, host).guests.items() if guest.exists)


READ_HINT = " See that it exists, has a flake.nix, and that root on the host may fetch it."


@pytest.mark.parametrize("check", [True, False])
def test_a_flake_that_is_not_there(host: FakeHost, check: bool) -> None:
    host.offer(Spec("web1"))
    result = run(host, [wish(), wish("a", flake="/none"), wish("b", flake="/none")], check=check)
    said = f"/none cannot be read as a flake: getting status of '/none': No such file or directory.{READ_HINT}"
    assert messages(result) == {name: f"guest {name}, flake: {said}" for name in ("a", "b")}
    assert exist(host) == ([] if check else ["web1"])
    assert (result.results[1]["subject"], result.results[1]["field"]) == ("guest a", "flake")
    assert host.count("metadata") == 2


@pytest.mark.parametrize("check", [True, False])
def test_a_guest_that_does_not_evaluate(host: FakeHost, check: bool) -> None:
    host.offer(Spec("web1"), Spec("bad", behaviour="unevaluable"))
    result = run(host, [wish("bad"), wish(), wish("none")], check=check)
    assert messages(result) == {
        "bad": f"guest bad, flake: nixosConfigurations.bad of {FLAKE} does not evaluate: guest bad: it throws",
        "none": f"guest none, flake: {FLAKE} has no nixosConfigurations.none; it has bad, web1. "
        "Add the guest to the flake, or correct the name.",
    }
    assert result.changed
    assert exist(host) == ([] if check else ["web1"])


def test_a_guest_that_does_not_build(host: FakeHost) -> None:
    bad = Spec("bad", behaviour="unbuildable")
    host.offer(Spec("web1"), bad)
    result = run(host, [wish("bad", state="started", autostart=True), wish(state="started")])
    log = "\n".join(f"build log line {number} of 30" for number in range(11, 31))
    assert messages(result) == {
        "bad": f"guest bad, flake: the build of {os.path.basename(bad.derivation)} failed; its log ends with:\n{log}"
    }
    assert exist(host) == ["web1"]
    assert not [place for place in host.tree() if "bad" in place]


def test_an_update_that_does_not_build_leaves_the_guest_as_it_is(host: FakeHost) -> None:
    ran(host)
    host.renew("web1", behaviour="unbuildable")
    before = host.tree()
    result = run(host, [wish()], update="activate")
    assert result.failures[0].startswith("guest web1, flake: the build of ")
    assert host.tree() == before
    assert not result.changed


@pytest.mark.parametrize("kind", ["flake", "runner"])
def test_a_package_that_is_no_runner(host: FakeHost, kind: str) -> None:
    spec = Spec("web1", behaviour="empty")
    host.offer(spec)
    host.publish(spec)
    result = run(host, [wish() if kind == "flake" else {"name": "web1", "runner": spec.path}])
    assert messages(result) == {
        "web1": f"guest web1, {kind}: {spec.path} has no bin/microvm-run, so it is no runner of a MicroVM."
    }
    assert exist(host) == []


def test_a_runner_that_nobody_has(host: FakeHost) -> None:
    path = Spec("web1").path
    result = run(host, [{"name": "web1", "runner": path}])
    assert messages(result) == {
        "web1": f"guest web1, runner: cannot be built or fetched: error: path '{path}' does not exist and cannot "
        "be created. Copy it to this host first, as the role microvm.fleet.build does, or give the host a substituter "
        "that has it."
    }
    assert exist(host) == []


def test_a_runner_that_is_fetched_and_clashes(host: FakeHost) -> None:
    taken = (("vm-x", "tap", "02:00:00:00:00:01"),)
    host.microvm_create(Spec("other", interfaces=taken))
    spec = host.publish(Spec("web1", interfaces=taken))
    assert run(host, [{"name": "web1", "runner": spec.path}], check=True).failures == []
    result = run(host, [{"name": "web1", "runner": spec.path}])
    assert messages(result) == {
        "web1": "guest web1, microvm.interfaces: its interface vm-x is also that of guest other on this host. "
        "Give each guest its own."
    }
    assert exist(host) == ["other"]


@pytest.mark.parametrize("all_guests", [True, False])
def test_a_guest_that_clashes_with_one_that_no_wish_names(host: FakeHost, all_guests: bool) -> None:
    host.microvm_create(Spec("other", vsock_cid=7))
    host.offer(Spec("web1", vsock_cid=7))
    result = run(host, [wish()]) if all_guests else one(host, wish())
    assert messages(result) == {
        "web1": "guest web1, microvm.vsock.cid: its vsock CID 7 is also that of guest other on this host. "
        "Give each guest its own."
    }
    assert exist(host) == ["other"]


def test_a_guest_takes_over_from_one_that_goes(host: FakeHost) -> None:
    host.offer(Spec("old", vsock_cid=7))
    run(host, [wish("old", state="started")])
    host.offer(Spec("new", vsock_cid=7))
    result = run(host, [wish("new", state="started"), wish("old", state="absent")])
    assert result.failures == []
    assert exist(host) == ["new"]


def test_a_guest_that_crashes_is_not_started(host: FakeHost) -> None:
    host.offer(Spec("bad", behaviour="crash"), Spec("web1"))
    result = run(host, [wish("bad", state="started"), wish(state="started")])
    assert messages(result) == {
        "bad": "guest bad, state: did not stay up: the unit is failed (exit-code) after 5 restarts. "
        "Its journal ends with:\nStarted microvm@bad.service.\nqemu-system-x86_64: cannot run"
    }
    assert result.results[0]["changed"]
    assert result.results[0]["guest"]["exists"]
    assert not result.results[0]["guest"]["active"]
    assert result.results[1]["guest"]["active"]


def test_a_guest_whose_start_is_skipped(host: FakeHost) -> None:
    host.offer(Spec("web1", behaviour="skipped"))
    assert (
        run(host, [wish(state="started")])
        .failures[0]
        .startswith("guest web1, state: did not stay up: the unit is inactive (success). Its journal ends with:\n")
    )


def test_a_guest_that_has_to_be_killed(host: FakeHost) -> None:
    host.offer(Spec("web1", behaviour="hang"))
    run(host, [wish(state="started")])
    result = run(host, [wish(state="stopped")])
    assert result.failures == []
    assert result.results[0]["killed"]
    assert result.actions == ["web1: stop", "web1: kill, for it did not end within its time"]
    assert not run(host, [wish(state="stopped")]).changed


def test_a_guest_that_failed_is_started_anew(host: FakeHost) -> None:
    host.offer(Spec("web1", behaviour="crash"))
    run(host, [wish(state="started")])
    host.renew("web1", behaviour="ok")
    result = run(host, [wish(state="started")], update="activate")
    assert result.failures == []
    assert result.results[0]["guest"]["active"]
    assert ("systemctl", "reset-failed", "microvm@web1.service") in host.calls


def test_a_guest_is_started_as_often_as_that_is_asked_for(host: FakeHost) -> None:
    """systemd counts each start as a try, and refuses the next one after those of StartLimitBurst=."""
    host.offer(Spec("web1"))
    for _time in range(START_LIMIT + 1):
        assert run(host, [wish(state="started")]).failures == []
        assert run(host, [wish(state="stopped")]).failures == []


def test_a_guest_that_cannot_be_enabled(host: FakeHost) -> None:
    host.offer(Spec("a"), Spec("b"))
    host.broken_units.add("a")
    result = run(host, [wish("a", autostart=True, state="started"), wish("b", autostart=True)])
    assert list(messages(result)) == ["a"]
    assert messages(result)["a"].startswith(
        "guest a, autostart: systemctl --quiet enable microvm@a.service ended with 1"
    )
    assert [each["guest"]["autostart"] for each in result.results] == [False, True]
    assert "a" not in host.units


def test_a_disk_that_is_full_is_the_fault_of_one_guest(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.offer(Spec("a"), Spec("b"))
    real = os.mkdir

    def mkdir(path: t.Any, mode: int = 0o777, **options: t.Any) -> None:
        if "microvms/.microvm-fleet.a." in str(path):
            raise OSError(28, "No space left on device", path)
        real(path, mode, **options)

    with monkeypatch.context() as full:
        full.setattr(os, "mkdir", mkdir)
        result = run(host, [wish("a"), wish("b")])
    place = _files.beside(host.paths.guest("a"))
    assert messages(result) == {
        "a": f"guest a, state: create with {Spec('a').path}: No space left on device ({place}). "
        "See to it on the host and run again; what was done so far is kept."
    }
    assert exist(host) == ["b"]
    assert run(host, [wish("a"), wish("b")]).failures == []
    assert exist(host) == ["a", "b"]


def test_a_host_without_the_group(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> t.NoReturn:
        raise KeyError(name)

    host.offer(Spec("web1"))
    monkeypatch.setattr(grp, "getgrnam", none)
    assert run(host, [wish()]).failures == [
        (
            f"guest web1, state: create with {Spec('web1').path}: there is no group of that name (kvm). "
            "See to it on the host and run again; what was done so far is kept."
        )
    ]
    assert exist(host) == []


@pytest.mark.parametrize("check", [True, False])
def test_a_host_that_is_not_prepared(tmp_path: Path, check: bool) -> None:
    place = tmp_path / "bare"
    place.mkdir()
    host = FakeHost(place, prepared=False)
    host.offer(Spec("web1"))
    before = host.tree()
    assert run(host, [wish()], check=check).failures == [
        (
            "guest web1, state: this host has no unit microvm@.service or no /var/lib/microvms. "
            "Run the role microvm.fleet.host on it first."
        )
    ]
    assert host.tree() == before


def test_a_host_that_cannot_be_read(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> t.NoReturn:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(FleetError) as caught:
        run(host, [wish()])
    assert caught.value.text() == (
        f"host: {host.paths.guests}: Permission denied. Run as root on the host (become: true), and see to it."
    )


# Other makers


def test_guests_of_other_makers_are_adopted_without_a_change(host: FakeHost) -> None:
    host.microvm_create(Spec("a"))
    host.microvm_create(Spec("b"), flake=None, rooted=False)
    host.nixos_install(Spec("c"))
    for name in "abc":
        host.start(name)
    before = host.tree()
    result = run(host, [wish(name, state="started") for name in "abc"])
    assert not result.changed
    assert host.tree() == before
    assert [each["guest"]["owner"] for each in result.results] == ["microvm", "microvm", "nixos"]


def test_guests_of_the_host_are_refused(host: FakeHost) -> None:
    host.nixos_install(Spec("a"))
    host.offer(Spec("b"))
    before = host.tree()
    result = run(host, [wish("a", state="absent"), wish("b", state="absent")])
    assert host.tree() == before
    assert messages(result) == {
        "a": "guest a, state: belongs to the NixOS configuration of this host (it has a link named toplevel). "
        "Change microvm.vms in that configuration, or take the guest out of the wishes."
    }


def test_an_adopted_guest_can_go_back(host: FakeHost) -> None:
    old = Spec("web1", version=0)
    host.offer(Spec("web1"))
    host.microvm_create(old)
    run(host, [wish()], update="activate")
    guest = observe(host.paths, host).guest("web1")
    assert [generation.runner for generation in guest.generations] == [old.path, Spec("web1").path]
    host.collect_garbage()
    assert (host.root / old.path.lstrip("/")).exists()


# Removal, orphans


def test_removal_keeps_data_and_says_where(host: FakeHost) -> None:
    host.offer(Spec("web1", volumes=(("data.img", 16), ("/srv/disks/web1.img", None))))
    run(host, [wish(state="started")])
    host.guest("web1", "supervisord.log").touch()
    result = run(host, [wish(state="absent")])
    kept = result.results[0]["kept"]
    assert os.listdir(kept) == ["data.img"]
    assert os.path.dirname(kept) == host.paths.kept
    assert result.results[0]["left"] == ["/srv/disks/web1.img"]
    assert [place for place in host.tree() if "web1" in place and ".kept" not in place] == []
    host.collect_garbage()
    assert os.listdir(host.root / "nix/store") == []


def test_removal_with_purge_keeps_nothing(host: FakeHost) -> None:
    ran(host)
    result = run(host, [wish(state="absent", purge=True)])
    assert "kept" not in result.results[0]
    assert [place for place in host.tree() if "web1" in place] == []


def test_removal_of_a_guest_without_data_keeps_nothing(host: FakeHost) -> None:
    host.offer(Spec("web1", volumes=()))
    run(host, [wish(state="started")])
    result = run(host, [wish(state="absent")])
    assert "kept" not in result.results[0]
    assert not os.path.exists(host.paths.kept)


def test_a_guest_that_comes_and_goes_twice_a_second_keeps_both(host: FakeHost) -> None:
    for _time in range(2):
        ran(host)
        run(host, [wish(state="absent")])
    assert len(os.listdir(host.paths.kept)) == 2


def test_a_guest_that_comes_back_does_not_find_its_old_data(host: FakeHost) -> None:
    ran(host)
    run(host, [wish(state="absent")])
    run(host, [wish()])
    assert sorted(os.listdir(host.guest("web1"))) == ["current", "flake"]


def orphans(host: FakeHost) -> None:
    """One guest of each maker, and a protected one."""
    host.offer(Spec("ours"), Spec("safe"))
    run(host, [wish("ours", state="started"), wish("safe", protect=True)])
    host.microvm_create(Spec("theirs"))
    host.nixos_install(Spec("nixos"))


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("prune", [True, False])
def test_orphans(host: FakeHost, check: bool, prune: bool) -> None:
    orphans(host)
    result = run(host, [], check=check, prune=prune)
    assert result.orphans == [
        {"name": "nixos", "owner": "nixos", "active": False, "pruned": False},
        {"name": "ours", "owner": "fleet", "active": True, "pruned": prune},
        {"name": "safe", "owner": "fleet", "active": False, "pruned": False},
        {"name": "theirs", "owner": "microvm", "active": False, "pruned": False},
    ]
    assert result.changed is prune
    assert exist(host) == (["nixos", "safe", "theirs"] if prune and not check else ["nixos", "ours", "safe", "theirs"])


def test_the_module_for_one_guest_has_no_orphans(host: FakeHost) -> None:
    orphans(host)
    assert one(host, wish("ours")).orphans == []


def test_leftovers_of_a_killed_run_are_removed_by_the_next(host: FakeHost) -> None:
    ran(host)
    leftover = Path(host.paths.guests, ".microvm-fleet.web9.4711")
    leftover.mkdir()
    (leftover / "current").symlink_to("x")
    for check in (True, False):
        result = run(host, [wish()], check=check)
        assert result.changed
        assert result.actions == ["remove .microvm-fleet.web9.4711, which a run that was killed left"]
        assert leftover.exists() is check
    assert not run(host, [wish()]).changed


# Locks


HOLD = """
import sys
from ansible_collections.microvm.fleet.plugins.module_utils import _files
with _files.lock(sys.argv[1], what="x", shared=sys.argv[2] == "shared"):
    print(flush=True)
    sys.stdin.read()
"""


def holder(path: str, kind: str) -> subprocess.Popen[str]:
    """Another process that holds a lock until its input ends."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "\n"
    return process


@pytest.mark.parametrize(
    ("entry", "kind", "options", "what"),
    [
        ("guest-web1", "exclusive", {}, "guest web1"),
        ("guest-web2", "exclusive", {}, None),
        ("host", "shared", {}, None),
        ("host", "exclusive", {}, "host"),
        ("host", "shared", {"prune": True}, "host"),
    ],
)
def test_locks(host: FakeHost, entry: str, kind: str, options: dict[str, t.Any], what: str | None) -> None:
    host.offer(Spec("web1"))
    before = host.tree()
    with holder(os.path.join(host.paths.locks, entry), kind) as process:
        if what is None:
            assert run(host, [wish()], **options).changed
        else:
            with pytest.raises(Busy) as caught:
                run(host, [wish()], **options)
            named = process.pid if kind == "exclusive" else "unknown"
            assert caught.value.text() == (
                f"{what}: another run (process {named}) is working on it. Wait for it to end, or raise lock_timeout."
            )
            assert {place: text for place, text in host.tree().items() if place in before} == before
            assert exist(host) == []


@pytest.mark.parametrize("check", [True, False])
def test_what_changes_nothing_takes_no_lock(host: FakeHost, check: bool) -> None:
    ran(host)
    with holder(os.path.join(host.paths.locks, "guest-web1"), "exclusive"):
        assert run(host, [wish(state="stopped" if check else "present")], check=check).changed is check


def test_what_another_run_did_meanwhile_is_not_done_again(host: FakeHost) -> None:
    host.offer(Spec("web1"))
    real = _files.lock
    seen: list[str] = []

    def meanwhile(path: str, **options: t.Any) -> t.Any:
        if not seen:
            seen.append(path)
            run(host, [wish()])
        return real(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_files, "lock", meanwhile)
        result = run(host, [wish()])
    assert seen
    assert result.failures == []
    assert not result.changed
    assert exist(host) == ["web1"]


# Results


def test_a_result_can_be_written_as_json(host: FakeHost) -> None:
    host.offer(Spec("web1"), Spec("bad", behaviour="unbuildable"))
    json.dumps(run(host, [wish(), wish("bad")]).values())


def test_the_diff_shows_what_steps_change(host: FakeHost) -> None:
    ran(host)
    new = host.renew("web1")
    result = run(host, [wish(keep_generations=1)], update="activate", check=True)
    before, after = result.values()["diff"]["before"]["web1"], result.values()["diff"]["after"]["web1"]
    assert {key for key in after if after[key] != before[key]} == {
        "current",
        "booted",
        "generations",
        "generation",
        "healthy",
        "locked",
    }
    assert before["generations"] == {"1": Spec("web1").path}
    assert after["generations"] == {"2": new.path}
    assert not {"unit", "problems", "name"} & set(after)


def test_the_diff_of_a_guest_that_comes_or_goes(host: FakeHost) -> None:
    host.offer(Spec("web1"))
    result = run(host, [wish()])
    assert (result.before["web1"], result.after["web1"]["exists"]) == ({"exists": False}, True)
    result = run(host, [wish(state="absent")])
    assert (result.before["web1"]["exists"], result.after["web1"]) == (True, {"exists": False})


def test_the_value_for_one_guest_has_no_list(host: FakeHost) -> None:
    host.offer(Spec("web1"))
    value = one(host, wish()).value()
    assert set(value) == {"changed", "actions", "guest", "diff"}
    assert value["changed"]
    failed = one(host, wish(flake="/none", state="present", name="x")).value()
    assert set(failed) == {"changed", "actions", "guest", "diff", "subject", "field"}


# Limits


def test_limits() -> None:
    given = {"eval_timeout": 1, "build_timeout": 2, "lock_timeout": 0, "min_free": 3}
    assert limits_of(given) == Limits(evaluate=1, build=2, lock=0, min_free=3)
    assert {name: option["default"] for name, option in limits_spec().items()} == {
        "eval_timeout": 600,
        "build_timeout": 3600,
        "lock_timeout": 60,
        "min_free": 512,
    }


@pytest.mark.parametrize("value", [-1, (1 << 30) + 1])
def test_bad_space(value: int) -> None:
    with pytest.raises(InvalidWish) as caught:
        limits_of({"eval_timeout": 1, "build_timeout": 2, "lock_timeout": 0, "min_free": value})
    assert caught.value.text() == f"min_free: {value} is out of range. Give MiB from 0 to 1073741824."


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [
        ("eval_timeout", 0, 1),
        ("eval_timeout", 86401, 1),
        ("build_timeout", -1, 1),
        ("lock_timeout", -1, 0),
        ("lock_timeout", 10**9, 0),
    ],
)
def test_bad_limits(option: str, value: int, least: int) -> None:
    given = {"eval_timeout": 1, "build_timeout": 1, "lock_timeout": 1, option: value}
    with pytest.raises(InvalidWish) as caught:
        limits_of(given)
    assert caught.value.text() == f"{option}: {value} is out of range. Give seconds from {least} to 86400."
