# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How guests are called, and the flake of those that are described: what can be known without reading wishes.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
import typing as t

NAME_LIMIT: t.Final = 64
# The flake of guests that are described: static, with their descriptions in a file beside it.
DESCRIBED: t.Final = "path:/etc/microvm-fleet"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def name_faults(name: str) -> t.Iterator[str]:
    """What is wrong with *name* as the name of a guest: a directory, a unit's instance, and a Nix attribute."""
    if not name:
        yield "is empty."
    elif len(name) > NAME_LIMIT:
        yield f"has {len(name)} characters, and {NAME_LIMIT} is the limit."
    elif _NAME.fullmatch(name) is None:
        yield f"{name!r} is no name of a guest."
