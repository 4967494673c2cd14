# Installed by the Ansible role microvm.fleet.flake, the same on every host.  What differs is in the JSON files beside it.
{
  description = "MicroVMs of this host, and this host itself when it runs NixOS";

  inputs = {
    # What these two are is said in registry.json, and flake.lock keeps it.
    base.url = "flake:microvm-fleet-base";
    microvm.url = "flake:microvm-fleet-microvm";

    nixpkgs.follows = "base/nixpkgs";
    microvm.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs = inputs: import ./nix/outputs.nix inputs;
}
