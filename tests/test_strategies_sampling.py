"""The samplers: reproducible, resumable, valid in every domain, and as fair or as weighted as they say."""

import io
from collections import Counter
from itertools import product

import nni
import numpy as np
import pytest
import torch
from helpers import random_archs
from hypothesis import given, settings
from hypothesis import strategies as st
from nni.mutable import ExpressionConstraint
from scipy.stats import chisquare
from torch import nn

from nni_nas_consistency.archs.codecs import SampleCodec, WidthCodec
from nni_nas_consistency.archs.domains import DEMO, DIGITS, RELEASED, RESNET20, Domain, Variable, widths_domain
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.spaces.hub import domain_of
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.strategies.sampling import (
    FairSampler,
    ParamsSampler,
    PoolSampler,
    UniformSampler,
    spread_archs,
    strict_fair_sampler,
    uniform_pool,
)
from spaces import Constrained

SMALL = widths_domain(WidthCodec("small", ((1, 3, 2), (6, 5), (16, 4, 8, 12))))
POOL = random_archs(RELEASED, 11)
SAMPLERS = {
    "uniform": UniformSampler,
    "fair": FairSampler,
    "strict-fair": strict_fair_sampler,
    "params": lambda domain, generator: ParamsSampler(domain, generator, params=depth_of),
    "pool": lambda domain, generator: PoolSampler(POOL, generator),
    "weighted pool": lambda domain, generator: PoolSampler(POOL, generator, weights=range(len(POOL))),
}
EVERY_SAMPLER = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
FAIR_SAMPLERS = pytest.mark.parametrize("make", [FairSampler, strict_fair_sampler], ids=["fair", "strict-fair"])
OF_2022 = pytest.mark.parametrize("domain", [RELEASED, DEMO], ids=["released", "demo"])

sizes_of_draws = st.lists(st.integers(0, 12), max_size=5)
seeds = st.integers(0, 2**32 - 1)
quick = settings(deadline=None, max_examples=12)


def depth_of(arch):
    """Return the number of blocks of an arch of 2022, which stands in for its parameters."""
    return sum(arch.choices[f"depth{stage}"] for stage in (1, 2, 3, 4))


def seeded(make, seed, domain=RELEASED):
    return make(domain, torch.Generator().manual_seed(seed))


def drawn(sampler, sizes):
    return [arch for size in sizes for arch in sampler.draw(size)]


def uses(archs, label):
    return Counter(arch.choices[label] for arch in archs)


@EVERY_SAMPLER
@quick
@given(seed=seeds, sizes=sizes_of_draws)
def test_a_seed_decides_the_archs_which_are_as_many_as_asked_for(make, seed, sizes):
    sampler = seeded(make, seed)
    hands = [sampler.draw(size) for size in sizes]
    assert [len(hand) for hand in hands] == sizes
    assert drawn(seeded(make, seed), sizes) == [arch for hand in hands for arch in hand]


@EVERY_SAMPLER
def test_another_seed_gives_other_archs(make):
    first_pass = len(POOL) if make is SAMPLERS["pool"] else 0
    assert len({tuple(drawn(seeded(make, seed), [first_pass + 10])) for seed in range(10)}) == 10


@EVERY_SAMPLER
def test_two_samplers_do_not_disturb_each_other_nor_torchs_own_generator(make):
    sizes = [3, 0, 7, 1]
    alone = drawn(seeded(make, 1), sizes)
    one, other = seeded(make, 1), seeded(make, 2)
    before = torch.get_rng_state()
    together = []
    for size in sizes:
        together += one.draw(size)
        other.draw(size + 1)
    assert together == alone
    assert torch.equal(torch.get_rng_state(), before)


@EVERY_SAMPLER
@quick
@given(seed=seeds, before=sizes_of_draws, after=sizes_of_draws)
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


