#!/bin/sh
# Copies the flakes that stand in for those of the network to /srv/standin of a host: standins.sh TESTBED HOST
set -eu
directory=$(dirname "$0")/../../../tests/nix/standin
archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
tar --create --dereference --file "$archive" --directory "$directory" nixpkgs microvm
"$1" exec "$2" sh -c 'mkdir -p /srv/standin && tar --extract --no-same-owner --directory /srv/standin' <"$archive"
