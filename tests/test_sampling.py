"""The samplers: reproducible, resumable, and as fair or as weighted as they say."""

import io
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from helpers import random_archs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from nni_nas_consistency.archs.arch import DIGITS, RESNET20, WidthForm
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.strategies.sampling import (
    FairSampler,
    ParamsSampler,
    PoolSampler,
    UniformSampler,
    spread_archs,
    strict_fair_sampler,
)

SMALL = WidthForm("small", ((1, 2, 3), (5, 6), (4, 8, 12, 16)))
POOL = random_archs(DIGITS, 11)
SAMPLERS = {
    "uniform": UniformSampler,
    "fair": FairSampler,
    "strict-fair": strict_fair_sampler,
    "params": lambda form, generator: ParamsSampler(form, generator, params=lambda arch: sum(arch.choices)),
    "pool": lambda form, generator: PoolSampler(POOL, generator),
}
EVERY_SAMPLER = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)

chunks = st.lists(st.integers(0, 20), max_size=6)
seeds = st.integers(0, 2**32 - 1)
quick = settings(deadline=None, max_examples=25)


def seeded(make, seed, form=DIGITS):
    return make(form, torch.Generator().manual_seed(seed))


def drawn(sampler, sizes):
    return [arch for size in sizes for arch in sampler.draw(size)]


def uses(archs, layer):
    return Counter(arch.choices[layer] for arch in archs)


@EVERY_SAMPLER
@quick
@given(seed=seeds, sizes=chunks)
def test_a_seed_decides_the_archs_which_are_valid_and_as_many_as_asked_for(make, seed, sizes):
    archs = drawn(seeded(make, seed), sizes)
    assert archs == drawn(seeded(make, seed), sizes)
    assert [DIGITS.parse(arch.code) for arch in archs] == archs
    sampler = seeded(make, seed)
    assert [len(sampler.draw(size)) for size in sizes] == sizes


@EVERY_SAMPLER
def test_another_seed_gives_other_archs(make):
    rows = {tuple(drawn(seeded(make, seed), [10])) for seed in range(20)}
    assert len(rows) == 20


@EVERY_SAMPLER
@quick
@given(seed=seeds, sizes=chunks)
def test_two_samplers_do_not_disturb_each_other_nor_torchs_own_generator(make, seed, sizes):
    alone = drawn(seeded(make, seed), sizes)
    one, other = seeded(make, seed), seeded(make, seed + 1)
    before = torch.get_rng_state()
    together = []
    for size in sizes:
        together += one.draw(size)
        other.draw(size + 1)
    assert together == alone
    assert torch.equal(torch.get_rng_state(), before)


@EVERY_SAMPLER
@quick
@given(seed=seeds, before=chunks, after=chunks)
def test_a_saved_state_goes_on_with_the_archs_that_would_have_come(make, seed, before, after):
    sampler = seeded(make, seed)
    drawn(sampler, before)
    state, file = sampler.state_dict(), io.BytesIO()
    torch.save(state, file)
    expected = drawn(sampler, after)
    for saved in (state, torch.load(io.BytesIO(file.getvalue()), weights_only=True)):
        resumed = seeded(make, seed + 1)
        resumed.draw(3)
        resumed.load_state_dict(saved)
        assert drawn(resumed, after) == expected


def test_uniform_samples_use_all_choices_of_a_layer_and_all_pairs_of_two_layers_alike():
    archs = seeded(UniformSampler, 1).draw(6400)
    for layer, choices in enumerate(DIGITS.layers):
        counts = uses(archs, layer)
        assert chisquare([counts[choice] for choice in choices]).pvalue > 1e-4, layer
    for one, other in [(0, 1), (5, 6), (0, 19)]:
        pairs = Counter((arch.choices[one], arch.choices[other]) for arch in archs)
        observed = [pairs[pair] for pair in product(DIGITS.layers[one], DIGITS.layers[other])]
        assert chisquare(observed).pvalue > 1e-4


@quick
@given(seed=seeds, sizes=chunks)
def test_fair_samples_use_the_choices_of_a_layer_equally_often_after_any_number_of_draws(seed, sizes):
    sampler = seeded(FairSampler, seed)
    archs = []
    for size in sizes:
        archs += sampler.draw(size)
        for layer, choices in enumerate(DIGITS.layers):
            counts = [uses(archs, layer)[choice] for choice in choices]
            assert max(counts) - min(counts) <= 1


