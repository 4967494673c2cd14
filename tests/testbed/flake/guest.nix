# One guest: its fields in guests.json -> the `config` that microvm.nix would give.
#
# Option names, defaults and the files of the runner are those of microvm.nix
# (nixos-modules/microvm/options.nix, lib/runner.nix, lib/volumes.nix,
# nixos-modules/microvm/interfaces.nix).
{ boot }:
name: fields:
let
  inherit (builtins)
    concatMap
    concatStringsSep
    elem
    filter
    genList
    hashString
    head
    isList
    isString
    length
    match
    replaceStrings
    stringLength
    substring
    toJSON
    ;

  # --- small helpers ---------------------------------------------------------
  optional = cond: x: if cond then [ x ] else [ ];
  optionals = cond: xs: if cond then xs else [ ];
  optionalString = cond: s: if cond then s else "";
  quote = s: "'${replaceStrings [ "'" ] [ "'\\''" ] (toString s)}'";
  quoteAll = xs: concatStringsSep " " (map quote xs);
  lines = xs: concatStringsSep "" (map (x: x + "\n") xs);
  unset =
    option:
    throw "guest ${name}: the option `microvm.${option}' was accessed but has no value defined. Try setting the option.";
  imap = f: xs: genList (i: f i (builtins.elemAt xs i)) (length xs);

  # A typing error in guests.json must not look like a default.
  checkKeys =
    what: allowed: set:
    let
      unknown = filter (k: !(elem k allowed)) (builtins.attrNames set);
    in
    if unknown == [ ] then
      set
    else
      throw "guest ${name}: ${what} has the unknown field `${head unknown}'";

  # --- the wishes, with defaults ---------------------------------------------
  wish = checkKeys "it" [
    "address"
    "balloon"
    "devices"
    "fail"
    "gateway"
    "hostName"
    "hypervisor"
    "interfaces"
    "mem"
    "oldContract"
    "port"
    "ra"
    "registerWithMachined"
    "shares"
    "shutdown"
    "socket"
    "storeOnDisk"
    "systemSymlink"
    "vcpu"
    "version"
    "volumes"
    "vsockCid"
  ] fields;

  hash = hashString "sha256" name;
  # Host names have neither dots nor underscores; names of guests may.
  hostName = wish.hostName or (replaceStrings [ "." "_" ] [ "-" "-" ] name);
  version = toString (wish.version or "1");
  hypervisor =
    let
      h = wish.hypervisor or "qemu";
    in
    if elem h [
      "qemu"
      "cloud-hypervisor"
      "firecracker"
      "crosvm"
      "kvmtool"
      "stratovirt"
      "alioth"
      "vfkit"
    ] then
      h
    else
      throw "guest ${name}: `${h}' is not a hypervisor of microvm.nix";
  fail =
    let
      f = wish.fail or null;
    in
    if
      elem f [
        null
        "build"
        "eval"
        "eval-abort"
        "boot"
        "port"
        "crash"
        "stop"
      ]
    then
      f
    else
      throw "guest ${name}: unknown way to fail `${toString f}'";
  vcpu = wish.vcpu or 1;
  mem = wish.mem or 128;
  port = wish.port or 80;
  balloon = wish.balloon or false;
  vsockCid = wish.vsockCid or null;
  oldContract = wish.oldContract or false;
  registerWithMachined = wish.registerWithMachined or false;
  storeOnDisk = wish.storeOnDisk or (!(builtins.any (s: s.source == "/nix/store") shares));
  systemSymlink = wish.systemSymlink or (!storeOnDisk);
  # kvmtool and alioth have no control socket.
  hasSocket = !(elem hypervisor [
    "kvmtool"
    "alioth"
  ]);
  socket = wish.socket or (if wish.shutdown or true && hasSocket then "${hostName}.sock" else null);
  canShutdown =
    (wish.shutdown or true)
    && socket != null
    && elem hypervisor [
      "qemu"
      "cloud-hypervisor"
      "firecracker"
      "crosvm"
      "vfkit"
    ];
  supportsNotifySocket = hypervisor == "cloud-hypervisor" && vsockCid != null;
  tapMultiQueue =
    vcpu > 1
    && elem hypervisor [
      "qemu"
      "cloud-hypervisor"
      "stratovirt"
    ];
  machineId =
    let
      h = hashString "sha256" "microvm.nix:${hostName}";
      part = offset: len: substring offset len h;
    in
    concatStringsSep "-" [
      (part 0 8)
      (part 8 4)
      (part 12 4)
      (part 16 4)
      (part 20 12)
    ];

  interfaces = imap (
    n: given:
    let
      i = checkKeys "interface ${toString n}" [
        "address"
        "bridge"
        "gateway"
        "id"
        "mac"
        "macvtap"
        "ra"
        "tap"
        "type"
      ] given;
      h = if n == 0 then hash else hashString "sha256" "${name}/${toString n}";
      suffix = if n == 0 then "" else "-${toString n}";
      # 15 characters at most; a long name is replaced by its hash.
      short = "vm-${name}${suffix}";
    in
    {
      type = i.type or "tap";
      id = i.id or (if stringLength short <= 15 then short else "vm-${substring 0 12 h}");
      mac =
        i.mac or (concatStringsSep ":" ([ "02" ] ++ genList (b: substring (2 * b) 2 h) 5));
      bridge = i.bridge or null;
      macvtap = {
        link = i.macvtap.link or (unset "interfaces.[definition ${toString n}].macvtap.link");
        mode = i.macvtap.mode or (unset "interfaces.[definition ${toString n}].macvtap.mode");
      };
      tap.vhost = i.tap.vhost or false;
      # Not options of microvm.nix: the guest's own configuration.
      guest = {
        address = i.address or (if n == 0 then wish.address or "dhcp" else "none");
        gateway = i.gateway or (if n == 0 then wish.gateway or [ ] else [ ]);
        ra = i.ra or (wish.ra or true);
      };
    }
  ) (wish.interfaces or [ { } ]);
  ofType = type: filter (i: i.type == type) interfaces;
  taps = ofType "tap";
  macvtaps = ofType "macvtap";

  volumes = imap (
    n: given:
    let
      v = checkKeys "volume ${toString n}" [
        "autoCreate"
        "direct"
        "fsType"
        "image"
        "imageType"
        "label"
        "mkfsExtraArgs"
        "mountPoint"
        "readOnly"
        "serial"
        "size"
      ] given;
      at = "volumes.[definition ${toString n}]";
    in
    {
      image = v.image or (unset "${at}.image");
      serial = v.serial or null;
      direct = v.direct or false;
      readOnly = v.readOnly or false;
      label = v.label or null;
      mountPoint = v.mountPoint or (unset "${at}.mountPoint");
      size = v.size or (unset "${at}.size");
      autoCreate = v.autoCreate or true;
      mkfsExtraArgs = v.mkfsExtraArgs or [ ];
      fsType = v.fsType or "ext4";
      imageType = v.imageType or "raw";
    }
  ) volumeFields;
  volumeFields =
    wish.volumes or [
      {
        image = "data.img";
        mountPoint = "/data";
        size = 16;
      }
    ];

  shares = imap (
    n: given:
    let
      s = checkKeys "share ${toString n}" [
        "mountPoint"
        "proto"
        "readOnly"
        "securityModel"
        "socket"
        "source"
        "tag"
      ] given;
      at = "shares.[definition ${toString n}]";
      proto = s.proto or "9p";
      tag = s.tag or (unset "${at}.tag");
    in
    {
      inherit proto tag;
      socket = s.socket or (if proto == "virtiofs" then "${hostName}-virtiofs-${tag}.sock" else null);
      source = s.source or (unset "${at}.source");
      mountPoint = s.mountPoint or (unset "${at}.mountPoint");
      securityModel = s.securityModel or "none";
      readOnly = s.readOnly or false;
      cache = "auto";
      posixAcl = true;
      extraArgs = [ ];
    }
  ) (wish.shares or [ ]);
  virtiofsShares = filter (s: s.proto == "virtiofs") shares;

  devices = map (
    d:
    checkKeys "a device" [
      "bus"
      "path"
    ] d
    // {
      qemu = {
        id = null;
        bus = null;
        deviceExtraArgs = null;
      };
    }
  ) (wish.devices or [ ]);

  # --- the guest's system ------------------------------------------------------
  asList = x: if isList x then x else [ x ];
  column = xs: if xs == [ ] then "-" else concatStringsSep "," xs;

  # MAC METHOD RA ADDRESSES GATEWAYS
  networkTable = lines (
    map (
      i:
      let
        inherit (i.guest) address;
        method = if elem address [ "dhcp" "none" ] then address else "static";
      in
      concatStringsSep " " [
        i.mac
        method
        (if i.guest.ra then "ra" else "-")
        (column (optionals (method == "static") (asList address)))
        (column (asList i.guest.gateway))
      ]
    ) interfaces
  );

  # DEVICE FSTYPE MODE MOUNTPOINT; only what is to be mounted.
  driveLetters = [
    "a" "b" "c" "d" "e" "f" "g" "h" "i" "j" "k" "l" "m"
    "n" "o" "p" "q" "r" "s" "t" "u" "v" "w" "x" "y" "z"
  ];
  volumeLetter = n: builtins.elemAt driveLetters (n + (if storeOnDisk then 1 else 0));
  volumeTable = lines (
    builtins.concatLists (
      imap (
        n: v:
        let
          # Unset is an error where the option is read, but no reason not to boot.
          mountPoint = (builtins.elemAt volumeFields n).mountPoint or null;
        in
        optional (mountPoint != null) (
          concatStringsSep " " [
            "/dev/vd${volumeLetter n}"
            v.fsType
            (if v.readOnly then "ro" else "rw")
            mountPoint
          ]
        )
      ) volumes
    )
  );

  toplevel = derivation {
    name = "nixos-system-${hostName}-${version}";
    system = "x86_64-linux";
    builder = "/bin/sh";
    args = [ ./builders/system.sh ];
    init = ./guest/init;
    inherit boot;
    inherit hostName version;
    guestJson = toJSON {
      inherit name version port;
      hostname = hostName;
    };
    settings = lines [
      "port=${quote port}"
      "fail=${quote (if elem fail [ "boot" "port" "stop" ] then fail else "")}"
    ];
    inherit networkTable volumeTable;
  };

  # --- bin/ --------------------------------------------------------------------
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
    "init=${toplevel}/init"
  ];

  createVolume =
    v:
    let
      label = optionalString (v.label != null) "-L ${quote v.label} ";
    in
    ''
      if [ ! -e '${v.image}' ]; then
        touch '${v.image}'
        chattr +C '${v.image}' || true
        truncate -s ${toString v.size}M '${v.image}'
        mkfs.${v.fsType} ${label}${quoteAll v.mkfsExtraArgs} '${v.image}'
      fi
    '';
  createVolumes =
    let
      created = filter (v: v.autoCreate) volumes;
    in
    optionalString (created != [ ]) (
      "PATH=$PATH:/usr/bin:/usr/sbin\n" + concatStringsSep "" (map createVolume created)
    );

  qemuInterface =
    i:
    let
      netdev = [
        (if i.type == "macvtap" then "tap" else i.type)
        "id=${i.id}"
      ]
      ++ optionals (i.type == "tap") (
        [
          "ifname=${i.id}"
          "script=no"
          "downscript=no"
        ]
        ++ optional i.tap.vhost "vhost=on"
        ++ optional tapMultiQueue "queues=${toString vcpu}"
      )
      ++ optionals (i.type == "bridge") [
        "br=${i.bridge}"
        "helper=/usr/lib/qemu/qemu-bridge-helper"
      ];
      multi = tapMultiQueue && i.type == "tap";
    in
    [
      "-netdev"
      (concatStringsSep "," netdev)
      "-device"
      "virtio-net-pci,netdev=${i.id},mac=${i.mac},romfile=${
        optionalString multi ",mq=on,vectors=${toString (2 * vcpu + 2)}"
      }"
    ];

  qemuArgs = [
    "-name"
    hostName
    "-m"
    "${toString mem}M"
    "-smp"
    (toString vcpu)
    "-nodefaults"
    "-no-user-config"
    "-no-reboot"
    "-kernel"
    "${boot}/kernel"
    "-initrd"
    "${boot}/initrd"
    "-chardev"
    "stdio,id=stdio,signal=off"
    "-device"
    "virtio-rng-pci"
    "-smbios"
    "type=1,uuid=${machineId}"
    "-serial"
    "chardev:stdio"
    "-device"
    "i8042"
    "-nographic"
  ]
  ++ optionals storeOnDisk [
    "-drive"
    "id=store,format=raw,read-only=on,file=${storeDisk},if=none,aio=threads"
    "-device"
    "virtio-blk-pci,drive=store,disable-legacy=on"
  ]
  ++ optionals (socket != null) [
    "-qmp"
    "unix:${socket},server,nowait"
  ]
  ++ optionals balloon [
    "-device"
    "virtio-balloon-pci,free-page-reporting=on,id=balloon0,deflate-on-oom=on"
  ]
  ++ builtins.concatLists (
    imap (n: v: [
      "-drive"
      (
        "id=vd${volumeLetter n},format=raw,file=${v.image},if=none,aio=threads,discard=unmap"
        + optionalString v.direct ",cache=none"
        + ",read-only=${if v.readOnly then "on" else "off"}"
      )
      "-device"
      (
        "virtio-blk-pci,drive=vd${volumeLetter n}"
        + optionalString (v.serial != null) ",serial=${v.serial}"
      )
    ]) volumes
  )
  ++ concatMap qemuInterface interfaces;

  runQemu = ''
    cpuinfo=$(< /proc/cpuinfo)
    machine=(-M microvm,acpi=on,mem-merge=on,pcie=on,rtc=on,usb=off)
    append=${quote (concatStringsSep " " kernelParams)}
    if [ -r /dev/kvm ] && [ -w /dev/kvm ] \
      && [[ $cpuinfo =~ (^|[[:space:]])(vmx|svm)([[:space:]]|$) ]]; then
      machine+=(-accel kvm -cpu host,+x2apic,-sgx)
    else
      # No /dev/kvm, or one that no guest kernel boots on.  Left alone, the kernel
      # hangs now and then while it measures the clocks of the emulated machine;
      # so it is told: the TSC is that of the host.  With a clock it can trust and
      # a timer that never sleeps (arat), an idle guest costs next to nothing.
      khz=2000000
      if [[ $cpuinfo =~ 'cpu MHz'[[:space:]]*:\ ([0-9]+)\.([0-9]{3}) ]]; then
        khz=''${BASH_REMATCH[1]}''${BASH_REMATCH[2]}
      fi
      machine+=(-accel tcg -cpu qemu64,+arat)
      append+=" tsc_early_khz=$khz tsc=reliable no_timer_check lpj=4000000"
    fi
    ${optionalString (vsockCid != null) ''
      if [ -w /dev/vhost-vsock ]; then
        machine+=(-device vhost-vsock-pci,guest-cid=${toString vsockCid})
      fi
    ''}
    exec -a "microvm@${hostName}" /usr/bin/qemu-system-x86_64 "''${machine[@]}" -append "$append" ${quoteAll qemuArgs}
  '';

  runCrash = ''
    sleep 1
    echo "guest ${name} ${version}: it crashes, as wished" >&2
    exit 1
  '';

  runClaimed = ''
    # init=${toplevel}/init
    echo "guest ${name}: no ${hypervisor} on this host, the runner only shows its files" >&2
    exit 127
  '';

  shutdownQemu = ''
    if [ ! -S '${socket}' ]; then
      exit 0
    fi
    {
      echo '${toJSON { execute = "qmp_capabilities"; }}'
      echo '${
        toJSON {
          execute = "input-send-event";
          arguments.events =
            map
              (key: {
                type = "key";
                data = {
                  down = true;
                  key = {
                    type = "qcode";
                    data = key;
                  };
                };
              })
              [
                "ctrl"
                "alt"
                "delete"
              ];
        }
      }'
      cat
    } | /usr/bin/socat STDIO 'UNIX:${socket},shut-none'
  '';

  balloonQemu = ''
    set -e
    if [ -z "$1" ]; then
      echo "Usage: $0 <balloon-size-mb>"
      exit 1
    fi
    SIZE=$( {
      echo '${toJSON { execute = "qmp_capabilities"; }}'
      echo "{\"execute\":\"balloon\",\"arguments\":{\"value\":$(( $1 * 1024 * 1024 ))}}"
    } | /usr/bin/socat STDIO 'UNIX:${socket},shut-none' | tail -n 1 | /usr/bin/jq -r .data.actual )
    echo $(( SIZE / 1024 / 1024 ))
  '';

  ip = "/usr/bin/ip";
  tapFlags = [ "vnet_hdr" ] ++ optional tapMultiQueue "multi_queue";

  scripts =
    {
      microvm-run = ''
        set -eou pipefail
        ${createVolumes}
        ${
          if fail == "crash" then
            runCrash
          else if hypervisor == "qemu" then
            runQemu
          else
            runClaimed
        }
      '';
    }
    // (if canShutdown then { microvm-shutdown = shutdownQemu; } else { })
    // (if socket != null && hypervisor == "qemu" then { microvm-balloon = balloonQemu; } else { })
    // (
      if taps != [ ] && !oldContract then
        {
          tap-up =
            "set -eou pipefail\n"
            + concatStringsSep "" (
              map (i: ''
                if [ -e '/sys/class/net/${i.id}' ]; then
                  ${ip} link delete '${i.id}'
                fi
                ${ip} tuntap add name '${i.id}' mode tap user microvm ${concatStringsSep " " tapFlags}
                ${ip} link set '${i.id}' up
              '') taps
            );
          tap-down =
            "set -ou pipefail\n" + concatStringsSep "" (map (i: "${ip} link delete '${i.id}'\n") taps);
        }
      else
        { }
    );
  scriptNames = builtins.attrNames scripts;
  storeDisk = optionalString storeOnDisk (builtins.placeholder "store-disk");

  scriptPackage = derivation (
    {
      name = "microvm-${hostName}";
      system = "x86_64-linux";
      builder = "/bin/sh";
      args = [ ./builders/scripts.sh ];
      outputs = scriptNames ++ optional storeOnDisk "store-disk";
      targets = concatStringsSep " " (map builtins.placeholder scriptNames);
      inherit storeDisk;
      toplevel = optionalString storeOnDisk toplevel;
    }
    // builtins.listToAttrs (
      imap (n: script: {
        name = "text${toString n}";
        value = scripts.${script};
      }) scriptNames
    )
  );

  # --- share/microvm/ ------------------------------------------------------------
  # FILE LINE, in the order of the lines of each file.
  shareFiles =
    map (flag: "tap-flags ${flag}") tapFlags
    ++ map (i: "tap-interfaces ${i.id}") taps
    ++ map (i: "macvtap-interfaces ${i.id} ${i.mac} ${i.macvtap.link} ${i.macvtap.mode}") macvtaps
    ++ concatMap (s: [
      "virtiofs/${s.tag}/socket ${s.socket}"
      "virtiofs/${s.tag}/source ${s.source}"
    ]) virtiofsShares
    ++ map (d: "${d.bus}-devices ${d.path}") devices
    ++ optional (vsockCid != null) "vsock-cid ${toString vsockCid}"
    ++ [ "hypervisor ${hypervisor}" ];

  passthru = {
    inherit
      canShutdown
      supportsNotifySocket
      tapMultiQueue
      hypervisor
      registerWithMachined
      machineId
      ;
  };

  runner =
    derivation {
      name = "microvm-${hypervisor}-${hostName}";
      system = "x86_64-linux";
      builder = "/bin/sh";
      args = [ ./builders/runner.sh ];
      bin = lines (map (script: "${script} ${scriptPackage.${script}}") scriptNames);
      share = lines shareFiles;
      toplevel = optionalString systemSymlink toplevel;
      failure = optionalString (fail == "build") "guest ${name} ${version}";
    }
    // passthru
    // {
      inherit passthru;
      meta.mainProgram = "microvm-run";
    };

  config = {
    networking = {
      inherit hostName;
    };
    system = {
      build = {
        inherit toplevel;
      };
      nixos = {
        inherit version;
      };
    };
    microvm = {
      inherit
        hypervisor
        vcpu
        mem
        socket
        storeOnDisk
        systemSymlink
        registerWithMachined
        machineId
        volumes
        shares
        devices
        balloon
        kernelParams
        ;
      vsock.cid = vsockCid;
      interfaces = map (i: removeAttrs i [ "guest" ]) interfaces;
      runner.${hypervisor} = runner;
      declaredRunner = runner;
    };
  };
in
if fail == "eval" then
  throw "guest ${name} ${version}: it does not evaluate, as wished"
else if fail == "eval-abort" then
  # Not caught by tryEval, like a missing attribute or a wrong type.
  abort "guest ${name} ${version}: it does not evaluate, as wished"
else
  config
