#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keep one guest of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microvm_guest
short_description: Keep one MicroVM guest of a host
version_added: 0.1.0
description:
  - Creates a NixOS MicroVM if it is missing, as L(microvm.nix,https://microvm-nix.github.io/microvm.nix/) builds it,
    and leaves one that exists as it is unless an update is asked for.
  - For more than one guest of a host, M(microvm.fleet.microvm_guests) does the same in one call.
author:
  - microvm.fleet contributors (@microvm-fleet)
extends_documentation_fragment:
  - microvm.fleet.attributes
  - microvm.fleet.attributes.action_group
  - microvm.fleet.guest
attributes:
  idempotent:
    support: partial
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
      - This assumes that the system controlled or queried by the module has not changed in a relevant way.
    details:
      - O(state=restarted) restarts the guest in every run. Everything else is idempotent.
options:
  name:
    description:
      - Name of the guest. The directory below C(/var/lib/microvms), the instance of C(microvm@.service) and the
        attribute of C(nixosConfigurations) are the same word. The host name within the guest may differ.
      - Letters, digits, C(-), C(_) and C(.), beginning with a letter or a digit, 64 characters at most.
    type: str
    required: true
  flake:
    description:
      - Flake whose C(nixosConfigurations) has the guest, as an absolute path or a reference with a scheme.
      - Used when the guest is missing, or is to be updated. For an update of a guest that exists, the flake that it
        came from serves when none is given.
      - Excludes O(runner).
    type: str
  runner:
    description:
      - Store path of a runner that is built already, C(config.microvm.declaredRunner) of the guest. If it is not in the
        store of the host, it is fetched from the host's substituters.
      - Used when the guest is missing, or is to be updated.
      - Excludes O(flake).
    type: str
  state:
    description:
      - V(present) creates the guest if it is missing, and leaves it running or stopped as it is.
      - V(started) also starts it if it does not run, and waits until it is up and stays so.
      - V(stopped) creates it if it is missing, and stops it cleanly if it runs.
      - V(restarted) stops it cleanly if it runs, and starts it, in every run.
      - V(absent) stops it, and removes its directory, settings and garbage collector roots. Its volumes are moved to
        C(/var/lib/microvms/.kept), unless O(purge) is V(true).
    type: str
    choices: [present, started, stopped, restarted, absent]
    default: present
  autostart:
    description:
      - Whether the guest starts when the host boots. Left as it is when not given.
    type: bool
  update:
    description:
      - What to do about a guest that exists and whose source gives another runner than it has.
      - V(never) leaves it alone, without evaluating anything.
      - V(stage) builds or fetches the new runner and keeps it beside the one in use.
      - V(activate) does so, switches to it, and restarts the guest if it runs. It is then judged by O(health).
      - V(activate_staged) does so with what is staged already, and asks no flake. Without anything staged there is
        nothing to do.
    type: str
    choices: [never, stage, activate, activate_staged]
    default: never
  generation:
    description:
      - A generation that the guest is to go to, a number, V(previous) (the one before the current one that was not
        rejected) or V(healthy) (the one that was last found healthy). It is one that the host keeps, so nothing is
        evaluated, built or fetched, and O(flake), O(runner) and descriptions count for nothing in this run.
      - The guest is restarted if it runs, and goes back to where it was if it is not healthy then.
      - Excludes O(update), and wins over what holds for all guests. V(previous) goes further back in every run.
    type: str
  retry:
    description:
      - Whether the guest may be switched to a runner that it was taken back from before, because it was not healthy.
    type: bool
    default: false
  switch:
    description:
      - How a guest that runs comes to a new runner. V(restart) restarts it.
      - V(live) activates the new system inside the guest, over O(ssh), where only the system differs and the guest
        reads the store of the host. Where that cannot be it is restarted, and the result says why.
    type: str
    choices: [restart, live]
    default: restart
  snapshot_volumes:
    description:
      - Whether to take a snapshot of the guest's volumes while it is stopped for a switch. It is an error where the
        file system cannot (reflink copies, or a thin volume of LVM).
    type: bool
    default: false
  restore_volumes:
    description:
      - Whether a guest that goes back to its last healthy runner gets its volumes of O(snapshot_volumes) back too. What
        was written since is lost.
    type: bool
    default: false
  health:
    description:
      - What has to be true of the guest, beside that its unit runs and does not restart, before a new runner counts as
        good. It is asked from the host.
      - A guest that was switched to a new runner is always judged, one that is only started when this is given. One
        that is not healthy goes back to the runner that was last found healthy, is started and judged again, and the
        guest has failed, with the reason and the end of its journal.
      - Emergency mode, kernel panics and file systems that do not mount are recognised in the journal in any case.
    type: list
    elements: dict
    suboptions:
      kind:
        description:
          - What is asked.
          - V(active), that the unit runs and has not restarted, counts in any case.
          - V(notify) is the guest's own message that it is up, where the hypervisor passes it on.
          - V(tcp) is that a port is open, V(http) a request that is answered as O(health[].status) and O(health[].body)
            say.
          - V(ssh) is O(health[].command) in the guest, which has to end with status 0.
          - V(journal) is that a line of the guest's journal, its console included, matches O(health[].pattern).
        type: str
        required: true
        choices: [active, notify, tcp, http, ssh, journal]
      interval:
        description:
          - Seconds from one question to the next, V(5) when not given.
        type: int
      timeout:
        description:
          - Seconds that an answer may take, V(5) when not given.
        type: int
      retries:
        description:
          - How many failures in a row are forgiven once the probe has passed, V(0) when not given.
        type: int
      deadline:
        description:
          - Seconds from the guest's start within which the probe has to pass first, O(healthy_deadline) when not given.
        type: int
      address:
        description:
          - IP address at which the host reaches the guest. The first one of its interfaces when not given.
        type: str
      port:
        description:
          - Port of V(tcp), V(http) (80 when not given) and V(ssh) (22 when not given).
        type: int
      path:
        description:
          - Path and query of the request, V(/) when not given.
        type: str
      status:
        description:
          - Status codes that are good, numbers or ranges such as V(200-299). V(200) when not given.
        type: list
        elements: str
      body:
        description:
          - Regular expression that has to match somewhere in the answer.
        type: str
      command:
        description:
          - Command in the guest, as a list of words.
        type: list
        elements: str
      user:
        description:
          - User of the guest, V(root) when not given.
        type: str
      key_file:
        description:
          - Private key on the host, its absolute path. Those of the host's root when not given.
        type: str
      host_key:
        description:
          - Public key of the guest. Any is taken when not given.
        type: str
      pattern:
        description:
          - Regular expression for lines of the journal since the guest's start.
        type: str
      absent:
        description:
          - With V(true), no line may match, V(false) when not given.
        type: bool
  min_healthy_time:
    description:
      - Seconds for which all of it has to be true without a break, V(10) when not given.
    type: int
  healthy_deadline:
    description:
      - Seconds from its start within which the guest has to be healthy, V(300) when not given.
    type: int
  progress_deadline:
    description:
      - Seconds within which any guest of the call has to become healthy, or all that wait have failed. V(600), or
        O(healthy_deadline) if that is more, when not given. V(0) is for ever.
    type: int
  ssh:
    description:
      - How the host reaches the guest over SSH, for O(switch=live). That of a probe of kind V(ssh) when not given.
    type: dict
    suboptions:
      address:
        description:
          - IP address of the guest. The first one of its interfaces when not given.
        type: str
      port:
        description:
          - Port, V(22) when not given.
        type: int
      user:
        description:
          - User, V(root) when not given.
        type: str
      key_file:
        description:
          - Private key on the host, its absolute path. Those of the host's root when not given.
        type: str
      host_key:
        description:
          - Public key of the guest. Any is taken when not given.
        type: str
  keep_generations:
    description:
      - How many runners of the guest to keep, the one in use included. The one in use and the one that runs are kept in
        any case.
    type: int
    default: 3
  purge:
    description:
      - Whether O(state=absent) deletes the volumes in the guest's directory too. Volumes elsewhere are never deleted.
    type: bool
    default: false
  protect:
    description:
      - With V(true), stopping and removing the guest are refused, in this run and in later ones, until a run says
        V(false).
      - Left as it is when not given.
    type: bool
  start_timeout:
    description:
      - How long the start of the guest may take, in seconds. Kept as a setting of its unit, which has 150 otherwise.
    type: int
  stop_timeout:
    description:
      - How long the guest has for a clean stop before it is killed, in seconds. Kept as a setting of its unit, which
        has 150 otherwise.
    type: int
  labels:
    description:
      - Words about the guest, each with a value. Kept on the host with what the collection knows of it.
      - C(stop_order) is a place from 0 to 999 in the order in which M(microvm.fleet.microvm_drain) stops guests.
    type: dict
  interfaces:
    description:
      - What the inventory knows of the guest's network interfaces. No two guests may claim the same, and what is said
        here has to agree with the configuration of the guest.
    type: list
    elements: dict
    suboptions:
      id:
        description: Name of the interface on the host, 15 characters at most, not beginning with C(vt-).
        type: str
      mac:
        description: MAC address of the interface in the guest.
        type: str
      network:
        description: Name of the network that it belongs to, as M(microvm.fleet.microvm_net) knows it.
        type: str
      addresses:
        description: IP addresses of the guest on that network, with or without a prefix length.
        type: list
        elements: str
      type:
        description:
          - Kind of the interface, V(tap) when not given. For a guest that is described here (O(hypervisor)).
        type: str
        choices: [tap, macvtap, user]
      index:
        description:
          - Number of the guest in O(interfaces[].network), from which name, MAC address and IP addresses follow where
            they are not given, as with O(network).
        type: int
      link:
        description:
          - Interface of the host on which a macvtap interface is made.
        type: str
      mode:
        description:
          - Mode of a macvtap interface, V(bridge) when not given.
        type: str
        choices: [private, vepa, bridge, passthru, source]
  hypervisor:
    description:
      - Hypervisor of a guest that is described here, and built by the static flake of the role C(microvm.fleet.flake).
      - What it cannot do is refused, with the ones that can. V(vfkit) runs on macOS only.
      - Excludes O(flake) and O(runner). The options from here on belong to it, and so do type, index, link and mode of
        O(interfaces).
    type: str
    choices: [qemu, cloud-hypervisor, firecracker, crosvm, kvmtool, stratovirt, alioth, vfkit]
  vcpu:
    description:
      - Number of CPUs. V(1) when neither this nor a profile says it.
    type: int
  mem:
    description:
      - Memory in MiB. V(512) when neither this nor a profile says it.
    type: int
  host_name:
    description:
      - Host name within the guest. When not given, the name of the guest with C(-) for C(.) and C(_).
    type: str
  network:
    description:
      - Network of the guest's first interface, a tap. Name of the tap, MAC address, IP addresses, gateway and DNS
        servers follow from it, the same on every run. So does the vsock CID for cloud-hypervisor and firecracker.
      - The network is one of O(networks).
    type: dict
    suboptions:
      name:
        description:
          - Name of the network.
        type: str
        required: true
      index:
        description:
          - Number of the guest in the network, from 1 to 65533. Its addresses are those of the network plus this
            number, which has to be outside the DHCP pool.
        type: int
        required: true
  volumes:
    description:
      - Disks of the guest.
    type: list
    elements: dict
    suboptions:
      image:
        description:
          - Image in the guest's directory, or the absolute path of an image or block device.
        type: str
        required: true
      mount_point:
        description:
          - Where the guest mounts it. Nowhere when not given.
        type: str
      size:
        description:
          - Size in MiB of an image that is made. It does not change one that exists.
        type: int
      fs_type:
        description:
          - File system of the image, V(ext4) when not given.
        type: str
        choices: [ext4, ext3, ext2, xfs, btrfs, vfat]
      label:
        description:
          - Label of the file system.
        type: str
      read_only:
        description:
          - Whether the guest can only read it, V(false) when not given.
        type: bool
      auto_create:
        description:
          - Whether the image is made when it is missing, V(true) when not given.
        type: bool
  shares:
    description:
      - Directories of the host that the guest mounts.
    type: list
    elements: dict
    suboptions:
      tag:
        description:
          - Name by which the guest knows it.
        type: str
        required: true
      source:
        description:
          - Absolute path on the host.
        type: str
        required: true
      mount_point:
        description:
          - Where the guest mounts it.
        type: str
        required: true
      proto:
        description:
          - Protocol, V(virtiofs) when not given.
        type: str
        choices: [virtiofs, 9p]
      read_only:
        description:
          - Whether the guest can only read it, V(false) when not given.
        type: bool
  forward_ports:
    description:
      - Ports of the host that lead into the guest, through an interface of type user.
    type: list
    elements: dict
    suboptions:
      proto:
        description:
          - Protocol, V(tcp) when not given.
        type: str
        choices: [tcp, udp]
      host_address:
        description:
          - Address of the host, V(127.0.0.1) when not given. An empty one means all.
        type: str
      host_port:
        description:
          - Port of the host.
        type: int
        required: true
      guest_port:
        description:
          - Port of the guest.
        type: int
        required: true
  store:
    description:
      - With V(disk), which is the default, the guest has a disk with a Nix store of its own, and sees no other.
      - With V(host) it reads the store of the host, and with it everything that is there.
    type: str
    choices: [disk, host]
  vsock_cid:
    description:
      - Context identifier for vsock. With V(0) the guest has no vsock.
    type: int
  credentials:
    description:
      - Files for the guest that only its root reads, by name. Each has C(src), a file on the controller, or C(path), a
        file on the host.
      - They never reach the Nix store. The role C(microvm.fleet.guests) puts them to
        C(/var/lib/microvm-fleet/credentials) on the host; the module wants them there.
    type: dict
  ssh_keys:
    description:
      - Public keys that may log in as root of the guest. With any, the guest has an SSH server.
    type: list
    elements: str
  release:
    description:
      - Release of NixOS that the guest's data is of, such as V(25.11). That of the flake's nixpkgs when not given.
    type: str
  profiles:
    description:
      - What the guest is used for, such as V(k3s_server). Each profile brings its services, memory and volumes.
    type: list
    elements: str
  profile_options:
    description:
      - Options of profiles, by profile and option.
    type: dict
  modules:
    description:
      - NixOS modules, by their paths below C(/etc/microvm-fleet/modules) on the host, where the role
        C(microvm.fleet.flake) copies them to.
    type: list
    elements: str
  microvm_options:
    description:
      - Further options of microvm.nix by name, such as C(balloon) or C(qemu.extraArgs). Those that hold packages or
        code are not among them.
    type: dict
seealso:
  - module: microvm.fleet.microvm_guests
  - module: microvm.fleet.microvm_guest_info
"""

EXAMPLES = r"""
- name: Have a guest, running, and started at boot
  microvm.fleet.microvm_guest:
    name: web1
    flake: git+https://git.example.org/infra
    state: started
    autostart: true

- name: Update it from the flake that it came from
  microvm.fleet.microvm_guest:
    name: web1
    update: activate

- name: Have a guest that is described here, in a network that the host has
  microvm.fleet.microvm_guest:
    name: db2
    hypervisor: cloud-hypervisor
    mem: 1024
    network: {name: lan, index: 11}
    release: "25.11"
    state: started

- name: Remove the first one, and keep its volumes
  microvm.fleet.microvm_guest:
    name: web1
    state: absent
  register: removed

- name: Say where they are
  ansible.builtin.debug:
    var: removed.kept
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, a line each.
  type: list
  elements: str
  returned: always
  sample: ["web1: create with /nix/store/1ci258innix3ldhhwj2as4915h8vlp79-microvm-qemu-web1", "web1: start"]
reasons:
  description: Why a new runner needs a restart, what differs between it and the one before, in words.
  type: list
  elements: str
  returned: when there is a new runner for a guest that exists
  sample: [memory 512 to 1024 MiB, system]
unhealthy:
  description: Why the guest is not healthy, or the runner that it was to have.
  type: str
  returned: when it was judged, and is not
  sample: "tcp 192.0.2.11:80 was not answered within 300 s"
reverted:
  description:
    - What the guest was taken back from and to, each with number and runner, the reason, and whether it is healthy
      there.
  type: dict
  returned: when it was taken back
  sample:
    from: {number: 3, runner: /nix/store/00g7jzg4lphzy0jvc2rhcyjjz7sh93ys-microvm-qemu-web1}
    to: {number: 2, runner: /nix/store/1ci258innix3ldhhwj2as4915h8vlp79-microvm-qemu-web1}
    healthy: true
    reason: "tcp 192.0.2.11:80 was not answered within 300 s"
live:
  description: Whether the guest was switched without a restart (done), and why not (why).
  type: dict
  returned: when O(switch=live) and there is a new runner for a guest that runs
  sample: {done: false, why: "the kernel would be another"}
killed:
  description: The guest did not end within its time and was killed.
  type: bool
  returned: when it was
  sample: true
kept:
  description: Directory to which the volumes of a removed guest were moved.
  type: str
  returned: when there were any
  sample: /var/lib/microvms/.kept/web1-20261123T071200Z
left:
  description: Volumes outside its directory that were left where they are.
  type: list
  elements: str
  returned: when there are any
  sample: [/dev/vg0/web1]
guest:
  description: State of the guest after the run. In check mode, as it would be.
  type: dict
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
      description: Number of the generation that RV(guest.current) is. V(null) when it is none.
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
      description: Whether the guest runs another runner than RV(guest.current).
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
"""

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._guest_run import (
    converge,
    limits_of,
    limits_spec,
    wishes,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import guest_spec, surroundings_spec
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths


def main() -> t.NoReturn:
    """Converge the one guest."""
    module = FleetModule(
        noun="guest",
        entries=None,
        argument_spec={
            **guest_spec(update="never"),
            **surroundings_spec(),
            **limits_spec(),
            "evaluated": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    paths = Paths()
    try:
        result = converge(
            wishes([module.params], module.params, paths),
            paths=paths,
            commands=Commands(),
            limits=limits_of(module.params),
            check=module.check_mode,
            all_guests=False,
            evaluated=module.params["evaluated"],
        )
    except FleetError as error:
        module.fail(error)
    for warning in result.warnings:
        module.warn(warning)
    module.finish_one(result.value(), failures=result.failures)


if __name__ == "__main__":
    main()
