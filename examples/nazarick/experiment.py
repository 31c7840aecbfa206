"""Recipe nazarick as two NNI experiments: a one-shot strategy trains the supernet, then each arch is a trial."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from nni.nas.evaluator import FunctionalEvaluator

from nni_nas_consistency import (
    ReleasedArchs,
    RetiariiExperiment,
    SandwichStrategy,
    TrainingRun,
    image_scoring,
    make_supernet,
    read_released,
    save_supernet,
    score_subnet,
    strict_fair_sampler,
    training_evaluator,
    write_released,
)
from nni_nas_consistency.files.arch_lists import Entry
from nni_nas_consistency.systems import CVPR2021, EMBEDDED_BENCHMARK
from nni_nas_consistency.training.supernet import initialise


def train_by(phase, supernet, train, val, run):
    evaluator = training_evaluator(phase.optimization, train, phase.augmentation, val, seed=0, run=run)
    sampler = strict_fair_sampler(supernet.domain, torch.Generator().manual_seed(0))
    strategy = SandwichStrategy(
        phase.n, sampler=sampler, distill_from=phase.distill_from, grad_clip=phase.grad_clip, seed=0
    )
    RetiariiExperiment(supernet, evaluator, strategy).run()


def scored(supernet, archs, test, augmentation):
    strategy = ReleasedArchs(archs)
    evaluator = FunctionalEvaluator(score_subnet, scoring=lambda: image_scoring(test, augmentation))
    RetiariiExperiment(supernet, evaluator, strategy).run()
    return strategy.scores()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archs", type=Path, required=True, help="the list to score, in released form")
    parser.add_argument("--out", type=Path, required=True, help="folder for the supernet and scores.json")
    parser.add_argument("--data-root", type=Path, help="CIFAR-100 and the space of CVPR 2021; else digits, embedded")
    parser.add_argument("--epochs", type=int, help="by default the recipe's")
    parser.add_argument("--n", type=int, help="archs per step; by default the recipe's")
    parser.add_argument("--images", type=int, help="train and score on the first N images only")
    o = parser.parse_args()
    system = CVPR2021 if o.data_root else EMBEDDED_BENCHMARK
    recipe = system.recipes[0]  # nazarick; on digits the same at the length of the benchmark
    phase = recipe.phases[0] if o.epochs is None else recipe.phases[0].for_epochs(o.epochs)
    phase = phase if o.n is None else replace(phase, n=o.n)
    train, test = (system.data.images(o.data_root, train=which) for which in (True, False))
    train, test = train.first(o.images or len(train)), test.first(o.images or len(test))
    archs = {name: entry.arch for name, entry in read_released(o.archs, system.codec).items()}

    supernet = make_supernet(system.make_space(train.shape))
    initialise(supernet, recipe.init, torch.Generator().manual_seed(0))
    train_by(phase, supernet, train, test.first(min(1000, len(test))), TrainingRun(o.out))
    save_supernet(
        o.out / "supernet.safetensors", supernet, {"recipe": recipe.name, "data": system.data.name, "seed": 0}
    )
    scores = scored(supernet, archs, test, system.data.test)
    write_released(o.out / "scores.json", {name: Entry(archs[name], score) for name, score in scores.items()})
