# A container of Portainer.  name: of the container; settings: the options of its profile; run: its further settings.
{
  name,
  settings,
  run,
}:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  secret = "fleet-${name}-secret";
  directory = "/run/fleet-${name}";
  # A path that is in the store already, as Nix knows one: with it the image becomes part of the guest.
  inStore =
    path:
    builtins.appendContext path {
      ${builtins.unsafeDiscardStringContext path}.path = true;
    };
in
{
  imports = [ ./engine.nix ];

  virtualisation.oci-containers.backend = "docker";
  virtualisation.oci-containers.containers.${name} = lib.mkMerge [
    {
      image =
        "${settings.image}:${settings.version}" + lib.optionalString (settings.digest != null) "@${settings.digest}";
      environmentFiles = [ "${directory}/environment" ];
      log-driver = "local";
    }
    (lib.mkIf (settings.image_file != null) { imageFile = inStore settings.image_file; })
    run
  ];

  # The program takes its secret from the environment only.
  systemd.services.${secret} = {
    description = "Secret of ${name}";
    requiredBy = [ "docker-${name}.service" ];
    before = [ "docker-${name}.service" ];
    path = [ pkgs.coreutils ];
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
      RuntimeDirectory = "fleet-${name}";
      RuntimeDirectoryMode = "0700";
      ExecStart = lib.escapeShellArgs [
        "${pkgs.runtimeShell}"
        "${./environment.sh}"
        "AGENT_SECRET"
        config.fleet.credentials.portainer-agent-secret
        "${directory}/environment"
      ];
    };
  };

  systemd.services."docker-${name}" = {
    requires = [ "docker.service" ];
    after = [ "docker.service" ];
  };
}
