# Options that both profiles of Portainer have.
lib:
let
  inherit (lib) mkOption types;
in
{
  version = mkOption {
    type = types.strMatching "[0-9]+[.][0-9]+[.][0-9]+(-[a-z0-9]+)?";
    description = "The release, the same for the server and all agents.";
  };
  image = mkOption {
    type = types.strMatching "[a-z0-9][a-z0-9._:/-]*";
    description = "The image's name, with the registry if it is another than Docker's, without the tag.";
  };
  digest = mkOption {
    type = types.nullOr (types.strMatching "sha256:[0-9a-f]{64}");
    description = "The digest that the image must have.";
  };
  image_file = mkOption {
    type = types.nullOr (types.strMatching "/nix/store/[0-9a-z]{32}-[A-Za-z0-9+._?=-]+");
    description = "An archive of docker-save(1) in the host's store, loaded instead of asking a registry.";
  };
}
