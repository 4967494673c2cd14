# An uplink by which nobody reaches the host any more.
{ lib, ... }:
{
  systemd.network.networks."10-uplink" = {
    address = lib.mkForce [ "192.0.2.9/32" ];
    gateway = lib.mkForce [ ];
  };
}
