# Profiles by name: what a guest of guests.json can be used for.  Of each guest only the chosen ones are imported.
{
  docker_swarm_manager = ./docker_swarm_manager.nix;
  docker_swarm_worker = ./docker_swarm_worker.nix;
  k3s_agent = ./k3s_agent.nix;
  k3s_server = ./k3s_server.nix;
  kubernetes_master = ./kubernetes_master.nix;
  kubernetes_node = ./kubernetes_node.nix;
  portainer_agent = ./portainer_agent.nix;
  portainer_server = ./portainer_server.nix;
  spice_desktop = ./spice_desktop.nix;
}
