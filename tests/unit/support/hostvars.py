# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ansible's variable hostvars, as far as filters need it."""

from __future__ import annotations

import typing as t


class Hostvars(dict[str, t.Any]):
    """Variables by host; what is asked for by `raw_get` is given as it is."""

    def raw_get(self, host_name: str) -> t.Any:
        """The variables of a host without a look for templates in them."""
        return self[host_name]
