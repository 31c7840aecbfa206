"""`nni-consistency`: one file a verb; words become jobs in `parse.py`, and `jobs.py` does them.

Exit 0 done, 1 a run failed, 2 bad input with one clear line. Torch, NNI and Lightning take five seconds to import, so
nothing here imports them: the functions of `jobs.py` do, when the words are known to be right.
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

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for verb in (quickstart, train, score, rank, standalone, search, doctor):
    app.command()(verb)
app.add_typer(archs_app, name="archs")
app.add_typer(spaces_app, name="spaces")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: The words after the program's name; by default those that this process was started with.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    quiet_libraries()
    try:
        app(args=words, prog_name="nni-consistency", obj=words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except InputError as error:
        return _failed(error, 2)
    except RuntimeError as error:
        return _failed(error, 1)
    except KeyboardInterrupt:
        say("interrupted; what was finished is kept: the same command goes on, for train with --resume")
        return 130
    return 0


def _failed(error: Exception, code: int) -> int:
    say(f"error: {error}")
    return code
