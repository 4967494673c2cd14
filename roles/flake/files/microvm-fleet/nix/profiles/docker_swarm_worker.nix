# A worker of a Docker swarm.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  settings = config.fleet.profiles.docker_swarm_worker;
in
{
  imports = [
    (import ./docker/swarm.nix {
      role = "worker";
      inherit settings;
      arguments = [
        "--join"
        settings.manager
        "--token-file"
        config.fleet.credentials.swarm-worker-token
      ];
    })
  ];

  options.fleet.profiles.docker_swarm_worker = {
    manager = mkOption {
      type = types.str;
      description = "A manager of the swarm to join.";
    };
    advertise_address = mkOption {
      type = types.nullOr types.str;
      description = "The address of this guest that other nodes reach it by.";
    };
    data_path_port = mkOption {
      type = types.ints.between 1024 49151;
      description = "The UDP port of overlay networks, as its manager has it.";
    };
    encrypted_networks = mkOption {
      type = types.bool;
      description = "Let ESP through, for overlay networks with the option encrypted.";
    };
  };
}
