# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Builder of stand-in systems: a JSON of files in, the directory of the system out.

Nix runs it with the paths of the input in ``inputPath`` and of the result in ``out``.  The input has

    files     [{target, and text, source or link; mode}]: below etc/; a text with orDropIn whose target is there
              already, from a package, becomes TARGET.d/overrides.conf
    links     {NAME: TARGET}, texts {NAME: TEXT}, scripts {NAME: FILE}: in the directory itself
    software  [DIRECTORY]: the programs of their bin/ are linked into sw/bin
"""

import json
import os
import shutil


def place(path: str) -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path):
        raise SystemExit(f"two files for {path}")
    return path


def write(path: str, text: str, mode: int = 0o444) -> None:
    with open(place(path), "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(path, mode)


def main() -> None:
    out = os.environ["out"]
    with open(os.environ["inputPath"], encoding="utf-8") as stream:
        given = json.load(stream)
    etc = os.path.join(out, "etc")
    os.makedirs(etc)
    # What has a text may go beside what has none.
    for entry in sorted(given["files"], key=lambda entry: "text" in entry):
        path = os.path.join(etc, entry["target"])
        if "link" in entry:
            if not (os.path.islink(path) and os.readlink(path) == entry["link"]):
                os.symlink(entry["link"], place(path))
        elif "source" in entry:
            os.symlink(entry["source"], place(path))
        elif entry.get("orDropIn") and os.path.lexists(path):
            write(path + ".d/overrides.conf", entry["text"])
        else:
            mode = entry.get("mode", "symlink")
            write(path, entry["text"], 0o444 if mode == "symlink" else int(mode, 8) & ~0o222)
    for name, target in given["links"].items():
        os.symlink(target, place(os.path.join(out, name)))
    for name, text in given["texts"].items():
        write(os.path.join(out, name), text)
    for name, source in given["scripts"].items():
        shutil.copyfile(source, place(os.path.join(out, name)))
        os.chmod(os.path.join(out, name), 0o555)
    programs = os.path.join(out, "sw", "bin")
    os.makedirs(programs)
    for directory in given["software"]:
        source = os.path.join(directory, "bin")
        for name in sorted(os.listdir(source)) if os.path.isdir(source) else []:
            if not os.path.lexists(os.path.join(programs, name)):
                os.symlink(os.path.join(source, name), os.path.join(programs, name))


main()
