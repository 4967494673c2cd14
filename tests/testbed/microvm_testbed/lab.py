# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab: some hosts, the network namespace that they are in, and all that is kept of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from . import cgroup, files, machine, net, process, supervisor, tree
from .access import Access
from .errors import TestbedError
from .host import Host

UPLINKS = ("networkd", "ifupdown", "networkmanager")
SYSTEMS = ("debian", "nixos")
PROGRAMS = ("ssh", "scp", "sftp")
BOOT_TIMEOUT = 120.0
DOWN_TIMEOUT = 30.0
# Sets up a namespace and gives it its name last, so that a namespace with a name is whole.
MAKE_NETNS = 'ip -batch "$1" && mount --bind /proc/self/ns/net "$2"'


def labs_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    path = Path(base).absolute() / "microvm-fleet" / "labs"
    if set(",:\\\"'") & set(str(path)):
        raise TestbedError(f"state directory {path}: its path may not have any of , : \\ \" '; set XDG_STATE_HOME")
    return path


@dataclass(frozen=True)
class Spec:
    """What was decided about a lab."""

    name: str
    subnet: net.Subnet
    release: str
    uplink: str
    hosts: int
    tree: str
    system: str = SYSTEMS[0]

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "subnet": self.subnet.number,
            "release": self.release,
            "uplink": self.uplink,
            "hosts": self.hosts,
            "tree": self.tree,
            "system": self.system,
        }

    @classmethod
    def from_json(cls, data: dict[str, object]) -> Spec:
        return cls(
            name=str(data["name"]),
            subnet=net.Subnet(int(str(data["subnet"]))),
            release=str(data["release"]),
            uplink=str(data["uplink"]),
            hosts=int(str(data["hosts"])),
            tree=str(data["tree"]),
            system=str(data.get("system", SYSTEMS[0])),
        )


