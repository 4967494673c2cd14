# A desktop that is used over SPICE.
{
  config,
  lib,
  pkgs,
  fleet,
  ...
}:
let
  inherit (lib) mkOption types;
  settings = config.fleet.profiles.spice_desktop;
  overTcp = settings.address != null;
  onOff = value: if value then "on" else "off";
  join = lib.concatStringsSep ",";

  # microvm.nix overrides its QEMU with nixosTestRunner unless microvm.graphics is on, which takes SPICE out of it, and
  # microvm.graphics needs a display on the host (lib/runners/qemu.nix of microvm.nix).  So this one stays as it is: also
  # as the binary cache has it.
  asItIs =
    package:
    package
    // {
      override = _: asItIs package;
      overrideAttrs = change: asItIs (package.overrideAttrs change);
    };
  inherit (config.microvm) vmHostPackages;

  # Where systemd of the host has put the credential for the unit that QEMU runs in (systemd.exec(5)).
  ticketFile = "/run/credentials/microvm@${fleet.name}.service/spice-ticket";

  spice = join (
    (
      if overTcp then
        [
          "addr=${settings.address}"
          "port=${toString settings.port}"
          "disable-ticketing=off"
          "password-secret=fleet-ticket"
        ]
      else
        [
          "unix=on"
          # In the guest's directory, which is the working directory.
          "addr=spice.sock"
          # Who may open the socket is in; it has mode 0600.
          "disable-ticketing=on"
        ]
    )
    ++ [
      "disable-copy-paste=${onOff (!settings.clipboard)}"
      "disable-agent-file-xfer=${onOff (!settings.file_transfer)}"
    ]
  );

  usbPort = number: [
    "-chardev"
    "spicevmc,id=fleet-usb${toString number},name=usbredir"
    "-device"
    "usb-redir,bus=fleet-usb.0,chardev=fleet-usb${toString number}"
  ];

  hasDesktop = settings.desktop != "none";
  sessions.icewm = "${pkgs.icewm}/bin/icewm-session";
  package =
    name:
    lib.attrByPath (lib.splitString "." name) (throw
      "guest ${fleet.name}, profile_options.spice_desktop.packages: nixpkgs has no package ${name}."
    ) pkgs;
  x = config.services.xserver.displayManager;
