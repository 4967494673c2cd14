# The outputs of the flake: nixosConfigurations with every guest of guests.json, and the host of host.json.
#
# Nothing here fails for all because of one: a guest that cannot be is an error of its own attribute.
inputs:

let
  inherit (inputs) base microvm nixpkgs;
  inherit (nixpkgs) lib;

  # What the Ansible collection writes.  A file that is missing is one that says nothing.
  read = name: default:
    let
      file = ../. + "/${name}";
      value = builtins.fromJSON (builtins.readFile file);
      version = value.version or null;
    in
    if !builtins.pathExists file then default
    else if version == 1 then value
    else throw "${name} has version ${builtins.toJSON version}, and these files read version 1: install both with the same release of microvm.fleet.";

  described = read "guests.json" { guests = { }; };
  system = described.system or null;
  host = read "host.json" null;

  profiles = if builtins.pathExists ./profiles/default.nix then import ./profiles else { };

  # Names in a row, for a message.
  names = set: if set == { } then "none" else lib.concatStringsSep ", " (builtins.attrNames set);

  profileOf = name: profile: profiles.${profile} or (throw
    "guest ${name}, profiles: there is no profile ${profile}; there are ${names profiles}.");

  # A file or directory (with a default.nix) below modules/.
  moduleOf = name: path:
    let file = ../modules + "/${path}";
    in
    if builtins.pathExists file then file else throw
      "guest ${name}, modules: ${path} is not in /etc/microvm-fleet/modules. The role microvm.fleet.flake copies it there from beside the inventory or the playbook.";

  guest = name: description: lib.nixosSystem {
    inherit system;
    specialArgs.fleet = import ./facts.nix { inherit inputs name description lib; };
    modules = [ microvm.nixosModules.microvm ./guest.nix ]
      ++ map (profileOf name) (builtins.attrNames description.profiles)
      ++ map (moduleOf name) description.modules;
  };

  # The user's own configuration of the host, as it is.
  configurations = base.nixosConfigurations or { };
  ownConfiguration = configurations.${host.name} or (
    if base ? anyHost then base.anyHost (host.system or system) else throw
      "host.json names the host ${host.name}, and the base flake has no nixosConfigurations.${host.name}; it has: ${names configurations}. Name one of them in microvm_host_system_name, or have the flake that microvm_flake_base names describe this host."
  );

  hosts = lib.optionalAttrs (host != null) {
    ${host.name} =
      if described.guests ? ${host.name} then throw
        "${host.name} is the name of this host in host.json and of a guest in guests.json: give the guest another name."
      # Imported there.
      else if ownConfiguration.options ? fleet then
        if ownConfiguration.config.fleet.source == toString ../. then ownConfiguration
        else throw "nixosConfigurations.${host.name} of the base flake imports nix/host.nix from ${ownConfiguration.config.fleet.source}, which has other JSON than this host: give the input that it comes from the name microvm-fleet."
      # A host that the collection has left, or is to leave.
      else if host.bare or false then ownConfiguration
      else ownConfiguration.extendModules {
        # What the user has imported already would be declared twice.
        modules = lib.optional (!((ownConfiguration.options.microvm or { }) ? autostart)) microvm.nixosModules.host ++ [ ./host.nix ];
      };
  };
in
{
  nixosConfigurations = builtins.mapAttrs guest described.guests // hosts;
}
