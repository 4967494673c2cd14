#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring a NixOS host to the system that a flake describes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nixos_system
short_description: Bring a NixOS host to the system that a flake describes
version_added: 0.2.0
description:
  - Builds C(nixosConfigurations.NAME.config.system.build.toplevel) of a flake on the host, and switches the host to it
    as C(nixos-rebuild) does.
  - Compares what runs, and what the boot loader starts, with what the flake gives, in every run. A run that ended half
    way is finished by the next.
  - The system is activated by a unit of systemd, C(microvm-fleet-system-activation.service), outside of the session of
    Ansible. A lost connection does not end it half way.
  - When the activation fails, the host goes back to the system that it had, and the task fails with the last lines of
    what was said. The generation that it came from is kept in any case.
  - With O(confirm_timeout), a system that cannot be confirmed over a new connection is left again by the host itself.
author:
  - microvm.fleet contributors (@microvm-fleet)
extends_documentation_fragment:
  - microvm.fleet.attributes
  - microvm.fleet.attributes.action_group
attributes:
  action:
    support: full
    description: Has a part that runs on the controller.
    details:
      - It confirms an activation over a new connection.
  async:
    support: none
    description: Can be used with the C(async) keyword.
    details:
      - It is refused. A confirmation needs the controller, and an activation needs no session anyway.
  idempotent:
    support: full
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
      - This assumes that the system controlled or queried by the module has not changed in a relevant way.
options:
  name:
    description:
      - Attribute of C(nixosConfigurations) that is the system of the host. The name of the host is the default.
    type: str
  flake:
    description:
      - Flake with the system, as an absolute path or a reference with a scheme.
      - The default is the static flake that the role C(microvm.fleet.flake) keeps on the host.
    type: str
    default: path:/etc/microvm-fleet
  mode:
    description:
      - V(switch) runs the system, and lets the boot loader start it from now on.
      - V(test) runs it, and leaves the boot loader alone, so a reboot goes back.
      - V(boot) only lets the boot loader start it.
    type: str
    choices: [switch, test, boot]
    default: switch
  confirm_timeout:
    description:
      - Seconds until the host goes back to the system that it ran before, counted from right before the activation.
        V(0) is never.
      - The host is told to go back before the new system is activated. Then the connection is closed, and the system is
        confirmed over a new one. Only then the profile is set and the boot loader is told, so a reboot before that goes
        back too.
      - It has to last for the activation and for a new connection. An activation that still runs then is ended.
      - It is used only when the running system changes, and not with O(mode=boot).
    type: int
    default: 0
  eval_timeout:
    description: How long the evaluation may take, in seconds.
    type: int
    default: 600
  build_timeout:
    description: How long the build may take, in seconds.
    type: int
    default: 3600
  activation_timeout:
    description: How long an activation, or going back, may take, in seconds. What takes longer has failed.
    type: int
    default: 900
  lock_timeout:
    description: How long to wait for another run, or for an activation that somebody else began, in seconds.
    type: int
    default: 60
  watch:
    description:
      - Filled in on the controller.
    type: str
  confirm:
    description:
      - Filled in on the controller.
    type: str
notes:
  - Needs Nix 2.8 or newer, systemd 252 or newer, and a Python on the host, for example
    C(environment.systemPackages = [ pkgs.python3 ]), with
    C(ansible_python_interpreter=/run/current-system/sw/bin/python3).
  - Units that had failed before an activation, and fail again in it, are a warning and no reason to go back.
  - An evaluation that has to build something first, as with C(import) from a derivation, fails in check mode.
seealso:
  - module: microvm.fleet.microvm_guests
"""

EXAMPLES = r"""
- name: Have the system of the static flake, and go back if the host cannot be reached with it
  microvm.fleet.nixos_system:
    confirm_timeout: 180

- name: Try a system of another flake until the next reboot
  microvm.fleet.nixos_system:
    flake: git+https://git.example.org/infra
    name: host1
    mode: test

- name: Start a new kernel with the next reboot
  microvm.fleet.nixos_system:
    mode: boot
  register: system

- name: Reboot if that brings something new into use
  ansible.builtin.reboot:
  when: system.reboot_needed
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, a line each.
  type: list
  elements: str
  returned: always
  sample: ["build /nix/store/0c1i6mblkz6j4rn2dgs6s0m7y31p4wjc-nixos-system-host1-25.11"]
reboot_needed:
  description:
    - Whether only a reboot brings all of the wished system into use. So it is with another kernel, initial ramdisk,
      set of kernel modules or kernel command line, and with O(mode=boot). V(null) while the system is not built.
  type: bool
  returned: success
  sample: false
reverted:
  description: Whether, since the last run, the host has left by itself a system that nobody confirmed.
  type: bool
  returned: success
  sample: false
before:
  description: The systems of the host before the run.
  type: dict
  returned: success
  contains: &systems
    running:
      description: System that was activated last, C(/run/current-system).
      type: str
      returned: always
      sample: /nix/store/0c1i6mblkz6j4rn2dgs6s0m7y31p4wjc-nixos-system-host1-25.11
    booted:
      description: System that the host was booted with.
      type: str
      returned: always
      sample: /nix/store/0c1i6mblkz6j4rn2dgs6s0m7y31p4wjc-nixos-system-host1-25.11
    profile:
      description: System that the boot loader starts, C(/nix/var/nix/profiles/system).
      type: str
      returned: always
      sample: /nix/store/0c1i6mblkz6j4rn2dgs6s0m7y31p4wjc-nixos-system-host1-25.11
    generation:
      description: Number of the generation that RV(before.profile) is.
      type: int
      returned: always
      sample: 12
    wished:
      description: System that the flake gives.
      type: str
      returned: always
      sample: /nix/store/0c1i6mblkz6j4rn2dgs6s0m7y31p4wjc-nixos-system-host1-25.11
    pending:
      description: System that waits for its confirmation, with C(previous) and C(goes_back_at). V(null) when none does.
      type: dict
      returned: always
      sample: null
    reboot_needed:
      description: As RV(reboot_needed).
      type: bool
      returned: always
      sample: false
    reverted:
      description: As RV(reverted).
      type: bool
      returned: always
      sample: false
after:
  description: The systems of the host after the run. In check mode, as they would be.
  type: dict
  returned: success
  contains: *systems
"""

import os
import secrets
import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule
from ansible_collections.microvm.fleet.plugins.module_utils._system_observe import SystemPaths
from ansible_collections.microvm.fleet.plugins.module_utils._system_run import converge, follow
from ansible_collections.microvm.fleet.plugins.module_utils._system_wish import limits_of, read_wish, system_spec


def main() -> t.NoReturn:
    """Converge the system, or follow an activation that an earlier call has begun."""
    module = FleetModule(noun="system", entries=None, argument_spec=system_spec(), supports_check_mode=True)
    params = module.params
    paths, commands = SystemPaths(), Commands()
    try:
        wish, limits = read_wish(params, os.uname().nodename), limits_of(params)
        token = params["confirm"] or params["watch"]
        if token:
            values = follow(
                wish,
                paths=paths,
                commands=commands,
                limits=limits,
                token=token,
                confirm=params["confirm"] is not None,
            )
        else:
            values = converge(
                wish,
                paths=paths,
                commands=commands,
                limits=limits,
                token=secrets.token_hex(8),
                check=module.check_mode,
                diff=module.wants_diff,
            ).values()
    except FleetError as error:
        module.fail(error)
    module.finish_one(values)


if __name__ == "__main__":
    main()
