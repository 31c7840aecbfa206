import warnings
from itertools import combinations
from math import asin, pi, sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from nni_nas_consistency.ranking.statistics import (
    Interval,
    kendall_tau,
    paired_differences,
    pearson,
    rank_consistency,
    ranks,
    spearman,
    split_half,
    top_overlap,
)

CORRELATIONS = {"kendall": kendall_tau, "pearson": pearson, "spearman": spearman}
FEW_VALUES = st.integers(-3, 3) | st.sampled_from([0.5, -1e9, 1e-9])


def pairs(values, max_size=25):
    return st.lists(st.tuples(values, values), min_size=2, max_size=max_size)


def columns(rows):
    x, y = (np.array(column, float) for column in zip(*rows, strict=True))
    assume(len(set(x)) > 1 and len(set(y)) > 1)
    return x, y


def normal_pair(n, correlation, seed):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=n)
    return x, correlation * x + sqrt(1 - correlation**2) * generator.normal(size=n)


def intervals_of(consistency):
    return {"kendall": consistency.kendall, "pearson": consistency.pearson, "spearman": consistency.spearman}


def tau_by_pairs(x, y):
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in combinations(range(len(x)), 2)]
    untied_x, untied_y = sum(a != 0 for a, _ in signs), sum(b != 0 for _, b in signs)
    return sum(a * b for a, b in signs) / sqrt(untied_x * untied_y)


def rank_by_counting(values, value):
    return 1 + sum(other > value for other in values) + (sum(other == value for other in values) - 1) / 2


@given(pairs(FEW_VALUES))
def test_tau_is_its_definition_over_all_pairs_and_scipys(rows):
    x, y = columns(rows)
    assert kendall_tau(x, y) == pytest.approx(tau_by_pairs(x, y), abs=1e-12)
    assert kendall_tau(x, y) == stats.kendalltau(x, y, variant="b").statistic


def test_tau_counts_ties_as_tau_b_does():
    assert kendall_tau([1, 1, 2, 3], [1, 2, 2, 4]) == pytest.approx(4 / 5)
    assert kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1


@given(pairs(st.floats(-10, 10).map(lambda number: round(number, 3))))
def test_pearson_is_covariance_over_both_deviations(rows):
    x, y = columns(rows)
    a, b = x - x.mean(), y - y.mean()
    assert pearson(x, y) == pytest.approx((a @ b) / sqrt((a @ a) * (b @ b)), abs=1e-9)


@given(pairs(FEW_VALUES))
def test_ranks_count_the_better_ones_and_spearman_is_pearson_of_ranks(rows):
    x, y = columns(rows)
    by_counting = [[rank_by_counting(values, value) for value in values] for values in (x, y)]
    assert [ranks(x).tolist(), ranks(y).tolist()] == by_counting
    assert spearman(x, y) == pytest.approx(pearson(*by_counting), abs=1e-12)


@pytest.mark.parametrize("offset, scale", [(1e15, 1.0), (0.0, 4e307), (0.0, 5e-324), (1.0, 2.0**-52)])
def test_pearson_sees_neither_offset_nor_scale_however_extreme(offset, scale):
    x, y = np.array([-3.0, -2, -1, 1, 4]), np.array([1.0, 0, 3, 2, 9])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pearson(offset + scale * x, -y) == pytest.approx(-pearson(x, y), abs=1e-12)


@pytest.mark.parametrize("correlation", CORRELATIONS.values())
@pytest.mark.parametrize(
    "x, y, message",
    [
        ([1.0], [2.0], "a correlation needs at least 2 pairs, not 1"),
        ([], [], "a correlation needs at least 2 pairs, not 0"),
        ([1, 2, 3], [1, 2], "x has shape (3,), y (2,); both must be [N] with the same N"),
        ([[1, 2]], [[2, 1]], "x has shape (1, 2), y (1, 2); both must be [N] with the same N"),
        ([1, float("nan"), 2], [1, 2, 3], "x[1] is nan; every number must be finite"),
        ([1, 2, 3], [1, 2, -float("inf")], "y[2] is -inf; every number must be finite"),
        ([1, 2, 3], [7, 7, 7], "y is 7.0 throughout; a constant list has no correlation"),
    ],
)
def test_what_has_no_correlation_is_refused(correlation, x, y, message):
    with pytest.raises(ValueError) as error:
        correlation(x, y)
    assert str(error.value) == message


def test_top_overlap_is_the_share_of_the_best_that_are_found():
    reference = [9, 8, 7, 6, 5, 4]
    scores = [5, 1, 6, 4, 3, 2]
    assert [top_overlap(scores, reference, k) for k in range(1, 7)] == [0, 1 / 2, 2 / 3, 3 / 4, 4 / 5, 1]


