# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the stand-in flake on a host of the testbed: its runners file by file, and guests that really boot.

Run it as root on the host.  It works in a directory and on a bridge of its own and removes both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import typing as t
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
BRIDGE = "br-chk"
PREFIX = "192.0.2"  # TEST-NET-1, RFC 5737
DEADLINE = 240.0

SCRIPTS = {"microvm-run", "microvm-shutdown", "microvm-balloon", "tap-up", "tap-down"}
FACTS = """
m: {
  runner = m.declaredRunner.outPath;
  same = m.runner.${m.hypervisor}.outPath == m.declaredRunner.outPath;
  inherit (m.declaredRunner) passthru name;
  inherit (m) hypervisor vcpu mem socket storeOnDisk registerWithMachined;
  cid = m.vsock.cid;
  kernel = m.kernel.outPath;
  initrd = m.initrdPath;
  unset = let set = x: (builtins.tryEval x).success; in {
    volumes = map (v: set v.size || set v.mountPoint) m.volumes;
    interfaces = map (i: set i.macvtap.link || set i.macvtap.mode) m.interfaces;
  };
}
"""


@dataclass(frozen=True)
class Contract:
    """A guest, and what its runner must be: names in bin/, and the text of the files of share/microvm/."""

    fields: dict[str, t.Any]
    scripts: set[str]
    share: dict[str, str]
    store_name: str
    passthru: dict[str, t.Any] = field(default_factory=dict)
    # Whether options without a default are set, an element each.
    macvtap: list[bool] = field(default_factory=lambda: [False])
    volumes: list[bool] = field(default_factory=lambda: [True])


CONTRACTS = {
    "plain": Contract(
        {"version": "7"},
        SCRIPTS,
        {"tap-flags": "vnet_hdr\n", "tap-interfaces": "vm-plain\n", "hypervisor": "qemu\n"},
        "microvm-qemu-plain",
        {"canShutdown": True, "supportsNotifySocket": False, "tapMultiQueue": False, "hypervisor": "qemu"},
    ),
    "a.b_c": Contract(
        {
            "hostName": "other",
            "vcpu": 2,
            "vsockCid": 7,
            "registerWithMachined": True,
            "interfaces": [
                {"id": "vm-one"},
                {"id": "vm-two", "type": "tap"},
                {"type": "macvtap", "id": "vm-3", "mac": "02:00:00:00:00:03", "macvtap": {"link": "e", "mode": "vepa"}},
                {"type": "user"},
            ],
            "shares": [{"proto": "virtiofs", "tag": "conf", "source": "/etc", "mountPoint": "/conf"}],
            "devices": [{"bus": "pci", "path": "0000:01:00.0"}, {"bus": "usb", "path": "vendorid=0x1,productid=0x2"}],
            "volumes": [{"image": "by-hand.img", "autoCreate": False}],
        },
        SCRIPTS
        | {"macvtap-up", "macvtap-down", "pci-setup", "virtiofsd-run", "microvm-register", "microvm-unregister"},
        {
            "tap-flags": "vnet_hdr\nmulti_queue\n",
            "tap-interfaces": "vm-one\nvm-two\n",
            "macvtap-interfaces": "vm-3 02:00:00:00:00:03 e vepa\n",
            "virtiofs/conf/socket": "other-virtiofs-conf.sock\n",
            "virtiofs/conf/source": "/etc\n",
            "pci-devices": "0000:01:00.0\n",
            "usb-devices": "vendorid=0x1,productid=0x2\n",
            "vsock-cid": "7\n",
            "hypervisor": "qemu\n",
        },
        "microvm-qemu-other",
        {"tapMultiQueue": True, "registerWithMachined": True},
        [False, False, True, False],
        [False],
    ),
    "old": Contract(
        {"oldContract": True, "systemSymlink": True, "shutdown": False},
        {"microvm-run"},
        {"tap-flags": "vnet_hdr\n", "tap-interfaces": "vm-old\n", "hypervisor": "qemu\n", "system": ""},
        "microvm-qemu-old",
        {"canShutdown": False},
    ),
    "other-hypervisor": Contract(
        {"hypervisor": "cloud-hypervisor", "vsockCid": 9, "vcpu": 4},
        SCRIPTS,
        {
            "tap-flags": "vnet_hdr\nmulti_queue\n",
            "tap-interfaces": "vm-b952a262411f\n",
            "vsock-cid": "9\n",
            "hypervisor": "cloud-hypervisor\n",
        },
        "microvm-cloud-hypervisor-other-hypervisor",
        {"canShutdown": True, "supportsNotifySocket": True, "tapMultiQueue": True},
    ),
    "no-socket": Contract(
        {"hypervisor": "kvmtool", "vcpu": 4},
        SCRIPTS - {"microvm-shutdown"},
        {"tap-flags": "vnet_hdr\n", "tap-interfaces": "vm-no-socket\n", "hypervisor": "kvmtool\n"},
        "microvm-kvmtool-no-socket",
        {"canShutdown": False, "supportsNotifySocket": False, "tapMultiQueue": False},
    ),
}


