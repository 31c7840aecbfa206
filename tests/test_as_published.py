"""The published recipes as they were published: the figures are those of the competitions' entries."""

from dataclasses import replace

import pytest
import torch

from nni_nas_consistency.images.augmentation import DIGITS_TEST, Augmentation
from nni_nas_consistency.images.datasets import Images, digits
from nni_nas_consistency.images.loader import TrainingLoader
from nni_nas_consistency.training.lightning import training_evaluator
from nni_nas_consistency.training.recipes import ANS, EMBEDDED, NAZARICK
from nni_nas_consistency.training.run import TrainingRun

STEPS = 391  # of 128 images: the last incomplete batch counts


def lr(optimization, step):
    return optimization.lr * optimization.lr_factor(step, STEPS)


def test_nazarick_warms_up_from_0_over_2000_steps():
    optimization = NAZARICK.phases[0].optimization
    assert lr(optimization, 0) == 0
    assert lr(optimization, 1000) == pytest.approx(0.05)
    assert lr(optimization, 1999) == pytest.approx(0.1 * 1999 / 2000)
    assert lr(optimization, 2000) == 0.1


@pytest.mark.parametrize(("epoch", "rate"), [(100, 0.07723), (255, 0.00670), (299, 9.9e-5)])
def test_nazaricks_cosine_starts_its_clock_when_the_warm_up_ends(epoch, rate):
    optimization = NAZARICK.phases[0].optimization
    for step in (epoch * STEPS, epoch * STEPS + STEPS - 1):  # constant within an epoch
        assert lr(optimization, step) == pytest.approx(rate, rel=5e-3)


def test_ans_is_at_its_peak_in_epochs_0_and_1_and_has_no_warm_up():
    optimization = ANS.phases[0].optimization
    assert [lr(optimization, epoch * STEPS) for epoch in (0, 1)] == [0.025, 0.025]
    assert lr(optimization, 2 * STEPS) < 0.025


def test_the_last_incomplete_batch_is_kept(tmp_path):
    train = digits(train=True).first(100)
    run = TrainingRun(tmp_path, accelerator="cpu")
    optimization = replace(EMBEDDED.phases[0].optimization, batch_size=32)
    evaluator = training_evaluator(optimization, train, DIGITS_TEST, train, seed=0, run=run)
    assert [len(labels) for _, labels in evaluator.train_dataloaders] == [32, 32, 32, 4]


def test_an_epoch_of_cifar_100_has_391_steps():
    images = Images(torch.zeros(50_000, 1, 1, 1, dtype=torch.uint8), torch.zeros(50_000, dtype=torch.long), 1)
    assert len(TrainingLoader(images, Augmentation((0.0,), (1.0,)), batch_size=128, seed=0)) == STEPS
