# The Docker engine of a guest, for all profiles that need one.
{
  virtualisation.docker = {
    enable = true;
    # An engine with it refuses to be in a swarm (docs.docker.com, "Live restore").
    liveRestore = false;
    # What the engine would choose on ext4, xfs and btrfs alike; said here, so that no later release chooses another.
    storageDriver = "overlay2";
    logDriver = "local";
  };

  # Images, containers, volumes and the state of a swarm.
  systemd.services.docker.unitConfig.RequiresMountsFor = [ "/var/lib/docker" ];

  # The module of the engine has bridge, veth, br_netfilter and xt_nat.
  boot.kernelModules = [
    "overlay"
    "xt_addrtype"
    "xt_conntrack"
    "xt_MASQUERADE"
  ];
}
