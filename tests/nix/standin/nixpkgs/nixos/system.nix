# What NixOS is besides the listed options: assertions, the system as a package.
# `declare` is that of the list, of lib/listed.nix.
{ declare }:
{
  config,
  options,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  internal = type: default: mkOption {
    inherit type default;
    internal = true;
  };

  failed = lib.filter (a: !a.assertion) config.assertions;
  checked =
    if failed != [ ] then
      throw "\nFailed assertions:\n${lib.concatMapStringsSep "\n" (a: "- ${a.message}") failed}"
    else
      builtins.foldl' (
        done: warning: builtins.trace "evaluation warning: ${warning}" done
      ) (lib.forceValue config.system.build.said) config.warnings;

  files = import ./units.nix { inherit lib pkgs; } config;
  version = config.system.nixos.version;
in
{
  _file = "nixos/system.nix";
  options =
    lib.recursiveUpdate
      (declare (import ./defaults.nix {
        inherit pkgs lib;
        top = config;
      }) { inherit config; })
      {
        assertions = internal (types.listOf types.raw) [ ];
        warnings = internal (types.listOf types.str) [ ];
        system.build = internal (types.lazyAttrsOf types.raw) { };
        system.nixos.version = internal types.str "${lib.trivial.release}.standin";
        # What the X server is started with (services/x11/display-managers/default.nix of NixOS); only read.
        services.displayManager.sessionData = internal types.raw { wrapper = "${pkgs.xorg.xorgserver}/xsession-wrapper"; };
        services.xserver.displayManager = internal types.raw {
          xserverBin = "${pkgs.xorg.xorgserver}/bin/X";
          xserverArgs = [
            "-nolisten tcp"
            ":0"
            "vt7"
          ];
        };
      };

  config.systemd = lib.mkMerge [
    (lib.mkIf config.networking.nftables.enable {
      services.nftables = {
        wantedBy = [ "sysinit.target" ];
        before = [ "network-pre.target" ];
        wants = [ "network-pre.target" ];
        reloadIfChanged = true;
        unitConfig.DefaultDependencies = false;
        # The text in the unit, so that another one is a change of the unit.
        reloadTriggers = [ "${pkgs.writeText "nftables.nft" (lib.findFirst (f: f.target == "nftables.nft") { text = ""; } files).text}" ];
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          ExecStart = "/usr/sbin/nft -f /etc/nftables.nft";
          ExecReload = "/usr/sbin/nft -f /etc/nftables.nft";
        };
      };
    })
  ];

  config.system.build = {
    kernel = lib.mkDefault pkgs.linux;
    initialRamdisk = lib.mkDefault pkgs.initrd;
    inherit files;
    etc = pkgs.standinSystem {
      name = "etc";
      inherit files;
    };
    # All that modules have set.
    said = lib.said {
      inherit options;
      freeform = { };
    };
    # Evaluating it checks all of that.
    inherit checked;
    toplevel = lib.mkDefault (builtins.seq checked config.system.build.standin);
    standin = pkgs.standinSystem {
      name = "nixos-system-${config.networking.hostName}-${version}";
      inherit files;
      links = {
        kernel = "${config.system.build.kernel}/bzImage";
        initrd = "${config.system.build.initialRamdisk}/initrd";
        kernel-modules = "${config.system.build.kernel}";
      };
      texts = {
        nixos-version = version;
        kernel-params = lib.concatStringsSep " " config.boot.kernelParams;
        system = pkgs.stdenv.hostPlatform.system;
      };
      scripts."bin/switch-to-configuration" = ../switch-to-configuration;
      scripts.init = ../init;
      software = map (p: "${p}") config.environment.systemPackages;
    };
  };
}