class Missed(Exception):
    """Something is not as it must be."""


def demand(what: str, seen: object, wished: object) -> None:
    """Raise Missed unless *seen* is *wished*."""
    if seen != wished:
        raise Missed(f"{what}: {seen!r} instead of {wished!r}")


def until(what: str, condition: t.Callable[[], t.Any], deadline: float = DEADLINE) -> t.Any:
    """What *condition* gives once it gives something true.  Raises Missed after *deadline* seconds."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Missed(f"not within {deadline:.0f} s: {what}")
        time.sleep(0.1)


def run(*argv: str | Path, check: bool = True, **options: t.Any) -> subprocess.CompletedProcess[str]:
    """Run a program; with *check* its failure raises Missed with what it said."""
    done = subprocess.run(argv, timeout=600, capture_output=True, text=True, check=False, **options)
    if check and done.returncode != 0:
        raise Missed(f"{' '.join(map(str, argv))}: {done.returncode}: {done.stderr.strip()[-1500:]}")
    return done


def nix(*argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run nix with the features that it needs."""
    return run("nix", "--extra-experimental-features", "nix-command flakes", *argv, check=check)


def attribute(flake: Path | str, name: str, rest: str) -> str:
    """The installable for *rest* of the config of guest *name*."""
    return f'{flake}#nixosConfigurations."{name}".config.{rest}'


@dataclass
class Flake:
    """A copy of the flake with guests of its own."""

    place: Path

    def describe(self, guests: t.Mapping[str, t.Mapping[str, t.Any]]) -> None:
        """Write guests.json."""
        (self.place / "guests.json").write_text(json.dumps({"defaults": {}, "guests": guests}), encoding="utf-8")

    def runner(self, name: str) -> Path:
        """Build it."""
        target = attribute(f"path:{self.place}", name, "microvm.declaredRunner")
        nix("build", "--no-link", target)
        return Path(self.out(name))

    def toplevel(self, name: str) -> str:
        """The path of its system, evaluated only."""
        return nix("eval", "--raw", attribute(f"path:{self.place}", name, "system.build.toplevel.outPath")).stdout

    def out(self, name: str, reference: str = "") -> str:
        """The path of the runner, evaluated only."""
        target = attribute(reference or f"path:{self.place}", name, "microvm.declaredRunner.outPath")
        return nix("eval", "--raw", target).stdout


# --- what needs no guest to boot ------------------------------------------------


