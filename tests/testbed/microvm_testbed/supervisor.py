# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a host alive: the supervisor, and the step that becomes systemd-nspawn(1)."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import secrets
import signal
import stat
import subprocess
import sys
from pathlib import Path
from types import FrameType

from . import cgroup, files, machine, net, nixos
from .errors import TestbedError
from .process import ProcessId

SCRIPT = Path(__file__).resolve().parent.parent / "main.py"
NIXPKGS = SCRIPT.parent.parent / "nix/standin/nixpkgs"
REBOOT_STATUS = 133  # systemd-nspawn(1), EXIT STATUS: the container asked for a reboot
DEVICES = ("/dev/net/tun", "/dev/kvm", "/dev/vhost-net", "/dev/fuse")
MERGED = Path("/run/machine")
NODES = Path("/run/nodes")
END_TIMEOUT = 30.0
PRIVATE_MOUNTS = ("unshare", "--mount", "--propagation", "private")
# What the collection may load, and the option that builds it in: the kernel of a machine
# may have all of it and no /lib/modules at all, where modprobe(8) then knows nothing.
BUILT_IN = {
    "CONFIG_BRIDGE": "net/bridge/bridge",
    "CONFIG_BRIDGE_NETFILTER": "net/bridge/br_netfilter",
    "CONFIG_BLK_DEV_LOOP": "drivers/block/loop",
    "CONFIG_FUSE_FS": "fs/fuse/fuse",
    "CONFIG_KVM": "arch/x86/kvm/kvm",
    "CONFIG_KVM_AMD": "arch/x86/kvm/kvm-amd",
    "CONFIG_KVM_INTEL": "arch/x86/kvm/kvm-intel",
    "CONFIG_MACVTAP": "drivers/net/macvtap",
    "CONFIG_NF_TABLES": "net/netfilter/nf_tables",
    "CONFIG_OVERLAY_FS": "fs/overlayfs/overlay",
    "CONFIG_TUN": "drivers/net/tun",
    "CONFIG_VETH": "drivers/net/veth",
    "CONFIG_VFIO_PCI": "drivers/vfio/pci/vfio-pci",
    "CONFIG_VHOST_NET": "drivers/vhost/vhost_net",
    "CONFIG_VHOST_VSOCK": "drivers/vhost/vhost_vsock",
    "CONFIG_VXLAN": "drivers/net/vxlan",
}


def supervise(directory: Path) -> None:
    """Keep the host of the directory booted until it powers off or SIGTERM comes.

    A host that reboots is started again, and so is one for which a file ``restart`` was left
    before its processes were killed (a power loss).
    """
    lock = files.try_lock(directory / "lock")
    if lock is None:
        return
    me = ProcessId.of(os.getpid())
    assert me is not None
    files.write_json(directory / "supervisor.json", me.to_json())
    group = cgroup.path_of(directory.name)
    cgroup.enter(group / "supervisor")
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for boot_group in group.glob("boot-*"):
            cgroup.kill(boot_group)

    signal.signal(signal.SIGTERM, stop)
    boots = int(str((files.read_json(directory / "boots.json") or {}).get("boots", 0)))
    # A supervisor before this one may have been killed and have left its host running.
    for stale in group.glob("boot-*"):
        cgroup.end(stale, END_TIMEOUT)
    while not stopping:
        boots += 1
        files.write_json(directory / "boots.json", {"boots": boots})
        with (directory / "console.log").open("ab") as console:
            nspawn = subprocess.Popen(
                [*PRIVATE_MOUNTS, sys.executable, str(SCRIPT), "_boot", str(directory)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        if process := ProcessId.of(nspawn.pid):
            files.write_json(directory / "machine.json", {**process.to_json(), "boots": boots})
        status = nspawn.wait()
        (directory / "machine.json").unlink(missing_ok=True)
        cgroup.end(group / f"boot-{boots}", END_TIMEOUT)
        print(f"boot {boots} ended with status {status}", flush=True)
        lost_power = status == -signal.SIGKILL and (directory / "restart").exists()
        (directory / "restart").unlink(missing_ok=True)
        if not lost_power and status != REBOOT_STATUS:
            break


def boot(directory: Path) -> None:
    """Mount the host's tree in this process's own mount namespace and become systemd-nspawn.

    All mounts end with the namespace, that is with the host, however it ends.
    """
    lab = files.read_json(directory.parent.parent / "lab.json")
    assert lab is not None
    is_nixos = lab.get("system") == "nixos"
    boots = int(str((files.read_json(directory / "boots.json") or {})["boots"]))
    cgroup.enter(cgroup.path_of(directory.name) / f"boot-{boots}")
    # Copies of the labs' namespace files would keep those namespaces alive.
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4]
        if point.startswith(f"{files.RUNTIME}/"):
            machine.run(["umount", "--lazy", point], timeout=10)
    layers = f"lowerdir={lab['tree']},upperdir={directory}/upper,workdir={directory}/work"
    machine.run(["mount", "-t", "overlay", "overlay", "-o", layers, f"{directory}/merged"], timeout=30)
    # systemd-nspawn leaves directories in these when it is killed.
    machine.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], timeout=10)
    MERGED.mkdir()
    machine.run(["mount", "--move", f"{directory}/merged", str(MERGED)], timeout=10)
    if not (directory / "provisioned").exists():
        subnet = net.Subnet(int(str(lab["subnet"])))
        provision(MERGED, directory, subnet, None if is_nixos else str(lab["uplink"]))
        if is_nixos:
            nixos.provision(MERGED, directory.name, subnet, NIXPKGS)
        files.write_atomic(directory / "provisioned", "")
    if is_nixos:
        nixos.activate(MERGED)
    modules = bind_modules(MERGED)
    remove_link(directory.name)
    machine.run(["mount", "-t", "tmpfs", "tmpfs", "/tmp"], timeout=10)
    command = [
        "systemd-nspawn", "--quiet", "--settings=no", "--register=no", "--keep-unit", "--boot",
        f"--directory={MERGED}", f"--machine={directory.name}", f"--network-bridge={net.BRIDGE}",
        "--capability=all", "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=read-only",
        *modules, *bind_devices(),
    ]  # fmt: skip
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    }
    os.execvpe(command[0], command, environment)


