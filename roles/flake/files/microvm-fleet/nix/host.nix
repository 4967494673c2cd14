# The host part: what a NixOS host has for the MicroVMs that the Ansible collection keeps on it.  A NixOS module, for a
# configuration that also imports microvm.nixosModules.host.  What differs from host to host is in host.json and
# networks.json beside this directory; what is the same on hosts without NixOS is read from units/.
{ config, lib, pkgs, ... }:

let
  inherit (builtins) elemAt foldl' fromJSON groupBy head isString length mapAttrs match pathExists readFile removeAttrs replaceStrings split;
  inherit (lib) attrNames concatMap concatMapStrings filter filterAttrs genAttrs hasSuffix listToAttrs mapAttrs' mkDefault mkForce mkIf mkMerge mkOption nameValuePair removeSuffix splitString types;

  read = file: default: if pathExists file then fromJSON (readFile file) else default;

  host = read ../host.json {
    autostart = [ ];
    start_timeout = 150;
    stop_timeout = 150;
    writable_paths = [ ];
    kernel_modules = [ ];
    guests = { };
  };
  networks = read ../networks.json { files = { }; foreign = false; sets = { }; sysctl = [ ]; dhcp = [ ]; };
  networked = networks.files != { };

  # The units name this directory, and a state directory that microvm.nix would let a host move.
  stateDir = "/var/lib/microvms";
  checked =
    if config.microvm.stateDir == stateDir then stateDir
    else throw "microvm.stateDir is ${config.microvm.stateDir}, and the collection microvm.fleet keeps its guests in ${stateDir}: leave the option out.";

  # Paths of a host without NixOS, and what they are here.  The longer of two names comes first.
  inStore = replaceStrings
    [ "#!/bin/sh" "/usr/bin/python3" "/bin/rm" ]
    [ "#!${pkgs.runtimeShell}" "${pkgs.python3}/bin/python3" "${pkgs.coreutils}/bin/rm" ];
  script = name: text: "${pkgs.writeScript "microvm-fleet-${name}" (inStore text)}";
  data = name: text: "${pkgs.writeText "microvm-fleet-${name}" text}";
  sysctl = concatMapStrings (pair: "${elemAt pair 0} = ${elemAt pair 1}\n") networks.sysctl;
  loader = replaceStrings
    [ "/usr/local/lib/microvm-fleet/network.nft" "/var/lib/microvm-fleet/network/sets.json" "/etc/sysctl.d/90-microvm-fleet.conf" ]
    [ "${./units/network.nft}" (data "sets.json" (builtins.toJSON networks.sets)) (data "sysctl.conf" sysctl) ]
    (readFile ./units/network);
  programs = {
    helper = script "helper" (readFile ./units/helper);
    "stop.py" = script "stop.py" (readFile ./units/stop.py);
    network = script "network" loader;
  };
  placed = value: inStore (replaceStrings
    (map (name: "/usr/local/lib/microvm-fleet/${name}") (attrNames programs))
    (map (name: programs.${name}) (attrNames programs))
    value);

  # [ section key value ] of each line of a unit file (systemd.syntax(7)), as units/ has them: without continued lines.
  settingsOf = name: text:
    let
      lines = filter (line: isString line && line != "" && match "[#;].*" line == null) (split "\n" text);
      add = state: line:
        let
          title = match "\\[([A-Za-z]+)]" line;
          pair = match "([A-Za-z]+)=(.*[^\\]|)" line;
        in
        if title != null then state // { section = head title; }
        else if pair == null || state.section == null then throw "units/${name}: this line is no setting: ${line}"
        else state // { found = state.found ++ [ ([ state.section ] ++ pair) ]; };
    in
    (foldl' add { section = null; found = [ ]; } lines).found;

  # { Section.Key = [ values ]; } of such settings.
  bySection = settings:
    mapAttrs (_: some: mapAttrs (_: map (one: elemAt one 2)) (groupBy (one: elemAt one 1) some)) (groupBy head settings);
  one = values: if length values == 1 then head values else values;

  # What NixOS has as lists, so that a host's configuration can add to them.
  lists = {
    After = "after";
    Before = "before";
    Conflicts = "conflicts";
    Documentation = "documentation";
    PartOf = "partOf";
    Requires = "requires";
    Wants = "wants";
  };
  words = concatMap (value: filter (word: word != "") (splitString " " value));

  # A unit of units/ as NixOS declares units.  What it says wins over what microvm.nix says of the same unit.
  unit = name: more:
    let
      said = bySection (settingsOf name (readFile (./units + "/${name}")));
      service = said.Service // more (said.Service);
    in
    mapAttrs' (key: values: nameValuePair lists.${key} (words values)) (filterAttrs (key: _: lists ? ${key}) said.Unit)
    // {
      description = mkForce (one said.Unit.Description);
      unitConfig = mapAttrs (_: values: mkForce (one (map placed values)))
        (removeAttrs said.Unit (attrNames lists ++ [ "Description" ]));
      serviceConfig = mapAttrs (_: values: mkForce (one (map placed values))) service;
      # microvm.nix makes the start of one of them of this.
      script = mkForce "";
    };

  # Guests run on through a switch; their next start is by the new units.
  guestUnit = name: more: unit "${name}.service" more // { restartIfChanged = false; };

  # What host.json says of one guest's unit, as a drop-in beside what holds for all.
  dropIn = settings:
    let said = bySection settings;
    in
    {
      overrideStrategy = "asDropin";
      restartIfChanged = false;
      path = mkForce [ ];
      unitConfig = mapAttrs (_: one) (said.Unit or { });
      serviceConfig = mapAttrs (_: one) (said.Service or { });
    };
  dropIns = prefix: key: mapAttrs'
    (name: guest: nameValuePair "${prefix}@${name}" (dropIn guest.${key}))
    (filterAttrs (_: guest: guest.${key} or [ ] != [ ]) host.guests);

  # NixOS wants numbers where systemd-networkd takes numbers.
  typed = text: if match "0|[1-9][0-9]{0,9}" text != null then fromJSON text else text;
  sectionsOf = file: map
    (section: {
      name = head section;
      value = mapAttrs (_: pairs: one (map (pair: typed (elemAt pair 1)) pairs)) (groupBy head (elemAt section 1));
    })
    networks.files.${file};
  network = file:
    let
      sections = sectionsOf file;
      all = title: map (section: section.value) (filter (section: section.name == title) sections);
      # Repeated settings of the one section of a kind.
      of = title: foldl' (known: more: known // more) { } (all title);
      addresses = (of "Network").Address or [ ];
    in
    {
      matchConfig = of "Match";
      linkConfig = of "Link";
      address = if isString addresses then [ addresses ] else addresses;
      networkConfig = removeAttrs (of "Network") [ "Address" ];
      dhcpServerConfig = of "DHCPServer";
      dhcpServerStaticLeases = all "DHCPServerStaticLease";
      ipv6SendRAConfig = of "IPv6SendRA";
      ipv6Prefixes = all "IPv6Prefix";
    };
  netdev = file: { netdevConfig = (head (sectionsOf file)).value; };
  named = suffix: make: listToAttrs (map
    (file: nameValuePair (removeSuffix suffix file) (make file))
    (filter (hasSuffix suffix) (attrNames networks.files)));

  directory = mode: { d = { inherit mode; user = "root"; group = "root"; }; };
