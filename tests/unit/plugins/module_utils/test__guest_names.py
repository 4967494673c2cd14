# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of guests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.microvm.fleet.plugins.module_utils._guest_names import NAME_LIMIT, name_faults


@pytest.mark.parametrize("name", ["a", "9", "web1", "web.example.org", "web-1_b", "A" * NAME_LIMIT, "a..b", "Web1"])
def test_names(name: str) -> None:
    assert list(name_faults(name)) == []


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("", "is empty."),
        ("a" * 65, "has 65 characters, and 64 is the limit."),
        ("../a", "'../a' is no name of a guest."),
    ],
)
def test_what_are_no_names(name: str, seen: str) -> None:
    assert list(name_faults(name)) == [seen]


@given(st.text(max_size=80))
def test_a_name_that_is_taken_is_one_word_of_a_path(name: str) -> None:
    if not list(name_faults(name)):
        assert name
        assert name == name.strip()
        assert not set(name) & set("/\n\0@%\\ ")
        assert name[0] not in "-."
        assert name.isascii()
