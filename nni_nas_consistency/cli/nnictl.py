"""`nni-consistency nnictl …`: NNI's own command, with its web page bound to this machine."""

from __future__ import annotations

import subprocess
import sys

import typer

HELP_WORDS = ("-h", "--help")

HELP = """\
nni-consistency nnictl runs NNI's own nnictl with the words that follow, all of them as they are, and binds the web page
of what it starts to 127.0.0.1. By itself NNI listens on all network interfaces, without a password (docs/security.md).
"""


def nnictl(context: typer.Context) -> None:
    """Run NNI's nnictl with the words that follow, its web page bound to this machine.

    NNI's manager by itself listens on all network interfaces, without a password, and prints 127.0.0.1.
    """
    from nni_nas_consistency.nni3.workarounds import localhost_only

    if not context.args or context.args[0] in HELP_WORDS:
        print(HELP, flush=True)
    with localhost_only():
        done = subprocess.run([sys.executable, "-m", "nni.tools.nnictl.nnictl", *context.args], check=False)
    raise typer.Exit(done.returncode)
