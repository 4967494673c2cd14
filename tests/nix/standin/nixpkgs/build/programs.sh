# shellcheck shell=sh
# A package of links to programs of the host, those of its `programs` that it has.
set -eu
PATH=/usr/bin:/bin
mkdir -p "${out:?}/bin"
for program in ${programs:?}; do
  for directory in /usr/bin /bin /usr/sbin /sbin /usr/libexec /usr/lib/qemu; do
    if [ -x "$directory/$program" ] && [ ! -e "$out/bin/$program" ]; then
      ln -s "$directory/$program" "$out/bin/$program"
    fi
  done
done
