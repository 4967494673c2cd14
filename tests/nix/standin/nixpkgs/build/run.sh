# shellcheck shell=bash
# Runs the given script as the builder, with the programs of the host.
set -eu
PATH=/usr/bin:/bin:/usr/sbin:/sbin
export PATH
exec /bin/bash -eu "${scriptPath:?}"
