# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the modules for networks have in common."""

from __future__ import annotations


class ModuleDocFragment:
    """Limits of a run, and notes."""

    DOCUMENTATION = r"""
options:
  timeout:
    description:
      - How long the kernel may take to be as wished after all is done, in seconds. What is not as wished then is an
        error that names the field.
    type: int
    default: 30
  lock_timeout:
    description:
      - How long to wait for another run that works on this host, in seconds.
      - With V(0) the module fails at once when there is one.
    type: int
    default: 60
notes:
  - Runs as root on the host. Needs systemd-networkd 252 or newer, nftables and iproute2.
  - Where systemd-networkd does not run, because ifupdown or NetworkManager keep the host's interfaces, it is
    enabled and started with settings that keep it off every interface that was there before, and off routes and rules
    that it did not make. The boot does not wait for it.
  - What guests may reach is decided in a table of nftables of its own, C(inet microvm_fleet). Rules of others are left
    alone and still count. Where another table or iptables drops what is forwarded, as Docker's does, the bridge has
    to be let through there too. A firewall that drops what comes in has to let in DHCP, UDP port 67, from the bridge.
  - A start, restart or reload of C(nftables.service) brings the table back. After a C(nft flush ruleset) by hand run
    C(systemctl reload microvm-fleet-network), or the module.
  - Networks of the collection on this host that no wish names are left as they are.
  - On NixOS the networks are part of the host's system. There the module repairs and reads back what that system has,
    and what it does not have is an error that names the role C(microvm.fleet.network), which switches the host.
"""
