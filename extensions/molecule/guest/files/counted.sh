#!/bin/sh
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Stands in front of a program of Nix: adds what it was called for to the file $CALLS, and calls it.
set -eu
words=${0##*/}
for word in "$@"; do
    case $word in
        eval | flake | metadata | build | --realise) words="$words $word" ;;
    esac
done
echo "$words" >> "$CALLS"
exec "/usr/bin/${0##*/}" "$@"
