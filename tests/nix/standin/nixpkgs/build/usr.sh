# shellcheck shell=sh
# A package whose bin is that of the host.
set -eu
PATH=/usr/bin:/bin
mkdir -p "${out:?}"
ln -s /usr/bin "$out/bin"
