# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Flakes resolved, evaluated and built, by what Nix 2.8 and 2.26 printed."""

from __future__ import annotations

import json
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _nix
from ansible_collections.microvm.fleet.plugins.module_utils._contract import Interface, Volume
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError
from ansible_collections.microvm.fleet.plugins.module_utils._nix import Evaluated, Flake
from ansible_collections.microvm.fleet.tests.unit.support.recorded import NIX, Answers, Replay, Scripted, calls

every_version = pytest.mark.parametrize("version", NIX)
READ_HINT = " See that it exists, has a flake.nix, and that root on the host may fetch it."
GONE = "/nix/store/0c4mzlvsb9lvkmnmzn8sbpxzfdmlkxqp-microvm-qemu-gone"


def metadata(version: str, scene: str) -> dict[str, t.Any]:
    answer: dict[str, t.Any] = json.loads(calls("nix", version, scene)[0]["stdout"])
    return answer


def resolved(version: str, scene: str) -> tuple[Flake, Replay]:
    host = Replay("nix", version, scene)
    flake = _nix.resolve(host, host.recorded[0]["argv"][-1], timeout=60)
    return flake, host


# Resolving


@every_version
def test_a_path(version: str) -> None:
    flake, host = resolved(version, "metadata_path")
    locked = metadata(version, "metadata_path")["locked"]
    assert host.ended
    assert flake.reference == "/srv/record/guests"
    assert flake.identity == locked["narHash"]
    # The time stamp is part of what Nix calls it, and not of what it is.
    assert flake.url == metadata(version, "metadata_path")["url"]
    assert flake.url.startswith("path:/srv/record/guests?lastModified=")
    assert "narHash=" in flake.url


@every_version
def test_a_git_tree_without_changes(version: str) -> None:
    flake, _host = resolved(version, "metadata_git_clean")
    revision = metadata(version, "metadata_git_clean")["locked"]["rev"]
    assert flake.identity == revision
    assert flake.url.startswith("git+file:///srv/record/clean?ref=")
    assert flake.url.endswith(f"&rev={revision}")


@every_version
def test_a_git_tree_with_changes_is_read_from_the_store(version: str) -> None:
    flake, _host = resolved(version, "metadata_git_dirty")
    said = metadata(version, "metadata_git_dirty")
    assert "rev" not in said["locked"]
    assert flake.identity == said["locked"]["narHash"]
    assert flake.url.startswith(f"path:{said['path']}?narHash=sha256-")
    assert flake.url.endswith("%3D")


@every_version
def test_a_directory_of_a_git_tree(version: str) -> None:
    flake, _host = resolved(version, "metadata_git_dir")
    revision = metadata(version, "metadata_git_dir")["locked"]["rev"]
    assert flake.identity == f"{revision}&dir=sub"
    assert "dir=sub" in flake.url
    assert flake.url.endswith(f"rev={revision}")


def test_a_directory_of_a_path() -> None:
    flake, _host = resolved("2.26.3", "metadata_path_dir")
    assert flake.identity == metadata("2.26.3", "metadata_path_dir")["locked"]["narHash"] + "&dir=sub"
    assert flake.url.startswith("path:/srv/record/mono?dir=sub&")


@every_version
@pytest.mark.parametrize(
    ("scene", "said"),
    [
        (
            "metadata_missing",
            (
                "/srv/record/none cannot be read as a flake: getting status of '/srv/record/none': "
                "No such file or directory."
            ),
        ),
        ("metadata_no_flake", "/srv/record/empty cannot be read as a flake: could not find a flake.nix file."),
    ],
)
def test_what_is_no_flake(version: str, scene: str, said: str) -> None:
    host = Replay("nix", version, scene)
    with pytest.raises(CommandError) as caught:
        _nix.resolve(host, host.recorded[0]["argv"][-1], timeout=60, subject="guest web1")
    assert caught.value.text() == f"guest web1, flake: {said}{READ_HINT}"
    assert caught.value.rc == 1


