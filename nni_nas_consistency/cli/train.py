"""The commands that train: a supernet, or archs alone. Registered by `cli.py`, which says what the exit codes mean."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nni_nas_consistency.cli import parse as words
from nni_nas_consistency.cli.console import say
from nni_nas_consistency.cli.options import (
    Archs,
    DataOption,
    DeviceOption,
    DownloadOption,
    OutFolder,
    RootOption,
    SeedOption,
    SpaceOption,
)
from nni_nas_consistency.cli.parse import RecipeWord
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.files.strict_json import Json

if TYPE_CHECKING:
    from nni_nas_consistency.spaces.chain import ChainSpace


def train(
    recipe: Annotated[RecipeWord, typer.Option(help="Training recipe.")] = "nazarick",
    data: DataOption = "cifar100",
    data_root: RootOption = None,
    out: OutFolder = Path("runs/train"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's; its warm-up moves along.")] = None,
    n: Annotated[int | None, typer.Option(min=1, help="Archs a batch, instead of the recipe's.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE, such as lr=0.2, any number of times; --set help lists them."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Start from these weights: supernet.safetensors, or resnet20-cifar100, shipped.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    seed: SeedOption = 0,
    step: Annotated[Literal["auto", "stacked", "sliced"], typer.Option(help="How the archs of a batch run.")] = "auto",
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, … as Lightning has it.")] = "32-true",
    checkpoint_steps: Annotated[int | None, typer.Option(min=1, help="Steps between checkpoints (an epoch).")] = None,
    train_images: Annotated[int | None, typer.Option(min=1, help="Use the first N training images.")] = None,
    val_images: Annotated[int, typer.Option(min=1, help="Images that validation looks at.")] = 1000,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Train a supernet."""
    import torch

    from nni_nas_consistency.nni3.experiment import train_supernet
    from nni_nas_consistency.supernet.checkpoint import save_supernet
    from nni_nas_consistency.training.lightning import TrainingRun, begin_run

    place = words.device_of(device)
    images, _ = words.images_of(data, data_root, train=True, download=download)
    test, _ = words.images_of(data, data_root, train=False, download=download)
    chosen = words.recipe_of(recipe, images, epochs, n, changes or [])
    images = images if train_images is None else images.first(train_images)
    torch.manual_seed(seed)
    space = words.space_of("digits" if data == "digits" else "resnet20", images)
    run = TrainingRun(
        out,
        resume=resume,
        checkpoint_steps=checkpoint_steps,
        progress_bar=sys.stderr.isatty(),
        precision=precision,
        accelerator="cpu" if place == "cpu" else "gpu",
        write=say,
    )
    settings: dict[str, Json] = {"recipe": recipe, **chosen.settings(), "seed": seed}
    settings |= {"data": data, "images": len(images), "precision": precision}
    about: dict[str, Json] = {}
    if weights is not None:
        about["trained_on_from"], settings["weights"] = _started(space, weights, out)
    begin_run(run, settings)
    val = test.first(min(val_images, len(test)))
    supernet = train_supernet(space, chosen, images.to(place), val.to(place), seed=seed, run=run, step=step)
    about |= {"threads": torch.get_num_threads(), "seconds": round(run.timer.time_elapsed("train"), 1)}
    save_supernet(out / "supernet.safetensors", supernet, words.provenance() | settings | about)
    print(out / "supernet.safetensors")


def _started(space: ChainSpace, weights: Path, out: Path) -> tuple[dict[str, Json], str]:
    """Make a space the supernet of a checkpoint; return what made that, and its SHA-256."""
    from nni_nas_consistency.supernet.checkpoint import load_supernet, weights_sha256
    from nni_nas_consistency.supernet.modules import make_supernet

    if weights.resolve() == (out / "supernet.safetensors").resolve():
        raise InputError(f"{weights}: is what this run would write; give another --out")
    about = load_supernet(weights, make_supernet(space))
    return about, weights_sha256(space)


def standalone(
    archs: Archs,
    out: OutFolder,
    space: SpaceOption = "digits",
    data: DataOption = "digits",
    data_root: RootOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train every arch with seeds 0 … N−1.")] = 1,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Train the first N archs of the list.")] = None,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Train archs alone: their reference accuracies. Finished seeds are kept; run again to go on."""
    from nni_nas_consistency.training.recipes import STANDALONE_CIFAR100, STANDALONE_DIGITS
    from nni_nas_consistency.training.reference import train_references

    optimization = STANDALONE_DIGITS if data == "digits" else STANDALONE_CIFAR100
    listed = {name: entry.arch for name, entry in read_released(archs, words.form_of(space)).items()}
    place = words.device_of(device)
    train_set, _ = words.images_of(data, data_root, train=True, download=download)
    test_set, _ = words.images_of(data, data_root, train=False, download=download)
    path = train_references(
        words.space_of(space, train_set, standalone=True),
        dict(list(listed.items())[:limit]),
        optimization=replace(optimization, epochs=epochs or optimization.epochs),
        train=train_set.to(place),
        test=test_set.to(place),
        augmentation=words.training_augmentation(data),
        seeds=seeds,
        folder=out,
        about=words.provenance(),
    )
    print(path)
