# Kernel and initramfs of all guests, from what the host has.
derivation {
  name = "linux-testbed-guest";
  system = "x86_64-linux";
  builder = "/bin/sh";
  args = [ ./builders/boot.sh ];
  stage1 = ./guest/stage1;
  dhcp = ./guest/udhcpc;
}
