#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restore the volumes of a guest: the part on its host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microvm_restore
short_description: Restore the volumes of a MicroVM guest from a backup
version_added: 0.2.0
description:
  - Streams the volumes of a backup of M(microvm.fleet.microvm_backup) to a host, and puts them in the place of those
    that a guest has. The guest must not run. One that is missing is created first; that may be on another host than the
    one of the backup, and under another name.
  - The volumes arrive beside the guest's directory, and are compared with the manifest. Only when all of them are right
    anything is changed. A backup that is damaged or incomplete is refused.
  - Volumes that were there are kept in C(/var/lib/microvms/.kept).
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
      - The manifest is read, and sizes are compared with it and with the room on the host. Checksums are not.
  diff_mode:
    support: none
    description: Will return details on what has changed, or possibly needs changing in check mode, when in diff mode.
  idempotent:
    support: none
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
      - This assumes that the system controlled or queried by the module has not changed in a relevant way.
    details:
      - Volumes are restored whenever it is run.
  platform:
    support: full
    platforms: linux
    description: Target systems that this module works on.
    details:
      - Needs systemd, and the connection plugins C(ssh) or C(local).
options:
  name:
    description:
      - Name of the guest to restore to. That of the backup when it is left out.
    type: str
  src:
    description:
      - Where the backup is.
    type: dict
    required: true
    suboptions:
      path:
        description:
          - The directory of one backup, as an absolute path.
        type: str
        required: true
      host:
        description:
          - Host of the inventory that has it. The controller when it is left out.
        type: str
  flake:
    description:
      - Flake to create a guest from that is missing. That of the backup when neither this nor O(runner) is given.
    type: str
  runner:
    description:
      - Runner to create a guest from that is missing, as a path in the store of the host.
    type: str
  start:
    description:
      - Start the guest when its volumes are in place.
    type: bool
    default: false
  reserve:
    description:
      - Room to leave free on the host, in MiB.
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
    choices: [find, place, drop]
  images:
    description:
      - Filled in on the controller.
    type: list
    elements: str
    default: []
notes:
  - Runs as root on the host (C(become)), which the role P(microvm.fleet.host#role) has set up.
  - A run that was killed while volumes were put in place is finished by the next.
seealso:
  - module: microvm.fleet.microvm_backup
  - module: microvm.fleet.microvm_stream
"""

EXAMPLES = r"""
- name: Restore a guest on another host, and start it there
  microvm.fleet.microvm_restore:
    src:
      path: /srv/backups/db1-20261123T180000Z
    start: true

- name: Look at old data beside the guest that has the new
  microvm.fleet.microvm_restore:
    name: db1-old
    src:
      path: /srv/backups/db1-20261123T180000Z
      host: host2
    runner: "{{ old_runner }}"
"""

RETURN = r"""
name:
  description: The guest that was restored.
  type: str
  returned: success
  sample: db1
time:
  description: When the backup was made, in UTC.
  type: str
  returned: success
  sample: 20261123T180000Z
actions:
  description: What was done, or would be, a line each.
  type: list
  elements: str
  returned: success
  sample: ["db1: restore data.img", "db1: start"]
volumes:
  description: The volumes that were restored.
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
      description: Its SHA-256, of what was written.
      type: str
      returned: always
      sample: 4b76c9d71fccb36c963b67df519cee0498c19644195bb9c1eeab1abb8d71da4e
kept:
  description: Where the volumes are that were there before. V(null) when there were none.
  type: str
  returned: success
  sample: /var/lib/microvms/.kept/db1-20261124T090000Z
stream:
  description: What passed the controller, as M(microvm.fleet.microvm_stream) returns it.
  type: dict
  returned: not in check mode
  sample:
    size: 20980000
    sha256: f78423e460dd648f100cb5a17998070e6d964228742a15dfcef452072a89a8fa
    seconds: 12.5
need:
  description: Bytes that a restore would need.
  type: int
  returned: in check mode
  sample: 52428800
free:
  description: Bytes that are free on the host, without the reserve.
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
            "name": {"type": "str"},
            "src": {
                "type": "dict",
                "required": True,
                "options": {"path": {"type": "str", "required": True}, "host": {"type": "str"}},
            },
            "flake": {"type": "str"},
            "runner": {"type": "str"},
            "start": {"type": "bool", "default": False},
            "reserve": {"type": "int", "default": 256},
            "stall_timeout": {"type": "int", "default": 300},
            "lock_timeout": {"type": "int", "default": 60},
            "phase": {"type": "str", "choices": ["find", "place", "drop"]},
            "images": {"type": "list", "elements": "str", "default": []},
        },
        mutually_exclusive=[("flake", "runner")],
        supports_check_mode=True,
    )
    given = module.params
    try:
        run = BackupRun(given["name"] or "", paths=Paths(), commands=Commands(), lock_timeout=given["lock_timeout"])
        if given["phase"] == "place" and not module.check_mode:
            found = run.place(given["images"])
        elif given["phase"] == "drop" and not module.check_mode:
            found = run.drop()
        else:
            found = run.find(given["images"])
    except FleetError as error:
        module.fail(error)
    module.finish_one({"changed": False, "found": found})


if __name__ == "__main__":
    main()
