# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Units of guests, by what systemd 252 and 257 printed."""

from __future__ import annotations

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils import _systemd
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError
from ansible_collections.microvm.fleet.plugins.module_utils._systemd import Unit
from ansible_collections.microvm.fleet.tests.unit.support.recorded import SYSTEMD, Replay, Scripted

every_version = pytest.mark.parametrize("version", SYSTEMD)

BLOCK = """Result=success
NRestarts=0
Id=microvm@{name}.service
ActiveState=active
SubState=running
ActiveEnterTimestampMonotonic=12
NeedDaemonReload=no
InvocationID=ab
"""


def short(unit: Unit) -> tuple[str, str, str, int, bool]:
    return unit.active_state, unit.sub_state, unit.result, unit.restarts, unit.needs_reload


@every_version
@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        ("show_none", {}),
        ("show_stopped", {}),
        (
            "show_restarting",
            {
                "web1": ("active", "running", "success", 0, False),
                "loops": ("activating", "auto-restart", "exit-code", 1, False),
            },
        ),
    ],
)
def test_show(version: str, scene: str, expected: dict[str, tuple[str, str, str, int, bool]]) -> None:
    host = Replay("systemd", version, scene)
    units = _systemd.show(host)
    assert host.ended
    assert {name: short(unit) for name, unit in units.items()} == expected


@pytest.mark.parametrize(("version", "noticed"), [("252", False), ("257", True)])
def test_show_of_a_guest_with_a_new_drop_in(version: str, noticed: bool) -> None:
    # The older systemd does not see a directory of drop-ins that was not there when it read the unit.
    unit = _systemd.show(Replay("systemd", version, "show_stale"))["web1"]
    assert short(unit) == ("active", "running", "success", 0, noticed)


@every_version
def test_show_of_a_guest_that_loops(version: str) -> None:
    unit = _systemd.show(Replay("systemd", version, "show_looping"))["loops"]
    assert unit.restarts == 3
    assert unit.up
    assert unit.active_since > 0
    assert len(unit.invocation) == 32


@every_version
def test_show_of_a_guest_whose_hypervisor_was_killed(version: str) -> None:
    unit = _systemd.show(Replay("systemd", version, "show_killed"))["web1"]
    assert (unit.active_state, unit.result) == ("activating", "signal")
    assert (unit.active, unit.waiting, unit.up) == (False, True, True)


@every_version
def test_show_has_no_job_of_a_guest_that_is_only_up(version: str) -> None:
    assert not _systemd.show(Replay("systemd", version, "show_stale"))["web1"].queued


@every_version
def test_show_of_a_guest_that_has_used_up_its_tries(version: str) -> None:
    unit = _systemd.show(Replay("systemd", version, "show_failed"))["loops"]
    assert (unit.active_state, unit.sub_state) == ("failed", "failed")
    assert (unit.active, unit.waiting, unit.up) == (False, False, False)


@pytest.mark.parametrize(
    ("state", "active", "waiting", "up"),
    [
        ("active", True, False, True),
        ("reloading", True, False, True),
        ("deactivating", True, False, True),
        ("activating", False, True, True),
        ("inactive", False, False, False),
        ("failed", False, False, False),
        ("maintenance", False, False, False),
    ],
)
def test_states(state: str, active: bool, waiting: bool, up: bool) -> None:
    unit = Unit(active_state=state)
    assert (unit.active, unit.waiting, unit.up) == (active, waiting, up)


@pytest.mark.parametrize("state", ["inactive", "failed"])
def test_a_unit_with_a_job_is_about_to_start_if_it_is_down(state: str) -> None:
    block = BLOCK.format(name="a").replace("ActiveState=active", f"ActiveState={state}")
    unit = _systemd.parse_show(block + "Job=4711\n")["a"]
    assert unit.queued
    assert unit.waiting is (state == "inactive")
    assert not _systemd.parse_show(block)["a"].queued


def test_a_unit_that_is_not_loaded_is_inactive() -> None:
    assert Unit() == Unit("inactive", "dead", "success", 0, 0, "", needs_reload=False, queued=False)


@pytest.mark.parametrize("name", ["web1", "web.example.org", "a-b_c", "9", "microvm@x"])
def test_names_of_units(name: str) -> None:
    assert _systemd.unit(name) == f"microvm@{name}.service"
    assert list(_systemd.parse_show(BLOCK.format(name=name))) == [name]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        "Id=ssh.service\nActiveState=active\n",
        "Id=microvm@.service\nActiveState=active\n",
        "Id=microvm-virtiofsd@web1.service\nActiveState=active\n",
        "nothing with an equals sign",
    ],
)
def test_other_units_are_left_out(text: str) -> None:
    assert _systemd.parse_show(text) == {}


def test_blocks_are_taken_apart() -> None:
    units = _systemd.parse_show(BLOCK.format(name="a") + "\n" + BLOCK.format(name="b"))
    assert sorted(units) == ["a", "b"]
    assert units["a"] == units["b"] == Unit("active", "running", "success", 0, 12, "ab", needs_reload=False)


@pytest.mark.parametrize("value", ["", "[not set]", "-1", "infinity"])
def test_a_number_that_is_none_is_0(value: str) -> None:
    text = BLOCK.format(name="a").replace("NRestarts=0", f"NRestarts={value}").replace("=12", f"={value}")
    unit = _systemd.parse_show(text)["a"]
    assert (unit.restarts, unit.active_since) == (0, 0)


