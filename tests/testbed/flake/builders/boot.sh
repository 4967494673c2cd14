# shellcheck shell=sh
# Makes the kernel and the initramfs that all guests share, from the host's
# linux-image-cloud-amd64, busybox-static, kmod and cpio.
set -eu
PATH=/usr/bin:/bin:/usr/sbin:/sbin

release=
for kernel in /boot/vmlinuz-*-cloud-amd64; do
  if [ -e "$kernel" ] && [ -d "/lib/modules/${kernel#/boot/vmlinuz-}" ]; then
    release=${kernel#/boot/vmlinuz-}
  fi
done
if [ -z "$release" ]; then
  echo "no kernel for guests here: install linux-image-cloud-amd64" >&2
  exit 1
fi
if [ ! -x /bin/busybox ]; then
  echo "no busybox here: install busybox-static" >&2
  exit 1
fi

mkdir -p "${out:?}" root/bin root/dev root/etc root/lib/modules root/nix/store \
  root/proc root/run root/sys root/tmp root/www
cp "/boot/vmlinuz-$release" "$out/kernel"
cp /bin/busybox root/bin/busybox
cp "${stage1:?}" root/init
cp "${dhcp:?}" root/etc/udhcpc
chmod 0755 root/init root/etc/udhcpc root/bin/busybox
for applet in $(busybox --list); do
  [ "$applet" = busybox ] || ln -s busybox "root/bin/$applet"
done

# collect LIST MODULE...: copies modules with all that they need, and writes
# their names to LIST in the order in which they must be loaded.
collect() {
  list=root/lib/modules/$1
  shift
  : > "$list"
  for module in "$@"; do
    modprobe -S "$release" --show-depends "$module"
  done | while read -r verb file _; do
    # "builtin" else.
    [ "$verb" = insmod ] || continue
    name=${file##*/}
    name=${name%%.ko*}
    # Only for a CPU that the guest does not have; there is a generic one.
    [ "$name" != crc32c-intel ] || continue
    [ ! -e "root/lib/modules/$name.ko" ] || continue
    case $file in
      *.xz) busybox xzcat "$file" > "root/lib/modules/$name.ko" ;;
      *.gz) busybox zcat "$file" > "root/lib/modules/$name.ko" ;;
      *) cp "$file" "root/lib/modules/$name.ko" ;;
    esac
    echo "$name" >> "$list"
  done
}
collect early virtio_pci virtio_net virtio_blk erofs ext4
collect shares virtiofs
collect button button evdev
collect notify virtio_console
collect late virtio_rng virtio_balloon

# The same bytes from every build.  Not packed: to read some more megabytes is
# faster than to unpack them on an emulated CPU.
find root -exec touch -h -d @1 {} +
(cd root && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --reproducible --quiet) > "$out/initrd"
