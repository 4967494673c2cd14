# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter that says what is left to do of a move."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.microvm.fleet.plugins.filter.move_steps import FilterModule, move_steps

HOSTS = {"source": "host1", "target": "host2"}
NONE = {"exists": False, "traces": False, "up": False, "phase": None, "move": None, "other": None, "ran": False}
VIEWS = {
    "source": {**NONE, "exists": True, "traces": True, "up": True, "ran": True, "copied": False},
    "target": {**NONE, "copied": False},
}


def test_forward_and_back() -> None:
    plan = FilterModule().filters()["move_steps"](VIEWS, "web1", hosts=HOSTS, new="4f3a2b1c")
    assert plan["move"] == "4f3a2b1c"
    assert plan["steps"][0] == {"host": "target", "step": "check"}
    assert plan["steps"][-1] == {"host": "source", "step": "release"}
    assert move_steps(VIEWS, "web1", hosts=HOSTS, back=True) == {"move": "", "steps": []}


@pytest.mark.parametrize(
    ("views", "hosts", "said"),
    [
        (None, HOSTS, "move_steps, views: it has to be a dictionary of source and target."),
        ({"source": {}}, HOSTS, "move_steps, views: it has to be a dictionary of source and target."),
        (VIEWS, ["host1"], "move_steps, hosts: it has to be a dictionary of source and target."),
        (
            {**VIEWS, "target": None},
            HOSTS,
            (
                "guest web1, move: host host2 does not answer. Nothing was changed by this run. "
                "Run it again when the host is back."
            ),
        ),
    ],
)
def test_refused(views: t.Any, hosts: t.Any, said: str) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        move_steps(views, "web1", hosts=hosts, new="4f3a2b1c")
    assert str(caught.value) == said
