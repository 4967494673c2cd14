# The configuration -> the files of /etc: [ { target, and text, source or link } ].
#
# Units have the settings that NixOS writes, nixos/lib/systemd-lib.nix and
# systemd-unit-options.nix there, X-... for switch-to-configuration among them.
{ lib, pkgs }:
config:
let
  inherit (builtins) attrNames attrValues concatMap;
  inherit (lib)
    concatStringsSep
    filterAttrs
    mapAttrsToList
    optional
    optionals
    optionalAttrs
    optionalString
    ;
  enabled = filterAttrs (_: x: x.enable);

  valueText = v: if builtins.isBool v then lib.boolToString v else toString v;
  settings = set: lib.concatStrings (mapAttrsToList (name: value: lib.concatMapStrings (v: "${name}=${valueText v}\n") (lib.toList value)) set);
  section = name: set: optionalString (set != { }) "[${name}]\n${settings set}\n";
  words = concatStringsSep " ";
  nonEmpty = filterAttrs (_: v: v != [ ] && v != "" && v != null);

  # --- units -----------------------------------------------------------------------
  unitSection =
    unit:
    nonEmpty {
      Description = unit.description;
      Documentation = words unit.documentation;
      After = words unit.after;
      Before = words unit.before;
      Wants = words unit.wants;
      Requires = words unit.requires;
      Requisite = words unit.requisite;
      BindsTo = words unit.bindsTo;
      PartOf = words unit.partOf;
      Conflicts = words unit.conflicts;
      OnFailure = words unit.onFailure;
      OnSuccess = words unit.onSuccess;
      Upholds = words unit.upholds;
      X-Restart-Triggers = words (map toString unit.restartTriggers);
      X-Reload-Triggers = words (map toString unit.reloadTriggers);
    }
    // optionalAttrs (unit.startLimitIntervalSec != -1) {
      StartLimitIntervalSec = unit.startLimitIntervalSec;
    }
    // optionalAttrs (unit.startLimitBurst != -1) { StartLimitBurst = unit.startLimitBurst; }
    // unit.unitConfig;

  fileName = lib.replaceStrings [ "@" "\\" ":" ] [ "-" "-" "-" ];
  job =
    name: verb: text:
    pkgs.writeShellScript "unit-script-${fileName name}-${verb}" "set -e\n\n${text}";
  jobs =
    name: verb: key: text:
    optionalAttrs (text != "") { ${key} = [ "${job name verb text}" ]; };
  merged = lib.zipAttrsWith (
    _: values: if lib.length values == 1 then lib.head values else concatMap lib.toList values
  );
  defaultPath = [
    pkgs.coreutils
    pkgs.findutils
    pkgs.gnugrep
    pkgs.gnused
    pkgs.systemd
  ];
  serviceSection =
    name: unit: dropIn:
    let
      path = unit.path ++ optionals (!dropIn) defaultPath;
      environment =
        optionalAttrs (path != [ ]) {
          PATH = concatStringsSep ":" (
            concatMap (p: [
              "${p}/bin"
              "${p}/sbin"
            ]) path
          );
        }
        // unit.environment;
    in
    merged [
      (nonEmpty {
        Environment = mapAttrsToList (key: value: builtins.toJSON "${key}=${toString value}") (
          filterAttrs (_: v: v != null) environment
        );
      })
      (optionalAttrs (!unit.restartIfChanged) { X-RestartIfChanged = false; })
      (optionalAttrs unit.reloadIfChanged { X-ReloadIfChanged = true; })
      (optionalAttrs (!unit.stopIfChanged) { X-StopIfChanged = false; })
      (optionalAttrs (unit.script != "") {
        ExecStart = "${job name "start" unit.script}${optionalString (unit.scriptArgs != "") " ${unit.scriptArgs}"}";
      })
      (jobs name "pre-start" "ExecStartPre" unit.preStart)
      (jobs name "post-start" "ExecStartPost" unit.postStart)
      (optionalAttrs (unit.reload != "") { ExecReload = "${job name "reload" unit.reload}"; })
      (jobs name "pre-stop" "ExecStop" unit.preStop)
      (jobs name "post-stop" "ExecStopPost" unit.postStop)
      unit.serviceConfig
    ];

  unitText = {
    service =
      name: unit: dropIn:
      section "Unit" (unitSection unit) + section "Service" (serviceSection name unit dropIn);
    # A file without a line would be a masked unit.
    target =
      name: unit: _:
      "[Unit]\n${settings (unitSection unit)}\n";
  };

  directory = "systemd/system";
  unitFiles =
    kind: name: unit:
    let
      full = "${name}.${kind}";
      dropIn = unit.overrideStrategy == "asDropin";
      links =
        suffix: targets:
        map (target: {
          target = "${directory}/${target}.${suffix}/${full}";
          link = "../${full}";
        }) targets;
    in
    [
      (
        if unit.enable then
          {
            target =
              if dropIn then "${directory}/${full}.d/overrides.conf" else "${directory}/${full}";
            text = unitText.${kind} name unit dropIn;
            # What a package brings keeps its name, and this goes into a drop-in.
            orDropIn = !dropIn;
          }
        else
          {
            target = "${directory}/${full}";
            link = "/dev/null";
          }
      )
    ]
    ++ optionals unit.enable (
      links "wants" unit.wantedBy
      ++ links "requires" unit.requiredBy
      ++ links "upholds" unit.upheldBy
      ++ map (alias: {
        target = "${directory}/${alias}";
        link = full;
      }) unit.aliases
    );

  # Targets have no script of their own.
  targetDefaults = {
    onSuccess = [ ];
    reloadTriggers = [ ];
  };

  # --- systemd.network ---------------------------------------------------------------
  lists = name: sets: lib.concatMapStrings (section name) sets;
  # nixpkgs of before 2024-09 had one more level, `addressConfig` and so on.
  flat =
    key: sets:
    map (set: if set ? ${key} then set.${key} else set) sets;
  networkText =
    n:
    section "Match" (n.matchConfig // optionalAttrs (n.name != null) { Name = n.name; })
    + section "Link" n.linkConfig
    + section "Network" (
      merged [
        n.networkConfig
        (nonEmpty {
          DHCP = n.DHCP;
          Domains = lib.optionals (n.domains != null) n.domains;
          Address = n.address;
          Gateway = n.gateway;
          DNS = n.dns;
          NTP = n.ntp;
          Bridge = n.bridge;
          Bond = n.bond;
          VRF = n.vrf;
          VLAN = n.vlan;
          MACVLAN = n.macvlan;
          MACVTAP = n.macvtap;
          VXLAN = n.vxlan;
          Tunnel = n.tunnel;
          Xfrm = n.xfrm;
        })
      ]
    )
    + lists "Address" (flat "addressConfig" n.addresses)
    + lists "RoutingPolicyRule" (flat "routingPolicyRuleConfig" n.routingPolicyRules)
    + lists "Route" (flat "routeConfig" n.routes)
    + section "DHCPv4" n.dhcpV4Config
    + section "DHCPv6" n.dhcpV6Config
    + section "DHCPPrefixDelegation" n.dhcpPrefixDelegationConfig
    + section "IPv6AcceptRA" n.ipv6AcceptRAConfig
    + section "DHCPServer" n.dhcpServerConfig
    + section "IPv6SendRA" n.ipv6SendRAConfig
    + lists "IPv6PREF64Prefix" n.ipv6PREF64Prefixes
    + lists "IPv6Prefix" (flat "ipv6PrefixConfig" n.ipv6Prefixes)
    + lists "IPv6RoutePrefix" (flat "ipv6RoutePrefixConfig" n.ipv6RoutePrefixes)
    + lists "DHCPServerStaticLease" (flat "dhcpServerStaticLeaseConfig" n.dhcpServerStaticLeases)
    + section "Bridge" n.bridgeConfig
    + lists "BridgeFDB" (flat "bridgeFDBConfig" n.bridgeFDBs)
    + lists "BridgeMDB" (flat "bridgeMDBConfig" n.bridgeMDBs)
    + lists "BridgeVLAN" n.bridgeVLANs
    + section "TokenBucketFilter" n.tokenBucketFilterConfig
    + section "HierarchyTokenBucket" n.hierarchyTokenBucketConfig
    + section "FairQueueingControlledDelay" n.fairQueueingControlledDelayConfig
    + section "CAKE" n.cakeConfig
    + section "QDisc" n.qdiscConfig
    + n.extraConfig;
  netdevText =
    n:
    section "NetDev" n.netdevConfig
    + section "VLAN" n.vlanConfig
    + section "MACVLAN" n.macvlanConfig
    + section "VXLAN" n.vxlanConfig
    + section "Tunnel" n.tunnelConfig
    + section "Peer" n.peerConfig
    + section "Tun" n.tunConfig
    + section "Tap" n.tapConfig
    + section "WireGuard" n.wireguardConfig
    + lists "WireGuardPeer" (flat "wireguardPeerConfig" n.wireguardPeers)
    + section "Bond" n.bondConfig
    + section "Bridge" n.bridgeConfig
    + section "VRF" n.vrfConfig
    + n.extraConfig;
  linkText = n: section "Match" n.matchConfig + section "Link" n.linkConfig + n.extraConfig;
  networkFiles =
    suffix: render: set:
    mapAttrsToList (name: n: {
      target = "systemd/network/${name}.${suffix}";
      text = render n;
    }) (enabled set);

  # --- the rest --------------------------------------------------------------------------
  file = target: text: optional (text != "") { inherit target text; };
  lines = f: set: lib.concatStrings (mapAttrsToList f set);

  tmpfilesText =
    paths:
    lines (
      path: types:
      lines (
        _: e:
        words [
          "'${e.type}'"
          "'${path}'"
          "'${e.mode}'"
          "'${e.user}'"
          "'${e.group}'"
          "'${e.age}'"
          e.argument
        ]
        + "\n"
      ) types
    ) paths;

  tables = enabled config.networking.nftables.tables;
  ruleset =
    config.networking.nftables.ruleset
    + lines (_: t: ''
      table ${t.family} ${t.name} {}
      delete table ${t.family} ${t.name}
      table ${t.family} ${t.name} {
      ${t.content}
      }
    '') tables;

  sysusersText = lines (
    _: user:
    # Groups of that name come with the user.
    optionalString (user.group != "" && user.group != user.name) "g ${user.group} -\n"
    + optionalString (user.name != "root") "u ${user.name} ${
      if user.uid == null then "-" else toString user.uid
    }${optionalString (user.group != "" && user.group != user.name) ":${user.group}"} ${builtins.toJSON user.description} ${user.home}\n"
    + lib.concatMapStrings (group: "m ${user.name} ${group}\n") user.extraGroups
  ) config.users.users;
