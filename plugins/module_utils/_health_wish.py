# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What healthy means of a guest: options to dataclasses, with every check that needs no host.

Private to the collection: it may change at any time.

Names and defaults of the times are those of Nomad's update block (its job specification, "update"), of the probes
those of its service checks.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t
from dataclasses import dataclass

# A day, as for other times of guests.
TIME_LIMIT: t.Final = 86400
INTERVAL_LIMIT: t.Final = 3600
RETRIES_LIMIT: t.Final = 1000
# Patterns are for a line of the journal or the beginning of a page.
PATTERN_LIMIT: t.Final = 1000
KINDS: t.Final = ("active", "notify", "tcp", "http", "ssh", "journal")

# Options of each kind beside those of all, and those of them that it cannot do without.
_OPTIONS: t.Final[t.Mapping[str, tuple[str, ...]]] = {
    "active": (),
    "notify": (),
    "tcp": ("address", "port"),
    "http": ("address", "port", "path", "status", "body"),
    "ssh": ("address", "port", "user", "key_file", "host_key", "command"),
    "journal": ("pattern", "absent"),
}
_NEEDS: t.Final[t.Mapping[str, tuple[tuple[str, str], ...]]] = {
    "tcp": (("port", "Give the port that the guest listens on."),),
    "ssh": (("command", "Give a list of words, such as [systemctl, is-active, nginx]."),),
    "journal": (("pattern", "Give a regular expression that a line of the guest's journal matches."),),
}
_PORTS: t.Final = {"http": 80, "ssh": 22}

_STATUS = re.compile(r"([0-9]{3})(?:-([0-9]{3}))?")
# RFC 3986, section 3.3 and 3.4: what a path and a query are made of.
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
# sshd(8), "AUTHORIZED_KEYS FILE FORMAT": type, base64, comment.
_PUBLIC_KEY = re.compile(r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)) ([A-Za-z0-9+/]+={0,2})(?: [^\r\n]*)?")

Wrong = t.Callable[[str, str, str], None]


@dataclass(frozen=True)
class Access:
    """How the host reaches a guest over SSH.  Without *key_file* with the keys that root of the host has.

    *host_key* is the guest's public key, as ``TYPE BASE64``.
    """

    address: str
    port: int = 22
    user: str = "root"
    key_file: str | None = None
    host_key: str | None = None

    def words(self) -> str:
        """For messages."""
        return f"{self.user}@{place(self.address, self.port)}"


@dataclass(frozen=True)
class Probe:
    """One question to a guest.  Times in seconds; *status* are ranges with both ends.

    *retries* is how many failures in a row are forgiven once it has passed.  *deadline*, counted from the guest's
    start, is until when it has to pass.
    """

    kind: str
    interval: int = 5
    timeout: int = 5
    retries: int = 0
    deadline: int = 300
    address: str = ""
    port: int = 0
    path: str = "/"
    status: tuple[tuple[int, int], ...] = ((200, 200),)
    body: str | None = None
    access: Access | None = None
    command: tuple[str, ...] = ()
    pattern: str = ""
    absent: bool = False

    @property
    def asks(self) -> bool:
        """Whether the guest itself is asked; the others follow from its unit and its journal."""
        return self.kind in ("tcp", "http", "ssh")

    def words(self) -> str:
        """For messages: which probe it is."""
        if self.kind == "tcp":
            return f"tcp {place(self.address, self.port)}"
        if self.kind == "http":
            return f"http://{place(self.address, self.port)}{self.path}"
        if self.access is not None:
            return f"ssh {self.access.words()}"
        if self.kind == "journal":
            return f"journal {'without' if self.absent else 'with'} {self.pattern!r}"
        return self.kind


@dataclass(frozen=True)
class Health:
    """What healthy means of one guest: all *probes* pass for *min_healthy_time* seconds in a row.

    *healthy_deadline* is counted from its start, *progress_deadline* from when any guest of the call became healthy,
    0 for none.  *asked* tells whether anybody has said what healthy is; that the unit stays active always counts.
    """

    probes: tuple[Probe, ...] = ()
    min_healthy_time: int = 10
    healthy_deadline: int = 300
    progress_deadline: int = 600
    asked: bool = False

    @property
    def notifies(self) -> bool:
        """Whether the guest is to say that it is ready."""
        return any(probe.kind == "notify" for probe in self.probes)


