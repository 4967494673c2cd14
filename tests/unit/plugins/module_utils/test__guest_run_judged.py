# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs that judge guests: those that are not healthy go back, whatever the run is killed at."""

from __future__ import annotations

import itertools
import os
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Guest, observe
from ansible_collections.microvm.fleet.plugins.module_utils._guest_run import Result
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost, FakeUnit, Killer, Spec
from ansible_collections.microvm.fleet.tests.unit.support.scenes import described, described_before, ran, run, wish

if t.TYPE_CHECKING:
    from ansible_collections.microvm.fleet.tests.unit.plugins.conftest import Verdicts

REASON = "tcp 10.0.0.11:80: connection refused"


def see(host: FakeHost, name: str = "web1") -> Guest:
    return observe(host.paths, host).guest(name)


def is_good(host: FakeHost, path: str) -> bool:
    """Whether the guest runs *path*, and that was found healthy."""
    guest = see(host)
    assert guest.record is not None
    runs = guest.unit.active and guest.booted == guest.current == path
    return runs and guest.record.healthy == path and guest.record.judging is None and not guest.interrupted


def marks(host: FakeHost) -> list[str]:
    place = Path(host.paths.marks)
    return sorted(entry.name for entry in place.iterdir()) if place.is_dir() else []


def update(host: FakeHost, **fields: t.Any) -> Result:
    return run(host, [wish(**fields)], update="activate")


def updated(host: FakeHost) -> tuple[str, str]:
    """A guest with two generations that were found healthy."""
    ran(host)
    old = see(host).current
    new = host.renew("web1").path
    assert not update(host).failures
    assert old is not None
    assert is_good(host, new)
    return old, new


def test_a_good_update_is_noted(host: FakeHost, judge: Verdicts) -> None:
    ran(host)
    new = host.renew("web1").path
    result = update(host)
    assert result.failures == []
    assert result.actions == [f"web1: stage {new}", "web1: stop", f"web1: switch to {new}", "web1: start"]
    assert result.results[0]["reasons"] == ["runner"]
    assert is_good(host, new)
    assert marks(host) == []
    assert not update(host).changed
    assert judge == {}


def test_nobody_waits_for_the_start_of_another(host: FakeHost, judge: Verdicts) -> None:
    """Of guests that are judged no start is waited for: one may take its whole time, and the others have theirs."""
    host.offer(Spec("web1"), Spec("web2"), Spec("new"))
    run(host, [wish("web1", state="started"), wish("web2", state="started")])
    for name in ("web1", "web2"):
        host.renew(name)
    host.calls.clear()
    result = run(host, [wish("web1"), wish("web2"), wish("new", state="started")], update="activate")
    assert result.failures == []
    starts = [argv[2:] for argv in host.calls if argv[:2] == ("systemctl", "start")]
    assert starts == [("--no-block", "microvm@web1.service", "microvm@web2.service"), ("microvm@new.service",)]
    assert judge == {}


def test_a_bad_update_is_taken_back(host: FakeHost, judge: Verdicts) -> None:
    ran(host)
    old, new = see(host).current, host.renew("web1").path
    judge[new] = REASON
    result = update(host)
    (entry,) = result.results
    assert entry["failed"]
    assert entry["changed"]
    assert (entry["subject"], entry["field"]) == ("guest web1", "health")
    assert entry["msg"] == (
        f"guest web1, health: generation 2 ({new}) is not healthy: {REASON}\n"
        f"It went back to generation 1 ({old}), which is healthy.\nIts journal ended with:\n"
        "Started microvm@web1.service.\nqemu-system-x86_64: cannot run"
    )
    assert entry["unhealthy"] == REASON
    assert entry["reverted"] == {
        "from": {"number": 2, "runner": new},
        "to": {"number": 1, "runner": old},
        "healthy": True,
        "reason": REASON,
    }
    assert result.actions == [
        f"web1: stage {new}",
        "web1: stop",
        f"web1: switch to {new}",
        "web1: start",
        "web1: stop",
        f"web1: reject {new}",
        f"web1: switch to {old}",
        "web1: start",
    ]
    assert old is not None
    assert is_good(host, old)
    assert entry["guest"]["rejected"] == {new: REASON}
    assert entry["guest"]["generation"] == 1
    assert marks(host) == []
    # Nothing is evaluated again for it, and nothing else is done either.
    host.calls.clear()
    again = update(host)
    assert not again.changed
    assert again.failures == [
        (
            f"guest web1, update: generation 2 ({new}) was tried before, and the guest was taken back from it: {REASON}"
            ". Change the guest's configuration, or say retry: true to try it again."
        )
    ]
    assert not [argv for argv in host.calls if argv[:2] == ("nix", "eval")]
    # It may be staged, and tried again when somebody wants it.
    assert run(host, [wish()], update="stage").failures == []
    assert not run(host, [wish()]).changed
    del judge[new]
    assert update(host, retry=True).failures == []
    assert is_good(host, new)
    assert see(host).record.rejected == {}  # type: ignore[union-attr]