def test_of_tied_archs_the_earlier_is_among_the_best():
    assert top_overlap([1, 1, 1, 0], [3, 2, 1, 0], 1) == 1
    assert top_overlap([0, 1, 1, 1], [0, 1, 2, 3], 1) == 0
    assert top_overlap([0, 1, 1, 1], [0, 3, 2, 1], 2) == 1


@pytest.mark.parametrize("k", [0, -1, 4])
def test_a_k_outside_the_list_is_refused(k):
    with pytest.raises(ValueError) as error:
        rank_consistency([1, 2, 3], [1, 3, 2], resamples=1, ks=[k])
    assert str(error.value) == f"the best {k} of 3 archs cannot be compared; k is 1 to 3"


@pytest.mark.parametrize("n, ks", [(2, [1]), (9, [1]), (10, [1, 10]), (95, [10]), (101, [10, 11]), (300, [10, 30])])
def test_the_best_ten_and_the_best_tenth_are_compared_by_default(n, ks):
    assert list(rank_consistency(range(n), range(n), resamples=1).top) == ks


def test_consistency_holds_the_plain_numbers_of_all_archs():
    x, y = normal_pair(50, 0.7, seed=1)
    found = rank_consistency(x, y, resamples=5, ks=[20, 3, 20], level=0.5)
    assert (found.n, found.level) == (50, 0.5)
    assert found.top == {3: top_overlap(x, y, 3), 20: top_overlap(x, y, 20)}
    assert list(found.top) == [3, 20]
    for name, correlation in CORRELATIONS.items():
        assert intervals_of(found)[name].value == correlation(x, y)


def test_intervals_are_percentiles_over_archs_drawn_with_replacement():
    x, y = normal_pair(40, 0.6, seed=2)
    generator = np.random.default_rng(5)
    draws = [generator.integers(40, size=40) for _ in range(50)]
    found = rank_consistency(x, y, seed=5, resamples=50, level=0.8)
    for name, correlation in CORRELATIONS.items():
        interval = intervals_of(found)[name]
        values = [correlation(x[draw], y[draw]) for draw in draws]
        assert (interval.low, interval.high) == pytest.approx(np.percentile(values, [10, 90]), abs=1e-12)


def test_an_interval_covers_the_truth_about_as_often_as_its_level_says():
    truth = {"kendall": 2 / pi * asin(0.8), "pearson": 0.8, "spearman": 6 / pi * asin(0.4)}
    found = [rank_consistency(*normal_pair(80, 0.8, seed), level=0.8, resamples=50) for seed in range(30)]
    for name, value in truth.items():
        intervals = [intervals_of(consistency)[name] for consistency in found]
        assert 18 <= sum(interval.low <= value <= interval.high for interval in intervals) <= 29, name


def test_an_interval_halves_with_four_times_the_archs():
    few, many = (rank_consistency(*normal_pair(n, 0.8, seed=4), resamples=300) for n in (150, 600))
    for name in CORRELATIONS:
        narrow, wide = intervals_of(many)[name], intervals_of(few)[name]
        assert 0.35 < (narrow.high - narrow.low) / (wide.high - wide.low) < 0.7, name


def test_one_seed_gives_one_result_and_another_seed_another():
    pair = normal_pair(30, 0.5, seed=6)
    first, again, other = (rank_consistency(*pair, seed=seed, resamples=40) for seed in (7, 7, 8))
    assert first == again
    assert first.kendall.value == other.kendall.value
    assert first.kendall.low != other.kendall.low


def test_absolute_pearson_takes_the_absolute_value_of_every_draw():
    x, y = normal_pair(30, 0.1, seed=3)
    generator = np.random.default_rng(5)
    draws = [generator.integers(30, size=30) for _ in range(50)]
    signed, absolute = (rank_consistency(x, -y, seed=5, resamples=50, absolute_pearson=on) for on in (False, True))
    assert (signed.absolute_pearson, absolute.absolute_pearson) == (False, True)
    assert absolute.pearson.value == -signed.pearson.value > 0
    values = [abs(pearson(x[draw], y[draw])) for draw in draws]
    assert (absolute.pearson.low, absolute.pearson.high) == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=1e-12)
    assert (absolute.kendall, absolute.spearman, absolute.top) == (signed.kendall, signed.spearman, signed.top)


