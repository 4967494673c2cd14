# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that is only a directory, with networks: the kernel, networkd, nft and systemd as far as the engine can tell.

Files are real, below the directory.  `Killer` of fakehost ends the engine between any two changes.
"""

from __future__ import annotations

import fnmatch
import json
import typing as t
from pathlib import Path

from ansible_collections.microvm.fleet.plugins.module_utils import _nft
from ansible_collections.microvm.fleet.plugins.module_utils._command import Commands, Completed
from ansible_collections.microvm.fleet.plugins.module_utils._errors import CommandError
from ansible_collections.microvm.fleet.plugins.module_utils._net_files import (
    NETWORKD,
    UNIT_NAME,
    WAIT_ONLINE,
    NetPaths,
)
from ansible_collections.microvm.fleet.plugins.module_utils._nixos import FLAKE, RUNNING

ROUTES = (
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    "eth0\t00000000\t01004D0A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    "eth0\t00004D0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
)
ROUTES_IPV6 = f"{'0' * 32} 00 {'0' * 32} 00 fd770000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n"
UDP = "   sl  local_address rem_address   st\n"
SERVED = "  1: 00000000:0043 00000000:0000 07\n"


class FakeNet(Commands):
    """A Debian host whose uplink eth0 ifupdown keeps; systemd-networkd is there and does not run."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.paths = NetPaths(str(root))
        self.calls: list[list[str]] = []
        # What Killer of fakehost hooks into.
        self.before: t.Callable[[t.Sequence[str]], object] = lambda argv: None
        self.working = False
        self.links: dict[str, dict[str, t.Any]] = {}
        self.table: dict[str, t.Any] | None = None
        self.services = {
            NETWORKD: {"LoadState": "loaded", "ActiveState": "inactive", "UnitFileState": "disabled"},
            WAIT_ONLINE: {"LoadState": "loaded", "ActiveState": "inactive", "UnitFileState": "disabled"},
            UNIT_NAME: {"LoadState": "not-found", "ActiveState": "inactive", "UnitFileState": ""},
        }
        # Fields that networkd does not mend, however often it is asked.
        self.stubborn: set[str] = set()
        self.answers: dict[str, Completed] = {}
        self.add("lo", kind=None, addresses=["127.0.0.1/8", "::1/128"])
        self.add("eth0", kind=None, addresses=["10.77.0.12/24", "fe80::12/64"])
        self.write("proc/net/route", ROUTES)
        self.write("proc/net/ipv6_route", ROUTES_IPV6)
        self.write("proc/net/udp", UDP)
        self.write("proc/sys/net/ipv6/conf/all/forwarding", "0\n")

    def nixos(self) -> None:
        """Make it a NixOS host, whose units and networks are its system's."""
        self.write("etc/os-release", 'NAME=NixOS\nID=nixos\nVERSION_ID="25.11"\n')

    def switch(self) -> None:
        """Switch to a system that is made with the description that there is, as nix/host.nix makes it."""
        described = json.loads(self.read(f"{FLAKE}/networks.json"))
        self.write(f"{RUNNING.lstrip('/')}/networks.json", self.read(f"{FLAKE}/networks.json"))
        for old in Path(self.paths.networkd).glob("*"):
            old.unlink()
        for name, sections in described["files"].items():
            text = "".join(
                f"[{title}]\n" + "".join(f"{key}={value}\n" for key, value in sorted(keys)) for title, keys in sections
            )
            self.write(f"etc/systemd/network/{name}", text)
        self.write("etc/sysctl.d/90-microvm-fleet.conf", "".join(f"{k} = {v}\n" for k, v in described["sysctl"]))
        self.write("var/lib/microvm-fleet/network/sets.json", json.dumps(described["sets"]))
        networked = bool(described["files"])
        self.services[NETWORKD]["ActiveState"] = "active" if networked else "inactive"
        self.services[UNIT_NAME] = (
            {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"}
            if networked
            else {"LoadState": "not-found", "ActiveState": "inactive", "UnitFileState": ""}
        )
        if networked:
            self._networkd()
            self._load()
        else:
            self.table = None

    def write(self, path: str, text: str) -> None:
        """Put *text* at *path* below the root."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")

    def read(self, path: str) -> str:
        """The text of *path* below the root."""
        return (self.root / path.lstrip("/")).read_text("utf-8")

    def add(self, name: str, *, kind: str | None, addresses: t.Sequence[str] = (), master: str | None = None) -> None:
        """Make an interface."""
        item: dict[str, t.Any] = {
            "ifname": name,
            "flags": ["UP", "LOWER_UP"],
            "mtu": 1500,
            "address": f"02:00:00:00:ff:{len(self.links):02x}",
            "addr_info": [
                {"local": one.split("/")[0], "prefixlen": int(one.split("/")[1]), "scope": "global"}
                for one in addresses
            ],
        }
        if kind:
            item["linkinfo"] = {"info_kind": kind}
            if kind == "tun":
                item["linkinfo"]["info_data"] = {"type": "tap"}
        if master:
            item["master"] = master
        self.links[name] = item
        self.write(f"proc/sys/net/ipv4/conf/{name}/forwarding", "0\n")
        self.write(f"proc/sys/net/ipv6/conf/{name}/accept_ra", "1\n" if name == "eth0" else "0\n")

    def drop(self, name: str) -> None:
        """Take an interface away."""
        del self.links[name]
        for item in self.links.values():
            if item.get("master") == name:
                del item["master"]
        for path in (f"ipv4/conf/{name}/forwarding", f"ipv6/conf/{name}/accept_ra"):
            (self.root / "proc/sys/net" / path).unlink()

    def files(self) -> dict[str, str]:
        """All files but the kernel's and the lock's, by path."""
        return {
            str(path.relative_to(self.root)): path.read_text("utf-8")
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and path.relative_to(self.root).parts[0] not in ("proc", "run")
        }

    def kernel(self) -> dict[str, str]:
        """The kernel's settings."""
        return {
            str(path.relative_to(self.root / "proc/sys")): path.read_text("utf-8").strip()
            for path in sorted(self.root.glob("proc/sys/**/*"))
            if path.is_file()
        }

    def state(self) -> tuple[t.Any, ...]:
        """All that two hosts can be compared by."""
        return (
            self.files(),
            json.dumps(self.links, sort_keys=True),
            json.dumps(self.table),
            self.kernel(),
            self.services,
        )

    def run(
        self,
        argv: t.Sequence[str],
        *,
        timeout: float | None = None,  # noqa: ARG002
        check: bool = True,
        stdin: str | None = None,  # noqa: ARG002
        env: t.Mapping[str, str] | None = None,  # noqa: ARG002
        subject: str | None = None,
        hint: str | None = None,
    ) -> Completed:
        """Play *argv*."""
        self.calls.append(list(argv))
        self.before(argv)
        self.working = True
        try:
            done = self.answers.get(" ".join(argv)) or self._play(list(argv))
        finally:
            self.working = False
        if check and done.rc != 0:
            message = f"{argv[0]} ended with {done.rc}: {done.stderr}"
            raise CommandError(message, subject=subject, hint=hint, argv=argv, rc=done.rc, stderr=done.stderr)
        return done

    def _play(self, argv: list[str]) -> Completed:
        if argv[:3] == ["ip", "-j", "-d"]:
            return Completed(tuple(argv), 0, json.dumps(list(self.links.values())), "")
        if argv[:3] == ["ip", "link", "delete"]:
            if argv[4] not in self.links:
                return Completed(tuple(argv), 1, "", f'Cannot find device "{argv[4]}"')
            self.drop(argv[4])
        elif argv[:2] == ["nft", "-j"]:
            if self.table is None:
                return Completed(tuple(argv), 1, "", "Error: No such file or directory")
            return Completed(tuple(argv), 0, json.dumps(self.table), "")
        elif argv[:3] == ["nft", "delete", "table"]:
            self.table = None
        elif argv[0] == "systemctl":
            return self._systemctl(argv)
        elif argv[:2] == ["networkctl", "status"]:
            return Completed(tuple(argv), 0, "  Network File: /etc/systemd/network/10-other.network\n", "")
        elif argv[0] == "networkctl":
            if self.services[NETWORKD]["ActiveState"] != "active":
                return Completed(tuple(argv), 1, "", "networkd is not running")
            self._networkd()
        else:
            raise AssertionError(argv)
        return Completed(tuple(argv), 0, "", "")

    def _systemctl(self, argv: list[str]) -> Completed:
        verb, units = argv[1], argv[2:]
        if verb == "show":
            blocks = (
                "".join(f"{key}={value}\n" for key, value in {"Id": name, **values}.items())
                for name, values in self.services.items()
            )
            return Completed(tuple(argv), 0, "\n".join(blocks), "")
        if verb == "daemon-reload":
            there = Path(self.paths.unit).exists()
            self.services[UNIT_NAME]["LoadState"] = "loaded" if there else "not-found"
            return Completed(tuple(argv), 0, "", "")
        for unit in units:
            if unit not in self.services:
                continue
            service = self.services[unit]
            if verb in ("enable", "disable"):
                service["UnitFileState"] = f"{verb}d"
                if unit == NETWORKD:
                    self.services[WAIT_ONLINE]["UnitFileState"] = f"{verb}d"
            if verb in ("start", "restart", "reload-or-restart"):
                service["ActiveState"] = "active"
                if unit == NETWORKD:
                    self._networkd()
                elif unit == UNIT_NAME:
                    self._load()
            if verb == "stop" or "--now" in units:
                service["ActiveState"] = "inactive"
                if unit == UNIT_NAME:
                    self.table = None
                    service["UnitFileState"] = ""
        return Completed(tuple(argv), 0, "", "")

    def _load(self) -> None:
        """What the unit's script does."""
        sets: dict[str, list[t.Any]] = {name: [] for name in _nft.SETS}
        for command in json.loads(Path(self.paths.sets).read_text("utf-8"))["nftables"]:
            if "add" in command:
                sets[command["add"]["element"]["name"]] = command["add"]["element"]["elem"]
        items: list[dict[str, t.Any]] = [{"set": {"name": name, "elem": elem}} for name, elem in sets.items()]
        items += [{"rule": {"chain": chain, "comment": comment}} for chain, comment in _nft.RULES]
        self.table = {"nftables": items}
        for line in Path(self.paths.sysctl).read_text("utf-8").splitlines():
            key, _sep, value = line.partition(" = ")
            if key.startswith("net/") and (self.root / "proc/sys" / key).exists():
                self.write(f"proc/sys/{key}", f"{value}\n")

    def _networkd(self) -> None:
        """What networkd makes of its files."""
        directory = Path(self.paths.networkd)
        for path in sorted(directory.glob("*.netdev")):
            device = _settings(path)["NetDev"]
            name, mac = device["Name"][0], device.get("MACAddress")
            if name not in self.links and "bridge" not in self.stubborn:
                self.add(name, kind="bridge")
                self.links[name]["flags"] = ["UP"]
                if mac:
                    self.links[name]["address"] = mac[0]
        for path in sorted(directory.glob("50-*.network")):
            values = _settings(path)
            for name, item in self.links.items():
                kind = (item.get("linkinfo") or {}).get("info_kind")
                patterns = values["Match"]["Name"][0].split()
                if kind != values["Match"]["Kind"][0] or not any(fnmatch.fnmatch(name, one) for one in patterns):
                    continue
                link, network = values["Link"], values["Network"]
                if "MTUBytes" in link and "mtu" not in self.stubborn:
                    item["mtu"] = int(link["MTUBytes"][0])
                if "MACAddress" in link:
                    item["address"] = link["MACAddress"][0]
                if "Bridge" in network and network["Bridge"][0] in self.links and "taps" not in self.stubborn:
                    item["master"] = network["Bridge"][0]
                if "Address" in network and "addresses" not in self.stubborn:
                    item["addr_info"] = [
                        {"local": one.split("/")[0], "prefixlen": int(one.split("/")[1]), "scope": "global"}
                        for one in network["Address"]
                    ]
                if kind == "bridge":
                    item["flags"] = ["UP"]


def _settings(path: Path) -> dict[str, dict[str, list[str]]]:
    """Sections of a file of networkd's; the last of a name wins, keys keep all values."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            found.setdefault(section, {})
        elif "=" in line and not line.startswith("#"):
            key, _sep, value = line.partition("=")
            found[section].setdefault(key, []).append(value)
    return found


def lan(**options: t.Any) -> dict[str, t.Any]:
    """A network as a playbook has it."""
    return {"name": "lan", "addresses": ["10.0.0.1/24"], **options}
