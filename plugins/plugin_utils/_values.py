# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values of variables, as plugins on the controller get them.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t
from collections.abc import Sequence

from ansible.errors import AnsibleFilterError


def sequence(value: t.Any, what: str) -> Sequence[t.Any]:
    """The list *value*, empty when it is None.  Raises AnsibleFilterError for anything else, and calls it *what*."""
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        message = f"{what}: {value!r} is no list."
        raise AnsibleFilterError(message)
    return value
