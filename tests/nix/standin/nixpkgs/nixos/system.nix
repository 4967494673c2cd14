# What NixOS is besides the listed options: assertions, the system as a package.
{ list }:
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
      ) (lib.forceSet options) config.warnings;

  files = import ./units.nix { inherit lib pkgs; } config;
  version = config.system.nixos.version;
in
{
  _file = "nixos/system.nix";
  options =
    lib.recursiveUpdate
      (lib.listed.declare {
        list = lib.importJSON list;
        guess = true;
        defaults = import ./defaults.nix {
          inherit pkgs lib;
          top = config;
        };
      } { inherit config; })
      {
        assertions = internal (types.listOf types.raw) [ ];
        warnings = internal (types.listOf types.str) [ ];
        system.build = internal (types.lazyAttrsOf types.raw) { };
        system.nixos.version = internal types.str "${lib.trivial.release}.standin";
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
    # Evaluating it checks everything that somebody has set.
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
