# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools beside the stand-in flake, and that its README says what its sources do."""

from __future__ import annotations

import inspect
import ipaddress
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from flake import check, make_guests, volume_state
from flake.volume_state import Event, State, VolumeError

FLAKE = Path(make_guests.__file__).resolve().parent


def test_guests_are_numbered_and_ask_by_dhcp() -> None:
    assert make_guests.describe(2) == {"defaults": {}, "guests": {"g000": {}, "g001": {}}}


def test_names_of_many_guests_sort_as_their_numbers() -> None:
    names = list(make_guests.describe(1001, prefix="n-", first=5)["guests"])
    assert names[0] == "n-0005"
    assert names[-1] == "n-1005"
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("network", "address", "gateway"),
    [
        ("10.1.0.0/16", "10.1.1.14/16", "10.1.0.1"),
        ("fd00:1::/64", "fd00:1::10e/64", "fd00:1::1"),
    ],
)
def test_addresses_are_counted_in_the_network(network: str, address: str, gateway: str) -> None:
    described = make_guests.describe(300, network=ipaddress.ip_network(network), offset=16)
    assert described["guests"]["g254"] == {"address": address, "gateway": gateway}
    addresses = {fields["address"] for fields in described["guests"].values()}
    assert len(addresses) == 300


@pytest.mark.parametrize(("offset", "fits"), [(252, True), (253, False)])
def test_a_network_can_be_too_small(offset: int, fits: bool) -> None:
    network = ipaddress.ip_network("192.0.2.0/24")
    if fits:
        described = make_guests.describe(3, network=network, offset=offset)
        assert described["guests"]["g002"]["address"] == "192.0.2.254/24"
    else:
        with pytest.raises(ValueError, match=r"192\.0\.2\.0/24 has no host 255"):
            make_guests.describe(3, network=network, offset=offset)


def test_fields_of_all_and_of_some(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "2",
        "--defaults",
        '{"version": "2"}',
        "--guest",
        'g001={"fail": "boot"}',
        "--guest",
        'db={"mem": 256}',
    ]
    assert make_guests.main(arguments) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"defaults": {"version": "2"}, "guests": {"g000": {}, "g001": {"fail": "boot"}, "db": {"mem": 256}}}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["2", "--network", "10.0.0.0/30"], "10.0.0.0/30 has no host 16"),
        (["2", "--defaults", "[]"], "no JSON object"),
        (["2", "--guest", "g000"], "no NAME=JSON"),
        (["many"], "invalid int value"),
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = make_guests.main(arguments)
    except SystemExit as error:
        status = int(error.code or 0)
    assert status == 2
    assert says in capsys.readouterr().err


ONE = "9b9bd8a4-3a3f-4b27-9f76-3f4c0b4e5a10"
TWO = "5c3f39b7-0e61-44f7-8f0c-5e8a1f3f2d77"
HISTORY = f"start 1 {ONE} 1\nclean 1 {ONE} 1\nstart 2 {TWO} two words\n"
EVENTS = (Event("start", 1, ONE, "1"), Event("clean", 1, ONE, "1"), Event("start", 2, TWO, "two words"))


@pytest.mark.parametrize(
    ("files", "state"),
    [
        pytest.param({}, State(0, None, None, None, ()), id="never booted"),
        pytest.param(
            {"boots": "2\n", "boot-id": TWO + "\n", "version": "two words\n", "history": HISTORY},
            State(2, TWO, "two words", False, EVENTS),
            id="killed",
        ),
        pytest.param(
            {"boots": "2\n", "boot-id": TWO + "\n", "version": "1\n", "clean-shutdown": ONE + "\n", "history": HISTORY},
            State(2, TWO, "1", False, EVENTS),
            id="the mark is of another boot",
        ),
        pytest.param(
            {"boots": "2\n", "boot-id": TWO + "\n", "version": "1\n", "clean-shutdown": TWO + "\n", "history": ""},
            State(2, TWO, "1", True, ()),
            id="clean",
        ),
    ],
)
def test_what_a_volume_says(files: dict[str, str], state: State) -> None:
    assert volume_state.parse(files) == state


def stand_in(directory: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A debugfs for the shell, found first on PATH."""
    path = directory / "debugfs"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")


def test_a_volume_is_read_by_debugfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(
        tmp_path,
        monkeypatch,
        f"""
echo "debugfs 1.47.2 (1-Jan-2025)" >&2
case $* in
  "-R cat /boots data.img" | "-R cat /version data.img") echo 1 ;;
  "-R cat /boot-id data.img") echo {ONE} ;;
  "-R cat /history data.img") echo start 1 {ONE} 1 ;;
  "-R cat /clean-shutdown data.img") echo "/clean-shutdown: File not found by ext2_lookup " >&2 ;;
  *) echo "not asked for: $*" >&2 ;;
