#!/bin/sh
# Copies directories of this machine to a host, as root's, in one go: send.sh TESTBED HOST MODE FROM=TO...
# MODE is one of chmod(1), for all that is in them.
set -eu
testbed=$1 host=$2 mode=$3
shift 3
archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
for pair; do
    tar --append --file "$archive" --dereference --exclude=__pycache__ --mode="$mode" \
        --directory "${pair%%=*}" --transform "s|^\.|${pair#*=/}|" .
done
"$testbed" exec "$host" tar --extract --no-same-owner --directory / <"$archive"
