# The static flake with the stand-ins as its inputs, evaluated without a store
# and without `nix flake`: what Nix would give for the flake in `directory`.
#
# directory: the static flake, with guests.json, host.json, networks.json and
# modules/ as they are on a host.  base: the outputs of the base flake.
{
  directory,
  base ? null,
  standin ? ./standin,
}:
let
  flake =
    place: inputs:
    let
      outputs = (import (place + "/flake.nix")).outputs (
        inputs
        // {
          self = outputs // {
            outPath = toString place;
            inherit inputs;
          };
        }
      );
    in
    outputs // { outPath = toString place; };
  nixpkgs = flake (standin + "/nixpkgs") { };
  microvm = flake (standin + "/microvm") { inherit nixpkgs; };
  bare = {
    nixosConfigurations = { };
    inputs = { inherit nixpkgs; };
  };
in
{
  inherit nixpkgs microvm;
  fleet = flake directory {
    inherit nixpkgs microvm;
    base = if base == null then bare else base { inherit nixpkgs microvm; };
  };
}