def test_an_old_nix_has_no_directories_of_paths() -> None:
    host = Replay("nix", "2.8.0", "metadata_path_dir")
    with pytest.raises(CommandError) as caught:
        _nix.resolve(host, "path:/srv/record/mono?dir=sub", timeout=60)
    assert caught.value.text() == (
        "flake: path:/srv/record/mono?dir=sub cannot be read as a flake: "
        f"path URL 'path:/srv/record/mono?dir=sub' has unsupported parameter 'dir'.{READ_HINT}"
    )


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("2.8.0", "program 'git' failed with exit code 128"),
        ("2.26.3", "resolving Git reference 'master': revspec 'master' not found"),
    ],
)
def test_what_git_says_is_passed_on(version: str, said: str) -> None:
    host = Replay("nix", version, "metadata_no_host")
    with pytest.raises(CommandError) as caught:
        _nix.resolve(host, "git+https://git.invalid/guests", timeout=60)
    assert caught.value.text() == (
        f"flake: git+https://git.invalid/guests cannot be read as a flake: {said} "
        f"(git: unable to access 'https://git.invalid/guests/': Could not resolve host: git.invalid).{READ_HINT}"
    )


def test_a_flake_that_takes_too_long() -> None:
    late = CommandError("nix flake metadata did not end within 60 s.")
    with pytest.raises(CommandError) as caught:
        _nix.resolve(Scripted(nix=late), "github:a/b", timeout=60)
    assert caught.value.text() == (
        f"flake: github:a/b cannot be read as a flake: nix flake metadata did not end within 60 s.{READ_HINT}"
    )
    assert caught.value.rc is None


def test_nothing_is_written_beside_a_flake() -> None:
    for scene in ("metadata_path", "evaluate_good"):
        for call in calls("nix", NIX[0], scene):
            assert "--no-write-lock-file" in call["argv"]


@pytest.mark.parametrize(
    ("locked", "url", "expected"),
    [
        (
            {"rev": "abc", "narHash": "sha256-x="},
            "github:a/b/abc?narHash=sha256-x%3D",
            Flake("ref", "github:a/b/abc?narHash=sha256-x%3D", "abc"),
        ),
        (
            {"narHash": "sha256-x="},
            "https://x?narHash=sha256-x%3D",
            Flake("ref", "https://x?narHash=sha256-x%3D", "sha256-x="),
        ),
        (
            {"narHash": "sha256-a+b/c=", "dir": "my dir"},
            "git+file:///srv",
            Flake(
                "ref",
                "path:/nix/store/s?narHash=sha256-a%2Bb%2Fc%3D&dir=my%20dir",
                "sha256-a+b/c=&dir=my%20dir",
            ),
        ),
    ],
)
def test_flake_of_metadata(locked: dict[str, str], url: str, expected: Flake) -> None:
    assert _nix.flake_of_metadata("ref", {"locked": locked, "url": url, "path": "/nix/store/s"}) == expected


# Evaluating


def evaluated(version: str, scene: str, names: t.Sequence[str]) -> tuple[dict[str, Evaluated | CommandError], Replay]:
    flake, host = resolved(version, scene)
    answers = _nix.evaluate(host, flake, names, timeout=300, keep=True)
    assert host.ended
    return answers, host


def texts(answers: t.Mapping[str, Evaluated | CommandError]) -> dict[str, str]:
    return {name: answer.text() for name, answer in answers.items() if isinstance(answer, CommandError)}


GOOD = ("web1", "web.example.org", "store", "bare", "many", "old", "breaks", "loops")


