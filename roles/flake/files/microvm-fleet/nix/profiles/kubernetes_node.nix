# A node of a Kubernetes cluster, which runs pods.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  settings = config.fleet.profiles.kubernetes_node;
in
{
  imports = [
    (import ./cluster/kubernetes.nix {
      roles = [ "node" ];
      inherit settings;
      inherit (settings) master;
    })
  ];

  options.fleet.profiles.kubernetes_node = import ./cluster/options.nix lib // {
    master = mkOption {
      type = types.str;
      description = "The master to join: a guest of the inventory, or an address.";
    };
    cluster_cidr = mkOption {
      type = types.str;
      description = "Addresses of pods, as the master has it.";
    };
    service_cidr = mkOption {
      type = types.str;
      description = "Addresses of services, as the master has it.";
    };
  };
}
