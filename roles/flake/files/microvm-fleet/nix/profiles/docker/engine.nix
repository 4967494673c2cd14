# The Docker engine of a guest, for all profiles that need one.
{ config, lib, ... }:
{
  virtualisation.docker = {
    enable = true;
    # An engine in a swarm refuses to start with it (docs.docker.com, "Live restore").
    liveRestore = false;
    # What the daemon would choose on ext4, xfs and btrfs alike; said, so that a new release chooses no other.
    storageDriver = "overlay2";
    logDriver = "local";
  };

  # Images, containers, volumes and a swarm's state.
  systemd.services.docker.unitConfig.RequiresMountsFor = [ "/var/lib/docker" ];

  # What containers and their networks load on demand elsewhere; the engine's own module names bridge, veth,
  # br_netfilter and xt_nat.
  boot.kernelModules = [
    "overlay"
    "xt_addrtype"
    "xt_conntrack"
    "xt_MASQUERADE"
  ];
}
