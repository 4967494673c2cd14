# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tests of values of variables."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.microvm.fleet.plugins.plugin_utils._values import sequence


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