def test_a_value_with_an_equals_sign() -> None:
    assert _systemd.parse_show(BLOCK.format(name="a").replace("=ab", "=a=b"))["a"].invocation == "a=b"


def test_show_that_fails() -> None:
    host = Scripted(systemctl_show=(1, "", "Failed to connect to bus: No such file or directory\n"))
    with pytest.raises(CommandError, match=r"ended with 1: Failed to connect to bus: No such file or directory$"):
        _systemd.show(host)


@every_version
def test_jobs_of_many_are_one_call(version: str) -> None:
    host = Replay("systemd", version, "start")
    assert _systemd.jobs(host, "start", ["web1", "loops", "nobody"], timeout=200) == ""
    assert host.ended


@every_version
def test_a_stop_names_the_helpers_too(version: str) -> None:
    host = Replay("systemd", version, "stop")
    said = _systemd.jobs(host, "stop", ["web1", "loops"], timeout=200).splitlines()
    assert host.ended
    # No helper was there when this was recorded, and the units of the guests are not complained of.
    assert len(said) == len(_systemd.HELPERS) * 2
    assert not [line for line in said if "not loaded" not in line or " microvm@" in line]


def test_jobs_give_the_complaint_and_do_not_raise() -> None:
    said = "Job for microvm@a.service failed because a timeout was exceeded.\n"
    host = Scripted(systemctl_start=(1, "", said))
    assert _systemd.jobs(host, "start", ["b", "a"], timeout=5) == said
    assert host.calls == [("systemctl", "start", "microvm@a.service", "microvm@b.service")]


def test_jobs_that_do_not_end_raise() -> None:
    late = CommandError("systemctl stop microvm@a.service did not end within 5 s.")
    with pytest.raises(CommandError, match=r"^systemctl stop microvm@a\.service did not end within 5 s\.$"):
        _systemd.jobs(Scripted(systemctl_stop=late), "stop", ["a"], timeout=5)


@every_version
def test_enable_and_disable(version: str) -> None:
    host = Replay("systemd", version, "enable")
    _systemd.enable(host, ["web1"])
    _systemd.disable(host, ["web1"])
    assert host.ended


@every_version
def test_enable_without_the_units(version: str) -> None:
    host = Replay("systemd", version, "enable_fails")
    with pytest.raises(CommandError) as caught:
        _systemd.enable(host, ["web1"])
    assert "microvm@web1.service" in caught.value.text()
    assert "does not exist" in caught.value.text()


@every_version
def test_reload(version: str) -> None:
    host = Replay("systemd", version, "reload")
    _systemd.reload(host)
    assert host.ended


@every_version
def test_reset_failed_of_a_unit_that_is_not_loaded_is_no_error(version: str) -> None:
    host = Replay("systemd", version, "reset")
    _systemd.reset_failed(host, ["nobody", "loops"])
    assert host.ended
    assert host.recorded[0]["rc"] == 1


@every_version
def test_journal(version: str) -> None:
    host = Replay("systemd", version, "journal")
    lines = _systemd.journal(host, "loops").splitlines()
    assert 0 < len(lines) <= _systemd.JOURNAL_LINES
    assert "guest loops 1: it crashes, as wished" in lines
    assert "loops" not in _systemd.journal(host, "nobody")


@pytest.mark.parametrize(
    "answer",
    [CommandError("journalctl did not end within 10 s."), (1, "", "Failed to open"), ""],
)
def test_journal_that_cannot_be_read_is_empty(answer: object) -> None:
    assert _systemd.journal(Scripted(journalctl=answer), "web1") == ""


def test_nothing_to_do_is_no_call() -> None:
    host = Scripted()
    assert _systemd.jobs(host, "start", [], timeout=1) == ""
    _systemd.enable(host, [])
    _systemd.disable(host, [])
    _systemd.reset_failed(host, [])
    assert host.calls == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2min 30s", 150),
        ("15s", 15),
        ("1h", 3600),
        ("1d 2h 3min 4s 5ms", 93785),
        ("500ms", 1),
        ("1.5s", 2),
        ("1w 1month 1y", 34792200),
        ("0", None),
        ("infinity", None),
        ("", None),
        ("2min x", None),
    ],
)
def test_time_spans(text: str, expected: int | None) -> None:
    assert _systemd.seconds(text) == expected


def test_timeouts() -> None:
    host = Scripted(
        systemctl_show=(
            0,
            (
                "Id=microvm@a.service\nTimeoutStartUSec=20s\nTimeoutStopUSec=infinity\n\n"
                "Id=other.service\nTimeoutStartUSec=20s\nTimeoutStopUSec=1s\n\nId=microvm@b.service\n"
            ),
            "",
        )
    )
    assert _systemd.timeouts(host, ["b", "a"]) == {"a": (20, None), "b": (None, None)}
    assert host.calls[0][-2:] == ("microvm@a.service", "microvm@b.service")
    assert _systemd.timeouts(host, []) == {}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("guest: web1 is up", "guest: web1 is up"),
        ("\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS", "SeaBIOS"),
        ("\x1b]0;a title\x07after", "after"),
        ("\x1b]0;a title\x1b\\after", "after"),
        ("\x1b(B[FAILED]\x1b[0;1;31m Failed\r", "[FAILED] Failed"),
        ("an end\x1b[", "an end"),
        ("8-bit \x9b2J, deleted\x7f", "8-bit 2J, deleted"),
        ("a\tb\nc", "a\tb\nc"),
        ("grüße", "grüße"),
    ],
)
def test_nothing_of_a_console_steers_a_terminal(written: str, read: str) -> None:
    assert _systemd.plain(written) == read
