# Small helpers on lists and text; there is no nixpkgs to take them from.
rec {
  optional = condition: x: if condition then [ x ] else [ ];
  optionals = condition: xs: if condition then xs else [ ];
  optionalString = condition: s: if condition then s else "";
  optionalAttrs = condition: set: if condition then set else { };
  asList = x: if builtins.isList x then x else [ x ];

  # The elements with their index.
  imap = f: xs: builtins.genList (n: f n (builtins.elemAt xs n)) (builtins.length xs);

  words = builtins.concatStringsSep " ";
  commas = builtins.concatStringsSep ",";
  lines = xs: builtins.concatStringsSep "" (map (x: x + "\n") xs);
  # One word of a table: "-" stands for nothing.
  column = xs: if xs == [ ] then "-" else commas xs;

  # A word for a shell.
  quote = s: "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString s)}'";
  quoteAll = xs: words (map quote xs);
}
