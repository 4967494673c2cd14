# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``ansible-test sanity`` on every core that this machine can run, with nothing ignored.

ansible-test wants a git work tree at ``ansible_collections/NAMESPACE/NAME``, one real interpreter per Python version
on PATH, and a get-pip.py that it downloads from a place of its own.  It gets the first two made, and in place of the
third a small script that takes pip from the interpreter.  Its environments live in its home directory, which is
therefore one of ours: made once, used by every checkout.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import tree
from .machine import (
    CORES,
    ROOT,
    Core,
    cache,
    core_named,
    install_packages,
    locked,
    python_for,
    real_interpreters,
    search_path,
    venv_of,
)
from .process import ToolError, run
from .report import Check, skip

TIMEOUT = 1500.0
GET_PIP = Path(__file__).with_name("get_pip.py")


def check(names: list[str]) -> list[Check]:
    """Run the tests of the cores *names*, or of all, two cores at a time."""
    install_packages()
    chosen = [core_named(name) for name in names] or list(CORES)
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(_sanity, chosen))


def _sanity(core: Core) -> Check:
    name = f"sanity {core.name}"
    if python_for(core) is None:
        return skip(name, f"no Python for {core.name} on this machine")
    ignored = [path.name for path in (ROOT / "tests" / "sanity").glob("ignore-*.txt") if path.read_text().strip()]
    if ignored:
        raise ToolError(f"tests/sanity has ignore lists: {' '.join(ignored)}")
    environment = venv_of(core)
    place = tree.make(f"sanity-{core.name}")
    home = cache() / f"sanity-{core.name}"
    _stand_in(home, environment)
    extra = {
        "HOME": str(home),
        # pip and git keep the settings of the person who runs this
        "XDG_CONFIG_HOME": os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config"),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
        "GIT_CONFIG_GLOBAL": os.environ.get("GIT_CONFIG_GLOBAL") or str(Path.home() / ".gitconfig"),
        "PATH": search_path(environment / "bin", real_interpreters()),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    python = python_for(core)
    assert python is not None
    version = python.name.removeprefix("python")
    argv = ["ansible-test", "sanity", "--venv", "--python", version, "--color", "no", "--truncate", "0"]
    with locked(cache() / f"sanity-{core.name}.lock"):
        done = run([environment / "bin" / argv[0], *argv[1:]], cwd=place, env=extra, timeout=TIMEOUT)
    ran, failed = counts(done.output)
    if not done.ok and failed == 0:
        failed = 1
    return Check(name, done.seconds, max(ran - failed, 0), failed, output=done.output)


def counts(output: str) -> tuple[int, int]:
    """How many tests ansible-test started, and how many of them it lists as failed in the end."""
    ran = len(re.findall(r'^Running sanity test "', output, re.MULTILINE))
    found = re.search(r"The (\d+) sanity test\(s\) listed below", output)
    return ran, int(found[1]) if found else 0


def _stand_in(home: Path, environment: Path) -> None:
    """Put the stand-in for get-pip.py where this release of ansible-test looks for the one it has downloaded."""
    source = next(environment.glob("lib/python3.*/site-packages/ansible_test/_internal/python_requirements.py"))
    version = re.search(r"\bpip='([\d.]+)'", source.read_text(encoding="utf-8"))
    if version is None:
        raise ToolError(f"{source} does not say which get-pip.py it wants.")
    target = home / ".ansible" / "test" / "cache" / f"get_pip_{version[1].replace('.', '_')}.py"
    target.parent.mkdir(parents=True, exist_ok=True)
    text = GET_PIP.read_text(encoding="utf-8")
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")
