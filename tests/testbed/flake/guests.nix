# guests.json, parsed -> { NAME = { config = ...; }; }
#
# { "defaults": { FIELD = ...; }, "guests": { NAME: { FIELD = ...; } } }
# A guest's own fields win over "defaults".  README.md has the table of fields.
data:
let
  boot = derivation {
    name = "linux-testbed-guest";
    system = "x86_64-linux";
    builder = "/bin/sh";
    args = [ ./builders/boot.sh ];
    stage1 = ./guest/stage1;
    dhcp = ./guest/udhcpc;
  };
  makeGuest = import ./guest.nix { inherit boot; };
  defaults = data.defaults or { };
in
builtins.mapAttrs (name: fields: { config = makeGuest name (defaults // fields); }) data.guests
