#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Back up the volumes of a guest: the part on its host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microvm_backup
short_description: Back up the volumes of a MicroVM guest
version_added: 0.2.0
description:
  - Streams the volumes of one guest to a directory of the controller or of another host, and writes a manifest with
    their sizes and checksums beside them.
  - A guest that runs is stopped first, so that its filesystems are in order, and started again. Where the host's
    filesystem can clone files (btrfs, xfs), it is down for the time of the clones only, otherwise until the stream has
    ended.
  - The directory appears when it is complete. When anything goes wrong in between, there is none, and the guest is
    started again. When the controller dies in between, the guest's host starts it by itself, at once when the
    connection ends. Where the connection hangs, it does so when nothing was read for the guest's stop timeout,
    O(stall_timeout), O(lock_timeout) and two minutes together. A run of any kind on that guest starts it, too.
  - Room and programs at both ends are looked at before the guest is stopped.
author:
  - microvm.fleet contributors (@microvm-fleet)
extends_documentation_fragment:
  - microvm.fleet.attributes.action_group
attributes:
  action:
    support: full
    description:
      - Indicates this has a corresponding action plugin so some parts of the options can be executed on the controller.
    details:
      - The stream passes the controller. See M(microvm.fleet.microvm_stream).
  check_mode:
    support: full
    description: Can run in check mode and return what would be done without changing anything on the host.
    details:
      - Sizes are compared with the room at the backup's place too.
  diff_mode:
    support: none
    description: Will return details on what has changed, or possibly needs changing in check mode, when in diff mode.
  idempotent:
    support: none
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
      - This assumes that the system controlled or queried by the module has not changed in a relevant way.
    details:
      - Each run makes another backup.
  platform:
    support: full
    platforms: linux
    description: Target systems that this module works on.
    details:
      - Needs systemd, and the connection plugins C(ssh) or C(local).
options:
  name:
    description:
      - Name of the guest.
    type: str
    required: true
  dest:
    description:
      - Where backups go.
    type: dict
    required: true
    suboptions:
      path:
        description:
          - A directory, as an absolute path. The backup becomes C(NAME-TIME) in it, with the time in UTC.
        type: str
        required: true
      host:
        description:
          - Host of the inventory that has it. The controller when it is left out, where files belong to the user who
            runs Ansible.
        type: str
  quiesce:
    description:
      - How the volumes are kept still. V(auto) clones them where that is possible, and otherwise leaves the guest
        stopped while they are read.
      - V(snapshot) is an error where they cannot be cloned. V(stop) never clones.
    type: str
    choices: [auto, snapshot, stop]
    default: auto
  pack:
    description:
      - How the volumes are packed. V(zstd) takes the program C(zstd) on the guest's host, and wherever it is restored.
      - With V(none) a backup has the images themselves, with their holes.
    type: str
    choices: [none, gzip, zstd]
    default: gzip
  skip_outside:
    description:
      - Leave out volumes that lie outside of the guest's directory, such as block devices. Otherwise they are an error.
    type: bool
    default: false
  reserve:
    description:
      - Room to leave free at the backup's place, in MiB.
    type: int
    default: 256
  stall_timeout:
    description:
      - Seconds for which nothing may move before the stream is given up.
    type: int
    default: 300
  lock_timeout:
    description:
      - Seconds to wait for other runs on this guest.
    type: int
    default: 60
  phase:
    description:
      - Filled in on the controller.
    type: str
    choices: [look, begin, end]
  start_again:
    description:
      - Filled in on the controller.
    type: bool
    default: false
notes:
  - Runs as root on the host (C(become)).
  - Shares and other files in the guest's directory are no volumes, and are not backed up.
seealso:
  - module: microvm.fleet.microvm_restore
  - module: microvm.fleet.microvm_stream
"""

EXAMPLES = r"""
- name: Back up a guest to the controller
  microvm.fleet.microvm_backup:
    name: db1
    dest:
      path: /srv/backups

- name: Back up a guest to another host, as plain images
  microvm.fleet.microvm_backup:
    name: db1
    dest:
      path: /srv/backups
      host: host2
    pack: none
"""

RETURN = r"""
path:
  description: The directory of the backup. V(null) for a guest without volumes, of which there is none.
  type: str
  returned: success
  sample: /srv/backups/db1-20261123T180000Z
actions:
  description: What was done, or would be, a line each.
  type: list
  elements: str
  returned: success
  sample: ["db1: stop", "db1: back up data.img", "db1: start"]
volumes:
  description: The volumes that were backed up.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: The image in the guest's directory.
      type: str
      returned: always
      sample: data.img
    size:
      description: Its bytes.
      type: int
      returned: always
      sample: 1073741824
    allocated:
      description: The bytes of it that are no holes.
      type: int
      returned: always
      sample: 52428800
    sha256:
      description: Its SHA-256.
      type: str
      returned: always
      sample: 4b76c9d71fccb36c963b67df519cee0498c19644195bb9c1eeab1abb8d71da4e
    file:
      description: The file in the backup.
      type: str
      returned: always
      sample: data.img.gz
    stored_size:
      description: The bytes of that file.
      type: int
      returned: always
      sample: 20971520
snapshot:
  description: Whether the volumes were cloned, or would be, for the guest to be up again soon.
  type: bool
  returned: when there is something to back up
  sample: false
killed:
  description: Whether the guest had to be killed, so that its filesystems may need a check.
  type: bool
  returned: success
  sample: false
stream:
  description: What passed the controller, as M(microvm.fleet.microvm_stream) returns it.
  type: dict
  returned: not in check mode
  sample:
    size: 20980000
    sha256: f78423e460dd648f100cb5a17998070e6d964228742a15dfcef452072a89a8fa
    seconds: 12.5
need:
  description: Bytes that a backup would need at most.
  type: int
  returned: in check mode
  sample: 52428800
free:
  description: Bytes that are free there, without the reserve.
  type: int
  returned: in check mode
  sample: 78154080256
found:
  description: What the part on the host says to the part on the controller.
  type: dict
  returned: never to a playbook
  sample: {}
"""

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._backup_run import BackupRun
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths


def main() -> t.NoReturn:
    """Do one phase."""
    module = FleetModule(
        noun="guest",
        entries=None,
        argument_spec={
            "name": {"type": "str", "required": True},
            "dest": {
                "type": "dict",
                "required": True,
                "options": {"path": {"type": "str", "required": True}, "host": {"type": "str"}},
            },
            "quiesce": {"type": "str", "choices": ["auto", "snapshot", "stop"], "default": "auto"},
            "pack": {"type": "str", "choices": ["none", "gzip", "zstd"], "default": "gzip"},
            "skip_outside": {"type": "bool", "default": False},
            "reserve": {"type": "int", "default": 256},
            "stall_timeout": {"type": "int", "default": 300},
            "lock_timeout": {"type": "int", "default": 60},
            "phase": {"type": "str", "choices": ["look", "begin", "end"]},
            "start_again": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        run = BackupRun(given["name"], paths=Paths(), commands=Commands(), lock_timeout=given["lock_timeout"])
        if given["phase"] == "begin" and not module.check_mode:
            found = run.begin(given["quiesce"], patience=given["stall_timeout"] + given["lock_timeout"])
        elif given["phase"] == "end" and not module.check_mode:
            found = run.end(start=given["start_again"])
        else:
            found = run.look(given["quiesce"])
    except FleetError as error:
        module.fail(error)
    module.finish_one({"changed": False, "found": found})


if __name__ == "__main__":
    main()