def remove_link(host: str) -> None:
    """Remove what a boot before this one has left of the host's link to the bridge.

    The kernel takes apart the network of processes that are dead when it finds the time. A name that is too long is
    the link's alternative one (systemd-nspawn(1), --network-veth).
    """
    for link in json.loads(machine.run(["ip", "-json", "link", "show", "type", "veth"], timeout=10) or "[]"):
        if f"vb-{host}" in (link["ifname"], *link.get("altnames", [])):
            with contextlib.suppress(TestbedError):
                machine.run(["ip", "link", "delete", "dev", link["ifname"]], timeout=10)


def bind_devices() -> list[str]:
    """Options that give the host the machine's devices as nodes of its own, to chown as it likes."""
    options = []
    for device in map(Path, DEVICES):
        if device.exists():
            node = NODES / device.name
            node.parent.mkdir(exist_ok=True)
            os.mknod(node, stat.S_IFCHR, device.stat().st_rdev)
            os.chmod(node, 0o666 if device.name in {"tun", "fuse"} else 0o660)
            options.append(f"--bind={node}:{device}")
    return options


def built_in_modules(config: str) -> list[str]:
    """Lines of modules.builtin (kmod's) for what the kernel's configuration has built in."""
    chosen = {line.removesuffix("=y") for line in config.splitlines() if line.endswith("=y")}
    return sorted(f"kernel/{path}.ko" for option, path in BUILT_IN.items() if option in chosen)


def bind_modules(root: Path) -> list[str]:
    """Let modprobe(8) in the host know the machine's kernel."""
    modules = Path("/lib/modules", os.uname().release)
    if modules.is_dir():
        return [f"--bind-ro={modules}"]
    config = Path("/proc/config.gz")
    inside = root / modules.relative_to("/")
    if config.exists() and not (inside / "modules.builtin.bin").exists():
        inside.mkdir(parents=True, exist_ok=True)
        lines = built_in_modules(gzip.decompress(config.read_bytes()).decode())
        (inside / "modules.order").write_text("")
        (inside / "modules.builtin").write_text("".join(f"{line}\n" for line in lines))
        machine.run(["chroot", str(root), "depmod", modules.name], timeout=30)
    return []


def provision(root: Path, directory: Path, subnet: net.Subnet, uplink: str | None) -> None:
    """Give the tree what makes it this host, before its first boot; without an uplink if that comes from elsewhere."""
    name = directory.name
    number = int(name.rpartition("-")[2])
    files.write_atomic(root / "etc/hostname", f"{name}\n")
    files.write_atomic(root / "etc/hosts", net.hosts_file(name, subnet, number))
    files.write_atomic(root / "etc/machine-id", f"{secrets.token_hex(16)}\n", 0o444)
    for end, mode in (("", 0o600), (".pub", 0o644)):
        key = (directory / f"ssh_host_ed25519_key{end}").read_text()
        files.write_atomic(root / f"etc/ssh/ssh_host_ed25519_key{end}", key, mode)
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    public = (directory.parent.parent / "id_ed25519.pub").read_text()
    files.write_atomic(root / "root/.ssh/authorized_keys", public, 0o600)
    if uplink == "networkd":
        files.write_atomic(root / "etc/systemd/network/10-uplink.network", net.networkd_file(subnet, number))
    elif uplink == "ifupdown":
        files.write_atomic(root / "etc/network/interfaces", net.ifupdown_file(subnet, number))
        _instead(root, "networking.service")
    elif uplink == "networkmanager":
        profile = root / "etc/NetworkManager/system-connections/host0.nmconnection"
        files.write_atomic(profile, net.networkmanager_file(subnet, number), 0o600)
        # What udev would tell of the container's virtual interface, which NetworkManager leaves alone otherwise.
        managed = "[device-host0]\nmatch-device=interface-name:host0\nmanaged=1\n"
        files.write_atomic(root / "etc/NetworkManager/conf.d/host0.conf", managed)
        _instead(root, "NetworkManager.service")


def _instead(root: Path, service: str) -> None:
    """Have *service* keep the uplink of a host that is not up, and not systemd-networkd."""
    systemctl = ["systemctl", f"--root={root}", "--quiet"]
    machine.run([*systemctl, "disable", "systemd-networkd.service"], timeout=30)
    machine.run([*systemctl, "enable", service], timeout=30)
