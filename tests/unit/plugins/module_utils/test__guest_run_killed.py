# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A run that is killed anywhere is finished by the next."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost, Killer
from ansible_collections.microvm.fleet.tests.unit.support.scenes import SCENES, run


def normal(host: FakeHost) -> dict[str, str]:
    """The host's tree without what depends on the clock; empty directories that are only containers do not count."""
    return {
        re.sub(r"\.kept/(.*)-\d{8}T\d{6}Z(-\d+)?", r".kept/\1-TIME", place): text for place, text in host.tree().items()
    }


@pytest.mark.parametrize("name", sorted(SCENES))
def test_a_run_killed_anywhere_is_finished_by_the_next(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = SCENES[name]
    numbers = itertools.count(1000)

    def next_process() -> None:
        """Let what follows be done by another process."""
        number = next(numbers)
        monkeypatch.setattr(os, "getpid", lambda: number)

    def fresh(number: str) -> FakeHost:
        place = tmp_path / number
        place.mkdir()
        host = FakeHost(place)
        scene.before(host)
        next_process()
        return host

    whole = fresh("whole")
    with Killer(whole, None) as counter:
        expected = run(whole, scene.wishes, **scene.options)
    assert expected.changed
    assert not expected.failures
    assert counter.count > 3
    for at in range(counter.count):
        host = fresh(str(at))
        with Killer(host, at) as killer:
            run(host, scene.wishes, **scene.options)
        assert killer.dead
        used = [path for path in map(os.path.realpath, host.guest("web1").parent.glob("*/current")) if path]
        assert not [path for path in host.collect_garbage() if str(host.root) + path in used], f"killed at {at}"
        next_process()
        again = run(host, scene.wishes, **scene.options)
        assert not again.failures, f"killed at {at}"
        assert normal(host) == normal(whole), f"killed at {at}"
        assert not host.temporary(), f"killed at {at}"
        next_process()
        assert run(host, scene.wishes, **scene.options).changed is (name == "restart"), f"killed at {at}"
