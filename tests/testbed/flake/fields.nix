# The fields of a guest in guests.json -> all its properties, with defaults.
# README.md has the table of the fields.
#
# Defaults of options are those of nixos-modules/microvm/options.nix of
# microvm.nix; an option that has none there throws here too when it is read.
name: fields:
let
  inherit (builtins)
    attrNames
    concatStringsSep
    elem
    filter
    genList
    hashString
    head
    replaceStrings
    stringLength
    substring
    ;
  inherit (import ./text.nix) imap;

  unset =
    option:
    throw "guest ${name}: The option `microvm.${option}' was accessed but has no value defined. Try setting the option.";

  # A typing error in guests.json must not look like a default.
  known =
    what: allowed: set:
    let
      unknown = filter (key: !(elem key allowed)) (attrNames set);
    in
    if unknown == [ ] then set else throw "guest ${name}: ${what} has an unknown field, `${head unknown}'";
  oneOf =
    what: allowed: x:
    if elem x allowed then x else throw "guest ${name}: ${what} `${toString x}' is none that is known";

  wish = known "its description" [
    "address"
    "balloon"
    "binScripts"
    "credentialFiles"
    "devices"
    "fail"
    "forwardPorts"
    "gateway"
    "hostName"
    "hypervisor"
    "interfaces"
    "kernelParams"
    "machine"
    "mem"
    "oldContract"
    "port"
    "preStart"
    "qemuExtraArgs"
    "ra"
    "registerWithMachined"
    "shares"
    "shutdown"
    "socket"
    "sshKeys"
    "storeOnDisk"
    "systemSymlink"
    "underQemu"
    "vcpu"
    "version"
    "volumes"
    "vsockCid"
  ] fields;

  hash = hashString "sha256" name;

  # Host names have neither dots nor underscores; names of guests may.
  hostName = wish.hostName or (replaceStrings [ "." "_" ] [ "-" "-" ] name);
  hypervisor = oneOf "hypervisor" [
    "qemu"
    "cloud-hypervisor"
    "firecracker"
    "crosvm"
    "kvmtool"
    "stratovirt"
    "alioth"
    "vfkit"
  ] (wish.hypervisor or "qemu");
  vcpu = wish.vcpu or 1;
  vsockCid = wish.vsockCid or null;
  wantsShutdown = wish.shutdown or true;
  hasSocket = !(elem hypervisor [
    "kvmtool"
    "alioth"
  ]);
  socket = wish.socket or (if wantsShutdown && hasSocket then "${hostName}.sock" else null);
  storeOnDisk = wish.storeOnDisk or (builtins.all (share: share.source != "/nix/store") shares);

  interface =
    n: given:
    let
      i = known "interface ${toString n}" [
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
      first = n == 0;
      own = if first then hash else hashString "sha256" "${name}/${toString n}";
      readable = if first then "vm-${name}" else "vm-${name}-${toString n}";
      at = "interfaces.[definition ${toString n}]";
    in
    {
      type = oneOf "interface type" [
        "user"
        "tap"
        "macvtap"
        "bridge"
      ] (i.type or "tap");
      # The kernel takes 15 characters at most.
      id = i.id or (if stringLength readable <= 15 then readable else "vm-${substring 0 12 own}");
      mac = i.mac or (concatStringsSep ":" ([ "02" ] ++ genList (byte: substring (2 * byte) 2 own) 5));
      bridge = i.bridge or null;
      macvtap = {
        link = i.macvtap.link or (unset "${at}.macvtap.link");
        mode = i.macvtap.mode or (unset "${at}.macvtap.mode");
      };
      tap.vhost = i.tap.vhost or false;
      # What the guest itself does with it; no option of microvm.nix.
      guest = {
        address = i.address or (if first then wish.address or "dhcp" else "none");
        gateway = i.gateway or (if first then wish.gateway or [ ] else [ ]);
        ra = i.ra or wish.ra or true;
      };
    };

  volume =
    n: given:
    let
      v = known "volume ${toString n}" [
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
      # Unset is an error where the option is read, but no reason not to boot.
      guest.mountPoint = v.mountPoint or null;
    };

  share =
    n: given:
    let
      s = known "share ${toString n}" [
        "mountPoint"
        "proto"
        "readOnly"
        "securityModel"
        "socket"
        "source"
        "tag"
      ] given;
      at = "shares.[definition ${toString n}]";
      proto = oneOf "share proto" [
        "9p"
        "virtiofs"
      ] (s.proto or "9p");
      tag = s.tag or (unset "${at}.tag");
    in
    {
      inherit proto tag;
      socket = s.socket or (if proto == "virtiofs" then "${hostName}-virtiofs-${tag}.sock" else null);
      source = s.source or (unset "${at}.source");
      securityModel = s.securityModel or "none";
      mountPoint = s.mountPoint or (unset "${at}.mountPoint");
      readOnly = s.readOnly or false;
      cache = "auto";
      posixAcl = true;
      extraArgs = [ ];
      guest.mountPoint = s.mountPoint or null;
    };
  shares = imap share (wish.shares or [ ]);

  forwardPort =
    given:
    let
      f = known "a forwarded port" [
        "from"
        "guest"
        "host"
        "proto"
      ] given;
    in
    {
      from = oneOf "direction" [ "host" ] (f.from or "host");
      proto = oneOf "protocol" [
        "tcp"
        "udp"
      ] (f.proto or "tcp");
      host.address = f.host.address or "";
      host.port = f.host.port or (unset "forwardPorts.*.host.port");
      guest.address = f.guest.address or "";
      guest.port = f.guest.port or (unset "forwardPorts.*.guest.port");
    };

  device = given: known "a device" [ "bus" "path" ] given // {
    qemu = {
      id = null;
      bus = null;
      deviceExtraArgs = null;
    };
  };
