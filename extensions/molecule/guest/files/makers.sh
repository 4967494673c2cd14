#!/bin/sh
# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Makes a guest as others than the collection make it: the same links, files, owners, modes and roots.
#
#   makers.sh command NAME FLAKE    as the command "microvm -c" (pkgs/microvm-command.nix)
#   makers.sh unit NAME FLAKE       as install-microvm-NAME.service for a guest with a flake (host/default.nix)
#   makers.sh config NAME FLAKE     as that unit for a guest in the host's own configuration: with the link toplevel
#   makers.sh deploy NAME FLAKE     as installOnHost, the second time (ssh-deploy.nix)
set -eu

kind=$1
name=$2
flake=$3
state=/var/lib/microvms
roots=/nix/var/nix/gcroots/microvm
attribute=$flake'#nixosConfigurations."'$name'".config.microvm.declaredRunner'
build() {
    nix --extra-experimental-features 'nix-command flakes' build --no-write-lock-file "$@" "$attribute"
}

[ ! -e "$state/$name" ] || exit 0
case $kind in
    command)
        made=$(mktemp -d)
        printf '%s' "$flake" > "$made/flake"
        build -o "$made/current"
        chmod -R u+rwX "$made"
        mv "$made" "$state/$name"
        chown -h -R :kvm "$state/$name"
        chmod -R a+rX "$state/$name"
        chmod g+w "$state/$name"
        ln -s "$state/$name/current" "$roots/$name"
        ln -s "$state/$name/booted" "$roots/booted-$name"
        ;;
    unit | config)
        # The host's own generation holds the runner; the unit makes no roots.
        runner=$(build --no-link --print-out-paths)
        mkdir "$state/$name"
        cd "$state/$name"
        ln -sTf "$runner" current
        chown -h microvm:kvm . current
        condition=
        if [ "$kind" = config ]; then
            ln -sTf "$(sed -n 's,.*init=\(/nix/store/[^ ]*\)/init.*,\1,p' "$runner/bin/microvm-run" | head -n 1)" toplevel
        else
            echo "$flake" > flake
            chown -h microvm:kvm flake
            condition="ConditionPathExists=!$state/$name"
        fi
        printf '[Unit]\n%s\n[Service]\nType=oneshot\nExecStart=/bin/true\n' "$condition" \
            > "/etc/systemd/system/install-microvm-$name.service"
        ;;
    deploy)
        mkdir "$state/$name"
        cd "$state/$name"
        chown microvm:kvm .
        chmod 0755 .
        for link in current booted old; do
            case $link in current) prefix= ;; *) prefix=$link- ;; esac
            ln -s "$state/$name/$link" "$roots/$prefix$name"
        done
        build -o new
        cp -P new old
        mv new current
        ;;
esac
