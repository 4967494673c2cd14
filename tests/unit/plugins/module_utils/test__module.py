# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the modules share: arguments whose errors name the object, and results."""

from __future__ import annotations

import contextlib
import json
import typing as t

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule

SPEC: dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "size": {"type": "int"},
    "inner": {"type": "dict", "options": {"a": {"type": "bool"}}},
}
Ended = t.Callable[[], dict[str, t.Any]]


@pytest.fixture
def ended(capsys: pytest.CaptureFixture[str]) -> Ended:
    def read() -> dict[str, t.Any]:
        answer: dict[str, t.Any] = json.loads(capsys.readouterr().out)
        return answer

    return read


Make = t.Callable[..., FleetModule]


@pytest.fixture
def make() -> t.Iterator[Make]:
    """Make a module with arguments, which stay in force for the test."""
    with contextlib.ExitStack() as stack:

        def made(arguments: dict[str, t.Any], *, entries: str | None = None) -> FleetModule:
            spec = SPEC if entries is None else {entries: {"type": "list", "elements": "dict", "options": SPEC}}
            stack.enter_context(patch_module_args(arguments))
            return FleetModule(noun="thing", entries=entries, argument_spec=spec, supports_check_mode=True)

        yield made


@pytest.mark.parametrize(
    ("entries", "arguments", "lines"),
    [
        (None, {}, ["thing without a name: missing required arguments: name"]),
        (None, {"name": "x", "size": "big"}, ["thing x: argument 'size' is of type"]),
        (None, {"name": "x", "depth": 1}, ["thing x: depth. Supported parameters include: inner, name, size."]),
        (None, {"name": "x", "inner": {"b": 1}}, ["thing x: inner.b. Supported parameters include: a."]),
        ("things", {"things": [{"name": "x"}, {}]}, ["thing number 2 of the list: missing required arguments: name"]),
        (
            "things",
            {"things": [{"name": "x", "depth": 1}, {"name": "y", "size": "big"}]},
            ["thing x: depth. Supported parameters include: inner, name, size.", "thing y: argument 'size' is of type"],
        ),
        ("things", {"things": [[]]}, ["thing number 1 of the list: [] is no dictionary of options."]),
        ("things", {"things": [], "depth": 1}, ["Unsupported parameters for "]),
    ],
)
def test_complaints(
    make: Make, ended: Ended, entries: str | None, arguments: dict[str, t.Any], lines: list[str]
) -> None:
    with pytest.raises(SystemExit):
        make(arguments, entries=entries)
    answer = ended()
    assert answer["failed"]
    said = answer["msg"].splitlines()
    assert len(said) == len(lines)
    assert [line.startswith(start) for line, start in zip(said, lines, strict=True)] == [True] * len(lines)


def test_words_are_taken_for_a_dictionary(make: Make) -> None:
    assert make({"things": ["name=x size=7"]}, entries="things").params["things"][0]["size"] == 7


def test_a_failure_after_the_start_is_said_as_it_is(make: Make, ended: Ended) -> None:
    module = make({"name": "x"})
    with pytest.raises(SystemExit):
        module.fail(FleetError("is broken.", subject="thing x", field="size", hint="Mend it."), changed=False)
    answer = ended()
    assert answer["msg"] == "thing x, size: is broken. Mend it."
    assert (answer["subject"], answer["field"], answer["changed"]) == ("thing x", "size", False)


@pytest.mark.parametrize("diff", [True, False])
@pytest.mark.parametrize("failures", [[], ["thing x: is broken."], ["a", "b"]])
def test_finish(make: Make, ended: Ended, diff: bool, failures: list[str]) -> None:
    module = make({"name": "x", "_ansible_diff": diff})
    values = {"changed": True, "results": [1, 2, 3], "diff": {"before": {}, "after": {}}}
    with pytest.raises(SystemExit):
        module.finish(values, noun="things", failures=failures)
    answer = ended()
    assert answer["changed"]
    assert ("diff" in answer) is diff
    assert answer.get("failed", False) is bool(failures)
    if failures:
        assert answer["msg"] == "\n".join([f"{len(failures)} of 3 things failed.", *failures])


@pytest.mark.parametrize("failures", [[], ["thing x: is broken."]])
def test_finish_one(make: Make, ended: Ended, failures: list[str]) -> None:
    with pytest.raises(SystemExit):
        make({"name": "x"}).finish_one({"changed": False}, failures=failures)
    answer = ended()
    assert answer.get("msg") == (failures[0] if failures else None)
