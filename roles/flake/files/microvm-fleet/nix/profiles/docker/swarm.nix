# What every node of a swarm has; `role` is manager or worker, `settings` the options of its profile.
{
  role,
  settings,
  arguments,
}:
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
{
  imports = [ ./engine.nix ];

  config = {
    # Overlay networks, the mesh that publishes ports on all nodes, and with encryption IPsec between nodes.
    boot.kernelModules = [
      "vxlan"
      "ip_vs"
      "ip_vs_rr"
      "xt_ipvs"
      "xt_mark"
      "xt_nat"
      "xt_REDIRECT"
    ]
    ++ lib.optionals settings.encrypted [
      "esp4"
      "xfrm_user"
      "xt_policy"
      "xt_bpf"
    ];

    networking.firewall = {
      # Among nodes: their gossip, and the data path.
      allowedTCPPorts = [ 7946 ] ++ lib.optional (role == "manager") 2377;
      allowedUDPPorts = [
        7946
        settings.data_path_port
      ];
      # IP protocol 50, for which there is no option.
      extraCommands = lib.mkIf (settings.encrypted && !config.networking.nftables.enable) ''
        iptables -w -A nixos-fw -p esp -j nixos-fw-accept
      '';
      extraInputRules = lib.mkIf (settings.encrypted && config.networking.nftables.enable) ''
        meta l4proto esp accept
      '';
    };

    systemd.services.fleet-swarm = {
      description = "Node of a Docker swarm (${role})";
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
      ];
      # For as long as it takes: the manager may come up later than this guest.
      startLimitIntervalSec = 0;
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = utils.escapeSystemdExecArgs (
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
  };
}
