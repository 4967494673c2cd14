# Writes the scripts of one guest, an output each.
# Environment: targets (the outputs' paths), text0, text1, ... in their order.
set -eu
PATH=/usr/bin:/bin

number=0
for target in $targets; do
  eval "text=\$text$number"
  printf '#!/bin/bash\n%s' "$text" > "$target"
  chmod 0555 "$target"
  number=$((number + 1))
done
