"""Train a supernet by a recipe, phase by phase, through NNI."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar, cast

import torch
from nni.nas.nn.pytorch import ModelSpace

from nni_nas_consistency.archs.domains import Domain
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.nni3.experiment import RetiariiExperiment
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.spaces.hub import domain_of
from nni_nas_consistency.strategies.oneshot import SandwichStrategy, Stacking
from nni_nas_consistency.strategies.sampling import (
    FairSampler,
    ParamsSampler,
    Sampler,
    UniformSampler,
    strict_fair_sampler,
)
from nni_nas_consistency.training.lightning import training_evaluator
from nni_nas_consistency.training.recipes import Phase, Recipe
from nni_nas_consistency.training.run import TrainingRun

AnySpace = TypeVar("AnySpace", bound=ModelSpace)


def train_supernet(
    space: AnySpace,
    recipe: Recipe,
    train: Images,
    val: Images,
    *,
    seed: int,
    run: TrainingRun,
    stacking: Stacking = "auto",
) -> AnySpace:
    """Train a space as a supernet by a recipe, through `RetiariiExperiment`, and return the supernet.

    Args:
        space: The search space; it becomes the supernet, in place. Its first weights are torch's, so seed torch before
            it is made. A supernet is trained on, from the weights it has.
        recipe: How to train.
        train: Training images, on the device that trains.
        val: Images that validation follows the largest, the smallest and a few other archs on.
        seed: Of the sampler, the order of the images and the augmentation.
        run: Where checkpoints go, and how.
        stacking: Whether the archs of a step run as one masked batch or one by one.

    Raises:
        NonFiniteLoss: The training diverged.
        InputError: `run.resume` without a checkpoint.
        KeyboardInterrupt: The training was interrupted by Ctrl-C.
    """
    for index, phase in enumerate(recipe.phases):
        of_phase = run if len(recipe.phases) == 1 else replace(run, folder=run.folder / f"phase{index}")
        train_phase(space, phase, train, val, seed=seed, run=of_phase, stacking=stacking)
    return space


def train_phase(
    space: ModelSpace, phase: Phase, train: Images, val: Images, *, seed: int, run: TrainingRun, stacking: Stacking
) -> None:
    """Train a space by one phase of a recipe; see `train_supernet`."""
    evaluator = training_evaluator(phase.optimization, train, phase.augmentation, val, seed=seed, run=run)
    strategy = SandwichStrategy(
        phase.n,
        rule=phase.rule,
        sampler=sampler_of(phase, space, torch.Generator().manual_seed(seed)),
        distill_from=phase.distill_from,
        grad_clip=phase.grad_clip,
        stacking=stacking,
        seed=seed,
    )
    if not RetiariiExperiment(space, evaluator, strategy).run():
        raise KeyboardInterrupt


def sampler_of(phase: Phase, space: ModelSpace, generator: torch.Generator) -> Sampler:
    """Return the sampler that a phase names.

    Raises:
        InputError: The space has no largest arch or has constraints, which the sampler cannot do with.
    """
    domain: Domain = domain_of(space)
    if phase.sampling == "strict-fair":
        return strict_fair_sampler(domain, generator)
    if phase.sampling == "fair":
        return FairSampler(domain, generator)
    if phase.sampling == "uniform":
        return UniformSampler(domain, generator)
    chain = cast("ChainSpace", space)
    return ParamsSampler(domain, generator, params=lambda arch: chain.complexity(arch).params)