in
mapAttrsToList (
  _: e:
  {
    inherit (e) target mode;
  }
  // (if e.text != null then { inherit (e) text; } else { source = "${e.source}"; })
) (enabled config.environment.etc)
++ builtins.concatLists (mapAttrsToList (unitFiles "service") config.systemd.services)
++ builtins.concatLists (
  mapAttrsToList (name: unit: unitFiles "target" name (targetDefaults // unit)) config.systemd.targets
)
++ optionals config.systemd.network.enable (
  networkFiles "network" networkText config.systemd.network.networks
  ++ networkFiles "netdev" netdevText config.systemd.network.netdevs
  ++ networkFiles "link" linkText config.systemd.network.links
)
++ file "tmpfiles.d/00-nixos.conf" (lib.concatLines config.systemd.tmpfiles.rules)
++ mapAttrsToList (name: paths: {
  target = "tmpfiles.d/${name}.conf";
  text = tmpfilesText paths;
}) config.systemd.tmpfiles.settings
++ file "modules-load.d/nixos.conf" (lib.concatLines config.boot.kernelModules)
++ file "sysctl.d/60-nixos.conf" (
  lines (
    name: value:
    optionalString (value != null) "${name} = ${
      if builtins.isBool value then (if value then "1" else "0") else toString value
    }\n"
  ) config.boot.kernel.sysctl
)
++ optionals config.networking.nftables.enable (file "nftables.nft" ruleset)
++ file "sysusers.d/00-nixos.conf" sysusersText
++ concatMap (
  user:
  file "ssh/authorized_keys.d/${user.name}" (lib.concatLines user.openssh.authorizedKeys.keys)
) (attrValues config.users.users)
++ [
  {
    target = "hostname";
    text = "${config.networking.hostName}\n";
  }
]