in
{
  options.fleet.profiles.spice_desktop = {
    desktop = mkOption {
      type = types.enum [
        "icewm"
        "none"
      ];
      description = "The desktop that starts by itself; with none, a module of yours brings one.";
    };
    user = mkOption {
      type = types.strMatching "[a-z_][a-z0-9_-]{0,30}";
      description = "Whose session it is. This user is made, without a password.";
    };
    packages = mkOption {
      type = types.listOf (types.strMatching "[A-Za-z_][A-Za-z0-9_'-]*([.][A-Za-z_][A-Za-z0-9_'-]*)*");
      description = "Programs to have at hand, as nixpkgs names them.";
    };
    clipboard = mkOption {
      type = types.bool;
      description = "Share the clipboard with the client.";
    };
    file_transfer = mkOption {
      type = types.bool;
      description = "Let the client send files into the guest.";
    };
    resize = mkOption {
      type = types.bool;
      description = "Follow the size of the client's window.";
    };
    usb_ports = mkOption {
      type = types.ints.between 0 8;
      description = "How many USB devices of the client can be redirected at a time.";
    };
    group_access = mkOption {
      type = types.bool;
      description = "Let the host's group kvm open the socket too (mode 0660).";
    };
    address = mkOption {
      type = types.nullOr (types.strMatching "[0-9A-Fa-f:.]+");
      description = "Listen on this address of the host over TCP, instead of on a socket. Needs the credential spice-ticket.";
    };
    port = mkOption {
      type = types.ints.between 1024 65535;
      description = "The TCP port for address.";
    };
  };

  config = lib.mkMerge [
    {
      assertions = [
        {
          assertion = config.microvm.hypervisor == "qemu";
          message = "guest ${fleet.name}: only QEMU speaks SPICE (profile spice_desktop).";
        }
        {
          assertion = overTcp -> config.fleet.credentials ? spice-ticket;
          message = "guest ${fleet.name}: SPICE over TCP needs the credential spice-ticket (profile spice_desktop).";
        }
      ];

      microvm.qemu = {
        # Its machine has VGA, so there is a picture from the first moment on, and PCI for the devices below; the
        # machine microvm has neither unless shares or microvm.graphics turn PCI on.  microvm.nix says what it has with
        # mkDefault, so this is stronger, and weaker than what a user says.
        machine = lib.mkOverride 900 "q35";
        # As microvm.nix would have it, but for one: it adds a keyboard controller, which q35 has already.
        machineOpts = lib.mkDefault {
          accel = "kvm:tcg";
          acpi = "on";
          i8042 = "off";
          mem-merge = "on";
        };
        package = lib.mkDefault (
          asItIs (if config.microvm.cpu == null then vmHostPackages.qemu_kvm else vmHostPackages.qemu)
        );
        extraArgs =
          lib.optionals overTcp [
            "-object"
            "secret,id=fleet-ticket,file=${ticketFile}"
          ]
          ++ [
            "-spice"
            spice
            "-device"
            "virtio-vga"
            "-device"
            "virtio-keyboard-pci"
            "-device"
            "virtio-tablet-pci"
            "-device"
            "virtio-serial-pci,id=fleet-serial"
            "-chardev"
            "spicevmc,id=fleet-agent,name=vdagent"
            "-device"
            "virtserialport,bus=fleet-serial.0,chardev=fleet-agent,name=com.redhat.spice.0"
          ]
          ++ lib.optionals (settings.usb_ports > 0) (
            [
              "-device"
              "qemu-xhci,id=fleet-usb,p2=${toString settings.usb_ports},p3=${toString settings.usb_ports}"
            ]
            ++ lib.concatMap usbPort (lib.range 1 settings.usb_ports)
          );
      };

      # QEMU gives its sockets the mode that the umask leaves, and has no option for it.
      microvm.preStart = if settings.group_access then "umask 0117" else "umask 0177";

      boot.kernelModules = [
        "uinput"
        "virtio_console"
        "virtio_gpu"
        "virtio_input"
      ];

      services.spice-vdagentd.enable = true;
      # Also where no graphical target is reached.
      systemd.services.spice-vdagentd.wantedBy = [ "multi-user.target" ];

      environment.systemPackages = map package settings.packages;
    }

    (lib.mkIf hasDesktop {
      services.xserver = {
        enable = true;
        videoDrivers = [ "modesetting" ];
      };
      # No greeter: who opens the socket is the one whose session this is.
      systemd.services.display-manager.enable = lib.mkForce false;

      # The root file system is made anew with every boot, so the number is given.
      users.users.${settings.user} = {
        isNormalUser = true;
        uid = 1000;
        home = "/home/${settings.user}";
      };
      # NixOS makes home directories before it mounts the volume that this one is on.
      systemd.tmpfiles.settings."10-fleet-desktop"."/home/${settings.user}".d = {
        user = settings.user;
        group = "users";
        mode = "0700";
      };

      systemd.services.fleet-desktop = {
        description = "Desktop of ${settings.user}";
        wantedBy = [ "multi-user.target" ];
        after = [
          "systemd-user-sessions.service"
          "systemd-logind.service"
          "systemd-tmpfiles-setup.service"
          "getty@tty1.service"
        ];
        conflicts = [ "getty@tty1.service" ];
        # A new one begins when its user ends the old one, never because of an update.
        restartIfChanged = false;
        unitConfig.RequiresMountsFor = [ "/home/${settings.user}" ];
        serviceConfig = {
          User = settings.user;
          # A session of logind on the first terminal: with it X runs without being root.
          PAMName = "login";
          TTYPath = "/dev/tty1";
          TTYReset = true;
          TTYVHangup = true;
          TTYVTDisallocate = true;
          StandardInput = "tty-fail";
          StandardOutput = "journal";
          StandardError = "journal";
          UtmpIdentifier = "tty1";
          UtmpMode = "user";
          WorkingDirectory = "~";
          ExecStart = lib.concatStringsSep " " (
            [
              # NixOS 26.05 gave the packages of xorg names of their own.
              "${pkgs.xinit or pkgs.xorg.xinit}/bin/startx"
              "${config.services.displayManager.sessionData.wrapper}"
              "${pkgs.runtimeShell}"
              "${./spice/session.sh}"
              "${pkgs.spice-vdagent}/bin/spice-vdagent"
              (if settings.resize then "${pkgs.spice-autorandr}/bin/spice-autorandr" else "-")
              sessions.${settings.desktop}
              "--"
              x.xserverBin
            ]
            ++ x.xserverArgs
            # The last one counts: NixOS says vt7, and X is not root there.
            ++ [
              "vt1"
              "-keeptty"
            ]
          );
          Restart = "always";
          RestartSec = 2;
        };
      };
    })
  ];
}
