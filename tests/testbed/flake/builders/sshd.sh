# shellcheck shell=sh
# Makes an SSH server for guests, from the host's dropbear: the program, what it is linked to, and the loader that is
# built into it.
set -eu
PATH=/usr/bin:/bin:/usr/sbin:/sbin

program=/usr/sbin/dropbear
if [ ! -x "$program" ]; then
  echo "no SSH server for guests here: install dropbear-bin" >&2
  exit 1
fi
mkdir -p "${out:?}/lib"
cp "$program" "$out/dropbear"
# Lines "NAME => PATH (ADDRESS)", "LOADER (ADDRESS)" and, without a file, that of the kernel.
ldd "$program" | while read -r name arrow path _; do
  if [ "$arrow" = "=>" ]; then
    cp -L "$path" "$out/lib/$name"
  elif [ -e "$name" ]; then
    cp -L "$name" "$out/lib/"
    printf '%s\n' "$name" > "$out/loader"
  fi
done
