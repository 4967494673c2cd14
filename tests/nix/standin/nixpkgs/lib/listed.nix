# A list of options (names and types as text) -> declarations of options.
#
# The list is what an evaluation of the real modules gave: { "NAME": { "type":
# DESCRIPTION, "default": EXPRESSION } }, with <name> and * where an attribute
# set or a list has a submodule.  The descriptions are read back into types.
{ lib }:
let
  inherit (builtins)
    attrNames
    elemAt
    filter
    fromJSON
    groupBy
    head
    isString
    length
    mapAttrs
    match
    removeAttrs
    split
    substring
    tail
    ;
  inherit (lib) mkOption types;

  # --- names -------------------------------------------------------------------
  # a.b."c.d".e -> [ "a" "b" "c.d" "e" ]
  pathOf =
    name:
    let
      quoted = match "(.*)\\.\"([^\"]*)\"(.*)" name;
    in
    if quoted == null then
      lib.splitString "." name
    else
      pathOf (head quoted)
      ++ [ (elemAt quoted 1) ]
      ++ filter (part: part != "") (lib.splitString "." (elemAt quoted 2));

  # [ { path, entry } ] -> { entry; children = { NAME = node; }; }
  treeOf =
    entries:
    let
      here = filter (e: e.path == [ ]) entries;
      below = filter (e: e.path != [ ]) entries;
    in
    {
      entry = if here == [ ] then null else (head here).entry;
      children = mapAttrs (_: es: treeOf (map (e: e // { path = tail e.path; }) es)) (
        groupBy (e: head e.path) below
      );
    };

  elementOf = node: node.children."<name>" or node.children."*" or null;
  ownOf =
    node:
    removeAttrs node.children [
      "<name>"
      "*"
      "_module"
    ];
  elementName = node: if node.children ? "<name>" then "<name>" else "*";

  # --- types ---------------------------------------------------------------------
  # "a or (b or c) or d" -> [ "a" "(b or c)" "d" ]
  alternatives =
    text:
    let
      step =
        state: token:
        if isString token then
          state // { now = state.now + token; }
        else if head token == "(" then
          state
          // {
            depth = state.depth + 1;
            now = state.now + "(";
          }
        else if head token == ")" then
          state
          // {
            depth = state.depth - 1;
            now = state.now + ")";
          }
        else if state.depth == 0 then
          state
          // {
            done = state.done ++ [ state.now ];
            now = "";
          }
        else
          state // { now = state.now + " or "; };
      end = builtins.foldl' step {
        depth = 0;
        done = [ ];
        now = "";
      } (split "( or |[()])" text);
    in
    end.done ++ [ end.now ];

  unitName = "[a-zA-Z0-9@%:_.\\-]+[.](service|socket|device|mount|automount|swap|target|path|timer|scope|slice)";
  checked = type: description: check: types.addCheck type check // { inherit description; };
  noColon = x: match "[^:\n]*" (toString x) != null;
  notEmpty = x: match "[ \t\n]*" x == null;
  named = name: description: check: types.mkType { inherit name description check; };
  systemdAtom =
    x: x == null || lib.isStringLike x || builtins.isBool x || builtins.isInt x || builtins.isFloat x;

  leaves = {
    boolean = types.bool;
    string = types.str;
    package = types.package;
    anything = types.anything;
    "attribute set" = types.attrs;
    "(attribute set)" = types.attrs;
    "signed integer" = types.int;
    "unsigned integer, meaning >=0" = types.ints.unsigned;
    "positive integer, meaning >0" = types.ints.positive;
    "16 bit unsigned integer; between 0 and 65535 (both inclusive)" = types.port;
    "absolute path" = types.path;
    "path in the Nix store" = types.pathInStore;
    "non-empty string" = types.nonEmptyStr;
    "raw value" = types.raw;
    "JSON value" = types.json;
    "open submodule of (JSON value)" = types.attrsOf types.json;
    "Nixpkgs package set" = types.pkgs;
    "unspecified value" = types.unspecified;
    optionType = types.optionType;
    "strings concatenated with \"\\n\"" = types.lines;
    "strings concatenated with \" \"" = types.separatedString " ";
    "(optionally newline-terminated) single-line string" = types.singleLineStr;
    "string (with check: non-empty)" = checked types.str "non-empty string" notEmpty;
    "string (with check: non-empty without trailing slash)" =
      checked types.str "non-empty string without trailing slash"
        (x: notEmpty x && match ".+/" x == null);
    "string, not containing newlines or colons" = checked types.str "string, not containing newlines or colons" noColon;
    "absolute path, not containing newlines or colons" =
      checked types.path "absolute path, not containing newlines or colons"
        noColon;
    "list of string, with spaces inside double quotes" = types.listOf (
      checked types.str "string, with spaces inside double quotes" (
        x: match ''([^ ]|("[^"]*"))*'' x != null
      )
    );
    "string matching the pattern ${unitName}" =
      checked types.str "name of a unit"
        (x: match "[a-zA-Z0-9@%:_.\\\\-]+[.](service|socket|device|mount|automount|swap|target|path|timer|scope|slice)" x != null);
    # systemd-lib.nix of NixOS: a setting that can be given more than once is a list.
    "systemd option" =
      named "systemd option" "systemd option"
        (x: systemdAtom x || builtins.isList x && lib.all systemdAtom x)
      // {
        merge =
          loc: defs:
          if lib.any (d: builtins.isList d.value) defs then
            lib.concatMap (d: lib.toList d.value) defs
          else
            types.raw.merge loc (
              if lib.allUnique (map (d: d.value) defs) then defs else [ (head defs) ]
            );
      };
    "sysctl option value" = named "sysctl option value" "sysctl option value" (
      x: x == null || builtins.isBool x || builtins.isInt x || isString x
    );
  };

  # `sub` is the type of the submodule that the text speaks of.
  parse =
    sub: text:
    let
      alone = match "\\((.*)\\)" text;
      balanced = alone != null && length (filter isString (split "\\)" (head alone))) == length (filter isString (split "\\(" (head alone))) && closesLast text;
      or' = alternatives text;
      prefix =
        word: make:
        let
          found = match "${word} (.*)" text;
        in
        if found == null then null else make (head found);
      first = options: lib.findFirst (x: x != null) null options;
      parsed = first [
        (leaves.${text} or null)
        (if text == "submodule" then sub else null)
        (if balanced then parse sub (head alone) else null)
        (prefix "(list of absolute path) or absolute path convertible to" (
          _: types.coercedTo types.path lib.singleton (types.listOf types.path)
        ))
        (
          if length or' > 1 then
            let
              plain = map (lib.removeSuffix " convertible to it") or';
              rest = map (parse sub) (if head plain == "null" then tail plain else plain);
              type = types.oneOf rest;
            in
            if head plain == "null" then types.nullOr type else type
          else
            null
        )
        (prefix "null or" (rest: types.nullOr (parse sub rest)))
        (prefix "attribute set of" (rest: types.attrsOf (parse sub rest)))
        (prefix "lazy attribute set of" (rest: types.lazyAttrsOf (parse sub rest)))
        (prefix "non-empty" (rest: types.addCheck (parse sub rest) (x: x != [ ])))
        (prefix "list of" (rest: types.listOf (parse sub rest)))
        (prefix "one of" (rest: types.enum (fromJSON "[${rest}]")))
        (prefix "string matching the pattern" types.strMatching)
      ];
    in
    if parsed == null then throw "the list of options has a type that is not understood: `${text}'" else parsed;
  # Whether the first parenthesis is closed by the last character.
  closesLast =
    text:
    let
      depths = lib.foldl' (
        acc: c:
        let
          depth = lib.last acc + (if c == "(" then 1 else if c == ")" then -1 else 0);
        in
        acc ++ [ depth ]
      ) [ 0 ] (lib.stringToCharacters text);
    in
    substring 0 1 text == "(" && lib.all (d: d > 0) (lib.init (tail depths));

  # Without a submodule one text is one type, whatever option has it.
  shared = texts: lib.genAttrs (lib.unique texts) (parse null);

  # An option that the list has without a type: removed, renamed, or only to be read.
  gone = named "gone" "nothing: it was removed or renamed, or can only be read" (_: false);

  # Literals among the texts of defaults.
  literal =
    text:
    if text == "[ ]" then
      [ ]
    else if text == "{ }" then
      { }
    else if
      match "null|true|false|[0-9]+|\"[^\"$]*\"" text != null
    then
      fromJSON text
    else
      null;
  isLiteral = text: isString text && (text == "null" || literal text != null);

  # What an unset option is, where the list does not say.
  implicit =
    type:
    {
      attrsOf.default = { };
      lazyAttrsOf.default = { };
      attrs.default = { };
      anything.default = { };
      submodule.default = { };
      listOf.default = [ ];
      nullOr.default = null;
      separatedString.default = "";
    }
    .${type.name} or { };
