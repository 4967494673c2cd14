# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Switching between systems of a NixOS-like host, without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from microvm_testbed import switch

SERVICE = "[Unit]\nDescription=A\n[Service]\nExecStart=/bin/a\n"


def units(place: Path, texts: dict[str, str]) -> Path:
    """A directory of units."""
    for name, text in texts.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    place.mkdir(exist_ok=True)
    return place


def test_a_unit_is_read_with_its_drop_ins(tmp_path: Path) -> None:
    texts = {
        "a@.service": "[Service]\nExecStart=/bin/a \\\n  b\n# no\nEnvironment=A=1\n",
        "a@.service.d/1.conf": "[Service]\nEnvironment=B=2\n",
        "a@one.service.d/2.conf": "[Service]\nExecStart=\nExecStart=/bin/c\n",
    }
    found = switch.read(units(tmp_path, texts), "a@one.service")
    assert found == {"Service": {"ExecStart": ["/bin/c"], "Environment": ["A=1", "B=2"]}}


def test_a_masked_unit_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.service").symlink_to("/dev/null")
    assert switch.read(tmp_path, "a.service") is None
    assert switch.read(tmp_path, "b.service") is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (SERVICE, SERVICE, "same"),
        (SERVICE, SERVICE.replace("=A", "=B"), "same"),
        (SERVICE, SERVICE + "[Install]\nWantedBy=x.target\n", "same"),
        (SERVICE, SERVICE.replace("bin/a", "bin/b"), "changed"),
        (SERVICE, SERVICE.replace("[Unit]", "[Unit]\nX-Restart-Triggers=a"), "changed"),
        (SERVICE, SERVICE.replace("[Unit]", "[Unit]\nX-Reload-Triggers=a"), "reload"),
    ],
)
def test_what_differs(old: str, new: str, expected: str) -> None:
    read: list[switch.Unit] = [{}, {}]
    for text, unit in zip((old, new), read, strict=True):
        switch.parse(text, unit)
    assert switch.compare(*read) == expected


@pytest.mark.parametrize(
    ("setting", "steps"),
    [
        ("", switch.Plan(stop=["a.service"], start=["a.service"])),
        ("X-RestartIfChanged=false\n", switch.Plan(skip=["a.service"])),
        ("X-StopIfChanged=false\n", switch.Plan(restart=["a.service"])),
        ("X-ReloadIfChanged=true\n", switch.Plan(reload=["a.service"])),
        ("[Unit]\nRefuseManualStop=yes\n", switch.Plan(skip=["a.service"])),
    ],
)
def test_a_changed_service(setting: str, steps: switch.Plan, tmp_path: Path) -> None:
    old = units(tmp_path / "old", {"a.service": SERVICE + setting})
    new = units(tmp_path / "new", {"a.service": SERVICE.replace("bin/a", "bin/b") + setting})
    assert switch.plan({"a.service": "active"}, old, new) == steps
    assert switch.plan({"a.service": "inactive"}, old, new) == switch.Plan()


def test_services_behind_sockets_are_started_by_them(tmp_path: Path) -> None:
    old = units(tmp_path / "old", {"a.service": SERVICE})
    new = units(tmp_path / "new", {"a.service": SERVICE.replace("bin/a", "bin/b")})
    steps = switch.plan({"a.service": "active", "a.socket": "active"}, old, new)
    assert (steps.stop, steps.start) == (["a.service", "a.socket"], ["a.socket"])


def test_units_that_went_are_stopped_and_foreign_ones_left(tmp_path: Path) -> None:
    kept = SERVICE.replace("[Unit]", "[Unit]\nX-StopOnRemoval=false")
    old = units(tmp_path / "old", {"a.service": SERVICE, "b.service": kept})
    steps = switch.plan(dict.fromkeys(("a.service", "b.service", "ssh.service"), "active"), old, tmp_path / "new")
    assert steps == switch.Plan(stop=["a.service"])


def test_targets_are_started_for_what_they_pull_in(tmp_path: Path) -> None:
    texts = {"multi-user.target.wants/a.service": SERVICE, "b.target": "[Unit]\nX-OnlyManualStart=yes\n"}
    new = units(tmp_path / "new", texts)
    names = ("multi-user.target", "b.target", "basic.target")
    assert switch.plan(dict.fromkeys(names, "active"), tmp_path, new) == switch.Plan(start=["multi-user.target"])


def test_instances_go_by_their_template(tmp_path: Path) -> None:
    old = units(tmp_path / "old", {"m@.service": SERVICE + "X-RestartIfChanged=false\n"})
    new = units(tmp_path / "new", {"m@.service": SERVICE + "X-RestartIfChanged=false\nNice=1\n"})
    assert switch.plan({"m@web.service": "active"}, old, new) == switch.Plan(skip=["m@web.service"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host, with two systems in its store."""
    for number in (1, 2):
        etc = tmp_path / f"store/{number}/etc"
        units(etc / "systemd/system", {"a.service": SERVICE})
        units(etc / "systemd/network", {"10-a.network": f"[Match]\nName={number}\n"})
        units(etc, {f"only-{number}": "x", "both": str(number)})
        (tmp_path / f"store/{number}/init").write_text("")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/own").write_text("the host's")
    (tmp_path / "etc/both").write_text("in the way")
    return tmp_path


def test_etc_is_that_of_the_system(root: Path) -> None:
    switch.set_up_etc(root / "store/1", root)
    first = {str(path.relative_to(root / "etc")) for path in (root / "etc").rglob("*")}
    assert first == {"static", "both", "only-1", "own", "systemd", "systemd/network", "systemd/system"}
    assert (root / "etc/systemd/system").readlink() == Path("/etc/static/systemd/system")
    assert (root / "etc/both").readlink() == Path("/etc/static/both")
    assert (root / "etc/static").readlink() == root / "store/1/etc"
    switch.set_up_etc(root / "store/2", root)
    second = {str(path.relative_to(root / "etc")) for path in (root / "etc").rglob("*")}
    assert second == first - {"only-1"} | {"only-2"}
    assert (root / "etc/static").readlink() == root / "store/2/etc"
    assert (root / "etc/own").read_text() == "the host's"


def test_the_boot_default_is_a_generation(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profiles = root / switch.PROFILES
    profiles.mkdir(parents=True)
    (profiles / "system-1-link").symlink_to(root / "store/1")
    switch.install_boot_loader(root / "store/1", root)
    assert switch.boot_default(root) == root / "store/1"
    # One that the profile does not know is not booted: the loader lists generations.
    switch.install_boot_loader(root / "store/2", root)
    assert "is no generation of the profile" in capsys.readouterr().err
    assert switch.boot_default(root) == root / "store/1"
    (profiles / "system-2-link").symlink_to(root / "store/2")
    switch.install_boot_loader(root / "store/2", root)
    assert switch.boot_default(root) == root / "store/2"
    (profiles / "system-2-link").unlink()
    switch.install_boot_loader(root / "store/1", root)
    assert switch.boot_default(root) == root / "store/1"
    assert [path.name for path in (root / switch.LOADER / "entries").iterdir()] == ["nixos-generation-1.conf"]


def test_a_link_is_made_where_a_directory_was(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    switch.link(tmp_path / "a", "/target")
    switch.link(tmp_path / "a", "/target")
    assert (tmp_path / "a").readlink() == Path("/target")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "arguments", [[], ["/x/bin/switch-to-configuration"], ["/x/bin/switch-to-configuration", "no"]]
)
def test_other_arguments_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert switch.main(arguments) == 1
    assert "usage: switch-to-configuration [switch|boot|test|dry-activate]" in capsys.readouterr().err
