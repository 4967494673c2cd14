# lib.nixosSystem: modules -> { config, options, pkgs, extendModules }.
{
  lib,
  pkgsFor,
  list,
}:
let
  base = import ./system.nix {
    declare = lib.listed.declare {
      list = lib.importJSON list;
      guess = true;
    };
  };
in
{
  modules,
  system ? null,
  specialArgs ? { },
  pkgs ? pkgsFor (if system == null then throw "nixosSystem: the stand-in needs the argument `system'" else system),
}:
let
  with' =
    evaluated:
    evaluated
    // {
      inherit pkgs;
      extendModules = more: with' (evaluated.extendModules more);
    };
in
with' (
  lib.evalModules {
    specialArgs = {
      modulesPath = toString ./.;
    }
    // specialArgs;
    modules = [
      base
      {
        _file = "nixos/default.nix";
        _module.args = { inherit pkgs; };
      }
    ]
    ++ modules;
  }
)
