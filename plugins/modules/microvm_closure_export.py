#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Put closures of runners into a signed cache."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microvm_closure_export
short_description: Put closures of MicroVM runners into a signed cache, to be copied to other hosts
version_added: 0.1.0
description:
  - Puts everything that runners need into a directory that is a binary cache of Nix, and signs it. From there
    M(microvm.fleet.microvm_stream) takes to another host what that lacks, and M(microvm.fleet.microvm_closure) adds it
    to the store there. The role microvm.fleet.build does all of it.
  - What is in the cache is not packed again. What nobody has asked for since a day is removed from it.
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
      - Store paths of runners, or of anything else that is in the store of this host.
    type: list
    elements: str
    required: true
  sign_key:
    description:
      - File with the key to sign with, as C(nix-store --generate-binary-cache-key) makes it.
      - When not given, the one in C(/var/lib/microvm-fleet/build), or in C(microvm-fleet/build) of the XDG state
        directory of a user; it is made when it is missing.
    type: path
  timeout:
    description:
      - How long packing and signing may take, in seconds each.
    type: int
    default: 3600
  lock_timeout:
    description:
      - How long to wait for another run that fills the cache, in seconds.
    type: int
    default: 3600
notes:
  - Needs Nix 2.8 or later. As root the cache is in C(/var/cache/microvm-fleet/closures); any other user has it in
    C(microvm-fleet/closures) of the user's XDG cache directory.
  - In check mode it only says whether the runners are there.
seealso:
  - module: microvm.fleet.microvm_build
  - module: microvm.fleet.microvm_closure
  - module: microvm.fleet.microvm_stream
"""

EXAMPLES = r"""
- name: Pack what was built
  microvm.fleet.microvm_closure_export:
    runners: "{{ built.runners }}"
  register: exported
  delegate_to: builder
  run_once: true
"""

RETURN = r"""
directory:
  description: The cache.
  type: str
  returned: always
  sample: /var/cache/microvm-fleet/closures
public_key:
  description: The public key of its signatures.
  type: str
  returned: always
  sample: microvm-fleet-builder-1:x1U31M+B2TdiY01b/FRyMILJ9Mx7Dze+7+lC8X4rlko=
closure:
  description:
    - All paths of the closures, each with the names of those that it refers to (C(references)), what it takes in a
      store (C(nar_size), in bytes), and the C(file) of the cache that has it with its C(size) and C(sha256).
  type: dict
  returned: always
  sample:
    /nix/store/a83fx78zlqgmg7jvg0hnxnzyl38lx0sc-microvm-web1-tap-down:
      references: []
      nar_size: 208
      file: nar/1b706lw32ivh666v2csqflvx15k1cz3r3bb1gc4vk2kd367v6cnf.nar.zst
      size: 148
      sha256: 8eb1b0c1b9b1f4bcf0b2cbbf5f0dffd5f2d36dbf8e0d2d6b7c5ac8e3f4d2a1b0
"""

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._build_places import places
from ansible_collections.microvm.fleet.plugins.module_utils._closure_run import export
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule


def main() -> t.NoReturn:
    """Export the closures."""
    module = FleetModule(
        noun="closure",
        entries=None,
        argument_spec={
            "runners": {"type": "list", "elements": "str", "required": True},
            "sign_key": {"type": "path"},
            "timeout": {"type": "int", "default": 3600},
            "lock_timeout": {"type": "int", "default": 3600},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        result = export(
            params["runners"],
            places=places(),
            commands=Commands(),
            sign_key=params["sign_key"],
            timeout=params["timeout"],
            lock_timeout=params["lock_timeout"],
            check=module.check_mode,
        )
    except FleetError as error:
        module.fail(error)
    module.finish_one(result.values())


if __name__ == "__main__":
    main()
