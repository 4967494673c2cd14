# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rest of the world, as far as hosts and guests can tell: a TCP port that says who called."""

from __future__ import annotations

import contextlib
import socket
import socketserver

from .net import OUTSIDE_PORT


class Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        """Tell the caller the address that it came with, which is how translation shows."""
        address = str(self.client_address[0]).removeprefix("::ffff:")
        with contextlib.suppress(OSError):
            self.request.sendall(f"outside peer={address}\n".encode())


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve() -> None:
    """Answer for ever."""
    with Server(("::", OUTSIDE_PORT), Handler) as server:
        server.serve_forever()
