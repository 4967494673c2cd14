#!/bin/sh
# A guest's place on a bridge: a network namespace with an end of a veth pair, whose other end is in the bridge.
#   client.sh up NAME BRIDGE MAC      make it
#   client.sh down NAME               remove it
#   client.sh lease NAME              ask for an address by DHCP; print address, router and DNS
#   client.sh in NAME COMMAND...      run a command in it
set -eu
action=$1
name=$2
shift 2
case $action in
up)
    ip netns add "$name"
    ip link add "p-$name" type veth peer name eth0 netns "$name"
    ip -n "$name" link set eth0 address "$2"
    ip -n "$name" link set lo up
    ip link set "p-$name" master "$1" up
    ip -n "$name" link set eth0 up
    ;;
down)
    ip netns delete "$name"
    ;;
lease)
    ip -n "$name" -4 address flush dev eth0
    ip netns exec "$name" busybox udhcpc -i eth0 -n -q -t 10 -T 1 -s "$(dirname "$0")/udhcpc.sh"
    cat /run/test-lease
    ;;
in)
    exec ip netns exec "$name" "$@"
    ;;
esac
