"""The training recipes as plain values: what is published, as it was published, and the short ones of this project."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Protocol

import torch

from nni_nas_consistency.images.augmentation import CIFAR100_ANS, CIFAR100_TRAIN, DIGITS_TEST, Augmentation
from nni_nas_consistency.strategies.sampling import ParamsSampler, Sampler, UniformSampler, strict_fair_sampler
from nni_nas_consistency.supernet.active import Space


class MakeSampler(Protocol):
    """Makes the sampler of a space; its name is told where a run notes its settings."""

    __name__: str

    def __call__(self, space: Space, generator: torch.Generator) -> Sampler:
        """Return the sampler."""


@dataclass(frozen=True)
class Optimization:
    """SGD with a linear warm-up per step, then a cosine per epoch.

    Args:
        epochs: Passes over the training images.
        batch_size: Images a batch.
        lr: Peak learning rate.
        warmup_steps: Steps until the peak.
        weight_decay: L2 penalty.
        momentum: Of SGD.
    """

    epochs: int
    batch_size: int
    lr: float
    warmup_steps: int
    weight_decay: float
    momentum: float = 0.9

    def lr_factor(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step (from 0) as a share of the peak, in [0, 1]."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        epoch = step // steps_per_epoch
        return 0.5 * (1 + math.cos(math.pi * min(epoch / self.epochs, 1)))


@dataclass(frozen=True)
class Recipe:
    """How a supernet is trained.

    Args:
        optimization: Optimizer and schedule.
        augmentation: Of the training images.
        n: Archs a batch.
        sandwich: Whether the largest and the smallest arch run in every batch.
        distill: Whether all archs but the largest learn from its softmax.
        grad_clip: Largest gradient norm, or None.
        sampler: Makes the sampler of a space.
        distill_from: The epoch, from 0, at which the largest becomes the teacher.
    """

    optimization: Optimization
    augmentation: Augmentation
    n: int
    sandwich: bool
    distill: bool
    grad_clip: float | None
    sampler: MakeSampler
    distill_from: int = 0

    def for_epochs(self, epochs: int) -> Recipe:
        """Return the same recipe at another length; warm-up and the epoch of the teacher move in proportion."""
        share = epochs / self.optimization.epochs
        warmup_steps = round(self.optimization.warmup_steps * share)
        optimization = replace(self.optimization, epochs=epochs, warmup_steps=warmup_steps)
        return replace(self, optimization=optimization, distill_from=math.ceil(self.distill_from * share))

    def settings(self) -> dict[str, float | str | None]:
        """Return everything in which two runs of a recipe can differ, as plain JSON values."""
        own = {"n": self.n, "sandwich": self.sandwich, "distill": self.distill, "distill_from": self.distill_from}
        return {**asdict(self.optimization), **own, "grad_clip": self.grad_clip, "sampler": self.sampler.__name__}


def strict_fair(space: Space, generator: torch.Generator) -> Sampler:
    """Return what draws every width of a layer equally often."""
    return strict_fair_sampler(space.form, generator)


def uniform(space: Space, generator: torch.Generator) -> Sampler:
    """Return what draws every arch with the same probability."""
    return UniformSampler(space.form, generator)


def by_params(space: Space, generator: torch.Generator) -> Sampler:
    """Return what draws archs in proportion to their parameters."""
    return ParamsSampler(space.form, generator, params=lambda arch: space.complexity(arch).params)


NAZARICK = Recipe(
    Optimization(epochs=300, batch_size=128, lr=0.1, warmup_steps=2000, weight_decay=0.0),
    CIFAR100_TRAIN,
    n=18,
    sandwich=True,
    distill=True,
    grad_clip=5.0,
    sampler=strict_fair,
)
"""Third place of CVPR 2021 NAS track 1; about 10 h on one V100 as published."""

SHORT = replace(
    NAZARICK,
    optimization=replace(NAZARICK.optimization, epochs=12, lr=0.4, warmup_steps=390),
    n=6,
    distill_from=6,
)
"""Recipe nazarick cut down to hours on a few CPU cores (docs/decisions/0010-short-recipe.md)."""

ANS = Recipe(
    Optimization(epochs=250, batch_size=128, lr=0.025, warmup_steps=0, weight_decay=5e-4),
    CIFAR100_ANS,
    n=6,
    sandwich=False,
    distill=False,
    grad_clip=None,
    sampler=uniform,
)
"""Second place of CVPR 2021 NAS track 1, its first phase: six single paths a step."""

DIGITS = Recipe(
    Optimization(epochs=24, batch_size=32, lr=0.4, warmup_steps=100, weight_decay=0.0),
    DIGITS_TEST,
    n=18,
    sandwich=True,
    distill=True,
    grad_clip=5.0,
    sampler=strict_fair,
    distill_from=12,
)
"""Recipe nazarick at the length of the embedded benchmark: larger steps, smaller batches, no augmentation, and a
teacher that has learnt from the labels first (docs/decisions/0006-late-teacher.md)."""

STANDALONE_CIFAR100 = Optimization(epochs=300, batch_size=128, lr=0.1, warmup_steps=2000, weight_decay=5e-4)
"""How the reference accuracies of 2021 were trained, with the augmentation `CIFAR100_TRAIN`."""

STANDALONE_DIGITS = Optimization(epochs=10, batch_size=64, lr=0.1, warmup_steps=50, weight_decay=5e-4)
"""How the reference accuracies of the embedded benchmark are trained."""
