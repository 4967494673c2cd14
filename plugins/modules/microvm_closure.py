#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Add closures of runners to the store of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microvm_closure
short_description: Add closures of MicroVM runners to the store of a host
version_added: 0.1.0
description:
  - Says which runners a host lacks, which files of a cache it needs for them, and adds them to its store.
  - Nothing is added without a signature by a key that is named. What is missing, damaged or not signed is found before
    the first path is added; then Nix verifies contents and signatures itself.
  - The role microvm.fleet.build uses it.
author:
  - microvm.fleet contributors (@microvm-fleet)
extends_documentation_fragment:
  - microvm.fleet.attributes
  - microvm.fleet.attributes.action_group
attributes:
  idempotent:
    support: full
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
      - This assumes that the system controlled or queried by the module has not changed in a relevant way.
  diff_mode:
    support: none
    description: Will return details on what has changed, or possibly needs changing in check mode, when in diff mode.
options:
  runners:
    description:
      - Store paths of runners.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(query) says which of O(runners) are not in the store.
      - V(prepared) also says which files of O(closure) are to come, and to where; it fails when there is no room for
        them, and removes what is left of an earlier attempt.
      - V(present) adds them from O(directory), and removes that.
    type: str
    choices: [query, prepared, present]
    default: present
  closure:
    description:
      - For V(prepared), what M(microvm.fleet.microvm_closure_export) has returned of the same name.
    type: dict
  directory:
    description:
      - For V(present), the cache, which is read by Nix as it is.
      - It is removed if V(prepared) has named it.
    type: path
  public_keys:
    description:
      - For V(present), the keys of which one has to have signed each path.
    type: list
    elements: str
    default: []
  timeout:
    description:
      - How long the verification and the copy may take, in seconds each.
    type: int
    default: 3600
notes:
  - Runs as root on the host, with Nix 2.8 or later.
  - Until a guest has a runner, it is rooted in C(/nix/var/nix/gcroots/microvm-fleet-copied). These roots go with the
    next copy after a day.
seealso:
  - module: microvm.fleet.microvm_closure_export
  - module: microvm.fleet.microvm_build
"""

EXAMPLES = r"""
- name: See what is to come
  microvm.fleet.microvm_closure:
    runners: "{{ built.runners }}"
    closure: "{{ exported.closure }}"
    state: prepared
  register: prepared

- name: Copy it
  microvm.fleet.microvm_stream:
    src: {host: builder, path: "{{ exported.directory }}"}
    dest: {path: "{{ prepared.directory }}"}
    files: "{{ prepared.files }}"
    whole: true
  when: prepared.directory is not none

- name: Add it to the store
  microvm.fleet.microvm_closure:
    runners: "{{ built.runners }}"
    directory: "{{ prepared.directory }}"
    public_keys: ["{{ exported.public_key }}"]
  when: prepared.directory is not none
"""

RETURN = r"""
missing:
  description: Those of O(runners) that were not in the store.
  type: list
  elements: str
  returned: always
  sample: [/nix/store/0c4mzlvsb9lvkmnmzn8sbpxzfdmlkxqp-microvm-cloud-hypervisor-web1]
directory:
  description: Where the files are to go, for O(state=prepared); V(null) when there is nothing to come.
  type: str
  returned: always
  sample: /var/lib/microvm-fleet/incoming/3b2c9a1f5d7e4a6b8c0d1e2f3a4b5c6d
files:
  description: Which files these are, as O(microvm.fleet.microvm_stream#module:files) takes them.
  type: list
  elements: dict
  returned: always
  sample: [{name: nix-cache-info}, {name: a83fx78zlqgmg7jvg0hnxnzyl38lx0sc.narinfo}]
"""

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._closure_run import Closure, add, prepare, query
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths


def main() -> t.NoReturn:
    """Find, prepare or add the closures."""
    module = FleetModule(
        noun="closure",
        entries=None,
        argument_spec={
            "runners": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["query", "prepared", "present"], "default": "present"},
            "closure": {"type": "dict"},
            "directory": {"type": "path"},
            "public_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "timeout": {"type": "int", "default": 3600},
        },
        required_if=[("state", "prepared", ["closure"]), ("state", "present", ["directory"])],
        supports_check_mode=True,
    )
    params = module.params
    paths, commands = Paths(), Commands()
    try:
        result: Closure
        if params["state"] == "query":
            result = query(params["runners"], commands=commands)
        elif params["state"] == "prepared":
            result = prepare(
                params["runners"], params["closure"], paths=paths, commands=commands, check=module.check_mode
            )
        else:
            result = add(
                params["runners"],
                params["directory"],
                public_keys=params["public_keys"],
                paths=paths,
                commands=commands,
                timeout=params["timeout"],
                check=module.check_mode,
            )
    except FleetError as error:
        module.fail(error)
    module.finish_one(result.values())


if __name__ == "__main__":
    main()
