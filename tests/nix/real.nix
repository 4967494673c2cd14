# The static flake with real inputs: as in flakes.nix, but from copies of the real
# microvm.nix and of nixpkgs, or of nixpkgs' lib alone.
#
# directory: the static flake with its data.  microvm: microvm.nix.  nixpkgs: all of
# nixpkgs.  lib: a directory with lib/, for want of nixpkgs.  modules: files of NixOS'
# own modules, to be used with lib.
#
# Without nixpkgs the real module system and the real modules of microvm.nix meet options
# of NixOS that are those of the list, packages that are the stand-in's, and of what
# microvm.nix sets or reads beside the list only the names.  A file of `modules` takes the
# place of the listed groups of options that it declares.
{
  directory,
  microvm,
  nixpkgs ? null,
  lib ? null,
  modules ? [ ],
}:
let
  # A flake as its inputs see it.
  flake =
    place: inputs:
    let
      function = (import (place + "/flake.nix")).outputs;
      named = builtins.functionArgs function;
      all = inputs // {
        self = outputs // {
          inherit inputs;
          outPath = toString place;
          lastModifiedDate = "20260101000000";
          rev = "0000000000000000000000000000000000000000";
          shortRev = "0000000";
        };
      };
      outputs = function (if named == { } then all else builtins.intersectAttrs named all);
    in
    outputs // { outPath = toString place; };

  realLib = import (lib + "/lib");
  inherit (realLib) mkOption;
  withOwn = realLib // {
    types = realLib.types // {
      mkType = realLib.mkOptionType;
      json = realLib.types.anything;
    };
  };
  inherit (import ./standin/nixpkgs/lib/listed.nix { lib = withOwn; }) declare;
  listed = declare {
    list = realLib.importJSON ./options/nixos.json;
    guess = true;
  };

  # Anything, merged as far as it can be.
  whatever = realLib.mkOptionType {
    name = "whatever";
    merge =
      loc: defs:
      let
        values = map (d: d.value) defs;
      in
      if realLib.all (v: builtins.isAttrs v && !(realLib.isDerivation v)) values then
        (realLib.types.lazyAttrsOf whatever).merge loc defs
      else if realLib.all builtins.isList values then
        builtins.concatLists values
      else
        realLib.last values;
  };
  # NAME of an option -> its default.
  optionsOf =
    defaults:
    realLib.foldl' realLib.recursiveUpdate { } (
      realLib.mapAttrsToList (
        name: default:
        realLib.setAttrByPath (realLib.splitString "." name) (mkOption {
          type = whatever;
          inherit default;
        })
      ) defaults
    );
  beside =
    pkgs: top:
    optionsOf {
      "assertions" = [ ];
      "warnings" = [ ];
      "boot.blacklistedKernelModules" = [ ];
      "boot.initrd" = {
        systemd.enable = false;
      };
      "boot.kernelPackages" = { inherit (pkgs.linuxPackages) kernel; };
      "boot.loader" = { };
      "boot.postBootCommands" = "";
      "boot.swraid" = { };
      "boot.zfs.enabled" = false;
      "documentation" = { };
      "hardware" = { };
      # Of nixos/modules/misc/ids.nix, the names that files may ask for.
      "ids" = realLib.genAttrs [ "gids" "uids" ] (
        _: realLib.genAttrs [ "cfssl" "docker" "etcd" "kubernetes" ] (_: 399)
      );
      "meta" = { };
      "networking.domain" = null;
      "networking.fqdnOrHostName" = top.networking.hostName;
      "networking.hostId" = null;
      "networking.proxy.envVars" = { };
      "nix" = {
        enable = false;
        optimise.automatic = false;
        settings.auto-optimise-store = false;
        package = pkgs.nix;
      };
      "nixpkgs" = { };
      "programs" = { };
      "security.pam" = { };
      "security.virtualisation.flushL1DataCache" = null;
      "security.wrappers" = { };
      "services.displayManager.sessionData" = {
        wrapper = "/xsession-wrapper";
      };
      "services.xserver.displayManager" = {
        xserverBin = "/X";
        xserverArgs = [ ":0" ];
      };
      "system.activationScripts" = { };
      "system.boot.loader.initrdFile" = "initrd";
      "system.boot.loader.kernelFile" = "bzImage";
      "system.build" = { };
      "system.nixos.label" = "standin";
      "system.nixos.version" = "standin";
      "system.switch.enable" = true;
      "systemd.generators" = { };
      "systemd.mounts" = [ ];
      "systemd.packages" = [ ];
      "systemd.sockets" = { };
      "systemd.timers" = { };
      "systemd.tpm2" = { };
      "users.groups" = { };
      "virtualisation.libvirtd.enable" = false;
      "virtualisation.rosetta" = { };
    };

  pkgsFor =
    system:
    let
      plain = import ./standin/nixpkgs/pkgs.nix {
        lib = withOwn;
        inherit system;
      };
      # As far as microvm.nix looks into a package.
      package =
        given:
        given
        // {
          configureFlags = [ ];
          buildInputs = [ ];
          override = _: package given;
          overrideAttrs = _: package given;
        };
      runCommand =
        name: attributes: text:
        plain.runCommand name (builtins.removeAttrs attributes [ "__structuredAttrs" "unsafeDiscardReferences" ]) text
        // {
          passthru = attributes.passthru or { };
        };
      stub = name: plain.runCommand name { } "mkdir $out" // { pname = name; };
      set =
        plain
        // realLib.genAttrs [
          "bubblewrap"
          "cacert"
          "certmgr"
          "certmgr-selfsigned"
          "cfssl"
          "cni-plugin-flannel"
          "cni-plugins"
          "conntrack_tools"
          "etcdctl"
          "expect"
          "flannel"
          "gitMinimal"
          "iproute"
          "libguestfs"
          "libguestfs-appliance"
          "libusb1"
          "parted"
          "qemu-utils"
          "squashfs-tools-ng"
          "thin-provisioning-tools"
          "time"
          "wayland-proxy-virtwl"
          "waypipe"
        ] (name: package (stub name))
        // realLib.genAttrs [
          "alioth"
          "cloud-hypervisor"
          "crosvm"
          "erofs-utils"
          "firecracker"
          "kmod"
          "kvmtool"
          "nix"
          "qemu"
          "qemu_kvm"
          "stratovirt"
          "virtiofsd"
        ] (name: package plain.${name})
        // {
          lib = realLib;
          path = toString ./.;
          buildPackages = set;
          kubernetes = plain.kubernetes // {
            addonManager = stub "addon-manager";
            pause = stub "pause";
          };
          linux.target = "bzImage";
          linuxPackages.kernel = plain.linux // {
            out = plain.linux;
            dev = plain.linux;
          };
          OVMF.fd = stub "OVMF-fd";
          stdenv = plain.stdenv // {
            hostPlatform = plain.stdenv.hostPlatform // {
              linux-kernel.target = "bzImage";
            };
            targetPlatform = plain.stdenv.hostPlatform;
          };
          runCommand = runCommand;
          runCommandLocal = runCommand;
          closureInfo = _: stub "closure-info";
          dockerTools = {
            buildImage = given: stub given.name;
            pullImage = _: stub "image";
          };
          writeClosure = _: plain.writeText "closure" "";
          replaceVars = path: _: path;
          python3 = plain.python3 // {
            pkgs.supervisor = stub "supervisor";
          };
          python3Packages.supervisor = stub "supervisor";
          writers = plain.writers // {
            writePython3 = name: _: text: plain.writeScript name "${text}";
          };
        };
    in
    set;

  # --- files of NixOS -------------------------------------------------------------------
  # The options that a module and what it imports declare, by what they are called with; types and texts are not looked
  # at.
  declaredBy =
    arguments: module:
    let
      called =
        if builtins.isPath module || builtins.isString module then
          declaredBy arguments (import module)
        else if builtins.isFunction module then
          declaredBy arguments (module arguments)
        else
          null;
    in
    if called != null then
      called
    else
      realLib.foldl' realLib.recursiveUpdate (module.options or { }) (
        map (declaredBy arguments) (module.imports or [ ])
      );
  # The groups that they are in, as paths: what has further groups or options of its own below two names.  Not looked
  # into, since what is in a group may depend on the configuration.
  groupsOf =
    path: options:
    let
      names = builtins.attrNames options;
      deeper = name: groupsOf (path ++ [ name ]) options.${name};
    in
    if realLib.isOption options then
      [ path ]
    else if builtins.length path < 2 then
      builtins.concatMap deeper names
    else if builtins.length names == 1 && !(realLib.isOption options.${builtins.head names}) then
      deeper (builtins.head names)
    else
      [ path ];
  without =
    options: path:
    let
      name = builtins.head path;
    in
    if !(options ? ${name}) then
      options
    else if builtins.length path == 1 then
      builtins.removeAttrs options path
    else
      options // { ${name} = without options.${name} (builtins.tail path); };

  nixosSystem =
    {
      system,
      modules,
      specialArgs ? { },
    }:
    let
      pkgs = pkgsFor system;
      evaluated = realLib.evalModules {
        class = "nixos";
        specialArgs = {
          inherit utils;
          modulesPath = toString ./.;
        }
        // specialArgs;
        modules = [
          base
          { _module.args = { inherit pkgs; }; }
        ]
        ++ real
        ++ modules;
      };
      base =
        { config, options, ... }:
        {
          _file = "tests/nix/real.nix";
          options = realLib.foldl' without (realLib.recursiveUpdate (listed (import
            ./standin/nixpkgs/nixos/defaults.nix
            {
              inherit pkgs;
              lib = withOwn;
              top = config;
            }
          ) { inherit config; }) (beside pkgs config)) (
            builtins.concatMap (module: groupsOf [ ] (declaredBy {
              inherit
                config
                options
                pkgs
                utils
                ;
              lib = realLib;
            } module)) real
          );
          # Files of NixOS set what is not listed; without them nothing does.
          config._module.check = real == [ ];
          config.system.build = {
            toplevel = checked;
            initialRamdisk = pkgs.initrd;
            kernel = pkgs.linuxPackages.kernel;
          };
        };

      # What a toplevel of NixOS would force: all that is set, and the assertions.
      checked =
        let
          failed = builtins.filter (a: !a.assertion) evaluated.config.assertions;
        in
        if failed != [ ] then
          throw "\nFailed assertions:\n${realLib.concatMapStringsSep "\n" (a: "- ${a.message}") failed}"
        else
          builtins.seq (forced (builtins.removeAttrs evaluated.options [ "_module" "microvm" ])) (
            pkgs.writeText "system" "system"
          );
      forced =
        options:
        builtins.foldl' (
          done: name:
          let
            option = options.${name};
          in
          if !(realLib.isOption option) then
            builtins.seq (forced option) done
          else if
            # What NixOS itself sets is not always meant to be read.
            !(builtins.any (file: builtins.elem (toString file) (map toString real)) option.declarations)
            && option.isDefined
            && option.highestPrio < 1500
            && option.type.name != "whatever"
          then
            # Its own type first: what is known of its parts may rely on that.
            builtins.seq option.value (builtins.seq (checkedValue (meta option) option.value) done)
          else
            done
        ) true (builtins.attrNames options);
      # What is known of the parts of a value, unless it is made of something else, as that of an alias is.
      meta = option: if option ? apply then { } else option.valueMeta or { };
      # A submodule has options that nobody has set and that have no default here: what was set is in its own options.
      checkedValue =
        meta: value:
        if meta ? configuration then
          forced (builtins.removeAttrs meta.configuration.options [ "_module" ])
        else if meta ? attrs then
          realLib.all (name: checkedValue meta.attrs.${name} value.${name}) (builtins.attrNames meta.attrs)
        else if meta ? list then
          realLib.all realLib.id (realLib.zipListsWith checkedValue meta.list value)
        else if realLib.isDerivation value then
          builtins.isString value.outPath
        else
          builtins.deepSeq value true;
    in
    evaluated // {
      inherit pkgs;
      extendModules = more: nixosSystem { inherit system specialArgs; modules = modules ++ more.modules; };
    };
  real = modules;
  # Of nixos/lib/utils.nix, what files may call.
  utils.escapeSystemdExecArgs = realLib.escapeShellArgs;

  nixpkgs' = if nixpkgs == null then { lib = realLib // { inherit nixosSystem; }; } else flake nixpkgs { };
  microvm' = flake microvm {
    nixpkgs = nixpkgs';
    # Only read for a graphical cloud-hypervisor.
    spectrum = toString ./.;
  };
in
{
  nixpkgs = nixpkgs';
  microvm = microvm';
  fleet = flake directory {
    nixpkgs = nixpkgs';
    microvm = microvm';
    base = {
      nixosConfigurations.tower = nixpkgs'.lib.nixosSystem {
        system = "x86_64-linux";
        modules = [
          {
            networking.hostName = "tower";
            system.stateVersion = "25.11";
            # What NixOS asks of every host.
            fileSystems."/" = {
              device = "/dev/disk/by-label/nixos";
              fsType = "ext4";
            };
          }
          (
            { lib, options, ... }:
            {
              config = lib.optionalAttrs (options.boot ? loader) { boot.loader.grub.enable = false; };
            }
          )
        ];
      };
      inputs.nixpkgs = nixpkgs';
    };
  };
}
