# shellcheck shell=sh
# Makes a guest's system, what NixOS calls the toplevel.
set -eu
PATH=/usr/bin:/bin

mkdir -p "${out:?}/etc"
if [ -n "${etc-}" ]; then
  cp -R --no-preserve=mode "$etc/." "$out/etc/"
fi
cp "${init:?}" "$out/init"
chmod 0555 "$out/init"
mkdir "$out/bin"
cp "${serve:?}" "$out/bin/serve"
cp "${switch:?}" "$out/bin/switch-to-configuration"
chmod 0555 "$out/bin/serve" "$out/bin/switch-to-configuration"
# Copied, since a guest with a disk of its own has nothing but its system.
if [ -n "${sshd-}" ]; then
  cp -R "$sshd" "$out/sshd"
  printf '%s' "${sshKeys:?}" > "$out/etc/authorized_keys"
fi
ln -s "${boot:?}/kernel" "$out/kernel"
ln -s "$boot/initrd" "$out/initrd"
printf '%s' "${version:?}" > "$out/nixos-version"
printf '%s\n' "${hostName:?}" > "$out/etc/hostname"
printf '%s\n' "${guestJson:?}" > "$out/etc/guest.json"
printf '%s' "${settings:?}" > "$out/etc/settings"
printf '%s' "${networkTable?}" > "$out/etc/network"
printf '%s' "${volumeTable?}" > "$out/etc/volumes"
