#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keep the static flake of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microvm_flake
short_description: Keep the flake that builds the described guests of a host
version_added: 0.1.0
description:
  - Keeps C(/etc/microvm-fleet), a flake that is the same on every host and that turns JSON beside it into NixOS. Keeps
    its lock file, the modules that guests name, and their credentials.
  - The role P(microvm.fleet.flake#role) calls it. Guests themselves are kept by
    M(microvm.fleet.microvm_guests).
  - An input is locked when it is not locked yet, when its reference has changed, and when O(update) names it. Nothing
    else moves it. An input that cannot be locked leaves everything as it was.
author:
  - microvm.fleet contributors (@microvm-fleet)
extends_documentation_fragment:
  - microvm.fleet.attributes
  - microvm.fleet.attributes.action_group
attributes:
  check_mode:
    details:
      - An input that would be locked anew is fetched into the store of the host, to tell what it would become.
  idempotent:
    support: full
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
      - This assumes that the system controlled or queried by the module has not changed in a relevant way.
    details:
      - With O(update), what an input leads to can have changed in between.
seealso:
  - module: microvm.fleet.microvm_guests
options:
  base:
    description:
      - Flake whose nixpkgs guests are built from, and on NixOS the one with the configuration of the host.
      - C(path:/etc/microvm-fleet/bases/nixpkgs) has no host and takes O(nixpkgs);
        C(path:/etc/microvm-fleet/bases/configuration) has the host by its C(configuration.nix) in O(configuration), and
        takes O(nixpkgs).
    type: str
    default: path:/etc/microvm-fleet/bases/nixpkgs
  nixpkgs:
    description:
      - Nixpkgs, where O(base) is one of those that the collection brings. A base of yours brings its own.
    type: str
    default: github:NixOS/nixpkgs/nixos-26.05
  microvm:
    description:
      - The flake microvm.nix.
    type: str
    default: github:microvm-nix/microvm.nix
  configuration:
    description:
      - Directory with the C(configuration.nix) of a NixOS host, for the base that takes it.
    type: str
    default: path:/etc/nixos
  update:
    description:
      - Inputs to lock anew, V(base), V(microvm), V(nixpkgs), V(configuration), or V(true) for all of them.
    type: raw
    default: []
  guests:
    description:
      - The guests of the host, as M(microvm.fleet.microvm_guests) takes them. Of those that have C(hypervisor), their
        C(modules) and C(credentials) are brought to the host. Credentials that an entry names no more stay, because the
        guest's unit loads them until it is updated; M(microvm.fleet.microvm_guests) removes them then.
    type: list
    elements: dict
    default: []
  search:
    description:
      - Directories of the controller in which C(modules) and C(credentials) are looked for, the first that has it wins.
    type: list
    elements: path
    default: []
  state:
    description:
      - V(absent) removes the flake, the modules in it, and all credentials. C(host.json) and C(networks.json) stay.
    type: str
    choices: [present, absent]
    default: present
  force:
    description:
      - With O(state=absent), whether to remove it while C(guests.json) describes guests.
    type: bool
    default: false
  timeout:
    description:
      - Seconds that Nix may take to lock inputs.
    type: int
    default: 900
  lock_timeout:
    description:
      - Seconds to wait for another run that works on the flake.
    type: int
    default: 60
  files:
    description:
      - Filled in on the controller.
    type: str
  secrets:
    description:
      - Filled in on the controller.
    type: str
"""

EXAMPLES = r"""
- name: Keep the flake, with the nixpkgs of a mirror
  microvm.fleet.microvm_flake:
    nixpkgs: git+https://git.example.org/nixpkgs?ref=nixos-26.05
    guests: "{{ microvm_guests }}"
    search: ["{{ inventory_dir }}", "{{ playbook_dir }}"]

- name: Take the newest microvm.nix
  microvm.fleet.microvm_flake:
    update: [microvm]
    guests: "{{ microvm_guests }}"
"""

RETURN = r"""
changed:
  description: Whether anything was done, or would be.
  type: bool
  returned: always
  sample: true
actions:
  description: What was done, or would be in check mode, a line each.
  type: list
  elements: str
  returned: success
  sample:
    - "flake: install nix/guest.nix"
    - "flake: lock the input microvm at github:microvm-nix/microvm.nix/71beea0076cd46dafcee97a5a2e7d00cbba5bd2f"
inputs:
  description: What each input is locked at, or would be.
  type: dict
  returned: success
  sample:
    base: "path:/etc/microvm-fleet/bases/nixpkgs (sha256-Fc5QkhFxAcHBdOGzGTLfUDt6kORQSCplgMhk0eMGBWg=)"
diff:
  description:
    - With C(--diff), inputs, the hashes of files that change, and the names of credentials, before and after.
  type: dict
  returned: success
  sample:
    before: {inputs: {}, files: {}, credentials: []}
    after: {inputs: {}, files: {}, credentials: [k3s-1/k3s-token]}
"""

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._flake_run import FlakePaths, converge, take_away
from ansible_collections.microvm.fleet.plugins.module_utils._flake_wish import flake_spec, read_wish
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule


def main() -> t.NoReturn:
    """Converge the flake."""
    module = FleetModule(noun="flake", entries=None, argument_spec=flake_spec(), supports_check_mode=True)
    params = module.params
    try:
        if params["state"] == "absent":
            result = take_away(
                paths=FlakePaths(),
                check=module.check_mode,
                force=params["force"],
                lock_timeout=params["lock_timeout"],
            )
        else:
            result = converge(
                read_wish(params),
                commands=Commands(),
                paths=FlakePaths(),
                check=module.check_mode,
                timeout=params["timeout"],
                lock_timeout=params["lock_timeout"],
            )
    except FleetError as error:
        module.fail(error)
    module.finish_one(result.values())


if __name__ == "__main__":
    main()