def test_a_newer_version_makes_up_for_a_bad_one(host: FakeHost, judge: Verdicts) -> None:
    ran(host)
    bad = host.renew("web1").path
    judge[bad] = REASON
    update(host)
    new = host.renew("web1").path
    assert update(host).failures == []
    assert is_good(host, new)
    assert list(see(host).record.rejected) == [bad]  # type: ignore[union-attr]
    assert [each.number for each in see(host).generations] == [1, 2, 3]


def test_what_was_never_any_good_stays_as_it_is(host: FakeHost, judge: Verdicts) -> None:
    host.offer(Spec("web1"))
    judge["web1"] = REASON
    probes = [{"kind": "tcp", "port": 80, "address": "10.0.0.11"}]
    result = run(host, [wish(state="started", health=probes)])
    assert result.failures == [
        (
            f"guest web1, health: generation 1 ({Spec('web1').path}) is not healthy: {REASON}\n"
            "There is nothing that it could go back to, so it stays.\n"
            "Its journal ended with:\nStarted microvm@web1.service.\nqemu-system-x86_64: cannot run"
        )
    ]
    guest = see(host)
    assert guest.unit.active
    assert guest.judging
    assert marks(host) == []
    assert "reverted" not in result.results[0]
    assert result.results[0]["unhealthy"] == REASON
    assert run(host, [wish(state="started", health=probes)]).changed is False
    # Whoever asks for the newest asks whether it is any good by now.
    judge.clear()
    assert update(host, health=probes).failures == []
    assert is_good(host, Spec("web1").path)


def test_a_start_is_judged_only_when_that_is_asked_for(host: FakeHost, judge: Verdicts) -> None:
    host.offer(Spec("web1"), Spec("web2"))
    judge["web1"] = judge["web2"] = REASON
    probes = [{"kind": "tcp", "port": 80, "address": "10.0.0.11"}]
    result = run(host, [wish(state="started", health=probes), wish("web2", state="started")])
    assert [each["failed"] for each in result.results] == [True, False]
    assert see(host, "web2").record.judging is None  # type: ignore[union-attr]


def test_what_does_not_even_start_is_taken_back(host: FakeHost) -> None:
    ran(host)
    old, new = see(host).current, host.renew("web1", behaviour="crash").path
    result = update(host)
    assert "is not healthy: did not stay up: the unit is failed (exit-code) after 5 restarts" in result.failures[0]
    assert old is not None
    assert is_good(host, old)
    assert see(host).record.rejected[new].startswith("did not stay up")  # type: ignore[union-attr]


def test_what_is_no_better_before(host: FakeHost, judge: Verdicts) -> None:
    ran(host)
    old, new = see(host).current, host.renew("web1").path
    judge["web1"] = REASON
    result = update(host)
    assert (
        f"It went back to generation 1 ({old}), which failed too: generation 1 ({old}) is not healthy: {REASON}"
        in result.failures[0]
    )
    assert result.results[0]["reverted"]["healthy"] is False
    guest = see(host)
    assert guest.current == old
    assert guest.unit.active
    assert marks(host) == []
    assert guest.judging
    assert new in guest.record.rejected  # type: ignore[union-attr]


def test_one_bad_guest_is_no_other_s_fault(host: FakeHost, judge: Verdicts) -> None:
    names = ("web1", "web2", "web3")
    host.offer(*(Spec(name) for name in names))
    run(host, [wish(name, state="started") for name in names])
    new = {name: host.renew(name).path for name in names}
    judge[new["web2"]] = REASON
    result = run(host, [wish(name) for name in names], update="activate")
    assert [each["failed"] for each in result.results] == [False, True, False]
    assert {name: see(host, name).current == new[name] for name in names} == {
        "web1": True,
        "web2": False,
        "web3": True,
    }


def test_a_guest_that_is_down_is_judged_when_it_starts(host: FakeHost, judge: Verdicts) -> None:
    host.offer(Spec("web1"))
    run(host, [wish()])
    new = host.renew("web1").path
    assert update(host).actions[-1] == f"web1: switch to {new}"
    assert see(host).judging
    assert "not judged" in "".join(run(host, [wish()]).results[0]["guest"]["problems"])
    judge[new] = REASON
    result = run(host, [wish(state="started")])
    assert result.results[0]["reverted"]["to"] == {"number": 1, "runner": Spec("web1").path}
    assert is_good(host, Spec("web1").path)


