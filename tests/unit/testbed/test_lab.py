# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided about a lab, without making one."""

from __future__ import annotations

from pathlib import Path

import pytest

from microvm_testbed import cgroup, files, lab, machine, net, supervisor, tree
from microvm_testbed.errors import TestbedError
from microvm_testbed.lab import Lab, Spec

SPEC = Spec(name="lab", subnet=net.Subnet(3), release="trixie", uplink="networkd", hosts=2, tree="/tree")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory and a runtime directory of the test's own, and a tree that needs no making."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(files, "RUNTIME", tmp_path / "run")
    (tmp_path / "tree").mkdir()
    monkeypatch.setattr(tree, "ensure", lambda _release: tmp_path / "tree")
    return tmp_path


def test_spec_comes_back_from_its_file() -> None:
    assert Spec.from_json(SPEC.to_json()) == SPEC


def test_a_lab_is_decided_once(place: Path) -> None:
    first = Lab("lab").decide(1, None, None)
    assert first == Spec("lab", first.subnet, "trixie", "networkd", 1, str(place / "tree"))
    more = Lab("lab").decide(3, None, None)
    assert (more.hosts, more.subnet) == (3, first.subnet)
    assert Lab("lab").decide(1, "trixie", "networkd").hosts == 3
    assert Lab("lab").spec() == more
    assert not (place / "run").exists()


def test_a_lab_of_an_older_testbed_is_of_debian() -> None:
    data = SPEC.to_json()
    del data["system"]
    assert Spec.from_json(data) == SPEC


@pytest.mark.usefixtures("place")
def test_a_lab_that_acts_as_nixos() -> None:
    with pytest.raises(TestbedError, match=r"^--os nixos: is made of trixie with an uplink that networkd keeps"):
        Lab("lab").decide(1, "bookworm", None, "nixos")
    with pytest.raises(TestbedError, match=r"^--os nixos: is made of trixie with an uplink that networkd keeps"):
        Lab("lab").decide(1, None, "ifupdown", "nixos")
    assert Lab("lab").spec() is None
    assert Lab("lab").decide(1, None, None, "nixos").system == "nixos"
    assert "/run/current-system/sw/bin/python3" in Lab("lab").access().inventory()
    with pytest.raises(TestbedError, match=r"--os debian is not what it was made with \(nixos\)"):
        Lab("lab").decide(1, None, None, "debian")


@pytest.mark.parametrize(
    ("release", "uplink", "message"),
    [
        ("bookworm", None, r"lab lab: --release bookworm is not what it was made with \(trixie\)"),
        (None, "ifupdown", r"lab lab: --uplink ifupdown is not what it was made with \(networkd\)"),
    ],
)
@pytest.mark.usefixtures("place")
def test_a_lab_keeps_what_it_is(release: str | None, uplink: str | None, message: str) -> None:
    Lab("lab").decide(1, None, None)
    with pytest.raises(TestbedError, match=message):
        Lab("lab").decide(1, release, uplink)


def test_a_lab_whose_tree_is_gone_says_so(place: Path) -> None:
    Lab("lab").decide(1, None, None)
    (place / "tree").rmdir()
    with pytest.raises(TestbedError, match=r"tree .* is gone; run: testbed down --lab lab"):
        Lab("lab").decide(1, None, None)


@pytest.mark.usefixtures("place")
def test_labs_side_by_side_have_subnets_of_their_own() -> None:
    first = Lab("a").decide(1, None, None).subnet.number
    alike = next(name for name in (f"b{index}" for index in range(100000)) if net.choose_subnet(name, []) == first)
    assert Lab(alike).decide(1, None, None).subnet.number == first % net.SUBNETS + 1


@pytest.mark.usefixtures("place")
def test_what_does_not_exist_is_named() -> None:
    with pytest.raises(TestbedError, match="lab lab: does not exist; make it with: testbed up --lab lab"):
        Lab("lab").need()
    Lab("lab").decide(2, None, None)
    with pytest.raises(TestbedError, match="host lab-3: lab lab has 2 hosts"):
        Lab("lab").existing_host(3)
    with pytest.raises(TestbedError, match="host lab-1: is not running"):
        Lab("lab").reboot(1, hard=True, timeout=1, settled=True)


@pytest.mark.parametrize("hosts", [0, -1, 201])
@pytest.mark.usefixtures("place")
def test_absurd_numbers_of_hosts(hosts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "install_packages", lambda: None)
    with pytest.raises(TestbedError, match=rf"^--hosts {hosts}: must be 1 to 200$"):
        Lab("lab").up(hosts=hosts, release=None, uplink=None)


def test_a_lab_of_another_state_directory_is_left_alone(place: Path) -> None:
    other = place / "other"
    other.mkdir()
    (place / "run/lab").mkdir(parents=True)
    (place / "run/lab/owner").write_text(f"{other}\n")
    with pytest.raises(TestbedError, match=f"belongs to state directory {other}"), Lab("lab").lock():
        pass
    other.rmdir()
    with Lab("lab").lock():
        assert (place / "run/lab.lock").exists()


