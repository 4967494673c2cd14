# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules that take closures from a host to another, from their arguments to what they print."""

from __future__ import annotations

import json
import shutil
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.microvm.fleet.plugins.module_utils._build_places import places
from ansible_collections.microvm.fleet.plugins.modules import microvm_closure, microvm_closure_export
from ansible_collections.microvm.fleet.tests.unit.support.fakenix import FakeNix, store_path

WEB1 = store_path("microvm-qemu-web1")
Run = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def builder(tmp_path: Path) -> FakeNix:
    """A host that has a runner."""
    nix = FakeNix(tmp_path / "builder")
    nix.make("microvm-qemu-web1", nix.make("kernel"))
    return nix


@pytest.fixture
def target(tmp_path: Path) -> FakeNix:
    """A host with an empty store."""
    return FakeNix(tmp_path / "target")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a module on a host, as Ansible would."""

    def call(module: t.Any, nix: FakeNix, *, check: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
        monkeypatch.setattr(module, "Commands", lambda: nix)
        monkeypatch.setattr(microvm_closure, "Paths", lambda: nix.paths)
        monkeypatch.setattr(microvm_closure_export, "places", lambda: places(str(nix.root), uid=0))
        with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            module.main()
        answer: dict[str, t.Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def test_from_one_host_to_another(builder: FakeNix, target: FakeNix, run: Run) -> None:
    given = {"runners": [WEB1]}
    said = run(microvm_closure, target, state="query", **given)
    assert (said["changed"], said["missing"]) == (False, [WEB1])
    exported = run(microvm_closure_export, builder, **given)
    assert exported["changed"]
    prepared = run(microvm_closure, target, state="prepared", closure=exported["closure"], **given)
    for file in prepared["files"]:
        place = Path(prepared["directory"], file["name"])
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(exported["directory"], file["name"]), place)
    keys = [exported["public_key"]]
    present = {**given, "directory": prepared["directory"], "public_keys": keys}
    assert run(microvm_closure, target, check=True, **present)["changed"]
    assert target.objects == {}
    assert run(microvm_closure, target, **present)["changed"]
    assert sorted(target.objects) == sorted(builder.objects)
    for check in (True, False):
        assert not run(microvm_closure, target, check=check, **present)["changed"]
    assert run(microvm_closure, target, state="prepared", closure={}, **given)["directory"] is None


def test_a_second_export_changes_nothing(builder: FakeNix, run: Run) -> None:
    first = run(microvm_closure_export, builder, runners=[WEB1])
    second = run(microvm_closure_export, builder, runners=[WEB1])
    assert not second["changed"]
    assert {**second, "changed": True, "invocation": None} == {**first, "invocation": None}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"runners": [WEB1]}, "state is present but all of the following are missing: directory"),
        ({"runners": [WEB1], "state": "prepared"}, "state is prepared but all of the following are missing: closure"),
        ({"runners": [WEB1], "state": "prepared", "closure": {}}, f"closure, closure: it lacks {WEB1}."),
        ({"runners": ["/x"], "state": "query"}, "closure, runners: '/x' is no path of a package in /nix/store."),
        ({"runners": [WEB1], "directory": "/x"}, "closure, public_keys: names no key"),
        ({"runners": [WEB1], "directory": "/x", "public_keys": ["k"]}, "closure, public_keys: 'k' is no public key."),
    ],
)
def test_bad_arguments(target: FakeNix, run: Run, arguments: dict[str, t.Any], said: str) -> None:
    done = run(microvm_closure, target, **arguments)
    assert done["failed"]
    assert said in done["msg"]


def test_an_export_of_what_is_not_there(builder: FakeNix, run: Run) -> None:
    done = run(microvm_closure_export, builder, runners=[store_path("none")])
    assert done["failed"]
    assert (done["subject"], done["field"]) == ("closure", "runners")
