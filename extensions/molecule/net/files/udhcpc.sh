#!/bin/sh
# What udhcpc calls, with the lease in its environment: take it, and write down what it was.
set -eu
case $1 in
bound | renew)
    ip -4 address add "${ip:?}/${mask:?}" dev "${interface:?}"
    if [ -n "${router-}" ]; then ip route replace default via "$router"; fi
    echo "$ip/$mask router=${router-} dns=${dns-} lease=${lease:?}" >/run/test-lease
    ;;
esac
