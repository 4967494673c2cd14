# A flake that has another host only.
{
  inputs.nixpkgs.url = "path:/srv/nixpkgs";

  outputs =
    { nixpkgs, ... }:
    {
      nixosConfigurations.other = nixpkgs.lib.nixosSystem {
        system = "x86_64-linux";
        modules = [ { system.stateVersion = "25.11"; } ];
      };
    };
}
