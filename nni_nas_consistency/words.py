"""The words of the command line turned into objects: spaces, data sets, recipes, devices. Nowhere else."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nni_nas_consistency.arch import DIGITS, RESNET20, InputError, WidthForm

if TYPE_CHECKING:
    import torch

    from nni_nas_consistency.augmentation import Augmentation
    from nni_nas_consistency.datasets import Images
    from nni_nas_consistency.recipes import Recipe
    from nni_nas_consistency.scoring.shards import Scorer
    from nni_nas_consistency.spaces.chain import ChainSpace

SpaceWord = Literal["resnet20", "digits"]
DataWord = Literal["cifar100", "cifar10", "digits"]
RecipeWord = Literal["nazarick", "ans", "digits"]
ScorerWord = Literal["prefix", "subnet"]
PrecisionWord = Literal["float32", "bf16", "float64"]


def form_of(space: SpaceWord) -> WidthForm:
    """Return how a space writes its archs."""
    return DIGITS if space == "digits" else RESNET20


def space_of(space: SpaceWord, images: Images | None, *, standalone: bool = False) -> ChainSpace:
    """Return a space for the classes, channels and size of `images`, or of its released data set.

    Args:
        space: The word.
        images: What the networks will see; None where they are only counted, by the standalone rule.
        standalone: Whether networks of `resnet20` have the shortcuts that its reference accuracies were trained with.
    """
    from nni_nas_consistency.spaces.resnet20 import ResNet20Space

    if space == "digits":
        classes, channels, size = (10, 1, 8) if images is None else (images.num_classes, *images.x.shape[1:3])
        return ResNet20Space(classes, channels, size, width_unit=1)
    classes, channels, size = (100, 3, 32) if images is None else (images.num_classes, *images.x.shape[1:3])
    rule: Literal["standalone", "projection"] = "standalone" if standalone or images is None else "projection"
    return ResNet20Space(classes, channels, size, rule)


def supernet_of(space: SpaceWord, checkpoint: Path, images: Images) -> tuple[ChainSpace, dict[str, Any]]:
    """Return the supernet of a checkpoint, for such images, and what made it.

    Raises:
        CheckpointError: The checkpoint cannot be used, or is of another space.
    """
    from nni_nas_consistency.supernet.checkpoint import load_supernet
    from nni_nas_consistency.supernet.slimmable import make_supernet

    supernet = make_supernet(space_of(space, images))
    return supernet, load_supernet(checkpoint, supernet)


def images_of(data: DataWord, root: Path | None, *, train: bool, download: bool) -> tuple[Images, Augmentation]:
    """Return a part of a data set, and how its test images are normalised.

    Raises:
        InputError: The data set needs a folder and none is given, or is not there.
    """
    from nni_nas_consistency.augmentation import CIFAR10_TEST, CIFAR100_TEST, DIGITS_TEST
    from nni_nas_consistency.datasets import cifar10, cifar100, digits

    if data == "digits":
        return digits(train=train), DIGITS_TEST
    if root is None:
        raise InputError(f"{data} needs --data-root, the folder that holds it; --download fetches it there")
    if data == "cifar10":
        return cifar10(root, train=train, download=download), CIFAR10_TEST
    return cifar100(root, train=train, download=download), CIFAR100_TEST


def training_augmentation(data: DataWord) -> Augmentation:
    """Return how the training images of a data set are augmented where an arch is trained alone."""
    from nni_nas_consistency.augmentation import CIFAR10_TRAIN, CIFAR100_TRAIN, DIGITS_TEST

    return {"cifar100": CIFAR100_TRAIN, "cifar10": CIFAR10_TRAIN, "digits": DIGITS_TEST}[data]


def recipe_of(recipe: RecipeWord, images: Images, epochs: int | None, n: int | None) -> Recipe:
    """Return a recipe, at another length or with another number of archs a batch where these are given.

    Raises:
        InputError: The recipe is for images of other channels.
    """
    from nni_nas_consistency import recipes

    chosen = {"nazarick": recipes.NAZARICK, "ans": recipes.ANS, "digits": recipes.DIGITS}[recipe]
    wanted, there = len(chosen.augmentation.mean), images.x.shape[1]
    if wanted != there:
        raise InputError(
            f"recipe {recipe} is for images of {wanted} channels, these have {there}; give another --recipe"
        )
    return replace(chosen if epochs is None else chosen.for_epochs(epochs), n=n or chosen.n)


def scorer_of(scorer: ScorerWord) -> Scorer:
    """Return what scores blocks of archs."""
    from nni_nas_consistency.scoring.prefix import score_prefixes
    from nni_nas_consistency.scoring.subnet import score_one_by_one

    return score_prefixes if scorer == "prefix" else score_one_by_one


def dtype_of(precision: PrecisionWord) -> torch.dtype:
    """Return the type that features are computed in."""
    import torch

    return {"float32": torch.float32, "bf16": torch.bfloat16, "float64": torch.float64}[precision]


def device_of(device: str) -> str:
    """Return `cpu` or `cuda`.

    Raises:
        InputError: There is no such device here.
    """
    import torch

    found = torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not found):
        raise InputError(f"device {device!r} is not here; allowed are auto, cpu{', cuda' if found else ''}")
    return ("cuda" if found else "cpu") if device == "auto" else device


def provenance() -> dict[str, str]:
    """Return what was typed, and the machine and versions that ran it."""
    packages = ("nni-nas-consistency", "nni", "torch", "numpy", "scipy")
    return {
        "command": " ".join(["nni-consistency", *sys.argv[1:]]),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
