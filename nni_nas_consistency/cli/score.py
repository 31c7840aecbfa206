"""`nni-consistency score`: score a list of archs with a trained supernet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import kept_in_journal, progress, say, saying_what_is_kept
from nni_nas_consistency.cli.options import (
    Archs,
    BatchSizeOption,
    CacheOption,
    DataOption,
    DeviceOption,
    DownloadOption,
    LimitOption,
    OutFile,
    OverwriteScoresOption,
    RootOption,
    SpaceOption,
    TestImagesOption,
    ValFilesOption,
    ValFractionOption,
    WorkersOption,
    count_option,
)
from nni_nas_consistency.files.score_files import beside, journal_beside


def score(
    checkpoints: Annotated[
        list[Path],
        typer.Option(
            "--checkpoint",
            help="supernet.safetensors of a training run; or resnet20-cifar100, which is shipped. Given again: the "
            "mean of the standardised scores of all of them.",
        ),
    ],
    archs: Archs,
    space: SpaceOption = None,
    data: DataOption = None,
    data_root: RootOption = None,
    val_fraction: ValFractionOption = None,
    val_files: ValFilesOption = None,
    cache: CacheOption = None,
    workers: WorkersOption = None,
    out: OutFile = Path("scores.json"),
    limit: LimitOption = None,
    images: TestImagesOption = None,
    images_file: Annotated[
        Path | None, typer.Option(help="Score on the images of this list only, made by `images choose`.")
    ] = None,
    metric: Annotated[
        Literal["loss", "acc"],
        typer.Option(help="Negative cross-entropy or accuracy; the other goes to a second file."),
    ] = "loss",
    bn: Annotated[
        Literal["supernet", "train", "test", "batch"] | None,
        typer.Option(
            help="Batch-norm statistics: of each batch (the default where there are batch norms), re-estimated on "
            "train or test images, or running ones."
        ),
    ] = None,
    batch_size: BatchSizeOption = 512,
    orders: Annotated[
        int,
        count_option(
            "--orders",
            "Average over N image orders, which compose batches anew.",
            most=100,
            why="each keeps all images in memory, and scores all archs once more",
        ),
    ] = 1,
    flip: Annotated[bool, typer.Option("--flip", help="Average over each image and its mirror image.")] = False,
    scorer: Annotated[
        Literal["prefix", "plain"] | None,
        typer.Option(
            help="prefix: archs share common prefixes (the default where the space is a chain); plain: one at a time."
        ),
    ] = None,
    precision: Annotated[
        Literal["float32", "bf16", "float64"], typer.Option(help="Precision of the features; bf16 is for GPUs.")
    ] = "float32",
    shard: Annotated[
        str | None, typer.Option(help="I/N: score the I-th of N parts; the last to finish merges them.")
    ] = None,
    overwrite: OverwriteScoresOption = False,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Score a list of archs with a trained supernet; write the scores and a submission.

    Finished archs are kept in a journal beside --out: after a crash, run the same command again to continue.
    """
    folder = parse.FolderWords(
        data_root,
        val_fraction=val_fraction,
        val_files=val_files,
        cache=cache,
        workers=workers,
    )
    system, data_set = parse.system_and_data(space, data, checkpoint=checkpoints[0], folder=folder)
    parse.check_same_system(system, checkpoints)
    data_set.check_count("--images", images, train=False)
    job = jobs.ScoreJob(
        system,
        data_set,
        checkpoints[0],
        archs,
        out,
        data_root=data_root,
        download=download,
        limit=limit,
        images=images,
        images_file=images_file,
        metric=metric,
        bn=bn,
        batch_size=batch_size,
        orders=orders,
        flip=flip,
        scorer=scorer,
        precision=precision,
        shard=parse.shard_of(shard),
        overwrite=overwrite,
        device=device,
    )
    if len(checkpoints) > 1:
        _score_by_each(job, checkpoints)
        return
    with saying_what_is_kept(lambda: kept_in_journal(journal_beside(out, job.shard))):
        scored = jobs.score(job, progress=progress)
    for path in scored.files:
        print(path)
    if scored.saved_macs is not None:
        say(f"shared prefixes saved {scored.saved_macs:.0%} of the MACs of scoring one by one")
    if out in scored.files and beside(out, "submission") not in scored.files:
        say("all scores are equal, so that no submission can be made of them")


def _score_by_each(job: jobs.ScoreJob, checkpoints: list[Path]) -> None:
    """Score with several supernets, and print where the mean went."""
    kept = "supernets that have scored the list are kept: give the same command again to go on"
    with saying_what_is_kept(lambda: kept):
        files = jobs.score_by_each(job, checkpoints, progress=progress)
    for path in files:
        print(path)
