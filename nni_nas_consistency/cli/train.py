"""`nni-consistency train`: train a supernet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import command_line, kept_of_training, progress_bar, say, saying_what_is_kept
from nni_nas_consistency.cli.options import (
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
    ShrunkOption,
    SideOption,
    SmallestCropOption,
    SpaceOption,
    TrainImagesOption,
    ValFilesOption,
    ValFractionOption,
    WorkersOption,
    count_option,
)
from nni_nas_consistency.cli.parse import RecipeWord
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.provenance import provenance
from nni_nas_consistency.training.processes import rank_of


def train(
    context: typer.Context,
    recipe: Annotated[
        RecipeWord | None, typer.Option(help="Training recipe; by default the first of the space.")
    ] = None,
    space: SpaceOption = None,
    data: DataOption = None,
    data_root: RootOption = None,
    side: SideOption = None,
    smallest_crop: SmallestCropOption = None,
    val_fraction: ValFractionOption = None,
    val_files: ValFilesOption = None,
    cache: CacheOption = None,
    workers: WorkersOption = None,
    out: OutFolder = Path("runs/train"),
    epochs: EpochsOption = None,
    n: Annotated[
        int | None,
        count_option(
            "--n",
            "Archs per step; by default the recipe's.",
            most=1000,
            why="each is a forward and a backward pass of every step",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a setting: NAME=VALUE, such as lr=0.2, of the last phase; phase0_lr=0.2 of another.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Start from the weights of this checkpoint; or of resnet20-cifar100, which is shipped; with "
            "--from-phase also from a run's folder, which keeps the end of every phase."
        ),
    ] = None,
    from_phase: Annotated[
        int,
        count_option(
            "--from-phase",
            "Begin with this phase of the recipe, the first being 0, from --weights.",
            least=0,
            most=99,
            why="no recipe has as many phases",
        ),
    ] = 0,
    pool: Annotated[
        list[str] | None,
        typer.Option(
            "--pool",
            help="Arch list that phases with sampling=pool draw from, whose archs may have a weight; phase4=FILE for "
            "one phase. By default a recipe draws its pools from the space.",
        ),
    ] = None,
    sharing: Annotated[
        str | None,
        typer.Option(
            help="How archs share weights, such as conv=end,bn=end,fc=full: each full, front, end or independent; "
            "end:4 for groups of 4 widths. By default that of --weights, of which finer kernels are slices; else full."
        ),
    ] = None,
    resume: ResumeOption = False,
    overwrite: OverwriteRunOption = False,
    seed: SeedOption = 0,
    step: Annotated[
        Literal["auto", "stacked", "sliced", "threads"],
        typer.Option(
            help="Archs of a step: one stacked batch, sliced one by one, or one by one on threads of their own (CPU)."
        ),
    ] = "auto",
    precision: PrecisionOption = "32-true",
    checkpoint_steps: CheckpointStepsOption = None,
    keep_epochs: Annotated[
        bool,
        typer.Option("--keep-epochs", help="Also keep the weights of every epoch, in --out/epochs, to score them."),
    ] = False,
    train_images: TrainImagesOption = None,
    val_images: Annotated[
        int | None,
        typer.Option(
            min=1, help="Validate on the first N test images, at most as many as there are; by default on 1,000."
        ),
    ] = None,
    shrunk: ShrunkOption = None,
    always: Annotated[
        Path | None,
        typer.Option(
            help="Arch list: with rule=sandwich, the archs that run at every step, the teacher first; by default the "
            "largest and the smallest of the space."
        ),
    ] = None,
    device: DeviceOption = "auto",
    devices: Annotated[
        int,
        count_option(
            "--devices",
            "Processes of this machine that share each batch, by Lightning's DDP; one a GPU.",
            most=64,
            why="each process holds all images",
        ),
    ] = 1,
    sync_batch_norm: Annotated[
        bool,
        typer.Option(
            "--sync-batch-norm", help="With --devices: batch norms normalise with the images of all, not each its own."
        ),
    ] = False,
    download: DownloadOption = False,
) -> None:
    """Train a supernet by a recipe; write its weights, checkpoints and metrics to --out."""
    folder = parse.FolderWords(
        data_root,
        side=side,
        smallest_crop=smallest_crop,
        val_fraction=val_fraction,
        val_files=val_files,
        cache=cache,
        workers=workers,
    )
    weights = parse.weights_of(weights, from_phase)
    pool_of_all, phase_pools = parse.pools_of(pool or [])
    system, data_set = parse.system_and_data(space, data, checkpoint=weights, recipe=recipe, folder=folder)
    data_set.check_count("--train-images", train_images, train=True)
    data_set.check_count("--val-images", val_images, train=False)
    chosen = parse.recipe_of(recipe, system, data_set, epochs, n, changes or [], from_phase=from_phase)
    system = parse.shrunk(system, shrunk)
    job = jobs.TrainJob(
        system,
        data_set,
        chosen,
        out,
        data_root=data_root,
        download=download,
        seed=seed,
        weights=weights,
        sharing=parse.sharing_of(sharing),
        pool=pool_of_all,
        phase_pools=phase_pools,
        resume=resume,
        overwrite=overwrite,
        stacking=step,
        precision=precision,
        checkpoint_steps=checkpoint_steps,
        keep_epochs=keep_epochs,
        train_images=train_images,
        val_images=1000 if val_images is None else val_images,
        always=parse.always_of(system, always, chosen),
        device=device,
        devices=devices,
        sync_batch_norm=sync_batch_norm,
        provenance=provenance(command_line(context)),
    )
    job.check_devices()
    if devices > 1 and context.obj != sys.argv[1:]:
        raise InputError(
            f"--devices {devices} starts this program once more for each device: run it by its command line"
        )
    with saying_what_is_kept(lambda: kept_of_training(out)):
        checkpoint = jobs.train(job, progress=progress_bar, write=say)
    if rank_of(devices) == 0:
        print(checkpoint)