def place(address: str, port: int) -> str:
    """Address and port in one word."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def health_spec() -> dict[str, t.Any]:
    """The argument spec of what healthy means, shared by the modules."""
    return {
        "health": {
            "type": "list",
            "elements": "dict",
            "options": {
                "kind": {"type": "str", "choices": list(KINDS), "required": True},
                "interval": {"type": "int"},
                "timeout": {"type": "int"},
                "retries": {"type": "int"},
                "deadline": {"type": "int"},
                "address": {"type": "str"},
                "port": {"type": "int"},
                "path": {"type": "str"},
                "status": {"type": "list", "elements": "str"},
                "body": {"type": "str"},
                "command": {"type": "list", "elements": "str"},
                "user": {"type": "str"},
                # A path, and a public key.
                "key_file": {"type": "str", "no_log": False},
                "host_key": {"type": "str", "no_log": False},
                "pattern": {"type": "str"},
                "absent": {"type": "bool"},
            },
        },
        "min_healthy_time": {"type": "int"},
        "healthy_deadline": {"type": "int"},
        "progress_deadline": {"type": "int"},
    }


def access_spec() -> dict[str, t.Any]:
    """The argument spec of `Access`."""
    return {
        "ssh": {
            "type": "dict",
            "options": {
                "address": {"type": "str"},
                "port": {"type": "int"},
                "user": {"type": "str"},
                "key_file": {"type": "str", "no_log": False},
                "host_key": {"type": "str", "no_log": False},
            },
        }
    }


def read_health(entry: t.Mapping[str, t.Any], addresses: t.Sequence[str], wrong: Wrong) -> Health:
    """What *entry* of a guest says of its health.

    *addresses* are those that are known of it, without their lengths; the first one is where it is asked, unless a
    probe says otherwise.  What is wrong goes to *wrong* (option, what was seen, what to do); the answer then is one
    that is of no use.
    """
    given = entry.get("health")
    least = _number(entry, "min_healthy_time", Health.min_healthy_time, (0, TIME_LIMIT), wrong)
    limit = _number(entry, "healthy_deadline", Health.healthy_deadline, (1, TIME_LIMIT), wrong)
    # Who gives a guest more time than the default gives all of them more.
    progress = _number(entry, "progress_deadline", max(Health.progress_deadline, limit), (0, TIME_LIMIT), wrong)
    if least >= limit:
        wrong(
            "healthy_deadline",
            f"{limit} s are over before the {least} s of min_healthy_time are.",
            "Give more than min_healthy_time.",
        )
    if 0 < progress <= least:
        wrong(
            "progress_deadline",
            f"{progress} s are over before the {least} s of min_healthy_time are.",
            "Give more than min_healthy_time, or 0 for no such limit.",
        )
    probes = tuple(
        _probe(each, f"health[{number}]", addresses, limit, wrong) for number, each in enumerate(given or ())
    )
    return Health(
        probes=tuple(probe for probe in probes if probe.kind != "active"),
        min_healthy_time=least,
        healthy_deadline=limit,
        progress_deadline=progress,
        asked=given is not None,
    )


def read_access(
    entry: t.Mapping[str, t.Any], addresses: t.Sequence[str], probes: t.Iterable[Probe], wrong: Wrong
) -> Access | None:
    """How the guest of *entry* is reached over SSH: by its option ``ssh``, or as a probe reaches it.

    None where nothing says how.  What is wrong goes to *wrong*, as in `read_health`.
    """
    given = entry.get("ssh")
    if given is None:
        return next((probe.access for probe in probes if probe.access is not None), None)
    return _access(given, "ssh", addresses, wrong)


def _number(
    entry: t.Mapping[str, t.Any],
    option: str,
    default: int,
    limits: tuple[int, int],
    wrong: Wrong,
    *,
    prefix: str = "",
) -> int:
    value = entry.get(option)
    if value is None:
        return default
    if not limits[0] <= value <= limits[1]:
        wrong(prefix + option, f"{value} is out of range.", f"Give a number from {limits[0]} to {limits[1]}.")
        return default
    return int(value)


def _probe(given: t.Mapping[str, t.Any], option: str, addresses: t.Sequence[str], limit: int, wrong: Wrong) -> Probe:
    kind = str(given.get("kind"))
    if kind not in KINDS:
        wrong(f"{option}.kind", f"{kind!r} is no kind of probe.", f"Give one of {', '.join(KINDS)}.")
        return Probe("active")
    for name in sorted({name for names in _OPTIONS.values() for name in names}):
        if given.get(name) is not None and name not in _OPTIONS[kind]:
            kinds = [each for each in KINDS if name in _OPTIONS[each]]
            wrong(f"{option}.{name}", f"is given for a probe of kind {kind}.", f"It is for {' and '.join(kinds)}.")
    for name, hint in _NEEDS.get(kind, ()):
        if given.get(name) is None:
            wrong(f"{option}.{name}", "is missing.", hint)
    prefix = f"{option}."
    deadline = _number(given, "deadline", limit, (1, TIME_LIMIT), wrong, prefix=prefix)
    if deadline > limit:
        wrong(f"{option}.deadline", f"{deadline} s are more than healthy_deadline, {limit} s.", "Raise that one too.")
    access = _access(given, option, addresses, wrong) if kind == "ssh" else None
    port = 0
    address = ""
    if kind in ("tcp", "http"):
        port = _number(given, "port", _PORTS.get(kind, 0), (1, 65535), wrong, prefix=prefix)
        address = _address(given, option, addresses, wrong)
    for name in ("body", "pattern"):
        if given.get(name) is not None:
            for seen in pattern_faults(given[name]):
                wrong(f"{option}.{name}", seen, "Give a regular expression of Python.")
    path = given.get("path") or "/"
    if _PATH.fullmatch(path) is None:
        wrong(f"{option}.path", f"{path!r} is no path of a URL.", "Begin with '/', and write what is special as %20.")
    command = tuple(map(str, given.get("command") or ()))
    if kind == "ssh" and given.get("command") is not None and (not command or not command[0]):
        wrong(f"{option}.command", "is empty.", "Give a list of words, such as [systemctl, is-active, nginx].")
    if any("\0" in word or "\n" in word for word in command):
        wrong(f"{option}.command", "has a word with a line break or a zero byte.", "Put such a command into a script.")
    return Probe(
        kind,
        interval=_number(given, "interval", Probe.interval, (1, INTERVAL_LIMIT), wrong, prefix=prefix),
        timeout=_number(given, "timeout", Probe.timeout, (1, INTERVAL_LIMIT), wrong, prefix=prefix),
        retries=_number(given, "retries", Probe.retries, (0, RETRIES_LIMIT), wrong, prefix=prefix),
        deadline=deadline,
        address=address,
        port=port,
        path=path,
        status=_status(given.get("status"), option, wrong),
        body=given.get("body"),
        access=access,
        command=command,
        pattern=given.get("pattern") or "",
        absent=bool(given.get("absent")),
    )


def _access(given: t.Mapping[str, t.Any], option: str, addresses: t.Sequence[str], wrong: Wrong) -> Access:
    user = given.get("user") or Access.user
    if _USER.fullmatch(user) is None:
        wrong(f"{option}.user", f"{user!r} is no name of a user.", "Give the name of a user of the guest.")
    key_file = given.get("key_file")
    if key_file is not None and (not key_file.startswith("/") or "\n" in key_file or "%" in key_file):
        wrong(f"{option}.key_file", f"{key_file!r} is no absolute path.", "Give the path of a private key on the host.")
    host_key = given.get("host_key")
    if host_key is not None:
        match = _PUBLIC_KEY.fullmatch(host_key.strip())
        if match is None:
            wrong(
                f"{option}.host_key",
                "is no public key of a host.",
                "Give what is in the guest's /etc/ssh/ssh_host_ed25519_key.pub.",
            )
            host_key = None
        else:
            host_key = f"{match.group(1)} {match.group(2)}"
    return Access(
        address=_address(given, option, addresses, wrong),
        port=_number(given, "port", Access.port, (1, 65535), wrong, prefix=f"{option}."),
        user=user,
        key_file=key_file,
        host_key=host_key,
    )


def _address(given: t.Mapping[str, t.Any], option: str, addresses: t.Sequence[str], wrong: Wrong) -> str:
    address = given.get("address")
    if address is None:
        if addresses:
            return addresses[0]
        wrong(
            f"{option}.address",
            "is missing, and no interface of the guest says one.",
            "Give the address at which the host reaches the guest, here or in addresses of its interfaces.",
        )
        return ""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        wrong(f"{option}.address", f"{address!r} is no IP address.", "Give it as 192.0.2.11 or 2001:db8::11.")
        return ""


def _status(given: t.Sequence[str] | None, option: str, wrong: Wrong) -> tuple[tuple[int, int], ...]:
    """Ranges of HTTP's status codes (RFC 9110, section 15: 100 to 599)."""
    if given is None:
        return Probe.status
    ranges = []
    for number, text in enumerate(given):
        match = _STATUS.fullmatch(str(text))
        first, last = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (0, 0)
        if not 100 <= first <= last <= 599:
            wrong(f"{option}.status[{number}]", f"{text!r} is out of range.", "Give 200, or 200-299, from 100 to 599.")
        ranges.append((first, last))
    if not ranges:
        wrong(f"{option}.status", "is empty.", "Leave it out for 200.")
    return tuple(ranges)


def pattern_faults(pattern: str) -> t.Iterator[str]:
    """What is wrong with *pattern* as a regular expression."""
    if not pattern:
        yield "is empty, which matches everything."
    elif len(pattern) > PATTERN_LIMIT:
        yield f"has {len(pattern)} characters, and {PATTERN_LIMIT} is the limit."
    else:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            yield f"{pattern!r} is no regular expression: {error}."