@quick
@given(seed=seeds, sizes=st.lists(st.integers(0, 40), min_size=3, max_size=8))
def test_strict_fair_samples_use_every_choice_equally_often_in_every_block_of_16(seed, sizes):
    archs = drawn(seeded(strict_fair_sampler, seed, RESNET20), sizes)
    for start in range(0, len(archs) - 15, 16):
        block = archs[start : start + 16]
        for layer, choices in enumerate(RESNET20.layers):
            assert uses(block, layer) == dict.fromkeys(choices, 16 // len(choices))


def test_strict_fairness_shuffles_whole_blocks_so_that_a_choice_may_come_twice_in_a_row_unlike_with_fair_decks():
    strict = seeded(strict_fair_sampler, 1, RESNET20).draw(160)
    fair = seeded(FairSampler, 1, RESNET20).draw(160)
    fours = [layer for layer, choices in enumerate(RESNET20.layers) if len(choices) == 4]
    for archs, repeats in ((strict, True), (fair, False)):
        runs = [uses(archs[start : start + 4], layer) for start in range(0, 160, 4) for layer in fours]
        assert any(len(run) < 4 for run in runs) == repeats


def test_a_strict_fair_block_is_the_least_common_multiple_of_the_choices():
    archs = seeded(strict_fair_sampler, 1, SMALL).draw(24)
    for block in (archs[:12], archs[12:]):
        assert [sorted(uses(block, layer).values()) for layer in range(3)] == [[4] * 3, [6] * 2, [3] * 4]
    assert archs[:12] != archs[12:]


@pytest.mark.parametrize("make", [FairSampler, strict_fair_sampler])
def test_fair_samples_combine_the_choices_of_two_layers_at_random(make):
    archs = seeded(make, 2, SMALL).draw(12 * 200)
    pairs = Counter(arch.choices[::2] for arch in archs)
    # dealt in decks, the counts spread less than independent ones, so they are only compared with the mean
    assert all(pairs[pair] == pytest.approx(200, rel=0.25) for pair in product(*SMALL.layers[::2]))


def test_archs_are_drawn_in_proportion_to_their_parameters():
    def params(arch):
        return arch.choices[0] * arch.choices[2] ** 2

    archs = ParamsSampler(SMALL, torch.Generator().manual_seed(3), params=params).draw(4000)
    every = [SMALL.arch(choices) for choices in product(*SMALL.layers)]
    weight = np.array([params(arch) for arch in every], float)
    counts = Counter(archs)
    assert chisquare([counts[arch] for arch in every], 4000 * weight / weight.sum()).pvalue > 1e-4


def test_on_the_digits_space_sampling_by_parameters_raises_their_mean_as_much_as_it_should():
    space = ResNet20Space(10, 1, 8, width_unit=1)

    def params(arch):
        return space.complexity(arch).params

    uniform = np.array([params(arch) for arch in random_archs(DIGITS, 1500)], float)
    weighted = ParamsSampler(DIGITS, torch.Generator().manual_seed(4), params=params).draw(800)
    expected = (uniform**2).mean() / uniform.mean()
    assert expected / uniform.mean() > 1.1
    assert np.mean([params(arch) for arch in weighted]) == pytest.approx(expected, rel=0.03)


@quick
@given(seed=seeds, sizes=chunks)
def test_a_pool_gives_each_arch_once_before_any_comes_again(seed, sizes):
    archs = drawn(seeded(SAMPLERS["pool"], seed), sizes)
    for start in range(0, len(archs), len(POOL)):
        round_ = archs[start : start + len(POOL)]
        assert len(set(round_)) == len(round_)
        assert set(round_) <= set(POOL)


def test_the_rounds_of_a_pool_have_different_orders():
    archs = seeded(SAMPLERS["pool"], 5).draw(2 * len(POOL))
    assert archs[: len(POOL)] != archs[len(POOL) :]
    assert archs[: len(POOL)] != POOL


def test_an_empty_pool_is_refused():
    with pytest.raises(ValueError, match="the pool is empty; give at least one arch"):
        PoolSampler([], torch.Generator())


def test_spread_archs_cover_the_capacity_of_every_stage_where_uniform_ones_crowd_around_the_mean():
    def places(archs):
        """Return how wide each arch is in each of the three stages, from 0 to 1: [archs, 3]."""
        steps = [[choice - 1 for choice in arch.choices] for arch in archs]
        return np.array([[np.mean(s[:7]) / 3, np.mean(s[7:13]) / 7, np.mean(s[13:]) / 15] for s in steps])

    archs = spread_archs(DIGITS, 64, torch.Generator().manual_seed(6))
    assert archs == spread_archs(DIGITS, 64, torch.Generator().manual_seed(6))
    assert archs != spread_archs(DIGITS, 64, torch.Generator().manual_seed(7))
    spread, uniform = places(archs), places(random_archs(DIGITS, 64))
    assert (spread.std(0) > 1.8 * uniform.std(0)).all()
    assert (spread.min(0) < 0.1).all()
    assert (spread.max(0) > 0.9).all()
    for stage in spread.T:
        assert np.quantile(stage, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.1)
    assert np.abs(np.corrcoef(spread.T) - np.eye(3)).max() < 0.4
