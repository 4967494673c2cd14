# guests.json, parsed -> { NAME = { config = ...; }; }
#
# { "defaults": { FIELD = ...; }, "guests": { NAME: { FIELD = ...; } } }
# A guest's own fields win over "defaults".  README.md has the table of fields.
data:
let
  boot = import ./boot.nix;
  makeGuest = import ./guest.nix { inherit boot; };
  defaults = data.defaults or { };
in
builtins.mapAttrs (name: fields: { config = makeGuest name (defaults // fields); }) data.guests
