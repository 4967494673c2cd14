# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Parts of the profiles at work: Docker engines in a swarm, and a screen over SPICE; a table, and build/profiles.json.

README.md beside this file says what is real here and what is not.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.microvm.fleet.plugins.module_utils._profiles import Guest, choose
from microvm_testbed import tree as trees

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TESTBED = ROOT / "tests" / "testbed" / "testbed"
SWARM = ROOT / "roles" / "flake" / "files" / "microvm-fleet" / "nix" / "profiles" / "docker" / "swarm.sh"
ASK = HERE / "remote" / "ask.py"
RELEASE = "trixie"
# Of the hosts, beside what every host of the testbed has.
HOST_PACKAGES = ("docker.io", "docker-cli", "iptables", "qemu-system-modules-spice")
# Of this machine: Debian's package, and a file of it.
PACKAGES = {
    "imagemagick": "/usr/bin/convert",
    "nix-bin": "/usr/bin/nix-instantiate",
    "virt-viewer": "/usr/bin/remote-viewer",
    "xvfb": "/usr/bin/Xvfb",
}
HOSTS = (1, 2, 3)
SCREEN = ":93"
# A cell of VGA's text, in pixels: its font has nine columns, of which the last one is empty for letters.
CELL = (9, 16)
PATIENCE = 180.0
QMP = "/var/lib/microvms/desk/desk.sock"
SOCKET = "/var/lib/microvms/desk/spice.sock"
# What the stand-in guest says on its screen.
GREETING = "guest: desk 1 is up, boot "


class Failed(Exception):
    """What should have been seen was not."""


