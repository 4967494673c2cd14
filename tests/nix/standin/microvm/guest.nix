# nixosModules.microvm: the guest's side.
#
# What holds between options, and what a hypervisor cannot do, is what the files
# of microvm.nix say: nixos-modules/microvm/{options,asserts,mounts}.nix, lib/runners.
{ declare, testbed }:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (builtins) elem filter head;
  cfg = config.microvm;
  inherit (config.networking) hostName;

  # What the runners of microvm.nix take without an error.
  can = {
    macvtap = [
      "qemu"
      "cloud-hypervisor"
      "crosvm"
      "kvmtool"
      "stratovirt"
    ];
    user = [
      "qemu"
      "kvmtool"
      "stratovirt"
      "vfkit"
    ];
    bridge = [
      "qemu"
      "stratovirt"
    ];
    "9p" = [
      "qemu"
      "crosvm"
      "kvmtool"
    ];
    readOnly9p = [ "qemu" ];
    virtiofs = [
      "qemu"
      "cloud-hypervisor"
      "crosvm"
      "stratovirt"
      "alioth"
      "vfkit"
    ];
    balloon = [
      "qemu"
      "cloud-hypervisor"
      "crosvm"
      "kvmtool"
    ];
    credentials = [ "qemu" ];
    devices = [
      "qemu"
      "cloud-hypervisor"
      "crosvm"
    ];
  };

  defaults = {
    "microvm.socket" = "${hostName}.sock";
    "microvm.storeOnDisk" = lib.all (s: s.source != "/nix/store") cfg.shares;
    "microvm.systemSymlink" = !cfg.storeOnDisk;
    "microvm.hotpluggedMem" = cfg.hotplugMem;
    "microvm.machineId" = null;
    "microvm.vmHostPackages" = pkgs;
    "microvm.kernel" = config.system.build.kernel;
    "microvm.initrdPath" = "${config.system.build.initialRamdisk}/initrd";
    "microvm.qemu.package" = pkgs.qemu_kvm;
    "microvm.graphics.backend" = "gtk";
    "microvm.storeDiskType" = "erofs";
    "microvm.declaredRunner" = cfg.runner.${cfg.hypervisor};
    "microvm.shares.*.socket" =
      { config, ... }:
      if config.proto == "virtiofs" then "${hostName}-virtiofs-${config.tag}.sock" else null;
  };

  unique = what: key: xs: {
    assertion = lib.allUnique (map (x: x.${key}) xs);
    message = "MicroVM ${hostName}: a ${what} is there twice.";
  };
  able = what: wanted: {
    assertion = !wanted || elem cfg.hypervisor can.${what};
    message = "MicroVM ${hostName}: ${cfg.hypervisor} cannot do this: ${what}.";
  };
  anyShare = proto: lib.any (s: s.proto == proto) cfg.shares;
  anyInterface = type: lib.any (i: i.type == type) cfg.interfaces;

  # --- the runner, of the testbed's guest flake ----------------------------------------
  optionOr = set: name: default: let tried = builtins.tryEval set.${name}; in if tried.success then tried.value else default;
  matches =
    mac: network:
    elem (lib.toLower mac) (
      lib.concatMap (text: lib.splitString " " (lib.toLower text)) (
        lib.toList (network.matchConfig.MACAddress or network.matchConfig.PermanentMACAddress or [ ])
      )
    );
  interfaceOf =
    i:
    let
      networks = filter (matches i.mac) (lib.attrValues config.systemd.network.networks);
      all = f: lib.concatMap (network: lib.toList (f network)) networks;
      addresses =
        all (n: n.address)
        ++ all (n: n.networkConfig.Address or [ ])
        ++ all (n: map (a: a.Address or a.addressConfig.Address) n.addresses);
      dhcp = lib.any (
        n:
        elem (n.networkConfig.DHCP or n.DHCP) [
          true
          "yes"
          "ipv4"
        ]
      ) networks;
    in
    {
      inherit (i)
        type
        id
        mac
        bridge
        tap
        ;
      address =
        if addresses != [ ] then
          addresses
        else if dhcp then
          "dhcp"
        else
          "none";
      gateway = all (n: n.gateway) ++ all (n: n.networkConfig.Gateway or [ ]);
      ra = !(lib.any (n: elem (n.networkConfig.IPv6AcceptRA or true) [ false "no" ]) networks);
    }
    // lib.optionalAttrs (i.type == "macvtap") { inherit (i) macvtap; };

  fieldsOf = hypervisor: {
    version = config.system.nixos.version;
    inherit hostName hypervisor;
    inherit (cfg)
      vcpu
      mem
      balloon
      registerWithMachined
      storeOnDisk
      systemSymlink
      credentialFiles
      forwardPorts
      binScripts
      preStart
      ;
    # These have none in microvm.nix either, whatever the option says.
    socket = if elem hypervisor [ "kvmtool" "alioth" ] then null else cfg.socket;
    vsockCid = cfg.vsock.cid;
    qemuExtraArgs = cfg.qemu.extraArgs;
    machine = cfg.qemu.machine;
    kernelParams = config.boot.kernelParams;
    interfaces = map interfaceOf cfg.interfaces;
    volumes = map (
      v:
      {
        inherit (v)
          image
          serial
          direct
          readOnly
          label
          autoCreate
          mkfsExtraArgs
          fsType
          imageType
          mountPoint
          ;
      }
      // lib.optionalAttrs v.autoCreate { inherit (v) size; }
    ) cfg.volumes;
    shares = map (s: {
      inherit (s)
        tag
        proto
        source
        mountPoint
        readOnly
        socket
        securityModel
        ;
    }) cfg.shares;
    devices = map (d: { inherit (d) bus path; }) cfg.devices;
  };

  makeGuest = import (testbed + "/guest.nix") {
    boot = import (testbed + "/boot.nix");
    etc = "${config.system.build.etc}/etc";
  };
  guest = hypervisor: makeGuest hostName (fieldsOf hypervisor);
