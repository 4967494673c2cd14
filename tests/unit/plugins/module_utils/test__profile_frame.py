# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every entry of a profile has to be, whoever wrote it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import TIMEOUT_LIMIT
from ansible_collections.microvm.fleet.plugins.module_utils._profile_frame import KINDS, Option, Profile
from ansible_collections.microvm.fleet.plugins.module_utils._profiles import PROFILES, Guest, choose

NIX = Path(__file__).resolve().parents[4] / "roles" / "flake" / "files" / "microvm-fleet" / "nix" / "profiles"
HYPERVISORS = {"alioth", "cloud-hypervisor", "crosvm", "firecracker", "kvmtool", "qemu", "stratovirt"}
OPTIONS = [
    pytest.param(option, id=f"{profile.name}.{name}")
    for profile in PROFILES.values()
    for name, option in profile.options.items()
]
TAKEN = {"bool": bool, "int": int, "str": str, "list": tuple, "dict": dict, "subnet": str, "address": str}

each = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)


def test_the_profiles_are_those_that_the_flake_has() -> None:
    imported = re.findall(r"^  (\w+) = \./(\w+)\.nix;$", (NIX / "default.nix").read_text(), re.MULTILINE)
    assert [name for name, _file in imported] == sorted(PROFILES)
    for name, file in imported:
        assert name == file
        assert (NIX / f"{file}.nix").is_file()


@each
def test_a_profile_says_what_it_is(profile: Profile) -> None:
    assert PROFILES[profile.name] is profile
    assert re.fullmatch(r"[a-z][a-z0-9_]*", profile.name)
    assert profile.description.endswith(".")


@each
def test_sizes_are_sensible(profile: Profile) -> None:
    assert 32 <= profile.least_mem <= profile.mem
    # QEMU guests hang with exactly that much (microvm.nix, lib/runners/qemu.nix).
    assert profile.mem != 2048
    assert profile.vcpu >= 1
    assert 1 <= profile.stop_timeout < TIMEOUT_LIMIT


@each
def test_what_is_added_to_the_time_to_stop_is_in_seconds(profile: Profile) -> None:
    if profile.stop_option is None:
        return
    option = profile.options[profile.stop_option]
    assert (option.kind, isinstance(option.default, int)) == ("int", True)
    assert profile.stop_timeout + option.most < TIMEOUT_LIMIT


@each
def test_hypervisors_exist_and_a_choice_of_them_has_a_reason(profile: Profile) -> None:
    assert set(profile.hypervisors) <= HYPERVISORS
    assert bool(profile.hypervisors) == bool(profile.hypervisors_why)


@each
def test_profiles_exclude_each_other_from_both_sides(profile: Profile) -> None:
    assert profile.name not in profile.excludes
    for other in profile.excludes:
        assert profile.name in PROFILES[other].excludes


@each
def test_volumes_are_on_filesystems_of_their_own(profile: Profile) -> None:
    assert len({volume.image for volume in profile.volumes}) == len(profile.volumes)
    assert len({volume.mount_point for volume in profile.volumes}) == len(profile.volumes)
    for volume in profile.volumes:
        assert re.fullmatch(r"[a-z0-9-]+\.img", volume.image)
        assert re.fullmatch(r"(/[a-z0-9.-]+)+", volume.mount_point)
        assert volume.fs_type in ("ext4", "xfs", "btrfs")
        assert volume.size >= 64


@each
def test_ports_are_ports(profile: Profile) -> None:
    for port in profile.ports:
        assert port.proto in ("tcp", "udp")
        assert port.use
        if port.ports in profile.options:
            assert profile.options[port.ports].kind == "int"
            continue
        numbers = [int(number) for number in port.ports.split("-")]
        assert numbers == sorted(numbers)
        assert all(1 <= number <= 65535 for number in numbers)


@each
def test_credentials_are_said(profile: Profile) -> None:
    names = [credential.name for credential in profile.credentials]
    assert len(set(names)) == len(names)
    for credential in profile.credentials:
        assert re.fullmatch(r"[a-z0-9-]+", credential.name)
        assert credential.description.endswith(".")
        assert credential.along is None or (credential.along in names and not credential.required)


@each
def test_two_profiles_that_go_together_share_no_image(profile: Profile) -> None:
    for other in PROFILES.values():
        if other is profile or other.name in profile.excludes:
            continue
        theirs = {volume.image: volume for volume in other.volumes}
        for volume in profile.volumes:
            assert theirs.get(volume.image, volume) == volume


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_whole(option: Option) -> None:
    assert option.kind in KINDS
    assert option.description.endswith(".")
    assert bool(option.pattern) == bool(option.form)
    assert not (option.choices and option.pattern)
    assert not (option.choices and option.kind not in ("str", "list"))
    assert not (option.required and option.default is not None)
    assert option.least <= option.most


@pytest.mark.parametrize("option", OPTIONS)
def test_a_default_is_what_the_option_takes(option: Option) -> None:
    if option.default is None:
        return
    assert isinstance(option.default, TAKEN[option.kind])
    assert isinstance(option.default, bool) == (option.kind == "bool")
    assert json.loads(json.dumps(option.default)) is not None
    profile = dataclasses.replace(PROFILES["k3s_server"], name="x", options={"x": option}, stop_option=None, check=None)
    guest = Guest(name="g", hypervisor="qemu", profiles=("x",), options={"x": {"x": option.default}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "x", profile)
        chosen, errors = choose(guest, {})
    assert errors == []
    assert json.dumps(chosen.options["x"]["x"]) == json.dumps(option.default)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_pattern_means_the_same_to_python_and_to_posix(option: Option) -> None:
    if option.pattern is not None:
        re.compile(option.pattern)
        # Classes, lazy and possessive repetition, and extensions are Python's alone.
        assert re.search(r"\\[wdsbWDSBAZ]|\(\?|[*+?}][?+]", option.pattern) is None
