# shellcheck shell=sh
# Makes what belongs to one runner alone, an output each: its scripts, the store
# disk, the configuration of its virtiofsd.
#
# The disk must hold no path that this very derivation makes: when some of the
# outputs are there already, Nix replaces such paths in the finished others, and
# the checksum of the file system would not hold any more.
set -eu
PATH=/usr/bin:/bin:/usr/sbin:/sbin

# Paths of the outputs; text0, text1, ... are the scripts, in this order.
: "${targets:?}"
number=0
for target in $targets; do
  eval "text=\${text$number:?}"
  # shellcheck disable=SC2154 # eval has just set it
  printf '#!/bin/bash\n%s' "$text" > "$target"
  number=$((number + 1))
done
# shellcheck disable=SC2086 # one word a path
chmod 0555 $targets

# The store disk is made of the system `toplevel`; none of them, no disk.
if [ -n "${storeDisk?}" ]; then
  mkdir store
  cp -R "${toplevel:?}" store/
  # A time and a UUID of its own would make each build differ.
  mkfs.erofs --quiet -T 0 -U 6e69782d-7374-4f72-8065-74657374626d --all-root \
    "$storeDisk" store 2>&1
fi

# supervisord.conf(5) for bin/virtiofsd-run; one line of the table a share.
if [ -n "${virtiofsdConf?}" ]; then
  count=$(printf '%s' "${virtiofsTable:?}" | wc -l)
  {
    printf '[supervisord]\nnodaemon=true\nuser=root\n'
    printf '\n[eventlistener:notify]\nevents=PROCESS_STATE_RUNNING\n'
    printf 'command=/bin/bash %s %s\n' "${virtiofsdReady:?}" "$count"
    printf '%s' "$virtiofsTable" | while read -r tag socket mode source; do
      printf '\n[program:virtiofsd-%s]\nstdout_syslog=true\nstderr_syslog=true\n' "$tag"
      printf 'command=/bin/bash %s %s %s %s\n' "${virtiofsd:?}" "$socket" "$mode" "$source"
    done
  } > "$virtiofsdConf"
fi
