# One guest: its fields in guests.json -> the `config` that microvm.nix would give.
#
# Names of options and the files of the runner are those of microvm.nix:
# nixos-modules/microvm/options.nix and lib/runner.nix.
# `etc` is a directory whose files go into the system's etc/, if there is one.
{
  boot,
  etc ? null,
}:
name: fields:
let
  inherit (builtins)
    attrNames
    concatMap
    concatLists
    elem
    filter
    placeholder
    toJSON
    ;
  inherit (import ./text.nix)
    asList
    column
    imap
    lines
    optional
    optionalAttrs
    optionalString
    optionals
    quote
    words
    ;

  given = import ./fields.nix name fields;
  guest = given // {
    inherit kernelParams tapFlags;
  };
  inherit (guest)
    fail
    hostName
    hypervisor
    interfaces
    storeOnDisk
    version
    volumes
    ;
  virtiofsShares = filter (s: s.proto == "virtiofs") guest.shares;

  build =
    builder: attributes:
    derivation (
      {
        system = "x86_64-linux";
        builder = "/bin/sh";
        args = [ builder ];
      }
      // attributes
    );

  # --- the guest's system --------------------------------------------------------
  letters = "abcdefghijklmnopqrstuvwxyz";
  disk = n: "/dev/vd${builtins.substring (if storeOnDisk then n + 1 else n) 1 letters}";
  toMount = filter (x: x.guest.mountPoint != null);
  mode = x: if x.readOnly then "ro" else "rw";
  method = address: if elem address [ "dhcp" "none" ] then address else "static";

  # The same for all guests.
  sshd = build ./builders/sshd.sh { name = "sshd-testbed-guest"; };

  toplevel = build ./builders/system.sh (optionalAttrs (etc != null) { inherit etc; } // optionalAttrs (guest.sshKeys != [ ]) {
    inherit sshd;
    sshKeys = lines guest.sshKeys;
  } // {
    name = "nixos-system-${hostName}-${version}";
    init = ./guest/init;
    serve = ./guest/serve;
    switch = ./guest/switch-to-configuration;
    inherit boot hostName version;
    guestJson = toJSON {
      inherit (guest) name version port;
      hostname = hostName;
    };
    settings = lines [
      "port=${quote guest.port}"
      "notify=${optionalString guest.supportsNotifySocket "yes"}"
      "fail=${
        quote (
          optionalString (elem fail [
            "boot"
            "emergency"
            "late"
            "port"
            "stop"
            "switch"
          ]) fail
        )
      }"
    ];
    # MAC METHOD RA ADDRESSES GATEWAYS
    networkTable = lines (
      map (
        i:
        words [
          i.mac
          (method i.guest.address)
          (if i.guest.ra then "ra" else "-")
          (column (optionals (method i.guest.address == "static") (asList i.guest.address)))
          (column (asList i.guest.gateway))
        ]
      ) interfaces
    );
    # DEVICE TYPE MODE MOUNTPOINT
    volumeTable = lines (
      concatLists (
        imap (
          n: v:
          optional (v.guest.mountPoint != null) (words [
            (disk n)
            v.fsType
            (mode v)
            v.guest.mountPoint
          ])
        ) volumes
      )
      ++ map (
        s:
        words [
          s.tag
          "virtiofs"
          (mode s)
          s.guest.mountPoint
        ]
      ) (filter (s: s.source != "/nix/store") (toMount virtiofsShares))
    );
  });

  storeShares = filter (s: s.source == "/nix/store") virtiofsShares;
  kernelParams = [
    "console=ttyS0"
    "reboot=t"
    "panic=-1"
    "quiet"
    # What an emulated CPU spends much time on.
    "cryptomgr.notests"
    "nokaslr"
    "init_on_alloc=0"
    "rcupdate.rcu_expedited=1"
    "guest.store=${
      if storeOnDisk then
        "disk"
      else if storeShares != [ ] then
        (builtins.head storeShares).tag
      else
        "none"
    }"
    "init=${toplevel}/init"
  ]
  ++ given.kernelParams;

  # --- the runner ------------------------------------------------------------------
  tapFlags = [ "vnet_hdr" ] ++ optional guest.tapMultiQueue "multi_queue";

  scripts = import ./scripts.nix {
    inherit guest boot toplevel;
    storeDisk = placeholder "store-disk";
    virtiofsdConf = placeholder "virtiofsd-supervisord.conf";
  };
  scriptNames = attrNames scripts;
  hasVirtiofsd = scripts ? virtiofsd-run;

  # All that belongs to this runner alone, in one build: "microvm-HOST-SCRIPT" each.
  parts = build ./builders/parts.sh (
    {
      name = "microvm-${hostName}";
      outputs =
        scriptNames
        ++ optional storeOnDisk "store-disk"
        ++ optional hasVirtiofsd "virtiofsd-supervisord.conf";
      targets = words (map placeholder scriptNames);
      storeDisk = optionalString storeOnDisk (placeholder "store-disk");
      toplevel = optionalString storeOnDisk toplevel;
      virtiofsdConf = optionalString hasVirtiofsd (placeholder "virtiofsd-supervisord.conf");
    }
    // builtins.listToAttrs (
      imap (n: script: {
        name = "text${toString n}";
        value = scripts.${script};
      }) scriptNames
    )
    // optionalAttrs hasVirtiofsd {
      virtiofsd = ./host/virtiofsd;
      virtiofsdReady = ./host/virtiofsd-ready;
      # TAG SOCKET MODE SOURCE
      virtiofsTable = lines (
        map (
          s:
          words [
            s.tag
            s.socket
            (mode s)
            s.source
          ]
        ) virtiofsShares
      );
    }
  );

  # FILE LINE, in the order of the lines of each file.
  shareTable =
    map (flag: "tap-flags ${flag}") tapFlags
    ++ concatMap (
      i:
      {
        tap = [ "tap-interfaces ${i.id}" ];
        macvtap = [ "macvtap-interfaces ${i.id} ${i.mac} ${i.macvtap.link} ${i.macvtap.mode}" ];
      }
      .${i.type} or [ ]
    ) interfaces
    ++ concatMap (s: [
      "virtiofs/${s.tag}/socket ${s.socket}"
      "virtiofs/${s.tag}/source ${s.source}"
    ]) virtiofsShares
    ++ map (d: "${d.bus}-devices ${d.path}") guest.devices
    ++ optional (guest.vsockCid != null) "vsock-cid ${toString guest.vsockCid}"
    ++ [ "hypervisor ${hypervisor}" ];

  passthru = {
    inherit (guest)
      canShutdown
      supportsNotifySocket
      tapMultiQueue
      hypervisor
      registerWithMachined
      machineId
      ;
  };

  runner =
    build ./builders/runner.sh {
      name = "microvm-${hypervisor}-${hostName}";
      bin = lines (map (script: "${script} ${parts.${script}}") scriptNames);
      share = lines shareTable;
      toplevel = optionalString guest.systemSymlink toplevel;
      failure = optionalString (fail == "build") "guest ${name} ${version}";
    }
    // passthru
    // {
      inherit passthru;
      meta.mainProgram = "microvm-run";
    };

  declaredRunner =
    if hypervisor == "vfkit" then
      throw "guest ${name}: vfkit is for macOS"
    else if
      elem hypervisor [
        "firecracker"
        "crosvm"
      ]
      && guest.socket == null
    then
      throw "guest ${name}: ${hypervisor} must have a control socket (option microvm.socket)"
    else
      runner;

  onlyOptions = map (x: removeAttrs x [ "guest" ]);
in
if fail == "eval" then
  throw "guest ${name} ${version}: it does not evaluate, as wished"
else if fail == "eval-abort" then
  # Not caught by tryEval, like a missing attribute or a wrong type.
  abort "guest ${name} ${version}: it does not evaluate, as wished"
else
  {
    networking.hostName = hostName;
    system.build.toplevel = toplevel;
    system.nixos.version = version;
    microvm = {
      inherit (guest)
        hypervisor
        vcpu
        mem
        balloon
        socket
        storeOnDisk
        systemSymlink
        registerWithMachined
        machineId
        devices
        kernelParams
        preStart
        binScripts
        credentialFiles
        forwardPorts
        ;
      qemu = {
        inherit (guest) machine;
        extraArgs = guest.qemuExtraArgs;
      };
      kernel = boot;
      initrdPath = "${boot}/initrd";
      vsock.cid = guest.vsockCid;
      interfaces = onlyOptions interfaces;
      volumes = onlyOptions volumes;
      shares = onlyOptions guest.shares;
      runner.${hypervisor} = declaredRunner;
      inherit declaredRunner;
    };
  }
