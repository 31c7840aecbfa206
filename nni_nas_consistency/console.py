"""What long work shows: a progress bar on a terminal, plain lines elsewhere; all on standard error."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0

NOISE = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    "Using ModelCheckpoint with manual optimization",  # a checkpoint after the optimizer's step is what resume needs
    "pkg_resources is deprecated",  # nnictl's own use of setuptools
    "The '.*dataloader' does not have many workers",  # images are on the device already
)


def quiet_libraries() -> None:
    """Keep out of the user's sight what libraries tell their own developers."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)


def say(line: str) -> None:
    """Write a line to standard error at once."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[], None]]:
    """Give a function to call whenever one of `total` pieces of work is done.

    Args:
        total: How many pieces there are.
        what: What they are called, such as `archs`.
    """
    if sys.stderr.isatty():
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
    else:
        yield _plain_lines(total, what)


def _plain_lines(total: int, what: str) -> Callable[[], None]:
    begun = last = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal done, last
        done += 1
        now = time.monotonic()
        if done < total and now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        rate = done / max(now - begun, 1e-9)
        say(f"{done}/{total} {what}, {rate:.3g} a second, {(total - done) / rate:.0f} s left")

    return advance
