# shellcheck shell=sh
# An executable file with the given text.
set -eu
PATH=/usr/bin:/bin
cp "${textPath:?}" "${out:?}"
chmod 0555 "$out"