@every_version
def test_all_guests_of_a_flake_are_one_evaluation(version: str) -> None:
    answers, host = evaluated(version, "evaluate_good", GOOD)
    assert host.count("eval") == 1
    assert sorted(answers) == sorted(GOOD)
    assert texts(answers) == {}
    for answer in answers.values():
        assert isinstance(answer, Evaluated)
        assert answer.derivation.endswith(".drv")
        assert answer.runner.path.partition("-")[2] == answer.derivation.partition("-")[2][: -len(".drv")]


@every_version
def test_facts_of_guests(version: str) -> None:
    answers, _host = evaluated(version, "evaluate_good", GOOD)
    many, dotted, bare = (answers[name] for name in ("many", "web.example.org", "bare"))
    assert isinstance(many, Evaluated)
    assert many.runner.interfaces == (
        Interface("vm-many", "tap", "02:11:37:b1:5c:77"),
        Interface("vm-many-mac", "macvtap", "02:34:63:d0:f8:74", "eth0", "bridge"),
        Interface("vm-many-br", "bridge", "02:13:20:7f:00:42"),
    )
    assert many.runner.volumes == (
        Volume("var.img", 256, "/var", "ext4"),
        Volume("/srv/disks/many.img", None, "/data", "ext4", auto_create=False),
        Volume("it has a space.img", 8, None, "ext4"),
    )
    assert isinstance(dotted, Evaluated)
    assert (dotted.runner.host_name, dotted.runner.hypervisor, dotted.runner.vsock_cid) == (
        "www",
        "cloud-hypervisor",
        7,
    )
    assert isinstance(bare, Evaluated)
    assert (bare.runner.interfaces, bare.runner.volumes, bare.runner.can_shutdown) == ((), (), False)


@every_version
def test_a_guest_that_does_not_evaluate_is_found_by_halving(version: str) -> None:
    names = ["web1", "throws", "store", "many", "old", "bare", "loops", "breaks"]
    answers, host = evaluated(version, "evaluate_one_bad", names)
    assert texts(answers) == {
        "throws": "guest throws, flake: nixosConfigurations.throws of /srv/record/guests does not evaluate: "
        "guest throws 1: it does not evaluate, as wished"
    }
    assert sorted(answers) == sorted(names)
    # All, none, and two of four, two and one.
    assert host.count("eval") == 2 + 2 * 3


@every_version
def test_a_flake_that_fails_as_a_whole_is_not_halved(version: str) -> None:
    answers, host = evaluated(version, "evaluate_whole_bad", ["web1", "store", "many"])
    assert host.count("eval") == 2
    why = (
        "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while parsing object key - "
        "unexpected end of input; expected string literal"
    )
    assert texts(answers) == {
        name: f"guest {name}, flake: nixosConfigurations.{name} of /srv/record/syntax does not evaluate: {why}"
        for name in ("web1", "store", "many")
    }


@every_version
def test_a_guest_that_the_flake_does_not_have(version: str) -> None:
    answers, host = evaluated(version, "evaluate_missing", ["web1", "nobody"])
    assert host.count("eval") == 1
    assert texts(answers) == {
        "nobody": "guest nobody, flake: /srv/record/guests has no nixosConfigurations.nobody; it has bare, breaks, "
        "loops, many, old, store, throws, web.example.org, web1. Add the guest to the flake, or correct the name."
    }


@every_version
def test_a_configuration_that_is_no_microvm(version: str) -> None:
    answers, _host = evaluated(version, "evaluate_foreign", ["foreign", "plain"])
    assert texts(answers) == {
        "foreign": "guest foreign, flake: nixosConfigurations.foreign of /srv/record/odd is no MicroVM: it has no "
        "option microvm. Import microvm.nixosModules.microvm in that configuration."
    }
    plain = answers["plain"]
    assert isinstance(plain, Evaluated)
    assert (plain.runner.host_name, plain.runner.can_shutdown, plain.runner.vsock_cid) == (None, None, None)


