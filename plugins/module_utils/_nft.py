# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The nftables table of the collection: a static ruleset, and sets that say what it is for.

Private to the collection: it may change at any time.

Facts are from nft(8) and libnftables-json(5).
"""

from __future__ import annotations

import json
import typing as t
from dataclasses import dataclass

FAMILY: t.Final = "inet"
TABLE: t.Final = "microvm_fleet"
SETS: t.Final = ("bridges", "pairs", "out4", "out6", "nat4", "nat6", "closed")

# Loaded over itself, it replaces the rules in one transaction and leaves the sets' elements alone.  Each rule has a
# comment, by which it is known when the kernel is read back.
RULESET: t.Final = """\
# Kept by the Ansible collection microvm.fleet; changes by hand are lost.
# What guests may reach. The sets are filled from /var/lib/microvm-fleet/network/sets.json.
add table inet microvm_fleet
flush table inet microvm_fleet
table inet microvm_fleet {
    # Bridges of guests.
    set bridges {
        type ifname
    }
    # From which bridge to which other.
    set pairs {
        type ifname . ifname
    }
    # From which bridge, with which source, to which uplink.
    set out4 {
        type ifname . ipv4_addr . ifname
        flags interval
    }
    set out6 {
        type ifname . ipv6_addr . ifname
        flags interval
    }
    # Sources that leave with the address of the host.
    set nat4 {
        type ipv4_addr
        flags interval
    }
    set nat6 {
        type ipv6_addr
        flags interval
    }
    # What this host did not forward before guests needed it, and still does not for anybody else.
    set closed {
        type nf_proto
    }
    chain forward {
        type filter hook forward priority filter; policy accept;
        iifname != @bridges oifname != @bridges meta nfproto @closed counter drop comment "closed"
        iifname != @bridges oifname != @bridges accept comment "others"
        ct state vmap { established : accept, related : accept, invalid : drop } comment "answers"
        iifname . oifname @pairs accept comment "pairs"
        iifname . ip saddr . oifname @out4 accept comment "out4"
        iifname . ip6 saddr . oifname @out6 accept comment "out6"
        counter drop comment "rest"
    }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr @nat4 oifname != @bridges masquerade comment "nat4"
        ip6 saddr @nat6 oifname != @bridges masquerade comment "nat6"
    }
}
"""
# The comments of RULESET, in its order.
RULES: t.Final = (
    ("forward", "closed"),
    ("forward", "others"),
    ("forward", "answers"),
    ("forward", "pairs"),
    ("forward", "out4"),
    ("forward", "out6"),
    ("forward", "rest"),
    ("postrouting", "nat4"),
    ("postrouting", "nat6"),
)

Sets = t.Dict[str, t.FrozenSet[str]]


@dataclass(frozen=True)
class Table:
    """The table as the kernel has it: elements of each set in one spelling, (chain, comment) of each rule."""

    sets: Sets
    rules: tuple[tuple[str, str], ...]

    def differences(self, wished: Sets) -> list[tuple[str, str, str]]:
        """(field, wished, seen) of each part that is not as *wished*."""
        found = []
        if self.rules != RULES:
            found.append(("rules", str(len(RULES)), f"{len(self.rules)} or others"))
        for name in SETS:
            want, have = wished.get(name, frozenset()), self.sets.get(name)
            if have != want:
                found.append((f"set {name}", words(want), "missing" if have is None else words(have)))
        return found


def words(elements: t.Iterable[str]) -> str:
    """Elements for a message."""
    return ", ".join(sorted(elements)) or "nothing"


def element(value: t.Any) -> str:
    """One spelling of an element that ``nft -j`` printed: ``a . b`` of a concatenation, ``1.2.3.0/24`` of a prefix."""
    if isinstance(value, dict):
        if "concat" in value:
            return " . ".join(element(one) for one in value["concat"])
        if "prefix" in value:
            return f"{value['prefix']['addr']}/{value['prefix']['len']}"
        if "elem" in value:
            return element(value["elem"]["val"])
        if "range" in value:
            return "-".join(element(one) for one in value["range"])
    return str(value)


def parse(document: t.Any) -> Table:
    """The table of what ``nft -j list table`` printed."""
    sets: Sets = {}
    rules: list[tuple[str, str]] = []
    for item in document.get("nftables", ()):
        if "set" in item:
            one = item["set"]
            sets[one["name"]] = frozenset(element(value) for value in one.get("elem", ()))
        elif "rule" in item:
            rules.append((item["rule"]["chain"], item["rule"].get("comment", "")))
    return Table(sets, tuple(rules))


def _value(part: str) -> t.Any:
    address, slash, length = part.partition("/")
    return {"prefix": {"addr": address, "len": int(length)}} if slash else part


def data(sets: Sets) -> str:
    """The file that fills the sets, in one transaction, as libnftables reads it (``nft -j -f``)."""
    return json.dumps(document(sets), indent=1) + "\n"


def document(sets: Sets) -> dict[str, t.Any]:
    """As `data`, before it is a text."""
    commands: list[dict[str, t.Any]] = []
    for name in SETS:
        where = {"family": FAMILY, "table": TABLE, "name": name}
        commands.append({"flush": {"set": where}})
        elements: list[t.Any] = []
        for text in sorted(sets.get(name, ())):
            parts = [_value(part) for part in text.split(" . ")]
            elements.append(parts[0] if len(parts) == 1 else {"concat": parts})
        if elements:
            commands.append({"add": {"element": {**where, "elem": elements}}})
    return {"nftables": commands}
