# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inventory, wrappers and ssh files."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from microvm_testbed.access import Access
from microvm_testbed.net import Subnet

ACCESS = Access(
    lab="site-d12",
    subnet=Subnet(7),
    release="bookworm",
    uplink="ifupdown",
    hosts=2,
    state=Path("/state/site-d12"),
    runtime=Path("/run/microvm-testbed/site-d12"),
)


def inventory(access: Access) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(access.inventory())
    return loaded


def test_inventory_is_one_group_with_all_hosts() -> None:
    groups = inventory(ACCESS)["all"]["children"]
    assert list(groups) == ["site_d12"]
    assert groups["site_d12"]["hosts"] == {
        "site-d12-1": {
            "ansible_host": "10.231.7.11",
            "testbed_ipv4": "10.231.7.11",
            "testbed_ipv6": "fd4d:564d:6674:7::b",
        },
        "site-d12-2": {
            "ansible_host": "10.231.7.12",
            "testbed_ipv4": "10.231.7.12",
            "testbed_ipv6": "fd4d:564d:6674:7::c",
        },
    }


def test_inventory_says_how_the_lab_is_reached() -> None:
    variables = inventory(ACCESS)["all"]["children"]["site_d12"]["vars"]
    assert variables["ansible_user"] == "root"
    assert variables["ansible_python_interpreter"] == "/usr/bin/python3"
    for program in ("ssh", "scp", "sftp"):
        assert variables[f"ansible_{program}_executable"] == f"/state/site-d12/bin/{program}"
    assert variables["ansible_control_path_dir"] == "/run/microvm-testbed/site-d12/cp"
    assert variables["testbed_release"] == "bookworm"
    assert variables["testbed_uplink"] == "ifupdown"
    assert variables["testbed_outside_ipv4"] == "198.51.100.1"
    assert variables["testbed_outside_port"] == 9000


def test_paths_stay_strings_in_the_inventory() -> None:
    odd = replace(ACCESS, state=Path("/a b: #c/yes"))
    variables = inventory(odd)["all"]["children"]["site_d12"]["vars"]
    assert variables["ansible_ssh_executable"] == "/a b: #c/yes/bin/ssh"


def test_known_hosts_pin_each_key_to_name_and_addresses() -> None:
    text = ACCESS.known_hosts(["ssh-ed25519 AAAA site-d12-1\n", "ssh-ed25519 BBBB site-d12-2\n"])
    assert text.splitlines() == [
        "site-d12-1,10.231.7.11,fd4d:564d:6674:7::b ssh-ed25519 AAAA",
        "site-d12-2,10.231.7.12,fd4d:564d:6674:7::c ssh-ed25519 BBBB",
    ]


def test_ssh_config_knows_the_hosts_by_name(tmp_path: Path) -> None:
    config = tmp_path / "ssh_config"
    config.write_text(ACCESS.ssh_config())
    command = ["ssh", "-G", "-F", str(config), "site-d12-2"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()
    assert "hostname 10.231.7.12" in shown
    assert "user root" in shown
    assert "identityfile /state/site-d12/id_ed25519" in shown


@pytest.mark.parametrize("program", ["ssh", "scp", "sftp"])
def test_wrappers_are_scripts_that_a_shell_understands(program: str, tmp_path: Path) -> None:
    script = tmp_path / program
    script.write_text(replace(ACCESS, state=Path("/odd $state/it's")).wrapper(program))
    checked = subprocess.run(["sh", "-n", str(script)], capture_output=True, text=True, check=False, timeout=30)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_ssh_wrapper_is_strict_before_the_callers_options() -> None:
    text = ACCESS.wrapper("ssh")
    assert text.index("StrictHostKeyChecking=yes") < text.index('"$@"')
    assert "nsenter --net=/run/microvm-testbed/site-d12/netns" in text


def test_ssh_wrapper_says_when_the_lab_is_down(tmp_path: Path) -> None:
    script = tmp_path / "ssh"
    script.write_text(replace(ACCESS, runtime=tmp_path / "none").wrapper("ssh"))
    done = subprocess.run(["sh", str(script), "x"], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 255
    assert done.stderr == "testbed: lab site-d12 is not up\n"
