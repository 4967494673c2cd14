# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a host that builds for others keeps roots, its key and its caches: as root, or as any user of a controller.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError

# What Nix reads in the address of a cache as it is written: nothing of it is encoded.
_PLAIN = re.compile(r"/[0-9A-Za-z/._+-]*")


@dataclass(frozen=True)
class Places:
    """Directories of a builder.  *indirect*: roots lie elsewhere than Nix looks, and are made known to it."""

    roots: str
    state: str
    cache: str
    indirect: bool = False

    @property
    def key(self) -> str:
        """The key that closures are signed with, unless another is named."""
        return os.path.join(self.state, "sign-key")

    def root_of(self, *parts: str) -> str:
        """A path among the roots."""
        return os.path.join(self.roots, *parts)


def places(root: str = "/", *, uid: int | None = None, environment: t.Mapping[str, str] | None = None) -> Places:
    """The places of who runs this.  *root* is ``/`` but in unit tests.

    Users other than root have theirs by the XDG Base Directory Specification.  Raises FleetError when their home is not
    known, or the place of the cache cannot be told to Nix.
    """
    if (os.geteuid() if uid is None else uid) == 0:
        return Places(
            roots=os.path.join(root, "nix/var/nix/gcroots/microvm-fleet-build"),
            state=os.path.join(root, "var/lib/microvm-fleet/build"),
            cache=os.path.join(root, "var/cache/microvm-fleet/closures"),
        )
    known = os.environ if environment is None else environment
    state = _base(known, "XDG_STATE_HOME", ".local/state")
    cache = os.path.join(_base(known, "XDG_CACHE_HOME", ".cache"), "microvm-fleet", "closures")
    if not plain(cache):
        raise FleetError(
            f"{cache!r} has characters that Nix would read otherwise.",
            subject="builder",
            field="XDG_CACHE_HOME",
            hint="Give a directory of letters, digits, and ./_+- only.",
        )
    here = os.path.join(state, "microvm-fleet", "build")
    return Places(roots=os.path.join(here, "roots"), state=here, cache=cache, indirect=True)


def plain(path: str) -> bool:
    """Whether Nix reads *path* in the address of a cache as it is."""
    return _PLAIN.fullmatch(path) is not None


def _base(environment: t.Mapping[str, str], variable: str, below: str) -> str:
    """A base directory of the user; a relative one is to be ignored."""
    given = environment.get(variable, "")
    if given.startswith("/"):
        return given
    home = environment.get("HOME", "")
    if not home.startswith("/"):
        raise FleetError(
            f"neither HOME nor {variable} is an absolute path.",
            subject="builder",
            field=variable,
            hint=f"Set {variable}.",
        )
    return os.path.join(home, below)
