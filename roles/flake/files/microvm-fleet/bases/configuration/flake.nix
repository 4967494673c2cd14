# Installed by the Ansible role microvm.fleet.flake: the base of a NixOS host whose configuration is no flake.
{
  description = "A host by its configuration.nix";

  inputs = {
    nixpkgs.url = "flake:microvm-fleet-nixpkgs";
    configuration = {
      url = "flake:microvm-fleet-configuration";
      flake = false;
    };
  };

  # The host has whatever name host.json says, so there is one configuration for every name.
  outputs = { nixpkgs, configuration, ... }: {
    nixosConfigurations = { };
    anyHost = system: nixpkgs.lib.nixosSystem {
      inherit system;
      modules = [ "${configuration}/configuration.nix" ];
    };
  };
}
