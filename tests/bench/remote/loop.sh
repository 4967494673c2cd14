#!/bin/sh
# What the command "microvm -u" does for each guest of which it is given the name, and no more.
# Usage: loop.sh FLAKE DIRECTORY NAME...
set -eu
flake=$1
directory=$2
shift 2
for name in "$@"; do
  mkdir -p "$directory/$name"
  cd "$directory/$name"
  nix build -o current "$flake#nixosConfigurations.\"$name\".config.microvm.declaredRunner"
done
