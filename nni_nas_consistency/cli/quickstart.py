"""`nni-consistency quickstart`: train, score, rank and report on the embedded benchmark.

The benchmark: the digits of scikit-learn (8×8, 1,200 training and 597 test images), the ResNet20 space with a width
unit of one channel, and reference accuracies made by `nni-consistency standalone`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import command_line, progress, say
from nni_nas_consistency.cli.options import OutFolder, SeedOption
from nni_nas_consistency.files.provenance import provenance
from nni_nas_consistency.systems import EMBEDDED_BENCHMARK


def quickstart(
    context: typer.Context,
    out: OutFolder = Path("runs/quickstart"),
    seed: SeedOption = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs; by default the recipe's 24.")] = None,
) -> None:
    """Train, score, rank and report on the embedded benchmark: about two minutes on two cores."""
    from nni_nas_consistency.ranking.report import lines, write_report

    system, data = EMBEDDED_BENCHMARK, EMBEDDED_BENCHMARK.data
    recipe = parse.recipe_of(None, system, data, epochs, None, [])
    made_by = provenance(command_line(context))
    with one_thread(), as_file(files("nni_nas_consistency") / "assets" / "digits" / "reference.json") as reference:
        begun = time.monotonic()
        job = jobs.TrainJob(system, data, recipe, out, seed=seed, device="cpu", provenance=made_by)
        checkpoint = jobs.train(job, progress_bar=sys.stderr.isatty(), write=say)
        trained = time.monotonic()
        scores = out / "scores.json"
        jobs.score(jobs.ScoreJob(system, data, checkpoint, reference, scores, device="cpu"), progress=progress)
        spent = {"training": f"{trained - begun:.0f} s", "scoring": f"{time.monotonic() - trained:.1f} s"}
        ranking = jobs.RankJob(system, scores, reference, title="Rank consistency on the embedded benchmark")
        report = jobs.rank(replace(ranking, provenance={**made_by, **spent}))
    print("\n".join(lines(report)))
    print(f"report: {write_report(report, out)}")


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: for networks this small a second thread costs more than it gains.

    Four epochs took 17 s of processor time on one thread and 81 s on two. And results are the same on all machines with
    the same torch and instruction set, however many cores they have.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
