#!/bin/sh
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Takes away what an earlier run of the scenario left on its host, without the collection.
set -eu

systemctl list-units --all --plain --no-legend 'microvm@*.service' | while read -r unit _; do
    systemctl kill --signal=KILL "$unit" || true
    systemctl stop "$unit" || true
done
rm -rf /srv/test/calls* /var/lib/microvms/* /var/lib/microvms/.[!.]* /var/lib/microvm-fleet/guests/* \
    /nix/var/nix/gcroots/microvm/* /nix/var/nix/gcroots/microvm-fleet/* \
    /etc/systemd/system/install-microvm-*.service /etc/systemd/system/microvms.target.wants
for directory in /etc/systemd/system/microvm@*.service.d; do
    case $directory in
        */microvm@.service.d) ;;
        *) rm -rf "$directory" ;;
    esac
done
systemctl daemon-reload
systemctl reset-failed