@OF_2022
@pytest.mark.parametrize("make", [UniformSampler, FairSampler, strict_fair_sampler, SAMPLERS["params"]])
def test_archs_of_2022_are_valid_with_their_ties_and_zeros_for_absent_blocks(make, domain):
    last = {variable.sets[-1]: max(variable.choices) for variable in domain.variables}
    for arch in seeded(make, 1, domain).draw(60):
        assert domain.codec.parse(arch.code) == arch
        choices = arch.choices
        assert arch.code.count("0") == 2 * (23 - sum(choices[f"depth{stage}"] for stage in (1, 2, 3, 4)))
        assert choices["stem"] == choices["s1b1c2"]
        for stage, most in enumerate((5, 5, 8, 5), 1):
            depth = choices[f"depth{stage}"]
            blocks = [(choices[f"s{stage}b{block}c1"], choices[f"s{stage}b{block}c2"]) for block in range(1, most + 1)]
            assert len({outer for _, outer in blocks[:depth]}) == 1
            assert all(1 <= inner <= last[f"s{stage}b1c1"] for inner, _ in blocks[:depth])
            assert 1 <= blocks[0][1] <= last[f"s{stage}b1c1"]
            assert blocks[depth:] == [blocks[0]] * (most - depth)


def test_uniform_samples_use_all_choices_of_a_layer_and_all_pairs_of_two_layers_alike():
    archs = seeded(UniformSampler, 1, DIGITS).draw(3200)
    for label, choices in DIGITS.codec.allowed.items():
        counts = uses(archs, label)
        assert chisquare([counts[choice] for choice in choices]).pvalue > 1e-4, label
    for one, other in [("w1", "w2"), ("w6", "w7"), ("w1", "w20")]:
        pairs = Counter((arch.choices[one], arch.choices[other]) for arch in archs)
        observed = [pairs[pair] for pair in product(DIGITS.codec.allowed[one], DIGITS.codec.allowed[other])]
        assert chisquare(observed).pvalue > 1e-4


def test_uniform_samples_of_2022_are_as_uniform_as_the_released_list():
    archs = seeded(UniformSampler, 1).draw(1500)
    for variable in RELEASED.variables:
        counts = uses([arch for arch in archs if variable.exists(arch.choices)], variable.name)
        assert chisquare([counts[choice] for choice in variable.choices]).pvalue > 1e-4, variable.name


class ConstrainedChain(ChainSpace):
    """Two widths that may not both be large, as a chain space; the constraint is NNI's."""

    def __init__(self):
        super().__init__(widths_domain(WidthCodec("constrained-chain", ((8, 2, 4), (2, 4, 8)))), 8)
        first, second = self.choice("w1"), self.choice("w2")
        self.add_mutable(ExpressionConstraint(first + second <= 10, label="budget"))
        self.links = nn.ModuleList([nn.Flatten(), nni.nas.nn.pytorch.MutableLinear(first, second)])


@pytest.mark.parametrize("space", [Constrained, ConstrainedChain])
def test_uniform_samples_never_break_a_constraint_of_nni_and_are_uniform_over_what_it_allows(space):
    domain = domain_of(space())
    archs = seeded(UniformSampler, 1, domain).draw(600)
    counts = Counter(tuple(arch.choices.values()) for arch in archs)
    allowed = [pair for pair in product((2, 4, 8), repeat=2) if sum(pair) <= 10]
    assert set(counts) == set(allowed)
    assert chisquare([counts[pair] for pair in allowed]).pvalue > 1e-4


@FAIR_SAMPLERS
def test_fair_sampling_of_a_space_with_constraints_is_refused(make):
    with pytest.raises(InputError) as error:
        make(domain_of(ConstrainedChain()), torch.Generator())
    assert str(error.value) == (
        "constrained-chain has constraints, which fair sampling cannot honour; use UniformSampler"
    )


def test_a_constraint_that_no_arch_meets_ends_sampling():
    domain = Domain(SMALL.codec, SMALL.variables, constraints=(lambda choices: "w1 must be 9",))
    with pytest.raises(InputError) as error:
        seeded(UniformSampler, 1, domain).draw(1)
    assert str(error.value) == (
        "1000 draws in a row broke a constraint of small (w1 must be 9); "
        "loosen the constraint, or draw from a list of archs with PoolSampler"
    )


