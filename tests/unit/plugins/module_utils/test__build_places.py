# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a builder keeps things: root, and users."""

from __future__ import annotations

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._build_places import places, plain
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError


def test_root() -> None:
    found = places(uid=0, environment={"HOME": "/root", "XDG_CACHE_HOME": "/x"})
    assert (found.roots, found.state, found.cache, found.indirect) == (
        "/nix/var/nix/gcroots/microvm-fleet-build",
        "/var/lib/microvm-fleet/build",
        "/var/cache/microvm-fleet/closures",
        False,
    )
    assert found.key == "/var/lib/microvm-fleet/build/sign-key"
    assert found.root_of("a", "b") == "/nix/var/nix/gcroots/microvm-fleet-build/a/b"


@pytest.mark.parametrize(
    ("environment", "state", "cache"),
    [
        ({"HOME": "/users/u"}, "/users/u/.local/state", "/users/u/.cache"),
        ({"HOME": "/users/u", "XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c"}, "/s", "/c"),
        ({"XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c"}, "/s", "/c"),
        # The specification: a relative path is to be ignored.
        ({"HOME": "/users/u", "XDG_STATE_HOME": "s", "XDG_CACHE_HOME": ""}, "/users/u/.local/state", "/users/u/.cache"),
    ],
)
def test_a_user(environment: dict[str, str], state: str, cache: str) -> None:
    found = places(uid=1000, environment=environment)
    assert found.indirect
    assert found.state == f"{state}/microvm-fleet/build"
    assert found.roots == f"{state}/microvm-fleet/build/roots"
    assert found.cache == f"{cache}/microvm-fleet/closures"


@pytest.mark.parametrize("environment", [{}, {"HOME": "x"}, {"XDG_CACHE_HOME": "/c"}])
def test_a_user_without_a_home(environment: dict[str, str]) -> None:
    with pytest.raises(FleetError) as caught:
        places(uid=1000, environment=environment)
    assert caught.value.text() == (
        "builder, XDG_STATE_HOME: neither HOME nor XDG_STATE_HOME is an absolute path. Set XDG_STATE_HOME."
    )


def test_a_cache_that_nix_would_read_otherwise() -> None:
    with pytest.raises(FleetError) as caught:
        places(uid=1000, environment={"HOME": "/users/u", "XDG_CACHE_HOME": "/a?b"})
    assert caught.value.text() == (
        "builder, XDG_CACHE_HOME: '/a?b/microvm-fleet/closures' has characters that Nix would read otherwise. Give a"
        " directory of letters, digits, and ./_+- only."
    )


@pytest.mark.parametrize(
    ("path", "answer"),
    [("/", True), ("/a/b.c_d-e+f", True), ("a", False), ("/a b", False), ("/a%20b", False), ("/a\n", False)],
)
def test_plain(path: str, answer: bool) -> None:
    assert plain(path) is answer
