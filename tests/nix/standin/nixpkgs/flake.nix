# A stand-in for nixpkgs, for tests without a network: a small module system
# with the NixOS options of a list, and packages that are Debian's programs.
{
  description = "Stand-in for nixpkgs";

  outputs =
    { self }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      lib = import ./lib;
      pkgsFor = system: import ./pkgs.nix { inherit lib system; };
      nixosSystem = import ./nixos {
        inherit lib pkgsFor;
        list = ./nixos.json;
      };
      full = lib // {
        inherit nixosSystem;
      };
    in
    {
      lib = full;
      legacyPackages = lib.genAttrs systems pkgsFor;
    };
}
