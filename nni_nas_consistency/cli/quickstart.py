"""`nni-consistency quickstart`: train, score, rank and report on the embedded benchmark.

The benchmark: the digits of scikit-learn (8×8, 1,200 training and 597 test images), the ResNet20 space with a width
unit of one channel, and reference accuracies made by `nni-consistency standalone`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import (
    command_line,
    kept_of_training,
    progress,
    progress_bar,
    say,
    saying_what_is_kept,
)
from nni_nas_consistency.cli.options import EpochsOption, OutFolder, SeedOption
from nni_nas_consistency.cli.rank import REPORT_FILES
from nni_nas_consistency.files.doors import check_output_folder
from nni_nas_consistency.files.provenance import provenance
from nni_nas_consistency.systems import EMBEDDED_BENCHMARK
from nni_nas_consistency.training.recipes import Recipe

if TYPE_CHECKING:
    from nni_nas_consistency.ranking.report import Report


def quickstart(
    context: typer.Context,
    out: OutFolder = Path("runs/quickstart"),
    seed: SeedOption = 0,
    epochs: EpochsOption = None,
) -> None:
    """Train, score, rank and report on the embedded benchmark: about two minutes on two cores."""
    recipe = parse.recipe_of(None, EMBEDDED_BENCHMARK, EMBEDDED_BENCHMARK.data, epochs, None, [])
    made_by = provenance(command_line(context))
    check_output_folder(out, ("scores.json", *REPORT_FILES))
    with saying_what_is_kept(lambda: _kept(out)):
        report = _train_score_rank(out, recipe, seed, made_by)

        from nni_nas_consistency.ranking.report import lines, write_report

        page = write_report(report, out)
    print("\n".join(lines(report)))
    print(f"report: {page}")


def _train_score_rank(out: Path, recipe: Recipe, seed: int, made_by: Mapping[str, str]) -> Report:
    system, data = EMBEDDED_BENCHMARK, EMBEDDED_BENCHMARK.data
    with jobs.threads(1), as_file(files("nni_nas_consistency") / "assets" / "digits" / "reference.json") as reference:
        begun = time.monotonic()
        job = jobs.TrainJob(system, data, recipe, out, seed=seed, device="cpu", provenance=made_by)
        checkpoint = jobs.train(job, progress=progress_bar, write=say)
        trained = time.monotonic()
        scores = out / "scores.json"
        jobs.score(jobs.ScoreJob(system, data, checkpoint, reference, scores, device="cpu"), progress=progress)
        spent = {"training": f"{trained - begun:.0f} s", "scoring": f"{time.monotonic() - trained:.1f} s"}
        ranking = jobs.RankJob(system, scores, reference, title="Rank consistency on the embedded benchmark")
        return jobs.rank(replace(ranking, provenance={**made_by, **spent}), progress=progress)


def _kept(out: Path) -> str:
    supernet = out / "supernet.safetensors"
    if supernet.is_file():
        return f"{supernet} and the archs that are scored are kept: give the same command again to go on"
    return kept_of_training(out)
