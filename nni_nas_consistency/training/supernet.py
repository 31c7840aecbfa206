"""Train a supernet by a recipe, phase by phase, through NNI."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar, cast

import numpy as np
import torch
from nni.nas.evaluator.pytorch import Trainer
from nni.nas.nn.pytorch import ModelSpace
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.domains import Domain
from nni_nas_consistency.archs.pool import Pool
from nni_nas_consistency.errors import Diverged, InputError, Terminated
from nni_nas_consistency.files.atomic import cannot_be_written
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.images.loader import TrainingImages
from nni_nas_consistency.nni3.experiment import run_in_process
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.spaces.hub import domain_of
from nni_nas_consistency.spaces.reorder import reorder_inner_channels
from nni_nas_consistency.strategies.oneshot import FrozenTeacher, SandwichStrategy, Stacking, check_sharing, macs_of
from nni_nas_consistency.strategies.sampling import (
    FairSampler,
    MacsBinsSampler,
    ParamsSampler,
    PoolSampler,
    Sampler,
    UniformSampler,
    strict_fair_sampler,
    uniform_pool,
)
from nni_nas_consistency.supernet.checkpoint import save_supernet
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.sharing import FULL, Sharing
from nni_nas_consistency.training.initialise import initialise
from nni_nas_consistency.training.lightning import LastLoss, training_evaluator
from nni_nas_consistency.training.processes import no_process_left, process_group, rank_of
from nni_nas_consistency.training.recipes import Phase, Recipe, Rule, StemNorm
from nni_nas_consistency.training.run import TrainingRun

AnySpace = TypeVar("AnySpace", bound=ModelSpace)

GUESSING: dict[Rule, float] = {"pool-distillation": 2.5, "frozen-teacher": 2.0}
"""The loss of guessing, in log K, where it is not 1: labels and teacher count 0.5 and 2, or 1 and 1."""

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
    pools: Mapping[int, Pool] | None = None,
    always: Sequence[Arch] | None = None,
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
        pools: Phase → pool, for phases that draw from one; others draw theirs as `Phase.pool_size` says.
        always: By the sandwich rule, the archs that run at every step, the teacher first; None: the largest and the
            smallest of the space.

    Raises:
        NonFiniteLoss: The training diverged.
        Diverged: It ended at a loss far above that of guessing.
        InputError: A checkpoint cannot be gone on from, the warm-up is not shorter than the training, settings of the
            recipe do not fit each other or the space, a pool is missing, the space cannot share weights so, or
            something else has started the processes of `run.devices`.
        KeyboardInterrupt: The training was interrupted by Ctrl-C.
        Terminated: The process was asked to end by SIGTERM.
    """
    fresh = getattr(space, "active", None) is None
    recipe.check(fresh=fresh)
    rules = {phase.rule for phase in recipe.phases if phase.optimization.epochs}
    if always is not None and "sandwich" not in rules:
        raise InputError(f"always belongs to rule=sandwich, which recipe {recipe.name} does not have; leave it out")
    if fresh:
        supernet = make_supernet(space, sharing=sharing or FULL)
        initialise(supernet, recipe.init, torch.Generator().manual_seed(seed))
    else:
        check_sharing(space, sharing)
    if run.precision == "64-true":  # Lightning converts it later than it loads a checkpoint, in half the digits
        cast("nn.Module", space).double()
    with process_group(run.devices):
        for index, phase in enumerate(recipe.phases):
            if not phase.optimization.epochs:
                continue
            of_phase = run
            if len(recipe.phases) > 1:
                of_phase = replace(run, folder=run.folder / f"phase{index}", phase=index)
            generator, pool = torch.Generator().manual_seed(seed), None
            if phase.sampling == "pool":
                pool = (pools or {}).get(index) or _drawn_pool(phase, domain_of(space), seed)
            sampler = sampler_of(phase, domain_of(space), generator, params, pool, macs_of(space))
            teacher = _frozen_teacher(space, phase) if phase.rule == "frozen-teacher" else None
            if phase.start == "reordered":
                reorder_inner_channels(space)
            fixed = always if phase.rule == "sandwich" else None
            with _stem_norm(space, recipe.stem_norm):
                _train_phase(
                    space, phase, teacher, sampler, train, val, seed=seed, run=of_phase, stacking=stacking, always=fixed
                )
            if index < len(recipe.phases) - 1 and rank_of(run.devices) == 0:
                _keep_end(of_phase, space)
    return space


