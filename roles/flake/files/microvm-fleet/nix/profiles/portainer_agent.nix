# Portainer's agent, as a container of the guest's own Docker engine.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  settings = config.fleet.profiles.portainer_agent;
in
{
  imports = [
    (import ./docker/portainer.nix {
      name = "portainer-agent";
      inherit settings;
      run = {
        ports = [ "${toString settings.port}:9001" ];
        volumes = [
          "/var/run/docker.sock:/var/run/docker.sock"
          "/var/lib/docker/volumes:/var/lib/docker/volumes"
        ];
      };
    })
  ];

  options.fleet.profiles.portainer_agent = import ./docker/portainer-options.nix lib // {
    port = mkOption {
      type = types.ints.between 1 65535;
      description = "The TCP port that the server reaches the agent at.";
    };
  };

  config.networking.firewall.allowedTCPPorts = [ settings.port ];
}