@quick
@given(seed=seeds, sizes=sizes_of_draws)
def test_fair_samples_use_the_choices_of_a_layer_equally_often_after_any_number_of_draws(seed, sizes):
    sampler = seeded(FairSampler, seed, SMALL)
    archs = []
    for size in sizes:
        archs += sampler.draw(size)
        for label, choices in SMALL.codec.allowed.items():
            counts = [uses(archs, label)[choice] for choice in choices]
            assert max(counts) - min(counts) <= 1


@quick
@given(seed=seeds, sizes=sizes_of_draws)
def test_fair_samples_of_2022_are_fair_to_inner_digits_among_the_archs_that_have_the_block(seed, sizes):
    sampler = seeded(FairSampler, seed)
    archs = []
    for size in sizes:
        archs += sampler.draw(size)
        for variable in RELEASED.variables:
            found = uses([arch for arch in archs if variable.exists(arch.choices)], variable.name)
            counts = [found[choice] for choice in variable.choices]
            assert max(counts) - min(counts) <= 1, variable.name


@quick
@given(seed=seeds, sizes=st.lists(st.integers(0, 40), min_size=3, max_size=5))
def test_strict_fair_samples_use_every_choice_equally_often_in_every_round_of_16(seed, sizes):
    archs = drawn(seeded(strict_fair_sampler, seed, RESNET20), sizes)
    for start in range(0, len(archs) - 15, 16):
        round_ = archs[start : start + 16]
        for label, choices in RESNET20.codec.allowed.items():
            assert uses(round_, label) == dict.fromkeys(choices, 16 // len(choices))


def test_a_strict_fair_round_is_the_least_common_multiple_of_the_choices():
    archs = seeded(strict_fair_sampler, 1, SMALL).draw(24)
    for round_ in (archs[:12], archs[12:]):
        assert [sorted(uses(round_, f"w{layer}").values()) for layer in (1, 2, 3)] == [[4] * 3, [6] * 2, [3] * 4]
    assert archs[:12] != archs[12:]


def test_a_strict_fair_round_of_2022_is_fair_to_depths_and_outer_digits():
    archs = seeded(strict_fair_sampler, 1).draw(420)  # 420 archs are a round of 3, 4, 5 and 7 choices
    for variable in RELEASED.variables:
        if not variable.needs:
            times = 420 // len(variable.choices)
            assert uses(archs, variable.sets[0]) == dict.fromkeys(variable.choices, times), variable.name


def test_strict_fairness_shuffles_whole_rounds_so_that_a_choice_may_come_twice_in_a_row_unlike_with_fair_decks():
    strict = seeded(strict_fair_sampler, 1, RESNET20).draw(160)
    fair = seeded(FairSampler, 1, RESNET20).draw(160)
    for archs, repeats in ((strict, True), (fair, False)):
        runs = [uses(archs[start : start + 4], f"w{layer}") for start in range(0, 160, 4) for layer in range(1, 8)]
        assert any(len(run) < 4 for run in runs) == repeats


@FAIR_SAMPLERS
def test_fair_samples_combine_the_choices_of_two_layers_at_random(make):
    archs = seeded(make, 2, SMALL).draw(12 * 200)
    pairs = Counter((arch.choices["w1"], arch.choices["w3"]) for arch in archs)
    # dealt in decks, the counts spread less than independent ones, so they are only compared with the mean
    assert all(pairs[pair] == pytest.approx(200, rel=0.25) for pair in product((1, 2, 3), (4, 8, 12, 16)))


def test_archs_are_drawn_in_proportion_to_their_parameters_whatever_the_order_of_the_choices():
    def params(arch):
        return arch.choices["w1"] * arch.choices["w3"] ** 2

    archs = ParamsSampler(SMALL, torch.Generator().manual_seed(3), params=params).draw(3000)
    every = [SMALL.arch(dict(zip(("w1", "w2", "w3"), widths, strict=True))) for widths in product(*SMALL.codec.widths)]
    weight = np.array([params(arch) for arch in every], float)
    counts = Counter(archs)
    assert chisquare([counts[arch] for arch in every], 3000 * weight / weight.sum()).pvalue > 1e-4


def test_deep_archs_of_2022_are_drawn_in_proportion_to_their_depth():
    """The largest has the first digits; bounded by the last ones, all archs but the shallowest would be drawn alike."""
    archs = seeded(SAMPLERS["params"], 3).draw(2000)
    depths = Counter(sum(depths) for depths in product(range(2, 6), range(2, 6), range(2, 9), range(2, 6)))
    weight = np.array([count * depth for depth, count in sorted(depths.items())], float)
    merged = np.array([weight[:4].sum(), *weight[4:-4], weight[-4:].sum()])
    found = Counter(depth_of(arch) for arch in archs)
    counts = np.array([found[depth] for depth in sorted(depths)])
    counts = np.array([counts[:4].sum(), *counts[4:-4], counts[-4:].sum()])
    assert chisquare(counts, 2000 * merged / merged.sum()).pvalue > 1e-4


def test_on_the_digits_space_sampling_by_parameters_raises_their_mean_as_much_as_it_should():
    space = ResNet20Space(10, 1, 8, width_unit=1)

    def params(arch):
        return space.complexity(arch).params

    uniform = np.array([params(arch) for arch in random_archs(DIGITS, 1000)], float)
    weighted = ParamsSampler(DIGITS, torch.Generator().manual_seed(4), params=params).draw(500)
    expected = (uniform**2).mean() / uniform.mean()
    assert expected / uniform.mean() > 1.1
    assert np.mean([params(arch) for arch in weighted]) == pytest.approx(expected, rel=0.04)


def test_sampling_by_parameters_needs_a_largest_arch():
    domain = Domain(SampleCodec("operators", {"op": ("conv", "pool")}), (Variable("op", ("conv", "pool"), ("op",)),))
    with pytest.raises(InputError) as error:
        ParamsSampler(domain, torch.Generator(), params=lambda arch: 1)
    assert str(error.value) == ("operators has no largest arch, which sampling by parameters needs; use UniformSampler")


@quick
@given(seed=seeds, sizes=sizes_of_draws)
def test_a_pool_gives_each_arch_once_before_any_comes_again(seed, sizes):
    archs = drawn(seeded(SAMPLERS["pool"], seed), sizes)
    for start in range(0, len(archs), len(POOL)):
        round_ = archs[start : start + len(POOL)]
        assert len(set(round_)) == len(round_)
        assert set(round_) <= set(POOL)


def test_a_pool_is_drawn_in_its_order_first_and_reshuffled_each_pass():
    archs = seeded(SAMPLERS["pool"], 5).draw(3 * len(POOL))
    first, second, third = (archs[start : start + len(POOL)] for start in range(0, len(archs), len(POOL)))
    assert first == POOL
    assert second != POOL and third != POOL and second != third


def test_archs_of_a_weighted_pool_come_in_proportion_to_their_weights():
    sampler = PoolSampler(POOL[:4], torch.Generator().manual_seed(1), weights=(0, 1, 0.5, 2.5))
    counts = Counter(POOL.index(arch) for arch in sampler.draw(4000))
    assert set(counts) == {1, 2, 3}
    assert chisquare([counts[1], counts[2], counts[3]], [1000, 500, 2500]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1, 2), "the pool has 3 archs and 2 weights; give one for each"),
        ((1, -1, 3), f"the weight of arch '{POOL[1].code}' is -1; it must be a number of at least 0"),
        ((1, float("nan"), 3), f"the weight of arch '{POOL[1].code}' is nan; it must be a number of at least 0"),
        ((0, 0, 0), "the weights of the pool sum to 0; the sum must be above 0 and finite, or no arch could be drawn"),
    ],
)
def test_weights_that_cannot_be_drawn_by_are_refused(weights, message):
    with pytest.raises(InputError) as error:
        PoolSampler(POOL[:3], torch.Generator(), weights=weights)
    assert str(error.value) == message