def run(argv: list[str], *, text: str | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whatever that is."""
    return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=timeout, check=False)


def must(argv: list[str], *, text: str | None = None, timeout: float = 600) -> str:
    """What a program prints, which has to end well."""
    done = run(argv, text=text, timeout=timeout)
    if done.returncode:
        message = f"{shlex.join(argv)} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-2000:]}"
        raise Failed(message)
    return done.stdout


def until(what: str, condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """What *condition* gives as soon as it is true."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > deadline:
            message = f"after {patience:.0f} s there is still not: {what}"
            raise Failed(message)
        time.sleep(0.5)
    return value


def expect(what: str, seen: object, wished: object) -> None:
    """Both are the same."""
    if seen != wished:
        message = f"{what}: {seen!r}, where {wished!r} was expected"
        raise Failed(message)


def archives() -> list[Path]:
    """The packages for the hosts with all that they need, as apt would install them into the testbed's tree.

    Hosts have no way out, so this machine's apt gets them, with the tree's list of what is installed.
    """
    tree = trees.ensure(RELEASE)
    place = trees.cache_dir().parent / "packages" / tree.name
    kept = place / "archives"
    # Written last, so it says that all of them are there.
    complete = place / "complete.json"
    if complete.exists() and json.loads(complete.read_text()) == list(HOST_PACKAGES):
        return sorted(kept.glob("*.deb"))
    for directory in (kept / "partial", place / "lists" / "partial"):
        directory.mkdir(parents=True, exist_ok=True)
    listed = place / "sources.list"
    listed.write_text(
        f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {trees.mirror()} {RELEASE} main\n"
    )
    options = [
        f"Dir::Etc::sourcelist={listed}",
        "Dir::Etc::sourceparts=-",
        f"Dir::State::lists={place / 'lists'}",
        f"Dir::State::status={tree / 'var/lib/dpkg/status'}",
        f"Dir::Cache::archives={kept}",
        "Dir::Cache::pkgcache=",
        "Dir::Cache::srcpkgcache=",
        "APT::Sandbox::User=root",
    ]
    apt = ["apt-get", "-q", *(word for option in options for word in ("-o", option))]
    must([*apt, "update"])
    must([*apt, "-y", "--no-install-recommends", "--download-only", "install", *HOST_PACKAGES])
    complete.write_text(json.dumps(HOST_PACKAGES))
    return sorted(kept.glob("*.deb"))


@dataclass
class Lab:
    """The hosts."""

    name: str
    work: Path
    collections: Path
    # Short, as the path of a socket has to be.
    sockets: Path

    def ssh(self, host: int, command: str, *, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command on a host over SSH."""
        return run([str(TESTBED), "ssh", "--lab", self.name, str(host), command], text=text)

    def do(self, host: int, command: str, *, text: str | None = None) -> str:
        """What a command on a host prints; it has to end well."""
        return must([str(TESTBED), "ssh", "--lab", self.name, str(host), command], text=text)

    def ask(self, place: str, *requests: dict[str, Any]) -> list[Any]:
        """What the QEMU of a socket on the first host answers."""
        words = ["python3", "-", place, *(json.dumps(request) for request in requests)]
        answers: list[Any] = json.loads(self.do(1, shlex.join(words), text=ASK.read_text(encoding="utf-8")))
        return answers

    def put(self, host: int, path: str, text: str) -> None:
        """Write a file of root."""
        self.do(
            host, f"umask 077; mkdir -p {shlex.quote(str(Path(path).parent))}; cat > {shlex.quote(path)}", text=text
        )

    @property
    def inventory(self) -> Path:
        """What ansible-playbook reads."""
        return self.work / "inventory.yml"

    def variables(self) -> dict[str, dict[str, Any]]:
        """The variables of every host, by its number as text."""
        listed = json.loads(must(["ansible-inventory", "-i", str(self.inventory), "--list", "--export"], timeout=60))
        found: dict[str, dict[str, Any]] = listed["_meta"]["hostvars"]
        return {host.rpartition("-")[2]: values for host, values in found.items()}

    def play(self, playbook: Path | str, *further: str) -> str:
        """Run a playbook on the hosts."""
        return must(["ansible-playbook", "-i", str(self.inventory), str(playbook), *further], timeout=900)

    def up(self) -> None:
        """Have the hosts, with Docker engines and a QEMU that speaks SPICE."""
        subprocess.run(
            [TESTBED, "up", "--lab", self.name, "--hosts", str(len(HOSTS)), "--release", RELEASE], check=True
        )
        self.inventory.write_text(must([str(TESTBED), "inventory", "--lab", self.name]), encoding="utf-8")
        os.environ.update(
            ANSIBLE_COLLECTIONS_PATH=str(self.collections),
            ANSIBLE_HOME=str(self.work / "ansible-home"),
            ANSIBLE_PIPELINING="1",
            ANSIBLE_NOCOLOR="1",
        )
        self.play(HERE / "playbooks" / "prepare.yml")
        packages = archives()
        for host in HOSTS:
            if self.ssh(host, "test -e /var/cache/packages/complete").returncode:
                self.install(host, packages)

    def install(self, host: int, packages: list[Path]) -> None:
        """Install packages on a host, all in one stream."""
        names = [path.name for path in packages]
        packed = subprocess.run(
            ["tar", "--create", f"--directory={packages[0].parent}", *names],
            capture_output=True,
            check=True,
            timeout=120,
        ).stdout
        unpack = "mkdir -p /var/cache/packages && tar --extract --directory=/var/cache/packages --file=-"
        argv = [str(TESTBED), "ssh", "--lab", self.name, str(host), unpack]
        subprocess.run(argv, input=packed, check=True, timeout=300)
        self.do(
            host,
            "DEBIAN_FRONTEND=noninteractive dpkg -i --skip-same-version --force-unsafe-io /var/cache/packages/*.deb"
            " && touch /var/cache/packages/complete",
        )

    def down(self) -> None:
        """Take them away."""
        subprocess.run([TESTBED, "down", "--lab", self.name], check=True)


def described(
    lab: Lab, guests: Mapping[str, tuple[str, Mapping[str, Any], tuple[str, ...], str]], attribute: str
) -> dict[str, Any]:
    """What the static flake makes of guests: name -> (profile, its options, credentials, address) to an attribute."""
    entries = {}
    peers = {name: (address,) for name, (_profile, _options, _credentials, address) in guests.items()}
    for name, (profile, options, credentials, address) in guests.items():
        wish = Guest(
            name=name,
            hypervisor="qemu",
            profiles=(profile,),
            options={profile: dict(options)},
            addresses=(address,),
            credentials=frozenset(credentials),
        )
        chosen, errors = choose(wish, peers)
        if errors:
            raise Failed("; ".join(str(error) for error in errors))
        entries[name] = {
            "hypervisor": "qemu",
            "vcpu": chosen.vcpu,
            "mem": chosen.mem,
            "host_name": name,
            "release": None,
            "interfaces": [],
            "forward_ports": [],
            "volumes": [],
            "shares": [],
            "store": "disk",
            "vsock_cid": None,
            "credentials": sorted(credentials),
            "ssh_keys": [],
            "profiles": chosen.options,
            "modules": [],
            "options": {},
        }
    path = lab.work / "guests.json"
    path.write_text(json.dumps({"version": 1, "system": "x86_64-linux", "guests": entries}), encoding="utf-8")

    printed = must([sys.executable, str(ROOT / "tests/nix/evaluate"), str(path), "--show", f"config.{attribute}"])
    found = {}
    for name in guests:
        rest = printed[printed.index(f"{name}: ") + len(name) + 2 :]
        try:
            found[name] = json.JSONDecoder().raw_decode(rest)[0]
        except json.JSONDecodeError:  # strings are printed as they are
            found[name] = rest.splitlines()[0]
    return found


# --- a swarm ---------------------------------------------------------------------------------------------------


def unit(service: dict[str, Any], token: str) -> str:
    """The service of a profile for a Debian host: its own settings, with the paths of this host."""
    settings = dict(service["serviceConfig"])
    # /nix/store/HASH-swarm.sh, or where the static files lie when they are not in a store.
    command = re.sub(r"\S+swarm[.]sh", "/srv/profiles/swarm.sh", settings.pop("ExecStart"))
    settings["ExecStart"] = re.sub(r"--token-file \S+", f"--token-file {token}", command)
    lines = ["[Unit]", f"Description={service['description']}", "StartLimitIntervalSec=0"]
    lines += [f"{name.capitalize()}={' '.join(service[name])}" for name in ("after", "requires", "wants")]
    lines.append("[Service]")
    lines += [f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in settings.items()]
    lines += ["[Install]", f"WantedBy={' '.join(service['wantedBy'])}"]
    return "\n".join(lines) + "\n"


def daemon(engine: Mapping[str, Any]) -> str:
    """What the module of NixOS makes of virtualisation.docker: daemon.json, as Debian's service reads it."""
    settings = {
        "live-restore": engine["liveRestore"],
        "storage-driver": engine["storageDriver"],
        "log-driver": engine["logDriver"],
    }
    return json.dumps(settings)


@dataclass
class Swarm:
    """Two managers and a worker, by the services of the profiles."""

    lab: Lab
    addresses: dict[int, str]
    members: list[int] = field(default_factory=list)

    def info(self, host: int) -> dict[str, Any]:
        """What an engine says of its swarm."""
        value: dict[str, Any] = json.loads(self.lab.do(host, "docker info --format '{{json .Swarm}}'"))
        return value

    def nodes(self) -> dict[str, str]:
        """The nodes that the first manager knows: id -> state; none while there is no leader."""
        printed = self.lab.ssh(1, "docker node ls --format '{{.ID}} {{.Status}}'").stdout
        return dict(line.split() for line in printed.splitlines())

    def start(self, host: int) -> str:
        """Start the service again; what it says."""
        self.lab.do(host, "systemctl restart fleet-swarm")
        unit_says = (
            "journalctl -u fleet-swarm -o cat _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID fleet-swarm)"
        )
        return self.lab.do(host, unit_says)

    def token(self, role: str) -> str:
        """The token of the swarm for those who join as this."""
        return self.lab.do(1, f"docker swarm join-token -q {role}")

    def identity(self) -> tuple[object, ...]:
        """What must stay as it is."""
        nodes = sorted(self.info(host)["NodeID"] for host in self.members)
        expect("nodes", sorted(self.nodes()), nodes)
        return (*nodes, self.token("worker"), self.token("manager"))

    def active(self, host: int) -> bool:
        """Whether the service has done its work."""
        return self.lab.ssh(host, "systemctl is-active fleet-swarm").stdout.strip() == "active"

    def settled(self) -> None:
        """Wait for the services, and for the nodes to have found each other."""
        for host in self.members:
            until(f"the service of host {host}", functools.partial(self.active, host))
        until("all nodes ready", lambda: list(self.nodes().values()) == ["Ready"] * len(self.members))

    def install(self) -> None:
        """The engines and services, as the static flake makes them."""
        manager, worker = "docker_swarm_manager", "docker_swarm_worker"
        guests = {
            "m1": (manager, {}, (), f"{self.addresses[1]}/24"),
            "w1": (worker, {"manager": "m1"}, ("swarm-worker-token",), f"{self.addresses[2]}/24"),
            "m2": (manager, {"manager": "m1"}, ("swarm-manager-token",), f"{self.addresses[3]}/24"),
        }
        names = ("description", "after", "requires", "wants", "wantedBy", "serviceConfig")
        parts = {name: described(self.lab, guests, f"systemd.services.fleet-swarm.{name}") for name in names}
        settings = {
            name: described(self.lab, guests, f"virtualisation.docker.{name}")
            for name in ("liveRestore", "storageDriver", "logDriver")
        }
        for host, name in zip(HOSTS, guests, strict=True):
            self.lab.put(host, "/srv/profiles/swarm.sh", SWARM.read_text(encoding="utf-8"))
            text = unit({part: values[name] for part, values in parts.items()}, "/srv/profiles/token")
            self.lab.put(host, "/etc/systemd/system/fleet-swarm.service", text)
            self.lab.put(host, "/etc/docker/daemon.json", daemon({key: one[name] for key, one in settings.items()}))
            self.lab.do(host, "systemctl daemon-reload; systemctl -q enable fleet-swarm; systemctl restart docker")

    def make(self) -> str:
        """A first manager makes a swarm."""
        self.install()
        said = self.start(1)
        expect("what it said first", said.splitlines()[0], "swarm: making a new swarm")
        info = self.info(1)
        expect("state", info["LocalNodeState"], "active")
        expect("manager", info["ControlAvailable"], True)
        expect("data path port", info["Cluster"]["DataPathPort"], 7789)
        expect("pool", info["Cluster"]["DefaultAddrPool"], ["10.213.0.0/16"])
        self.members = [1]
        engine = self.lab.do(1, "docker info --format '{{.ServerVersion}}, {{.Driver}}, {{.LoggingDriver}}'").strip()
        expect("drivers", engine.partition(", ")[2], "overlay2, local")
        return f"node {info['NodeID']} at {info['NodeAddr']}; engine {engine}"

    def wait_for_token(self) -> str:
        """A worker without its token tries until it has one."""
        self.lab.do(2, "rm -f /srv/profiles/token; systemctl restart --no-block fleet-swarm")
        until(
            "a second try",
            lambda: int(self.lab.do(2, "systemctl show -P NRestarts fleet-swarm")) >= 1,
        )
        expect("state", self.info(2)["LocalNodeState"], "inactive")
        self.lab.put(2, "/srv/profiles/token", self.token("worker"))
        self.members = [1, 2]
        self.settled()
        expect("manager", self.info(2)["ControlAvailable"], False)
        return f"nodes {', '.join(sorted(self.nodes()))}"

    def join_unseen(self) -> str:
        """A second manager joins; no program that it starts has the token in its arguments."""
        token = self.token("manager")
        self.lab.put(3, "/srv/profiles/token", token)
        command = self.lab.do(3, "systemctl show -P ExecStart fleet-swarm")
        words = re.sub(r".* argv\[\]=(.*?) ;.*", r"\1", command.strip())
        self.lab.do(3, f"strace -f -qq -e trace=execve -s 4096 -o /srv/profiles/trace {words}")
        trace = self.lab.do(3, "cat /srv/profiles/trace")
        programs = re.findall(r'execve\("([^"]*)"', trace)
        if not any(program.endswith("/curl") for program in programs):
            message = f"nothing asked the engine: {programs}"
            raise Failed(message)
        expect("the token in arguments", token.strip() in trace, False)
        self.lab.do(3, "systemctl start fleet-swarm")
        self.members = [1, 2, 3]
        self.settled()
        expect("manager", self.info(3)["ControlAvailable"], True)
        return f"{len(programs)} programs started"

    def data_path(self) -> str:
        """Overlay networks are at the port of the profile, beside a VXLAN of the host's own at 4789."""
        found = {}
        for host in self.members:
            listed = self.lab.do(
                host,
                "for n in /run/docker/netns/1-*; do nsenter --net=$n ip -j -d link show type vxlan 2> /dev/null; done",
            )
            links = [link for part in listed.splitlines() for link in json.loads(part) if link]
            found[host] = {link["linkinfo"]["info_data"]["port"] for link in links}
            self.lab.do(
                host,
                "ip link add h-vxlan type vxlan id 7 dstport 4789 && ip link set h-vxlan up && ip link del h-vxlan",
            )
        expect("ports", found, {host: {7789} for host in self.members})
        return "udp 7789 on all nodes"

    def again(self) -> str:
        """A second run changes nothing, and needs no token."""
        for host in self.members:
            self.lab.do(host, "rm -f /srv/profiles/token")
        before = self.identity()
        said = [self.start(host) for host in self.members]
        expect("what it said", [text.count("\n") for text in said], [1] * len(self.members))
        expect("swarm", self.identity(), before)
        return "; ".join(text.strip() for text in said)

    def after_engine(self) -> str:
        """Engines that are restarted come back into their swarm, and the services with them."""
        before = self.identity()
        for host in reversed(self.members):
            self.lab.do(host, "systemctl restart docker")
        self.settled()
        expect("swarm", self.identity(), before)
        return "same nodes and tokens"

    def manager_lost(self) -> str:
        """While a manager is away, the others' services see what they are; when it comes back, it is as before."""
        before = self.identity()
        self.lab.do(1, "systemctl stop docker.socket; systemctl kill --signal=KILL docker; systemctl stop docker")
        until("the other manager without a leader", lambda: self.lab.ssh(3, "docker node ls").returncode != 0)
        said = [self.start(host).strip() for host in (2, 3)]
        self.lab.do(1, "systemctl start docker.socket docker && systemctl start fleet-swarm")
        self.settled()
        must([str(TESTBED), "reboot", "--hard", "--lab", self.lab.name, "1"], timeout=300)
        self.settled()
        expect("swarm", self.identity(), before)
        return f"meanwhile: {'; '.join(said)}"

    def after_boot(self) -> str:
        """All hosts rebooted."""
        before = self.identity()
        for host in self.members:
            must([str(TESTBED), "reboot", "--lab", self.lab.name, str(host)], timeout=300)
        self.settled()
        expect("swarm", self.identity(), before)
        return "same nodes and tokens"

    def left_alone(self) -> str:
        """A node that is not as wished stays as it is, and the reason is said."""
        before = self.identity()
        worker = f"worker --advertise {self.addresses[2]} --data-path-port 7789 --join {self.addresses[1]}"
        for arguments, host, words in (
            (f"manager --advertise {self.addresses[1]} --data-path-port 4789 --pool 10.213.0.0/16 --subnet-size 24", 1,
             "has the data path port 7789, and 4789 is wished"),
            (f"{worker.replace(self.addresses[2], '192.0.2.2')} --token-file /nowhere", 2,
             f"has the advertised address {self.addresses[2]}, and 192.0.2.2 is wished"),
            (f"{worker.replace('worker', 'manager', 1)} --token-file /nowhere", 2,
             "this node is a worker. It was left so"),
        ):  # fmt: skip
            done = self.lab.ssh(host, f"sh /srv/profiles/swarm.sh {arguments} --patience 3")
            expect("exit status", done.returncode, 3)
            if words not in done.stderr:
                raise Failed(done.stderr)
        expect("swarm", self.identity(), before)
        return "data path port, address, role"

    def bad_token(self) -> str:
        """A file that holds no token, and a token of another swarm, are refused; nothing is joined."""
        engine = "docker -H unix:///run/second.sock"
        self.lab.do(
            2,
            "mkdir -p /srv/second && systemd-run -q --unit second-engine dockerd -H unix:///run/second.sock"
            " --data-root /var/lib/docker/second --exec-root /run/second --pidfile /run/second.pid --iptables=false"
            " --bridge=none --containerd /run/containerd/containerd.sock --containerd-namespace second"
            " --containerd-plugins-namespace second-plugins",
        )
        until("a second engine", lambda: self.lab.ssh(2, f"{engine} info").returncode == 0)
        script = (
            f"DOCKER_HOST=unix:///run/second.sock sh /srv/profiles/swarm.sh worker --advertise {self.addresses[2]}"
            f" --data-path-port 7789 --join {self.addresses[1]} --patience 3 --token-file "
        )
        self.lab.put(2, "/srv/second/none", "hello\n")
        done = self.lab.ssh(2, script + "/srv/second/none")
        expect("exit status", done.returncode, 3)
        if "has no token; 'docker swarm join-token -q worker'" not in done.stderr:
            raise Failed(done.stderr)
        self.lab.put(2, "/srv/second/other", f"{self.token('worker').strip()[:-5]}aaaaa\n")
        done = self.lab.ssh(2, script + "/srv/second/other")
        expect("exit status", done.returncode, 1)
        if "join token" not in done.stderr:
            raise Failed(done.stderr)
        state = self.lab.do(2, f"{engine} info --format '{{{{.Swarm.LocalNodeState}}}}'").strip()
        expect("state", state, "inactive")
        # It took away the first engine's bridge, which that one makes again.
        self.lab.do(2, "systemctl stop second-engine; systemctl restart docker")
        self.settled()
        return "no token, another swarm's token"


# --- a screen ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def program(argv: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program for as long as the block lasts."""
    with subprocess.Popen(
        argv,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def lit(path: Path) -> set[tuple[int, int]]:
    """The pixels of a picture that are brighter than half."""
    printed = must(["convert", str(path), "-colorspace", "Gray", "-threshold", "50%", "txt:-"])
    return {(int(x), int(y)) for x, y in re.findall(r"(\d+),(\d+): \S+\s+#F", printed)}


def place(drawn: set[tuple[int, int]], seen: set[tuple[int, int]]) -> tuple[int, int]:
    """Where most of some of the pixels *drawn* are, as (columns, rows) from where they would be in what is *seen*."""
    some = sorted(drawn)[:: max(1, len(drawn) // 50)]
    found = Counter((x - left, y - top) for left, top in some for x, y in seen if x >= left and y >= top)
    return found.most_common(1)[0][0] if found else (0, 0)


def reads(pixels: set[tuple[int, int]], text: str) -> bool:
    """Whether a line of VGA's text begins with these words: same letters alike, others not, spaces empty.

    *text* has many letters more than once, so no other one has its pattern by chance.
    """
    cells: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for x, y in pixels:
        cells.setdefault((x // CELL[0], y // CELL[1]), set()).add((x % CELL[0], y % CELL[1]))
    for row in {row for _column, row in cells}:
        shapes = [frozenset(cells.get((column, row), ())) for column in range(len(text))]
        pairs = set(zip(text, shapes, strict=True))
        if len(pairs) == len(set(text)) == len(set(shapes)) and (" ", frozenset()) in pairs:
            return True
    return False


@dataclass
class Screen:
    """A stand-in guest with the QEMU of the profile."""

    lab: Lab
    kept: Path

    def have(self, **options: Any) -> list[str]:
        """Have a guest of the profile: by the collection, in the units of the host role; QEMU's further arguments."""
        desk = {"desk": ("spice_desktop", {"usb_ports": 2, "user": "alice", **options}, (), "192.0.2.9/24")}
        qemu = described(self.lab, desk, "microvm.qemu")["desk"]
        # What the stand-in has of its own: accel, acpi, mem-merge.
        given = {"machine": f"{qemu['machine']},i8042={qemu['machineOpts']['i8042']}"}
        guest = {
            **given,
            "mem": 192,
            "interfaces": [],
            # The kernel's messages too, for a screen with something on it.
            "kernelParams": ["console=tty0", "loglevel=7"],
            "preStart": described(self.lab, desk, "microvm.preStart")["desk"],
            "qemuExtraArgs": qemu["extraArgs"],
        }
        text = json.dumps({"guests": {"desk": guest}}, indent=1)
        self.lab.put(1, "/srv/guests/guests.json", text)
        self.lab.play(HERE / "playbooks" / "desk.yml")
        until("the socket", lambda: self.lab.ssh(1, f"test -S {SOCKET}").returncode == 0)
        return [str(word) for word in qemu["extraArgs"]]

    def made(self) -> str:
        """A guest with what the profile wishes by itself."""
        return shlex.join(self.have())

    def connect(self, group: str) -> str:
        """What somebody of this group, who is neither root nor the hypervisor's user, is told at the socket."""
        other = f"setpriv --reuid=65534 --regid={group} --clear-groups"
        done = self.lab.ssh(1, f"{other} socat -u OPEN:/dev/null UNIX-CONNECT:{SOCKET}")
        return done.stderr.strip().rpartition(": ")[2] if done.returncode else "welcome"

    def socket(self) -> str:
        """The socket is the hypervisor's user's alone, and QEMU listens nowhere else."""
        seen = self.lab.do(1, f"stat -c '%a %U' {SOCKET}").strip()
        expect("mode and owner", seen, "600 microvm")
        pid = self.lab.do(1, "systemctl show -P MainPID microvm@desk").strip()
        expect("TCP ports", self.lab.ssh(1, f"ss -Hlntup | grep pid={pid},").stdout, "")
        # Others cannot, which is what the mode is for.
        told = {group: self.connect(group) for group in ("nogroup", "kvm")}
        expect("others", told, {"nogroup": "Permission denied", "kvm": "Permission denied"})
        return seen

    def shared(self) -> str:
        """With group_access the group kvm may open it too, and still nobody else."""
        self.have(group_access=True)
        seen = self.lab.do(1, f"stat -c '%a %U:%G' {SOCKET}").strip()
        expect("mode and owners", seen, "660 microvm:kvm")
        told = {group: self.connect(group) for group in ("nogroup", "kvm")}
        expect("others", told, {"nogroup": "Permission denied", "kvm": "welcome"})
        return seen

    def channels(self) -> str:
        """The devices of the profile are there: screen, agent, USB."""
        listed, spice = self.lab.ask(QMP, {"execute": "query-chardev"}, {"execute": "query-spice"})
        chardevs = {one["label"]: one["filename"] for one in listed}
        wished = {"fleet-agent", "fleet-usb1", "fleet-usb2"}
        expect("channels", {name for name, kind in chardevs.items() if kind == "spicevmc"}, wished)
        expect("spice", (spice["enabled"], spice["host"]), (True, "spice.sock"))
        return ", ".join(sorted(wished))

    def said(self) -> str:
        """The playbook prints how to open the screen."""
        printed = self.lab.play("microvm.fleet.console", *self.arguments())
        words = "remote-viewer spice+unix://"
        if words not in printed or "/var/lib/microvms/desk/spice.sock" not in printed:
            raise Failed(printed)
        self.refused("nobody", "No host that answered has a guest nobody.")
        return next(line.strip() for line in printed.splitlines() if words in line)

    def refused(self, guest: str, words: str) -> None:
        """The playbook says why it cannot."""
        argv = ["ansible-playbook", "-i", str(self.lab.inventory), "microvm.fleet.console", *self.arguments(guest)]
        done = run(argv, timeout=900)
        if done.returncode == 0 or words not in done.stdout:
            raise Failed(done.stdout + done.stderr)

    def arguments(self, guest: str = "desk", **further: Any) -> tuple[str, ...]:
        """Those of the playbook."""
        variables = {
            "microvm_hosts": "all",
            "microvm_console_guest": guest,
            "microvm_console_directory": str(self.lab.sockets),
            **further,
        }
        return ("-e", json.dumps(variables))

    def seen(self) -> str:
        """A SPICE client, opened by the playbook, shows the guest's screen."""
        self.lab.do(1, "systemctl restart microvm@desk")
        own, shot = self.kept / "desk-by-qemu.png", self.kept / "desk.png"
        with program(["Xvfb", SCREEN, "-screen", "0", "1024x768x24", "-nolisten", "tcp"], {}):
            until("an X server", lambda: Path(f"/tmp/.X11-unix/X{SCREEN[1:]}").exists())
            environment = {"DISPLAY": SCREEN, "GDK_BACKEND": "x11", "NO_AT_BRIDGE": "1"}
            # A pixel of the guest is one of the screen.
            opened = self.arguments(microvm_console_open=True, microvm_console_viewer=["remote-viewer", "--zoom=100"])
            argv = ["ansible-playbook", "-i", str(self.lab.inventory), "microvm.fleet.console", *opened]
            with program(argv, environment):
                alike, lines = until("the guest's screen in the client", lambda: self.compare(own, shot), patience=150)
        return f"{shot}: {lines} lines of text, {alike:.0%} of the lit pixels are those that QEMU draws"

    def compare(self, own: Path, shot: Path) -> tuple[float, int] | None:
        """How much of what QEMU draws is in the client, and the lines of text there; nothing before both are as wished.

        The guest's own line is read in the client's picture.
        """
        self.dump(own)
        must(["import", "-display", SCREEN, "-window", "root", str(shot)])
        drawn, seen = lit(own), lit(shot)
        if len(drawn) < 500:
            return None
        across, down = place(drawn, seen)
        inside = {(x - across, y - down) for x, y in seen}
        alike = len(drawn & inside) / len(drawn)
        rows = {y // CELL[1] for x, y in drawn & inside}
        if alike < 0.95 or len(rows) < 2 or not reads(inside, GREETING):
            return None
        return alike, len(rows)

    def dump(self, path: Path) -> None:
        """What QEMU itself has on the screen, as a picture."""
        raw = "/var/lib/microvms/desk/screen.ppm"
        self.lab.ask(QMP, {"execute": "screendump", "arguments": {"filename": raw}})
        remote = [str(TESTBED), "ssh", "--lab", self.lab.name, "1", f"cat {raw}"]
        picture = subprocess.run(remote, capture_output=True, check=True, timeout=60).stdout
        subprocess.run(["convert", "ppm:-", str(path)], input=picture, check=True, timeout=60)

    def stopped(self) -> str:
        """The machine of the profile stops cleanly."""
        self.lab.do(1, "systemctl stop microvm@desk")
        expect("result", self.lab.do(1, "systemctl show -P Result microvm@desk").strip(), "success")
        state = self.lab.do(1, "python3 /srv/guests/volume_state.py /var/lib/microvms/desk/data.img")
        expect("clean", json.loads(state)["clean"], True)
        self.refused("desk", "shows no screen over SPICE: it does not run")
        return "success, and the playbook says that it does not run"

    def ticket(self) -> str:
        """Over TCP, QEMU takes the ticket from its file, and lets nobody in without it."""
        options = {"address": "127.0.0.1", "port": 5999}
        guest = {"desk": ("spice_desktop", options, ("spice-ticket",), "192.0.2.9/24")}
        words = described(self.lab, guest, "microvm.qemu")["desk"]["extraArgs"]
        spice = [word.replace("/run/credentials/microvm@desk.service", "/srv/profiles") for word in words]
        self.lab.put(1, "/srv/profiles/spice-ticket", "tell-nobody")
        argv = shlex.join(
            ["/usr/bin/qemu-system-x86_64", "-M", "q35,accel=tcg", "-m", "64", "-nodefaults", "-nographic", "-qmp",
             "unix:/srv/profiles/qmp.sock,server,nowait", "-S", *spice]
        )  # fmt: skip
        self.lab.do(1, f"systemctl reset-failed ticket 2> /dev/null; systemd-run -q --unit ticket {argv}")
        until("QEMU", lambda: self.lab.ssh(1, "test -S /srv/profiles/qmp.sock").returncode == 0)
        (answer,) = self.lab.ask("/srv/profiles/qmp.sock", {"execute": "query-spice"})
        expect("listens", (answer["host"], answer["port"], answer["auth"]), ("127.0.0.1", 5999, "spice"))
        self.lab.do(1, "systemctl stop ticket")
        # Without the file it does not start, rather than without a ticket.
        self.lab.do(1, "rm /srv/profiles/spice-ticket")
        done = self.lab.ssh(1, f"timeout 20 {argv}")
        if done.returncode in (0, 124):
            message = f"QEMU started without its ticket: {done.returncode}"
            raise Failed(message)
        return f"{answer['auth']} on {answer['host']}:{answer['port']}; no start without the file"


def cases(lab: Lab, kept: Path) -> dict[str, list[tuple[str, Callable[[], Any]]]]:
    """What is tried, in this order."""
    variables = lab.variables()
    swarm = Swarm(lab, {int(number): one["testbed_ipv4"] for number, one in variables.items()})
    screen = Screen(lab, kept)
    return {
        "swarm": [
            ("a first manager makes a swarm", swarm.make),
            ("a second host joins as soon as it has its token", swarm.wait_for_token),
            ("a second manager joins, its token in no arguments", swarm.join_unseen),
            ("the port of overlay networks", swarm.data_path),
            ("a second run changes nothing", swarm.again),
            ("engines restarted", swarm.after_engine),
            ("a manager is lost and comes back", swarm.manager_lost),
            ("hosts rebooted", swarm.after_boot),
            ("what is not as wished is left alone", swarm.left_alone),
            ("bad tokens", swarm.bad_token),
        ],
        "spice": [
            ("a guest with the QEMU of the profile", screen.made),
            ("its socket, for one user alone", screen.socket),
            ("agent and USB channels", screen.channels),
            ("the playbook prints the command", screen.said),
            ("a real client shows the screen", screen.seen),
            ("its socket, for the group kvm too when asked", screen.shared),
            ("a clean stop", screen.stopped),
            ("a TCP port with its ticket", screen.ticket),
        ],
    }


def row(name: str, *, ok: bool, seconds: float) -> dict[str, Any]:
    """One line of the report."""
    return {
        "name": name,
        "value": round(seconds, 1),
        "unit": "s",
        "target": None,
        "peer": None,
        "peer_value": None,
        "ok": ok,
    }


def machine_packages() -> None:
    """Install what is missing on this machine."""
    missing = [name for name, path in PACKAGES.items() if not Path(path).exists()]
    if missing:
        print(f"installing Debian packages: {' '.join(missing)}", flush=True)
        must(["apt-get", "update", "-q"])
        must(
            ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-yq", "--no-install-recommends", *missing]
        )


def main() -> int:
    """Run, print, write the report; the exit status is 0 if all was seen."""
    parser = argparse.ArgumentParser(prog="run", description=__doc__)
    parser.add_argument(
        "--collections", type=Path, required=True, help="directory with ansible_collections/microvm/fleet"
    )
    parser.add_argument("--work", type=Path, help="directory for what is needed in between")
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "profiles.json")
    parser.add_argument("--lab", default="profiles")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    parser.add_argument("parts", nargs="*", help="swarm, spice; all if none is given")
    given = parser.parse_args()
    kept = given.report.parent / "profiles"
    kept.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        lab = Lab(given.lab, work.resolve(), given.collections.resolve(), Path(temporary))
        try:
            machine_packages()
            lab.up()
            for part, tried in cases(lab, kept).items():
                if given.parts and part not in given.parts:
                    continue
                for name, action in tried:
                    begun = time.monotonic()
                    try:
                        ok, said = True, str(action())
                    except (Failed, subprocess.SubprocessError) as error:
                        ok, said = False, str(error)
                    rows.append(row(f"{part}: {name}", ok=ok, seconds=time.monotonic() - begun))
                    print(
                        f"{rows[-1]['name']:<60} {rows[-1]['value']:>6} s {'ok' if ok else 'NOT OK'}\n    {said}",
                        flush=True,
                    )
                    if not ok:
                        break
        finally:
            if not given.keep:
                lab.down()
    given.report.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if rows and all(each["ok"] for each in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
