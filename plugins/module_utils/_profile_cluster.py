# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the profiles of all clusters have in common.

Private to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t

from ansible_collections.microvm.fleet.plugins.module_utils._profile_frame import Fault, Option

# Label and taint, as kubelet reads them: [PREFIX/]NAME=VALUE[:EFFECT].
LABEL: t.Final = r"([a-z0-9.-]+/)?[A-Za-z0-9][A-Za-z0-9_.-]*=[A-Za-z0-9_.-]*"
TAINT: t.Final = LABEL + r":(NoSchedule|PreferNoSchedule|NoExecute)"

# Options of the nodes of every cluster.
NODE: t.Final[t.Mapping[str, Option]] = {
    "node_ip": Option("own_address", "The address that the node is known by in the cluster."),
    "node_labels": Option(
        "list", "Labels of the node, as KEY=VALUE.", default=(), pattern=LABEL, form="a label as KEY=VALUE"
    ),
    "node_taints": Option(
        "list",
        "Taints of the node, as KEY=VALUE:EFFECT with NoSchedule, PreferNoSchedule or NoExecute.",
        default=(),
        pattern=TAINT,
        form="a taint as KEY=VALUE:EFFECT",
    ),
    "shutdown_grace": Option(
        "int",
        "Seconds that pods have to end by themselves when the guest is stopped.",
        default=60,
        least=10,
        most=3600,
    ),
}
TLS_SANS: t.Final = Option(
    "list",
    "Further names and addresses for the certificate of the API.",
    default=(),
    pattern=r"[A-Za-z0-9*][A-Za-z0-9.:-]*",
    form="a host name or an address",
)


def differences(
    options: t.Mapping[str, t.Mapping[str, t.Mapping[str, t.Any]]],
    *,
    first: t.Sequence[str],
    later: t.Sequence[str],
    names: str,
    alike: t.Sequence[str],
) -> t.Iterator[Fault]:
    """Options *alike* that a node has other than the guest whose address is its option *names*.

    *first* and *later* are the profiles of those that are joined, and of those that join.
    """
    joined = {
        chosen[profile]["node_ip"]: (guest, chosen[profile])
        for guest, chosen in options.items()
        for profile in first
        if profile in chosen and chosen[profile]["node_ip"] is not None
    }
    for guest, chosen in options.items():
        for profile in later:
            values = chosen.get(profile, {})
            other, theirs = joined.get(values.get(names), ("", {}))
            for option in alike:
                if other and option in values and values[option] != theirs[option]:
                    yield Fault(
                        f"profile_options.{profile}.{option}",
                        f"{values[option]}, and that of {other}, which it joins, is {theirs[option]}.",
                        "Give both the same.",
                        guest,
                    )