in
{
  # list: the parsed JSON; it is read once, for however many configurations.
  # more: NAME -> further arguments of mkOption.  none: NAMES without a default, whatever
  # the list says.  guess: whether unset options get an empty value of their type.
  declare =
    {
      list,
      more ? { },
      none ? [ ],
      guess ? false,
    }:
    let
      wanted = filter (name: match "(.*\\.)?_module\\..*" name == null) (attrNames list.options);
      submodules = lib.genAttrs (map (name: head (match "(.*)\\._module\\.check" name)) (
        filter (name: match ".*\\._module\\.check" name != null) (attrNames list.options)
      )) (_: true);
      tree = treeOf (
        map (name: {
          path = pathOf name;
          entry = list.options.${name};
        }) wanted
      );
      known = shared (
        filter (text: match ".*submodule.*" text == null) (map (name: list.options.${name}.type) wanted)
      );

      declared =
        defaults:
        let
          submoduleOf =
            loc: node: free:
            types.submodule (
              { name, config, ... }:
              {
                options = level loc {
                  inherit name config;
                } (ownOf node);
                config = lib.optionalAttrs (free != null) { _module.freeformType = free; };
              }
            );

          typeOf =
            loc: node:
            let
              inherit (node.entry) type;
              deepest =
                path: n:
                if elementOf n == null then
                  {
                    inherit path;
                    node = n;
                  }
                else
                  deepest (path ++ [ (elementName n) ]) (elementOf n);
              bottom = deepest loc node;
              free = match "attribute set of (.*)" type;
            in
            if elementOf node == null && ownOf node != { } then
              submoduleOf loc node (
                if type == "submodule" then
                  null
                else if type == "anything" then
                  types.lazyAttrsOf types.anything
                else if free != null then
                  types.attrsOf (parse null (head free))
                else
                  types.attrsOf types.json
              )
            else if type == "submodule" && ownOf node == { } || type == "unspecified value" then
              gone
            else
              known.${type} or (parse (submoduleOf bottom.path bottom.node null) type);

          option =
            loc: context: node:
            let
              name = lib.concatStringsSep "." loc;
              type = typeOf loc node;
              given = defaults.${name};
              default =
                if defaults ? ${name} then
                  {
                    default = if lib.isFunction given then given context else given;
                  }
                else if builtins.elem name none then
                  { }
                else if isLiteral (node.entry.default or null) then
                  { default = literal node.entry.default; }
                else if guess then
                  implicit type
                else
                  { };
            in
            mkOption ({ inherit type; } // default // more.${name} or { });

          level =
            loc: context:
            mapAttrs (
              name: node:
              let
                here = loc ++ [ name ];
              in
              if node.entry == null && elementOf node == null then
                level here context node.children
              else
                option here context node
            );
        in
        context: level [ ] context (removeAttrs tree.children [ "_module" ]);
    in
    # A function of the defaults, NAME -> value or function of { name, config }, and of
    # what the defaults at the top get: { config }.
    declared;
}
