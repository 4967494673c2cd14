# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a guests.json for many guests of the stand-in flake; see README.md beside this file."""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys
import typing as t

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def describe(
    count: int,
    *,
    prefix: str = "g",
    first: int = 0,
    network: Network | None = None,
    offset: int = 16,
    defaults: t.Mapping[str, t.Any] | None = None,
    guests: t.Mapping[str, t.Mapping[str, t.Any]] | None = None,
) -> dict[str, t.Any]:
    """The content of guests.json: *count* guests, named *prefix* and a number from *first* on.

    With *network*, guest number n has its host address *offset* + n, and the network's first host as gateway;
    without, it asks by DHCP.  *guests* adds fields to some of them, or further guests, by name.
    Raises ValueError if the network is too small.
    """
    width = max(3, len(str(first + count - 1)))
    described: dict[str, dict[str, t.Any]] = {}
    for number in range(first, first + count):
        own: dict[str, t.Any] = {}
        if network is not None:
            # The last address of a network of IPv4 is for broadcasts.
            if offset + number >= network.num_addresses - 1:
                raise ValueError(f"{network} has no host {offset + number}")
            own["address"] = f"{network[offset + number]}/{network.prefixlen}"
            own["gateway"] = str(network[1])
        described[f"{prefix}{number:0{width}}"] = own
    for name, fields in (guests or {}).items():
        described.setdefault(name, {}).update(fields)
    return {"defaults": dict(defaults or {}), "guests": described}


def _fields(text: str) -> dict[str, t.Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"no JSON object: {text}")
    return value


def _named(text: str) -> tuple[str, dict[str, t.Any]]:
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"no NAME=JSON: {text}")
    return name, _fields(value)


def main(arguments: t.Sequence[str] | None = None) -> int:
    """Print it; 2 if the arguments make no sense."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, metavar="N", help="how many")
    parser.add_argument("--prefix", default="g", help="of the names (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first one (%(default)s)")
    parser.add_argument("--network", type=ipaddress.ip_network, metavar="CIDR", help="static addresses in it, not DHCP")
    parser.add_argument("--offset", type=int, default=16, help="host address of number 0 in it (%(default)s)")
    parser.add_argument("--defaults", type=_fields, default={}, metavar="JSON", help="fields of all guests")
    parser.add_argument(
        "--guest", type=_named, action="append", default=[], metavar="NAME=JSON", help="fields of one guest; repeatable"
    )
    options = parser.parse_args(arguments)
    try:
        described = describe(
            options.count,
            prefix=options.prefix,
            first=options.first,
            network=options.network,
            offset=options.offset,
            defaults=options.defaults,
            guests=dict(options.guest),
        )
    except ValueError as error:
        print(f"make_guests: {error}", file=sys.stderr)
        return 2
    json.dump(described, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
