# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which hosts are NixOS."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._nixos import is_nixos

if t.TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('NAME=NixOS\nID=nixos\nVERSION_ID="25.11"\n', True),
        ('ID="nixos"\n', True),
        ("ID='nixos'\n", True),
        ("ID=debian\nID_LIKE=nixos\n", False),
        ("VARIANT_ID=nixos\nID=debian\n", False),
        ("# ID=nixos\n", False),
        ("", False),
        (None, False),
    ],
)
def test_by_its_os_release(tmp_path: Path, text: str | None, answer: bool) -> None:
    if text is not None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/os-release").write_text(text, "utf-8")
    assert is_nixos(str(tmp_path)) is answer
