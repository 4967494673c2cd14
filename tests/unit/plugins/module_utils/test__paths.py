# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where things are on a host."""

from __future__ import annotations

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("guests", "/var/lib/microvms"),
        ("kept", "/var/lib/microvms/.kept"),
        ("fleet", "/var/lib/microvm-fleet/guests"),
        ("roots", "/nix/var/nix/gcroots/microvm-fleet"),
        ("microvm_roots", "/nix/var/nix/gcroots/microvm"),
        ("units", "/etc/systemd/system"),
        ("wants", "/etc/systemd/system/microvms.target.wants"),
        ("locks", "/run/lock/microvm-fleet"),
        ("marks", "/run/microvm-fleet/restart"),
        ("network_devices", "/sys/class/net"),
        ("drained", "/var/lib/microvm-fleet/drained.json"),
        ("returning", "/var/lib/microvm-fleet/returning.json"),
    ],
)
@pytest.mark.parametrize("root", ["/", "/tmp/root"])
def test_places(name: str, path: str, root: str) -> None:
    assert getattr(Paths(root), name) == root.rstrip("/") + path


def test_root_is_the_default() -> None:
    assert Paths() == Paths("/")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (Paths().guest("a"), "/var/lib/microvms/a"),
        (Paths().guest("a.b", "current"), "/var/lib/microvms/a.b/current"),
        (Paths().known("a", "record.json"), "/var/lib/microvm-fleet/guests/a/record.json"),
        (Paths().root_of("a", "1"), "/nix/var/nix/gcroots/microvm-fleet/a/1"),
        (Paths().settings("a"), "/etc/systemd/system/microvm@a.service.d/50-microvm-fleet.conf"),
        (Paths().arriving("a"), "/var/lib/microvms/.arriving/a"),
        (Paths().moving(), "/var/lib/microvm-fleet/moving"),
        (Paths().moving("a.b"), "/var/lib/microvm-fleet/moving/a.b.json"),
        (Paths().store("/nix/store/x"), "/nix/store/x"),
        (Paths("/tmp/root").store("/nix/store/x"), "/tmp/root/nix/store/x"),
    ],
)
def test_places_of_a_guest(path: str, expected: str) -> None:
    assert path == expected
