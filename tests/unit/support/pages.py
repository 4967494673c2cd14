# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the pages in docs/profiles say: tables, as the entry of a profile has them, and an inventory."""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import replace

import yaml

from ansible_collections.microvm.fleet.plugins.module_utils._describe import (
    Description,
    Surroundings,
    addresses_by_name,
    describe_all,
)
from ansible_collections.microvm.fleet.plugins.module_utils._net_wish import parse
from ansible_collections.microvm.fleet.plugins.module_utils._profile_frame import Option, Profile

OPTION_HEAD = ["| option | type | default | description |", "| --- | --- | --- | --- |"]
NEEDS_HEAD = ["| | least | default |", "| --- | --- | --- |"]
CREDENTIAL_HEAD = ["| credential | | what |", "| --- | --- | --- |"]
PORT_HEAD = ["| port | for |", "| --- | --- |"]
VOLUME_HEAD = ["| image | mount point | MiB | filesystem |", "| --- | --- | --- | --- |"]


def kind(option: Option) -> str:
    """The type of an option in words."""
    choices = ", ".join(f"`{choice}`" for choice in option.choices)
    words = {
        "bool": "boolean",
        "int": f"{option.least} to {option.most}",
        "str": f"one of {choices}" if choices else "string",
        "list": f"list of {choices}" if choices else "list of strings",
        "dict": "mapping of strings",
        "subnet": "network",
        "address": "guest or address",
        "own_address": "address of the guest",
    }
    return words[option.kind]


def default(option: Option) -> str:
    """The default of an option in words."""
    if option.kind == "own_address":
        return "the first"
    if option.required:
        return "required"
    if option.default is None:
        return "none"
    return f"`{option.default if isinstance(option.default, str) else json.dumps(option.default)}`"


def option_rows(profile: Profile) -> list[str]:
    """Every option of a profile, in its order."""
    return OPTION_HEAD + [
        f"| `{name}` | {kind(option)} | {default(option)} | {option.description} |"
        for name, option in profile.options.items()
    ]


def needs_rows(profile: Profile) -> list[str]:
    """Memory, processors and time to stop."""
    stop = f"{profile.stop_timeout}"
    if profile.stop_option is not None:
        stop += f" + `{profile.stop_option}`"
    return [
        *NEEDS_HEAD,
        f"| `mem` (MiB) | {profile.least_mem} | {profile.mem} |",
        f"| `vcpu` | 1 | {profile.vcpu} |",
        f"| `stop_timeout` (seconds) | 1 | {stop} |",
    ]


def credential_rows(profile: Profile) -> list[str]:
    """The files that a profile reads."""
    if not profile.credentials:
        return []
    return CREDENTIAL_HEAD + [
        f"| `{one.name}` | {'required' if one.required else 'optional'} | {one.description} |"
        for one in profile.credentials
    ]


def port_rows(profile: Profile) -> list[str]:
    """The ports that a profile opens."""
    if not profile.ports:
        return []
    return PORT_HEAD + [
        f"| {port.proto} {f'`{port.ports}`' if port.ports in profile.options else port.ports} | {port.use} |"
        for port in profile.ports
    ]


def volume_rows(profile: Profile) -> list[str]:
    """The volumes that a profile adds."""
    if not profile.volumes:
        return []
    return VOLUME_HEAD + [
        f"| `{one.image}` | `{one.mount_point}` | {one.size} | {one.fs_type} |" for one in profile.volumes
    ]


def tables(text: str) -> list[list[str]]:
    """The tables of a page, each the list of its lines."""
    found: list[list[str]] = []
    before = ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            found[-1].append(line)
        before = line
    return found


def example_of(text: str) -> dict[str, dict[str, Description]]:
    """The guests of a page's inventory, by host, described as the roles do it: with all hosts in view."""
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    hosts: dict[str, t.Any] = yaml.safe_load(example)["microvm_hosts"]["hosts"]
    around = {
        host: Surroundings(networks={one["name"]: parse(one) for one in variables["microvm_networks"]})
        for host, variables in hosts.items()
    }
    peers: dict[str, t.Sequence[str]] = {}
    for host, variables in hosts.items():
        peers.update(addresses_by_name(variables["microvm_guests"], around[host]))
    found: dict[str, dict[str, Description]] = {}
    for host, variables in hosts.items():
        entries = variables["microvm_guests"]
        found[host] = {}
        for place, one in describe_all(entries, replace(around[host], peers=peers)).items():
            assert isinstance(one, Description), one
            found[host][entries[place]["name"]] = one
    return found
