# A manager of a Docker swarm: the first one makes the swarm, others join it.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  settings = config.fleet.profiles.docker_swarm_manager;
in
{
  imports = [
    (import ./docker/swarm.nix {
      role = "manager";
      inherit settings;
      arguments =
        if settings.manager == null then
          [
            "--pool"
            settings.address_pool
            "--subnet-size"
            (toString settings.subnet_size)
          ]
        else
          [
            "--join"
            settings.manager
            "--token-file"
            config.fleet.credentials.swarm-manager-token
          ];
    })
  ];

  options.fleet.profiles.docker_swarm_manager = {
    manager = mkOption {
      type = types.nullOr types.str;
      description = "A manager whose swarm to join; without it, this one makes a new swarm.";
    };
    advertise_address = mkOption {
      type = types.nullOr types.str;
      description = "The address of this guest that other nodes reach it by.";
    };
    data_path_port = mkOption {
      type = types.ints.between 1024 49151;
      description = "The UDP port of overlay networks, the same on all nodes. VXLAN of hosts has 4789 and 8472.";
    };
    address_pool = mkOption {
      type = types.str;
      description = "Where a new swarm takes the subnets of its overlay networks from.";
    };
    subnet_size = mkOption {
      type = types.ints.between 16 29;
      description = "The prefix length of each of these subnets.";
    };
    encrypted_networks = mkOption {
      type = types.bool;
      description = "Let ESP through, for overlay networks with the option encrypted.";
    };
  };
}
