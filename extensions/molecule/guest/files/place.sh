#!/bin/sh
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Puts what lies beside it into its places: programs in front of those of Nix, and a bridge.
set -eu
cd "$(dirname "$0")"
mkdir -p counted
cp counted.sh counted/nix
cp counted.sh counted/nix-store
cp 60-guests.netdev 60-guests.network 60-guests-taps.network /etc/systemd/network/
networkctl reload