class Evaluator(Answers):
    """A flake with many guests, of which some fail."""

    def __init__(self, bad: t.Collection[str], error: CommandError | None = None) -> None:
        super().__init__()
        self.bad = bad
        self.error = error

    def answer(self, argv: tuple[str, ...]) -> tuple[int, str, str]:
        if self.error:
            raise self.error
        names = json.loads(argv[argv.index("names") + 1])
        if set(names) & set(self.bad):
            return 1, "", f"error: {min(set(names) & set(self.bad))} throws\n"
        guests = {name: {"path": f"/nix/store/{name}", "derivation": f"/nix/store/{name}.drv"} for name in names}
        return 0, json.dumps({"guests": guests, "available": []}), ""


FLAKE = Flake("/srv/x", "path:/srv/x?narHash=y", "y")


@pytest.mark.parametrize(
    ("count", "bad", "processes"),
    [
        (1, (), 1),
        (100, (), 1),
        (1000, (), 1),
        (1001, (), 2),
        (1, (0,), 1),
        (2, (1,), 2 + 2),
        (100, (0,), 2 + 2 * 6),
        (100, (99,), 2 + 2 * 7),
        (8, (0, 7), 2 + 2 + 4 + 4),
        (4, (0, 1, 2, 3), 2 + 6),
    ],
)
def test_how_many_processes_it_takes(count: int, bad: tuple[int, ...], processes: int) -> None:
    names = [f"g{number}" for number in range(count)]
    host = Evaluator({names[number] for number in bad})
    answers = _nix.evaluate(host, FLAKE, names, timeout=1, keep=False)
    assert sorted(answers) == sorted(names)
    assert sorted(texts(answers)) == sorted(names[number] for number in bad)
    for name, text in texts(answers).items():
        assert text == f"guest {name}, flake: nixosConfigurations.{name} of /srv/x does not evaluate: {name} throws"
    assert len(host.calls) == processes


def test_an_evaluation_that_does_not_end_is_not_tried_again() -> None:
    host = Evaluator((), CommandError("nix eval did not end within 1 s."))
    answers = _nix.evaluate(host, FLAKE, ["a", "b"], timeout=1, keep=False)
    assert len(host.calls) == 1
    assert texts(answers) == {
        name: f"guest {name}, flake: nixosConfigurations.{name} of /srv/x does not evaluate: "
        "nix eval did not end within 1 s."
        for name in ("a", "b")
    }


def test_no_guests_are_no_process() -> None:
    host = Evaluator(())
    assert _nix.evaluate(host, FLAKE, [], timeout=1, keep=False) == {}
    assert host.calls == []


@pytest.mark.parametrize("keep", [True, False])
def test_check_mode_writes_nothing_to_the_store(keep: bool) -> None:
    host = Evaluator(())
    _nix.evaluate(host, FLAKE, ["a"], timeout=1, keep=keep)
    assert ("--read-only" in host.calls[0]) is not keep


@pytest.mark.parametrize("name", ["a.b", 'a"b', "a${builtins.abort}", "a\\b", "--impure"])
def test_names_and_references_are_data(name: str) -> None:
    host = Evaluator(())
    _nix.evaluate(host, Flake(name, name, "y"), [name], timeout=1, keep=False)
    argv = host.calls[0]
    assert argv[argv.index("--expr") + 1] == _nix.FACTS
    assert argv[argv.index("flake") - 1 : argv.index("flake") + 2] == ("--argstr", "flake", name)
    assert argv[argv.index("names") - 1 : argv.index("names") + 2] == ("--argstr", "names", json.dumps([name]))