in
{
  options.fleet.source = mkOption {
    type = types.str;
    description = "Where this file and the JSON beside it are.";
    internal = true;
    readOnly = true;
    default = toString ../.;
  };

  config = mkIf (!(host.bare or false)) {
    microvm.autostart = host.autostart;

    boot.kernelModules = host.kernel_modules;

    systemd.tmpfiles.settings = {
      # Not the hypervisors' user: who owns this directory decides what root runs.
      "10-microvm".${checked}.d = {
        user = mkForce "root";
        group = mkForce "root";
        mode = mkForce "0755";
      };
      "10-microvm-fleet" = {
        "/var/lib/microvm-fleet" = directory "0700";
        "/var/lib/microvm-fleet/guests" = directory "0700";
        "/var/lib/microvm-fleet/networks" = directory "0700";
        "/nix/var/nix/gcroots/microvm" = directory "0755";
        "/nix/var/nix/gcroots/microvm-fleet" = directory "0755";
      };
    };

    systemd.services = mkMerge [
      {
        "microvm@" = guestUnit "microvm@" (said: {
          TimeoutStartSec = [ (toString host.start_timeout) ];
          TimeoutStopSec = [ (toString host.stop_timeout) ];
          BindPaths = said.BindPaths ++ map (path: "-${path}") host.writable_paths;
          ReadWritePaths = said.ReadWritePaths ++ map (path: "-${path}") host.writable_paths;
        });
      }
      (genAttrs [
        "microvm-set-booted@"
        "microvm-tap-interfaces@"
        "microvm-macvtap-interfaces@"
        "microvm-pci-devices@"
        "microvm-virtiofsd@"
      ]
        (name: guestUnit name (_: { })))
      (dropIns "microvm" "settings")
      (dropIns "microvm-virtiofsd" "virtiofsd_settings")
      (mkIf networked {
        microvm-fleet-network = unit "microvm-fleet-network.service" (_: { }) // {
          path = [ pkgs.nftables ];
          wantedBy = [ "multi-user.target" "nftables.service" ];
          # A restart would let everything pass for a moment.
          reloadIfChanged = true;
        };
      })
    ];

    systemd.network = mkIf networked {
      enable = true;
      netdevs = named ".netdev" netdev;
      networks = named ".network" network;
      # Where something else keeps the uplink, networkd has nothing to wait for.
      wait-online.enable = mkIf networks.foreign (mkDefault false);
    };

    # The DHCP server of a bridge is asked by its guests.
    networking.firewall.interfaces = genAttrs networks.dhcp (_: { allowedUDPPorts = [ 67 ]; });

    environment.etc = mkMerge [
      (mkIf networked { "sysctl.d/90-microvm-fleet.conf".text = sysctl; })
      (mkIf (networked && networks.foreign) { "systemd/networkd.conf.d/50-microvm-fleet.conf".source = ./units/networkd.conf; })
      # By these the roles see what the system that runs was made of.
      (mkIf (pathExists ../host.json) { "microvm-fleet-system/host.json".source = ../host.json; })
      (mkIf (pathExists ../networks.json) { "microvm-fleet-system/networks.json".source = ../networks.json; })
    ];
  };
}
