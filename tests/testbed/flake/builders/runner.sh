# shellcheck shell=sh
# Makes a runner: bin/ as links to the scripts, share/microvm as text.
set -eu
PATH=/usr/bin:/bin

# Empty, or who fails.
if [ -n "${failure?}" ]; then
  line=1
  while [ "$line" -le 29 ]; do
    echo "$failure: build log line $line of 30"
    line=$((line + 1))
  done
  echo "$failure: the build fails, as wished (line 30 of 30)"
  exit 1
fi

# Lines "NAME PATH".
mkdir -p "${out:?}/bin" "$out/share/microvm"
printf '%s' "${bin:?}" | while read -r name path; do
  ln -s "$path" "$out/bin/$name"
done

# Lines "FILE LINE".
cd "$out/share/microvm"
printf '%s' "${share:?}" | while read -r file line; do
  case $file in
    */*) mkdir -p "${file%/*}" ;;
  esac
  printf '%s\n' "$line" >> "$file"
done

if [ -n "${toplevel?}" ]; then
  ln -s "$toplevel" system
fi