@pytest.mark.parametrize(
    ("stderr", "text"),
    [
        ("error: it throws\n", "it throws"),
        (
            "warning: x\nerror:\n       … while evaluating\n\n       error: it throws\n         at a:1\n",
            "it throws\n         at a:1",
        ),
        ("error: first\nerror: second\n", "second"),
        ("no word of it\n", "no word of it"),
        ("", ""),
        ("error: it throws\n(use '--show-trace' to show detailed location information)\n", "it throws"),
        ("error: " + "\n".join(map(str, range(30))), "\n".join(map(str, range(10, 30)))),
        ("fatal: no such host\nerror: git failed\n", "git failed (git: no such host)"),
        ("error: git failed\nfatal: no such host\n", "git failed\nfatal: no such host"),
    ],
)
def test_reason(stderr: str, text: str) -> None:
    assert _nix.reason(CommandError("nix ended with 1", rc=1, stderr=stderr)) == text


def test_the_reason_of_a_process_without_a_status_is_what_was_seen() -> None:
    assert (
        _nix.reason(CommandError("nix did not end within 1 s.", stderr="error: half")) == "nix did not end within 1 s."
    )


# Building


def wanted_of(host: Replay) -> dict[str, str]:
    """What the scene built, by the names of outputs and derivations."""
    sources = [word for word in host.recorded[0]["argv"] if word.startswith("/")]
    if len(host.recorded) == 1:
        return {source: source for source in sources}
    paths = [word for word in host.recorded[1]["argv"] if word.startswith("/")]
    answer = {}
    for path in paths:
        name = path.partition("-")[2]
        answer[path] = next(source for source in sources if source.partition("-")[2] in (name, f"{name}.drv"))
    return answer


def built(version: str, scene: str) -> tuple[dict[str, CommandError], Replay]:
    host = Replay("nix", version, scene)
    errors = _nix.build(host, wanted_of(host), timeout=600)
    assert host.ended
    return {path.partition("-")[2]: error for path, error in errors.items()}, host


@every_version
def test_a_build_is_one_process(version: str) -> None:
    errors, host = built(version, "build_good")
    assert errors == {}
    assert len(host.calls) == 1


@every_version
def test_a_builder_that_fails_ends_with_its_log(version: str) -> None:
    errors, host = built(version, "build_fails")
    (derivation,) = (word for word in host.recorded[0]["argv"] if word.endswith("breaks.drv"))
    lines = [f"guest breaks 1: build log line {number} of 30" for number in range(11, 30)]
    lines.append("guest breaks 1: the build fails, as wished (line 30 of 30)")
    assert {name: error.text() for name, error in errors.items()} == {
        "microvm-qemu-breaks": f"the build of {derivation.rpartition('/')[2]} failed; its log ends with:\n"
        + "\n".join(lines)
    }


@every_version
def test_the_log_is_that_of_the_dependency_at_fault(version: str) -> None:
    errors, host = built(version, "build_needs")
    assert sorted(errors) == ["microvm-qemu-needy", "microvm-qemu-needy2"]
    for error in errors.values():
        first, *rest = error.text().splitlines()
        assert first.startswith("the build of ")
        assert first.endswith("-tool-1.0.drv failed; its log ends with:")
        assert rest == ["building tool-1.0", "the tool is broken"]
    assert host.count("--read-log") == 1


@every_version
def test_what_no_substituter_has(version: str) -> None:
    errors, _host = built(version, "build_fetch")
    assert {name: error.text() for name, error in errors.items()} == {
        "microvm-qemu-gone": "cannot be built or fetched: don't know how to build these paths:\n"
        f"  {GONE}\nerror: build of '{GONE}' failed"
    }


def test_nothing_to_build_is_no_process() -> None:
    host = Scripted()
    assert _nix.build(host, {}, timeout=1) == {}
    assert host.calls == []


def drv(name: str) -> str:
    return f"/nix/store/0c4mzlvsb9lvkmnmzn8sbpxzfdmlkxqp-{name}.drv"


def test_a_build_that_does_not_end_fails_for_what_is_not_there() -> None:
    late = CommandError("nix-store --realise did not end within 1 s.")
    host = Scripted(nix_store_realise=late, nix_store_check_validity="/nix/store/b\n")
    assert _nix.build(host, {"/nix/store/a": drv("a"), "/nix/store/b": drv("b")}, timeout=1) == {"/nix/store/b": late}