def _drawn_pool(phase: Phase, domain: Domain, seed: int) -> Pool:
    """Return the pool that a phase draws where none is given; phases of one size share it."""
    if phase.pool_size is None:
        raise InputError("a phase draws archs from a pool: give one, or the size of one to draw, pool_size")
    word = np.random.SeedSequence([seed, phase.pool_size]).generate_state(1, np.uint64)
    return Pool(tuple(uniform_pool(domain, phase.pool_size, torch.Generator().manual_seed(int(word[0])))))


def _keep_end(run: TrainingRun, space: ModelSpace) -> None:
    """Keep the weights that a phase ended with, for other runs of the phases after it; once, when it first ended."""
    if not run.end.is_file():
        save_supernet(run.end, space, {**run.about, "phase": run.phase})


@contextmanager
def _stem_norm(space: ModelSpace, norm: StemNorm) -> Iterator[None]:
    """Let scale and shift of the batch norms in the first link be as they are inside the block, unless they learn."""
    if norm == "affine":
        yield
        return
    if not isinstance(space, ChainSpace):
        raise InputError(
            f"stem_norm=plain needs a chain space, whose first link is the stem, not {type(space).__name__}"
        )
    norms = [module for module in space.links[0].modules() if isinstance(module, _BatchNorm)]
    learnt = [each for module in norms for each in module.parameters() if each.requires_grad]
    for parameter in learnt:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learnt:
            parameter.requires_grad_(True)


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
    always: Sequence[Arch] | None,
) -> None:
    if phase.augmentation is None:
        raise InputError("the recipe leaves the augmentation to the data set; give it with Recipe.for_data")
    evaluator = training_evaluator(
        phase.optimization,
        train,
        phase.augmentation,
        val,
        seed=seed,
        run=run,
        ema=phase.ema,
        mean_epochs=phase.mean_epochs,
    )
    strategy = SandwichStrategy(
        phase.n,
        rule=phase.rule,
        teacher=teacher,
        always=always,
        sampler=sampler,
        distill_from=phase.distill_from,
        grad_clip=phase.grad_clip,
        stacking=stacking,
        seed=seed,
    )
    rank = rank_of(run.devices)
    log = run.folder / (f"nni-{rank}" if rank else "nni")
    try:
        with no_process_left(evaluator.trainer):
            finished = run_in_process(space, evaluator, strategy, folder=log)
    except SIGTERMException:  # a SystemExit without a code, which would end the process as if all were done
        finished = False
    except OSError as error:  # Lightning's metrics
        raise cannot_be_written(run.folder, error) from error
    if evaluator.trainer.received_sigterm:
        raise Terminated
    if not finished:
        raise KeyboardInterrupt
    _check_learnt(evaluator.trainer, GUESSING.get(phase.rule, 1.0) * math.log(train.num_classes))


def _check_learnt(trainer: Trainer, guessing: float) -> None:
    """Refuse a supernet whose loss at the end is far above that of guessing."""
    loss = next(callback.loss for callback in trainer.callbacks if isinstance(callback, LastLoss))
    if loss > WORSE_THAN_GUESSING * guessing:
        raise Diverged(
            f"the training ended at a loss of {loss:.3g}, where guessing has {guessing:.2f}: it diverged; lower the "
            "learning rate or lengthen the warm-up"
        )


def sampler_of(
    phase: Phase,
    domain: Domain,
    generator: torch.Generator,
    params: Callable[[Arch], int] | None = None,
    pool: Pool | None = None,
    macs: Callable[[Arch], int] | None = None,
) -> Sampler:
    """Return the sampler that a phase names.

    Args:
        phase: The phase.
        domain: What archs are drawn from.
        generator: Where the randomness comes from.
        params: The parameters of an arch that is trained alone, for `sampling="params"`.
        pool: The archs of `sampling="pool"`.
        macs: The MACs of an arch, for `sampling="macs-bins"`.

    Raises:
        InputError: The phase draws from a pool and there is none; archs shall be drawn by their parameters or MACs,
            which nobody counts, no largest arch bounds, or of which no bin has any; or strict fairness is asked of a
            space with constraints.
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
    if phase.sampling == "pool":
        if pool is None:
            raise InputError("archs shall be drawn from a pool: give it")
        return PoolSampler(pool.archs, generator, weights=pool.weights)
    if phase.sampling == "macs-bins":
        if macs is None or phase.macs_bins is None:
            raise InputError(f"{domain.codec.space} does not know the MACs of its archs; name another sampling")
        low, high, count = phase.macs_bins
        return MacsBinsSampler(domain, generator, macs=macs, low=low, high=high, bins=count)
    if params is None:
        raise InputError("archs shall be drawn by their parameters: give train_supernet params, which counts them")
    return ParamsSampler(domain, generator, params=params)
