# What stands in for nixpkgs' lib: README.md, one directory up.
let
  lib =
    import ./basics.nix
    // import ./modules.nix { inherit lib; }
    // {
      generators = import ./generators.nix { inherit lib; };
      types = import ./types.nix { inherit lib; };
      listed = import ./listed.nix { inherit lib; };
      inherit lib;
      version = "25.11.standin";
      trivial = {
        release = "25.11";
        version = "25.11.standin";
        inherit (lib) importJSON;
      };
      modules = { inherit (lib) mkIf mkMerge evalModules; };
      # Libraries by the name of their part too.
      strings = lib;
      lists = lib;
      attrsets = lib;
      options = lib;
      meta = lib;
    };
in
lib
