#!/bin/sh
# What must never change: the host's own interface, its routes and rules, and the table of its administrator.
set -eu
ip -j address show dev host0 | jq -S '.[0] | {ifname, address, mtu, addr_info: [.addr_info[] | {local, prefixlen, scope}] | sort_by(.local)}'
ip -j route show dev host0 | jq -S .
ip -6 -j route show dev host0 | jq -S '[.[] | {dst, gateway, protocol}]'
ip rule show | grep 203.0.113.9 || true
nft list table inet administrator