def test_a_state_directory_that_no_mount_option_can_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/a,b")
    with pytest.raises(TestbedError, match="set XDG_STATE_HOME"):
        lab.labs_dir()


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
38 30 0:34 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
39 30 0:35 / /sys/fs/cgroup/systemd rw shared:5 master:1 - cgroup cgroup rw,name=systemd
40 30 0:36 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""


@pytest.mark.parametrize(
    ("kind", "option", "expected"),
    [
        ("cgroup2", "", Path("/sys/fs/cgroup/unified")),
        ("cgroup", "name=systemd", Path("/sys/fs/cgroup/systemd")),
        ("cgroup", "name=other", None),
        ("btrfs", "", None),
    ],
)
def test_mounts_are_found_by_kind(kind: str, option: str, expected: Path | None) -> None:
    assert cgroup.parse_mount(MOUNTS, kind, option) == expected


def test_modules_that_a_kernel_has_built_in() -> None:
    config = "CONFIG_TUN=y\n# CONFIG_VXLAN is not set\nCONFIG_KVM=y\nCONFIG_VETH=m\nCONFIG_TUN_EXTRA=y\n"
    assert supervisor.built_in_modules(config) == ["kernel/arch/x86/kvm/kvm.ko", "kernel/drivers/net/tun.ko"]


def test_a_link_that_is_left_of_a_boot_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    long = '{"ifname": "vb-a-very-lo4k", "altnames": ["vb-a-very-long-1"]}'
    links = f'[{{"ifname": "vb-lab-1"}}, {{"ifname": "vb-lab-12"}}, {long}]'
    calls: list[list[str]] = []

    def run(command: list[str], *, timeout: float) -> str:
        calls.append(command)
        if "delete" in command:
            raise TestbedError(f"it went by itself within {timeout} s")
        return links

    monkeypatch.setattr(machine, "run", run)
    for host in ("lab-1", "a-very-long-1", "lab-2"):
        supervisor.remove_link(host)
    assert [call[-1] for call in calls if "delete" in call] == ["vb-lab-1", "vb-a-very-lo4k"]


def test_missing_programs_are_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None if name.startswith("ssh") else f"/bin/{name}")
    assert machine.missing_packages() == ["openssh-client"]


def test_a_failed_program_is_quoted() -> None:
    with pytest.raises(TestbedError, match=r"sh -c .*: ended with status 3:\nwhat was wrong"):
        machine.run(["sh", "-c", "echo what was wrong >&2; exit 3"], timeout=30)


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(TestbedError, match="sleep 600: not done after 0 s"):
        machine.run(["sleep", "600"], timeout=0.1)


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(TestbedError, match="no-such-program: No such file or directory"):
        machine.run(["no-such-program"], timeout=30)


@pytest.mark.parametrize(
    ("uid", "arch", "message"), [(1000, "x86_64", "run as root"), (0, "aarch64", "machine: is aarch64")]
)
def test_a_machine_that_cannot_hold_a_testbed(
    uid: int, arch: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr("platform.machine", lambda: arch)
    with pytest.raises(TestbedError, match=message):
        machine.check()


def test_the_limit_is_raised_once_and_put_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limit, kept = tmp_path / "limit", tmp_path / "kept"
    limit.write_text("128\n")
    machine.raise_limit(kept, limit)
    machine.raise_limit(kept, limit)
    assert limit.read_text() == "8192\n"
    assert capsys.readouterr().err == f"testbed: raised {limit} from 128 to 8192 until the last lab is down\n"
    machine.restore_limit(kept, limit)
    machine.restore_limit(kept, limit)
    assert limit.read_text() == "128\n"
    assert not kept.exists()


def test_a_limit_that_someone_else_changed_is_left_alone(tmp_path: Path) -> None:
    limit, kept = tmp_path / "limit", tmp_path / "kept"
    limit.write_text("128\n")
    machine.raise_limit(kept, limit)
    limit.write_text("9000\n")
    machine.raise_limit(kept, limit)
    machine.restore_limit(kept, limit)
    assert limit.read_text() == "9000\n"
    assert not kept.exists()


def test_a_limit_that_cannot_be_raised_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, kept = tmp_path / "limit", tmp_path / "kept"
    limit.write_text("128\n")

    def refuse(path: Path, text: str) -> int:
        if path == limit:
            raise OSError(30, "Read-only file system")
        return path.write_bytes(text.encode())

    monkeypatch.setattr(Path, "write_text", refuse)
    machine.raise_limit(kept, limit)
    err = capsys.readouterr().err
    assert err == f"testbed: {limit}: stays 128 (Read-only file system), which is enough for about 8 hosts\n"


def test_the_last_lab_puts_the_limit_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = place / "limit"
    limit.write_text("128\n")
    monkeypatch.setattr(machine.raise_limit, "__defaults__", (limit,))
    monkeypatch.setattr(machine.restore_limit, "__defaults__", (limit,))
    for name in ("a", "b"):
        Lab(name).decide(1, None, None)
        Lab(name).prepare_machine()
    Lab("a").down()
    assert limit.read_text() == "8192\n"
    Lab("b").down()
    assert limit.read_text() == "128\n"
    assert [path.name for path in place.iterdir() if path.name not in {"tree", "limit"}] == ["state"]
    assert list((place / "state").iterdir()) == []
