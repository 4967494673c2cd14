# What every node of a swarm has.  role: manager or worker; settings: the options of its profile; arguments: further ones
# of swarm.sh.
{
  role,
  settings,
  arguments,
}:
{
  config,
  lib,
  pkgs,
  ...
}:
{
  imports = [ ./engine.nix ];

  # Overlay networks, the mesh that publishes ports on all nodes, and for encrypted networks IPsec.
  boot.kernelModules = [
    "vxlan"
    "ip_vs"
    "ip_vs_rr"
    "xt_ipvs"
    "xt_mark"
    "xt_REDIRECT"
  ]
  ++ lib.optionals settings.encrypted_networks [
    "esp4"
    "xfrm_user"
    "xt_bpf"
    "xt_policy"
  ];

  networking.firewall = {
    # Gossip among nodes, the data path between them, and the managers' API.
    allowedTCPPorts = [ 7946 ] ++ lib.optional (role == "manager") 2377;
    allowedUDPPorts = [
      7946
      settings.data_path_port
    ];
    # IP protocol 50 has no option.
    extraCommands = lib.mkIf (settings.encrypted_networks && !config.networking.nftables.enable) ''
      iptables -w -A nixos-fw -p esp -j nixos-fw-accept
    '';
    extraInputRules = lib.mkIf (settings.encrypted_networks && config.networking.nftables.enable) ''
      meta l4proto esp accept
    '';
  };

  systemd.services.fleet-swarm = {
    description = "Node of a Docker swarm";
    wantedBy = [ "multi-user.target" ];
    wants = [ "network-online.target" ];
    requires = [ "docker.service" ];
    after = [
      "docker.service"
      "network-online.target"
    ];
    path = [
      config.virtualisation.docker.package
      pkgs.coreutils
      pkgs.curl
    ];
    # It tries for as long as it takes: the manager may come up later than this guest.
    startLimitIntervalSec = 0;
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
      ExecStart = lib.escapeShellArgs (
        [
          "${pkgs.runtimeShell}"
          "${./swarm.sh}"
          role
          "--advertise"
          settings.advertise_address
          "--data-path-port"
          (toString settings.data_path_port)
        ]
        ++ arguments
      );
      Restart = "on-failure";
      RestartSec = 15;
      # Called wrongly, or nothing that another try would mend.
      RestartPreventExitStatus = "2 3";
      TimeoutStartSec = 300;
    };
  };
}
