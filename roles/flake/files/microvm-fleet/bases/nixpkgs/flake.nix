# Installed by the Ansible role microvm.fleet.flake: the base of a host that has no NixOS configuration of its own.
{
  description = "Nixpkgs, and no host";

  inputs.nixpkgs.url = "flake:microvm-fleet-nixpkgs";

  outputs = _: { nixosConfigurations = { }; };
}
