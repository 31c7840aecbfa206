"""`nni-consistency train`: train a supernet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import command_line, say
from nni_nas_consistency.cli.options import (
    DataOption,
    DeviceOption,
    DownloadOption,
    OutFolder,
    RootOption,
    SeedOption,
    SpaceOption,
)
from nni_nas_consistency.cli.parse import PrecisionWord, RecipeWord
from nni_nas_consistency.files.provenance import provenance


def train(
    context: typer.Context,
    recipe: Annotated[RecipeWord | None, typer.Option(help="Training recipe; by default the space's first.")] = None,
    space: SpaceOption = None,
    data: DataOption = None,
    data_root: RootOption = None,
    out: OutFolder = Path("runs/train"),
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Instead of the recipe's; its warm-up changes in proportion.")
    ] = None,
    n: Annotated[int | None, typer.Option(min=1, help="Archs per step, instead of the recipe's.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE, such as lr=0.2, any number of times; --set help lists them."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Start from these weights: supernet.safetensors, or resnet20-cifar100, shipped.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    seed: SeedOption = 0,
    step: Annotated[Literal["auto", "stacked", "sliced"], typer.Option(help="How the archs of a step run.")] = "auto",
    precision: Annotated[PrecisionWord, typer.Option(help="As Lightning has it.")] = "32-true",
    checkpoint_steps: Annotated[int | None, typer.Option(min=1, help="Steps between checkpoints (an epoch).")] = None,
    keep_epochs: Annotated[
        bool, typer.Option("--keep-epochs", help="Keep the weights of every epoch in --out/epochs; score takes any.")
    ] = False,
    train_images: Annotated[int | None, typer.Option(min=1, help="Use the first N training images.")] = None,
    val_images: Annotated[int, typer.Option(min=1, help="Images that validation looks at.")] = 1000,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Train a supernet."""
    system, data_set = parse.system_and_data(space, data, recipe=recipe)
    job = jobs.TrainJob(
        system,
        data_set,
        parse.recipe_of(recipe, system, data_set, epochs, n, changes or []),
        out,
        data_root=data_root,
        download=download,
        seed=seed,
        weights=weights,
        resume=resume,
        stacking=step,
        precision=precision,
        checkpoint_steps=checkpoint_steps,
        keep_epochs=keep_epochs,
        train_images=train_images,
        val_images=val_images,
        device=device,
        provenance=provenance(command_line(context)),
    )
    print(jobs.train(job, progress_bar=sys.stderr.isatty(), write=say))
