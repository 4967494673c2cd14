# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stands in for get-pip.py: gives an environment the pip that its interpreter brings, then installs what was asked.

ansible-test runs it as a module in a new virtual environment, with pip's options, package names, and
``--no-setuptools`` or ``--no-wheel``.  It runs under every Python that ansible-test knows, 3.8 and newer.
"""

from __future__ import annotations

import subprocess
import sys


def main(arguments: list[str]) -> None:
    """Do as get-pip.py does with *arguments*."""
    ours = {"--no-setuptools", "--no-wheel"}
    rest = [argument for argument in arguments if argument not in ours]
    # In processes of their own: the caller has replaced parts of pip's logging in this one.
    subprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"], stdout=subprocess.DEVNULL)
    subprocess.check_call([sys.executable, "-m", "pip", "install", *rest])
    if "--no-setuptools" in arguments:
        subprocess.check_call([sys.executable, "-m", "pip", "--quiet", "uninstall", "--yes", "setuptools"])


if __name__ == "__main__":
    main(sys.argv[1:])
