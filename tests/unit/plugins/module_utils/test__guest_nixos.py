# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests of NixOS hosts: units, their settings and autostart come from the host's system."""

from __future__ import annotations

import errno
import os
import typing as t

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _files
from ansible_collections.microvm.fleet.plugins.module_utils import _guest_plan as planner
from ansible_collections.microvm.fleet.plugins.module_utils._errors import FleetError, InvalidWish
from ansible_collections.microvm.fleet.plugins.module_utils._guest_observe import Guest, Host, observe
from ansible_collections.microvm.fleet.plugins.module_utils._guest_plan import (
    GuestPlan,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_steps import (
    Autostart,
    Remove,
    Settings,
    Start,
    Step,
)
from ansible_collections.microvm.fleet.plugins.module_utils._guest_wish import GuestWish
from ansible_collections.microvm.fleet.tests.unit.support.fakehost import FakeHost

if t.TYPE_CHECKING:
    from pathlib import Path

OVERRIDES = """\
[Unit]

[Service]
X-RestartIfChanged=false
LoadCredential=token:/var/lib/microvm-fleet/credentials/web1/token
LoadCredential=token-2:/var/lib/microvm-fleet/credentials/web1/token-2
TimeoutStopSec=60
"""
AS_WRITTEN = """\
[Service]
LoadCredential=token:/var/lib/microvm-fleet/credentials/web1/token
LoadCredential=token-2:/var/lib/microvm-fleet/credentials/web1/token-2
TimeoutStopSec=60
"""


def plan(*steps: Step, **guest: t.Any) -> GuestPlan:
    return GuestPlan(GuestWish("web1"), Guest("web1", **guest), steps=steps)


def beyond(one: GuestPlan, *, nixos: bool = True) -> GuestPlan:
    return planner.beyond([one], Host({}, nixos=nixos))[0]


@pytest.mark.parametrize(
    ("step", "option", "seen"),
    [
        (Autostart("web1", enable=True), "autostart", "does not start the guest"),
        (Autostart("web1", enable=False), "autostart", "starts the guest"),
        (Settings("web1", text="[Service]\nTimeoutStopSec=60\n"), "settings", "does not set TimeoutStopSec=60"),
        (Settings("web1", text=""), "settings", "does not set nothing"),
    ],
)
def test_what_only_a_switch_changes_is_refused(step: Step, option: str, seen: str) -> None:
    refused = beyond(plan(step, Start("web1")))
    assert refused.steps == ()
    assert refused.error is not None
    assert refused.error.field == option
    assert seen in str(refused.error)
    assert "microvm.fleet.guests" in str(refused.error)
    elsewhere = plan(step, Start("web1"))
    assert beyond(elsewhere, nixos=False) == elsewhere


def test_what_a_switch_ahead_changes_is_left_to_it() -> None:
    one = plan(Autostart("web1", enable=True), Settings("web1", text=""), Start("web1"), settings=AS_WRITTEN)
    assert planner.beyond([one], Host({}, nixos=True), switch_ahead=True)[0].steps == (Start("web1"),)
    assert planner.beyond([one], Host({}), switch_ahead=True) == (one,)
    gone = plan(Remove("web1", purge=False), settings=AS_WRITTEN)
    assert planner.beyond([gone], Host({}, nixos=True), switch_ahead=True) == (gone,)


def test_all_else_is_done() -> None:
    for one in (plan(Start("web1")), plan(Remove("web1", purge=False)), plan()):
        assert beyond(one) == one
    failed = GuestPlan(GuestWish("web1"), Guest("web1"), error=InvalidWish("no."))
    assert beyond(failed) == failed


def test_a_guest_with_settings_is_not_removed_before_them() -> None:
    refused = beyond(plan(Remove("web1", purge=False), settings=AS_WRITTEN))
    assert refused.error is not None
    assert refused.error.field == "state"


def _put(host: FakeHost, path: str, text: str) -> None:
    target = os.path.join(host.paths.root, path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "w", encoding="utf-8") as stream:
        stream.write(text)


def test_settings_of_the_system_are_read_as_ours(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    _put(host, "etc/os-release", "ID=nixos\n")
    _put(host, "etc/systemd/system/microvm@web1.service.d/overrides.conf", OVERRIDES)
    _put(host, "etc/systemd/system/microvm@db1.service.d/overrides.conf", "[Service]\nX-RestartIfChanged=false\n")
    _put(host, "etc/systemd/system/microvms.target", "[Unit]\nWants=microvm@web1.service microvm@db2.service\n")
    os.makedirs(host.paths.guest("db1"))
    found = observe(host.paths, host)
    assert found.nixos
    assert found.guest("web1").settings == AS_WRITTEN
    assert found.guest("db1").settings is None
    assert list(found.guests) == ["db1"]
    # What the system says of guests that are not there is no part of them.
    assert [name for name, guest in found.expected.items() if guest.autostart] == ["db2", "web1"]
    assert observe(host.paths, host, ["web1"]).guest("web1").settings == found.guest("web1").settings
    made = planner.plan(GuestWish("web1", state="absent"), found.guest("db2"), None)
    assert made.steps == (Autostart("db2", enable=False),)
    plain = "[Service]\nTimeoutStopSec=60\n"
    assert planner.settings(GuestWish("web1", stop_timeout=60), plain) == plain


def test_a_file_that_is_not_there_is_gone_on_a_filesystem_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlink(path: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(os, "unlink", unlink)
    there = tmp_path / "there"
    there.write_text("", "utf-8")
    assert _files.remove(str(tmp_path / "gone")) is False
    with pytest.raises(OSError, match="Read-only"):
        _files.remove(str(there))


def test_messages_name_the_guest() -> None:
    error = beyond(plan(Autostart("web1", enable=True))).error
    assert isinstance(error, FleetError)
    assert error.subject == "guest web1"
