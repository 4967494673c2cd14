# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runners say of themselves: true ones, old ones, and what is none."""

from __future__ import annotations

import dataclasses
import json
import os
import typing as t
from pathlib import Path

import pytest

from ansible_collections.microvm.fleet.plugins.module_utils._contract import (
    HYPERVISORS,
    Interface,
    Runner,
    Volume,
    in_store,
    is_store_path,
    read_runner,
    runner_of_dict,
    volumes_of_script,
)
from ansible_collections.microvm.fleet.plugins.module_utils._paths import Paths
from ansible_collections.microvm.fleet.tests.unit.support.recorded import runner as recorded

HASH = "0c4mzlvsb9lvkmnmzn8sbpxzfdmlkxqp"
RUN = "bin/microvm-run"


def unpack(root: Path, name: str) -> Runner:
    """Read a recorded runner, put back where it was below *root*."""
    copy = recorded(name)
    return make(root, copy["path"], copy["files"], copy["links"])


def make(root: Path, path: str, files: t.Mapping[str, str], links: t.Mapping[str, str] | None = None) -> Runner:
    """Read a runner of these *files* and *links*."""
    place = root / path.lstrip("/")
    place.mkdir(parents=True)
    for file, text in files.items():
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_text(text, encoding="utf-8")
    for link, target in (links or {}).items():
        (place / link).parent.mkdir(parents=True, exist_ok=True)
        (place / link).symlink_to(target)
    return read_runner(Paths(str(root)), path)


def path(name: str) -> str:
    return f"/nix/store/{HASH}-{name}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "web1",
            {
                "hypervisor": "qemu",
                "host_name": "web1",
                "interfaces": (Interface("vm-web1", "tap"),),
                "volumes": (Volume("data.img", 16),),
                "can_shutdown": True,
            },
        ),
        (
            # The name of the guest has dots; its host name and its interface are other words.
            "web.example.org",
            {
                "hypervisor": "cloud-hypervisor",
                "host_name": "www",
                "interfaces": (Interface("vm-51e00be945a4", "tap"),),
                "volumes": (Volume("data.img", 16),),
                "vsock_cid": 7,
                "can_shutdown": True,
            },
        ),
        (
            "bare",
            {"hypervisor": "kvmtool", "host_name": "bare", "can_shutdown": False},
        ),
        (
            "many",
            {
                "hypervisor": "qemu",
                "host_name": "many",
                "interfaces": (
                    Interface("vm-many", "tap"),
                    Interface("vm-many-mac", "macvtap", "02:34:63:d0:f8:74", "eth0", "bridge"),
                ),
                # The second volume is not made by the runner, so nothing in the package tells of it.
                "volumes": (Volume("var.img", 256), Volume("it has a space.img", 8)),
                "can_shutdown": True,
                # The stand-in makes no macvtap-up.
                "old_contract": True,
            },
        ),
        (
            "old",
            {
                "hypervisor": "qemu",
                "host_name": "old",
                "interfaces": (Interface("vm-old", "tap"),),
                "volumes": (Volume("data.img", 16),),
                "can_shutdown": True,
                "old_contract": True,
            },
        ),
        (
            "loops",
            {
                "hypervisor": "qemu",
                "host_name": "loops",
                "interfaces": (Interface("vm-loops", "tap"),),
                "volumes": (Volume("data.img", 16),),
                "can_shutdown": True,
            },
        ),
    ],
)
def test_recorded_runners(tmp_path: Path, name: str, expected: dict[str, t.Any]) -> None:
    runner = unpack(tmp_path, name)
    facts = {field: getattr(runner, field) for field in expected}
    assert facts == expected
    assert (runner.missing, runner.runs, runner.old_contract) == (False, True, expected.get("old_contract", False))


def test_the_system_is_a_link_where_the_guest_shares_the_store(tmp_path: Path) -> None:
    copy = recorded("store")
    assert "share/microvm/system" in copy["links"]
    assert unpack(tmp_path, "store").toplevel == copy["links"]["share/microvm/system"]


