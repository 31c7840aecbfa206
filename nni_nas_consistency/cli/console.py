"""Progress of long work, on standard error: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
EPSILON = 1e-6
"""Rounding error of a sum of parts of one piece of work."""

NOISE = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    "Using ModelCheckpoint with manual optimization",  # resuming needs a checkpoint after the optimizer's step
    "pkg_resources is deprecated",  # nnictl's own use of setuptools
    "The '.*dataloader' does not have many workers",  # images are on the device already
)


def quiet_libraries() -> None:
    """Silence warnings of libraries that are no concern of the user."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)


def command_line(context: typer.Context) -> list[str]:
    """Return the words of the running command, the program first."""
    return ["nni-consistency", *context.find_root().obj]


def say(line: str) -> None:
    """Write a line to standard error at once."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[float], None]]:
    """Yield a progress callback, and show how much is done, the rate and the time left.

    Args:
        total: Number of work items.
        what: Their unit, such as `archs`.

    Yields:
        The callback, which takes the number of items done since the last call; fractions are fine.
    """
    if sys.stderr.isatty():
        columns = (TextColumn(what), BarColumn(), _Done(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), speed_estimate_period=300) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.advance(task, done)
    else:
        yield _plain_lines(total, what)


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
        if done < total - EPSILON and now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        rate = done / max(now - begun, 1e-9)
        say(f"{int(done + EPSILON)}/{total} {what}, {rate:.3g}/s, {max(0, total - done) / rate:.0f} s left")

    return advance
