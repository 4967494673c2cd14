# nixosModules.host: the host's side, nixos-modules/host/{options,default}.nix of
# microvm.nix.  Guests that the host's own configuration declares are known by
# their flake or configuration only, nothing is made of them.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  inherit (config.microvm) stateDir;
  option = type: default: mkOption { inherit type default; };

  current = name: "${stateDir}/%i/current/bin/${name}";
  booted = name: "${stateDir}/%i/booted/bin/${name}";
  guest = "microvm@%i.service";
  helper =
    name: more:
    lib.nameValuePair "microvm-${name}@" (
      lib.recursiveUpdate {
        before = [ guest ];
        partOf = [ guest ];
        after = [ "microvm-set-booted@%i.service" ];
        restartIfChanged = false;
        serviceConfig = {
          SyslogIdentifier = "microvm-${name}@%i";
        }
        // lib.optionalAttrs (name != "virtiofsd") {
          Type = "oneshot";
          RemainAfterExit = true;
        };
      } more
    );
  whenThere = program: { ConditionPathExists = current program; };
  helpers = map (name: "microvm-${name}@%i.service") [
    "tap-interfaces"
    "macvtap-interfaces"
    "pci-devices"
    "virtiofsd"
    "set-booted"
  ];
  register =
    verb: argument:
    "+/bin/sh -c 'if [ -x ${current verb} ]; then ${current verb}${argument}; fi'";
in
{
  _file = "nixosModules.host";

  options.microvm = {
    host.enable = option types.bool true;
    host.startupTimeout = option types.ints.positive 150;
    host.useNotifySockets = option types.bool false;
    stateDir = option types.path "/var/lib/microvms";
    autostart = option (types.listOf types.str) [ ];
    vms = option (types.attrsOf (
      types.submodule {
        options = {
          autostart = option types.bool true;
          config = option (types.nullOr types.raw) null;
          evaluatedConfig = option (types.nullOr types.raw) null;
          extraModules = option (types.listOf types.raw) [ ];
          flake = option (types.nullOr types.raw) null;
          nixpkgs = option (types.nullOr types.raw) null;
          pkgs = option (types.nullOr types.raw) null;
          restartIfChanged = option types.bool false;
          specialArgs = option (types.attrsOf types.raw) { };
          updateFlake = option (types.nullOr types.str) null;
        };
      }
    )) { };
  };

  config = lib.mkIf config.microvm.host.enable {
    boot.kernelModules = [
      "tap"
      "vhost_net"
    ];

    users.users.microvm = {
      isSystemUser = true;
      group = "kvm";
    };

    systemd.tmpfiles.settings."10-microvm".${stateDir}.d = {
      user = "microvm";
      group = "kvm";
      mode = "0775";
    };

    microvm.autostart = lib.attrNames (lib.filterAttrs (_: vm: vm.autostart) config.microvm.vms);

    systemd.targets.microvms = {
      wantedBy = [ "multi-user.target" ];
      wants = map (name: "microvm@${name}.service") config.microvm.autostart;
    };

    environment.etc."qemu/bridge.conf".text = lib.mkDefault "allow all\n";

    systemd.services =
      lib.listToAttrs [
        (helper "tap-interfaces" {
          description = "Setup MicroVM '%i' TAP interfaces";
          after = [
            "network.target"
            "microvm-set-booted@%i.service"
          ];
          unitConfig = whenThere "tap-up";
          serviceConfig = {
            ExecStart = current "tap-up";
            ExecStop = booted "tap-down";
          };
        })
        (helper "macvtap-interfaces" {
          description = "Setup MicroVM '%i' MACVTAP interfaces";
          unitConfig = whenThere "macvtap-up";
          serviceConfig = {
            ExecStart = current "macvtap-up";
            ExecStop = booted "macvtap-down";
          };
        })
        (helper "pci-devices" {
          description = "Setup MicroVM '%i' devices for passthrough";
          after = [ ];
          unitConfig = whenThere "pci-setup";
          serviceConfig.ExecStart = current "pci-setup";
        })
        (helper "virtiofsd" {
          description = "VirtioFS daemons for MicroVM '%i'";
          after = [
            "local-fs.target"
            "microvm-set-booted@%i.service"
          ];
          unitConfig = whenThere "virtiofsd-run";
          serviceConfig = {
            Type = "notify";
            NotifyAccess = "all";
            WorkingDirectory = "${stateDir}/%i";
            ExecStart = current "virtiofsd-run";
            LimitNOFILE = 1048576;
            PrivateTmp = "yes";
            Restart = "always";
            RestartSec = "5s";
            KillMode = "mixed";
          };
        })
        (helper "set-booted" {
          description = "Save MicroVM '%i' booted configuration";
          after = [ ];
          script = ''
            rm -f booted
            ln -s $(readlink current) booted
          '';
          serviceConfig = {
            WorkingDirectory = "${stateDir}/%i";
            User = "microvm";
            Group = "kvm";
            ExecStop = "${lib.getExe' pkgs.coreutils "rm"} booted";
          };
        })
      ]
      // {
        "microvm@" = {
          description = "MicroVM '%i'";
          requires = helpers;
          after = [
            "network.target"
            "systemd-modules-load.service"
          ]
          ++ helpers;
          unitConfig = whenThere "microvm-run";
          restartIfChanged = false;
          serviceConfig = {
            Type = if config.microvm.host.useNotifySockets then "notify" else "simple";
            WorkingDirectory = "${stateDir}/%i";
            ExecStart = current "microvm-run";
            ExecStop = booted "microvm-shutdown";
            ExecStartPost = [ (register "microvm-register" " $MAINPID") ];
            ExecStopPost = [ (register "microvm-unregister" "") ];
            TimeoutSec = config.microvm.host.startupTimeout;
            Restart = "always";
            RestartSec = "5s";
            User = "microvm";
            Group = "kvm";
            SyslogIdentifier = "microvm@%i";
            LimitNOFILE = 1048576;
            LimitMEMLOCK = "infinity";
            NotifyAccess = "all";
          };
        };
      };
  };
}
