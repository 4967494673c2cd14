# The package set: stand-ins for packages of nixpkgs, and its builders of files.
#
# A package is a derivation that links to the programs of its name of the Debian
# host that builds it; one that the host lacks gives a package without it.
# Nothing is built before something asks for its files.
{ lib, system }:
let
  inherit (builtins) mapAttrs toFile;

  build =
    name: attributes:
    let
      drv = derivation (
        {
          inherit name system;
          builder = "/bin/sh";
        }
        // attributes
      );
    in
    drv // { inherit name; };

  # NAME -> programs, the main one first.
  programs = {
    bash = [
      "bash"
      "sh"
    ];
    busybox = [ "busybox" ];
    conntrack-tools = [ "conntrack" ];
    containerd = [ "containerd" ];
    cri-tools = [ "crictl" ];
    curl = [ "curl" ];
    docker = [
      "docker"
      "dockerd"
    ];
    e2fsprogs = [
      "mkfs.ext4"
      "e2fsck"
      "resize2fs"
    ];
    etcd = [ "etcd" ];
    ethtool = [ "ethtool" ];
    findutils = [
      "find"
      "xargs"
    ];
    gawk = [ "gawk" ];
    git = [ "git" ];
    gnugrep = [ "grep" ];
    gnused = [ "sed" ];
    gnutar = [ "tar" ];
    gzip = [ "gzip" ];
    iproute2 = [
      "ip"
      "bridge"
      "tc"
      "ss"
    ];
    iptables = [ "iptables" ];
    jq = [ "jq" ];
    k3s = [ "k3s" ];
    kmod = [
      "modprobe"
      "insmod"
      "lsmod"
    ];
    kubectl = [ "kubectl" ];
    kubernetes = [
      "kubectl"
      "kubelet"
    ];
    kubernetes-helm = [ "helm" ];
    nano = [ "nano" ];
    netcat = [ "nc" ];
    nettools = [ "ifconfig" ];
    nftables = [ "nft" ];
    nix = [ "nix" ];
    nfs-utils = [ "mount.nfs" ];
    openiscsi = [ "iscsiadm" ];
    openssh = [
      "ssh"
      "sshd"
    ];
    openssl = [ "openssl" ];
    procps = [
      "ps"
      "sysctl"
      "pgrep"
    ];
    python3 = [ "python3" ];
    python3Minimal = [ "python3" ];
    rsync = [ "rsync" ];
    socat = [ "socat" ];
    spice-vdagent = [
      "spice-vdagent"
      "spice-vdagentd"
    ];
    systemd = [
      "systemctl"
      "journalctl"
      "systemd-notify"
      "systemd-run"
      "networkctl"
      "udevadm"
      "busctl"
    ];
    tmux = [ "tmux" ];
    util-linux = [
      "mount"
      "umount"
      "flock"
      "blkid"
      "lsblk"
      "findmnt"
    ];
    vim = [ "vim" ];
    xfsprogs = [ "mkfs.xfs" ];
    btrfs-progs = [ "btrfs" ];
    erofs-utils = [ "mkfs.erofs" ];
    squashfsTools = [ "mksquashfs" ];
    # Hypervisors.
    alioth = [ "alioth" ];
    cloud-hypervisor = [ "cloud-hypervisor" ];
    cloud-hypervisor-graphics = [ "cloud-hypervisor" ];
    crosvm = [ "crosvm" ];
    firecracker = [ "firecracker" ];
    kvmtool = [ "lkvm" ];
    stratovirt = [ "stratovirt" ];
    vfkit = [ "vfkit" ];
    virtiofsd = [ "virtiofsd" ];
    # Desktops and their programs.
    chromium = [ "chromium" ];
    feh = [ "feh" ];
    firefox = [ "firefox" ];
    foot = [ "foot" ];
    icewm = [
      "icewm"
      "icewm-session"
    ];
    openbox = [ "openbox" ];
    pcmanfm = [ "pcmanfm" ];
    phodav = [ "spice-webdavd" ];
    spice = [ "spice" ];
    spice-autorandr = [ "spice-autorandr" ];
    spice-gtk = [ "spicy" ];
    twm = [ "twm" ];
    usbredir = [ "usbredirserver" ];
    virt-viewer = [ "remote-viewer" ];
    x11vnc = [ "x11vnc" ];
    xinit = [
      "xinit"
      "startx"
    ];
    xorg-server = [ "Xorg" ];
    xterm = [ "xterm" ];
  };

  package =
    name: names:
    let
      drv = build "${name}-0" {
        args = [ ./build/programs.sh ];
        programs = lib.concatStringsSep " " names;
      };
    in
    drv
    // {
      pname = name;
      version = "0";
      meta.mainProgram = lib.head names;
      override = _: package name names;
      overrideAttrs = _: package name names;
      bin = drv;
      lib = drv;
      dev = drv;
      passthru = { };
    };

  qemu =
    arguments:
    let
      drv = build "qemu-0" (
        {
          args = [ ./build/programs.sh ];
          programs = "qemu-system-x86_64 qemu-img";
        }
        # Another build of QEMU is another package.
        // lib.optionalAttrs (arguments != { }) {
          options = builtins.toJSON (mapAttrs (_: v: if lib.isDerivation v then v.name else v) arguments);
        }
      );
    in
    drv
    // {
      pname = "qemu";
      version = "0";
      meta.mainProgram = "qemu-system-x86_64";
      override = more: qemu (arguments // (if lib.isFunction more then more arguments else more));
      overrideAttrs = _: qemu arguments;
      bin = drv;
      passthru = { inherit arguments; };
    };

  executable =
    name: text:
    build name {
      args = [ ./build/script.sh ];
      passAsFile = [ "text" ];
      inherit text;
    };

  self = {
    _type = "pkgs";
    inherit lib system;
    config = { };
    overlays = [ ];
    runtimeShell = "/bin/bash";
    runtimeShellPackage = self.bash;
    stdenv = {
      hostPlatform = {
        inherit system;
        isLinux = true;
        isDarwin = false;
        isx86_64 = lib.hasPrefix "x86_64" system;
        isAarch64 = lib.hasPrefix "aarch64" system;
        parsed.cpu.name = lib.head (lib.splitString "-" system);
      };
      isLinux = true;
    };
    buildPackages = self;
    pkgsBuildBuild = self;
    extend = _: self;
    callPackage =
      path: more:
      let
        f = lib.toFunction (if builtins.isPath path then import path else path);
      in
      f (builtins.intersectAttrs (lib.functionArgs f) self // more);

    # toFile where it can: a file that needs no build.  What is built must be named in a derivation.
    writeText =
      name: text:
      if builtins.hasContext text then
        build name {
          args = [ ./build/text.sh ];
          passAsFile = [ "text" ];
          inherit text;
        }
      else
        let
          path = toFile name text;
        in
        {
          type = "derivation";
          inherit name;
          outPath = path;
          drvPath = path;
          outputName = "out";
          __toString = _: path;
        };
    writeTextFile =
      {
        name,
        text,
        executable ? false,
        destination ? "",
        ...
      }:
      build name {
        args = [ ./build/text.sh ];
        passAsFile = [ "text" ];
        inherit text destination;
        mode = if executable then "0555" else "0444";
      };
    writeTextDir =
      path: text:
      self.writeTextFile {
        name = baseNameOf path;
        destination = "/${path}";
        inherit text;
      };
    writeShellScript = name: text: executable name "#!/bin/bash\n${text}";
    writeScript = executable;
    writeShellScriptBin =
      name: text:
      self.writeTextFile {
        inherit name;
        executable = true;
        destination = "/bin/${name}";
        text = "#!/bin/bash\n${text}";
      }
      // {
        meta.mainProgram = name;
      };
    writeScriptBin =
      name: text:
      self.writeTextFile {
        inherit name text;
        executable = true;
        destination = "/bin/${name}";
      }
      // {
        meta.mainProgram = name;
      };
    writeShellApplication =
      {
        name,
        text,
        runtimeInputs ? [ ],
        runtimeEnv ? null,
        ...
      }:
      self.writeShellScriptBin name ''
        set -o errexit -o nounset -o pipefail
        ${lib.optionalString (runtimeInputs != [ ]) "export PATH=\"${lib.makeBinPath runtimeInputs}:$PATH\""}
        ${lib.optionalString (runtimeEnv != null) (
          lib.concatStrings (
            lib.mapAttrsToList (n: v: "${lib.toShellVar n v}\nexport ${n}\n") runtimeEnv
          )
        )}
        ${text}
      '';
    writers.writeJSON = name: value: self.writeText name (builtins.toJSON value);
    formats =
      let
        format = suffix: render: _: {
          type = lib.types.json;
          generate = name: value: self.writeText name (render value);
        };
      in
      {
        json = format "json" builtins.toJSON;
        yaml = format "yaml" builtins.toJSON;
        ini = given: {
          type = lib.types.attrsOf (lib.types.attrsOf lib.types.json);
          generate = name: value: self.writeText name (lib.generators.toINI given value);
        };
        keyValue = given: {
          type = lib.types.attrsOf lib.types.json;
          generate = name: value: self.writeText name (lib.generators.toKeyValue given value);
        };
      };
    runCommand =
      name: attributes: script:
      build name (
        builtins.removeAttrs attributes [
          "passthru"
          "meta"
          "nativeBuildInputs"
          "buildInputs"
          "preferLocalBuild"
          "allowSubstitutes"
        ]
        // {
          args = [ ./build/run.sh ];
          passAsFile = [ "script" ];
          inherit script;
        }
      )
      // attributes.passthru or { };
    runCommandLocal = self.runCommand;
    linkFarm =
      name: entries:
      let
        asList =
          if builtins.isList entries then entries else lib.mapAttrsToList (name: path: { inherit name path; }) entries;
      in
      self.runCommand name { } (
        "mkdir -p $out\n"
        + lib.concatMapStrings (e: ''
          mkdir -p "$(dirname "$out/${e.name}")"
          ln -s ${lib.escapeShellArg "${e.path}"} "$out/${e.name}"
        '') asList
      );
    symlinkJoin =
      {
        name,
        paths,
        postBuild ? "",
        ...
      }:
      self.runCommand name { } ''
        mkdir -p $out
        for path in ${toString paths}; do cp -rs --no-preserve=mode "$path/." "$out/"; done
        ${postBuild}
      '';
    buildEnv = self.symlinkJoin;
    # Files of the network: named, never fetched.
    fetchurl =
      given:
      build (given.name or (baseNameOf (given.url or "file"))) {
        args = [
          "-c"
          "echo 'nothing is fetched here' >&2; exit 1"
        ];
        url = given.url or "";
      };
    dockerTools.pullImage = given: self.fetchurl { name = "image"; url = given.imageName; };

    # A system of etc/, links, texts, scripts: build/system.py.
    standinSystem =
      {
        name,
        files ? [ ],
        links ? { },
        texts ? { },
        scripts ? { },
        software ? [ ],
      }:
      build name {
        builder = "/usr/bin/python3";
        args = [ ./build/system.py ];
        passAsFile = [ "input" ];
        input = builtins.toJSON {
          inherit
            files
            links
            texts
            software
            ;
          scripts = mapAttrs (_: path: "${path}") scripts;
        };
      };

    # A kernel by its version: another one asks for a reboot.
    linuxVersion =
      version:
      self.runCommand "linux-${version}" { passthru = { inherit version; }; } ''
        mkdir -p $out
        echo 'Linux ${version}, a stand-in' > $out/bzImage
      '';
    linux = self.linuxVersion "6.12";
    linuxPackages.kernel = self.linux;
    initrd = self.runCommand "initrd-0" { } ''
      mkdir -p $out
      echo 'a stand-in' > $out/initrd
    '';

    qemu = qemu { };
    qemu_kvm = qemu { hostCpuOnly = true; };
    qemu_full = qemu { full = true; };
    # All of /usr/bin of the host, where nobody needs to list programs.
    coreutils = build "coreutils-0" { args = [ ./build/usr.sh ]; } // {
      pname = "coreutils";
      version = "0";
    };
    coreutils-full = self.coreutils;
  }
  // {
    kubernetes-controller-manager = self.kubernetes;
    docker_28 = self.docker;
    docker_29 = self.docker;
    docker-client = self.docker;
    xorg = {
      inherit (self) twm xinit xterm;
      xorgserver = self.xorg-server;
    };
    bashInteractive = self.bash;
    inetutils = self.nettools;
    unixtools.netstat = self.nettools;
    utillinux = self.util-linux;
  }
  // mapAttrs package programs;
in
self
