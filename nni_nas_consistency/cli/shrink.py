"""`nni-consistency shrink`: drop the worst candidate of every choice of a trained supernet's space."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import command_line, kept_in_journal, progress, saying_what_is_kept
from nni_nas_consistency.cli.options import (
    BatchSizeOption,
    CacheOption,
    CalibrationImagesOption,
    Checkpoint,
    DataOption,
    DeviceOption,
    DownloadOption,
    MaxMacsOption,
    OutFile,
    OverwriteScoresOption,
    RootOption,
    ScoringMetricOption,
    SeedOption,
    SpaceOption,
    StatisticsOption,
    TestImagesOption,
    ValFilesOption,
    ValFractionOption,
    WorkersOption,
    count_option,
)
from nni_nas_consistency.files.provenance import provenance
from nni_nas_consistency.files.score_files import journal_beside


def shrink(
    context: typer.Context,
    checkpoint: Checkpoint,
    space: SpaceOption = None,
    data: DataOption = None,
    data_root: RootOption = None,
    val_fraction: ValFractionOption = None,
    val_files: ValFilesOption = None,
    cache: CacheOption = None,
    workers: WorkersOption = None,
    out: OutFile = Path("shrunk.json"),
    earlier: Annotated[
        Path | None, typer.Option("--from", help="Record of earlier rounds, after which this one follows.")
    ] = None,
    archs_per_candidate: Annotated[
        int,
        count_option(
            "--archs-per-candidate", "Archs to score every candidate by.", most=10_000, why="all of them are scored"
        ),
    ] = 32,
    keep: Annotated[
        int, count_option("--keep", "Leave every choice as many candidates.", most=1000, why="no choice has more")
    ] = 2,
    max_macs: MaxMacsOption = None,
    metric: ScoringMetricOption = "loss",
    bn: StatisticsOption = None,
    batch_size: BatchSizeOption = 512,
    calibration_images: CalibrationImagesOption = None,
    images: TestImagesOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteScoresOption = False,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Score every candidate of every choice by archs that have it, and drop the worst of each: a rule of this project.

    Writes a record for `train --shrunk` and `search --shrunk`, and for the next round.
    """
    folder = parse.FolderWords(data_root, val_fraction=val_fraction, val_files=val_files, cache=cache, workers=workers)
    system, data_set = parse.system_and_data(space, data, checkpoint=checkpoint, folder=folder)
    data_set.check_count("--images", images, train=False)
    statistics = parse.statistics_of(system, bn, "batch")
    parse.calibration_of(data_set, statistics, calibration_images)
    job = jobs.ShrinkJob(
        system,
        data_set,
        checkpoint,
        out,
        earlier=earlier,
        archs_per_candidate=archs_per_candidate,
        keep=keep,
        max_macs=parse.count_of("--max-macs", max_macs),
        metric=metric,
        bn=statistics,
        batch_size=batch_size,
        calibration_images=calibration_images,
        images=images,
        overwrite=overwrite,
        data_root=data_root,
        download=download,
        seed=seed,
        device=device,
        provenance=provenance(command_line(context)),
    )
    with saying_what_is_kept(lambda: kept_in_journal(journal_beside(out))):
        this = jobs.shrink(job, progress=progress)
    print(out)
    for label, candidates in this.scores.items():
        shown = "  ".join(f"{choice} {_score(score)}" for choice, score in candidates)
        print(f"{label}: {shown}; dropped {this.dropped[label]}")


def _score(score: float | None) -> str:
    return "beyond the bound" if score is None else f"{score:.4f}"