def test_after_a_reboot_it_is_judged_by_who_wants_the_newest(host: FakeHost, judge: Verdicts) -> None:
    updated(host)
    new = host.renew("web1").path
    run(host, [wish(state="stopped")])
    update(host, autostart=True)
    host.power_cut()
    assert see(host).judging
    judge[new] = REASON
    assert run(host, [wish()]).failures == []
    assert run(host, [wish()], update="stage").failures == []
    assert not run(host, [wish()]).changed
    result = run(host, [wish()], update="activate_staged")
    assert result.results[0]["reverted"]["from"]["runner"] == new


# Generations


def test_generations_are_gone_to_without_asking_a_flake(host: FakeHost) -> None:
    old, new = updated(host)
    host.flakes.clear()
    host.calls.clear()
    result = run(host, [wish(generation="1")], update="activate")
    assert result.failures == []
    assert is_good(host, old)
    assert [argv for argv in host.calls if argv[0].startswith("nix")] == []
    assert result.results[0]["guest"]["generation"] == 1
    assert [each.number for each in see(host).generations] == [1, 2]
    assert run(host, [wish(generation="1")]).changed is False
    # The other way round, by a name.
    assert run(host, [wish(generation="2")]).failures == []
    assert is_good(host, new)
    assert run(host, [wish(generation="previous")]).failures == []
    assert is_good(host, old)


def test_a_generation_that_is_not_healthy_leads_back_to_where_it_was(host: FakeHost, judge: Verdicts) -> None:
    old, new = updated(host)
    judge[old] = REASON
    result = run(host, [wish(generation="previous")])
    assert result.results[0]["reverted"]["to"] == {"number": 2, "runner": new}
    assert is_good(host, new)
    refused = run(host, [wish(generation="1")])
    assert refused.failures[0].startswith(f"guest web1, generation: generation 1 ({old}) was tried before")
    assert "no generation before the current one" in run(host, [wish(generation="previous")]).failures[0]


def test_generations_that_there_are_not(host: FakeHost) -> None:
    old, new = updated(host)
    before = host.tree()
    result = run(host, [wish(generation="7")])
    assert result.failures == [f"guest web1, generation: the guest has no generation 7. It has 1 ({old}), 2 ({new})."]
    assert "does not exist" in run(host, [wish("web2", generation="1")]).failures[0]
    assert host.tree() == before


def test_facts_of_a_generation_are_kept(host: FakeHost) -> None:
    updated(host)
    macs = [each["mac"] for each in run(host, [wish()]).results[0]["guest"]["interfaces"]]
    run(host, [wish(generation="1")])
    assert [each["mac"] for each in run(host, [wish()]).results[0]["guest"]["interfaces"]] == macs
    assert macs[0] is not None


def test_what_was_healthy_is_never_forgotten(host: FakeHost, judge: Verdicts) -> None:
    ran(host)
    old = see(host).current
    judge[host.renew("web1").path] = REASON
    update(host, keep_generations=1)
    assert old is not None
    assert is_good(host, old)
    assert old in [each.runner for each in see(host).generations]
    new = host.renew("web1").path
    update(host, keep_generations=1)
    assert is_good(host, new)
    assert [each.runner for each in see(host).generations] == [new]
    assert not update(host, keep_generations=1).changed


# What is staged


def test_only_what_is_staged_is_activated(host: FakeHost) -> None:
    ran(host)
    staged = host.renew("web1").path
    run(host, [wish()], update="stage")
    host.renew("web1")
    host.calls.clear()
    assert run(host, [wish()], update="activate_staged").failures == []
    assert is_good(host, staged)
    assert [argv for argv in host.calls if argv[0] == "nix"] == []
    assert not run(host, [wish()], update="activate_staged").changed


def test_what_is_staged_has_to_be_what_is_wished(host: FakeHost) -> None:
    ran(host)
    host.offer(Spec("web1"), flake="git+https://git.example.org/other")
    staged = host.renew("web1").path
    run(host, [wish()], update="stage")
    before = host.tree()
    other = {"name": "web1", "flake": "git+https://git.example.org/other"}
    assert "comes from" in run(host, [other], update="activate_staged").failures[0]
    runner = {"name": "web1", "runner": Spec("web1", version=9).path}
    assert f"{staged} is staged, and not that one." in run(host, [runner], update="activate_staged").failures[0]
    assert "only what is staged" in run(host, [wish("web2")], update="activate_staged").failures[0]
    assert host.tree() == before


def test_a_description_that_is_not_the_staged_one(host: FakeHost) -> None:
    described_before(host)
    run(host, [described(mem=1024)], update="stage")
    before = host.tree()
    result = run(host, [described(mem=2048)], update="activate_staged")
    assert "made of another description" in result.failures[0]
    assert host.tree() == before
    host.calls.clear()
    assert run(host, [described(mem=1024)], update="activate_staged").failures == []
    assert [argv for argv in host.calls if argv[0] == "nix"] == []


# Killed