def test_a_uniform_pool_has_distinct_archs_and_says_where_there_are_not_so_many():
    archs = uniform_pool(SMALL, 24, torch.Generator().manual_seed(3))
    assert len(set(archs)) == 24
    assert archs == uniform_pool(SMALL, 24, torch.Generator().manual_seed(3))
    assert archs != uniform_pool(SMALL, 24, torch.Generator().manual_seed(4))
    with pytest.raises(InputError, match=r"^small: \d+ draws gave 24 different archs; ask for fewer$"):
        uniform_pool(SMALL, 25, torch.Generator().manual_seed(3))


def test_an_empty_pool_is_refused():
    with pytest.raises(InputError, match=r"^the pool is empty; give at least one arch$"):
        PoolSampler([], torch.Generator())


def seeded_spread(domain, seed=6, n=64):
    return spread_archs(domain, n, torch.Generator().manual_seed(seed))


def test_spread_archs_cover_the_capacity_of_every_stage_where_uniform_ones_crowd_around_the_mean():
    def places(archs):
        """Return how wide each arch is in each of the three stages, from 0 to 1: [archs, 3]."""
        steps = [[choice - 1 for choice in arch.choices.values()] for arch in archs]
        return np.array([[np.mean(s[:7]) / 3, np.mean(s[7:13]) / 7, np.mean(s[13:]) / 15] for s in steps])

    assert seeded_spread(DIGITS) == seeded_spread(DIGITS)
    assert seeded_spread(DIGITS) != seeded_spread(DIGITS, seed=7)
    spread, uniform = places(seeded_spread(DIGITS)), places(random_archs(DIGITS, 64))
    assert (spread.std(0) > 1.8 * uniform.std(0)).all()
    assert (spread.min(0) < 0.1).all()
    assert (spread.max(0) > 0.9).all()
    for stage in spread.T:
        assert np.quantile(stage, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.1)
    assert np.abs(np.corrcoef(spread.T) - np.eye(3)).max() < 0.4


