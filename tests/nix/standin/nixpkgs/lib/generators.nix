# lib.generators: values -> text of configuration files.
{ lib }:
let
  inherit (builtins) isBool isAttrs isList isString;
in
rec {
  mkValueStringDefault =
    _: v:
    if isBool v then
      lib.boolToString v
    else if v == null then
      "null"
    else if isAttrs v && !(lib.isStringLike v) || isList v then
      throw "generators.mkValueStringDefault: a ${builtins.typeOf v} has no text of its own"
    else
      toString v;

  mkKeyValueDefault =
    {
      mkValueString ? mkValueStringDefault { },
    }:
    separator: key: value:
    "${lib.escape [ separator ] key}${separator}${mkValueString value}";

  toKeyValue =
    {
      mkKeyValue ? mkKeyValueDefault { } "=",
      listsAsDuplicateKeys ? false,
      indent ? "",
    }:
    set:
    lib.concatLines (
      lib.concatLists (
        lib.mapAttrsToList (
          key: value:
          map (one: indent + mkKeyValue key one) (if listsAsDuplicateKeys then lib.toList value else [ value ])
        ) set
      )
    );

  toINI =
    {
      mkSectionName ? lib.escape [
        "["
        "]"
      ],
      mkKeyValue ? mkKeyValueDefault { } "=",
      listsAsDuplicateKeys ? false,
    }:
    sections:
    lib.concatStringsSep "\n" (
      lib.mapAttrsToList (
        name: set: "[${mkSectionName name}]\n" + toKeyValue { inherit mkKeyValue listsAsDuplicateKeys; } set
      ) sections
    );

  toJSON = _: builtins.toJSON;
  # JSON is YAML.
  toYAML = toJSON;

  # A value in an error: short, and nothing in it is evaluated further than needed.
  toPretty =
    _:
    let
      go =
        depth: v:
        if builtins.isFunction v then
          "<function>"
        else if isAttrs v && v.type or null == "derivation" then
          "<derivation ${v.name or "?"}>"
        else if isAttrs v && v ? _type then
          "<${toString v._type}>"
        else if isAttrs v then
          if depth > 2 then
            "{ ... }"
          else
            "{ ${lib.concatStringsSep "" (lib.mapAttrsToList (n: x: "${n} = ${go (depth + 1) x}; ") v)}}"
        else if isList v then
          if depth > 2 then "[ ... ]" else "[ ${lib.concatMapStrings (x: go (depth + 1) x + " ") v}]"
        else if isString v then
          builtins.toJSON (builtins.unsafeDiscardStringContext v)
        else if v == null then
          "null"
        else if isBool v then
          lib.boolToString v
        else
          toString v;
    in
    go 0;
}