def contracts(flake: Flake) -> None:
    """Runners are as the contract says, file by file."""
    flake.describe({name: contract.fields for name, contract in CONTRACTS.items()})
    for name, contract in CONTRACTS.items():
        facts = json.loads(
            nix("eval", "--json", attribute(f"path:{flake.place}", name, "microvm"), "--apply", FACTS).stdout
        )
        demand(f"{name}: runner.HYPERVISOR", facts["same"], wished=True)
        demand(f"{name}: passthru", {k: facts["passthru"].get(k) for k in contract.passthru}, contract.passthru)
        demand(f"{name}: macvtap.* throws", facts["unset"]["interfaces"], contract.macvtap)
        demand(f"{name}: size and mountPoint throw", facts["unset"]["volumes"], contract.volumes)
        demand(f"{name}: name", facts["name"], contract.store_name)
        demand(f"{name}: initrdPath", facts["initrd"], facts["kernel"] + "/initrd")
        runner = flake.runner(name)
        demand(f"{name}: path", str(runner), facts["runner"])
        demand(f"{name}: name of the path", runner.name.split("-", 1)[1], contract.store_name)
        demand(f"{name}: top", {entry.name for entry in runner.iterdir()}, {"bin", "share"})
        demand(f"{name}: bin", {entry.name for entry in (runner / "bin").iterdir()}, contract.scripts)
        host = contract.fields.get("hostName", name)
        for entry in (runner / "bin").iterdir():
            target = os.readlink(entry)
            demand(f"{name}: {entry.name} is a link", target.split("-", 1)[1], f"microvm-{host}-{entry.name}")
            demand(f"{name}: {entry.name} executable", os.access(entry, os.X_OK), wished=True)
            first = entry.read_text(encoding="utf-8").splitlines()[0]
            demand(f"{name}: {entry.name} is for bash", first, "#!/bin/bash")
        share = runner / "share" / "microvm"
        # A link to a directory is not followed.
        files = {str(f.relative_to(share)) for f in share.rglob("*") if f.is_symlink() or f.is_file()}
        demand(f"{name}: share/microvm", files, set(contract.share))
        toplevel = flake.toplevel(name)
        for file, text in contract.share.items():
            if file == "system":
                demand(f"{name}: system", os.readlink(share / file), toplevel)
            else:
                demand(f"{name}: {file}", (share / file).read_text(encoding="utf-8"), text)
        script = (runner / "bin" / "microvm-run").read_text(encoding="utf-8")
        demand(f"{name}: init= in microvm-run", f"init={toplevel}/init" in script, wished=True)
        created = [line.split("'")[1] for line in script.splitlines() if line.startswith("if [ ! -e '")]
        demand(f"{name}: volumes in microvm-run", created, [] if "volumes" in contract.fields else ["data.img"])


def references(flake: Flake) -> None:
    """All ways to name the flake give the same runner, and none writes into it."""
    flake.describe({"a": {}})
    git = ["git", "-C", str(flake.place), "-c", "user.name=c", "-c", "user.email=c@example.org"]
    wished = flake.out("a", f"path:{flake.place}")
    demand("plain directory", flake.out("a", str(flake.place)), wished)
    run(*git, "init", "--quiet")
    run(*git, "add", "--all")
    run(*git, "commit", "--quiet", "--message", "guests")
    for reference in (f"path:{flake.place}", str(flake.place), f"git+file://{flake.place}"):
        demand(reference, flake.out("a", reference), wished)
    demand("nothing written", run(*git, "status", "--porcelain").stdout, "")
    flake.describe({"a": {"version": "2"}})
    changed = flake.out("a")
    demand("a version changes the runner", changed != wished, wished=True)
    for reference in (str(flake.place), f"git+file://{flake.place}"):
        demand(f"{reference}, dirty", flake.out("a", reference), changed)
    shutil.rmtree(flake.place / ".git")


def independence(flake: Flake) -> None:
    """A change of one guest changes no other, and every guest has a runner of its own."""
    names = ("a", "b", "c")
    flake.describe({name: {} for name in names})
    before = {name: flake.out(name) for name in names}
    demand("distinct", len(set(before.values())), 3)
    flake.describe({"a": {}, "b": {"version": "2"}, "c": {}, "d": {}})
    after = {name: flake.out(name) for name in names}
    demand("changed", [name for name in names if before[name] != after[name]], ["b"])


