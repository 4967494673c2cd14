# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the module says of itself, and what it makes of its arguments."""

from __future__ import annotations

import base64
import json
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

from ansible_collections.microvm.fleet.plugins.module_utils._flake_run import FlakePaths
from ansible_collections.microvm.fleet.plugins.module_utils._flake_wish import flake_spec, pack
from ansible_collections.microvm.fleet.plugins.modules import microvm_flake
from ansible_collections.microvm.fleet.tests.unit.support.recorded import Answers

FILES = pack({"flake.nix": base64.b64encode(b"{ }").decode()})


class NoNix(Answers):
    def find(self, name: str) -> str | None:  # noqa: ARG002
        return None

    def answer(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        return 127, "", f"{argv[0]}: not found"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> t.Any:
    monkeypatch.setattr(microvm_flake, "FlakePaths", lambda: FlakePaths(root=str(tmp_path)))
    monkeypatch.setattr(microvm_flake, "Commands", NoNix)

    def run(*, check: bool = False, diff: bool = False, **options: t.Any) -> dict[str, t.Any]:
        given = {**options, "_ansible_check_mode": check, "_ansible_diff": diff}
        with patch_module_args(given), pytest.raises(SystemExit):
            microvm_flake.main()
        answer: dict[str, t.Any] = json.loads(capsys.readouterr().out)
        return answer

    return run


def test_every_option_is_documented() -> None:
    documented = yaml.safe_load(microvm_flake.DOCUMENTATION)["options"]
    spec = flake_spec()
    assert set(documented) == set(spec)
    for name, option in spec.items():
        assert documented[name]["type"] == option["type"]
        assert documented[name].get("default") == option.get("default")
        assert documented[name].get("choices") == option.get("choices")


def test_the_role_has_the_defaults_of_the_module() -> None:
    place = Path(__file__).resolve().parents[4] / "roles" / "flake" / "defaults" / "main.yml"
    role = yaml.safe_load(place.read_text(encoding="utf-8"))
    spec = flake_spec()
    for name in ("base", "nixpkgs", "microvm", "configuration", "update", "timeout", "lock_timeout"):
        assert role[f"microvm_flake_{name}"] == spec[name]["default"]


def test_check_mode_tells_what_a_run_would_do(call: t.Any, tmp_path: Path) -> None:
    answer = call(check=True, diff=True, files=FILES)
    assert answer["changed"]
    assert answer["actions"][0] == "flake: install 1 of 1 static files"
    assert answer["diff"]["after"]["inputs"]["microvm"] == "to be locked, because it is not locked yet"
    assert "diff" not in call(check=True, files=FILES)
    assert not (tmp_path / "etc").exists()


def test_a_run_without_nix_fails_with_words(call: t.Any) -> None:
    answer = call(files=FILES)
    assert answer["failed"]
    assert "not found" in answer["msg"]


def test_without_the_action_plugin_nothing_happens(call: t.Any) -> None:
    answer = call()
    assert answer["failed"]
    assert answer["msg"] == "flake: the files did not arrive. Call microvm.fleet.microvm_flake by its full name."


def test_what_is_packed_is_not_shown(call: t.Any) -> None:
    secret = pack({"k1": {"a": {"content": "dG9r"}}})
    answer = call(check=True, files=FILES, secrets=secret)
    assert secret not in json.dumps(answer)
    assert flake_spec()["secrets"]["no_log"] is True


def test_to_take_away_what_is_not_there_changes_nothing(call: t.Any) -> None:
    answer = call(state="absent")
    assert answer["changed"] is False
    assert answer["actions"] == []


def test_it_is_not_taken_from_guests(call: t.Any, tmp_path: Path) -> None:
    place = tmp_path / "etc" / "microvm-fleet"
    place.mkdir(parents=True)
    (place / "guests.json").write_text('{"guests": {"k1": {}}}', encoding="utf-8")
    answer = call(state="absent")
    assert answer["failed"]
    assert answer["subject"] == "flake"
    assert call(state="absent", force=True)["changed"]
