# A stand-in for microvm.nix: its options as a list has them, runners that boot
# Debian's kernel, and the units of its host module.
{
  description = "Stand-in for microvm.nix";

  inputs.nixpkgs.url = "flake:nixpkgs";

  outputs =
    { self, nixpkgs }:
    {
      nixosModules = {
        microvm = import ./guest.nix {
          list = ./microvm.json;
          testbed = ./testbed;
        };
        host = ./host.nix;
      };
    };
}