@pytest.mark.parametrize("name", ["web1", "web.example.org"])
def test_the_system_is_in_the_script_where_it_is_on_a_disk(tmp_path: Path, name: str) -> None:
    assert recorded(name)["links"] == {}
    toplevel = unpack(tmp_path, name).toplevel
    assert toplevel is not None
    assert toplevel.startswith("/nix/store/")
    assert toplevel.endswith("-1")


def test_without_a_word_of_the_system_there_is_none(tmp_path: Path) -> None:
    assert make(tmp_path, path("microvm-qemu-a"), {RUN: "exec qemu"}).toplevel is None


def test_a_path_that_is_not_in_the_store(tmp_path: Path) -> None:
    runner = read_runner(Paths(str(tmp_path)), path("microvm-firecracker-db.example.org"))
    assert runner == Runner(
        path=path("microvm-firecracker-db.example.org"),
        hypervisor="firecracker",
        host_name="db.example.org",
        missing=True,
        runs=False,
    )


def test_a_path_that_is_no_directory(tmp_path: Path) -> None:
    place = tmp_path / path("notes").lstrip("/")
    place.parent.mkdir(parents=True)
    place.write_text("no runner", encoding="utf-8")
    assert read_runner(Paths(str(tmp_path)), path("notes")) == Runner(path=path("notes"), runs=False)


def test_a_package_without_anything(tmp_path: Path) -> None:
    assert make(tmp_path, path("hello"), {}) == Runner(path=path("hello"), runs=False)


def test_a_package_with_other_programs(tmp_path: Path) -> None:
    runner = make(tmp_path, path("hello"), {"bin/hello": ""})
    assert (runner.missing, runner.runs, runner.can_shutdown) == (False, False, False)


@pytest.mark.parametrize("hypervisor", HYPERVISORS)
def test_the_hypervisor_is_in_the_name(tmp_path: Path, hypervisor: str) -> None:
    runner = make(tmp_path, path(f"microvm-{hypervisor}-a-b.c"), {RUN: ""})
    assert (runner.hypervisor, runner.host_name) == (hypervisor, "a-b.c")


@pytest.mark.parametrize("name", ["microvm-xen-a", "microvm-qemu", "microvm-qemu-", "nixos-microvm-qemu-a", "a"])
def test_a_name_that_tells_nothing(tmp_path: Path, name: str) -> None:
    runner = make(tmp_path, path(name), {RUN: ""})
    assert (runner.hypervisor, runner.host_name) == (None, None)


def test_what_the_package_says_counts_more_than_its_name(tmp_path: Path) -> None:
    runner = make(tmp_path, path("microvm-qemu-a"), {RUN: "", "share/microvm/hypervisor": "solo5-spt\n"})
    assert runner.hypervisor == "solo5-spt"


@pytest.mark.parametrize("text", ["", "\n", "seven\n", "-7\n"])
def test_a_vsock_cid_that_is_no_number(tmp_path: Path, text: str) -> None:
    assert make(tmp_path, path("microvm-qemu-a"), {RUN: "", "share/microvm/vsock-cid": text}).vsock_cid is None


@pytest.mark.parametrize(
    ("file", "text", "script"),
    [
        ("tap-interfaces", "vm-a\n", "tap-up"),
        ("macvtap-interfaces", "vm-a 02:00:00:00:00:01 eth0 bridge\n", "macvtap-up"),
        ("pci-devices", "0000:01:00.0\n", "pci-setup"),
        ("virtiofs/store/socket", "a.sock\n", "virtiofsd-run"),
    ],
)
def test_a_runner_from_before_its_scripts(tmp_path: Path, file: str, text: str, script: str) -> None:
    files = {RUN: "", f"share/microvm/{file}": text}
    assert make(tmp_path / "old", path("microvm-qemu-a"), files).old_contract
    assert not make(tmp_path / "new", path("microvm-qemu-a"), {**files, f"bin/{script}": ""}).old_contract


