#!/bin/sh
# Writes a file for `docker run --env-file` with one variable, whose value is what a secret's file holds.
#
#   environment.sh VARIABLE SECRET-FILE FILE
#
# The value is everything but line ends at the file's end; the format has no quoting, so it must be one line.
set -eu
umask 0077
[ $# -eq 3 ] || {
  echo "usage: environment.sh VARIABLE SECRET-FILE FILE" >&2
  exit 2
}
[ -r "$2" ] || {
  echo "$2 cannot be read" >&2
  exit 1
}
value=$(cat "$2")
case $value in
  '')
    echo "$2 is empty" >&2
    exit 1
    ;;
  *'
'*)
    echo "$2 has more than one line" >&2
    exit 1
    ;;
esac
printf '%s=%s\n' "$1" "$value" > "$3.new"
mv "$3.new" "$3"
