# A manager of a Docker swarm: the first one makes the swarm, others join it.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  settings = config.fleet.profiles.docker_swarm_manager;
in
{
  imports = [
    (
      { ... }@arguments:
      {
      }
    )
  ];

  options.fleet.profiles.docker_swarm_manager = {
  };
}
