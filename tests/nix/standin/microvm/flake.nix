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
          declare = nixpkgs.lib.listed.declare {
            list = nixpkgs.lib.importJSON ./microvm.json;
            # The list has what microvm.nix gives when nobody has set it; there it is an error.
            none = [ "microvm.volumes.*.mountPoint" ];
            more = {
              # They are made of the system, and the system is made of what is set.
              "microvm.runner".internal = true;
              "microvm.declaredRunner".internal = true;
            };
          };
          testbed = ./testbed;
        };
        host = ./host.nix;
      };
    };
}
