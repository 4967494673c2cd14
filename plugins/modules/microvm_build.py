#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Evaluate and build guests of a fleet in one place."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microvm_build
short_description: Evaluate and build MicroVM guests for other hosts
version_added: 0.1.0
description:
  - Evaluates every flake once for all of its guests, whatever hosts they are on, and builds their runners.
  - What it returns as RV(evaluated) tells M(microvm.fleet.microvm_guests) on those hosts all that they would have found
    out themselves. M(microvm.fleet.microvm_closure_export) and M(microvm.fleet.microvm_closure) take the runners
    there; the role microvm.fleet.build does all of it.
  - Runners are kept from the garbage collector until the same guest of the same flake is built anew.
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
  sources:
    description:
      - Flakes, and which of their guests are to be built.
    type: list
    elements: dict
    default: []
    suboptions:
      flake:
        description:
          - Flake whose C(nixosConfigurations) has the guests, as an absolute path or a reference with a scheme. A path
            is one of this host.
        type: str
        required: true
      guests:
        description:
          - Names of guests.
        type: list
        elements: str
        required: true
      recorded:
        description:
          - Of guests, the C(locked) with which all of their hosts have them, one or a list. A guest is not evaluated
            again when the flake is still that one.
        type: dict
        default: {}
  described:
    description:
      - Guests that the inventory describes. They are made of the static flake of this host in C(/etc/microvm-fleet),
        which the role microvm.fleet.flake puts there, and serve hosts whose static flake has the same files.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - Name of the guest.
        type: str
        required: true
      entry:
        description:
          - What the filter P(microvm.fleet.descriptions#filter) makes of its description.
        type: dict
        required: true
      recorded:
        description:
          - The C(locked) with which its host has it.
        type: str
  build:
    description:
      - Whether to build what was evaluated. With V(false) nothing is written to the store.
    type: bool
    default: true
  eval_timeout:
    description:
      - How long the evaluation of a flake may take, in seconds.
    type: int
    default: 600
  build_timeout:
    description:
      - How long the build of all runners together may take, in seconds.
    type: int
    default: 3600
  lock_timeout:
    description:
      - How long to wait for another run that evaluates the static flake, in seconds.
    type: int
    default: 60
  min_free:
    description:
      - How much is to be free in C(/nix/store) before something is built, in MiB.
    type: int
    default: 512
notes:
  - Needs Nix 2.8 or later. As root it keeps roots in C(/nix/var/nix/gcroots/microvm-fleet-build); any other user whom
    Nix lets build has them in C(microvm-fleet/build) of the user's XDG state directory.
  - What is wrong with one guest ends the work on that guest only, and is told in RV(evaluated) too. The module fails at
    the end.
seealso:
  - module: microvm.fleet.microvm_closure_export
  - module: microvm.fleet.microvm_closure
  - module: microvm.fleet.microvm_guests
"""

EXAMPLES = r"""
- name: Build guests of two flakes
  microvm.fleet.microvm_build:
    sources:
      - flake: git+https://git.example.org/infra
        guests: [web1, web2, db1]
      - flake: git+https://git.example.org/ci
        guests: [runner1]
  register: built
  delegate_to: builder
  run_once: true

- name: Stage them where they run, which asks no flake
  microvm.fleet.microvm_guests:
    guests: "{{ microvm_guests }}"
    update: stage
    evaluated: "{{ built.evaluated }}"
"""

RETURN = r"""
evaluated:
  description:
    - Flakes by their references, each with its C(identity) and its C(guests) by name; of these the facts of their
      runners, or the C(error).
    - Guests that are described go by the identities of their descriptions.
  type: dict
  returned: always
  sample:
    git+https://git.example.org/infra:
      identity: 0123456789abcdef0123456789abcdef01234567
      guests:
        web1:
          path: /nix/store/0c4mzlvsb9lvkmnmzn8sbpxzfdmlkxqp-microvm-cloud-hypervisor-web1
          derivation: /nix/store/f5cxdq6plkbgq5midvxhwg8385spvw93-microvm-cloud-hypervisor-web1.drv
          hypervisor: cloud-hypervisor
          mem: 512
        db1: {error: "it throws.", field: flake, hint: null}
runners:
  description: Paths of all runners that are there, or would be.
  type: list
  elements: str
  returned: always
  sample: [/nix/store/0c4mzlvsb9lvkmnmzn8sbpxzfdmlkxqp-microvm-cloud-hypervisor-web1]
built:
  description: Those of them that were not in the store before.
  type: list
  elements: str
  returned: always
  sample: []
identities:
  description: What the guests of O(described) go by in RV(evaluated), in their order.
  type: list
  elements: str
  returned: always
  sample: []
sizes:
  description: Of each runner, how much its closure takes in a store, in bytes. Empty in check mode.
  type: dict
  returned: always
  sample: {/nix/store/0c4mzlvsb9lvkmnmzn8sbpxzfdmlkxqp-microvm-cloud-hypervisor-web1: 734003200}
"""

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._build_places import places
from ansible_collections.microvm.fleet.plugins.module_utils._build_run import (
    Entry,
    build,
    read_sources,
    sources_spec,
)
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._guest_run import limits_of, limits_spec
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths


def main() -> t.NoReturn:
    """Evaluate and build."""
    module = FleetModule(
        noun="source",
        entries="sources",
        argument_spec={**sources_spec(), "build": {"type": "bool", "default": True}, **limits_spec()},
        supports_check_mode=True,
    )
    params = module.params
    try:
        result = build(
            read_sources(params["sources"]),
            [Entry(**entry) for entry in params["described"]],
            places=places(),
            paths=Paths(),
            commands=Commands(),
            limits=limits_of(params),
            make=params["build"],
            check=module.check_mode,
        )
    except FleetError as error:
        module.fail(error)
    failures = result.failures
    module.finish_one(result.values(), failures=["\n".join(failures)] if failures else ())


if __name__ == "__main__":
    main()