@OF_2022
def test_spread_archs_of_2022_are_valid_and_their_digits_spread_more_than_uniform_ones(domain):
    def inner_digits(archs):
        """Return the mean inner digit of each arch in stage 3."""
        return np.array([np.mean([arch.choices[f"s3b{block}c1"] for block in (1, 2)]) for arch in archs])

    archs = seeded_spread(domain)
    assert [domain.codec.parse(arch.code) for arch in archs] == archs
    assert {arch.choices["depth3"] for arch in archs} == set(range(2, 9))
    assert inner_digits(archs).std() > 1.2 * inner_digits(random_archs(domain, 64)).std()


def test_spread_does_not_depend_on_the_order_of_choices():
    ascending = widths_domain(WidthCodec("small", ((1, 2, 3), (5, 6), (4, 8, 12, 16))))
    assert seeded_spread(SMALL, n=12) == seeded_spread(ascending, n=12)


def test_spread_archs_are_distinct_and_told_apart_from_too_many():
    archs = seeded_spread(SMALL, n=24)
    assert len({arch.choices for arch in archs}) == len(archs) == 24
    with pytest.raises(InputError, match=r"^small: \d+ draws gave 24 different archs; ask for fewer$"):
        seeded_spread(SMALL, n=25)


def test_the_progress_of_spread_archs_adds_up_to_their_number():
    done = []
    spread_archs(DIGITS, 64, torch.Generator().manual_seed(6), progress=done.append)
    assert sum(done) == pytest.approx(64) and max(done) < 4


@pytest.mark.parametrize(
    "domain",
    [
        Domain(SampleCodec("toy", {"op": ("conv", "pool")}), (Variable("op", ("conv", "pool"), ("op",)),)),
        Domain(WidthCodec("toy", ((1, 2),)), (Variable("w1", (1, 2), ("w1",)),), constraints=(lambda choices: None,)),
    ],
    ids=["operators", "constraints"],
)
def test_operators_and_constraints_cannot_be_spread(domain):
    with pytest.raises(InputError) as error:
        seeded_spread(domain)
    assert str(error.value) == ("toy has operators or constraints, but only numbers can be spread; use UniformSampler")