class Lab:
    """A lab by name, whether it exists or not."""

    def __init__(self, name: str) -> None:
        self.name = net.check_lab_name(name)
        self.state = labs_dir() / name
        self.runtime = files.RUNTIME / name
        self.netns = self.runtime / "netns"

    # -- what there is

    def spec(self) -> Spec | None:
        data = files.read_json(self.state / "lab.json")
        return None if data is None else Spec.from_json(data)

    def need(self) -> Spec:
        spec = self.spec()
        if spec is None:
            raise TestbedError(f"lab {self.name}: does not exist; make it with: testbed up --lab {self.name}")
        return spec

    def host(self, number: int) -> Host:
        return Host(
            f"{self.name}-{number}", number, self.state / "hosts" / f"{self.name}-{number}", self.state / "bin/ssh"
        )

    def existing_host(self, number: int) -> Host:
        spec = self.need()
        if number > spec.hosts:
            raise TestbedError(f"host {self.name}-{number}: lab {self.name} has {spec.hosts} hosts")
        return self.host(number)

    def hosts(self) -> list[Host]:
        return [self.host(number) for number in range(1, self.need().hosts + 1)]

    def access(self) -> Access:
        spec = self.need()
        place = (self.state, self.runtime)
        return Access(self.name, spec.subnet, spec.release, spec.uplink, spec.hosts, *place, spec.system)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lab; refuse one that was made with another state directory."""
        with files.locked(files.RUNTIME / f"{self.name}.lock"):
            with contextlib.suppress(FileNotFoundError):
                owner = Path((self.runtime / "owner").read_text().strip())
                if owner != self.state and owner.exists():
                    raise TestbedError(
                        f"lab {self.name}: belongs to state directory {owner}; choose another --lab, "
                        f"or take it down with its own XDG_STATE_HOME"
                    )
            yield

    # -- up

    def up(
        self, *, hosts: int, release: str | None = None, uplink: str | None = None, system: str | None = None
    ) -> list[Host]:
        """Make the lab have at least so many hosts, all of them up; what is up already is left alone.

        Returns the hosts that were started.
        """
        if not 1 <= hosts <= net.MAX_HOSTS:
            raise TestbedError(f"--hosts {hosts}: must be 1 to {net.MAX_HOSTS}")
        machine.install_packages()
        with self.lock():
            spec = self.decide(hosts, release, uplink, system)
            begin = time.monotonic()
            self.prepare_machine()
            self.make_files()
            self.make_netns(spec)
            started = self.start_daemons()
            for host in self.hosts():
                state = host.wait(timeout=BOOT_TIMEOUT)
                if state != "running":
                    machine.say(f"{host.name} is {state}: {', '.join(host.failed_units()) or 'no unit failed'}")
            count = f"{spec.hosts} host{'s' if spec.hosts > 1 else ''}"
            machine.say(f"lab {self.name}: {count} up after {time.monotonic() - begin:.1f} s ({len(started)} started)")
            return started

    def decide(self, hosts: int, release: str | None, uplink: str | None, system: str | None = None) -> Spec:
        spec = self.spec()
        if spec is None:
            if system == "nixos" and not (release in {None, tree.RELEASES[0]} and uplink in {None, UPLINKS[0]}):
                raise TestbedError(
                    f"--os nixos: is made of {tree.RELEASES[0]} with an uplink that {UPLINKS[0]} keeps, and of nothing "
                    f"else; leave --release and --uplink out"
                )
            base = str(tree.ensure(release or tree.RELEASES[0]))
            with files.locked(files.RUNTIME / ".labs.lock"):
                self.state.mkdir(parents=True, exist_ok=True)
                taken = set()
                for other in labs_dir().glob("*/lab.json"):
                    data = files.read_json(other)
                    if data is not None:
                        taken.add(Spec.from_json(data).subnet.number)
                subnet = net.Subnet(net.choose_subnet(self.name, taken))
                spec = Spec(self.name, subnet, release or tree.RELEASES[0], uplink or UPLINKS[0], hosts, base,
                            system or SYSTEMS[0])  # fmt: skip
                files.write_json(self.state / "lab.json", spec.to_json())
            return spec
        for option, wish, has in (
            ("--release", release, spec.release),
            ("--uplink", uplink, spec.uplink),
            ("--os", system, spec.system),
        ):
            if wish and wish != has:
                raise TestbedError(
                    f"lab {self.name}: {option} {wish} is not what it was made with ({has}); "
                    f"take it down first or choose another --lab"
                )
        if not Path(spec.tree).is_dir():
            raise TestbedError(f"lab {self.name}: its tree {spec.tree} is gone; run: testbed down --lab {self.name}")
        if hosts > spec.hosts:
            spec = replace(spec, hosts=hosts)
            files.write_json(self.state / "lab.json", spec.to_json())
        return spec

    def prepare_machine(self) -> None:
        """Change what all labs need changed; a lab counts among them while its runtime directory is there."""
        with files.locked(files.RUNTIME / ".labs.lock"):
            self.runtime.mkdir(parents=True, exist_ok=True)
            machine.raise_limit(files.RUNTIME / "inotify")

    def make_files(self) -> None:
        """Keys first, then what names them."""
        (self.state / "bin").mkdir(exist_ok=True)
        (self.runtime / "cp").mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write_atomic(self.runtime / "owner", f"{self.state}\n")
        make_key(self.state / "id_ed25519", f"testbed-{self.name}")
        keys = []
        for host in self.hosts():
            for part in ("upper", "work", "merged"):
                (host.directory / part).mkdir(parents=True, exist_ok=True)
            make_key(host.directory / "ssh_host_ed25519_key", host.name)
            keys.append((host.directory / "ssh_host_ed25519_key.pub").read_text())
        access = self.access()
        for program in PROGRAMS:
            files.write_atomic(self.state / "bin" / program, access.wrapper(program), 0o755)
        files.write_atomic(self.state / "ssh_config", access.ssh_config())
        files.write_atomic(self.state / "known_hosts", access.known_hosts(keys))
        files.write_atomic(self.state / "inventory.yml", access.inventory())

    def make_netns(self, spec: Spec) -> None:
        if mounted(self.netns):
            return
        batch = self.runtime / "netns.batch"
        files.write_atomic(batch, net.netns_batch(spec.subnet))
        self.netns.touch()
        machine.run(["unshare", "--net", "--", "sh", "-c", MAKE_NETNS, "sh", str(batch), str(self.netns)], timeout=30)

    def start_daemons(self) -> list[Host]:
        """Start what does not run; return the hosts started."""
        if self.outside_free():
            self.start(f"{self.name}-outside", ["_outside", str(self.runtime)], self.state / "outside.log")
        started = []
        for host in self.hosts():
            if not host.supervised():
                child = self.start(host.name, ["_supervise", str(host.directory)], host.directory / "supervisor.log")
                wait_for_supervisor(host, child)
                started.append(host)
        return started

    def outside_free(self) -> bool:
        fd = files.try_lock(self.runtime / "outside.lock")
        if fd is not None:
            os.close(fd)
        return fd is not None

    def start(self, unit: str, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a daemon of the testbed in the lab's namespace, in a session and a cgroup of its own."""
        command = [*cgroup.scope_command(unit), "nsenter", f"--net={self.netns}", "--", sys.executable,
                   str(supervisor.SCRIPT), *arguments]  # fmt: skip
        with log.open("ab") as output:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
            )

    # -- down

    def down(self) -> None:
        """End all processes of the lab and remove all its files, from whatever state it is in."""
        with self.lock():
            if not self.state.exists() and not self.runtime.exists():
                machine.say(f"lab {self.name}: is not there")
                self.clean_up_after_all()
                return
            self.end_processes()
            files.remove_tree(self.runtime)
            # The hosts go first and lab.json last: what is left after a kill is still a lab.
            files.remove_tree(self.state / "hosts")
            for entry in self.state.glob("*"):
                if entry.name != "lab.json":
                    files.remove_tree(entry) if entry.is_dir() else entry.unlink()
            (self.state / "lab.json").unlink(missing_ok=True)
            files.remove_tree(self.state)
            files.remove_empty(self.state.parent)
            files.remove_empty(self.state.parent.parent)
            self.clean_up_after_all()
        machine.say(f"lab {self.name}: down")

    def clean_up_after_all(self) -> None:
        """After the last lab, put back what was changed for all of them.

        Taking the lock also removes its file if a killed command left it.
        """
        with files.locked(files.RUNTIME / ".labs.lock"):
            if not any(entry.is_dir() for entry in files.RUNTIME.iterdir()):
                machine.restore_limit(files.RUNTIME / "inotify")

    def cgroups(self) -> list[Path]:
        names = {f"{self.name}-outside", *(path.name for path in (self.state / "hosts").glob("*"))}
        return [cgroup.path_of(name) for name in sorted(names)]

    def end_processes(self) -> None:
        """Kill what is in the lab's cgroups and what is in its network namespace.

        Nothing is in these but what the lab's commands put there. The wrappers go first, so
        that nobody enters any more, and the namespace's name goes once it is empty; a second
        look finds what slipped in between. An open descriptor keeps the namespace, so that
        its number cannot become another's while processes are compared with it.
        """
        for program in PROGRAMS:
            (self.state / "bin" / program).unlink(missing_ok=True)
        netns: int | None = None
        if mounted(self.netns):
            netns = os.open(self.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.kill_rounds(netns)
            while mounted(self.netns):
                machine.run(["umount", "--lazy", str(self.netns)], timeout=10)
            self.kill_rounds(netns)
        finally:
            if netns is not None:
                os.close(netns)
        for group in self.cgroups():
            cgroup.end(group, DOWN_TIMEOUT)

    def kill_rounds(self, netns: int | None) -> None:
        deadline = time.monotonic() + DOWN_TIMEOUT
        while left := self.kill_round(netns):
            if time.monotonic() > deadline:
                raise TestbedError(f"lab {self.name}: processes {sorted(left)} do not end")
            time.sleep(0.05)

    def kill_round(self, netns: int | None) -> set[int]:
        left: set[int] = set()
        for group in self.cgroups():
            cgroup.kill(group)
            left.update(cgroup.members(group))
        if netns is not None:
            stat = os.fstat(netns)
            for pid in process.pids():
                if process.kill_if(pid, lambda pid=pid: process.in_netns(pid, stat)):  # type: ignore[misc]
                    left.add(pid)
        return left

    # -- use

    def reboot(self, number: int, *, hard: bool, timeout: float, settled: bool) -> str:
        """Reboot a host from inside, or cut its power, and wait until it is up again."""
        host = self.existing_host(number)
        before = host.machine()
        if before is None:
            raise TestbedError(f"host {host.name}: is not running; start it with: testbed up --lab {self.name}")
        if hard:
            files.write_atomic(host.directory / "restart", "")
            cgroup.kill(host.boot_cgroup(before))
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                host.run(["systemctl", "reboot"], 30)
        return host.wait(timeout=timeout, after_boots=before.boots, settled=settled)


def wait_for_supervisor(host: Host, child: subprocess.Popen[bytes]) -> None:
    """Wait until the host has a supervisor: the one just started or, if it was late, one that a killed ``up`` left."""
    deadline = time.monotonic() + 20
    while not host.supervised():
        if child.poll() or time.monotonic() > deadline:
            log = (host.directory / "supervisor.log").read_text(errors="replace")
            raise TestbedError(f"host {host.name}: its supervisor did not start:\n" + "\n".join(log.splitlines()[-20:]))
        time.sleep(0.02)


def mounted(path: Path) -> bool:
    """Whether something is mounted on the path (proc_pid_mountinfo(5))."""
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def make_key(path: Path, comment: str) -> None:
    """Make an SSH key pair unless it is there; the private key appears last."""
    if path.exists():
        return
    beside = path.with_name(f".{path.name}.new")
    public = beside.with_name(f"{beside.name}.pub")
    beside.unlink(missing_ok=True)
    public.unlink(missing_ok=True)
    machine.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(beside)], timeout=30)
    os.rename(public, path.with_name(f"{path.name}.pub"))
    os.rename(beside, path)