in
{
  _file = "nixosModules.microvm";

  options.microvm = (declare defaults { inherit config; }).microvm;

  config = lib.mkIf cfg.guest.enable {
    # Set and not a default, as in microvm.nix: another one has to be said with more weight.
    microvm.qemu.machine = lib.mkDefault (if pkgs.stdenv.hostPlatform.isx86_64 then "microvm" else "virt");

    # Of the chosen hypervisor only: nobody asks for another one's.  It contains the
    # system, so evaluating it checks all that is set.
    microvm.runner.${cfg.hypervisor} =
      builtins.seq config.system.build.checked
        (guest cfg.hypervisor).microvm.declaredRunner;

    # What the runner boots.
    system.build = {
      toplevel = lib.mkForce (
        builtins.seq config.system.build.checked (guest cfg.hypervisor).system.build.toplevel
      );
    };

    fileSystems = lib.mkMerge [
      {
        "/" = lib.mkDefault {
          device = "rootfs";
          fsType = "tmpfs";
          options = [ "size=50%,mode=0755" ];
          neededForBoot = true;
        };
      }
      (lib.listToAttrs (
        lib.concatLists (
          lib.imap0 (
            n: v:
            lib.optional (v.mountPoint != null) (
              lib.nameValuePair v.mountPoint {
                inherit (v) fsType;
                device =
                  if v.label != null then
                    "/dev/disk/by-label/${v.label}"
                  else
                    "/dev/vd${lib.elemAt lib.lowerChars (if cfg.storeOnDisk then n + 1 else n)}";
              }
            )
          ) cfg.volumes
        )
      ))
      (lib.listToAttrs (
        map (
          s:
          lib.nameValuePair s.mountPoint {
            device = s.tag;
            fsType = s.proto;
            neededForBoot = s.source == "/nix/store";
          }
        ) cfg.shares
      ))
    ];

    assertions = [
      (unique "volume image" "image" cfg.volumes)
      (unique "interface id" "id" cfg.interfaces)
      (unique "share tag" "tag" cfg.shares)
      {
        assertion = lib.all (i: lib.stringLength i.id <= 15) cfg.interfaces;
        message = "MicroVM ${hostName}: an interface id is longer than 15 characters.";
      }
      {
        assertion = lib.all (i: (i.type == "bridge") == (i.bridge != null)) cfg.interfaces;
        message = "MicroVM ${hostName}: an interface has a bridge exactly when it is of type bridge.";
      }
      {
        assertion = cfg.forwardPorts == [ ] || cfg.hypervisor == "qemu" && anyInterface "user";
        message = "MicroVM ${hostName}: forwardPorts works only with qemu and an interface of type user.";
      }
      (able "macvtap" (anyInterface "macvtap"))
      (able "user" (anyInterface "user"))
      (able "bridge" (anyInterface "bridge"))
      (able "9p" (anyShare "9p"))
      (able "readOnly9p" (lib.any (s: s.proto == "9p" && s.readOnly) cfg.shares))
      (able "virtiofs" (anyShare "virtiofs"))
      (able "balloon" cfg.balloon)
      (able "credentials" (cfg.credentialFiles != { }))
      (able "devices" (cfg.devices != [ ]))
    ];
  };
}
