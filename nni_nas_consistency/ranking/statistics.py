"""How well two lists of numbers agree on the order of the archs: rank consistency.

Kendall's tau-b (Kendall 1945), Pearson's r (Pearson 1895), Spearman's rho (Spearman 1904) and the overlap of
the best k; each correlation with a paired percentile bootstrap interval over archs (Efron and Tibshirani 1993,
section 13.3). Pure functions over arrays: files, networks and plots are elsewhere. Higher is better everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from nni_nas_consistency.errors import MatchError

Array = NDArray[np.float64]
Scored = Mapping[str, tuple[str, float]]


@dataclass(frozen=True)
class Interval:
    """A number measured on all archs, and the bootstrap interval around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Consistency:
    """How well scores rank archs.

    Args:
        n: Number of archs.
        kendall: Kendall's tau-b, in [-1, 1].
        pearson: Pearson's r, in [-1, 1].
        spearman: Spearman's rho, in [-1, 1].
        top: For each k, ascending, the share of the k best by reference that are among the k best by score.
        level: Share of the bootstrap distribution that the intervals hold, in (0, 1).
    """

    n: int
    kendall: Interval
    pearson: Interval
    spearman: Interval
    top: dict[int, float]
    level: float


def kendall_tau(x: ArrayLike, y: ArrayLike) -> float:
    """Return Kendall's tau-b: concordant minus discordant pairs, corrected for ties.

    Args:
        x: Numbers [N], N at least 2.
        y: Numbers [N], paired with `x`.

    Returns:
        tau-b in [-1, 1].

    Raises:
        ValueError: Fewer than 2 pairs, other lengths or shapes, a number that is not finite, or a constant list.

    Source: Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945); computed by scipy in N log N.
    """
    return _kendall(*_checked(x, y))


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Return Pearson's product-moment correlation in [-1, 1]; arguments and errors are those of `kendall_tau`.

    Source: Pearson, "Note on regression and inheritance in the case of two parents" (1895).
    """
    return _pearson(*_checked(x, y))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's rank correlation in [-1, 1], ties at their mean rank; see `kendall_tau` for the rest.

    Source: Spearman, "The proof and measurement of association between two things" (1904).
    """
    return _spearman(*_checked(x, y))


def ranks(values: ArrayLike) -> Array:
    """Return the rank of each value, 1 for the highest; ties share the mean of their ranks.

    Args:
        values: Numbers [N], finite.

    Returns:
        Ranks [N] from 1 to N, possibly halves.
    """
    return np.asarray(stats.rankdata(-np.asarray(values, np.float64)), np.float64)


