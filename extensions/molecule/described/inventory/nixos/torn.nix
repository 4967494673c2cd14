# A module of the user's own, cut off in the middle of its third line.
{
  environment.etc."motd".text =
