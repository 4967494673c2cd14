# Guests for the testbed: what microvm.nix's nixosConfigurations look like from
# outside, made from the host's own kernel and tools.  No inputs, no network.
{
  description = "Stand-in MicroVM guests, described by guests.json";

  outputs =
    { self }:
    {
      nixosConfigurations = import ./guests.nix (builtins.fromJSON (builtins.readFile ./guests.json));
    };
}
