"""`nni-consistency`: one file per verb. `parse.py` turns words into the values of a job, and `jobs` does the job.

Exit codes: 0 done, 1 a run failed, 2 bad input (one line on standard error), 130 interrupted, 143 terminated. Torch,
NNI and Lightning take five seconds to import; nothing here imports them, the functions of `jobs` do once the words
are checked.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup
from typer.main import get_group

from nni_nas_consistency.cli.archs import archs_app
from nni_nas_consistency.cli.console import INTERRUPTED, TERMINATED, Stopped, quiet_libraries, say, sigterm_raises
from nni_nas_consistency.cli.convert import convert
from nni_nas_consistency.cli.doctor import doctor
from nni_nas_consistency.cli.ensemble import ensemble
from nni_nas_consistency.cli.evaluate import evaluate
from nni_nas_consistency.cli.extract import extract
from nni_nas_consistency.cli.fit import fit
from nni_nas_consistency.cli.images import images_app
from nni_nas_consistency.cli.nnictl import nnictl
from nni_nas_consistency.cli.quickstart import quickstart
from nni_nas_consistency.cli.rank import rank
from nni_nas_consistency.cli.score import score
from nni_nas_consistency.cli.search import search
from nni_nas_consistency.cli.shrink import shrink
from nni_nas_consistency.cli.spaces import spaces_app
from nni_nas_consistency.cli.standalone import standalone
from nni_nas_consistency.cli.study import study
from nni_nas_consistency.cli.train import train
from nni_nas_consistency.errors import InputError, Terminated

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
VERBS = (quickstart, train, score, rank, ensemble, standalone, shrink, search, extract, fit, evaluate, convert, study)
for verb in (*VERBS, doctor):
    app.command()(verb)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})(
    nnictl
)
app.add_typer(archs_app, name="archs")
app.add_typer(images_app, name="images")
app.add_typer(spaces_app, name="spaces")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version("nni-nas-consistency"))
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Rank consistency of weight-sharing NAS, for NNI."""


@cache
def command_tree() -> TyperGroup:
    """Return the verbs with their options; made once, since that takes longer than most words do."""
    return get_group(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line in this process and return its exit code.

    Args:
        argv: The words after the program's name; by default those of this process.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    quiet_libraries()
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)  # Python's last garbage collections took a second, with torch and NNI
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file name that is not UTF-8 is printed as it is
    try:
        with sigterm_raises():
            run = command_tree().main
            code = run(args=words or ["--help"], prog_name="nni-consistency", obj=words, standalone_mode=False)
    except typer.TyperException as error:  # a word that the verb does not take
        return _failed(_usage(error), error.exit_code)
    except InputError as error:
        return _failed(str(error), 2)
    except RuntimeError as error:
        return _failed(str(error), 1)
    except Stopped as end:
        return end.code
    except Terminated:
        say("terminated")
        return TERMINATED
    except Exception as error:
        return _failed(f"{type(error).__name__}, which nobody foresaw; please report {_saved(error)}", 1)
    if code == INTERRUPTED:
        say("interrupted")
    return code if isinstance(code, int) else 0


def _usage(error: typer.TyperException) -> str:
    """Return typer's message with the value that it is about, and the help text."""
    from pydantic import ValidationError  # typer's, loaded only where there is a bad value

    message = error.format_message().replace("Value error, ", "").replace("\n\t", " ").rstrip(".")
    if isinstance(error.__cause__, ValidationError):
        value = repr(error.__cause__.errors()[0]["input"])
        if value not in message:
            message += f", not {value if len(value) <= 60 else value[:60] + '…'}"
    context = getattr(error, "ctx", None)
    return f"{message}; see {'nni-consistency' if context is None else context.command_path} --help"


def _saved(error: Exception) -> Path:
    """Return a new file with the traceback of an error."""
    file, path = tempfile.mkstemp(prefix="nni-consistency-", suffix=".txt")
    with os.fdopen(file, "w", encoding="utf-8", errors="backslashreplace") as report:
        report.write(f"nni-consistency {version('nni-nas-consistency')}\n")
        traceback.print_exception(error, file=report)
    return Path(path)


def _failed(message: str, code: int) -> int:
    say(f"error: {message}")
    return code
