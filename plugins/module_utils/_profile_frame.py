# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a profile is made of; the profiles themselves are the tables of ``_profile_*.py``.

Private to the collection: it may change at any time.

A profile has two halves: a NixOS module, ``nix/profiles/NAME.nix`` of the static flake, and the entry here, by which
a wish is checked before anything is sent to a host.  Nix has no defaults of its own: every option of a chosen profile
is handed over, with the default of this table where the wish says nothing.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

# What the value of an option can be, and the type of the NixOS option of the same name:
#   bool            types.bool
#   int             types.ints.between LEAST MOST
#   str             types.str; types.strMatching PATTERN with a pattern; types.enum CHOICES with choices
#   list            types.listOf of what "str" is
#   dict            types.attrsOf types.str; keys and values are checked here only
#   subnet          types.str: an IPv4 or IPv6 network that none of the guest's own addresses lies in
#   address         types.str: an IP address or a full host name.  A wish may also name a guest of the inventory, whose
#                   address is then put in its place
#   own_address     types.str: an IP address of this guest itself, by default its first one
# An option that may stay unsaid (``required`` false and ``default`` None) is types.nullOr of its type.
KINDS: t.Final = ("bool", "int", "str", "list", "dict", "subnet", "address", "own_address")


@dataclass(frozen=True)
class Option:
    """One option of a profile."""

    kind: str
    description: str
    default: t.Any = None
    required: bool = False
    choices: tuple[str, ...] = ()
    least: int = 0
    most: int = 65535
    # A regular expression that Python and POSIX (Nix) read alike, for a value or each element; with it, what it means.
    pattern: str | None = None
    form: str = ""


@dataclass(frozen=True)
class Volume:
    """A volume that a guest gets when its wish has nothing at *mount_point*; *size* in MiB."""

    image: str
    mount_point: str
    size: int
    fs_type: str = "ext4"


@dataclass(frozen=True)
class Port:
    """What the profile opens in the guest's firewall: *ports* is ``6443``, ``1000-2000``, or the option that has it."""

    proto: str
    ports: str
    use: str


@dataclass(frozen=True)
class Credential:
    """A file that the profile reads in the guest; with *along*, only together with the credential of that name."""

    name: str
    description: str
    required: bool = True
    along: str | None = None


@dataclass(frozen=True)
class Fault:
    """What is wrong with an option; *guest* is whose, where several are looked at."""

    option: str
    seen: str
    hint: str
    guest: str = ""


@dataclass(frozen=True)
class Profile:
    """What a guest can be used for.

    *mem* (MiB) and *vcpu* are what a guest gets that asks for none, *least_mem* is refused below.  *stop_timeout*
    (seconds) is what a clean shutdown may take, the default of the guest's own option; the value of the option named by
    *stop_option* comes on top.  *hypervisors* are those it can run on, with *hypervisors_why* for the others; empty
    means all.  *excludes* are profiles that one guest cannot have beside it, *with_address* asks for an address that
    is known beforehand.  *check* gets the values of all options, each right by itself, and the names of the guest's
    credentials, and gives what is wrong with them together.
    """

    name: str
    description: str
    options: t.Mapping[str, Option]
    least_mem: int
    mem: int
    vcpu: int
    stop_timeout: int
    stop_option: str | None = None
    volumes: tuple[Volume, ...] = ()
    ports: tuple[Port, ...] = ()
    credentials: tuple[Credential, ...] = ()
    hypervisors: tuple[str, ...] = ()
    hypervisors_why: str = ""
    excludes: tuple[str, ...] = field(default=())
    with_address: bool = False
    check: t.Callable[[t.Mapping[str, t.Any], frozenset[str]], t.Iterable[Fault]] | None = None
