# A server of a k3s cluster: the first one, or a further one.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  settings = config.fleet.profiles.k3s_server;
  # Servers with etcd talk to each other through it.
  etcd = settings.cluster_init || settings.server != null;
in
{
  imports = [
    (import ./cluster/k3s.nix {
      role = "server";
      inherit settings;
    })
  ];

  options.fleet.profiles.k3s_server = import ./cluster/options.nix lib // {
    server = mkOption {
      type = types.nullOr types.str;
      description = "An earlier server to join; without it, this is the first one.";
    };
    cluster_init = mkOption {
      type = types.bool;
      description = "Keep the cluster's state in etcd, so that further servers can join.";
    };
    flannel_backend = mkOption {
      type = types.enum [
        "vxlan"
        "host-gw"
        "wireguard-native"
        "none"
      ];
      description = "How pods reach pods on other nodes; the same on all servers.";
    };
    cluster_cidr = mkOption {
      type = types.str;
      description = "Addresses of pods.";
    };
    service_cidr = mkOption {
      type = types.str;
      description = "Addresses of services.";
    };
    disable = mkOption {
      type = types.listOf (
        types.enum [
          "coredns"
          "local-storage"
          "metrics-server"
          "servicelb"
          "traefik"
        ]
      );
      description = "Parts of k3s that are not deployed.";
    };
    tls_sans = mkOption {
      type = types.listOf (types.strMatching "[A-Za-z0-9*][A-Za-z0-9.:-]*");
      description = "Further names and addresses for the certificate of the API.";
    };
    disable_agent = mkOption {
      type = types.bool;
      description = "Run no pods here.";
    };
  };

  config = {
    services.k3s = {
      clusterInit = settings.cluster_init;
      disableAgent = settings.disable_agent;
      extraFlags = [
        "--flannel-backend=${settings.flannel_backend}"
        "--cluster-cidr=${settings.cluster_cidr}"
        "--service-cidr=${settings.service_cidr}"
      ]
      ++ map (part: "--disable=${part}") settings.disable
      ++ map (name: "--tls-san=${name}") settings.tls_sans;
    };

    networking.firewall.allowedTCPPorts = [
      6443
    ]
    ++ lib.optionals etcd [
      2379
      2380
    ];
  };
}
