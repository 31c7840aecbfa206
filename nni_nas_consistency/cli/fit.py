"""`nni-consistency fit`: train the network of one arch, from scratch or fine-tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import command_line, kept_of_training, progress_bar, say, saying_what_is_kept
from nni_nas_consistency.cli.evaluate import accuracy_line
from nni_nas_consistency.cli.options import (
    ArchOption,
    CacheOption,
    CheckpointStepsOption,
    DataOption,
    DeviceOption,
    DownloadOption,
    EpochsOption,
    OutFolder,
    OverwriteRunOption,
    PrecisionOption,
    ResumeOption,
    RootOption,
    SeedOption,
    SmallestCropOption,
    SpaceOption,
    TrainImagesOption,
    ValFilesOption,
    ValFractionOption,
    WorkersOption,
    count_option,
)
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.checkpoint_header import read_weights_header
from nni_nas_consistency.files.provenance import provenance


def fit(
    context: typer.Context,
    arch: ArchOption = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Start from this network, or from --arch in this supernet, with a new head; else fresh."),
    ] = None,
    space: SpaceOption = None,
    data: DataOption = None,
    data_root: RootOption = None,
    smallest_crop: SmallestCropOption = None,
    val_fraction: ValFractionOption = None,
    val_files: ValFilesOption = None,
    cache: CacheOption = None,
    workers: WorkersOption = None,
    out: OutFolder = Path("runs/fit"),
    image_size: Annotated[
        int | None,
        count_option(
            "--image-size",
            "Resize images to this side, in pixels; by default that of --weights, else their own.",
            most=1024,
            why="no recipe here has larger images",
            least=8,
        ),
    ] = None,
    epochs: EpochsOption = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: NAME=VALUE, such as mixup=0.2; repeatable."),
    ] = None,
    resume: ResumeOption = False,
    overwrite: OverwriteRunOption = False,
    seed: SeedOption = 0,
    precision: PrecisionOption = "32-true",
    checkpoint_steps: CheckpointStepsOption = None,
    train_images: TrainImagesOption = None,
    val_images: Annotated[
        int | None,
        typer.Option(min=1, help="Look at the first N test images after every epoch; by default at 1,000."),
    ] = None,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Train the network of one arch from scratch, or fine-tune it; write its weights, checkpoints and metrics.

    At the end its accuracy on all test images is printed.
    """
    folder = parse.FolderWords(
        data_root,
        smallest_crop=smallest_crop,
        val_fraction=val_fraction,
        val_files=val_files,
        cache=cache,
        workers=workers,
    )
    system, data_set = parse.system_and_data_of_network(
        space, data, weights, folder, new_head=True, image_size=image_size
    )
    data_set.check_count("--train-images", train_images, train=True)
    data_set.check_count("--val-images", val_images, train=False)
    code = arch if arch is not None or weights is None else read_weights_header(weights).arch
    if code is None:
        raise InputError("give --arch, the code or name of an arch; or --weights of a network, which has one")
    job = jobs.FitJob(
        system,
        data_set,
        system.arch(code, "--arch"),
        out,
        parse.optimization_of(system, epochs, changes or [], finetune=weights is not None),
        weights=weights,
        image_size=image_size,
        data_root=data_root,
        download=download,
        seed=seed,
        resume=resume,
        overwrite=overwrite,
        precision=precision,
        checkpoint_steps=checkpoint_steps,
        train_images=train_images,
        val_images=1000 if val_images is None else val_images,
        device=device,
        provenance=provenance(command_line(context)),
    )
    with saying_what_is_kept(lambda: kept_of_training(out)):
        path, accuracy = jobs.fit(job, progress=progress_bar, write=say)
    print(path)
    if accuracy is not None:
        print(accuracy_line(accuracy))
