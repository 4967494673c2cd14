# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception that ends the command with a message instead of a traceback."""

from __future__ import annotations


class TestbedError(Exception):
    """What was wrong, seen on which object, and what to do about it."""

    __test__ = False
