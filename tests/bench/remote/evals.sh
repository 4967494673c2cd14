#!/bin/sh
# Ask for the runner of each guest of which it is given the name, as the command "microvm -l" asks for systems.
# Usage: evals.sh FLAKE NAME...
set -eu
flake=$1
shift
for name in "$@"; do
  nix eval --raw "$flake#nixosConfigurations.\"$name\".config.microvm.declaredRunner.outPath" > /dev/null
done
