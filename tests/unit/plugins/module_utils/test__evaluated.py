# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What one host has evaluated for others: sent, read again, and refused when nobody would have sent it."""

from __future__ import annotations

import json
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _evaluated
from ansible_collections.microvm.fleet.plugins.module_utils._contract import Interface, Runner, Volume
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._evaluated import Elsewhere, Found

PATH = "/nix/store/0c4mzlvsb9lvkmnmzn8sbpxzfdmlkxqp-microvm-qemu-web1"
RUNNER = Runner(
    PATH,
    hypervisor="qemu",
    mem=512,
    interfaces=(Interface("vm-web1", "tap", "02:00:00:00:00:01"),),
    volumes=(Volume("a.img", 16, label="a", mkfs_extra_args=("-m", "0")),),
)
HINT = " Give what microvm.fleet.microvm_build has returned."


def sent(flake: Elsewhere) -> t.Any:
    """As Ansible passes it on."""
    return json.loads(json.dumps({"git+https://x": flake.as_dict()}))


@pytest.mark.parametrize("derivation", [None, f"{PATH}.drv"])
def test_what_is_sent_is_read(derivation: str | None) -> None:
    flake = Elsewhere("1234", {"web1": Found(RUNNER, derivation)})
    assert _evaluated.read(sent(flake)) == {"git+https://x": flake}


def test_errors_are_sent_too() -> None:
    flake = Elsewhere("1234", {"web1": FleetError("it throws.", subject="guest web1", field="flake", hint="Mend it.")})
    error = _evaluated.read(sent(flake))["git+https://x"].guests["web1"]
    assert isinstance(error, FleetError)
    assert error.text() == "flake: it throws. Mend it."


def test_an_error_without_a_field_is_about_the_flake() -> None:
    read = _evaluated.read({"x": {"identity": "1", "guests": {"web1": {"error": "it throws."}}}})
    error = read["x"].guests["web1"]
    assert isinstance(error, FleetError)
    assert (error.field, error.hint) == ("flake", None)


@pytest.mark.parametrize("value", [None, {}])
def test_nothing(value: t.Any) -> None:
    assert _evaluated.read(value) == {}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("text", "evaluated.x: 'text' is no dictionary."),
        ({"guests": {}}, "evaluated.x.identity: None is no text."),
        ({"identity": "", "guests": {}}, "evaluated.x.identity: '' is no text."),
        ({"identity": "1"}, "evaluated.x.guests: None is no dictionary."),
        ({"identity": "1", "guests": []}, "evaluated.x.guests: [] is no dictionary."),
        ({"identity": "1", "guests": {"a": "b"}}, "evaluated.x.guests.a: 'b' is no dictionary."),
        (
            {"identity": "1", "guests": {"a": {"path": "/etc"}}},
            "evaluated.x.guests.a.path: '/etc' is no path of a package in /nix/store.",
        ),
        (
            {"identity": "1", "guests": {"a": {}}},
            "evaluated.x.guests.a.path: None is no path of a package in /nix/store.",
        ),
        (
            {"identity": "1", "guests": {"a": {"path": PATH, "derivation": PATH}}},
            f"evaluated.x.guests.a.derivation: '{PATH}' is no derivation.",
        ),
        (
            {"identity": "1", "guests": {"a": {"path": PATH, "derivation": 7}}},
            "evaluated.x.guests.a.derivation: 7 is no derivation.",
        ),
        (
            {"identity": "1", "guests": {"a": {"path": PATH, "volumes": [{}]}}},
            "evaluated.x.guests.a: its facts are not those of a runner (KeyError: 'image').",
        ),
        (
            {"identity": "1", "guests": {"a": {"path": PATH, "interfaces": 1}}},
            "evaluated.x.guests.a: its facts are not those of a runner (TypeError: 'int' object is not iterable).",
        ),
    ],
)
def test_what_nobody_sends(entry: t.Any, said: str) -> None:
    with pytest.raises(InvalidWish) as caught:
        _evaluated.read({"x": entry})
    assert caught.value.text() == said + HINT
