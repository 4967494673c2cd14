# A module of the user's own.
{
  environment.etc."motd".text = "a guest of the user's own words";
}