esac""",
    )
    assert volume_state.main(["data.img"]) == 0
    said = json.loads(capsys.readouterr().out)
    event = {"event": "start", "boots": 1, "boot_id": ONE, "version": "1"}
    assert said == {"boots": 1, "boot_id": ONE, "version": "1", "clean": False, "history": [event]}


def test_what_is_no_volume_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(tmp_path, monkeypatch, "echo 'debugfs 1.47.2' >&2; echo 'x.img: No such file or directory' >&2")
    assert volume_state.main(["x.img"]) == 1
    assert "x.img: x.img: No such file or directory" in capsys.readouterr().err


def test_debugfs_that_does_not_run_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "debugfs").write_text("no program")
    (tmp_path / "debugfs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VolumeError, match=r"x\.img: debugfs: "):
        volume_state.read("x.img")


def test_the_sample_describes_guests_with_known_fields() -> None:
    sample = json.loads((FLAKE / "guests.json").read_text())
    assert set(sample) == {"defaults", "guests"}
    assert set(sample["guests"]) == {"a", "b"}


def _list(source: str, start: str) -> set[str]:
    """The strings of the Nix list that begins after *start*."""
    inside = source.split(start, 1)[1].split("]", 1)[0]
    return set(re.findall(r'"([^"]+)"', inside))


def test_the_readme_has_every_field_and_no_other() -> None:
    known = _list((FLAKE / "fields.nix").read_text(), 'known "its description" [')
    readme = (FLAKE / "README.md").read_text()
    table = readme.split("| field |", 1)[1].split("\n\n", 1)[0]
    described = set()
    for row in table.splitlines()[2:]:
        cell = row.split("|")[1]
        if not cell.strip().startswith("..."):
            described |= {name.strip() for name in cell.split(",")}
    assert described == known


def test_the_readme_has_every_way_to_fail() -> None:
    known = _list((FLAKE / "fields.nix").read_text(), 'fail = oneOf "fail" [')
    readme = (FLAKE / "README.md").read_text()
    table = readme.split("| fail | |", 1)[1].split("\n\n", 1)[0]
    described = {name.strip() for row in table.splitlines()[2:] for name in row.split("|")[1].split(",")}
    assert described == known


def test_the_check_has_every_script_and_every_way_to_fail() -> None:
    source = (FLAKE / "scripts.nix").read_text().rsplit("\nin\n", 1)[1]
    scripts = set(re.findall(r"\b(?:microvm|tap|macvtap|pci|virtiofsd)-[a-z]+\b", source))
    assert set().union(*(contract.scripts for contract in check.CONTRACTS.values())) == scripts
    known = _list((FLAKE / "fields.nix").read_text(), 'fail = oneOf "fail" [')
    booted = {boot[0]["fail"] for boot in check.BOOTS.values() if "fail" in boot[0]}
    # What fails only later is brought to a guest that runs.
    booted.update(re.findall(r'fields\["fail"\] = "([a-z-]+)"', inspect.getsource(check)))
    assert booted == known - {"build", "eval", "eval-abort"}


def test_what_is_missed_says_what_was_seen() -> None:
    with pytest.raises(check.Missed, match=r"^its answer: 1 instead of 2$"):
        check.demand("its answer", 1, 2)
    with pytest.raises(check.Missed, match=r"^not within 0 s: it comes$"):
        check.until("it comes", lambda: None, deadline=0)
    with pytest.raises(check.Missed, match=r"^false: 1: $"):
        check.run("false")


def test_the_flake_takes_no_input() -> None:
    assert not re.search(r"^\s*inputs\b", (FLAKE / "flake.nix").read_text(), re.MULTILINE)
    assert not (FLAKE / "flake.lock").exists()


def test_what_nix_reads_is_there() -> None:
    for source in FLAKE.glob("*.nix"):
        for name in re.findall(r"(?<![\w.$])\./([\w./-]+)", source.read_text()):
            assert (FLAKE / name).is_file(), f"{source.name}: {name}"


def test_the_programs_start() -> None:
    for name in ("make_guests.py", "volume_state.py", "check.py"):
        done = subprocess.run(
            [sys.executable, FLAKE / name, "--help"], capture_output=True, text=True, check=True, timeout=60
        )
        assert "usage:" in done.stdout
