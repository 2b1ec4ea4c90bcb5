# What a plan or a record says of a secret. evaluator/plan/secret.go says what each field means.
{ lib, make }:
let
  inherit (lib) mapAttrs;

  # An id has a slash; a name alone is resolved by who asks.
  id =
    resolve: reference: if lib.hasInfix "/" reference then reference else resolve reference;

  renderGenerator = mask: resolve: g: {
    inherit (g)
      kind
      on
      sandbox
      data
      ask
      ;
    seed = if g.seedText == null then null else builtins.hashString "sha256" (mask g.seedText);
    dependencies = mapAttrs (_: id resolve) g.dependencies;
  };

  # The parts of a generator count where the declaration names none.
  partsOf =
    declared: generator:
    if declared != null then
      mapAttrs (_: make.part) declared
    else if generator != null then
      generator.parts
    else
      null;
in
{
  inherit partsOf;

  /**
    A secret of a plan or a record.

    Type:   { declaration, generator, owners, mask, resolve } -> Secret
    Inputs:
      declaration  the values of its options
      generator    what its generator returned, or null
      owners       the hosts that own it; none for a host's own
      mask         what masks store paths
      resolve      a secret's name -> the id of the secret that it means as a dependency
  */
  render =
    {
      declaration,
      generator,
      owners,
      mask,
      resolve,
    }:
    {
      inherit owners;
      generator = if generator == null then null else renderGenerator mask resolve generator;
      parts = partsOf declaration.parts generator;
      regenerateOnOwnerAdded = declaration.regenerateOnOwnerAdded or false;
      regenerateOnOwnerRemoved = declaration.regenerateOnOwnerRemoved or false;
      onGeneratorChange =
        if declaration.onGeneratorChange != null then
          declaration.onGeneratorChange
        else if generator == null || generator.seedText == null then
          "regenerate"
        else
          "notice";
      inherit (declaration) onDependencyChange;
    };

  /**
    The ids that a rendered secret depends on.

    Type:   Secret -> [String]
  */
  dependencies = spec: if spec.generator == null then [ ] else lib.attrValues spec.generator.dependencies;
}
