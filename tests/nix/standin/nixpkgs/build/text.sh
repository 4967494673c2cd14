# shellcheck shell=sh
# A file with the given text, or a directory with the file at `destination`.
set -eu
PATH=/usr/bin:/bin
file=${out:?}${destination-}
mkdir -p "$(dirname "$file")"
cp "${textPath:?}" "$file"
chmod "${mode-0444}" "$file"
