# Installed by the Ansible role microvm.fleet.flake, the same on every host.  What differs is in the JSON files beside it.
{
  description = "MicroVMs of this host, and this host itself when it runs NixOS";

  inputs = {
    # What these two are is said in registry.json, and flake.lock keeps it.
    base.url = "flake:microvm-fleet-base";
    microvm.url = "flake:microvm-fleet-microvm";

    # A base that imports nix/host.nix from an input of this name has it, and the JSON, from here.
    base.inputs.microvm-fleet.follows = "";
    nixpkgs.follows = "base/nixpkgs";
    microvm.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs = inputs: import ./nix/outputs.nix inputs;
}
