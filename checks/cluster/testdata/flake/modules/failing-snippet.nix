# An activation script that fails, as one does that nobody has tried on this host. All else is activated.
{
  system.activationScripts.cluster-failing = "false";
}
