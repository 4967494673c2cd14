# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks a QEMU over its socket (QMP): ask.py SOCKET REQUEST..., each request in JSON; prints the list of answers."""

from __future__ import annotations

import json
import socket
import sys

TIMEOUT = 60


def main() -> int:
    """Send one request after the other, each after the answer to the one before; events are passed over."""
    place, *requests = sys.argv[1:]
    answers = []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(place)
        with connection.makefile("rw", encoding="utf-8") as stream:
            stream.readline()  # the greeting
            for request in ('{"execute": "qmp_capabilities"}', *requests):
                stream.write(request + "\n")
                stream.flush()
                answer = json.loads(stream.readline())
                while "event" in answer:
                    answer = json.loads(stream.readline())
                if "error" in answer:
                    print(answer["error"]["desc"], file=sys.stderr)
                    return 1
                answers.append(answer["return"])
    print(json.dumps(answers[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
