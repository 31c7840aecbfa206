"""What long work says on standard error: a progress bar on a terminal, plain lines elsewhere; what an end has kept."""

from __future__ import annotations

import glob
import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from nni_nas_consistency.errors import Terminated
from nni_nas_consistency.files.progress import silent

SECONDS_BETWEEN_LINES = 10.0
SECONDS_WORTH_A_LINE = 2.0
INTERRUPTED = 130
TERMINATED = 143
"""Exit codes after Ctrl-C and SIGTERM, as a shell reports them."""

EPSILON = 1e-6
"""Rounding error of a sum of parts of one piece of work."""

NOISE = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    "Using ModelCheckpoint with manual optimization",  # resuming needs a checkpoint after the optimizer's step
    "pkg_resources is deprecated",  # nnictl's own use of setuptools
    "The '.*dataloader' does not have many workers",  # images are on the device already
    "Checkpoint directory .* exists and is not empty",  # a run that goes on
    "The dirpath has changed from",  # of a run whose folder was moved
    "Using a non-tuple sequence for multidimensional indexing",  # NNI's own slicing of a supernet's weights
    "Detected pickle protocol",  # a foreign file in the place of a checkpoint, which is refused
)


def quiet_libraries() -> None:
    """Silence warnings of libraries that are no concern of the user."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)


def command_line(context: typer.Context) -> list[str]:
    """Return the words of the running command, the program first."""
    return ["nni-consistency", *context.find_root().obj]


def say(line: str) -> None:
    """Write a line to standard error at once; a text in it from some file cannot control the terminal."""
    shown = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)
    print(shown, file=sys.stderr, flush=True)


class Stopped(Exception):
    """A verb was ended by Ctrl-C or SIGTERM, and has said what it kept.

    Args:
        code: The exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@contextmanager
def saying_what_is_kept(kept: Callable[[], str]) -> Iterator[None]:
    """End with exit code 130 on Ctrl-C and 143 on SIGTERM, after a line that says what is kept and how to go on.

    Args:
        kept: Returns that line, looking at what is on the disk by then.

    Raises:
        Stopped: The block was interrupted or terminated.
    """
    try:
        yield
    except KeyboardInterrupt as end:
        say(f"interrupted; {kept()}")
        raise Stopped(INTERRUPTED) from end
    except Terminated as end:
        say(f"terminated; {kept()}")
        raise Stopped(TERMINATED) from end


def kept_in_journal(path: Path) -> str:
    """Say whether a journal keeps scored archs, and how to go on."""
    names = [path, *path.parent.glob(f"{glob.escape(path.name)}.*")]  # without locks, every process has one
    counts = [
        each.read_bytes().count(b"\n") - 1 for each in names if each.is_file()
    ]  # a first line says what is scored
    if max(counts, default=0) < 1:
        return "no score is kept yet: the same command begins anew"
    return f"the archs that are scored are kept in {path}: give the same command again to go on"


def kept_of_training(folder: Path) -> str:
    """Say which checkpoint the folder of a training run keeps, and how to go on."""
    checkpoints = sorted([*folder.glob("checkpoints/last.ckpt"), *folder.glob("phase*/checkpoints/last.ckpt")])
    if not checkpoints:
        return "no checkpoint is kept yet: the same command begins anew"
    return f"{checkpoints[-1]} is kept: give the same command again to go on"


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM inside the block, so that work ends in good order; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would disturb the end
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[float], None]]:
    """Yield a progress callback, and show how much is done, the rate and the time left.

    Work that is done within two seconds leaves nothing on the screen.

    Args:
        total: Number of work items.
        what: Their unit, such as `archs`.

    Yields:
        The callback, which takes the number of items done since the last call; fractions are fine.
    """
    if not sys.stderr.isatty():
        yield _plain_lines(total, what)
        return
    columns = (TextColumn(what), BarColumn(), _Done(), TimeElapsedColumn(), TimeRemainingColumn())
    begun = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=300) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
        bar.live.transient = time.monotonic() - begun < SECONDS_WORTH_A_LINE


def progress_bar(total: int, what: str) -> AbstractContextManager[Callable[[float], None]]:
    """Return a progress callback as `progress` does, for work that writes lines of its own: a bar, or nothing."""
    return progress(total, what) if sys.stderr.isatty() else silent(total, what)


class _Done(ProgressColumn):
    """Column with the items done and the rate."""

    def render(self, task: Task) -> Text:
        """Return text such as `120/200, 6.9/s`."""
        rate = "" if task.speed is None else f", {task.speed:.3g}/s"
        return Text(f"{int(task.completed + EPSILON)}/{int(task.total or 0)}{rate}")


def _plain_lines(total: int, what: str) -> Callable[[float], None]:
    begun = last = time.monotonic()
    done = 0.0

    def advance(more: float) -> None:
        nonlocal done, last
        done += more
        now = time.monotonic()
        if done < total - EPSILON:
            is_news = now - last >= SECONDS_BETWEEN_LINES
        else:
            is_news = now - begun >= SECONDS_WORTH_A_LINE
        if not is_news:
            return
        last = now
        rate = done / max(now - begun, 1e-9)
        left = timedelta(seconds=round(max(0, total - done) / rate))
        say(f"{int(done + EPSILON)}/{total} {what}, {rate:.3g}/s, {left} left")

    return advance
