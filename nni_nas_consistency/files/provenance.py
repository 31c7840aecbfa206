"""Provenance: the command, the machine and the versions that made a file."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

PACKAGES = ("nni-nas-consistency", "nni", "torch", "numpy", "scipy")


def provenance(command: Sequence[str]) -> dict[str, str]:
    """Return the command, the machine and the versions of Python and of the packages that decide numbers.

    Args:
        command: The words of the command, the program first: `["nni-consistency", "rank", …]`.
    """
    facts = {
        "command": " ".join(command),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        facts[package] = version(package)
    return facts
