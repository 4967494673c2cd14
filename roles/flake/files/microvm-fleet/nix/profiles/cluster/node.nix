# What every node of a cluster needs of its guest, whoever its kubelet is.
{
  # The options of the profile, of cluster/options.nix among others.
  settings,
  # The service whose stop comes before that of the pods, so that it starts none again.
  service,
  # Where the state of the node is; logs of containers are kept below the first.
  mounts,
  # Packages with what ends what remains of the pods.
  killers ? [ ],
}:
{ lib, pkgs, ... }:
{
  # Pods are to be where the scheduler has counted their memory.
  swapDevices = lib.mkForce [ ];

  boot.kernelModules = [
    "br_netfilter"
    "overlay"
  ];

  # kubelet: logs, exec, metrics.  Ports of services need no opening: they are redirected to pods before the firewall.
  networking.firewall.allowedTCPPorts = [ 10250 ];

  # Routes and rules that pods' networks put on the guest's interface are not networkd's to remove (networkd.conf(5)).
  systemd.network.config.networkConfig = {
    ManageForeignRoutes = false;
    ManageForeignRoutingPolicyRules = false;
  };

  # Logs of containers are not to fill the guest's memory.
  fileSystems."/var/log/pods" = {
    device = "${builtins.head mounts}/pods-log";
    fsType = "none";
    options = [ "bind" ];
    depends = [ (builtins.head mounts) ];
  };

  systemd.services.${service}.unitConfig.RequiresMountsFor = mounts ++ [ "/var/log/pods" ];

  # A kubelet that stops leaves its containers running; when the guest stops, they are to end before what they stand on
  # does.  A stop goes in the opposite order of the start.
  systemd.services.fleet-pods = {
    description = "End of the pods of this node";
    wantedBy = [ "multi-user.target" ];
    before = [ "${service}.service" ];
    unitConfig.RequiresMountsFor = mounts ++ [ "/var/log/pods" ];
    path = [
      pkgs.coreutils
      pkgs.findutils
      pkgs.gnugrep
    ]
    ++ killers;
    environment.FLEET_GRACE = toString settings.shutdown_grace;
    preStop = builtins.readFile ./end-pods.sh;
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
      ExecStart = "${pkgs.coreutils}/bin/true";
      TimeoutStopSec = settings.shutdown_grace + 20;
    };
  };
}
