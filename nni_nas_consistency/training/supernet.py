"""Train a supernet by a recipe, phase by phase, through NNI."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from nni.nas.evaluator.pytorch import Trainer
from nni.nas.nn.pytorch import ModelSpace
from pytorch_lightning.utilities.exceptions import SIGTERMException

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.domains import Domain
from nni_nas_consistency.errors import InputError, Terminated
from nni_nas_consistency.files.atomic import cannot_be_written
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.images.loader import TrainingImages
from nni_nas_consistency.nni3.experiment import run_in_process
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.spaces.hub import domain_of
from nni_nas_consistency.spaces.reorder import reorder_inner_channels
from nni_nas_consistency.strategies.oneshot import FrozenTeacher, SandwichStrategy, Stacking
from nni_nas_consistency.strategies.sampling import (
    FairSampler,
    ParamsSampler,
    PoolSampler,
    Sampler,
    UniformSampler,
    strict_fair_sampler,
)
from nni_nas_consistency.supernet.active import active_of
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.sharing import FULL, Sharing
from nni_nas_consistency.training.initialise import initialise
from nni_nas_consistency.training.lightning import LastLoss, training_evaluator
from nni_nas_consistency.training.recipes import Phase, Recipe
from nni_nas_consistency.training.run import TrainingRun

AnySpace = TypeVar("AnySpace", bound=ModelSpace)

WORSE_THAN_GUESSING = 3.0
"""A final loss of so many times that of guessing is no result."""


def train_supernet(
    space: AnySpace,
    recipe: Recipe,
    train: TrainingImages,
    val: Images,
    *,
    seed: int,
    run: TrainingRun,
    stacking: Stacking = "auto",
    params: Callable[[Arch], int] | None = None,
    sharing: Sharing | None = None,
) -> AnySpace:
    """Train a space as a supernet by a recipe, through `RetiariiExperiment`, and return the supernet.

    Args:
        space: The search space; it becomes the supernet, in place, with fresh weights as the recipe draws them. A
            supernet is trained on, from the weights it has.
        recipe: How to train.
        train: Training images, on the device that trains.
        val: Images that validation follows the largest, the smallest and a few other archs on.
        seed: Of fresh weights, the sampler, the order of the images and the augmentation.
        run: Where checkpoints go, and how.
        stacking: Whether the archs of a step run as one masked batch or one by one.
        params: The parameters of an arch that is trained alone, for recipes that draw archs by them.
        sharing: How archs share weights; None: as in the supernet that is given, else one kernel per layer.

    Raises:
        NonFiniteLoss: The training diverged.
        RuntimeError: It ended at a loss far above that of guessing.
        InputError: A checkpoint cannot be gone on from, the warm-up is not shorter than the training, settings of the
            recipe do not fit each other or the space, or the space cannot share weights so.
        KeyboardInterrupt: The training was interrupted by Ctrl-C.
        Terminated: The process was asked to end by SIGTERM.
    """
    fresh = getattr(space, "active", None) is None
    recipe.check(fresh=fresh)
    if fresh:
        supernet = make_supernet(space, sharing=sharing or FULL)
        initialise(supernet, recipe.init, torch.Generator().manual_seed(seed))
    elif sharing not in (None, active_of(space).sharing):
        raise InputError(f"the supernet shares weights by {active_of(space).sharing}, not {sharing}; see unshare")
    for index, phase in enumerate(recipe.phases):
        if not phase.optimization.epochs:
            continue
        of_phase = run if len(recipe.phases) == 1 else replace(run, folder=run.folder / f"phase{index}")
        sampler = sampler_of(phase, domain_of(space), torch.Generator().manual_seed(seed), params)
        teacher = _frozen_teacher(space, phase) if phase.rule == "frozen-teacher" else None
        if phase.start == "reordered":
            reorder_inner_channels(space)
        _train_phase(space, phase, teacher, sampler, train, val, seed=seed, run=of_phase, stacking=stacking)
    return space


def _frozen_teacher(space: ModelSpace, phase: Phase) -> FrozenTeacher:
    """Return the largest subnet as it is now, with what else a phase asks for."""
    if not isinstance(space, ChainSpace):
        raise InputError(f"rule=frozen-teacher needs a chain space with a largest arch, not {type(space).__name__}")
    network = space.freeze(space.sample(space.largest)).eval().requires_grad_(False)
    return FrozenTeacher(network, phase.sandwich_ramp, phase.rank_weight, phase.rank_ramp)


def _train_phase(
    space: ModelSpace,
    phase: Phase,
    teacher: FrozenTeacher | None,
    sampler: Sampler,
    train: TrainingImages,
    val: Images,
    *,
    seed: int,
    run: TrainingRun,
    stacking: Stacking,
) -> None:
    if phase.augmentation is None:
        raise InputError("the recipe leaves the augmentation to the data set; give it with Recipe.for_data")
    evaluator = training_evaluator(
        phase.optimization, train, phase.augmentation, val, seed=seed, run=run, ema=phase.ema
    )
    strategy = SandwichStrategy(
        phase.n,
        rule=phase.rule,
        teacher=teacher,
        sampler=sampler,
        distill_from=phase.distill_from,
        grad_clip=phase.grad_clip,
        stacking=stacking,
        seed=seed,
    )
    try:
        finished = run_in_process(space, evaluator, strategy, folder=run.folder / "nni")
    except SIGTERMException:  # a SystemExit without a code, which would end the process as if all were done
        finished = False
    except OSError as error:  # Lightning's metrics
        raise cannot_be_written(run.folder, error) from error
    if evaluator.trainer.received_sigterm:
        raise Terminated
    if not finished:
        raise KeyboardInterrupt
    _check_learnt(evaluator.trainer, train.num_classes)


def _check_learnt(trainer: Trainer, num_classes: int) -> None:
    """Refuse a supernet whose loss at the end is far above that of guessing, log K."""
    loss = next(callback.loss for callback in trainer.callbacks if isinstance(callback, LastLoss))
    if loss > WORSE_THAN_GUESSING * math.log(num_classes):
        raise RuntimeError(
            f"the training ended at a loss of {loss:.3g}, where guessing has {math.log(num_classes):.2f}: it diverged; "
            "lower the learning rate or lengthen the warm-up"
        )


def sampler_of(
    phase: Phase, domain: Domain, generator: torch.Generator, params: Callable[[Arch], int] | None = None
) -> Sampler:
    """Return the sampler that a phase names.

    Args:
        phase: The phase.
        domain: What archs are drawn from.
        generator: Where the randomness comes from.
        params: The parameters of an arch that is trained alone, for `sampling="params"`.

    Raises:
        InputError: Archs shall be drawn by their parameters, which nobody counts or no largest arch bounds; or strict
            fairness is asked of a space with constraints.
    """
    if phase.sampling == "strict-fair":
        return strict_fair_sampler(domain, generator)
    if phase.sampling == "fair":
        return FairSampler(domain, generator)
    if phase.sampling == "uniform":
        return UniformSampler(domain, generator)
    if phase.sampling == "largest":
        if domain.largest is None:
            raise InputError(f"{domain.codec.space} declares no largest arch; name another sampling")
        return PoolSampler([domain.largest], generator)
    if params is None:
        raise InputError("archs shall be drawn by their parameters: give train_supernet params, which counts them")
    return ParamsSampler(domain, generator, params=params)
