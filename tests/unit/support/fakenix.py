# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A store of Nix that packs, signs, verifies and adds closures as the real one does (seen with 2.8 and 2.26)."""

from __future__ import annotations

import hashlib
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths
from ansible_collections.microvm.fleet.tests.unit.support.recorded import Answers

DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"


def nix32(digest: bytes) -> str:
    """A hash as Nix writes it."""
    number = int.from_bytes(digest, "little")
    return "".join(DIGITS[number >> 5 * place & 31] for place in reversed(range(52)))


def store_path(name: str) -> str:
    """A path that follows from *name*."""
    digest = int.from_bytes(hashlib.sha1(name.encode()).digest(), "little")  # noqa: S324
    return "/nix/store/" + "".join(DIGITS[digest >> 5 * place & 31] for place in range(32)) + f"-{name}"


@dataclass
class Object:
    """A path in the store."""

    references: tuple[str, ...]
    content: str
    signed: set[str] = field(default_factory=set)


class FakeNix(Answers):
    """One machine's store.  Keys are ``NAME:SECRET``; the public half is the letter A, 43 times."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.paths = Paths(str(root))
        self.objects: dict[str, Object] = {}
        # Whether the daemon adds a path only halfway and fails then.
        self.breaks = False

    def make(self, name: str, *references: str, content: str = "") -> str:
        """Have a package of this *name* that refers to others."""
        path = store_path(name)
        self.objects[path] = Object(references, content or f"content of {name}\n" * 50)
        return path

    def closure(self, paths: t.Iterable[str]) -> list[str]:
        """All that *paths* need, what is needed first."""
        found: list[str] = []
        for path in paths:
            for each in (*self.closure(self.objects[path].references), path):
                if each not in found:
                    found.append(each)
        return found

    def answer(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        words = [word for word in argv if word not in ("--extra-experimental-features", "nix-command flakes")]
        if argv[0] == "nix-store":
            return self._store(words)
        if words[1] == "path-info":
            paths = [word for word in words if word.startswith("/nix/store/")]
            known = self.closure(paths) if "--recursive" in words else paths
            return 0, "".join(f"{path}\t    {len(self.objects[path].content)}\n" for path in known), ""
        if words[1:3] == ["key", "convert-secret-to-public"]:
            return self._public()
        if words[1] == "copy":
            return self._copy(words)
        assert words[1] == "store", argv
        return self._sign(words) if words[2] == "sign" else self._verify(words)

    def run(self, argv: t.Sequence[str], **options: t.Any) -> t.Any:
        self.stdin = options.get("stdin")
        return super().run(argv, **options)

    def _public(self) -> tuple[int, str, str]:
        name, colon, _secret = (self.stdin or "").partition(":")
        return (0, f"{name}:{'A' * 43}=", "") if colon else (1, "", "error: secret key is corrupt\n")

    def _store(self, words: list[str]) -> tuple[int, str, str]:
        if "--check-validity" in words:
            return 0, "".join(f"{path}\n" for path in words[3:] if path not in self.objects), ""
        assert words[1] == "--generate-binary-cache-key", words
        Path(words[3]).write_text(f"{words[2]}:secret", encoding="utf-8")
        Path(words[4]).write_text("public", encoding="utf-8")
        return 0, "", ""

    @staticmethod
    def _cache(words: list[str], option: str) -> Path:
        return Path(words[words.index(option) + 1].partition("file://")[2].partition("?")[0])

    def _copy(self, words: list[str]) -> tuple[int, str, str]:
        paths = [word for word in words if word.startswith("/nix/store/")]
        return self._pack(self._cache(words, "--to"), paths) if "--to" in words else self._unpack(words, paths)

    def _pack(self, cache: Path, paths: list[str]) -> tuple[int, str, str]:
        (cache / "nar").mkdir(parents=True, exist_ok=True)
        (cache / "nix-cache-info").write_text("StoreDir: /nix/store\n", encoding="utf-8")
        for path in self.closure(paths):
            info = cache / f"{path[11:43]}.narinfo"
            if info.exists():
                continue
            one = self.objects[path]
            digest = hashlib.sha256(one.content.encode()).digest()
            file = cache / "nar" / f"{nix32(digest)}.nar.zst"
            if not file.exists():
                file.write_text(one.content, encoding="utf-8")
            info.write_text(
                f"StorePath: {path}\nURL: nar/{nix32(digest)}.nar.zst\nCompression: zstd\n"
                f"FileHash: sha256:{nix32(digest)}\nFileSize: {len(one.content)}\n"
                f"NarHash: sha256:{nix32(digest)}\nNarSize: {len(one.content)}\n"
                f"References: {' '.join(each[11:] for each in one.references)}\n",
                encoding="utf-8",
            )
        return 0, "", ""

    @staticmethod
    def _read(cache: Path, path: str) -> dict[str, str]:
        text = (cache / f"{path[11:43]}.narinfo").read_text(encoding="utf-8")
        return dict(line.split(": ", 1) for line in text.splitlines())

    def _reachable(self, cache: Path, paths: list[str]) -> list[str]:
        found: list[str] = []
        for path in paths:
            needed = [f"/nix/store/{name}" for name in self._read(cache, path)["References"].split()]
            found += [each for each in (*self._reachable(cache, needed), path) if each not in found]
        return found

    def _sign(self, words: list[str]) -> tuple[int, str, str]:
        cache = self._cache(words, "--store")
        key = Path(words[words.index("--key-file") + 1]).read_text(encoding="utf-8").partition(":")[0]
        paths = [word for word in words if word.startswith("/nix/store/")]
        for path in self._reachable(cache, paths):
            info = cache / f"{path[11:43]}.narinfo"
            if f"Sig: {key}:" not in info.read_text(encoding="utf-8"):
                with info.open("a", encoding="utf-8") as stream:
                    stream.write(f"Sig: {key}:x\n")
        return 0, "", "added signatures\n"

    def _trusted(self, words: list[str], cache: Path, path: str) -> bool:
        keys = {key.partition(":")[0] for key in words[words.index("trusted-public-keys") + 1].split()}
        return self._read(cache, path).get("Sig", "").partition(":")[0] in keys

    def _verify(self, words: list[str]) -> tuple[int, str, str]:
        cache = self._cache(words, "--store")
        assert words[words.index("--sigs-needed") + 1] == "1"
        paths = [word for word in words if word.startswith("/nix/store/")]
        bad = [path for path in paths if not self._trusted(words, cache, path)]
        return (2 if bad else 0), "", "".join(f"path '{path}' is untrusted\n" for path in bad)

    def _unpack(self, words: list[str], paths: list[str]) -> tuple[int, str, str]:
        cache = self._cache(words, "--from")
        for path in self._reachable(cache, paths):
            if path in self.objects:
                continue
            if not self._trusted(words, cache, path):
                return 1, "", f"error: cannot add path '{path}' because it lacks a valid signature\n"
            if self.breaks:
                return 1, "", "error: writing to file: No space left on device\n"
            said = self._read(cache, path)
            references = tuple(f"/nix/store/{name}" for name in said["References"].split())
            self.objects[path] = Object(references, (cache / said["URL"]).read_text(encoding="utf-8"))
        return 0, "", ""
