# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one family of errors of the collection.

Private to the collection: it may change at any time.

An error says which object and which of its fields it is about, what was seen, and what to do.
The modules' ``main()`` turns it into ``fail_json`` in one place; nothing else catches it there.
"""

from __future__ import annotations

import contextlib
import typing as t


class FleetError(Exception):
    """Something that the operator has to know and can act upon.

    *subject* is the object in words (``guest web1``, ``network lan``), *field* the option it is about,
    *seen* what was found, *hint* what to do.  ``str()`` puts them into one sentence each.
    """

    def __init__(
        self,
        seen: str,
        *,
        subject: str | None = None,
        field: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.seen = seen
        self.subject = subject
        self.field = field
        self.hint = hint
        super().__init__(self.text())

    def text(self) -> str:
        """The message: ``SUBJECT, FIELD: SEEN. HINT``."""
        where = ", ".join(part for part in (self.subject, self.field) if part)
        body = f"{where}: {self.seen}" if where else self.seen
        if not self.hint:
            return body
        return f"{body} {self.hint}" if body.endswith((".", ":")) else f"{body}. {self.hint}"

    def as_dict(self) -> dict[str, t.Any]:
        """The parts for a module's result, so that a playbook can test them without parsing."""
        return {"msg": self.text(), "subject": self.subject, "field": self.field}


class InvalidWish(FleetError):
    """What the operator asked for cannot be; nothing was changed."""


class CommandError(FleetError):
    """A command of the host ended badly, was missing, or ran out of its time."""

    def __init__(
        self,
        seen: str,
        *,
        subject: str | None = None,
        field: str | None = None,
        hint: str | None = None,
        argv: t.Sequence[str] = (),
        rc: int | None = None,
        stdout: str = "",
        stderr: str = "",
    ) -> None:
        super().__init__(seen, subject=subject, field=field, hint=hint)
        self.argv = tuple(argv)
        self.rc = rc
        self.stdout = stdout
        self.stderr = stderr


class Busy(FleetError):
    """Another run holds a lock that this one needs."""


@contextlib.contextmanager
def explaining() -> t.Iterator[None]:
    """Turn what the kernel refuses into a FleetError, so that it ends as a message and not as a traceback."""
    try:
        yield
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise FleetError(
            f"{place}{error.strerror or error}.",
            subject="host",
            hint="Run as root on the host (become: true), and see to it.",
        ) from error