def test_a_failure_without_a_log_tells_what_nix_said() -> None:
    said = f"error: builder for '{drv('a')}' failed with exit code 1"
    host = Scripted(
        nix_store_realise=(1, "", said),
        nix_store_check_validity="/nix/store/a\n",
        nix_store_read_log=(1, "", "error: build log is not available"),
    )
    errors = _nix.build(host, {"/nix/store/a": drv("a")}, timeout=1)
    assert errors["/nix/store/a"].text() == f"cannot be built or fetched: {said}"


def test_a_failure_of_nix_itself_is_not_taken_for_success() -> None:
    broken = (1, "", "error: cannot open the database\n")
    host = Scripted(nix_store_realise=broken, nix_store_check_validity=broken)
    errors = _nix.build(host, {"/nix/store/a": drv("a")}, timeout=1)
    assert errors["/nix/store/a"].text() == "cannot be built or fetched: error: cannot open the database"


@pytest.mark.parametrize("count", [1, 50, 51, 120])
def test_very_many_are_built_in_parts(count: int) -> None:
    host = Scripted(nix_store_realise="")
    wanted = {f"/nix/store/{number}": drv(str(number)) for number in range(count)}
    assert _nix.build(host, wanted, timeout=1) == {}
    assert len(host.calls) == -(-count // _nix.BUILDS_AT_ONCE)
    assert sorted(word for argv in host.calls for word in argv if word.endswith(".drv")) == sorted(wanted.values())


@pytest.mark.parametrize(
    ("stderr", "derivations"),
    [
        ("", ()),
        (f"error: builder for '{drv('a')}' failed with exit code 1;\n       last 10 log lines:\n", (drv("a"),)),
        (f"error: builder for '{drv('a')}' failed due to signal 9 (Killed)\n", (drv("a"),)),
        (f"error: 1 dependencies of derivation '{drv('a')}' failed to build\n", ()),
        (f"error: build of '{drv('a')}', '{drv('b')}' failed\n", ()),
        (f"error: Cannot build '{drv('a')}'.\n       Reason: builder failed with exit code 1.\n", (drv("a"),)),
        (f"error: Cannot build '{drv('a')}'.\n       Reason: 1 dependency failed.\n", ()),
        (f"error: builder for '{drv('a')}' failed\nerror: builder for '{drv('a')}' failed\n", (drv("a"),)),
        (
            f"error: builder for '{drv('b')}' failed with exit code 2\nerror: builder for '{drv('a')}' failed\n",
            (drv("b"), drv("a")),
        ),
    ],
)
def test_broken_derivations(stderr: str, derivations: tuple[str, ...]) -> None:
    assert _nix.broken_derivations(stderr) == derivations


def test_read_log_is_cut() -> None:
    host = Scripted(nix_store_read_log="".join(f"{number}\n" for number in range(1, 31)))
    assert _nix.read_log(host, drv("a")).splitlines() == [str(number) for number in range(11, 31)]


@pytest.mark.parametrize(
    ("answer", "paths"),
    [
        ("", ()),
        ("/nix/store/b\n", ("/nix/store/b",)),
        ((1, "", "error: no database"), ("/nix/store/a", "/nix/store/b")),
        ((1, "/nix/store/a\n", "warning"), ("/nix/store/a",)),
    ],
)
def test_invalid(answer: object, paths: tuple[str, ...]) -> None:
    host = Scripted(nix_store_check_validity=answer)
    assert _nix.invalid(host, ["/nix/store/b", "/nix/store/a", "/nix/store/a"]) == paths
    assert host.calls == [("nix-store", "--check-validity", "--print-invalid", "/nix/store/a", "/nix/store/b")]


def test_invalid_of_nothing() -> None:
    assert _nix.invalid(Scripted(), []) == ()
