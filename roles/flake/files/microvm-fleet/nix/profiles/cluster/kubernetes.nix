# What a master and a node of Kubernetes have in common: services.kubernetes of NixOS with its own authority (easyCerts).
{
  roles,
  settings,
  # The address of the master.
  master,
}:
{ config, lib, ... }:
let
  inherit (config.fleet) credentials;
  isMaster = builtins.elem "master" roles;
  # The directories of easyCerts: what the authority has, and what every machine has.
  authority = "/var/lib/cfssl";
  secrets = "/var/lib/kubernetes/secrets";
  pinned = credentials ? kubernetes-ca;
  host = address: if lib.hasInfix ":" address then "[${address}]" else address;
  taint = text: builtins.match "([^=]*)=([^:]*):(.*)" text;
in
{
  imports = [
    (import ./node.nix {
      inherit settings;
      service = "kubelet";
      mounts = [
        "/var/lib/kubernetes"
        "/var/lib/containerd"
      ];
    })
  ];

  services.kubernetes = {
    inherit roles;
    easyCerts = true;
    masterAddress = master;
    apiserverAddress = "https://${host master}:6443";
    clusterCidr = settings.cluster_cidr;
    # Also on a node: the address of the cluster's DNS follows from it.
    apiserver.serviceClusterIpRange = settings.service_cidr;

    kubelet = {
      nodeIp = settings.node_ip;
      extraOpts = lib.mkIf (
        settings.node_labels != [ ]
      ) "--node-labels=${lib.concatStringsSep "," settings.node_labels}";
      taints = lib.listToAttrs (
        lib.imap0 (
          number: text:
          lib.nameValuePair "fleet${toString number}" {
            key = builtins.elemAt (taint text) 0;
            value = builtins.elemAt (taint text) 1;
            effect = builtins.elemAt (taint text) 2;
          }
        ) settings.node_taints
      );
    };

    pki = {
      # Whom a machine believes: the certificate that it was given, else whoever answers at the master's address first.
      pkiTrustOnBootstrap = !pinned;
      genCfsslAPIToken = false;

      # The API reaches kubelets by their addresses, for which their certificates have to be.  Later than NixOS's own.
      certs = lib.mkIf (settings.node_ip != null) (
        lib.mkAfter {
          kubelet = config.services.kubernetes.lib.mkCert {
            name = "kubelet";
            CN = config.services.kubernetes.kubelet.hostname;
            hosts = [ settings.node_ip ];
            action = "systemctl restart kubelet.service";
          };
        }
      );
    };
  };

  # The token by which machines get their certificates, and the authority when it is given: put where easyCerts looks.
  systemd.services.fleet-kubernetes-secrets = {
    description = "Secrets of this cluster";
    wantedBy = [ "multi-user.target" ];
    requiredBy = [ "certmgr.service" ] ++ lib.optional isMaster "cfssl.service";
    before = [
      "certmgr.service"
      "kube-certmgr-bootstrap.service"
    ]
    ++ lib.optional isMaster "cfssl.service";
    unitConfig.RequiresMountsFor = [ secrets ] ++ lib.optional isMaster authority;
    environment = {
      AUTHORITY = lib.optionalString isMaster authority;
      SECRETS = secrets;
    };
    script = builtins.readFile ./secrets.sh;
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
      RuntimeDirectory = "fleet-kubernetes-secrets";
      RuntimeDirectoryMode = "0700";
      LoadCredential = map (name: "${name}:${credentials.${name}}") (
        builtins.filter (name: credentials ? ${name}) (
          [
            "kubernetes-token"
            "kubernetes-ca"
          ]
          ++ lib.optional isMaster "kubernetes-ca-key"
        )
      );
    };
  };
}
