"""The published recipes as they were published: the figures are those of the competitions' entries."""

import pytest

from nni_nas_consistency.training.recipes import ANS, NAZARICK

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