def top_overlap(scores: ArrayLike, reference: ArrayLike, k: int) -> float:
    """Return the share of the `k` best by reference that are among the `k` best by score, in [0, 1].

    Where values tie across the border of the best k, the one earlier in the list is in.

    Args:
        scores: Numbers [N], higher is better.
        reference: Numbers [N], paired with `scores`.
        k: How many count as best, 1 to N.

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
) -> Consistency:
    """Return how well `scores` rank archs whose accuracy is `reference`.

    The intervals are percentiles over archs drawn with replacement, pairs kept together and the same draws for
    all three correlations. A draw in which one list is constant has no correlation and is drawn again. One
    resample takes 1 ms at N = 300 and 25 ms at N = 50,000 (one core), so 1000 of them 1 s and 25 s.

    Args:
        scores: Numbers [N], higher is better.
        reference: Numbers [N], paired with `scores`.
        seed: Seed of the draws; two calls with one seed agree exactly.
        resamples: Number of draws, at least 1.
        level: Share of the draws inside an interval, in (0, 1).
        ks: The k of the top-k overlaps, each in 1..N; by default 10 (where N allows it) and a tenth of N, rounded up.

    Raises:
        ValueError: An argument outside its range, or one of the conditions of `kendall_tau`.
    """
    if resamples < 1:
        raise ValueError(f"{resamples} resamples give no interval; ask for at least 1")
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval is {level}; it lies between 0 and 1, such as 0.95")
    x, y = _checked(scores, reference, ("scores", "reference"))
    chosen = _default_ks(len(x)) if ks is None else sorted(set(ks))
    top = {k: _top_overlap(x, y, k) for k in chosen}
    draws = np.array([_correlations(*pair) for pair in _resamples(x, y, resamples, seed)])
    tail = (1 - level) / 2
    lows, highs = np.quantile(draws, (tail, 1 - tail), axis=0).tolist()
    intervals = [Interval(*numbers) for numbers in zip(_correlations(x, y), lows, highs, strict=True)]
    return Consistency(len(x), intervals[0], intervals[1], intervals[2], top, level)


def split_half(values: ArrayLike, *, seed: int = 0, splits: int = 100) -> float:
    """Return how well two halves of repeated measurements rank alike: the reliability of their mean's ranking.

    The mean Kendall tau-b, over random splits, between the means of one half of the repeats and of the other. An odd
    repeat is left out. The mean over all repeats, twice as many, is more reliable than that.

    Args:
        values: [N archs, R repeats], R at least 2.
        seed: Of the splits.
        splits: How many random splits.

    Raises:
        ValueError: There are fewer than 2 repeats, or one of the conditions of `kendall_tau`.
    """
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(f"values of shape {table.shape} have no two halves; give [archs, at least 2 repeats]")
    half = table.shape[1] // 2
    orders = [np.random.default_rng((seed, split)).permutation(table.shape[1]) for split in range(splits)]
    taus = [kendall_tau(table[:, order[:half]].mean(1), table[:, order[half : 2 * half]].mean(1)) for order in orders]
    return float(np.mean(taus))


def match(scores: Scored, reference: Scored, *, common: bool = False) -> tuple[list[str], Array, Array]:
    """Return the names that scores and reference share, in the order of the reference, and both lists of values.

    Args:
        scores: For each arch name its code and its score.
        reference: For each arch name its code and its reference accuracy.
        common: Use the shared archs where one side has more; otherwise both sides must have the same archs.

    Returns:
        Names, scores [N] and reference [N], N at least 2.

    Raises:
        MatchError: A name stands for two codes; the names differ and `common` is false; fewer than 2 are shared.
    """
    names = [name for name in reference if name in scores]
    differing = [name for name in names if scores[name][0] != reference[name][0]]
    if differing:
        name, others = differing[0], f" ({len(differing)} archs differ like this)" if len(differing) > 1 else ""
        raise MatchError(
            f"{name} is {scores[name][0]!r} in the scores but {reference[name][0]!r} in the reference{others}; "
            "rank scores of the same archs"
        )
    if not common:
        _refuse_differences(scores, reference, len(names))
    if len(names) < 2:
        raise MatchError(f"scores and reference share {_archs(len(names))}; a ranking needs at least 2")
    x, y = (np.array([side[name][1] for name in names], np.float64) for side in (scores, reference))
    return names, x, y


def _refuse_differences(scores: Scored, reference: Scored, shared: int) -> None:
    missing = [name for name in reference if name not in scores]
    extra = [name for name in scores if name not in reference]
    parts = []
    if missing:
        parts.append(f"the scores lack {_archs(len(missing))} of the reference: {_some(missing)}")
    if extra:
        parts.append(f"the reference lacks {_archs(len(extra))} of the scores: {_some(extra)}")
    if parts:
        raise MatchError(f"{'; '.join(parts)}; --common ranks the shared ones ({shared})")


def _archs(count: int) -> str:
    return f"{count} arch" if count == 1 else f"{count} archs"


def _some(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _checked(x: ArrayLike, y: ArrayLike, called: tuple[str, str] = ("x", "y")) -> tuple[Array, Array]:
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        shapes = f"{called[0]} has shape {first.shape}, {called[1]} {second.shape}"
        raise ValueError(f"{shapes}; both must be [N], paired")
    if len(first) < 2:
        raise ValueError(f"a correlation needs at least 2 pairs, not {len(first)}")
    for name, values in zip(called, (first, second), strict=True):
        finite = np.isfinite(values)
        if not finite.all():
            at = int(finite.argmin())
            raise ValueError(f"{name}[{at}] is {values[at]}; every number must be finite")
        if _constant(values):
            raise ValueError(f"{name} is {values[0]} throughout; a constant list has no correlation")
    return first, second


def _constant(values: Array) -> bool:
    return bool((values == values[0]).all())


def _default_ks(n: int) -> list[int]:
    return sorted({k for k in (10, ceil(n / 10)) if k <= n})


def _top_overlap(x: Array, y: Array, k: int) -> float:
    if not 1 <= k <= len(x):
        raise ValueError(f"the best {k} of {len(x)} archs cannot be compared; k is 1 to {len(x)}")
    by_x, by_y = (np.argsort(-values, kind="stable")[:k] for values in (x, y))
    return len(np.intersect1d(by_x, by_y)) / k


def _resamples(x: Array, y: Array, count: int, seed: int) -> Iterator[tuple[Array, Array]]:
    generator = np.random.default_rng(seed)
    while count:
        chosen = generator.integers(len(x), size=len(x))
        if not _constant(x[chosen]) and not _constant(y[chosen]):
            yield x[chosen], y[chosen]
            count -= 1


def _correlations(x: Array, y: Array) -> tuple[float, float, float]:
    return _kendall(x, y), _pearson(x, y), _spearman(x, y)


def _kendall(x: Array, y: Array) -> float:
    return float(stats.kendalltau(x, y).statistic)


def _pearson(x: Array, y: Array) -> float:
    return float(stats.pearsonr(_unit(x), _unit(y)).statistic)


def _spearman(x: Array, y: Array) -> float:
    return float(stats.spearmanr(x, y).statistic)


def _unit(values: Array) -> Array:
    """Shift and scale onto [0, 1], which r does not see: huge numbers and tiny spreads then lose no digits."""
    scaled = np.ldexp(values, -int(np.frexp(np.abs(values).max())[1]))
    low, high = scaled.min(), scaled.max()
    return np.asarray((scaled - low) / (high - low), np.float64)
