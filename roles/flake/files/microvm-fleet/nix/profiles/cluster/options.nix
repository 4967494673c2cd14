# Options that nodes of all clusters have.
lib:
let
  inherit (lib) mkOption types;
  label = "([a-z0-9.-]+/)?[A-Za-z0-9][A-Za-z0-9_.-]*=[A-Za-z0-9_.-]*";
in
{
  node_ip = mkOption {
    type = types.nullOr types.str;
    description = "The address that the node is known by in the cluster.";
  };
  node_labels = mkOption {
    type = types.listOf (types.strMatching label);
    description = "Labels of the node, as KEY=VALUE.";
  };
  node_taints = mkOption {
    type = types.listOf (types.strMatching "${label}:(NoSchedule|PreferNoSchedule|NoExecute)");
    description = "Taints of the node, as KEY=VALUE:EFFECT with NoSchedule, PreferNoSchedule or NoExecute.";
  };
  shutdown_grace = mkOption {
    type = types.ints.between 10 3600;
    description = "Seconds that pods have to end by themselves when the guest is stopped.";
  };
}
