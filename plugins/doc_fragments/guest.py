# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the modules for guests have in common."""

from __future__ import annotations


class ModuleDocFragment:
    """Limits of a run, and notes."""

    DOCUMENTATION = r"""
options:
  networks:
    description:
      - Networks that described guests refer to, as O(microvm.fleet.microvm_nets#module:networks) takes them.
      - When not given or empty, those that were applied to the host.
    type: list
    elements: dict
  peers:
    description:
      - Addresses of guests on other hosts, a list for each name. Options of profiles may name such a guest.
    type: dict
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
      - How long to wait for another run that works on the same guests, in seconds.
      - With V(0) the module fails at once when there is one.
    type: int
    default: 60
  evaluated:
    description:
      - What M(microvm.fleet.microvm_build) has returned on another host. Of a flake and a guest in it, nothing is
        fetched or evaluated here, so this host needs no access to the flake.
      - The runner is to be here already, or to be had from a substituter; the role microvm.fleet.build copies it.
    type: dict
  min_free:
    description:
      - How much is to be free in C(/nix/store) before something is built or fetched, in MiB.
    type: int
    default: 512
notes:
  - Runs as root on the host.
  - A guest is created if it is missing. A guest that exists is updated only when O(update) asks for it.
  - A guest that the NixOS configuration of its host declares is reported, and any change of it is refused.
  - A guest that the C(microvm) command or a deploy script made is adopted as it is, without a change. It counts as
    made by the collection from its first update on.
  - What fails for one guest ends the work on that guest only. The module fails at the end.
"""
