"""Rank consistency: how well scores and reference accuracies agree on the order of the archs.

Kendall's tau-b (Kendall 1945), Pearson's r (Pearson 1895), Spearman's rho (Spearman 1904) and the top-k overlap;
each correlation with a paired percentile bootstrap interval over archs (Efron and Tibshirani 1993, section 13.3).
Pure functions over arrays: archs, files and plots are elsewhere. Higher is better everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A correlation over all archs with its bootstrap interval.

    Args:
        value: The correlation over all archs.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Consistency:
    """How well scores rank archs.

    Args:
        n: Number of archs.
        kendall: Kendall's tau-b, in [-1, 1]; None, as the next two, where there is none.
        pearson: Pearson's r, in [-1, 1]; or |r|, in [0, 1].
        spearman: Spearman's rho, in [-1, 1].
        top: For each k, ascending, the share of the k best by reference that are among the k best by score; or None.
        level: Confidence level of the intervals: the share of the bootstrap distribution inside them, in (0, 1).
        absolute_pearson: Whether `pearson` is |r|.
        undefined: Why there is no correlation: one arch, or equal values throughout; None where there is one.
    """

    n: int
    kendall: Interval | None
    pearson: Interval | None
    spearman: Interval | None
    top: Mapping[int, float | None]
    level: float
    absolute_pearson: bool = False
    undefined: str | None = None


@dataclass(frozen=True)
class Differences:
    """By how much more one list of scores agrees with reference accuracies than another, over the same archs.

    Args:
        kendall: Of Kendall's tau-b, in [-2, 2].
        pearson: Of Pearson's r, in [-2, 2]; or of |r|, in [-1, 1].
        spearman: Of Spearman's rho, in [-2, 2].
    """

    kendall: Interval
    pearson: Interval
    spearman: Interval


def kendall_tau(x: ArrayLike, y: ArrayLike) -> float:
    """Return Kendall's tau-b: concordant minus discordant pairs, corrected for ties.

    Args:
        x: Numbers [N], N at least 2.
        y: Numbers [N], paired with `x`.

    Returns:
        tau-b in [-1, 1].

    Raises:
        ValueError: Fewer than 2 pairs, different lengths, a number that is not finite, or a constant list.

    Source: Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945); computed by scipy in O(N log N).
    """
    return _kendall(*_checked(x, y))


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Return Pearson's product-moment correlation r in [-1, 1]; arguments and errors as for `kendall_tau`.

    Source: Pearson, "Note on regression and inheritance in the case of two parents" (1895).
    """
    return _pearson(*_checked(x, y))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's rank correlation in [-1, 1], tied values at their mean rank; the rest as for `kendall_tau`.

    Source: Spearman, "The proof and measurement of association between two things" (1904).
    """
    return _spearman(*_checked(x, y))


def ranks(values: ArrayLike) -> Array:
    """Return the rank of each value, 1 for the highest; tied values share the mean of their ranks.

    Args:
        values: Numbers [N], finite.

    Returns:
        Ranks [N] from 1 to N, multiples of a half.
    """
    return np.asarray(stats.rankdata(-np.asarray(values, np.float64)), np.float64)


def top_overlap(scores: ArrayLike, reference: ArrayLike, k: int) -> float:
    """Return the share of the `k` best by reference that are among the `k` best by score, in [0, 1].

    Of values that tie at the k-th place, those earlier in the list are among the best k.

    Args:
        scores: Numbers [N], higher is better.
        reference: Numbers [N], paired with `scores`.
        k: How many archs count as best, 1 to N.

    Raises:
        ValueError: `k` is not in 1..N, or one of the conditions of `kendall_tau`.
    """
    return _top_overlap(*_checked(scores, reference, ("scores", "reference")), k)


def rank_consistency(
    scores: ArrayLike,
    reference: ArrayLike,
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
    ks: Sequence[int] | None = None,
    absolute_pearson: bool = False,
    progress: Callable[[float], None] = lambda resamples: None,
) -> Consistency:
    """Return how well `scores` rank archs whose accuracy is `reference`.

    Each interval is a paired percentile bootstrap: archs are drawn with replacement, score and accuracy together, the
    same draws for all three correlations. A draw in which one list is constant has no correlation and is replaced by
    another. One resample takes 1 ms at N = 300 and 25 ms at N = 50,000 (one core), so 1000 of them 1 s and 25 s.
    One arch, or a list that is constant, has no correlation: then the result says why, and holds None.

    Args:
        scores: Numbers [N], higher is better; N at least 1.
        reference: Numbers [N], paired with `scores`.
        seed: Seed of the draws; two calls with one seed agree exactly.
        resamples: Number of draws, at least 1.
        level: Confidence level of the intervals, in (0, 1).
        ks: The k of the top-k overlaps, each in 1..N; by default 10 (if N allows it) and a tenth of N, rounded up.
        absolute_pearson: Report |r|, in the interval too, as board A of CVPR 2022 track 1 does.
        progress: Progress callback; called with the number of resamples done since the last call.

    Raises:
        ValueError: An argument outside its range, no archs, different lengths, or a number that is not finite.
    """
    if resamples < 1:
        raise ValueError(f"{resamples} resamples give no interval; ask for at least 1")
    if not 0 < level < 1:
        raise ValueError(f"the confidence level is {level}; it lies between 0 and 1, such as 0.95")
    x, y = _pairs(scores, reference, ("scores", "reference"))
    chosen_ks = _default_ks(len(x)) if ks is None else sorted(set(ks))
    undefined = _why_undefined(x, y)
    if undefined is not None:
        progress(resamples)
        nothing = dict.fromkeys(chosen_ks)
        return Consistency(len(x), None, None, None, nothing, level, absolute_pearson, undefined)
    top = {k: _top_overlap(x, y, k) for k in chosen_ks}
    values = _correlations(x, y, absolute_pearson)
    draws = []
    for drawn_x, drawn_y in _resamples((x, y), resamples, seed):
        draws.append(_correlations(drawn_x, drawn_y, absolute_pearson))
        progress(1)
    tail = (1 - level) / 2
    lows, highs = np.quantile(draws, (tail, 1 - tail), axis=0).tolist()
    intervals = [Interval(*numbers) for numbers in zip(values, lows, highs, strict=True)]
    return Consistency(len(x), intervals[0], intervals[1], intervals[2], top, level, absolute_pearson)


def paired_differences(
    scores: ArrayLike,
    others: ArrayLike,
    reference: ArrayLike,
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
    absolute_pearson: bool = False,
    progress: Callable[[float], None] = lambda resamples: None,
) -> Differences | None:
    """Return how much better `scores` rank archs than `others` do, with paired bootstrap intervals.

    Both lists are correlated with the reference over the same draws of archs, so that what makes archs of a draw hard
    to rank for both cancels: an interval that leaves out 0 tells two supernets apart where their own intervals overlap.

    Args:
        scores: Numbers [N], higher is better.
        others: Numbers [N], paired with `scores`: those of the other supernet.
        reference: Numbers [N], paired with both.
        seed: Seed of the draws.
        resamples: Number of draws, at least 1.
        level: Confidence level of the intervals, in (0, 1).
        absolute_pearson: Compare |r|.
        progress: Progress callback; called with the number of resamples done since the last call.

    Returns:
        The differences, `scores` minus `others`; None where there is no correlation.

    Raises:
        ValueError: As for `rank_consistency`.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 8.3.
    """
    x, y = _pairs(scores, reference, ("scores", "reference"))
    other = _pairs(others, reference, ("others", "reference"))[0]
    if _why_undefined(x, y) or _why_undefined(other, y):
        progress(resamples)
        return None
    values = _difference(x, other, y, absolute_pearson)
    draws = []
    for drawn_x, drawn_other, drawn_y in _resamples((x, other, y), resamples, seed):
        draws.append(_difference(drawn_x, drawn_other, drawn_y, absolute_pearson))
        progress(1)
    tail = (1 - level) / 2
    lows, highs = np.quantile(draws, (tail, 1 - tail), axis=0).tolist()
    intervals = [Interval(*numbers) for numbers in zip(values, lows, highs, strict=True)]
    return Differences(intervals[0], intervals[1], intervals[2])


def split_half(values: ArrayLike, *, seed: int = 0, splits: int = 100) -> float:
    """Return the split-half reliability of repeated measurements: how well two halves of the repeats rank the archs.

    The mean Kendall tau-b, over random splits, between the mean of one half of the repeats and the mean of the other.
    With an odd number of repeats, each split leaves one out. The mean over all repeats ranks more reliably than this.

    Args:
        values: [N archs, R repeats], R at least 2, such as accuracies after training with R seeds.
        seed: Seed of the splits.
        splits: Number of random splits.

    Raises:
        ValueError: There are fewer than 2 repeats, or one of the conditions of `kendall_tau`.
    """
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(f"values have shape {table.shape}; split halves need [archs, repeats], at least 2 repeats")
    repeats = table.shape[1]
    half = repeats // 2
    taus = []
    for split in range(splits):
        order = np.random.default_rng((seed, split)).permutation(repeats)
        first, second = order[:half], order[half : 2 * half]
        taus.append(kendall_tau(table[:, first].mean(1), table[:, second].mean(1)))
    return float(np.mean(taus))


def _checked(x: ArrayLike, y: ArrayLike, called: tuple[str, str] = ("x", "y")) -> tuple[Array, Array]:
    """Return two lists that have a correlation."""
    first, second = _pairs(x, y, called)
    if len(first) < 2:
        raise ValueError(f"a correlation needs at least 2 pairs, not {len(first)}")
    for name, values in zip(called, (first, second), strict=True):
        if _is_constant(values):
            raise ValueError(f"{name} is {values[0]} throughout; a constant list has no correlation")
    return first, second


def _pairs(x: ArrayLike, y: ArrayLike, called: tuple[str, str]) -> tuple[Array, Array]:
    """Return two lists of finite numbers, of the same length."""
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        shapes = f"{called[0]} has shape {first.shape}, {called[1]} {second.shape}"
        raise ValueError(f"{shapes}; both must be [N] with the same N")
    if len(first) < 1:
        raise ValueError("a correlation needs at least 2 pairs, not 0")
    for name, values in zip(called, (first, second), strict=True):
        finite = np.isfinite(values)
        if not finite.all():
            at = int(finite.argmin())
            raise ValueError(f"{name}[{at}] is {values[at]}; every number must be finite")
    return first, second


def _why_undefined(scores: Array, reference: Array) -> str | None:
    if len(scores) == 1:
        return "there is one arch"
    if _is_constant(scores):
        return "all scores are equal"
    if _is_constant(reference):
        return "all reference accuracies are equal"
    return None


def _is_constant(values: Array) -> bool:
    return bool(values.min() == values.max())


def _default_ks(n: int) -> list[int]:
    tenth = ceil(n / 10)
    return sorted({10, tenth}) if n >= 10 else [tenth]


def _top_overlap(x: Array, y: Array, k: int) -> float:
    if not 1 <= k <= len(x):
        raise ValueError(f"the best {k} of {len(x)} archs cannot be compared; k is 1 to {len(x)}")
    # A stable sort keeps tied archs in the order of the list.
    best_by_x = np.argsort(-x, kind="stable")[:k]
    best_by_y = np.argsort(-y, kind="stable")[:k]
    return len(np.intersect1d(best_by_x, best_by_y)) / k


def _resamples(columns: Sequence[Array], count: int, seed: int) -> Iterator[list[Array]]:
    """Yield `count` draws with replacement, the same of every column, in which no column is constant."""
    generator = np.random.default_rng(seed)
    yielded = 0
    while yielded < count:
        chosen = generator.integers(len(columns[0]), size=len(columns[0]))
        drawn = [column[chosen] for column in columns]
        if any(_is_constant(column) for column in drawn):
            continue
        yield drawn
        yielded += 1


def _correlations(x: Array, y: Array, absolute_pearson: bool) -> tuple[float, float, float]:
    r = _pearson(x, y)
    return _kendall(x, y), abs(r) if absolute_pearson else r, _spearman(x, y)


def _difference(x: Array, other: Array, y: Array, absolute_pearson: bool) -> list[float]:
    one, two = _correlations(x, y, absolute_pearson), _correlations(other, y, absolute_pearson)
    return [better - worse for better, worse in zip(one, two, strict=True)]


def _kendall(x: Array, y: Array) -> float:
    return float(stats.kendalltau(x, y).statistic)


def _pearson(x: Array, y: Array) -> float:
    return float(stats.pearsonr(_unit(x), _unit(y)).statistic)


def _spearman(x: Array, y: Array) -> float:
    return float(stats.spearmanr(x, y).statistic)


def _unit(values: Array) -> Array:
    """Shift and scale onto [0, 1], which leaves r as it is, so that huge numbers and tiny spreads lose no digits."""
    _, exponent = np.frexp(np.abs(values).max())
    # Dividing by a power of two is exact, and afterwards high - low cannot overflow.
    scaled = np.ldexp(values, -int(exponent))
    low, high = scaled.min(), scaled.max()
    return np.asarray((scaled - low) / (high - low), np.float64)
