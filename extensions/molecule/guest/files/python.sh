#!/bin/sh
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Stands for the interpreter of one module: kills it when it makes the Nth call of a kind, before the call is done.
# KILL_AT is CALL:N, such as rename:2; the calls of programs that the module runs do not count.
set -eu
exec strace -qq -o /dev/null -e "inject=${KILL_AT%:*}:signal=KILL:when=${KILL_AT#*:}" /usr/bin/python3 "$@"
