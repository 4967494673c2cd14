#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stream files between hosts: all of it is done by the action plugin of this name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microvm_stream
short_description: Stream files between hosts through the controller
version_added: 0.1.0
description:
  - Copies files of any size from one host to another, from a host to the controller, or from the controller to a host.
  - Nothing is put on the controller's disk in between, and the hosts need no access to each other. Each is reached as
    Ansible reaches it, with its connection variables and its C(become).
  - Holes stay holes. Each file has a SHA-256, which both ends compute.
  - Files are made under temporary names, and get their own when all of them have arrived, are what is expected, and
    are on the disk. When either end, the connection or the controller dies, there is no half file under a final name.
  - Symbolic links are never followed below O(src.path). A file that changes while it is read is an error.
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
      - All of it runs on the controller, and in two Python processes at the ends.
  check_mode:
    support: full
    description: Can run in check mode and return what would be done without changing anything on the host.
    details:
      - The files are looked at, and their sizes are compared with the room at the other end.
  diff_mode:
    support: none
    description: Will return details on what has changed, or possibly needs changing in check mode, when in diff mode.
  idempotent:
    support: none
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
      - This assumes that the system controlled or queried by the module has not changed in a relevant way.
    details:
      - Files are streamed whenever it is run.
  platform:
    support: full
    platforms: linux
    description: Target systems that this module works on.
    details:
      - Needs Python 3.8 or newer at both ends, and the connection plugins C(ssh) or C(local).
options:
  src:
    description:
      - Where the files are.
    type: dict
    required: true
    suboptions:
      path:
        description:
          - The directory, as an absolute path.
        type: str
        required: true
      host:
        description:
          - Host of the inventory that has it. The host of the task when it is left out.
          - Variables of that host's inventory hold, those of the play do not. The task's C(become) does.
        type: str
      controller:
        description:
          - It is on the controller, where it is read as the user who runs Ansible, without C(become).
        type: bool
        default: false
  dest:
    description:
      - Where the files go.
    type: dict
    required: true
    suboptions:
      path:
        description:
          - The directory, as an absolute path. It is made if it is missing.
        type: str
        required: true
      host:
        description:
          - Host of the inventory that is to have it. The host of the task when it is left out.
        type: str
      controller:
        description:
          - It is on the controller.
        type: bool
        default: false
  files:
    description:
      - The files. All regular files below the directory when it is empty.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - Name of the file below O(src.path).
        type: str
        required: true
      dest:
        description:
          - Name of the file below O(dest.path). The same when it is left out.
        type: str
      pack:
        description:
          - Pack it on its way, so that it arrives packed.
          - V(zstd) takes the program C(zstd) at the source.
        type: str
        choices: [none, gzip, zstd]
        default: none
      unpack:
        description:
          - Unpack it, so that a packed file arrives as its content.
          - V(zstd) takes the program C(zstd) at the destination.
        type: str
        choices: [none, gzip, zstd]
        default: none
      size:
        description:
          - Bytes that the file has to have once it has arrived.
        type: int
      sha256:
        description:
          - SHA-256 that the file has to have once it has arrived.
        type: str
  whole:
    description:
      - The directory O(dest.path) is new, and appears when it is complete. It must not be there.
    type: bool
    default: false
  replace:
    description:
      - Replace files that are there. Otherwise they are an error, before anything is sent.
    type: bool
    default: false
  owner:
    description:
      - Name of the user who is to own the files. The user of that end when it is left out.
    type: str
  group:
    description:
      - Name of the group that is to own the files.
    type: str
  mode:
    description:
      - Permissions of the files, in octal digits.
    type: str
    default: "0600"
  directory_mode:
    description:
      - Permissions of directories that are made, in octal digits.
    type: str
    default: "0700"
  reserve:
    description:
      - Room to leave free at the destination, in MiB. With less, nothing is sent.
    type: int
    default: 256
  stall_timeout:
    description:
      - Seconds for which nothing may move before the stream is given up.
    type: int
    default: 300
  hold:
    description:
      - Name of a timer of systemd on the source's host, without its suffix. It is restarted as long as files are read,
        and its service is started at once when the stream fails, or when nobody takes it any more.
      - So what keeps the files still can be undone by their own host, whatever becomes of the controller.
    type: str
seealso:
  - module: microvm.fleet.microvm_backup
  - module: microvm.fleet.microvm_restore
"""

EXAMPLES = r"""
- name: Copy an image to another host
  microvm.fleet.microvm_stream:
    src:
      path: /var/lib/microvms/db1
    dest:
      path: /srv/images
      host: host2
    files:
      - name: data.img
        dest: db1.img

- name: Fetch all of a directory to the controller, packed or not at all
  microvm.fleet.microvm_stream:
    src:
      path: /srv/results
    dest:
      path: /tmp/results
      controller: true
    whole: true
"""

RETURN = r"""
files:
  description: The files that arrived, or would be sent in check mode. Then they have name, size and allocated only.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Name of the file below O(dest.path).
      type: str
      returned: always
      sample: db1.img
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
      description: Its SHA-256, as the destination has computed it of what it wrote.
      type: str
      returned: not in check mode
      sample: 4b76c9d71fccb36c963b67df519cee0498c19644195bb9c1eeab1abb8d71da4e
    source:
      description: The same four of the file at the source, as the source has computed them of what it read.
      type: dict
      returned: not in check mode
      sample:
        name: data.img
        size: 1073741824
        allocated: 52428800
        sha256: 4b76c9d71fccb36c963b67df519cee0498c19644195bb9c1eeab1abb8d71da4e
path:
  description: The directory that they went to.
  type: str
  returned: success
  sample: /srv/images
need:
  description: Bytes that were needed at the destination, by what the source knew before.
  type: int
  returned: success
  sample: 52428800
free:
  description: Bytes that were free there, without the reserve.
  type: int
  returned: success
  sample: 78154080256
stream:
  description: What passed the controller.
  type: dict
  returned: success
  contains:
    size:
      description: Its bytes.
      type: int
      returned: always
      sample: 52430000
    sha256:
      description: Its SHA-256.
      type: str
      returned: always
      sample: f78423e460dd648f100cb5a17998070e6d964228742a15dfcef452072a89a8fa
    seconds:
      description: Seconds that it took.
      type: float
      returned: always
      sample: 12.5
"""