def failures(flake: Flake) -> None:
    """What must not evaluate or not build does not, and says why."""
    flake.describe({"e": {"fail": "eval"}, "x": {"fail": "eval-abort"}, "f": {"fail": "build"}, "t": {"vcpus": 2}})
    caught = "c: (builtins.tryEval c.config).success"
    for name, status in (("e", 0), ("x", 1), ("t", 0)):
        done = nix("eval", f'path:{flake.place}#nixosConfigurations."{name}"', "--apply", caught, check=False)
        demand(f"{name}: caught by tryEval", done.returncode, status)
    for name, says in (("e", "as wished"), ("x", "as wished"), ("t", "an unknown field, `vcpus'")):
        done = nix("eval", attribute(f"path:{flake.place}", name, "microvm.mem"), check=False)
        demand(f"{name}: says why", says in done.stderr, wished=True)
    done = nix("build", "--no-link", attribute(f"path:{flake.place}", "f", "microvm.declaredRunner"), check=False)
    demand("f: fails", done.returncode, 1)
    last = "guest f 1: the build fails, as wished (line 30 of 30)"
    demand("f: last line of its log", last in done.stderr, wished=True)
    drv = nix("eval", "--raw", attribute(f"path:{flake.place}", "f", "microvm.declaredRunner.drvPath")).stdout
    log = nix("log", drv).stdout.splitlines()
    demand("f: lines of its log", len(log), 30)


def speed(flake: Flake) -> None:
    """Evaluate and build 100 guests; tells how long that takes."""
    flake.describe({f"s{number}": {} for number in range(100)})
    everyone = "builtins.mapAttrs (name: c: c.config.microvm.declaredRunner.drvPath)"
    took: list[float] = []
    found: dict[str, str] = {}
    for _run in range(4):
        start = time.monotonic()
        found = json.loads(nix("eval", "--json", f"path:{flake.place}#nixosConfigurations", "--apply", everyone).stdout)
        took.append(time.monotonic() - start)
    demand("runners", len(set(found.values())), 100)
    start = time.monotonic()
    run("nix-store", "--realise", *found.values())
    built = time.monotonic() - start
    print(f"   100 guests: first evaluation {took[0]:.2f} s, then {min(took[1:]):.2f} s; built in {built:.1f} s")


# --- guests that boot -----------------------------------------------------------


