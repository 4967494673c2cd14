#!/bin/sh
# All of a host that a network may touch, as text that two looks can be compared by.
set -eu
find /etc/systemd /etc/sysctl.d /usr/local/lib /var/lib/microvm-fleet -type f ! -name '*.pyc' -exec sha256sum {} + 2>/dev/null | sort -k 2 || true
find /etc/systemd -type l -printf '%p %l\n' | sort
ip -o address show | sed 's/valid_lft [0-9]*sec preferred_lft [0-9]*sec//'
ip route show table all
ip -6 route show table main | sed 's/ expires [0-9]*sec//'
ip rule show
nft -s list ruleset
grep -r . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv6/conf/*/forwarding /proc/sys/net/ipv6/conf/*/accept_ra
systemctl is-enabled systemd-networkd.service systemd-networkd-wait-online.service || true
