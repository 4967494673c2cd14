# A unit of the user's that fails.
{
  systemd.services.fails = {
    wantedBy = [ "multi-user.target" ];
    serviceConfig = {
      Type = "oneshot";
      ExecStart = "/bin/false";
    };
  };
}
