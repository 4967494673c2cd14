# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the network engine reads and writes, and the static files that it puts there.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible_collections.microvm.fleet.plugins.module_utils import _nixos

UNIT_NAME: t.Final = "microvm-fleet-network.service"
NETWORKD: t.Final = "systemd-networkd.service"
WAIT_ONLINE: t.Final = "systemd-networkd-wait-online.service"


@dataclass(frozen=True)
class NetPaths:
    """Paths below *root*, which is ``/`` but in unit tests."""

    root: str = "/"

    def at(self, path: str) -> str:
        """Where absolute *path* is."""
        return os.path.join(self.root, path.lstrip("/"))

    @property
    def networkd(self) -> str:
        """The administrator's files for systemd-networkd (systemd.network(5))."""
        return self.at("etc/systemd/network")

    @property
    def manager(self) -> str:
        """Our settings of systemd-networkd itself (networkd.conf(5))."""
        return self.at("etc/systemd/networkd.conf.d/50-microvm-fleet.conf")

    @property
    def unit(self) -> str:
        """The unit that loads the table and opens forwarding."""
        return self.at(f"etc/systemd/system/{UNIT_NAME}")

    @property
    def loader(self) -> str:
        """The script of the unit."""
        return self.at("usr/local/lib/microvm-fleet/network")

    @property
    def ruleset(self) -> str:
        """The static ruleset."""
        return self.at("usr/local/lib/microvm-fleet/network.nft")

    @property
    def sets(self) -> str:
        """The elements of the sets."""
        return self.at("var/lib/microvm-fleet/network/sets.json")

    @property
    def host_record(self) -> str:
        """How the host was before the first network."""
        return self.at("var/lib/microvm-fleet/network/host.json")

    @property
    def records(self) -> str:
        """The wish of each network."""
        return self.at("var/lib/microvm-fleet/networks")

    @property
    def sysctl(self) -> str:
        """Kernel settings (sysctl.d(5)); udev applies them when an interface appears."""
        return self.at("etc/sysctl.d/90-microvm-fleet.conf")

    @property
    def description(self) -> str:
        """On NixOS: the networks that the host's system is to be made with."""
        return self.at(f"{_nixos.FLAKE}/networks.json")

    @property
    def running(self) -> str:
        """On NixOS: the networks that the system that runs was made with."""
        return self.at(f"{_nixos.RUNNING}/networks.json")

    @property
    def lock(self) -> str:
        """The host's lock."""
        return self.at("run/lock/microvm-fleet/host")

    @property
    def settings(self) -> str:
        """The kernel's own view of its settings."""
        return self.at("proc/sys")

    def record(self, name: str) -> str:
        """The wish of network *name*."""
        return os.path.join(self.records, f"{name}.json")

    def shown(self, path: str) -> str:
        """*path* as it is called on the host."""
        return path if self.root == "/" else "/" + os.path.relpath(path, self.root)


# Ordering: after what makes interfaces and after what empties the ruleset, before network.target, which guests' taps
# wait for.  A restart, a reload or a later start of nftables.service flushes all tables (its unit does), so each of
# them brings this one along.
UNIT: t.Final = """\
# Kept by the Ansible collection microvm.fleet; changes by hand are lost.
[Unit]
Description=What MicroVM guests may reach
Documentation=man:nft(8) man:sysctl.d(5)
DefaultDependencies=no
After=local-fs.target systemd-sysctl.service nftables.service systemd-networkd.service networking.service
Before=network.target microvms.target shutdown.target
Wants=network.target
Conflicts=shutdown.target
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/lib/microvm-fleet/network start
ExecReload=/usr/local/lib/microvm-fleet/network start
ExecStop=/usr/local/lib/microvm-fleet/network stop
TimeoutStartSec=60

[Install]
WantedBy=multi-user.target nftables.service
"""

LOADER: t.Final = """\
#!/bin/sh
# Kept by the Ansible collection microvm.fleet; changes by hand are lost.
# start: load the table and its sets, then open forwarding on the interfaces that sysctl.d names.
# stop: take the table away.
set -eu

ruleset=/usr/local/lib/microvm-fleet/network.nft
sets=/var/lib/microvm-fleet/network/sets.json
settings=/etc/sysctl.d/90-microvm-fleet.conf

case ${1-} in
start)
    # A table of another version of the ruleset can have sets of other types: then it is made anew.
    nft -f "$ruleset" || {
        nft delete table inet microvm_fleet
        nft -f "$ruleset"
    }
    nft -j -f "$sets"
    # systemd-networkd makes bridges after it says that it is up, so wait for them, 20 s for all together.
    tries=200
    missing=
    while read -r key equals value; do
        case $key in net/*) ;; *) continue ;; esac
        [ "$equals" = "=" ] || continue
        # Of an interface that is not there, how it listens does not matter; udev applies sysctl.d when it comes.
        case $key in */accept_ra) [ -e "/proc/sys/$key" ] || continue ;; esac
        while [ ! -e "/proc/sys/$key" ] && [ "$tries" -gt 0 ]; do
            tries=$((tries - 1))
            sleep 0.1
        done
        if [ -e "/proc/sys/$key" ]; then
            echo "$value" >"/proc/sys/$key"
        else
            missing="$missing $key"
        fi
    done <"$settings"
    if [ -n "$missing" ]; then
        echo "not there:$missing" >&2
        exit 1
    fi
    ;;
stop)
    nft -f - <<'END'
add table inet microvm_fleet
delete table inet microvm_fleet
END
    ;;
*)
    echo "usage: $0 start|stop" >&2
    exit 2
    ;;
esac
"""
