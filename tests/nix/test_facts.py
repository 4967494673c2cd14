# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the engine asks a flake of its guests, answered by guests with the options of microvm.nix."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _nix
from ansible_collections.microvm.fleet.plugins.module_utils._contract import Interface, Volume, runner_of_dict
from ansible_collections.microvm.fleet.tests.nix.fleet import evaluate, lay, nix, string
from ansible_collections.microvm.fleet.tests.nix.test_guests import described

GUESTS = described(
    {
        "plain": {"vcpu": 2, "mem": 512},
        "full": {
            "hypervisor": "qemu",
            "interfaces": [{"type": "tap", "id": "vm-x", "mac": "02:00:00:00:00:0a"}],
            "volumes": [
                {"image": "data.img", "size": 64, "mount_point": "/data", "label": "odd"},
                {"image": "/dev/vg/x", "auto_create": False, "mount_point": "/x", "fs_type": "xfs", "read_only": True},
            ],
        },
    }
)


def asking(directory: Path, names: list[str]) -> str:
    """The expression for what the engine would be answered of `fleet`, which is not fetched again."""
    file = directory / "facts.nix"
    file.write_text(_nix.FACTS, encoding="utf-8")
    return (
        f"(builtins.scopedImport {{ builtins = builtins // {{ getFlake = _: fleet; }}; }} {file}"
        f' {{ flake = ""; names = {string(json.dumps(names))}; }}).answer'
    )


def ask(directory: Path, evaluator: Callable[[Path, str], Any] = evaluate) -> dict[str, Any]:
    """The answer of the engine's question about GUESTS and one that is not there."""
    place = lay(directory, guests=GUESTS)
    answer: dict[str, Any] = evaluator(place, asking(directory, [*GUESTS, "nobody"]))
    return answer


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return ask(tmp_path_factory.mktemp("facts"))


def check(answer: dict[str, Any]) -> None:
    """That the *answer* about GUESTS has everything that a record keeps."""
    assert answer["guests"]["nobody"] == {"missing": True}
    plain, full = (runner_of_dict(answer["guests"][name]) for name in ("plain", "full"))
    assert (plain.hypervisor, plain.host_name, plain.mem, plain.vcpu) == ("cloud-hypervisor", "plain", 512, 2)
    assert (full.hypervisor, full.mem, full.vcpu) == ("qemu", GUESTS["full"]["mem"], GUESTS["full"]["vcpu"])
    for runner in (plain, full):
        for path in (runner.path, runner.toplevel, runner.kernel, runner.initrd):
            assert path is not None
            assert path.startswith("/nix/store/")
        assert runner.kernel_params is not None
        assert "init=" not in runner.kernel_params
    assert (plain.kernel, plain.initrd) == (full.kernel, full.initrd)
    assert full.interfaces == (Interface("vm-x", "tap", "02:00:00:00:00:0a"),)
    assert full.volumes == (
        Volume("data.img", 64, "/data", "ext4", label="odd"),
        Volume("/dev/vg/x", None, "/x", "xfs", read_only=True, auto_create=False),
    )


def test_what_is_known_of_guests(answer: dict[str, Any]) -> None:
    check(answer)
    assert answer["guests"]["plain"]["toplevel"] != answer["guests"]["full"]["toplevel"]


def test_facts_are_what_a_runner_takes_back(answer: dict[str, Any]) -> None:
    for name in GUESTS:
        facts = answer["guests"][name]
        derivation = facts.pop("derivation")
        assert derivation.endswith(".drv")
        runner = runner_of_dict(facts)
        assert {**runner.as_dict(), "interfaces": facts["interfaces"]} == facts


def test_parts_that_a_release_lacks_are_not_known(tmp_path: Path) -> None:
    old = """
      fleet.nixosConfigurations.old.config.microvm = {
        declaredRunner = { outPath = "/nix/store/x"; drvPath = "/nix/store/x.drv"; };
        hypervisor = "qemu";
        kernel = throw "unset";
        kernelParams = [ "quiet" "init=/nix/store/top/init" "panic=-1" ];
        interfaces = [ ];
        volumes = [ { image = "a.img"; size = throw "unset"; mkfsExtraArgs = [ "-m" "0" ]; } ];
      };
    """
    least = nix(f"let {old} in {asking(tmp_path, ['old'])}")["guests"]["old"]
    runner = runner_of_dict(least)
    assert (runner.mem, runner.vcpu, runner.kernel, runner.initrd, runner.toplevel) == (None,) * 5
    assert runner.kernel_params == "quiet panic=-1"
    assert runner.volumes == (Volume("a.img", mkfs_extra_args=("-m", "0")),)
