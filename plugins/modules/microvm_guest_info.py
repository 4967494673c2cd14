#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the guests of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microvm_guest_info
short_description: Read the MicroVM guests of a host
version_added: 0.1.0
description:
  - Returns the guests of a host as they are, whoever made them, without evaluating, building or changing anything.
  - The structure is the one that M(microvm.fleet.microvm_guests) and M(microvm.fleet.microvm_guest) return.
author:
  - microvm.fleet contributors (@microvm-fleet)
extends_documentation_fragment:
  - microvm.fleet.attributes.info
  - microvm.fleet.attributes.action_group
options:
  names:
    description:
      - Names of the guests to read. All of the host when not given.
      - A guest that is not there is returned with RV(guests[].exists=false).
    type: list
    elements: str
notes:
  - Runs as root on the host.
seealso:
  - module: microvm.fleet.microvm_guests
  - module: microvm.fleet.microvm_guest
"""

EXAMPLES = r"""
- name: Read all guests of the host
  microvm.fleet.microvm_guest_info:
  register: found

- name: Fail if one of them has a problem
  ansible.builtin.assert:
    that: found.guests | map(attribute='problems') | flatten | length == 0
    fail_msg: "{{ found.guests | selectattr('problems') | map(attribute='name') | join(', ') }}"
"""

RETURN = r"""
guests:
  description: The guests, by name.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: Name of the guest.
      type: str
      returned: always
      sample: web1
    exists:
      description: Whether the guest is there.
      type: bool
      returned: always
      sample: true
    owner:
      description:
        - Who decides about the guest. V(fleet) is this collection, V(nixos) the configuration of the host, V(microvm)
          the C(microvm) command or a deploy script. V(null) when it does not exist.
      type: str
      returned: always
      sample: fleet
    hypervisor:
      description: Hypervisor of the runner.
      type: str
      returned: always
      sample: cloud-hypervisor
    host_name:
      description: Host name within the guest.
      type: str
      returned: always
      sample: web1
    flake:
      description: Flake that the guest comes from.
      type: str
      returned: always
      sample: "git+https://git.example.org/infra"
    described:
      description: Whether the guest is described in the inventory, and built by the static flake of the host.
      type: bool
      returned: always
      sample: false
    locked:
      description: Revision or content hash of the flake that gave the newest runner.
      type: str
      returned: always
      sample: 90bd9a64bcdfd8094b993447a388f4da7450357a
    current:
      description: Runner that the next start runs.
      type: str
      returned: always
      sample: /nix/store/1ci258innix3ldhhwj2as4915h8vlp79-microvm-qemu-web1
    booted:
      description: Runner that the running guest was started from.
      type: str
      returned: always
      sample: /nix/store/1ci258innix3ldhhwj2as4915h8vlp79-microvm-qemu-web1
    staged:
      description: Runner that is prepared and not in use.
      type: str
      returned: always
      sample: null
    generations:
      description: Runners that are kept, the oldest first, each with number, runner and the time when it was created.
      type: list
      elements: dict
      returned: always
      sample:
        - number: 1
          runner: /nix/store/1ci258innix3ldhhwj2as4915h8vlp79-microvm-qemu-web1
          created: 1795419492
    generation:
      description: Number of the generation that RV(guests[].current) is. V(null) when it is none.
      type: int
      returned: always
      sample: 1
    healthy:
      description: Runner that was last found healthy.
      type: str
      returned: always
      sample: /nix/store/1ci258innix3ldhhwj2as4915h8vlp79-microvm-qemu-web1
    judging:
      description: Runner that the guest was switched to, and that nobody has judged yet.
      type: str
      returned: always
      sample: null
    rejected:
      description: Runners that the guest was taken back from, with the reason, by their paths.
      type: dict
      returned: always
      sample: {}
    active:
      description: Whether the guest runs.
      type: bool
      returned: always
      sample: true
    unit:
      description: State of the unit, as active_state, sub_state, result and restarts.
      type: dict
      returned: always
      sample: {active_state: active, sub_state: running, result: success, restarts: 0}
    restart_needed:
      description: Whether the guest runs another runner than RV(guests[].current).
      type: bool
      returned: always
      sample: false
    autostart:
      description: Whether the guest starts when the host boots.
      type: bool
      returned: always
      sample: true
    protect:
      description: Whether stopping and removing it is refused.
      type: bool
      returned: always
      sample: false
    labels:
      description: Labels of the guest.
      type: dict
      returned: always
      sample: {service: web}
    interfaces:
      description:
        - Network interfaces, each with id, type, mac, and for macvtap link and mode. V(null) is not known on the
          host.
      type: list
      elements: dict
      returned: always
      sample: [{id: vm-web1, type: tap, mac: "02:00:00:00:00:01", link: null, mode: null}]
    volumes:
      description: Volumes, as microvm.nix knows them; size in MiB, V(null) where nothing says it.
      type: list
      elements: dict
      returned: always
      sample:
        - image: data.img
          size: 1024
          mount_point: /data
          fs_type: ext4
          read_only: false
          auto_create: true
          label: data
          mkfs_extra_args: []
    vsock_cid:
      description: Context identifier of the guest for vsock.
      type: int
      returned: always
      sample: null
    can_shutdown:
      description: Whether the runner can ask the guest to power off.
      type: bool
      returned: always
      sample: true
    problems:
      description: What an operator should look at, a sentence each.
      type: list
      elements: str
      returned: always
      sample: ["restart needed: the guest runs another runner than current."]
drained:
  description:
    - The mark of a host that is drained, as M(microvm.fleet.microvm_drain) returns it. V(null) when it is not drained.
  type: dict
  returned: always
  sample: {since: "2026-11-23T17:05:00Z", reason: new memory, guests: [{name: web1, order: 50}], returning: false}
moving:
  description:
    - Guests that move to or from another host, each with name, phase (V(leaving), V(arriving), V(trying) or V(moved)),
      the other host, and since when. One that is V(moved) is not on this host any more.
  type: list
  elements: dict
  returned: always
  sample: [{name: web2, phase: moved, other: host2, since: "2026-11-23T17:05:00Z"}]
"""

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._guest_inspect import inspect
from ansible_collections.microvm.fleet.plugins.module_utils._holds import read_drained, read_moving
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths


def main() -> t.NoReturn:
    """Read the guests."""
    module = FleetModule(
        noun="guest",
        entries=None,
        argument_spec={"names": {"type": "list", "elements": "str"}},
        supports_check_mode=True,
    )
    paths = Paths()
    try:
        guests = inspect(module.params["names"], paths=paths, commands=Commands())
    except FleetError as error:
        module.fail(error)
    # What `inspect` could not have read it would have said.
    drained = read_drained(paths)
    module.finish_one(
        {
            "changed": False,
            "guests": guests,
            "drained": drained.shown() if drained is not None else None,
            "moving": [moving.shown() for _name, moving in sorted(read_moving(paths).items())],
        }
    )


if __name__ == "__main__":
    main()
