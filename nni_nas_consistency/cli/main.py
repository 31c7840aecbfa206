"""`nni-consistency`: one file per verb. `parse.py` turns words into the values of a job, and `jobs.py` does the job.

Exit codes: 0 done, 1 a run failed, 2 bad input (one line on standard error), 130 interrupted. Torch, NNI and Lightning
take five seconds to import; nothing here imports them, the functions of `jobs.py` do once the words are checked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from nni_nas_consistency.cli.archs import archs_app
from nni_nas_consistency.cli.console import quiet_libraries, say
from nni_nas_consistency.cli.doctor import doctor
from nni_nas_consistency.cli.quickstart import quickstart
from nni_nas_consistency.cli.rank import rank
from nni_nas_consistency.cli.score import score
from nni_nas_consistency.cli.search import search
from nni_nas_consistency.cli.spaces import spaces_app
from nni_nas_consistency.cli.standalone import standalone
from nni_nas_consistency.cli.train import train
from nni_nas_consistency.errors import InputError

INTERRUPTED = 130
"""What typer returns after Ctrl-C, as a shell reports it."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
for verb in (quickstart, train, score, rank, standalone, search, doctor):
    app.command()(verb)
app.add_typer(archs_app, name="archs")
app.add_typer(spaces_app, name="spaces")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line in this process and return its exit code.

    Args:
        argv: The words after the program's name; by default those of this process.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    quiet_libraries()
    try:
        code = app(args=words or ["--help"], prog_name="nni-consistency", obj=words, standalone_mode=False)
    except typer.TyperException as error:  # a word that the verb does not take
        return _failed(_usage(error), error.exit_code)
    except InputError as error:
        return _failed(str(error), 2)
    except RuntimeError as error:
        return _failed(str(error), 1)
    if code == INTERRUPTED:
        say("interrupted; to continue, run `score` or `standalone` again, `train` again with --resume")
    return code if isinstance(code, int) else 0


def _usage(error: typer.TyperException) -> str:
    """Return typer's message as one line that names the help text."""
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message}; see {'nni-consistency' if context is None else context.command_path} --help"


def _failed(message: str, code: int) -> int:
    say(f"error: {message}")
    return code
