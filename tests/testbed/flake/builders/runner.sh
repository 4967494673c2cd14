# Builds a runner: bin/ as links to the scripts, share/microvm as text.
# Environment: out, bin (lines "NAME PATH"), share (lines "FILE LINE"),
# toplevel (path or empty), failure (empty, or who fails).
set -eu
PATH=/usr/bin:/bin

if [ -n "$failure" ]; then
  line=1
  while [ "$line" -le 29 ]; do
    echo "$failure: build log line $line of 30"
    line=$((line + 1))
  done
  echo "$failure: the build fails, as wished (line 30 of 30)"
  exit 1
fi

mkdir -p "$out/bin" "$out/share/microvm"
printf '%s' "$bin" | while read -r name path; do
  ln -s "$path" "$out/bin/$name"
done
cd "$out/share/microvm"
if [ -n "$toplevel" ]; then
  ln -s "$toplevel" system
fi
printf '%s' "$share" | while read -r file line; do
  case $file in
    */*) mkdir -p "${file%/*}" ;;
  esac
  printf '%s\n' "$line" >> "$file"
done
