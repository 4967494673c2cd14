# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The script that begins a session of spice_desktop."""

from __future__ import annotations

import os
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest

SESSION: t.Final = Path(__file__).resolve().parents[4] / "roles/flake/files/microvm-fleet/nix/profiles/spice/session.sh"
TIMEOUT: t.Final = 60
SHELLS: t.Final = [path for name in ("bash", "dash") if (path := shutil.which(name))]


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("by_user", [False, True])
def test_what_a_session_starts(tmp_path: Path, shell: str, resize: bool, by_user: bool) -> None:
    places = tmp_path / "bin"
    places.mkdir()
    program(places / "systemctl", f"[ \"$*\" = '--user cat spice-vdagent.service' ] && exit {0 if by_user else 1}")
    agent = program(tmp_path / "agent", f"echo started > {tmp_path / 'agent-started'}")
    # A named pipe, so that the desktop ends only when the resizer runs beside it.
    os.mkfifo(tmp_path / "pipe")
    resizer = program(tmp_path / "resizer", f"echo here > {tmp_path / 'pipe'}")
    waits = f"read -r line < {tmp_path / 'pipe'}" if resize else "line=none"
    desktop = program(tmp_path / "desktop", f'{waits}\necho "desktop $1 $line"')
    done = subprocess.run(
        [shell, str(SESSION), agent, resizer if resize else "-", desktop, "--fast"],
        env={"PATH": f"{places}:{os.defpath}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"desktop --fast {'here' if resize else 'none'}\n"
    assert (tmp_path / "agent-started").exists() is not by_user


@pytest.mark.parametrize("shell", SHELLS)
def test_a_session_ends_as_its_desktop_does(tmp_path: Path, shell: str) -> None:
    places = tmp_path / "bin"
    places.mkdir()
    program(places / "systemctl", "exit 0")
    desktop = program(tmp_path / "desktop", "exit 7")
    argv = [shell, str(SESSION), "/nowhere", "-", desktop]
    done = subprocess.run(argv, env={"PATH": str(places)}, capture_output=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 7