@dataclass
class Machine:
    """A guest under plain systemd-run, as user microvm, in a state directory of its own."""

    name: str
    number: int
    flake: Flake
    states: Path
    fields: dict[str, t.Any] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        return f"flake-check-{self.name}"

    @property
    def state(self) -> Path:
        return self.states / self.name

    @property
    def address(self) -> str:
        return f"{PREFIX}.{10 + self.number}"

    @property
    def tap(self) -> str:
        # Not vm-*, which a network of the host could want to have.
        return f"chk-{self.number}"

    def described(self) -> dict[str, t.Any]:
        """Its fields for guests.json."""
        return {"interfaces": [{"id": self.tap, "address": f"{self.address}/24"}], "ra": False, **self.fields}

    def script(self, name: str) -> str:
        return str(self.state / "current" / "bin" / name)

    def start(self, *, again: bool = False) -> None:
        """Build it if it is not *again*, make its tap, run it."""
        if not again:
            self.state.mkdir(exist_ok=True)
            shutil.chown(self.state, "microvm", "kvm")
            link = self.state / "current"
            link.unlink(missing_ok=True)
            nix("build", "-o", link, attribute(f"path:{self.flake.place}", self.name, "microvm.declaredRunner"))
        run(self.script("tap-up"))
        run("ip", "link", "set", self.tap, "master", BRIDGE)
        run("systemctl", "reset-failed", self.unit, check=False)
        properties = ("User=microvm", "Group=kvm", f"WorkingDirectory={self.state}", "TimeoutStopSec=20")
        options = [word for text in properties for word in ("-p", text)]
        run("systemd-run", "--quiet", "--collect", f"--unit={self.unit}", *options, self.script("microvm-run"))

    def show(self, name: str) -> str:
        return run("systemctl", "show", "-P", name, self.unit).stdout.strip()

    @property
    def pid(self) -> int:
        return int(self.show("MainPID") or 0)

    def said(self, text: str) -> bool:
        return text in run("journalctl", "--output=cat", f"--unit={self.unit}", "--no-pager").stdout

    def ask(self) -> dict[str, t.Any] | None:
        """What it answers, or None."""
        try:
            with urllib.request.urlopen(f"http://{self.address}/", timeout=2) as answer:
                said = json.load(answer)
        except (OSError, ValueError, urllib.error.URLError):
            return None
        return t.cast("dict[str, t.Any]", said)

    def answer(self) -> dict[str, t.Any]:
        """What it answers as soon as it does."""

        def asked() -> dict[str, t.Any] | None:
            if not self.pid:
                raise Missed(f"{self.name}: ended: {run('journalctl', '-n', '20', '-u', self.unit).stdout}")
            return self.ask()

        return t.cast("dict[str, t.Any]", until(f"{self.name} answers", asked))

    def ended(self, action: t.Callable[[], object]) -> None:
        """Do *action*, which must end the machine by itself."""
        process = Path(f"/proc/{self.pid}")
        action()
        until(f"{self.name} ends", lambda: not process.exists())
        self.gone()

    def shut(self) -> None:
        """microvm-shutdown with its input kept open: it waits for the machine only as long as that lasts."""
        argv = ("runuser", "-u", "microvm", "--", self.script("microvm-shutdown"))
        with subprocess.Popen(argv, cwd=self.state, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as talk:
            self.ended(lambda: None)
            said, _errors = talk.communicate(timeout=DEADLINE)
        demand(f"{self.name}: microvm-shutdown waited", '"event": "SHUTDOWN"' in said, wished=True)

    def qmp(self, command: str) -> None:
        """Say *command* to the machine."""
        with socket.socket(socket.AF_UNIX) as talk:
            talk.settimeout(30)
            talk.connect(str(self.state / f"{self.name}.sock"))
            stream = talk.makefile("rw")
            stream.readline()
            for word in ("qmp_capabilities", command):
                stream.write(json.dumps({"execute": word}) + "\n")
                stream.flush()
                stream.readline()

    def volume(self) -> dict[str, t.Any]:
        """What it left on its volume."""
        done = run(sys.executable, HERE / "volume_state.py", self.state / "data.img")
        return t.cast("dict[str, t.Any]", json.loads(done.stdout))

    def gone(self) -> None:
        until(f"{self.unit} is over", lambda: self.show("ActiveState") in ("inactive", "failed"))

    def remove(self) -> None:
        """Nothing of it is left running."""
        run("systemctl", "kill", "--signal=KILL", self.unit, check=False)
        self.gone()
        if Path(f"/sys/class/net/{self.tap}").exists():
            run("ip", "link", "delete", self.tap)


def one_guest(machine: Machine, boots: int) -> None:
    """A guest answers and keeps its marks, over clean stops and kills."""
    name = machine.name
    machine.start()
    demand("the runner", os.readlink(machine.state / "current"), machine.flake.out(name))
    answer = machine.answer()
    wished = {"name": name, "hostname": name, "version": "1", "port": 80, "boots": 1, "previous_stop": "none"}
    wished |= {"system": machine.flake.toplevel(name), "mounts": ["/data"]}
    demand("its answer", {key: value for key, value in answer.items() if key != "boot_id"}, wished)
    process = Path(f"/proc/{machine.pid}")
    demand("its name", (process / "cmdline").read_bytes().split(b"\0")[0], b"microvm@" + name.encode())
    demand("its user", process.stat().st_uid, pwd.getpwnam("microvm").pw_uid)
    demand("the volume's owner", (machine.state / "data.img").stat().st_uid, process.stat().st_uid)
    volume = machine.volume()
    demand("while it runs", (volume["boots"], volume["boot_id"], volume["clean"]), (1, answer["boot_id"], False))

    machine.shut()
    stopped_cleanly(machine, 1)
    machine.ended(lambda: machine.qmp("system_powerdown"))
    stopped_cleanly(machine, 2)

    run("systemctl", "kill", "--signal=KILL", machine.unit)
    machine.gone()
    volume = machine.volume()
    demand("kill: no mark", (volume["boots"], volume["clean"]), (3, False))
    machine.start(again=True)
    demand("kill: after it", machine.answer()["previous_stop"], "killed")

    # systemd gives ExecStop= /dev/null to read: the script is back before the guest is down.
    command = ("runuser", "-u", "microvm", "--", machine.script("microvm-shutdown"))
    machine.ended(lambda: run(*command, stdin=subprocess.DEVNULL, cwd=machine.state))
    demand("without input: still clean", machine.volume()["clean"], wished=True)
    demand("nothing runs: microvm-shutdown", run(*command, cwd=machine.states).returncode, 0)

    took: list[float] = []
    for _boot in range(boots):
        start = time.monotonic()
        machine.start(again=True)
        machine.answer()
        took.append(time.monotonic() - start)
        machine.shut()
    took.sort()
    if took:
        print(f"   {boots} boots, answer after {took[0]:.1f} to {took[-1]:.1f} s, median {took[boots // 2]:.1f} s")
    volume = machine.volume()
    demand("boots in all", (volume["boots"], volume["clean"]), (4 + boots, True))


def stopped_cleanly(machine: Machine, boots: int) -> None:
    """After the stop of boot number *boots*: it was clean, and the next boot, which this starts, knows."""
    demand("its last words", machine.said(f"guest: clean stop of {machine.name} 1"), wished=True)
    volume = machine.volume()
    demand("the mark", (volume["boots"], volume["clean"], volume["history"][-1]["event"]), (boots, True, "clean"))
    machine.start(again=True)
    answer = machine.answer()
    demand("the next boot", (answer["boots"], answer["previous_stop"]), (boots + 1, "clean"))


def new_version(machine: Machine) -> None:
    """A new version runs on the same volume."""
    machine.start()
    demand("first", machine.answer()["version"], "1")
    machine.shut()
    machine.fields["version"] = "two"
    machine.flake.describe({machine.name: machine.described()})
    machine.start()
    answer = machine.answer()
    demand("second", (answer["version"], answer["boots"], answer["previous_stop"]), ("two", 2, "clean"))


def refuses(machine: Machine) -> bool:
    """Whether its port refuses, which only a guest with a network can."""
    try:
        with socket.create_connection((machine.address, 80), timeout=2):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def dead_port(machine: Machine) -> None:
    """fail: port."""
    machine.start()
    until("it boots", lambda: machine.said("is up, boot"))
    until("its port refuses", lambda: refuses(machine))
    machine.shut()
    demand("clean", machine.volume()["clean"], wished=True)


def never_boots(machine: Machine) -> None:
    """fail: boot."""
    machine.start()
    until("it hangs", lambda: machine.said("never gets further than this, as wished"))
    demand("no network", refuses(machine) or machine.ask() is not None, wished=False)
    demand("it runs", machine.pid > 0, wished=True)


def never_stops(machine: Machine) -> None:
    """fail: stop."""
    machine.start()
    machine.answer()
    machine.qmp("system_powerdown")
    until("it refuses", lambda: machine.said("does not stop, as wished"))
    demand("it still answers", machine.answer()["boots"], 1)


def in_emergency(machine: Machine) -> None:
    """fail: emergency."""
    machine.start()
    until("it says so", lambda: machine.said("You are in emergency mode"))
    until("its port refuses", lambda: refuses(machine))
    machine.shut()
    demand("clean", machine.volume()["clean"], wished=True)


def answers_for_a_while(machine: Machine) -> None:
    """fail: late."""
    machine.start()
    machine.answer()
    until("its port refuses", lambda: refuses(machine))
    demand("says so", machine.said("does not answer any more, as wished"), wished=True)
    machine.shut()
    demand("clean", machine.volume()["clean"], wished=True)


def logs_in(machine: Machine) -> None:
    """sshKeys, what a switch does, and fail: switch."""
    key = machine.states / "id"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    machine.fields["sshKeys"] = [key.with_suffix(".pub").read_text(encoding="utf-8").strip()]
    machine.flake.describe({machine.name: machine.described()})
    options = {"UserKnownHostsFile": f"{key}.hosts", "StrictHostKeyChecking": "accept-new", "BatchMode": "yes"}
    words = [word for option, value in options.items() for word in ("-o", f"{option}={value}")]

    def ssh(*command: str) -> tuple[int, str]:
        done = run("ssh", "-F", "/dev/null", *words, "-i", key, f"root@{machine.address}", *command, check=False)
        return done.returncode, done.stdout.strip()

    machine.start()
    before = machine.answer()
    until("it can be logged in to", lambda: ssh("true")[0] == 0)
    demand("who and where", ssh("id -un; hostname"), (0, f"root\n{machine.name}"))
    demand("a status", ssh("exit", "7")[0], 7)
    switch = f"{before['system']}/bin/switch-to-configuration"
    demand("not said how", ssh(switch)[0], 1)
    demand("dry", ssh(switch, "dry-activate")[0], 0)
    demand("a switch", ssh(switch, "test")[0], 0)
    demand("after it", machine.answer(), before)
    demand("it runs", ssh("readlink", "/run/current-system"), (0, before["system"]))
    machine.shut()
    # The key of the guest is on its volume.
    machine.fields["fail"] = "switch"
    machine.flake.describe({machine.name: machine.described()})
    machine.start()
    switch = f"{machine.answer()['system']}/bin/switch-to-configuration"
    until("it is the same guest", lambda: ssh("true")[0] == 0)
    demand("a switch that fails", ssh(switch, "test")[0], 4)


def crashes(machine: Machine) -> None:
    """fail: crash."""
    machine.start()
    until("it says so", lambda: machine.said("it crashes, as wished"))
    machine.gone()
    demand("its volume was made", (machine.state / "data.img").stat().st_size, 16 << 20)


def booted(machine: Machine, action: t.Callable[[Machine], None]) -> None:
    """Do *action* with a guest, and remove the guest."""
    machine.flake.describe({machine.name: machine.described()})
    try:
        action(machine)
    finally:
        machine.remove()


# Fields of the guest, and what to do with it.
Booting = tuple[dict[str, t.Any], t.Callable[[Machine], None]]
BOOTS: dict[str, Booting] = {
    "version": ({}, new_version),
    "port": ({"fail": "port"}, dead_port),
    "boot": ({"fail": "boot"}, never_boots),
    "stop": ({"fail": "stop"}, never_stops),
    "crash": ({"fail": "crash"}, crashes),
    "emergency": ({"fail": "emergency"}, in_emergency),
    "late": ({"fail": "late"}, answers_for_a_while),
    "ssh": ({}, logs_in),
}


# --- the host -------------------------------------------------------------------


@contextlib.contextmanager
def surroundings() -> t.Iterator[Path]:
    """A directory to work in, a bridge, and the user microvm if the host has none yet."""
    made = []
    if run("getent", "group", "kvm", check=False).returncode != 0:
        run("groupadd", "--system", "kvm")
        made.append(("groupdel", "kvm"))
    if run("getent", "passwd", "microvm", check=False).returncode != 0:
        run("useradd", "--system", "--gid", "kvm", "--home-dir", "/nonexistent", "microvm")
        made.insert(0, ("userdel", "microvm"))
    place = Path(tempfile.mkdtemp(prefix="flake-check-", dir="/var/tmp"))
    place.chmod(0o755)
    try:
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{PREFIX}.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        yield place
    finally:
        run("ip", "link", "delete", BRIDGE, check=False)
        shutil.rmtree(place)
        for command in made:
            run(*command, check=False)


def main(arguments: t.Sequence[str] | None = None) -> int:
    """Run the checks; 1 if one fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--boots", type=int, default=3, metavar="N", help="boot one guest N times more (%(default)s)")
    parser.add_argument("--only", action="append", metavar="NAME", help="only the check of this name; repeatable")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        parser.error("it makes interfaces and units, so it must be root")
    # So that what it made is removed when it is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    boots: dict[str, Booting] = {"guest": ({}, partial(one_guest, boots=options.boots)), **BOOTS}
    failed = 0
    with surroundings() as place:
        flake = Flake(place / "flake")
        shutil.copytree(HERE, flake.place)
        checks: list[tuple[str, t.Callable[[], None]]] = [
            (check.__name__, partial(check, flake)) for check in (contracts, references, independence, failures, speed)
        ]
        for number, (name, (fields, action)) in enumerate(boots.items()):
            checks.append((name, partial(booted, Machine(name, number, flake, place, dict(fields)), action)))
        for name, check in checks:
            if options.only and name not in options.only:
                continue
            start = time.monotonic()
            try:
                check()
            except Missed as error:
                failed += 1
                print(f"FAILED {name}: {error}", flush=True)
            else:
                print(f"ok {name} ({time.monotonic() - start:.1f} s)", flush=True)
    print(f"{failed} failed" if failed else "all well")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
