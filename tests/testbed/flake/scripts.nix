# The scripts of a runner, by the name that they have in bin/.
#
# They do what lib/runner.nix, lib/volumes.nix, lib/runners/qemu.nix and
# nixos-modules/microvm/{interfaces,pci-devices,virtiofsd}.nix of microvm.nix
# say, with the tools of a Debian host.
{
  guest,
  boot,
  toplevel,
  storeDisk,
  virtiofsdConf,
}:
let
  inherit (builtins) concatMap concatStringsSep filter toJSON;
  inherit (import ./text.nix)
    commas
    imap
    optional
    optionalAttrs
    optionalString
    optionals
    quote
    quoteAll
    words
    ;
  inherit (guest)
    hostName
    hypervisor
    interfaces
    shares
    socket
    tapMultiQueue
    underQemu
    vcpu
    volumes
    ;

  ofType = type: filter (i: i.type == type) interfaces;
  taps = ofType "tap";
  macvtaps = ofType "macvtap";
  virtiofsShares = filter (s: s.proto == "virtiofs") shares;
  pciDevices = filter (d: d.bus == "pci") guest.devices;
  concatScript = f: xs: concatStringsSep "" (map f xs);

  ip = "/usr/bin/ip";
  deleteLink = i: "${ip} link delete '${i.id}'\n";
  replaceLink = i: ''
    if [ -e '/sys/class/net/${i.id}' ]; then
      ${ip} link delete '${i.id}'
    fi
  '';

  # --- microvm-run -------------------------------------------------------------
  createVolume = v: ''
    if [ ! -e '${v.image}' ]; then
      touch '${v.image}'
      chattr +C '${v.image}' || true
      truncate -s ${toString v.size}M '${v.image}'
      mkfs.${v.fsType} ${
        words (optional (v.label != null) "-L ${quote v.label}" ++ map quote v.mkfsExtraArgs)
      } '${v.image}'
    fi
  '';
  createVolumes =
    let
      created = filter (v: v.autoCreate) volumes;
    in
    optionalString (created != [ ]) "PATH=$PATH:/usr/bin:/usr/sbin\n" + concatScript createVolume created;

  # The queues of macvtap interfaces are passed as open files, from 3 on.
  macvtapQueues = if tapMultiQueue then vcpu else 1;
  macvtapFiles = builtins.concatLists (
    imap (
      n: i:
      builtins.genList (queue: {
        inherit (i) id;
        file = toString (3 + n * macvtapQueues + queue);
      }) macvtapQueues
    ) macvtaps
  );
  openMacvtaps = concatScript (
    f: "exec ${f.file}<>/dev/tap$(< /sys/class/net/${f.id}/ifindex)\n"
  ) macvtapFiles;

  qemuInterface =
    i:
    let
      files = map (f: f.file) (filter (f: f.id == i.id) macvtapFiles);
      multiQueue = tapMultiQueue && (i.type == "tap" || i.type == "macvtap");
    in
    [
      "-netdev"
      (commas (
        [
          (if i.type == "macvtap" then "tap" else i.type)
          "id=${i.id}"
        ]
        ++ {
          tap = [
            "ifname=${i.id}"
            "script=no"
            "downscript=no"
          ]
          ++ optional i.tap.vhost "vhost=on"
          ++ optional tapMultiQueue "queues=${toString vcpu}";
          macvtap = [
            (if tapMultiQueue then "fds=${concatStringsSep ":" files}" else "fd=${builtins.head files}")
          ];
          bridge = [
            "br=${i.bridge}"
            "helper=/usr/lib/qemu/qemu-bridge-helper"
          ];
          user = map (
            f:
            "hostfwd=${f.proto}:${f.host.address}:${toString f.host.port}-${f.guest.address}:${toString f.guest.port}"
          ) guest.forwardPorts;
        }
        .${i.type}
      ))
      "-device"
      (
        "virtio-net-pci,netdev=${i.id},mac=${i.mac},romfile="
        + optionalString multiQueue ",mq=on,vectors=${toString (2 * vcpu + 2)}"
      )
    ];

  qemuVolume =
    n: v:
    let
      drive = "volume${toString n}";
    in
    [
      "-drive"
      (
        "id=${drive},format=raw,file=${v.image},if=none,aio=threads,discard=unmap"
        + optionalString v.direct ",cache=none"
        + ",read-only=${if v.readOnly then "on" else "off"}"
      )
      "-device"
      ("virtio-blk-pci,drive=${drive}" + optionalString (v.serial != null) ",serial=${v.serial}")
    ];

  qemuShare =
    n: s:
    let
      id = "share${toString n}";
    in
    [
      "-chardev"
      "socket,id=${id},path=${s.socket}"
      "-device"
      "vhost-user-fs-pci,chardev=${id},tag=${s.tag}"
    ];

  qemuArguments = [
    "-name"
    hostName
    "-m"
    "${toString guest.mem}M"
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
    "-serial"
    "chardev:stdio"
    "-nographic"
    "-smbios"
    "type=1,uuid=${guest.machineId}"
    "-device"
    "virtio-rng-pci"
    # The keyboard on which microvm-shutdown presses Ctrl-Alt-Del.
    "-device"
    "i8042"
  ]
  # The disks in the order in which the guest names them: vda, vdb, ...
  ++ optionals guest.storeOnDisk [
    "-drive"
    "id=store,format=raw,read-only=on,file=${storeDisk},if=none,aio=threads"
    "-device"
    "virtio-blk-pci,drive=store,disable-legacy=on"
  ]
  ++ builtins.concatLists (imap qemuVolume volumes)
  ++ optionals (virtiofsShares != [ ]) [
    "-numa"
    "node,memdev=mem"
    "-object"
    "memory-backend-memfd,id=mem,size=${toString guest.mem}M,share=on"
  ]
  ++ builtins.concatLists (imap qemuShare virtiofsShares)
  ++ optionals (socket != null) [
    "-qmp"
    "unix:${socket},server,nowait"
  ]
  ++ optionals guest.balloon [
    "-device"
    "virtio-balloon-pci,free-page-reporting=on,id=balloon0,deflate-on-oom=on"
  ]
  ++ concatMap qemuInterface interfaces
  ++ concatMap (credential: [
    "-fw_cfg"
    "name=opt/io.systemd.credentials/${credential},file=${guest.credentialFiles.${credential}}"
  ]) (builtins.attrNames guest.credentialFiles)
  ++ guest.qemuExtraArgs;

  # What the machine microvm has to be told, others have.
  machineOptions = optionalString (guest.machine == "microvm") ",pcie=on,rtc=on,usb=off";

  runQemu = ''
    cpuinfo=$(< /proc/cpuinfo)
    machine=(-M ${quote "${guest.machine},acpi=on,mem-merge=on${machineOptions}"})
    append=${quote (words guest.kernelParams)}
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
    ${optionalString (guest.vsockCid != null) ''
      # Not every kernel has vhost_vsock, and a guest here can do without.
      if [ -w /dev/vhost-vsock ]; then
        machine+=(-device vhost-vsock-pci,guest-cid=${toString guest.vsockCid})
      fi
    ''}
    ${optionalString guest.supportsNotifySocket ''
      # What the guest says of itself comes through a port of its own, as it does through a vsock.
      if [ -n "''${NOTIFY_SOCKET:-}" ]; then
        rm -f notify.vsock_8888
        /usr/bin/socat -u UNIX-LISTEN:notify.vsock_8888 "UNIX-SENDTO:$NOTIFY_SOCKET" &
        while [ ! -S notify.vsock_8888 ]; do
          sleep 0.1
        done
        machine+=(-chardev socket,id=notify,path=notify.vsock_8888)
        machine+=(-device virtio-serial-pci -device virtserialport,chardev=notify)
      fi
    ''}
    exec -a "microvm@${hostName}" /usr/bin/qemu-system-x86_64 "''${machine[@]}" -append "$append" ${quoteAll qemuArguments}
  '';

  runCrash = ''
    sleep 1
    echo "guest ${guest.name} ${guest.version}: it crashes, as wished" >&2
    exit 1
  '';

  # A hypervisor that is only claimed: its files are there, nothing runs.
  claimed = ''
    echo "guest ${guest.name}: ${hypervisor} is only claimed, there is none here" >&2
    exit 1
  '';

  microvm-run = ''
    set -eou pipefail
    ${guest.preStart}
    ${createVolumes}${
      if guest.fail == "crash" then
        runCrash
      else if underQemu then
        openMacvtaps + runQemu
      else
        # Where the system is read from by who looks for it in here; and another machine is
        # another runner.
        "# init=${toplevel}/init\n# ${
          builtins.replaceStrings [ "\n" ] [ " " ] (quoteAll qemuArguments)
        }\n"
        + claimed
    }'';

  # --- microvm-shutdown, microvm-balloon -----------------------------------------
  negotiate = "echo '${toJSON { execute = "qmp_capabilities"; }}'";
  socat = "/usr/bin/socat STDIO 'UNIX:${socket},shut-none'";
  press = key: {
    type = "key";
    data = {
      down = true;
      key = {
        type = "qcode";
        data = key;
      };
    };
  };

  # It waits for the end of the machine only as long as its own input stays open,
  # as the one of microvm.nix does: with /dev/null there, socat leaves after 0.5 s.
  shutdownQemu = ''
    if [ ! -S '${socket}' ]; then
      exit 0
    fi
    {
      ${negotiate}
      echo '${
        toJSON {
          execute = "input-send-event";
          arguments.events = map press [
            "ctrl"
            "alt"
            "delete"
          ];
        }
      }'
      cat
    } | ${socat}
  '';

  balloonQemu = ''
    set -e
    if [ -z "$1" ]; then
      echo "Usage: $0 <balloon-size-mb>"
      exit 1
    fi
    bytes=$(( $1 * 1024 * 1024 ))
    actual=$({
      ${negotiate}
      echo "{\"execute\":\"balloon\",\"arguments\":{\"value\":$bytes}}"
      echo '${toJSON { execute = "query-balloon"; }}'
    } | ${socat} | /usr/bin/jq -r 'select(.return.actual) | .return.actual')
    echo $(( actual / 1024 / 1024 ))
  '';

  # --- machined ------------------------------------------------------------------
  machined = "/usr/bin/busctl call org.freedesktop.machine1 /org/freedesktop/machine1 org.freedesktop.machine1.Manager";
  register = ''
    set -euo pipefail
    leader=''${1:-$$}
    read -r -a id <<< "$(echo ${builtins.replaceStrings [ "-" ] [ "" ] guest.machineId} | sed 's/../0x& /g')"
    ${machined} RegisterMachine sayssus '${hostName}' "''${#id[@]}" "''${id[@]}" microvm.nix vm "$leader" /
  '';
  unregister = ''
    set -euo pipefail
    ${machined} TerminateMachine s '${hostName}' 2> /dev/null || true
  '';

  # --- what runs as root beside the machine ----------------------------------------
  tap-up =
    "set -eou pipefail\n"
    + concatScript (i: ''
      ${replaceLink i}
      ${ip} tuntap add name '${i.id}' mode tap user microvm ${words guest.tapFlags}
      ${ip} link set '${i.id}' up
    '') taps;
  tap-down = "set -ou pipefail\n" + concatScript deleteLink taps;

  macvtap-up =
    "set -eou pipefail\n"
    + concatScript (i: ''
      ${replaceLink i}
      ${ip} link add link '${i.macvtap.link}' name '${i.id}' address '${i.mac}' type macvtap mode '${i.macvtap.mode}'
      ${ip} link set '${i.id}' allmulticast on
      if [ -f '/proc/sys/net/ipv6/conf/${i.id}/disable_ipv6' ]; then
        echo 1 > '/proc/sys/net/ipv6/conf/${i.id}/disable_ipv6'
      fi
      ${ip} link set '${i.id}' up
      chown microvm:kvm "/dev/tap$(< '/sys/class/net/${i.id}/ifindex')"
    '') macvtaps;
  macvtap-down = "set -ou pipefail\n" + concatScript deleteLink macvtaps;

  pci-setup =
    "set -eou pipefail\n/usr/sbin/modprobe vfio-pci\n"
    + concatScript (d: ''
      cd '/sys/bus/pci/devices/${d.path}'
      if [ -e driver ]; then
        echo '${d.path}' > driver/unbind
      fi
      echo vfio-pci > driver_override
      echo '${d.path}' > /sys/bus/pci/drivers_probe
      group=$(basename "$(readlink iommu_group)")
      chown microvm:kvm "/dev/vfio/$group"
    '') pciDevices;

  virtiofsd-run = ''
    exec /usr/bin/supervisord --configuration ${virtiofsdConf} "$@"
  '';
in
{
  inherit microvm-run;
}
// optionalAttrs guest.canShutdown {
  microvm-shutdown = if underQemu then shutdownQemu else claimed;
}
// optionalAttrs guest.canBalloon {
  microvm-balloon = if underQemu then balloonQemu else claimed;
}
// optionalAttrs guest.registerWithMachined {
  microvm-register = register;
  microvm-unregister = unregister;
}
# Hosts of the time before these scripts read share/microvm instead.
// optionalAttrs (!guest.oldContract) (
  optionalAttrs (taps != [ ]) { inherit tap-up tap-down; }
  // optionalAttrs (macvtaps != [ ]) { inherit macvtap-up macvtap-down; }
  // optionalAttrs (pciDevices != [ ]) { inherit pci-setup; }
  // optionalAttrs (virtiofsShares != [ ]) { inherit virtiofsd-run; }
)
// guest.binScripts