@pytest.mark.parametrize("file", ["tap-interfaces", "macvtap-interfaces", "pci-devices"])
def test_an_empty_list_needs_no_script(tmp_path: Path, file: str) -> None:
    assert not make(tmp_path, path("microvm-qemu-a"), {RUN: "", f"share/microvm/{file}": "\n"}).old_contract


@pytest.mark.parametrize(
    ("text", "interfaces"),
    [
        ("", ()),
        ("vm-a 02:AB:00:00:00:01 eth0 bridge", (Interface("vm-a", "macvtap", "02:ab:00:00:00:01", "eth0", "bridge"),)),
        (
            "vm-a 02:00:00:00:00:01 eth0 vepa\nvm-b 02:00:00:00:00:02 eth1 private\n",
            (
                Interface("vm-a", "macvtap", "02:00:00:00:00:01", "eth0", "vepa"),
                Interface("vm-b", "macvtap", "02:00:00:00:00:02", "eth1", "private"),
            ),
        ),
        ("vm-a 02:00:00:00:00:01 eth0\n\nvm-b\n", ()),
    ],
)
def test_lines_of_macvtap(tmp_path: Path, text: str, interfaces: tuple[Interface, ...]) -> None:
    files = {RUN: "", "bin/macvtap-up": "", "share/microvm/macvtap-interfaces": text}
    assert make(tmp_path, path("microvm-qemu-a"), files).interfaces == interfaces


def test_taps_come_before_macvtaps(tmp_path: Path) -> None:
    files = {
        RUN: "",
        "share/microvm/tap-interfaces": "vm-b\n vm-a \n\n",
        "share/microvm/macvtap-interfaces": "vm-c 02:00:00:00:00:01 eth0 bridge\n",
    }
    found = make(tmp_path, path("microvm-qemu-a"), files).interfaces
    assert [(each.id, each.type) for each in found] == [("vm-b", "tap"), ("vm-a", "tap"), ("vm-c", "macvtap")]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    place = tmp_path / path("microvm-qemu-a").lstrip("/")
    (place / "bin").mkdir(parents=True)
    (place / RUN).write_bytes(b"\xff\xfe")
    assert read_runner(Paths(str(tmp_path)), path("microvm-qemu-a")).runs


def test_a_loop_of_links_in_place_of_the_share(tmp_path: Path) -> None:
    place = tmp_path / path("microvm-qemu-a").lstrip("/")
    (place / "bin").mkdir(parents=True)
    (place / RUN).touch()
    (place / "share").symlink_to("nowhere")
    assert read_runner(Paths(str(tmp_path)), path("microvm-qemu-a")).interfaces == ()


@pytest.mark.parametrize(
    ("script", "volumes"),
    [
        ("", ()),
        ("exec qemu -drive file=a.img\n", ()),
        ("if [ ! -e 'a.img' ]; then\n  touch 'a.img'\n  truncate -s 8M 'a.img'\nfi\n", (Volume("a.img", 8),)),
        ("if [ ! -e a.img ]; then\n  truncate -s 8M a.img\nfi\n", (Volume("a.img", 8),)),
        ("if [ ! -e 'a.img' ]; then\n  touch 'a.img'\nfi\n", (Volume("a.img"),)),
        (
            (
                "if [ ! -e '/srv/b.img' ]; then\n  truncate -s 1M '/srv/b.img'\nfi\n"
                "if [ ! -e 'a b.img' ]; then\n  truncate -s 1024M 'a b.img'\nfi\n"
            ),
            (Volume("/srv/b.img", 1), Volume("a b.img", 1024)),
        ),
        ("if [ -e 'a.img' ]; then\n", ()),
        ("echo if [ ! -e 'a.img' ]; then\n", ()),
    ],
)
def test_volumes_of_a_script(script: str, volumes: tuple[Volume, ...]) -> None:
    assert volumes_of_script(script) == volumes


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (path("microvm-qemu-web1"), True),
        (path("a+b._?=-1"), True),
        (path("x" * 211), True),
        (path("x" * 212), False),
        (path(""), False),
        (path("microvm-qemu-web1") + "/", False),
        (path("microvm-qemu-web1") + "/bin/microvm-run", False),
        (path("with space"), False),
        (path("a\nb"), False),
        ("", False),
        ("/nix/store", False),
        ("/nix/store/", False),
        (f"/nix/store/{HASH[:-1]}-a", False),
        (f"/nix/store/{HASH[:-1]}e-a", False),
        (f"/nix/store/{HASH.upper()}-a", False),
        (f"nix/store/{HASH}-a", False),
        (f"/gnu/store/{HASH}-a", False),
        ("/nix/store/../../etc/passwd", False),
        ("/tmp/result", False),
    ],
)
def test_is_store_path(value: str, answer: bool) -> None:
    assert is_store_path(value) is answer


