# lib.types: what values an option takes and how several definitions become one.
#
# A type is { name, description, check VALUE, merge LOC DEFS }, DEFS being
# [ { file, value } ] without properties; `combine` merges it with another one
# of its name, for an option that is declared more than once; `said LOC DEFS` is
# the merged value without the defaults of submodules in it.
{ lib }:
let
  inherit (builtins)
    all
    attrNames
    concatMap
    elem
    filter
    head
    isAttrs
    isBool
    isFloat
    isInt
    isList
    isString
    length
    mapAttrs
    match
    zipAttrsWith
    ;
  inherit (lib) last mergeDefinitions showDefs showOption;

  mkType =
    type:
    {
      _type = "option-type";
      said = type.merge or mergeEqual;
      check = _: true;
      merge = mergeEqual;
      nestedTypes = { };
      getSubOptions = _: { };
      getSubModules = null;
      deprecationMessage = null;
    }
    // type
    // {
      description = type.description or type.name;
    };

  values = map (d: d.value);
  mergeOne =
    loc: defs:
    if length defs == 1 then
      (head defs).value
    else
      throw "The option `${showOption loc}' is defined more than once, while it takes one value only. Definition values:${showDefs defs}";
  mergeEqual =
    loc: defs:
    let
      first = (head defs).value;
    in
    if all (d: d.value == first) defs then
      first
    else
      throw "The option `${showOption loc}' has conflicting definition values:${showDefs defs}";

  # `list of X`, but X itself in parentheses where it has several words.
  inner = type: if match "[^ ]+" type.description != null then type.description else "(${type.description})";

  scalar =
    name: description: check:
    mkType { inherit name description check; };
  between =
    name: description: lowest: highest:
    scalar name description (x: isInt x && x >= lowest && x <= highest);
  matching = name: description: pattern: scalar name description (x: isString x && match pattern x != null);
  sized =
    bits:
    let
      power = n: if n == 0 then 1 else 2 * power (n - 1);
    in
    {
      u = between "unsignedInt${toString bits}" "${toString bits} bit unsigned integer; between 0 and ${
        toString (power bits - 1)
      } (both inclusive)" 0 (power bits - 1);
      s =
        between "signedInt${toString bits}"
          "${toString bits} bit signed integer; between ${toString (0 - power (bits - 1))} and ${
            toString (power (bits - 1) - 1)
          } (both inclusive)"
          (0 - power (bits - 1))
          (power (bits - 1) - 1);
    };
  saidElement =
    loc: type: defs:
    let
      merged = mergeDefinitions loc type defs;
    in
    merged // { value = builtins.seq merged.value (type.said loc merged.defs); };
  combineElements = make: a: b: make (lib.mergeTypesAt [ ] a b);

  t = {
    inherit mkType;
    mkOptionType = mkType;
    isOptionType = lib.isOptionType;

    bool = scalar "bool" "boolean" isBool;
    boolByOr = t.bool // {
      merge = _: defs: lib.any (d: d.value) defs;
    };
    int = scalar "int" "signed integer" isInt;
    float = scalar "float" "floating point number" isFloat;
    number = scalar "number" "signed integer or floating point number" (x: isInt x || isFloat x);
    ints = {
      unsigned = scalar "unsignedInt" "unsigned integer, meaning >=0" (x: isInt x && x >= 0);
      positive = scalar "positiveInt" "positive integer, meaning >0" (x: isInt x && x > 0);
      between =
        lowest: highest:
        between "intBetween" "integer between ${toString lowest} and ${toString highest} (both inclusive)" lowest
          highest;
      u8 = (sized 8).u;
      u16 = (sized 16).u;
      u32 = (sized 32).u;
      s8 = (sized 8).s;
      s16 = (sized 16).s;
      s32 = (sized 32).s;
    };
    port = (sized 16).u;

    str = scalar "str" "string" isString;
    string = t.str;
    nonEmptyStr = matching "nonEmptyStr" "non-empty string" "(.|\n)*[^[:space:]](.|\n)*";
    strMatching = pattern: matching "strMatching" "string matching the pattern ${pattern}" pattern;
    singleLineStr =
      matching "singleLineStr" "(optionally newline-terminated) single-line string" "[^\n\r]*\n?"
      // {
        merge = loc: defs: lib.removeSuffix "\n" (mergeEqual loc defs);
      };
    separatedString =
      separator:
      mkType {
        name = "separatedString";
        description = "strings concatenated with ${builtins.toJSON separator}";
        check = isString;
        merge = _: defs: lib.concatStringsSep separator (values defs);
        combine = b: if b.description == "strings concatenated with ${builtins.toJSON separator}" then t.separatedString separator else null;
      };
    lines = t.separatedString "\n";
    commas = t.separatedString ",";
    envVar = t.separatedString ":";

    path = scalar "path" "absolute path" (x: lib.isStringLike x && builtins.substring 0 1 (toString x) == "/");
    externalPath = t.path;
    pathInStore = scalar "pathInStore" "path in the Nix store" (
      x: lib.isStringLike x && lib.hasPrefix "${builtins.storeDir}/" (toString x)
    );
    package = mkType {
      name = "package";
      check = x: lib.isDerivation x || lib.isStorePath x;
      merge = loc: defs: mergeOne loc defs;
    };
    shellPackage = t.package;
    pkgs = mkType {
      name = "pkgs";
      description = "Nixpkgs package set";
      check = x: isAttrs x && x._type or null == "pkgs";
      merge = mergeOne;
    };

    enum =
      choices:
      mkType {
        name = "enum";
        description =
          if length choices == 1 then
            "value ${builtins.toJSON (head choices)} (singular enum)"
          else
            "one of ${lib.concatMapStringsSep ", " builtins.toJSON choices}";
        check = x: elem x choices;
        inherit choices;
        combine = b: t.enum (lib.unique (choices ++ b.choices));
      };

    raw = mkType {
      name = "raw";
      description = "raw value";
      merge = mergeOne;
    };
    unspecified = mkType {
      name = "unspecified";
      description = "unspecified value";
      merge =
        loc: defs:
        if all (d: isAttrs d.value && !(lib.isDerivation d.value)) defs then
          builtins.foldl' lib.recursiveUpdate { } (values defs)
        else if all (d: isList d.value) defs then
          concatMap (d: d.value) defs
        else
          mergeEqual loc defs;
    };
    anything = mkType {
      name = "anything";
      merge =
        loc: defs:
        if all (d: isAttrs d.value && !(lib.isStringLike d.value)) defs then
          (t.lazyAttrsOf t.anything).merge loc defs
        else if all (d: isAttrs d.value) defs then
          mergeOne loc defs
        else
          mergeEqual loc defs;
    };
    attrs = mkType {
      name = "attrs";
      description = "attribute set";
      check = isAttrs;
      merge = _: defs: builtins.foldl' (acc: d: acc // d.value) { } defs;
    };
    optionType = scalar "optionType" "optionType" lib.isOptionType;
    functionTo =
      type:
      mkType {
        name = "functionTo";
        description = "function that evaluates to a(n) ${type.description}";
        check = lib.isFunction;
        merge =
          loc: defs: arg:
          (mergeDefinitions (loc ++ [ "<function body>" ]) type (map (d: d // { value = d.value arg; }) defs)).value;
      };

    # JSON, and what is as free: YAML, TOML.
    json =
      let
        type = mkType {
          name = "json";
          description = "JSON value";
          check =
            x:
            x == null
            || isBool x
            || isInt x
            || isFloat x
            || lib.isStringLike x
            || isList x
            || isAttrs x;
          merge =
            loc: defs:
            if all (d: isAttrs d.value && !(lib.isStringLike d.value)) defs then
              (t.lazyAttrsOf type).merge loc defs
            else if all (d: isList d.value) defs then
              (t.listOf type).merge loc defs
            else
              mergeEqual loc defs;
        };
      in
      type;

    nullOr =
      type:
      mkType {
        name = "nullOr";
        description = "null or ${inner type}";
        check = x: x == null || type.check x;
        merge =
          loc: defs:
          if all (d: d.value == null) defs then
            null
          else if lib.any (d: d.value == null) defs then
            throw "The option `${showOption loc}' is defined both null and not null:${showDefs defs}"
          else
            type.merge loc defs;
        said = loc: defs: if all (d: d.value == null) defs then null else type.said loc defs;
        nestedTypes.elemType = type;
        combine = b: combineElements t.nullOr type b.nestedTypes.elemType;
      };

    listOf =
      type:
      mkType {
        name = "listOf";
        description = "list of ${inner type}";
        check = isList;
        merge =
          loc: defs:
          let
            elements = concatMap (
              def:
              lib.imap1 (
                n: value:
                mergeDefinitions (loc ++ [ "[definition ${toString n}]" ]) type [ { inherit (def) file; inherit value; } ]
              ) def.value
            ) defs;
          in
          map (e: e.value) (filter (e: e.isDefined) elements);
        said =
          loc: defs:
          map (e: e.value) (
            filter (e: e.isDefined) (
              concatMap (
                def:
                lib.imap1 (
                  n: value:
                  saidElement (loc ++ [ "[definition ${toString n}]" ]) type [ (def // { inherit value; }) ]
                ) def.value
              ) defs
            )
          );
        nestedTypes.elemType = type;
        combine = b: combineElements t.listOf type b.nestedTypes.elemType;
      };
    nonEmptyListOf =
      type:
      let
        list = t.listOf type;
      in
      list
      // {
        description = "non-empty (${list.description})";
        check = x: isList x && x != [ ];
      };

    attrsOf =
      type:
      mkType {
        name = "attrsOf";
        description = "attribute set of ${inner type}";
        check = x: isAttrs x && !(lib.isDerivation x);
        merge =
          loc: defs:
          let
            merged = mapAttrs (name: mergeDefinitions (loc ++ [ name ]) type) (byName loc defs);
          in
          mapAttrs (_: m: m.value) (lib.filterAttrs (_: m: m.isDefined) merged);
        said = saidNamed type;
        nestedTypes.elemType = type;
        combine = b: combineElements t.attrsOf type b.nestedTypes.elemType;
      };
    lazyAttrsOf =
      type:
      mkType {
        name = "lazyAttrsOf";
        description = "lazy attribute set of ${inner type}";
        check = x: isAttrs x && !(lib.isDerivation x);
        merge =
          loc: defs: mapAttrs (name: ds: (mergeDefinitions (loc ++ [ name ]) type ds).value) (byName loc defs);
        said = saidNamed type;
        nestedTypes.elemType = type;
        combine = b: combineElements t.lazyAttrsOf type b.nestedTypes.elemType;
      };
    attrsWith =
      {
        elemType,
        lazy ? false,
        placeholder ? "name",
      }:
      (if lazy then t.lazyAttrsOf else t.attrsOf) elemType;

    either =
      a: b:
      mkType {
        name = "either";
        description = "${inner a} or ${inner b}";
        check = x: a.check x || b.check x;
        merge =
          loc: defs:
          if all (d: a.check d.value) defs then
            a.merge loc defs
          else if all (d: b.check d.value) defs then
            b.merge loc defs
          else
            mergeEqual loc defs;
        said =
          loc: defs: if all (d: a.check d.value) defs then a.said loc defs else b.said loc defs;
      };
    oneOf = types: builtins.foldl' t.either (head types) (lib.tail types);
    coercedTo =
      from: convert: to:
      let
        coerce = map (
          d: if from.check d.value && !(to.check d.value) then d // { value = convert d.value; } else d
        );
      in
      mkType {
        name = "coercedTo";
        description = "${to.description} or ${from.description} convertible to it";
        check = x: from.check x && to.check (convert x) || to.check x;
        merge = loc: defs: to.merge loc (coerce defs);
        said = loc: defs: to.said loc (coerce defs);
      };
    addCheck = type: check: type // { check = x: type.check x && check x; };
    uniq = type: type // { merge = mergeOne; };
    unique = _: t.uniq;

    submodule =
      modules:
      t.submoduleWith {
        modules = lib.toList modules;
        shorthandOnlyDefinesConfig = true;
      };
    submoduleWith =
      given@{
        modules,
        specialArgs ? { },
        shorthandOnlyDefinesConfig ? false,
        description ? "submodule",
        class ? null,
      }:
      let
        evaluate =
          loc: defs:
          lib.evalModules {
            prefix = loc;
            inherit specialArgs;
            modules = [ { _module.args.name = last loc; } ] ++ modules ++ map definition defs;
          };
      in
      mkType {
        name = "submodule";
        inherit description;
        # A path to a module is one too.
        check = x: isAttrs x && !(lib.isDerivation x) || lib.isFunction x || builtins.isPath x;
        merge = loc: defs: (evaluate loc defs).config;
        said = loc: defs: lib.said (evaluate loc defs);
        getSubOptions =
          prefix:
          (lib.evalModules {
            inherit prefix specialArgs;
            modules = [ { _module.args.name = "<name>"; } ] ++ modules;
          }).options;
        inherit modules given;
        combine = b: t.submoduleWith (given // { modules = modules ++ b.modules; });
      };
    deferredModule = t.deferredModuleWith { };
    deferredModuleWith =
      {
        staticModules ? [ ],
      }:
      mkType {
        name = "deferredModule";
        description = "module";
        check = x: isAttrs x || lib.isFunction x || lib.isStringLike x;
        merge = _: defs: { imports = staticModules ++ map (d: lib.setDefaultModuleLocation d.file d.value) defs; };
      };
  };

  # Definitions of attribute sets -> name -> definitions.
  byName =
    loc: defs: zipAttrsWith (_: ds: ds) (map (def: mapAttrs (_: value: def // { inherit value; }) def.value) defs);

  saidNamed =
    type: loc: defs:
    mapAttrs (_: e: e.value) (
      lib.filterAttrs (_: e: e.isDefined) (
        mapAttrs (name: saidElement (loc ++ [ name ]) type) (byName loc defs)
      )
    );

  # What an option of a submodule type is set to -> a module.
  definition =
    def:
    if isAttrs def.value then
      {
        _file = def.file;
        config = def.value;
      }
    else
      {
        _file = def.file;
        imports = [ def.value ];
      };
in
t
