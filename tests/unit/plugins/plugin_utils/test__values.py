# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tests of values of variables."""

from __future__ import annotations

import types
import typing as t
from collections import UserDict, UserList

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.microvm.fleet.plugins.plugin_utils._values import plain, sequence, told
from ansible_collections.microvm.fleet.tests.unit.support.hostvars import Hostvars


@pytest.mark.parametrize(("value", "expected"), [(None, ()), ([], []), ([1, "a"], [1, "a"]), ((1,), (1,))])
def test_sequence(value: t.Any, expected: t.Any) -> None:
    """A list is what it is, and nothing is an empty one."""
    assert sequence(value, "guests") == expected


@pytest.mark.parametrize("value", ["web1", b"web1", {"name": "web1"}, 3, True])
def test_no_sequence(value: t.Any) -> None:
    """Anything else is an error that names it."""
    with pytest.raises(AnsibleFilterError) as caught:
        sequence(value, "guests")
    assert str(caught.value) == f"guests: {value!r} is no list."


def test_plain() -> None:
    """Dictionaries and lists of another kind become Python's own, at any depth; what is in them stays as it is."""
    kept = types.SimpleNamespace()
    found = plain(UserDict({"guests": UserList([UserDict({"name": "web1", "vcpu": 2}), (b"x", None)]), "kept": kept}))
    assert found == {"guests": [{"name": "web1", "vcpu": 2}, [b"x", None]], "kept": kept}
    assert [one.__class__ for one in (found, found["guests"], found["guests"][0])] == [dict, list, dict]
    assert found["kept"] is kept


def test_told() -> None:
    """What was registered on a host is given as it is; what was not, as None."""
    result: dict[str, object] = {"guests": []}
    hostvars = Hostvars(host1={"info": result})
    assert told(hostvars, "host1", "info") is result
    assert told(hostvars, "host1", "other") is None
