# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the modules share: arguments whose errors name the object, and results.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError


class FleetModule(AnsibleModule):  # type: ignore[misc, unused-ignore]
    """An AnsibleModule whose complaints about its arguments name the object: the guest or the network.

    *noun* is that object's kind; *entries* the option that lists them, or None for a module about one.
    """

    params: t.Any

    def __init__(self, *, noun: str, entries: str | None, **options: t.Any) -> None:
        self._noun = noun
        self._entries = entries
        self._starting = True
        super().__init__(**options)
        self._starting = False

    def fail_json(self, msg: str, **kwargs: t.Any) -> t.NoReturn:
        """End the module with *msg*; while the arguments are read, with what is wrong with each object."""
        if self._starting:
            msg = "\n".join(self._complaints()) or msg
        super().fail_json(msg, **kwargs)
        raise AssertionError("fail_json came back")

    def _complaints(self) -> t.Iterator[str]:
        # As they were given: while they are checked, what is missing is filled in.
        checked = self.params
        self._load_params()
        given, self.params = self.params if isinstance(self.params, dict) else {}, checked
        if self._entries is None:
            yield from self._of_one(self.argument_spec, given, str(given.get("name", "without a name")))
            return
        entries = given.get(self._entries)
        spec = self.argument_spec[self._entries]["options"]
        for number, entry in enumerate(entries if isinstance(entries, list) else (), 1):
            if isinstance(entry, dict):
                yield from self._of_one(spec, entry, str(entry.get("name") or f"number {number} of the list"))
            elif not (isinstance(entry, str) and ("=" in entry or entry.startswith("{"))):
                # Words such as "name=web1" are taken for a dictionary, as everywhere in Ansible.
                yield f"{self._noun} number {number} of the list: {entry!r} is no dictionary of options."

    def _of_one(self, spec: dict[str, t.Any], entry: dict[str, t.Any], name: str) -> t.Iterator[str]:
        # What was not given is None by now, where it has no default.
        kept = {key: value for key, value in entry.items() if value is not None and not str(key).startswith("_ansible")}
        for message in ArgumentSpecValidator(spec).validate(kept).error_messages:
            yield f"{self._noun} {name}: {message}"

    @property
    def wants_diff(self) -> bool:
        """Whether the task asks for what differs."""
        return bool(self._diff)

    def fail(self, error: FleetError, **result: t.Any) -> t.NoReturn:
        """End the module with *error*."""
        self.fail_json(**{**result, **error.as_dict()})

    def finish(self, values: dict[str, t.Any], *, noun: str, failures: t.Sequence[str] = ()) -> t.NoReturn:
        """End the module with *values*; with *failures* as failed, after all the rest was done."""
        if failures:
            count = f"{len(failures)} of {len(values['results'])} {noun} failed."
            failures = ("\n".join((count, *failures)),)
        self.finish_one(values, failures=failures)

    def finish_one(self, values: dict[str, t.Any], *, failures: t.Sequence[str] = ()) -> t.NoReturn:
        """End the module with *values*; with a failure as failed."""
        if not self._diff:
            values.pop("diff", None)
        if failures:
            self.fail_json(msg=failures[0], **values)
        self.exit_json(**values)
        raise AssertionError("exit_json came back")
