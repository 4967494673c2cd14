# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an error says, as text and in parts."""

from __future__ import annotations

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._errors import (
    Busy,
    CommandError,
    FleetError,
    InvalidWish,
    explaining,
)


@pytest.mark.parametrize(
    ("seen", "parts", "text"),
    [
        ("it is broken.", {}, "it is broken."),
        ("it is broken", {}, "it is broken"),
        ("it is broken.", {"subject": "guest web1"}, "guest web1: it is broken."),
        ("it is broken.", {"field": "flake"}, "flake: it is broken."),
        ("it is broken.", {"subject": "guest web1", "field": "flake"}, "guest web1, flake: it is broken."),
        ("it is broken.", {"hint": "Mend it."}, "it is broken. Mend it."),
        ("it is broken", {"hint": "Mend it."}, "it is broken. Mend it."),
        ("it says:", {"hint": "no"}, "it says: no"),
        ("", {"subject": "guest web1", "hint": "Mend it."}, "guest web1: . Mend it."),
        (
            "is empty.",
            {"subject": "guest web1", "field": "name", "hint": "Give one."},
            "guest web1, name: is empty. Give one.",
        ),
    ],
)
@pytest.mark.parametrize("kind", [FleetError, InvalidWish, CommandError, Busy])
def test_text(kind: type[FleetError], seen: str, parts: dict[str, str], text: str) -> None:
    error = kind(seen, **parts)
    assert error.text() == text
    assert str(error) == text
    assert error.as_dict() == {"msg": text, "subject": parts.get("subject"), "field": parts.get("field")}


def test_a_command_error_keeps_what_was_said() -> None:
    error = CommandError("ended", argv=["nix", "eval"], rc=1, stdout="out", stderr="err")
    assert (error.argv, error.rc, error.stdout, error.stderr) == (("nix", "eval"), 1, "out", "err")


def test_a_command_error_of_a_program_that_never_ended_has_no_status() -> None:
    error = CommandError("ran out of time")
    assert (error.argv, error.rc, error.stdout, error.stderr) == ((), None, "", "")


@pytest.mark.parametrize("kind", [InvalidWish, CommandError, Busy])
def test_all_are_of_one_family(kind: type[FleetError]) -> None:
    with pytest.raises(FleetError, match=r"^it is broken$"):
        raise kind("it is broken")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "Permission denied", "/var/lib/x"), "host: /var/lib/x: Permission denied."),
        (OSError(28, "No space left on device"), "host: No space left on device."),
        (OSError("it is broken"), "host: it is broken."),
    ],
)
def test_what_the_kernel_refuses_is_explained(error: OSError, text: str) -> None:
    with pytest.raises(FleetError) as caught, explaining():
        raise error
    assert caught.value.text() == f"{text} Run as root on the host (become: true), and see to it."
    assert caught.value.__cause__ is error


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(InvalidWish, match=r"^it is broken$"), explaining():
        raise InvalidWish("it is broken")
