#!/bin/sh
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Runs a command as on a controller with a store, a state and flakes of its own, which are those in a directory, and
# notes what Nix is asked for in nix.log there: controller.sh DIRECTORY COMMAND...
set -eu
mkdir -p "$1/nix" "$1/srv" "$1/lib" "$1/cache" "$1/bin" /nix
cat >"$1/bin/nix" <<END
#!/bin/sh
echo "\$*" >>"$1/nix.log"
exec /usr/bin/nix "\$@"
END
chmod 0755 "$1/bin/nix"
# As on the hosts of the testbed: nothing is fetched, and builders use the machine's own programs.
export PATH="$1/bin:$PATH" NIX_CONFIG='build-users-group =
sandbox = false
substituters ='
# shellcheck disable=SC2016 # of the inner shell
exec unshare --mount --propagation private sh -euc '
    mount --bind "$1/nix" /nix
    mount --bind "$1/srv" /srv
    mount --bind "$1/lib" /var/lib
    mount --bind "$1/cache" /var/cache
    shift
    exec "$@"
' sh "$@"
