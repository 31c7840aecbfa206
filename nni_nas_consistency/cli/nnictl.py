"""`nni-consistency nnictl …`: NNI's own command, with its page bound to this machine and its trials not mixed up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

MANAGER = "nni_nas_consistency.nni3.manager"
"""The module that runs NNI's nnictl."""

HELP_WORDS = ("-h", "--help")

HELP = """\
nni-consistency nnictl runs NNI's own nnictl with the words that follow, all of them as they are, and binds the web page
of what it starts to 127.0.0.1. By itself NNI listens on all network interfaces, without a password (docs/security.md),
and may run two trials that begin together with each other's parameters, which does not happen here either.
Where trials run on other machines, the port after the web page's is bound to nniManagerIp, to which they report.
"""


def nnictl(context: typer.Context) -> None:
    """Run NNI's nnictl with the words that follow, its web page bound to this machine.

    NNI's manager by itself listens on all network interfaces, without a password, and prints 127.0.0.1.
    """
    from nni_nas_consistency.nni3.manager import localhost_only, own_parameters

    if not context.args or context.args[0] in HELP_WORDS:
        print(HELP, flush=True)
    with localhost_only(reports_to(context.args)), own_parameters():
        done = subprocess.run([sys.executable, "-m", MANAGER, *context.args], check=False)
    raise typer.Exit(done.returncode)


def reports_to(words: Sequence[str]) -> str | None:
    """Return the `nniManagerIp` of the configuration that nnictl is given, if its trials run on other machines.

    A configuration that cannot be read is NNI's to refuse.
    """
    config = _config_of(words)
    if config is None:
        return None
    services = config.get("trainingService")
    platforms = [each.get("platform") for each in (services if isinstance(services, list) else [services]) if each]
    address = config.get("nniManagerIp")
    return str(address) if address and set(platforms) - {"local"} else None


def _config_of(words: Sequence[str]) -> dict[str, Any] | None:
    import yaml  # NNI's own reader of configurations

    for option, value in zip(words, words[1:], strict=False):
        if option in ("-c", "--config"):
            try:
                config = yaml.safe_load(Path(value).read_text())
            except (OSError, ValueError, yaml.YAMLError):
                return None
            return config if isinstance(config, dict) else None
    return None
