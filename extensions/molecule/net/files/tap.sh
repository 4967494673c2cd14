#!/bin/sh
# A tap as a runner's tap-up makes it, deleted first if it is there.
set -eu
if [ -e "/sys/class/net/$1" ]; then ip link delete "$1"; fi
ip tuntap add name "$1" mode tap vnet_hdr
ip link set "$1" up
