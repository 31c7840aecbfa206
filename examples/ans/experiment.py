"""Recipe ans as NNI experiments, one for each of its five phases, on pools of a list."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from nni_nas_consistency import (
    PoolSampler,
    RetiariiExperiment,
    SandwichStrategy,
    TrainingRun,
    UniformSampler,
    make_supernet,
    read_released,
    save_supernet,
    training_evaluator,
)
from nni_nas_consistency.archs.pool import every, some
from nni_nas_consistency.systems import CVPR2021, EMBEDDED_BENCHMARK
from nni_nas_consistency.training.recipes import ANS, ANS_DIGITS
from nni_nas_consistency.training.supernet import initialise


def pools_of(archs, recipe):
    """Return a pool for every phase but the first: evenly over the list, and random archs for the last one."""
    even, random = recipe.phases[1].pool_size, recipe.phases[-1].pool_size
    evenly = list(every(archs, max(1, len(archs) // even)).values())
    return {1: evenly, 2: evenly, 3: evenly, 4: list(some(archs, min(random, len(archs)), seed=0).values())}


def train_phase(supernet, phase, sampler, train, val, run):
    evaluator = training_evaluator(phase.optimization, train, phase.augmentation, val, seed=0, run=run)
    strategy = SandwichStrategy(phase.n, rule=phase.rule, sampler=sampler, distill_from=None, grad_clip=phase.grad_clip)
    RetiariiExperiment(supernet, evaluator, strategy).run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archs", type=Path, required=True, help="the list to take pools from, in released form")
    parser.add_argument("--out", type=Path, required=True, help="folder for the supernet")
    parser.add_argument("--data-root", type=Path, help="CIFAR-100 and the space of CVPR 2021; else digits, embedded")
    parser.add_argument("--epochs", type=int, help="of every phase; by default the recipe's")
    parser.add_argument("--n", type=int, help="archs per step; by default the recipe's")
    parser.add_argument("--images", type=int, help="train and validate on the first N images only")
    o = parser.parse_args()
    system, recipe = (CVPR2021, ANS) if o.data_root else (EMBEDDED_BENCHMARK, ANS_DIGITS)
    train, test = (system.data.images(o.data_root, train=which) for which in (True, False))
    train, val = train.first(o.images or len(train)), test.first(min(o.images or 1000, len(test)))
    archs = {name: entry.arch for name, entry in read_released(o.archs, system.codec).items()}
    pools = pools_of(archs, recipe)

    supernet = make_supernet(system.make_space(train.shape))
    initialise(supernet, recipe.init, torch.Generator().manual_seed(0))
    supernet.links[0].conv.bn.requires_grad_(False)  # the stem's batch norm has no scale and shift
    for index, phase in enumerate(recipe.phases):
        phase = phase if o.epochs is None else phase.for_epochs(o.epochs)
        phase = phase if o.n is None else replace(phase, n=o.n)
        generator = torch.Generator().manual_seed(0)
        sampler = PoolSampler(pools[index], generator) if index else UniformSampler(system.domain, generator)
        run = TrainingRun(o.out / f"phase{index}", phase=index)
        train_phase(supernet, phase, sampler, train, val, run)
    save_supernet(
        o.out / "supernet.safetensors", supernet, {"recipe": recipe.name, "data": system.data.name, "seed": 0}
    )
