# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server that says who called."""

from __future__ import annotations

import socket
import threading

import pytest

from microvm_testbed import outside


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_outside_tells_the_callers_address(address: str) -> None:
    with outside.Server(("::", 0), outside.Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with socket.create_connection((address, server.server_address[1]), timeout=30) as client:
                told = client.makefile().read()
        finally:
            server.shutdown()
            thread.join(timeout=30)
    assert told == f"outside peer={address}\n"
