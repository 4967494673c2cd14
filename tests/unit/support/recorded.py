# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tools of a real host printed, and a stand-in for the host that says it again.

The fixtures are made by ``tests/unit/fixtures/record.py``.
"""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

from ansible_collections.microvm.fleet.plugins.module_utils import _nix
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands, Completed, last_lines, short
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError

FIXTURES = Path(__file__).parents[1] / "fixtures"
NIX = ("2.8.0", "2.26.3")
SYSTEMD = ("252", "257")


def calls(tool: str, version: str, scene: str) -> list[dict[str, t.Any]]:
    """The calls of one scene: argv, rc, stdout, stderr of each."""
    answer: list[dict[str, t.Any]] = json.loads((FIXTURES / tool / version / f"{scene}.json").read_text("utf-8"))
    return answer


def runner(name: str) -> dict[str, t.Any]:
    """A runner as it was in the store: its path, the text of its files, its links."""
    answer: dict[str, t.Any] = json.loads((FIXTURES / "runners" / f"{name}.json").read_text("utf-8"))
    return answer


class Answers(Commands):
    """Commands of a host that is not there.  `answer` says what each call gives; *calls* has the calls so far."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, ...]] = []

    def answer(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        """Status, output and complaints of *argv*."""
        raise NotImplementedError

    def run(
        self,
        argv: t.Sequence[str],
        *,
        timeout: float | None = None,  # noqa: ARG002
        check: bool = True,
        stdin: str | None = None,  # noqa: ARG002
        env: t.Mapping[str, str] | None = None,  # noqa: ARG002
        subject: str | None = None,
        hint: str | None = None,
    ) -> Completed:
        """Give the answer, and raise as the real one would."""
        self.calls.append(tuple(argv))
        rc, stdout, stderr = self.answer(tuple(argv))
        if check and rc != 0:
            raise CommandError(
                f"{short(argv)} ended with {rc}: {last_lines(stderr or stdout, 20)}",
                subject=subject,
                hint=hint,
                argv=argv,
                rc=rc,
                stdout=stdout,
                stderr=stderr,
            )
        return Completed(tuple(argv), rc, stdout, stderr)

    def count(self, *words: str) -> int:
        """How many calls had all of *words*."""
        return sum(all(word in argv for word in words) for argv in self.calls)


class Replay(Answers):
    """Says what was recorded, in the order in which it was recorded, to the same commands only."""

    def __init__(self, tool: str, version: str, scene: str) -> None:
        super().__init__()
        self.recorded = calls(tool, version, scene)

    def answer(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        call = self.recorded[len(self.calls) - 1]
        assert ["FACTS" if word == _nix.FACTS else word for word in argv] == call["argv"]
        return call["rc"], call["stdout"], call["stderr"]

    @property
    def ended(self) -> bool:
        """Whether every recorded call was made again."""
        return len(self.calls) == len(self.recorded)


class Scripted(Answers):
    """Says what a test gives it: by the first words of the command; a list is used up from its beginning."""

    def __init__(self, **answers: t.Any) -> None:
        super().__init__()
        self.answers = answers

    def answer(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        key = "_".join(word.strip("-") for word in argv if not word.startswith("/")).replace("-", "_")
        found = max((name for name in self.answers if key.startswith(name)), key=len, default=None)
        assert found is not None, f"nothing is said about {argv}"
        given = self.answers[found]
        if isinstance(given, list):
            given = given.pop(0)
        if isinstance(given, CommandError):
            raise given
        answer: tuple[int, str, str] = (0, given, "") if isinstance(given, str) else given
        return answer
