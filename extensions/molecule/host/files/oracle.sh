#!/bin/sh
# What the host says of itself, without the collection: a line each.
id microvm 2>/dev/null
stat --format '%n %U:%G %a %F' /var/lib/microvms /var/lib/microvm-fleet /usr/local/lib/microvm-fleet \
    /nix/var/nix/gcroots/microvm /nix/var/nix/gcroots/microvm-fleet /etc/systemd/system/microvm@.service 2>/dev/null
systemctl show --property=Id,LoadState,UnitFileState,ActiveState,NeedDaemonReload microvms.target
echo "features $(nix show-config 2>/dev/null | sed -n 's/^experimental-features = //p')"
echo "include $(grep -c '^!include microvm-fleet.conf$' /etc/nix/nix.conf)"
echo "own $(grep -c '^sandbox = false$' /etc/nix/nix.conf)"
echo "verify $(systemd-analyze verify microvms.target 2>&1 | grep -c microvm)"
find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /root \) -prune -o \
    \( -name '*microvm*' -print \) 2>/dev/null | sort | sed 's/^/file /'