@pytest.mark.parametrize(
    ("value", "answer"),
    [("/nix/store/x", True), ("/nix/store", False), ("/nix/storex/y", False), ("/srv/x", False), (None, False)],
)
def test_in_store(value: str | None, answer: bool) -> None:
    assert in_store(value) is answer


@pytest.mark.parametrize("name", ["web1", "many", "store", "bare", "web.example.org"])
def test_facts_survive_a_record(tmp_path: Path, name: str) -> None:
    runner = dataclasses.replace(unpack(tmp_path, name), old_contract=False)
    assert runner_of_dict(runner.as_dict()) == runner


def test_all_facts_survive_a_record() -> None:
    runner = Runner(
        path="/nix/store/x",
        toplevel="/nix/store/top",
        kernel="/nix/store/linux",
        initrd="/nix/store/initrd/initrd",
        kernel_params="quiet panic=-1",
        mem=512,
        vcpu=2,
        volumes=(Volume("a.img", 1, "/a", "ext4", label="odd", mkfs_extra_args=("-O", "^metadata_csum")),),
    )
    record = json.loads(json.dumps(runner.as_dict()))
    assert runner_of_dict(record) == runner
    assert record["volumes"][0]["mkfs_extra_args"] == ["-O", "^metadata_csum"]


def test_a_record_from_before_a_fact_is_read() -> None:
    volume = {
        "image": "a.img",
        "size": 1,
        "mount_point": "/a",
        "fs_type": "xfs",
        "read_only": True,
        "auto_create": False,
    }
    runner = runner_of_dict({"path": "/nix/store/x", "volumes": [volume]})
    assert runner.volumes == (Volume("a.img", 1, "/a", "xfs", read_only=True, auto_create=False),)
    assert (runner.mem, runner.vcpu, runner.kernel, runner.initrd, runner.kernel_params) == (None,) * 5


def test_a_record_from_after_a_fact_is_read() -> None:
    facts = {"path": "/nix/store/x", "later": 1, "volumes": [{"image": "a.img", "later": 1}]}
    assert runner_of_dict(facts) == Runner(path="/nix/store/x", volumes=(Volume("a.img"),))


def test_facts_with_the_least() -> None:
    assert runner_of_dict({"path": "/nix/store/x"}) == Runner(path="/nix/store/x")


@pytest.mark.parametrize(("mac", "expected"), [("02:AB:00:00:00:01", "02:ab:00:00:00:01"), ("", None), (None, None)])
def test_macs_of_facts_are_in_small_letters(mac: str | None, expected: str | None) -> None:
    facts = {"path": "/nix/store/x", "interfaces": [{"id": "a", "type": "tap", "mac": mac}]}
    assert runner_of_dict(facts).interfaces == (Interface("a", "tap", expected),)


def test_a_runner_is_not_run_to_be_read(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    runner = make(tmp_path, path("microvm-qemu-a"), {RUN: f"#!/bin/sh\ntouch {mark}\n"})
    assert runner.runs
    assert not os.path.lexists(mark)
