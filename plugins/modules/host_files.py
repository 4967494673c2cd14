#!/usr/bin/python
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Have the directories and files that a host needs for guests."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_files
short_description: Have the directories and files that a host needs for MicroVMs
version_added: 0.2.0
description:
  - Makes directories and writes files of root, all in one call, and each file whole or not at all.
  - The role microvm.fleet.host uses it for units, scripts and settings; playbooks seldom have to.
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
options:
  directories:
    description:
      - Directories, made before the files. Those above one that are missing are made too.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - Absolute path. A link to a directory counts as one.
        type: path
        required: true
      mode:
        description:
          - Mode in octal, three digits.
        type: str
        required: true
  files:
    description:
      - Files. A link in the place of one is replaced.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - Absolute path.
        type: path
        required: true
      mode:
        description:
          - Mode in octal, three digits.
        type: str
        required: true
      content:
        description:
          - What the file holds.
        type: str
        required: true
notes:
  - Runs as root on the host.
seealso:
  - module: ansible.builtin.copy
  - module: ansible.builtin.file
"""

EXAMPLES = r"""
- name: Have a unit and its script
  microvm.fleet.host_files:
    directories:
      - {path: /usr/local/lib/example, mode: "755"}
    files:
      - path: /usr/local/lib/example/run
        mode: "755"
        content: "{{ lookup('ansible.builtin.file', 'run', rstrip=false) }}"
      - path: /etc/systemd/system/example.service
        mode: "644"
        content: "{{ lookup('ansible.builtin.file', 'example.service', rstrip=false) }}"
"""

RETURN = r"""
changed:
  description: Whether something was changed, or would be.
  type: bool
  returned: success
  sample: true
actions:
  description: What was done, or would be in check mode, a line each.
  type: list
  elements: str
  returned: success
  sample: ["host: make /usr/local/lib/example", "host: write /usr/local/lib/example/run"]
paths:
  description: The directories and files that were changed, or would be.
  type: list
  elements: str
  returned: success
  sample: [/usr/local/lib/example, /usr/local/lib/example/run]
diff:
  description: With C(--diff), each of O(directories) and O(files) that differs, with owner and mode, before and after.
  type: list
  elements: dict
  returned: success
  sample:
    - before_header: /usr/local/lib/example
      after_header: /usr/local/lib/example
      before: ""
      after: "owner 0:0 mode 0755\n"
"""

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.microvm.fleet.plugins.module_utils._host_files import converge, files_spec, read_wishes
from ansible_collections.microvm.fleet.plugins.module_utils._module import FleetModule


def main() -> t.NoReturn:
    """Have directories and files."""
    module = FleetModule(noun="host", entries=None, argument_spec=files_spec(), supports_check_mode=True)
    try:
        result = converge(read_wishes(module.params), check=module.check_mode)
    except FleetError as error:
        module.fail(error)
    module.finish_one(result)


if __name__ == "__main__":
    main()
