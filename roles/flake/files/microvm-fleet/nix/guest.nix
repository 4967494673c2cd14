# One guest of guests.json as NixOS.  Every key is in the JSON, so there are no defaults here but those of a small guest.
{ config, lib, fleet, ... }:

let
  inherit (fleet) name description;

  # Options of which only some are set where the JSON has null.
  given = lib.filterAttrs (_: value: value != null);

  interface = one: {
    inherit (one) type id mac;
  } // lib.optionalAttrs (one.type == "macvtap") {
    macvtap = { inherit (one) link mode; };
  };

  volume = one: {
    inherit (one) image label;
    mountPoint = one.mount_point;
    fsType = one.fs_type;
    readOnly = one.read_only;
    autoCreate = one.auto_create;
  } // given { inherit (one) size; };

  share = one: {
    inherit (one) tag source proto;
    mountPoint = one.mount_point;
    readOnly = one.read_only;
  };

  hostStore = {
    tag = "ro-store";
    source = "/nix/store";
    mountPoint = "/nix/.ro-store";
    proto = "virtiofs";
    readOnly = true;
  };

  # QEMU hands credentials to the guest's systemd by itself.  Others share the directory in which the host's systemd has
  # put them for the virtiofs daemons (systemd.exec(5), LoadCredential=).
  byFirmware = description.hypervisor == "qemu";
  credentialsMount = "/run/fleet-credentials";
  credentials = lib.genAttrs description.credentials (credential:
    if byFirmware then "/run/credentials/@system/${credential}" else "${credentialsMount}/${credential}");
  sharesCredentials = description.credentials != [ ] && !byFirmware;
  credentialsShare = {
    tag = "fleet-credentials";
    source = "/run/credentials/microvm-virtiofsd@${name}.service";
    mountPoint = credentialsMount;
    proto = "virtiofs";
    readOnly = true;
  };

  forwardPort = one: {
    from = "host";
    inherit (one) proto;
    host = { address = one.host_address; port = one.host_port; };
    guest.port = one.guest_port;
  };

  # {"microvm.balloon": true} as options.
  further = lib.mkMerge (lib.mapAttrsToList
    (option: value: lib.setAttrByPath (lib.tail (lib.splitString "." option)) value)
    description.options);

  # An interface is known by its MAC address; Kind keeps out what is made on top of it, which has the same one.
  match = one: {
    MACAddress = one.mac;
    Type = "ether";
    Kind = "!*";
  };
  hasIPv6 = one: builtins.any (address: builtins.match ".*:.*" address != null) one.addresses;
  network = one: {
    matchConfig = match one;
    address = one.addresses;
    gateway = one.gateways;
    dns = one.dns;
    networkConfig = {
      DHCP = if one.dhcp then "ipv4" else "no";
      # With an IPv6 address of its own the guest makes no others.
      IPv6AcceptRA = !hasIPv6 one;
    };
    # Fixed leases go by the MAC address.
    dhcpV4Config = lib.optionalAttrs one.dhcp { ClientIdentifier = "mac"; };
    linkConfig = lib.optionalAttrs (!one.dhcp && one.addresses == [ ]) { RequiredForOnline = "no"; };
  };
  named = prefix: value: lib.listToAttrs (map
    (one: lib.nameValuePair "${prefix}-${one.name}" (value one))
    fleet.interfaces);

  # What the virtual machine refuses to have written to is mounted so.
  readOnlyMounts = lib.listToAttrs (map
    (one: lib.nameValuePair one.mount_point { options = [ "ro" ]; })
    (builtins.filter (one: one.read_only && one.mount_point != null) (description.volumes ++ description.shares)));

  hasHostKey = credentials ? ssh_host_ed25519_key;
in
{
  # What errors of Nix name as the place of a value.
  _file = "/etc/microvm-fleet/guests.json (guest ${name})";

  options.fleet.credentials = lib.mkOption {
    type = lib.types.attrsOf lib.types.str;
    readOnly = true;
    description = "Where in the guest the file of each credential is.  Only root can read them.";
  };

  config = lib.mkMerge [
    {
      fleet = { inherit credentials; }
        // lib.optionalAttrs (description.profiles != { }) { inherit (description) profiles; };

      microvm = lib.mkMerge [
        {
          inherit (description) hypervisor vcpu mem;
          interfaces = map interface description.interfaces;
          volumes = map volume description.volumes;
          shares = map share description.shares
            ++ lib.optional (description.store == "host") hostStore
            ++ lib.optional sharesCredentials credentialsShare;
          storeOnDisk = description.store == "disk";
          vsock.cid = description.vsock_cid;
          forwardPorts = map forwardPort description.forward_ports;
          credentialFiles = lib.optionalAttrs byFirmware (lib.genAttrs description.credentials
            (credential: "/run/credentials/microvm@${name}.service/${credential}"));
        }
        further
      ];

      fileSystems = readOnlyMounts // lib.optionalAttrs sharesCredentials {
        ${credentialsMount}.options = [ "ro" "nosuid" "nodev" "noexec" ];
      };

      networking.hostName = description.host_name;
      networking.useNetworkd = true;
      systemd.network = {
        enable = true;
        networks = named "10-fleet" network;
        links = named "10-fleet" (one: {
          matchConfig = match one;
          linkConfig.Name = one.name;
        });
      };

      # The release that the guest's data is of; that of nixpkgs for a guest that keeps none.
      system.stateVersion =
        if description.release != null then description.release else lib.mkDefault lib.trivial.release;

      # Nobody gets in by a password: there is none, and the server asks for none.
      users.users.root.openssh.authorizedKeys.keys = description.ssh_keys;
      services.openssh = {
        enable = lib.mkDefault (description.ssh_keys != [ ]);
        settings = {
          PasswordAuthentication = lib.mkDefault false;
          KbdInteractiveAuthentication = lib.mkDefault false;
          PermitRootLogin = lib.mkDefault "prohibit-password";
        };
      };

      # The journal is in memory unless there is a volume for it; the console's output is in the host's journal anyway.
      environment.etc."systemd/journald.conf.d/50-microvm-fleet.conf".text = lib.mkDefault ''
        [Journal]
        RuntimeMaxUse=16M
        SystemMaxUse=64M
      '';
    }

    # A credential of this name is the server's key, so that the guest stays known to its clients.
    (lib.mkIf hasHostKey {
      services.openssh.hostKeys = [ { type = "ed25519"; path = credentials.ssh_host_ed25519_key; } ];
    })
  ];
}
