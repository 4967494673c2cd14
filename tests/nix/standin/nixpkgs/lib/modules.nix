# The module system: options, definitions with priorities and conditions,
# evaluated to one configuration.
#
# What a module may contain and mean is said in the NixOS manual, "Writing
# NixOS Modules"; this is a small one of its own that knows what is used here
# and is strict: what it does not know is an error.
{ lib }:
let
  inherit (builtins)
    attrNames
    concatMap
    elem
    filter
    foldl'
    functionArgs
    head
    isAttrs
    isFunction
    isList
    length
    mapAttrs
    removeAttrs
    zipAttrsWith
    ;
  inherit (lib) last toList;

  pretty = lib.generators.toPretty { };
  # Option names in errors: those with a dot in them in quotes.
  showOption =
    loc:
    lib.concatStringsSep "." (
      map (
        part: if builtins.match "[a-zA-Z_][a-zA-Z0-9_'@-]*|<name>|\\*|\\[.*]" part != null then part else builtins.toJSON part
      ) loc
    );
  showFile = file: "`${toString file}'";
  showDefs =
    defs:
    lib.concatMapStrings (
      def:
      let
        shown = builtins.tryEval (pretty def.value);
      in
      "\n- In ${showFile def.file}: ${if shown.success then shown.value else "<not evaluated>"}"
    ) defs;

  kindOf = x: if isAttrs x then x._type or null else null;
  isOption = x: kindOf x == "option";
  isOptionType = x: kindOf x == "option-type";

  # --- what modules are written with ---------------------------------------------
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkOrder = priority: content: {
    _type = "order";
    inherit priority content;
  };
  defaultPriority = 100;
  optionDefaultPriority = 1500;

  mkOption =
    declaration:
    let
      unknown = attrNames (
        removeAttrs declaration [
          "apply"
          "default"
          "defaultText"
          "description"
          "example"
          "internal"
          "readOnly"
          "relatedPackages"
          "type"
          "visible"
        ]
      );
    in
    if unknown == [ ] then
      declaration // { _type = "option"; }
    else
      throw "mkOption does not know `${head unknown}'";

  # --- properties around values ------------------------------------------------------
  # A definition of a group of options -> definitions without properties around the group.
  pushDown =
    loc: def:
    let
      inside = content: pushDown loc (def // { value = content; });
      around = f: map (d: d // { value = mapAttrs (_: f) d.value; });
      kind = kindOf def.value;
    in
    if kind == "merge" then
      concatMap inside def.value.contents
    else if kind == "if" then
      around (mkIf def.value.condition) (inside def.value.content)
    else if kind == "override" then
      around (mkOverride def.value.priority) (inside def.value.content)
    else if kind == "order" then
      around (mkOrder def.value.priority) (inside def.value.content)
    else if isOption def.value then
      throw "`${showOption loc}' in ${showFile def.file} is set to what mkOption gives; options are declared under `options'."
    else if isAttrs def.value && !(lib.isDerivation def.value) then
      [ def ]
    else
      throw "`${showOption loc}' is a group of options and no option; ${showFile def.file} sets it to ${pretty def.value}.";

  # A definition of an option -> the ones that hold.
  discharge =
    def:
    let
      kind = kindOf def.value;
    in
    if kind == "merge" then
      concatMap (content: discharge (def // { value = content; })) def.value.contents
    else if kind == "if" then
      if !(builtins.isBool def.value.condition) then
        throw "the condition of a mkIf in ${showFile def.file} is no Boolean."
      else if def.value.condition then
        discharge (def // { value = def.value.content; })
      else
        [ ]
    else
      [ def ];

  # Only those of the strongest priority, in their order.
  strongest =
    defs:
    let
      priorityOf = def: if kindOf def.value == "override" then def.value.priority else defaultPriority;
      best = foldl' (least: def: lib.min least (priorityOf def)) 10000 defs;
      strip = def: if kindOf def.value == "override" then def // { value = def.value.content; } else def;
      kept = map strip (filter (def: priorityOf def == best) defs);
      rank = def: if kindOf def.value == "order" then def.value.priority else 1000;
      bare = def: if kindOf def.value == "order" then def // { value = def.value.content; } else def;
      ordered =
        if lib.any (def: kindOf def.value == "order") kept then
          map bare (builtins.sort (a: b: rank a < rank b) kept)
        else
          kept;
      wrapped = filter (
        def:
        elem (kindOf def.value) [
          "if"
          "merge"
          "override"
          "order"
        ]
      ) ordered;
    in
    {
      highestPrio = best;
      defs =
        if wrapped == [ ] then
          ordered
        else
          throw "${showFile (head wrapped).file}: mkIf and mkMerge belong around mkOverride, mkDefault, mkForce and mkOrder, not into them.";
    };

  # Definitions of one option -> { isDefined; value; defs; }.
  mergeDefinitions =
    loc: type: given:
    let
      inherit (strongest (concatMap discharge given)) defs highestPrio;
      wrong = filter (def: !(type.check def.value)) defs;
    in
    {
      inherit defs highestPrio;
      isDefined = defs != [ ];
      value =
        if defs == [ ] then
          throw "The option `${showOption loc}' was accessed but has no value defined. Try setting the option."
        else if wrong != [ ] then
          throw "A definition for option `${showOption loc}' is not of type `${type.description}'. Definition values:${showDefs wrong}"
        else
          builtins.addErrorContext "while evaluating the option `${showOption loc}':" (type.merge loc defs);
    };

  # --- modules -> one shape ----------------------------------------------------------
  # Each is { file, key, imports, options, config }.
  describe =
    arguments: parent: number: raw:
    let
      isFile = builtins.isPath raw || builtins.isString raw;
      # A directory is its default.nix.
      loaded = if isFile then import raw else raw;
      where = if isFile then toString raw else parent.file;
      key = if isFile then toString raw else "${parent.key}:${toString number}";
      applied =
        if isFunction loaded || isAttrs loaded && loaded ? __functor then
          builtins.addErrorContext "while calling the module ${showFile where}:" (
            call (if isFunction loaded then loaded else loaded.__functor loaded)
          )
        else
          loaded;
      call = f: f (arguments where (functionArgs f));
      file = applied._file or where;
      meta = [
        "_class"
        "_file"
        "disabledModules"
        "freeformType"
        "imports"
        "key"
        "meta"
      ];
      body = removeAttrs applied meta;
      long = body ? config || body ? options;
      foreign = attrNames (
        removeAttrs body [
          "config"
          "options"
        ]
      );
    in
    if !(isAttrs applied) then
      throw "the module ${showFile where} is ${pretty applied}; a module is an attribute set or a function that gives one."
    else if kindOf applied == "option" then
      throw "the module ${showFile where} is an option; options are declared under `options'."
    else if kindOf applied != null then
      {
        inherit file key;
        imports = [ ];
        options = { };
        config = applied;
        disabled = [ ];
      }
    else if long && foreign != [ ] then
      throw "the module ${showFile file} has `config' or `options', and beside them `${head foreign}'; put that into `config'."
    else
      {
        inherit file;
        key = if applied ? key then toString applied.key else key;
        imports = applied.imports or [ ];
        options = body.options or { };
        disabled = map toString (applied.disabledModules or [ ]);
        config =
          if applied ? freeformType then
            mkMerge [
              (if long then body.config or { } else body)
              { _module.freeformType = applied.freeformType; }
            ]
          else if long then
            body.config or { }
          else
            body;
      };

  # All modules with their imports, a file once however often it is imported.
  closure =
    arguments: root: modules:
    let
      describeAll = parent: lib.imap1 (describe arguments parent);
      found = builtins.genericClosure {
        startSet = describeAll root modules;
        operator = module: describeAll module module.imports;
      };
      disabled = concatMap (module: module.disabled) found;
    in
    filter (module: !(elem module.key disabled)) found;

  # --- one level of the tree -----------------------------------------------------------
  mergeDeclarations =
    loc: declarations:
    let
      both =
        a: b:
        let
          typed = x: x ? type;
        in
        b
        // a
        // lib.optionalAttrs (typed a && typed b) {
          type = mergeTypes loc a.type b.type;
        };
      twice = lib.any (
        name: length (filter (d: d.value ? ${name}) declarations) > 1
      ) [ "default" "apply" ];
      merged = foldl' both { } (map (d: d.value) declarations);
    in
    if length declarations > 1 && twice then
      throw "The option `${showOption loc}' in ${showFile (last declarations).file} is already declared in ${showFile (head declarations).file}."
    else
      merged // { type = merged.type or lib.types.unspecified; };

  mergeTypes =
    loc: a: b:
    let
      merged = a.combine or (_: null) b;
    in
    if a.name != b.name || merged == null then
      if a.description == b.description && !(a ? combine) then
        a
      else
        throw "The option `${showOption loc}' is declared with types that do not go together: `${a.description}' and `${b.description}'."
    else
      merged;

  evalOption =
    loc: declarations: defs:
    let
      option = mergeDeclarations loc declarations;
      default = {
        file = (head declarations).file;
        value = mkOverride optionDefaultPriority option.default;
      };
      result = mergeDefinitions loc option.type (lib.optional (option ? default) default ++ defs);
      value =
        if option.readOnly or false && length (filter (d: d.file != default.file) result.defs) > 0 && length result.defs > 1 then
          throw "The option `${showOption loc}' is read-only, but it is set more than once:${showDefs result.defs}"
        else
          (option.apply or (x: x)) result.value;
    in
    {
      config = value;
      options = option // {
        inherit loc value;
        inherit (result) isDefined highestPrio;
        definitions = map (d: d.value) result.defs;
        definitionsWithLocations = result.defs;
        files = map (d: d.file) result.defs;
        declarations = map (d: d.file) declarations;
        # Whether somebody other than a default says so.
        isSet = result.isDefined && result.highestPrio < optionDefaultPriority;
        __toString = _: showOption loc;
      };
      foreign = [ ];
    };

  evalLevel =
    loc: declarations: definitions:
    let
      named = d: mapAttrs (_: value: d // { inherit value; }) d.value;
      declared = zipAttrsWith (_: ds: ds) (map named declarations);
      defs = concatMap (pushDown loc) definitions;
      defined = zipAttrsWith (_: ds: ds) (map named defs);
      evaluated = mapAttrs (
        name: ds:
        let
          here = loc ++ [ name ];
          options = filter (d: isOption d.value) ds;
          own = defined.${name} or [ ];
        in
        if options == [ ] then
          evalLevel here ds own
        else if length options != length ds then
          throw "The option `${showOption here}' in ${showFile (head options).file} is a group of options elsewhere."
        else
          evalOption here options own
      ) declared;
      foreign = removeAttrs defined (attrNames declared);
    in
    {
      config = mapAttrs (_: e: e.config) evaluated;
      options = mapAttrs (_: e: e.options) evaluated;
      # Definitions without an option.
      foreign =
        concatMap (
          name:
          map (d: d // { loc = loc ++ [ name ]; }) foreign.${name}
        ) (attrNames foreign)
        ++ concatMap (e: e.foreign) (lib.attrValues evaluated);
    };

  internal = {
    _file = "lib/modules.nix";
    key = "lib/modules.nix";
    options._module = {
      args = mkOption {
        type = lib.types.lazyAttrsOf lib.types.raw;
        default = { };
      };
      check = mkOption {
        type = lib.types.bool;
        default = true;
      };
      freeformType = mkOption {
        type = lib.types.nullOr lib.types.raw;
        default = null;
      };
      specialArgs = mkOption {
        type = lib.types.raw;
        default = { };
      };
    };
  };

  evalModules =
    given@{
      modules,
      prefix ? [ ],
      specialArgs ? { },
      class ? null,
    }:
    let
      ready = specialArgs // {
        inherit config options lib;
        _prefix = prefix;
        inherit specialArgs;
        moduleType = lib.types.submoduleWith { inherit modules specialArgs; };
      };
      # What a module's function asks for; the rest is only there by name, as in nixpkgs.
      arguments =
        where: wanted:
        ready
        // mapAttrs (
          name: _:
          ready.${name} or (builtins.addErrorContext "while looking for the argument `${name}' of the module ${showFile where}:"
            tree.config._module.args.${name}
          )
        ) (removeAttrs wanted (filter (name: wanted.${name} && !(ready ? ${name})) (attrNames wanted)));

      all = closure arguments {
        file = "<unknown-file>";
        key = "";
      } ([ internal ] ++ modules);
      declarations = map (module: {
        inherit (module) file;
        value = module.options;
      }) all;
      definitions = map (module: {
        inherit (module) file;
        value = module.config;
      }) all;
      tree = evalLevel prefix declarations definitions;
      freeform = tree.config._module.freeformType;
      foreign = if freeform == null then { } else mergeForeign freeform;
      config = if foreign == { } then tree.config else lib.recursiveUpdate foreign tree.config;
      options = tree.options;
      # Definitions without an option as one value of the freeform type.
      mergeForeign =
        type:
        let
          depth = length prefix;
          asValue = d: {
            inherit (d) file;
            value = lib.setAttrByPath (lib.drop depth d.loc) d.value;
          };
        in
        if tree.foreign == [ ] then { } else (mergeDefinitions prefix type (map asValue tree.foreign)).value;
      checked =
        if freeform != null || tree.foreign == [ ] || !tree.config._module.check then
          true
        else
          let
            first = head tree.foreign;
          in
          throw "The option `${showOption first.loc}' does not exist. Definition values:${showDefs (filter (d: d.loc == first.loc) tree.foreign)}";
    in
    {
      _type = "configuration";
      config = builtins.seq checked (removeAttrs config [ "_module" ]);
      inherit options;
      # What the freeform type took.
      freeform = builtins.seq checked foreign;
      _module = tree.config._module;
      type = lib.types.submoduleWith { inherit modules specialArgs class; };
      extendModules =
        {
          modules ? [ ],
          specialArgs ? { },
          prefix ? given.prefix or [ ],
        }:
        evalModules (
          given
          // {
            inherit prefix;
            modules = given.modules ++ modules;
            specialArgs = given.specialArgs or { } // specialArgs;
          }
        );
    };

  # A value, forced; derivations and functions only to their name.
  forceValue =
    value:
    if lib.isDerivation value then
      builtins.seq value.outPath true
    else if isAttrs value then
      lib.all forceValue (lib.attrValues value)
    else if isList value then
      lib.all forceValue value
    else
      builtins.seq value true;

  # What somebody has said, and no default: a tree of the values of options, in
  # submodules too.
  said =
    evaluated:
    let
      ofOption = option: builtins.seq option.value (option.type.said option.loc option.definitionsWithLocations);
      ofGroup =
        options:
        lib.filterAttrs (_: value: value != { }) (
          mapAttrs (
            _: option:
            if !(isOption option) then
              ofGroup option
            else if option.internal or false || !option.isSet then
              { }
            else
              ofOption option
          ) options
        );
    in
    lib.recursiveUpdate evaluated.freeform (ofGroup (removeAttrs evaluated.options [ "_module" ]));
in
{
  inherit
    evalModules
    forceValue
    isOption
    isOptionType
    mergeDefinitions
    mkIf
    mkMerge
    mkOption
    mkOrder
    mkOverride
    said
    showDefs
    showFile
    showOption
    ;
  mergeTypesAt = mergeTypes;
  mkDefault = mkOverride 1000;
  mkOptionDefault = mkOverride optionDefaultPriority;
  mkForce = mkOverride 50;
  mkImageMediaOverride = mkOverride 60;
  mkVMOverride = mkOverride 10;
  mkBefore = mkOrder 500;
  mkAfter = mkOrder 1500;
  mkDerivedConfig =
    option: f:
    mkOverride (option.highestPrio or defaultPriority) (f option.value);
  mkEnableOption =
    what:
    mkOption {
      type = lib.types.bool;
      default = false;
      example = true;
      description = "Whether to enable ${what}.";
    };
  mkPackageOption =
    pkgs: name:
    {
      default ? name,
      nullable ? false,
      example ? null,
      extraDescription ? "",
      pkgsText ? "pkgs",
    }:
    mkOption {
      type = if nullable then lib.types.nullOr lib.types.package else lib.types.package;
      default = if default == null then null else lib.getAttrFromPath (toList default) pkgs;
      description = "The ${lib.concatStringsSep "." (toList name)} package to use.";
    };
  setDefaultModuleLocation = file: module: {
    _file = file;
    imports = [ module ];
  };
  mkRemovedOptionModule =
    path: instead:
    { options, ... }:
    {
      options = lib.setAttrByPath path (mkOption {
        type = lib.types.raw;
        visible = false;
        apply = _: throw "The option `${showOption path}' can no longer be used since it's been removed. ${instead}";
      });
      config.assertions = [
        {
          assertion = !(lib.getAttrFromPath path options).isSet;
          message = "The option definition `${showOption path}' no longer has any effect; please remove it. ${instead}";
        }
      ];
    };
  literalExpression = text: {
    _type = "literalExpression";
    inherit text;
  };
  literalMD = text: {
    _type = "literalMD";
    inherit text;
  };
  mdDoc = text: text;
}
