"""The command line, called in this process."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from nni_nas_consistency.cli.main import main

FEW = ("--n", 3, "--train-images", 64, "--val-images", 20, "--set", "warmup_steps=0")
SHORT_TRAINING = ("train", "--recipe", "digits", "--epochs", 1, *FEW)


@dataclass(frozen=True)
class Done:
    """What a command printed."""

    out: str
    err: str

    @property
    def error(self):
        """Its error, which is one line."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in self.err
        return line


def run(*words, code=0):
    """Run a command, see that it ends with this exit code, and return what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        ended = main([str(word) for word in words])
    assert ended == code, out.getvalue() + err.getvalue()
    return Done(out.getvalue(), err.getvalue())
