# What modules of a guest may know of it: their argument `fleet`.
{ inputs, name, description, lib }:

let
  # Interfaces have the names net0, net1, ... in the guest, in the order of the description, whatever else is plugged in.
  interfaces = lib.imap0
    (number: interface: interface // { name = "net${toString number}"; })
    description.interfaces;
  addresses = lib.concatMap (interface: interface.addresses) interfaces;
  bare = address: builtins.head (lib.splitString "/" address);
  isIPv6 = address: builtins.match ".*:.*" address != null;
  first = list: if list == [ ] then null else builtins.head list;
in
{
  inherit inputs name description interfaces;

  # The name of the first interface in the guest; null without any.
  interface = first (map (one: one.name) interfaces);

  # The first address of each family, without its prefix length; null without any.
  ipv4 = first (map bare (builtins.filter (one: !isIPv6 one) addresses));
  ipv6 = first (map bare (builtins.filter isIPv6 addresses));
}
