# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values of variables, as plugins on the controller get them.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping, Sequence

from ansible.errors import AnsibleFilterError


def sequence(value: t.Any, what: str) -> Sequence[t.Any]:
    """The list *value*, empty when it is None.  Raises AnsibleFilterError for anything else, and calls it *what*."""
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        message = f"{what}: {value!r} is no list."
        raise AnsibleFilterError(message)
    return value


def plain(value: t.Any) -> t.Any:
    """*value* with every template in it resolved, in dictionaries and lists of Python itself.

    Those of Ansible know all variables of the task, and a deep copy, as an argument spec makes, copies these as well.
    """
    if isinstance(value, Mapping):
        return {key: plain(value[key]) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [plain(one) for one in value]
    return value


def told(hostvars: t.Any, host: str, name: str) -> t.Any:
    """What a task has registered or set as *name* on *host*, or None; *hostvars* is Ansible's variable.

    Taken as it is: what tasks have left has no templates in it, and to look for some in what a host tells of all its
    guests takes longer than whatever is done with it.
    """
    return hostvars.raw_get(host).get(name)
