# The master of a Kubernetes cluster: its API, its state, its authority for certificates.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  settings = config.fleet.profiles.kubernetes_master;
in
{
  imports = [
    (import ./cluster/kubernetes.nix {
      roles = [ "master" ] ++ lib.optional settings.run_pods "node";
      inherit settings;
      master = settings.node_ip;
    })
  ];

  options.fleet.profiles.kubernetes_master = import ./cluster/options.nix lib // {
    node_ip = mkOption {
      type = types.str;
      description = "The address that the cluster reaches the master by.";
    };
    cluster_cidr = mkOption {
      type = types.str;
      description = "Addresses of pods.";
    };
    service_cidr = mkOption {
      type = types.str;
      description = "Addresses of services.";
    };
    tls_sans = mkOption {
      type = types.listOf (types.strMatching "[A-Za-z0-9*][A-Za-z0-9.:-]*");
      description = "Further names and addresses for the certificate of the API.";
    };
    allow_privileged = mkOption {
      type = types.bool;
      description = "Allow pods with privileged containers.";
    };
    run_pods = mkOption {
      type = types.bool;
      description = "Run pods of users here too.";
    };
  };

  config = {
    services.kubernetes.apiserver = {
      # Without it the certificate of the API is asked for with an empty name.
      advertiseAddress = settings.node_ip;
      allowPrivileged = settings.allow_privileged;
      extraSANs = settings.tls_sans;
      # Host names of nodes are in no DNS.
      preferredAddressTypes = "InternalIP,Hostname";
    };

    networking.firewall.allowedTCPPorts = [
      # The API.
      6443
      # The authority, where machines ask for their certificates.
      8888
    ];

    # The authority outlives the guest's root.
    fileSystems."/var/lib/cfssl" = {
      device = "/var/lib/kubernetes/cfssl";
      fsType = "none";
      options = [ "bind" ];
      depends = [ "/var/lib/kubernetes" ];
    };
    systemd.services.cfssl.unitConfig.RequiresMountsFor = [ "/var/lib/cfssl" ];
    systemd.services.etcd.unitConfig.RequiresMountsFor = [ "/var/lib/etcd" ];
  };
}
