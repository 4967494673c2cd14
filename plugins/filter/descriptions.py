# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests' wishes checked on the controller, before anything is sent to a host."""

from __future__ import annotations

import functools
import typing as t
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ansible.errors import AnsibleFilterError

from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.plugin_utils._values import plain, sequence

if t.TYPE_CHECKING:  # pragma: no cover
    from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import GuestWish

# For any filter of a collection Ansible reads all of its files of filters, in every process of a task: what only one of
# them needs is imported where it is used.


def descriptions(guests: t.Any, networks: t.Any = None, peers: t.Any = None) -> dict[str, dict[str, t.Any]]:
    """What each guest comes to that *guests*, entries of ``microvm_guests``, describe, by name.

    *networks* are entries of ``microvm_networks``; without any, nothing is said about what follows from them.  *peers*
    are addresses of guests on other hosts, by name.  Raises AnsibleFilterError with all that is wrong, one line each.
    """
    try:
        wishes = _wishes(_entries(guests), networks, peers)
    except FleetError as error:
        raise AnsibleFilterError(error.text()) from error
    return {wish.name: dict(wish.description) for wish in wishes if wish.description is not None}


def description_faults(guests: t.Any, networks: t.Any = None, peers: t.Any = None, search: t.Any = None) -> list[str]:
    """What is wrong with *guests*, a line each; otherwise as `descriptions`.

    With *search*, directories of the controller, modules and credentials are looked for there.
    """
    try:
        entries = _entries(guests)
        _wishes(entries, networks, peers)
        found = [str(one) for one in sequence(search, "search")]
    except FleetError as error:
        return error.text().split("\n")
    except AnsibleFilterError as error:
        return str(error.message).split("\n")
    return list(_missing(entries, found)) if found else []


def _wishes(entries: Sequence[Mapping[str, t.Any]], networks: t.Any, peers: t.Any) -> Sequence[GuestWish]:
    from ansible_collections.microvm.fleet.plugins.module_utils._describe import Surroundings  # noqa: PLC0415
    from ansible_collections.microvm.fleet.plugins.module_utils._descriptions import (  # noqa: PLC0415
        networks_of,
        peers_of,
    )
    from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import read_wishes  # noqa: PLC0415

    known = networks_of(plain(sequence(networks, "networks"))) if networks else None
    around = Surroundings(networks=known, peers=peers_of(plain(peers or {})))
    return read_wishes(entries, surroundings=lambda: around)


def guest_peers(hostvars: t.Any, hosts: t.Any, besides: str | None = None) -> dict[str, list[str]]:
    """The addresses of all guests of *hosts* but *besides*, by the guest's name; *hostvars* is Ansible's variable.

    What is wrong with the guests of another host is told when that host is worked on, and not here.
    """
    from ansible_collections.microvm.fleet.plugins.module_utils._describe import (  # noqa: PLC0415
        Surroundings,
        addresses_by_name,
    )
    from ansible_collections.microvm.fleet.plugins.module_utils._descriptions import networks_of  # noqa: PLC0415

    found: dict[str, list[str]] = {}
    for host in sequence(hosts, "hosts"):
        variables = hostvars[host] if host != besides else {}
        guests = variables.get("microvm_guests")
        if not guests:
            continue
        try:
            networks = variables.get("microvm_networks")
            known = networks_of(plain(sequence(networks, "networks"))) if networks else {}
            answer = addresses_by_name(_entries(guests), Surroundings(networks=known))
        except (FleetError, AnsibleFilterError):
            continue
        found.update({name: list(addresses) for name, addresses in answer.items()})
    return found


def _missing(entries: Sequence[Mapping[str, t.Any]], search: Sequence[str]) -> t.Iterator[str]:
    """What is wrong with the files that *entries* name below *search*."""
    from ansible_collections.microvm.fleet.plugins.action.microvm_flake import (  # noqa: PLC0415
        credentials,
        module_files,
    )
    from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import is_described  # noqa: PLC0415

    for entry in filter(is_described, entries):
        looks: list[Callable[[], object]] = [
            functools.partial(module_files, str(path), search, _read) for path in entry.get("modules") or ()
        ]
        looks += [
            functools.partial(credentials, {name: source}, search, _read)
            for name, source in (entry.get("credentials") or {}).items()
        ]
        for look in looks:
            try:
                look()
            except InvalidWish as error:
                yield InvalidWish(
                    error.seen, subject=f"guest {entry['name']}", field=error.field, hint=error.hint
                ).text()


def _read(path: str) -> bytes:
    """The file *path* of the controller as it is, encrypted or not."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}."
        raise InvalidWish(message, hint="See that you may read it.") from error


def _entries(guests: t.Any) -> list[Mapping[str, t.Any]]:
    """Entries as a module has them: of the types of its argument spec, with what is not given as None."""
    from ansible.module_utils.common.arg_spec import ArgumentSpecValidator  # noqa: PLC0415

    from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import guest_spec  # noqa: PLC0415

    spec = guest_spec()
    wrong = []
    entries = []
    for number, guest in enumerate(plain(sequence(guests, "guests")), 1):
        if not isinstance(guest, Mapping):
            wrong.append(f"guest number {number} of the list: {guest!r} is no dictionary of options.")
            continue
        name = guest.get("name") or f"number {number} of the list"
        answer = ArgumentSpecValidator(spec).validate({key: guest[key] for key in guest if guest[key] is not None})
        wrong += [f"guest {name}: {message}" for message in answer.error_messages]
        entries.append(answer.validated_parameters)
    if wrong:
        raise AnsibleFilterError("\n".join(wrong))
    return entries


class FilterModule:
    """The filters of this file, as Ansible finds them."""

    def filters(self) -> dict[str, Callable[..., t.Any]]:
        """By name."""
        return {
            "description_faults": description_faults,
            "descriptions": descriptions,
            "guest_peers": guest_peers,
        }
