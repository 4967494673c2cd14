# Portainer's server, as a container of the guest's own Docker engine.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  settings = config.fleet.profiles.portainer_server;
  inherit (config.fleet) credentials;
  hasPassword = credentials ? portainer-admin-password;
  ports = [ settings.port ] ++ lib.optional (settings.tunnel_port != null) settings.tunnel_port;
in
{
  imports = [
    (import ./docker/portainer.nix {
      name = "portainer";
      inherit settings;
      run = {
        ports = [
          "${toString settings.port}:9443"
        ]
        ++ lib.optional (settings.tunnel_port != null) "${toString settings.tunnel_port}:8000";
        volumes = [
          "/var/run/docker.sock:/var/run/docker.sock"
          "/var/lib/portainer:/data"
        ]
        ++ lib.optional hasPassword "${credentials.portainer-admin-password}:/run/admin-password:ro";
        cmd = lib.optionals hasPassword [
          "--admin-password-file"
          "/run/admin-password"
        ];
      };
    })
  ];

  options.fleet.profiles.portainer_server = import ./docker/portainer-options.nix lib // {
    port = mkOption {
      type = types.ints.between 1 65535;
      description = "The TCP port of the web interface (HTTPS).";
    };
    tunnel_port = mkOption {
      type = types.nullOr (types.ints.between 1 65535);
      description = "The TCP port that edge agents connect to; without it, there is none.";
    };
  };

  config = {
    networking.firewall.allowedTCPPorts = ports;
    systemd.services.docker-portainer.unitConfig.RequiresMountsFor = [ "/var/lib/portainer" ];
  };
}
