# Lists, attribute sets, text and versions: functions with the names and the
# meaning of those of nixpkgs' lib, as far as somebody here uses them.
let
  inherit (builtins)
    attrNames
    concatLists
    concatStringsSep
    elemAt
    filter
    foldl'
    genList
    head
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isString
    length
    listToAttrs
    match
    replaceStrings
    sort
    split
    stringLength
    substring
    tail
    toJSON
    ;
in
rec {
  inherit (builtins)
    add
    all
    any
    attrNames
    attrValues
    catAttrs
    compareVersions
    concatLists
    concatMap
    concatStringsSep
    deepSeq
    div
    elem
    elemAt
    filter
    foldl'
    functionArgs
    genericClosure
    genList
    getAttr
    groupBy
    hasAttr
    head
    intersectAttrs
    isAttrs
    isBool
    isFloat
    isInt
    isList
    isPath
    isString
    length
    lessThan
    listToAttrs
    mapAttrs
    match
    mul
    parseDrvName
    partition
    pathExists
    readDir
    readFile
    removeAttrs
    replaceStrings
    seq
    sort
    split
    splitVersion
    stringLength
    sub
    substring
    tail
    toJSON
    trace
    tryEval
    typeOf
    zipAttrsWith
    ;
  inherit (builtins) addErrorContext unsafeGetAttrPos;

  # --- functions ---------------------------------------------------------------
  id = x: x;
  const = x: _: x;
  flip =
    f: a: b:
    f b a;
  pipe = foldl' (x: f: f x);
  isFunction = f: builtins.isFunction f || isAttrs f && f ? __functor;
  toFunction = x: if isFunction x then x else _: x;
  min = a: b: if a < b then a else b;
  max = a: b: if a > b then a else b;
  mod = a: b: a - b * (a / b);
  boolToString = x: if x then "true" else "false";
  xor = a: b: a != b;
  throwIf = condition: message: if condition then throw message else x: x;
  throwIfNot = condition: throwIf (!condition);
  assertMsg = condition: message: if condition then true else throw message;
  assertOneOf =
    name: x: xs:
    assertMsg (builtins.elem x xs) "${name} must be one of ${toJSON xs}, but is: ${toJSON x}";
  warn = message: builtins.trace "evaluation warning: ${message}";
  warnIf = condition: message: if condition then warn message else x: x;
  warnIfNot = condition: warnIf (!condition);
  traceVal = x: builtins.trace x x;
  importJSON = path: builtins.fromJSON (builtins.readFile path);
  importTOML = path: builtins.fromTOML (builtins.readFile path);

  # --- lists -------------------------------------------------------------------
  singleton = x: [ x ];
  toList = x: if isList x then x else [ x ];
  optional = condition: x: if condition then [ x ] else [ ];
  optionals = condition: xs: if condition then xs else [ ];
  last = xs: elemAt xs (length xs - 1);
  init = xs: genList (elemAt xs) (length xs - 1);
  take = n: xs: genList (elemAt xs) (min n (length xs));
  drop = n: xs: genList (i: elemAt xs (i + n)) (max 0 (length xs - n));
  sublist =
    start: count: xs:
    take count (drop start xs);
  reverseList = xs: genList (i: elemAt xs (length xs - 1 - i)) (length xs);
  imap0 = f: xs: genList (i: f i (elemAt xs i)) (length xs);
  imap1 = f: imap0 (i: f (i + 1));
  forEach = xs: f: map f xs;
  inherit (builtins) map;
  range = first: final: if first > final then [ ] else genList (i: first + i) (final - first + 1);
  replicate = n: x: genList (_: x) n;
  foldl = foldl';
  foldr =
    f: nul: xs:
    foldl' (acc: x: f x acc) nul (reverseList xs);
  fold = foldr;
  flatten = x: if isList x then builtins.concatMap flatten x else [ x ];
  unique = foldl' (acc: x: if builtins.elem x acc then acc else acc ++ [ x ]) [ ];
  allUnique = xs: length (unique xs) == length xs;
  remove = x: filter (y: y != x);
  count = predicate: xs: length (filter predicate xs);
  findFirst =
    predicate: default: xs:
    let
      found = filter predicate xs;
    in
    if found == [ ] then default else head found;
  subtractLists = without: filter (x: !(builtins.elem x without));
  intersectLists = with': filter (x: builtins.elem x with');
  zipListsWith =
    f: a: b:
    genList (i: f (elemAt a i) (elemAt b i)) (min (length a) (length b));
  zipLists = zipListsWith (fst: snd: { inherit fst snd; });
  sortOn = f: sort (a: b: f a < f b);
  naturalSort = sort (a: b: a < b);
  cartesianProduct =
    sets:
    foldl' (
      acc: name: builtins.concatMap (set: map (x: set // { ${name} = x; }) sets.${name}) acc
    ) [ { } ] (attrNames sets);
  mutuallyExclusive = a: b: intersectLists a b == [ ];

  # --- attribute sets ----------------------------------------------------------
  nameValuePair = name: value: { inherit name value; };
  optionalAttrs = condition: set: if condition then set else { };
  genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);
  genAttrs' = xs: f: listToAttrs (map f xs);
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  mapAttrs' = f: set: listToAttrs (mapAttrsToList f set);
  attrsToList = mapAttrsToList nameValuePair;
  filterAttrs =
    predicate: set: removeAttrs set (filter (name: !(predicate name set.${name})) (attrNames set));
  concatMapAttrs = f: set: foldl' (acc: name: acc // f name set.${name}) { } (attrNames set);
  foldlAttrs =
    f: nul: set:
    foldl' (acc: name: f acc name set.${name}) nul (attrNames set);
  foldAttrs =
    f: nul: sets:
    builtins.zipAttrsWith (_: foldr f nul) sets;
  mergeAttrsList = foldl' (a: b: a // b) { };
  zipAttrs = builtins.zipAttrsWith (_: xs: xs);
  attrVals = names: set: map (name: set.${name}) names;
  getAttrs = names: set: genAttrs names (name: set.${name});
  attrByPath =
    path: default: set:
    if path == [ ] then
      set
    else if isAttrs set && set ? ${head path} then
      attrByPath (tail path) default set.${head path}
    else
      default;
  hasAttrByPath =
    path: set: path == [ ] || isAttrs set && set ? ${head path} && hasAttrByPath (tail path) set.${head path};
  getAttrFromPath =
    path: set:
    attrByPath path (throw "cannot find attribute `${concatStringsSep "." path}'") set;
  setAttrByPath =
    path: value: if path == [ ] then value else { ${head path} = setAttrByPath (tail path) value; };
  recursiveUpdateUntil =
    predicate: a: b:
    let
      go =
        path: left: right:
        left
        // builtins.mapAttrs (
          name: value:
          if left ? ${name} && !(predicate (path ++ [ name ]) left.${name} value) then
            go (path ++ [ name ]) left.${name} value
          else
            value
        ) right;
    in
    go [ ] a b;
  recursiveUpdate = recursiveUpdateUntil (
    _: a: b:
    !(isAttrs a && isAttrs b)
  );
  mapAttrsRecursiveCond =
    condition: f:
    let
      go =
        path:
        builtins.mapAttrs (
          name: value:
          if isAttrs value && condition value then go (path ++ [ name ]) value else f (path ++ [ name ]) value
        );
    in
    go [ ];
  mapAttrsRecursive = mapAttrsRecursiveCond (_: true);
  collect =
    predicate: x:
    if predicate x then
      [ x ]
    else if isAttrs x then
      builtins.concatMap (collect predicate) (builtins.attrValues x)
    else
      [ ];
  isDerivation = x: isAttrs x && x.type or null == "derivation";
  recurseIntoAttrs = set: set // { recurseForDerivations = true; };
  dontRecurseIntoAttrs = set: set;
  updateManyAttrsByPath =
    updates: set:
    foldl' (
      acc: u: recursiveUpdate acc (setAttrByPath u.path (u.update (attrByPath u.path null acc)))
    ) set updates;

  # --- text --------------------------------------------------------------------
  isStringLike = x: isString x || builtins.isPath x || x ? outPath || x ? __toString;
  isConvertibleWithToString =
    x:
    isStringLike x
    || builtins.elem (builtins.typeOf x) [
      "null"
      "int"
      "float"
      "bool"
    ]
    || isList x && builtins.all isConvertibleWithToString x;
  concatStrings = concatStringsSep "";
  concatMapStrings = f: xs: concatStrings (map f xs);
  concatMapStringsSep =
    separator: f: xs:
    concatStringsSep separator (map f xs);
  concatImapStrings = f: xs: concatStrings (imap1 f xs);
  concatImapStringsSep =
    separator: f: xs:
    concatStringsSep separator (imap1 f xs);
  concatMapAttrsStringSep =
    separator: f: set:
    concatStringsSep separator (mapAttrsToList f set);
  concatLines = concatMapStrings (line: line + "\n");
  intersperse =
    separator: xs:
    if length xs < 2 then
      xs
    else
      [ (head xs) ]
      ++ builtins.concatMap (x: [
        separator
        x
      ]) (tail xs);
  optionalString = condition: text: if condition then text else "";
  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  hasSuffix =
    suffix: text:
    let
      rest = stringLength text - stringLength suffix;
    in
    rest >= 0 && substring rest (stringLength text) text == suffix;
  hasInfix = infix: text: length (split (escapeRegex infix) (toString text)) > 1;
  removePrefix =
    prefix: text:
    if hasPrefix prefix text then substring (stringLength prefix) (stringLength text) text else text;
  removeSuffix =
    suffix: text:
    if hasSuffix suffix text then substring 0 (stringLength text - stringLength suffix) text else text;
  stringToCharacters = text: genList (i: substring i 1 text) (stringLength text);
  stringAsChars = f: text: concatMapStrings f (stringToCharacters text);
  escape = characters: replaceStrings characters (map (c: "\\${c}") characters);
  escapeRegex = escape (stringToCharacters "\\[{()^$?*+|.");
  escapeShellArg =
    x:
    let
      text = toString x;
    in
    if match "[[:alnum:],._+:@%/-]+" text != null then
      text
    else
      "'${replaceStrings [ "'" ] [ "'\\''" ] text}'";
  escapeShellArgs = concatMapStringsSep " " escapeShellArg;
  escapeNixString = text: escape [ "$" ] (toJSON text);
  escapeXML =
    replaceStrings
      [
        "&"
        "<"
        ">"
        "\""
        "'"
      ]
      [
        "&amp;"
        "&lt;"
        "&gt;"
        "&quot;"
        "&apos;"
      ];
  # systemd.unit(5), "String escaping for inclusion in unit names".
  escapeSystemdPath =
    path:
    let
      trimmed = removePrefix "/" (removeSuffix "/" path);
      one =
        c:
        if c == "/" then
          "-"
        else if match "[[:alnum:]:_.]" c != null then
          c
        else if c == "-" then
          "\\x2d"
        else
          throw "escapeSystemdPath: the stand-in does not know `${c}'";
    in
    if trimmed == "" then "-" else stringAsChars one trimmed;
  # systemd.service(5), "Command lines": % and $ are doubled, the rest is as in C.
  escapeSystemdExecArg =
    x:
    replaceStrings
      [
        "%"
        "$"
      ]
      [
        "%%"
        "$$"
      ]
      (toJSON (toString x));
  escapeSystemdExecArgs = concatMapStringsSep " " escapeSystemdExecArg;
  splitString = separator: text: filter isString (split (escapeRegex separator) (toString text));
  replaceString = from: to: replaceStrings [ from ] [ to ];
  lowerChars = stringToCharacters "abcdefghijklmnopqrstuvwxyz";
  upperChars = stringToCharacters "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  toLower = replaceStrings upperChars lowerChars;
  toUpper = replaceStrings lowerChars upperChars;
  toSentenceCase =
    text: toUpper (substring 0 1 text) + toLower (substring 1 (stringLength text) text);
  trim =
    text:
    let
      found = match "[[:space:]]*(.*[^[:space:]])[[:space:]]*" text;
    in
    if found == null then "" else head found;
  trimWith = _: trim;
  fixedWidthString =
    width: filler: text:
    if stringLength text >= width then text else fixedWidthString width filler (filler + text);
  fixedWidthNumber = width: n: fixedWidthString width "0" (toString n);
  toInt =
    text:
    let
      found = match "[[:space:]]*(-?)0*([[:digit:]]+)[[:space:]]*" text;
    in
    if found == null then
      throw "Could not convert ${escapeNixString text} to int."
    else
      builtins.fromJSON (head found + elemAt found 1);
  toIntBase10 = toInt;
  toHexString =
    n: if n < 16 then substring n 1 "0123456789ABCDEF" else toHexString (n / 16) + toHexString (mod n 16);
  fileContents = path: removeSuffix "\n" (builtins.readFile path);
  makeSearchPath =
    sub: packages: concatMapStringsSep ":" (p: "${p}/${sub}") (filter (p: p != null) packages);
  makeSearchPathOutput =
    output: sub: packages:
    makeSearchPath sub (map (getOutput output) packages);
  makeBinPath = makeSearchPathOutput "bin" "bin";
  getOutput = output: package: package.${output} or package.out or package;
  getBin = getOutput "bin";
  getLib = getOutput "lib";
  getDev = getOutput "dev";
  getName = x: if isString x then (builtins.parseDrvName x).name else x.pname or (builtins.parseDrvName x.name).name;
  getVersion = x: if isString x then (builtins.parseDrvName x).version else x.version or (builtins.parseDrvName x.name).version;
  getExe' = package: name: "${getBin package}/bin/${name}";
  getExe = package: getExe' package (package.meta.mainProgram or (getName package));
  toShellVar =
    name: value:
    if isAttrs value && !isStringLike value then
      "declare -A ${name}=(${
        concatStringsSep " " (
          mapAttrsToList (key: x: "[${escapeShellArg key}]=${escapeShellArg x}") value
        )
      })"
    else if isList value then
      "declare -a ${name}=(${escapeShellArgs value})"
    else
      "${name}=${escapeShellArg value}";
  toShellVars = set: concatStringsSep "\n" (mapAttrsToList toShellVar set);
  isStorePath =
    x:
    isStringLike x
    && match "${escapeRegex builtins.storeDir}/[0-9a-z]{32}-[^/]+" (toString x) != null;
  isValidPosixName = name: match "[a-zA-Z_][a-zA-Z0-9_]*" name != null;

  # --- versions, packages --------------------------------------------------------
  versionOlder = a: b: compareVersions b a == 1;
  versionAtLeast = a: b: !(versionOlder a b);
  versions = {
    major = v: elemAt (builtins.splitVersion v) 0;
    majorMinor = v: concatStringsSep "." (take 2 (builtins.splitVersion v));
  };
  makeOverridable = f: arguments: f arguments // { override = more: makeOverridable f (arguments // more); };
  extendDerivation = _: more: drv: drv // more;
  fix =
    f:
    let
      x = f x;
    in
    x;
  composeExtensions =
    f: g: final: prev:
    let
      first = f final prev;
    in
    first // g final (prev // first);
  maintainers = { };
  licenses = { };
  platforms = {
    linux = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
  filesystem.listFilesRecursive =
    directory:
    builtins.concatLists (
      mapAttrsToList (
        name: kind:
        if kind == "directory" then
          filesystem.listFilesRecursive (directory + "/${name}")
        else
          [ (directory + "/${name}") ]
      ) (builtins.readDir directory)
    );
}
