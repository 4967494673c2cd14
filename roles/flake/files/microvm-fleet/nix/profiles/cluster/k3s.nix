# What a server and an agent of k3s have in common.
{
  role,
  settings,
}:
{
  config,
  lib,
  fleet,
  ...
}:
let
  # An address as a URL has it (RFC 3986, section 3.2.2).
  host = address: if lib.hasInfix ":" address then "[${address}]" else address;
  backend = settings.flannel_backend;
  each = option: map (value: "--${option}=${value}");
  # flannel goes by the default route otherwise, whatever the node's address.
  interfaces = builtins.filter (
    one: builtins.any (address: lib.head (lib.splitString "/" address) == settings.node_ip) one.addresses
  ) fleet.interfaces;
in
{
  imports = [
    (import ./node.nix {
      inherit settings;
      service = "k3s";
      mounts = [
        "/var/lib/rancher"
        "/etc/rancher"
        "/var/lib/kubelet"
      ];
      killers = [ config.services.k3s.package ];
    })
  ];

  services.k3s = {
    enable = true;
    inherit role;
    tokenFile = config.fleet.credentials.k3s-token or null;
    serverAddr = lib.optionalString (settings.server != null) "https://${host settings.server}:6443";
    extraFlags =
      lib.optional (settings.node_ip != null) "--node-ip=${settings.node_ip}"
      ++ each "flannel-iface" (map (one: one.name) interfaces)
      ++ each "node-label" settings.node_labels
      ++ each "node-taint" settings.node_taints;

    # Where a stop of the guest goes through logind (a power button), kubelet ends the pods itself, in their order.
    gracefulNodeShutdown = {
      enable = true;
      shutdownGracePeriod = "${toString settings.shutdown_grace}s";
      shutdownGracePeriodCriticalPods = "${toString (settings.shutdown_grace / 4)}s";
    };
  };

  # logind waits for kubelet that long; with less, kubelet does not even ask it to (logind.conf(5)).
  environment.etc."systemd/logind.conf.d/50-microvm-fleet.conf".text = ''
    [Login]
    InhibitDelayMaxSec=${toString settings.shutdown_grace}
  '';

  boot.kernelModules =
    lib.optional (backend == "vxlan") "vxlan" ++ lib.optional (backend == "wireguard-native") "wireguard";
  boot.kernel.sysctl = {
    "net.ipv4.ip_forward" = lib.mkDefault 1;
    "net.bridge.bridge-nf-call-iptables" = lib.mkDefault 1;
    "net.bridge.bridge-nf-call-ip6tables" = lib.mkDefault 1;
  };

  networking.firewall.allowedUDPPorts =
    lib.optional (backend == "vxlan") 8472
    ++ lib.optionals (backend == "wireguard-native") [
      51820
      51821
    ];

  # The password that makes this node known to the server, and the administrator's kubeconfig, outlive the guest's root.
  fileSystems."/etc/rancher" = {
    device = "/var/lib/rancher/etc";
    fsType = "none";
    options = [ "bind" ];
    depends = [ "/var/lib/rancher" ];
  };

  systemd.services.k3s.serviceConfig.TimeoutStopSec = 30;
}
