# Defaults of NixOS options, which the list of options does not have: only those
# that something here reads, and what every Boolean of theirs would be.
# A function gets { name, config } of the submodule, pkgs and the configuration `top`.
{
  pkgs,
  top,
  lib,
}:
let
  named = { name, ... }: name;
  textFile =
    { name, config }:
    if config.text == null then
      throw "environment.etc.\"${name}\" has neither text nor source"
    else
      pkgs.writeText (lib.replaceStrings [ "/" ] [ "-" ] name) config.text;
  # What every unit has.
  unit = kind: lib.mapAttrs' (option: lib.nameValuePair "systemd.${kind}.<name>.${option}") {
    enable = true;
    name = named;
    description = "";
    overrideStrategy = "asDropinIfExists";
  };
in
{
  "environment.etc.<name>.enable" = true;
  "environment.etc.<name>.target" = named;
  "environment.etc.<name>.mode" = "symlink";
  "environment.etc.<name>.source" = textFile;
  "environment.etc.<name>.user" = "+0";
  "environment.etc.<name>.group" = "+0";
  "environment.etc.<name>.uid" = 0;
  "environment.etc.<name>.gid" = 0;

  "fileSystems.<name>.mountPoint" = named;
  "fileSystems.<name>.fsType" = "auto";
  "fileSystems.<name>.options" = [ "defaults" ];
  "fileSystems.<name>.neededForBoot" = false;
  "fileSystems.<name>.autoFormat" = false;
  "fileSystems.<name>.autoResize" = false;
  "fileSystems.<name>.noCheck" = false;
  "fileSystems.<name>.encrypted.enable" = false;

  "networking.hostName" = "nixos";
  "networking.useNetworkd" = false;
  "networking.firewall.enable" = true;
  "networking.firewall.allowPing" = true;
  "networking.firewall.checkReversePath" = true;
  "networking.firewall.filterForward" = false;
  "networking.firewall.rejectPackets" = false;
  "networking.nat.enable" = false;
  "networking.nat.enableIPv6" = false;
  "networking.nftables.enable" = false;
  "networking.nftables.checkRuleset" = true;
  "networking.nftables.flushRuleset" = false;
  "networking.nftables.flattenRulesetFile" = false;
  "networking.nftables.tables.<name>.enable" = true;
  "networking.nftables.tables.<name>.name" = named;

  "services.k3s.enable" = false;
  "services.k3s.role" = "server";
  "services.k3s.clusterInit" = false;
  "services.k3s.disableAgent" = false;
  "services.k3s.gracefulNodeShutdown.enable" = false;
  "services.k3s.package" = pkgs.k3s;
  "services.k3s.serverAddr" = "";
  "services.k3s.token" = "";
  "services.kubernetes.apiserver.enable" = false;
  "services.kubernetes.apiserver.securePort" = 6443;
  "services.kubernetes.controllerManager.enable" = false;
  "services.kubernetes.dataDir" = "/var/lib/kubernetes";
  "services.kubernetes.easyCerts" = false;
  "services.kubernetes.flannel.enable" = false;
  "services.kubernetes.kubelet.enable" = false;
  "services.kubernetes.kubelet.hostname" = _: top.networking.hostName;
  # What the specifications of certificates are made with (pki.certs).
  "services.kubernetes.lib" = {
    mkCert =
      {
        name,
        CN,
        hosts ? [ ],
        fields ? { },
        action ? "",
      }:
      {
        inherit
          name
          CN
          hosts
          fields
          action
          ;
      };
  };
  "services.kubernetes.package" = pkgs.kubernetes;
  "services.kubernetes.pki.enable" = false;
  "services.kubernetes.proxy.enable" = false;
  "services.kubernetes.scheduler.enable" = false;
  "services.kubernetes.secretsPath" = "/var/lib/kubernetes/secrets";
  "services.openssh.enable" = false;
  "services.openssh.openFirewall" = true;
  "services.openssh.package" = pkgs.openssh;
  "services.openssh.ports" = [ 22 ];
  "services.openssh.startWhenNeeded" = false;
  "services.qemuGuest.enable" = false;
  "services.qemuGuest.package" = pkgs.qemu;
  "services.spice-autorandr.enable" = false;
  "services.spice-vdagentd.enable" = false;
  "services.spice-webdavd.enable" = false;
  "services.xserver.enable" = false;

  "system.stateVersion" = "25.11";

  "systemd.network.enable" = { ... }: top.networking.useNetworkd;
  "systemd.network.links.<name>.enable" = true;
  "systemd.network.netdevs.<name>.enable" = true;
  "systemd.network.networks.<name>.enable" = true;
  "systemd.network.wait-online.enable" = true;
  "systemd.network.wait-online.anyInterface" = false;

  "systemd.services.<name>.reloadIfChanged" = false;
  "systemd.services.<name>.restartIfChanged" = true;
  "systemd.services.<name>.stopIfChanged" = true;
  "systemd.services.<name>.scriptArgs" = "";
  "systemd.services.<name>.startAt" = [ ];
  "systemd.services.<name>.startLimitBurst" = -1;
  "systemd.services.<name>.startLimitIntervalSec" = -1;
  "systemd.services.<name>.confinement.enable" = false;
  "systemd.targets.<name>.startLimitBurst" = -1;
  "systemd.targets.<name>.startLimitIntervalSec" = -1;
  "systemd.tmpfiles.settings.<name>.<name>.<name>.age" = "-";
  "systemd.tmpfiles.settings.<name>.<name>.<name>.argument" = "";
  "systemd.tmpfiles.settings.<name>.<name>.<name>.group" = "-";
  "systemd.tmpfiles.settings.<name>.<name>.<name>.mode" = "-";
  "systemd.tmpfiles.settings.<name>.<name>.<name>.type" = named;
  "systemd.tmpfiles.settings.<name>.<name>.<name>.user" = "-";

  "users.users.<name>.name" = named;
  "users.users.<name>.createHome" = false;
  "users.users.<name>.description" = "";
  "users.users.<name>.group" = "";
  "users.users.<name>.home" = "/var/empty";
  "users.users.<name>.isNormalUser" = false;
  "users.users.<name>.isSystemUser" = false;
  "users.users.<name>.linger" = false;
  "users.users.<name>.shell" = "/run/current-system/sw/bin/nologin";
  "users.users.<name>.useDefaultShell" = false;

  "virtualisation.docker.enable" = false;
  "virtualisation.docker.enableOnBoot" = true;
  "virtualisation.docker.liveRestore" = true;
  "virtualisation.docker.logDriver" = "journald";
  "virtualisation.docker.autoPrune.enable" = false;
  "virtualisation.docker.package" = pkgs.docker;
  "virtualisation.docker.rootless.enable" = false;
  "virtualisation.oci-containers.backend" = "podman";
  "virtualisation.oci-containers.containers.<name>.autoStart" = true;
  "virtualisation.oci-containers.containers.<name>.log-driver" = "journald";
}
// unit "services"
// unit "targets"
