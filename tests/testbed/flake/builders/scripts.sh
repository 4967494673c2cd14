# Writes the scripts of one guest, an output each, and its store disk.
# Environment: targets (the outputs' paths), text0, text1, ... in their order;
# storeDisk (path or empty), toplevel (what the disk carries).
#
# The disk must not hold a path that this very derivation makes: when only some
# of the outputs are missing, Nix replaces such paths in finished outputs, and
# the file system's checksum would no longer hold.
set -eu
PATH=/usr/bin:/bin:/usr/sbin:/sbin

number=0
for target in $targets; do
  eval "text=\$text$number"
  printf '#!/bin/bash\n%s' "$text" > "$target"
  chmod 0555 "$target"
  number=$((number + 1))
done

if [ -n "$storeDisk" ]; then
  mkdir store
  cp -R "$toplevel" store/
  # A time and a UUID of its own would make each build differ.
  mkfs.erofs --quiet -T 0 -U 6e69782d-7374-4f72-8065-74657374626d --all-root \
    "$storeDisk" store 2>&1
fi
