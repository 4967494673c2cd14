# Builds a guest's system and the read-only disk that carries it into the guest.
# Environment: out, disk, boot, init, hostName, version, guestJson, settings,
# networkTable, volumeTable.
set -eu
PATH=/usr/bin:/bin:/usr/sbin:/sbin

mkdir -p "$out/etc"
cp "$init" "$out/init"
chmod 0555 "$out/init"
ln -s "$boot/bzImage" "$out/kernel"
ln -s "$boot/initrd" "$out/initrd"
printf '%s' "$version" > "$out/nixos-version"
printf '%s\n' "$hostName" > "$out/etc/hostname"
printf '%s\n' "$guestJson" > "$out/etc/guest.json"
printf '%s' "$settings" > "$out/etc/settings"
printf '%s' "$networkTable" > "$out/etc/network"
printf '%s' "$volumeTable" > "$out/etc/volumes"

mkdir store
cp -R "$out" store/
mkfs.erofs --quiet -T 0 -L nix-store --all-root "$disk" store 2>&1