@pytest.mark.parametrize("fields", [{}, {"keep_generations": 1}, {"state": "started"}], ids=str)
def test_a_run_that_takes_back_is_finished_by_the_next(
    fields: dict[str, t.Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: Verdicts
) -> None:
    numbers = itertools.count(1000)

    def fresh(number: str) -> FakeHost:
        place = tmp_path / number
        place.mkdir()
        host = FakeHost(place)
        ran(host)
        judge[host.renew("web1").path] = REASON
        pid = next(numbers)
        monkeypatch.setattr(os, "getpid", lambda: pid)
        return host

    whole = fresh("whole")
    old, new = see(whole).current, whole.flakes[next(iter(whole.flakes))]["web1"].path
    with Killer(whole, None) as counter:
        update(whole, **fields)
    assert old is not None
    assert is_good(whole, old)
    for at in range(counter.count):
        host = fresh(str(at))
        with Killer(host, at) as killer:
            update(host, **fields)
        assert killer.dead
        assert set(host.collect_garbage()).isdisjoint({old, see(host).current})
        pid = next(numbers)
        monkeypatch.setattr(os, "getpid", lambda number=pid: number)
        # What comes next may be a run that wants nothing but that what is there is whole.
        run(host, [wish()])
        assert see(host).unit.active, f"killed at {at}"
        result = update(host, **fields)
        assert result.failures, f"killed at {at}"
        assert is_good(host, old), f"killed at {at}"
        assert list(see(host).record.rejected) == [new], f"killed at {at}"  # type: ignore[union-attr]
        assert not host.temporary(), f"killed at {at}"
        assert not update(host, **fields).changed, f"killed at {at}"


@pytest.mark.parametrize("check", [False, True])
def test_what_a_killed_run_has_left_is_done_whatever_is_refused(
    host: FakeHost, judge: Verdicts, check: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died on the way back, before the guest was started again; what is wished for is still what was no good."""
    ran(host)
    old, bad = see(host).current, host.renew("web1").path
    judge[bad] = REASON
    with monkeypatch.context() as patch:
        real = host.start

        def start(name: str) -> None:
            if see(host, name).current == old:
                raise KeyboardInterrupt
            real(name)

        patch.setattr(host, "start", start)
        with pytest.raises(KeyboardInterrupt):
            update(host)
    assert (see(host).current, see(host).unit.active, marks(host)) == (old, False, ["web1"])
    result = run(host, [wish()], update="activate", check=check)
    assert result.actions == ["web1: start"]
    assert "was tried before, and the guest was taken back from it" in result.failures[0]
    assert is_good(host, str(old)) is not check
    if not check:
        again = update(host)
        assert (again.changed, again.actions) == (False, [])
        assert "was tried before" in again.failures[0]


def test_what_is_refused_is_the_whole_of_the_wish(host: FakeHost, judge: Verdicts) -> None:
    ran(host)
    bad = host.renew("web1").path
    judge[bad] = REASON
    update(host)
    for state in ("stopped", "restarted"):
        result = update(host, state=state)
        assert (result.changed, len(result.failures)) == (False, 1)


def test_what_a_killed_run_has_rejected_is_gone_back_from(host: FakeHost, judge: Verdicts) -> None:
    old, new = updated(host)
    bad = host.renew("web1").path
    judge[bad] = REASON
    with pytest.MonkeyPatch.context() as patch:
        real = os.rename
        switches: list[str] = []

        def rename(source: t.Any, place: t.Any, **options: t.Any) -> None:
            if str(place).endswith("/current"):
                switches.append(str(place))
                if len(switches) == 2:
                    raise KeyboardInterrupt
            real(source, place, **options)

        patch.setattr(os, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            update(host)
    guest = see(host)
    assert (guest.current, guest.record.judging) == (bad, new)  # type: ignore[union-attr]
    said = run(host, [wish()], check=True)
    done = run(host, [wish()])
    assert said.actions == done.actions == [f"web1: switch to {new}", "web1: start"]
    assert done.results[0]["reverted"]["to"] == {"number": 2, "runner": new}
    assert is_good(host, new)
    assert old != new


def test_what_was_only_not_judged_yet_is_judged(host: FakeHost) -> None:
    updated(host)
    new = host.renew("web1").path

    def killed(*_arguments: t.Any, **_options: t.Any) -> t.NoReturn:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ansible_collections.microvm.fleet.plugins.module_utils._guest_settle.Waiting", killed)
        with pytest.raises(KeyboardInterrupt):
            update(host)
    assert marks(host) == ["web1"]
    assert see(host).judging
    since = host.units["web1"].since
    result = run(host, [wish()])
    assert (result.changed, result.failures, result.actions) == (False, [], [])
    assert is_good(host, new)
    assert host.units["web1"].since == since
    assert marks(host) == []
    host.units["web1"] = FakeUnit()
    assert not run(host, [wish()]).changed
