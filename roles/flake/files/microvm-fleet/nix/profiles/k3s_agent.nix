# A node of a k3s cluster that runs pods.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  settings = config.fleet.profiles.k3s_agent;
in
{
  imports = [
    (import ./cluster/k3s.nix {
      role = "agent";
      inherit settings;
    })
  ];

  options.fleet.profiles.k3s_agent = import ./cluster/options.nix lib // {
    server = mkOption {
      type = types.str;
      description = "The server to join: a guest of the inventory, or an address.";
    };
    flannel_backend = mkOption {
      type = types.enum [
        "vxlan"
        "host-gw"
        "wireguard-native"
        "none"
      ];
      description = "The backend that the servers have; decides which port is opened.";
    };
  };
}