@pytest.mark.parametrize(
    "scores, reference",
    [([1, 2], [2, 1]), ([0, 0, 0, 0, 0, 1], [1, 2, 3, 4, 5, 6]), ([0, 0, 1], [1, 0, 0])],
)
def test_draws_without_a_correlation_are_drawn_again(scores, reference):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rank_consistency(scores, reference, resamples=60)
    for interval in intervals_of(found).values():
        assert -1 <= interval.low <= interval.high <= 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"resamples": 0}, "0 resamples give no interval; ask for at least 1"),
        ({"level": 95}, "the confidence level is 95; it lies between 0 and 1, such as 0.95"),
        ({"level": 0.0}, "the confidence level is 0.0; it lies between 0 and 1, such as 0.95"),
    ],
)
def test_settings_that_give_no_interval_are_refused(settings, message):
    with pytest.raises(ValueError) as error:
        rank_consistency([1, 2, 3], [1, 3, 2], **settings)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("scores", "reference", "why"),
    [
        ([1], [2], "there is one arch"),
        ([3, 3, 3], [1, 2, 3], "all scores are equal"),
        ([1, 2, 3], [0, 0, 0], "all reference accuracies are equal"),
    ],
)
def test_a_correlation_that_does_not_exist_is_none_with_the_reason(scores, reference, why):
    found = rank_consistency(scores, reference)
    assert (found.n, found.undefined) == (len(scores), why)
    assert set(intervals_of(found).values()) == {None} and found.top == {1: None}
    assert rank_consistency([1, 2, 3], [1, 3, 2], resamples=1).undefined is None


def test_errors_of_a_ranking_say_which_side_is_wrong():
    with pytest.raises(ValueError) as error:
        rank_consistency([1, float("inf")], [0, 0])
    assert str(error.value) == "scores[1] is inf; every number must be finite"
    with pytest.raises(ValueError) as error:
        top_overlap([1, 2, 3], [0, 0, 0], 1)
    assert str(error.value) == "reference is 0.0 throughout; a constant list has no correlation"
    with pytest.raises(ValueError) as error:
        top_overlap([1, float("nan")], [0, 1], 1)
    assert str(error.value) == "scores[1] is nan; every number must be finite"


def test_halves_of_equal_repeats_rank_alike_and_halves_of_noise_do_not():
    generator = np.random.default_rng(0)
    archs = generator.normal(size=(200, 1))
    noise = generator.normal(size=(200, 5))
    assert split_half(np.repeat(archs, 4, axis=1), splits=3) == 1
    assert abs(split_half(noise, splits=20)) < 0.1
    assert split_half(noise, splits=3, seed=1) == split_half(noise, splits=3, seed=1)
    assert split_half(noise, splits=3, seed=1) != split_half(noise, splits=3, seed=2)


def test_with_two_repeats_the_split_half_reliability_is_their_tau_and_an_odd_repeat_is_left_out():
    generator = np.random.default_rng(1)
    table = generator.normal(size=(30, 3))
    taus = [kendall_tau(table[:, i], table[:, j]) for i, j in combinations(range(3), 2)]
    assert split_half(table[:, :2], splits=5) == pytest.approx(taus[0], abs=1e-12)
    for split in range(5):
        assert min(abs(split_half(table, splits=1, seed=split) - tau) for tau in taus) < 1e-12


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_fewer_than_two_repeats_have_no_halves(shape):
    with pytest.raises(ValueError) as error:
        split_half(np.ones(shape))
    assert str(error.value) == f"values have shape {shape}; split halves need [archs, repeats], at least 2 repeats"


def test_differences_are_those_of_the_correlations_over_one_draw_of_archs():
    scores, reference = normal_pair(40, 0.9, 1)
    others = normal_pair(40, 0.3, 2)[0]
    found = paired_differences(scores, others, reference, seed=5, resamples=1)
    chosen = np.random.default_rng(5).integers(40, size=40)
    for name, correlation in CORRELATIONS.items():
        interval = getattr(found, name)
        assert interval.value == correlation(scores, reference) - correlation(others, reference)
        drawn = [correlation(values[chosen], reference[chosen]) for values in (scores, others)]
        assert interval.low == interval.high == drawn[0] - drawn[1]


def test_a_small_difference_is_seen_in_pairs_where_the_intervals_of_both_overlap():
    generator = np.random.default_rng(0)
    reference = generator.normal(size=300)
    shared = reference + 0.5 * generator.normal(size=300)
    better, worse = shared, shared + 0.15 * generator.normal(size=300)
    alone = [rank_consistency(scores, reference, resamples=200).pearson for scores in (better, worse)]
    assert alone[0].low < alone[1].high
    assert paired_differences(better, worse, reference, resamples=200).pearson.low > 0


def test_scores_differ_from_themselves_by_nothing_and_swapped_by_the_opposite():
    scores, reference = normal_pair(30, 0.8, 3)
    others = normal_pair(30, 0.5, 4)[0]
    none = paired_differences(scores, scores, reference, resamples=20)
    assert {none.kendall, none.pearson, none.spearman} == {Interval(0.0, 0.0, 0.0)}
    one = paired_differences(scores, others, reference, resamples=50, absolute_pearson=True).pearson
    other = paired_differences(others, scores, -reference, resamples=50, absolute_pearson=True).pearson
    assert (one.value, one.low) == pytest.approx((-other.value, -other.high))


def test_scores_that_are_all_equal_have_no_difference():
    assert paired_differences([1, 1, 1], [1, 2, 3], [1, 2, 3]) is None
    assert paired_differences([1, 2, 3], [1, 1, 1], [1, 2, 3]) is None
