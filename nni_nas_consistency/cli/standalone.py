"""`nni-consistency standalone`: train archs alone, which gives their reference accuracies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import command_line, progress, saying_what_is_kept
from nni_nas_consistency.cli.options import (
    CacheOption,
    DataOption,
    DeviceOption,
    DownloadOption,
    EpochsOption,
    LimitOption,
    OutFolder,
    RootOption,
    SideOption,
    SmallestCropOption,
    SpaceOption,
    TrainImagesOption,
    ValFilesOption,
    ValFractionOption,
    WorkersOption,
    count_option,
)
from nni_nas_consistency.files.provenance import provenance
from nni_nas_consistency.training.recipes import AlonePrecision


def standalone(
    context: typer.Context,
    out: OutFolder,
    archs: Annotated[Path | None, typer.Option("--archs", help="Arch list: JSON in the released format.")] = None,
    arch: Annotated[str | None, typer.Option("--arch", help="The code of one arch, instead of a list.")] = None,
    space: SpaceOption = None,
    data: DataOption = None,
    data_root: RootOption = None,
    side: SideOption = None,
    smallest_crop: SmallestCropOption = None,
    val_fraction: ValFractionOption = None,
    val_files: ValFilesOption = None,
    cache: CacheOption = None,
    workers: WorkersOption = None,
    seeds: Annotated[
        int,
        count_option(
            "--seeds", "Train every arch with seeds 0 … N−1.", most=1000, why="each trains all archs once more"
        ),
    ] = 1,
    epochs: EpochsOption = None,
    limit: LimitOption = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: NAME=VALUE, such as batch_size=1024; repeatable."),
    ] = None,
    train_images: TrainImagesOption = None,
    precision: Annotated[
        AlonePrecision,
        typer.Option(help="Precision of the convolutions, as Lightning names it; 16-mixed is for GPUs."),
    ] = "32-true",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the accuracies that --out holds, and train anew.")
    ] = False,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Train one arch or each of a list from scratch: reference accuracies.

    Finished seeds are kept; run again to continue.
    """
    folder = parse.FolderWords(
        data_root,
        side=side,
        smallest_crop=smallest_crop,
        val_fraction=val_fraction,
        val_files=val_files,
        cache=cache,
        workers=workers,
    )
    system, data_set = parse.system_and_data(space, data, folder=folder)
    data_set.check_count("--train-images", train_images, train=True)
    loss, augmentation, others = parse.loss_and_augmentation_of(system, data_set, changes or [])
    job = jobs.StandaloneJob(
        system,
        data_set,
        parse.archs_of(system, archs, arch),
        out,
        parse.optimization_of(system, epochs, others),
        seeds=seeds,
        limit=limit,
        train_images=train_images,
        overwrite=overwrite,
        data_root=data_root,
        download=download,
        loss=loss,
        augmentation=augmentation,
        precision=precision,
        device=device,
        provenance=provenance(command_line(context)),
    )
    with saying_what_is_kept(lambda: _kept(out)):
        reference = jobs.train_standalone(job, progress=progress)
    print(reference)


def _kept(out: Path) -> str:
    finished = len(list(out.glob("seeds/[0-9]*.json")))
    if not finished:
        return "no seed is finished, and nothing is kept: the same command begins anew"
    return f"{finished} finished seed(s) are kept in {out / 'seeds'}: give the same command again to go on"