in
{
  inherit
    name
    hostName
    hypervisor
    vcpu
    vsockCid
    socket
    storeOnDisk
    shares
    ;
  version = toString (wish.version or "1");
  fail = oneOf "fail" [
    null
    "build"
    "eval"
    "eval-abort"
    "boot"
    "port"
    "crash"
    "emergency"
    "late"
    "stop"
    "switch"
  ] (wish.fail or null);
  mem = wish.mem or 128;
  # Whether there is a machine behind the hypervisor that is named; no option of microvm.nix.
  underQemu = hypervisor == "qemu" || wish.underQemu or false;
  machine = wish.machine or "microvm";
  kernelParams = wish.kernelParams or [ ];
  preStart = wish.preStart or "";
  qemuExtraArgs = wish.qemuExtraArgs or [ ];
  port = wish.port or 80;
  sshKeys = wish.sshKeys or [ ];
  balloon = wish.balloon or false;
  binScripts = wish.binScripts or { };
  credentialFiles = wish.credentialFiles or { };
  forwardPorts = map forwardPort (wish.forwardPorts or [ ]);
  oldContract = wish.oldContract or false;
  registerWithMachined = wish.registerWithMachined or false;
  systemSymlink = wish.systemSymlink or (!storeOnDisk);

  canShutdown =
    wantsShutdown
    && socket != null
    && !(elem hypervisor [
      "kvmtool"
      "stratovirt"
      "alioth"
    ]);
  canBalloon =
    hypervisor == "kvmtool"
    ||
      socket != null
      && elem hypervisor [
        "qemu"
        "cloud-hypervisor"
        "crosvm"
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
      own = hashString "sha256" "microvm.nix:${hostName}";
    in
    concatStringsSep "-" [
      (substring 0 8 own)
      (substring 8 4 own)
      (substring 12 4 own)
      (substring 16 4 own)
      (substring 20 12 own)
    ];

  interfaces = imap interface (wish.interfaces or [ { } ]);
  volumes = imap volume (
    wish.volumes or [
      {
        image = "data.img";
        mountPoint = "/data";
        size = 16;
      }
    ]
  );
  devices = map device (wish.devices or [ ]);
}
