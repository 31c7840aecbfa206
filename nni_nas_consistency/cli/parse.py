"""The words of the command line turned into objects: spaces, data sets, recipes, devices. Nowhere else."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nni_nas_consistency.archs.arch import DIGITS, RESNET20, WidthForm
from nni_nas_consistency.errors import InputError

if TYPE_CHECKING:
    import torch

    from nni_nas_consistency.images.augmentation import Augmentation
    from nni_nas_consistency.images.datasets import Images
    from nni_nas_consistency.scoring.arch_list import Scorer
    from nni_nas_consistency.spaces.chain import ChainSpace
    from nni_nas_consistency.training.recipes import MakeSampler, Recipe

SpaceWord = Literal["resnet20", "digits"]
DataWord = Literal["cifar100", "cifar10", "digits"]
RecipeWord = Literal["nazarick", "short", "ans", "digits"]
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
    from nni_nas_consistency.supernet.modules import make_supernet

    supernet = make_supernet(space_of(space, images))
    return supernet, load_supernet(checkpoint, supernet)


def images_of(data: DataWord, root: Path | None, *, train: bool, download: bool) -> tuple[Images, Augmentation]:
    """Return a part of a data set, and how its test images are normalised.

    Raises:
        InputError: The data set needs a folder and none is given, or is not there.
    """
    from nni_nas_consistency.images.augmentation import CIFAR10_TEST, CIFAR100_TEST, DIGITS_TEST
    from nni_nas_consistency.images.datasets import cifar10, cifar100, digits

    if data == "digits":
        return digits(train=train), DIGITS_TEST
    if root is None:
        raise InputError(f"{data} needs --data-root, the folder that holds it; --download fetches it there")
    if data == "cifar10":
        return cifar10(root, train=train, download=download), CIFAR10_TEST
    return cifar100(root, train=train, download=download), CIFAR100_TEST


def training_augmentation(data: DataWord) -> Augmentation:
    """Return how the training images of a data set are augmented where an arch is trained alone."""
    from nni_nas_consistency.images.augmentation import CIFAR10_TRAIN, CIFAR100_TRAIN, DIGITS_TEST

    return {"cifar100": CIFAR100_TRAIN, "cifar10": CIFAR10_TRAIN, "digits": DIGITS_TEST}[data]


def recipe_of(
    recipe: RecipeWord, images: Images, epochs: int | None = None, n: int | None = None, changes: Sequence[str] = ()
) -> Recipe:
    """Return a recipe, changed where epochs, archs a batch or other settings are given.

    Args:
        recipe: The word.
        images: What will be trained on.
        epochs: Instead of the recipe's; its warm-up and teacher's epoch move in proportion.
        n: Archs a batch, instead of the recipe's.
        changes: Texts like `lr=0.2`: settings that come last and so win.

    Raises:
        InputError: The recipe is for images of other channels; a change is none, or out of its range.
    """
    from nni_nas_consistency.training import recipes

    chosen = {"nazarick": recipes.NAZARICK, "short": recipes.SHORT, "ans": recipes.ANS, "digits": recipes.DIGITS}[
        recipe
    ]
    wanted, there = len(chosen.augmentation.mean), images.x.shape[1]
    if wanted != there:
        raise InputError(
            f"recipe {recipe} is for images of {wanted} channels, these have {there}; give another --recipe"
        )
    chosen = replace(chosen if epochs is None else chosen.for_epochs(epochs), n=n or chosen.n)
    return _changed(chosen, changes)


def _changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    readers: dict[str, tuple[Callable[[str], Any], str]] = {
        **dict.fromkeys(("lr", "weight_decay", "momentum"), (_number, "a number of at least 0")),
        "batch_size": (lambda text: _count(text, least=1), "a whole number of at least 1"),
        "warmup_steps": (_count, "a whole number of at least 0"),
        **dict.fromkeys(("sandwich", "distill"), ({"true": True, "false": False}.__getitem__, "true or false")),
        "distill_from": (_count, "an epoch, the first being 0"),
        "grad_clip": (lambda text: None if text == "none" else _above_zero(text), "a number above 0, or none"),
        "sampler": (_sampler, "strict-fair, uniform or params"),
    }
    values: dict[str, Any] = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in readers:
            raise InputError(f"--set {change}: there is no setting {name!r}; give NAME=VALUE of {', '.join(readers)}")
        read, allowed = readers[name]
        try:
            values[name] = read(text)
        except (KeyError, ValueError) as error:
            raise InputError(f"--set {change}: {name} is {allowed}, not {text!r}") from error
    of_optimization = {name: value for name, value in values.items() if hasattr(recipe.optimization, name)}
    others = {name: value for name, value in values.items() if name not in of_optimization}
    changed = replace(recipe, optimization=replace(recipe.optimization, **of_optimization), **others)
    if changed.distill and not changed.sandwich:
        raise InputError("without the sandwich rule there is no teacher; add --set distill=false")
    if "distill_from" in values and not changed.distill:
        raise InputError(f"--set distill_from={changed.distill_from}: nothing is distilled; leave it out")
    return changed


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(text)
    return value


def _above_zero(text: str) -> float:
    value = _number(text)
    if value == 0:
        raise ValueError(text)
    return value


def _count(text: str, least: int = 0) -> int:
    value = int(text)
    if value < least:
        raise ValueError(text)
    return value


def _sampler(text: str) -> MakeSampler:
    from nni_nas_consistency.training.recipes import by_params, strict_fair, uniform

    return {"strict-fair": strict_fair, "uniform": uniform, "params": by_params}[text]


def scorer_of(scorer: ScorerWord) -> Scorer:
    """Return what scores blocks of archs."""
    from nni_nas_consistency.scoring.plain import score_one_by_one
    from nni_nas_consistency.scoring.prefix import score_prefixes

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
