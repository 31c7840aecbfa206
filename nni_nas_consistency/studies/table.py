"""The table of a study: means over seeds, their spread, and differences from the baseline paired over seeds.

Intervals are Student's t of the mean (Student 1908), of the differences where runs with the same seed are compared:
they hold for other seeds with the same archs and reference accuracies. Where the interval of a difference holds 0, the
rows are called equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from nni_nas_consistency.studies.results import MEASURES, Result
from nni_nas_consistency.studies.study import Study

LEVEL = 0.95

Verdict = Literal["equal", "higher", "lower", "unknown"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Args:
        n: How many seeds.
        mean: Their mean.
        spread: Their standard deviation, with n − 1; None of one seed.
        low: Lower end of the interval of the mean; None of one seed.
        high: Upper end; None of one seed.
    """

    n: int
    mean: float
    spread: float | None
    low: float | None
    high: float | None

    @property
    def verdict(self) -> Verdict:
        """What is shown of a difference with this mean: `unknown` of one seed."""
        if self.low is None or self.high is None:
            return "unknown"
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "equal"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        setting: Its name.
        results: Its finished runs, by ascending seed.
        means: For each measure, its mean over the seeds that have one; None where none has.
        differences: For each measure, the mean of the differences from the baseline with the same seed; None for the
            baseline itself, and where no seed has both.
    """

    setting: str
    results: Sequence[Result]
    means: Mapping[str, Estimate | None]
    differences: Mapping[str, Estimate | None]

    @property
    def failed(self) -> list[Result]:
        """The runs that failed."""
        return [result for result in self.results if result.failed is not None]

    @property
    def seconds(self) -> float | None:
        """What a run took on average; None where no run has finished."""
        times = [sum(result.seconds.values()) for result in self.results if result.failed is None]
        return float(np.mean(times)) if times else None


@dataclass(frozen=True)
class Reference:
    """The reference accuracies that all rows are ranked against.

    Args:
        archs: How many archs are ranked.
        seeds: How many seeds their accuracies are means of; None: unknown.
        split_half: Kendall's tau between the means of two halves of the seeds; None: unknown.
        baselines: For each score that needs no training, such as `params`, its value of each measure.
    """

    archs: int
    seeds: int | None
    split_half: float | None
    baselines: Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Table:
    """What a study found.

    Args:
        study: The study.
        reference: What the rows are ranked against.
        rows: One for each setting, in the order of the study.
        wanted: How many seeds each row is to have.
        settings: All that decides the results, and what made them; values may be nested.
    """

    study: Study
    reference: Reference
    rows: Sequence[Row]
    wanted: int
    settings: Mapping[str, object]


def table_of(
    study: Study,
    results: Mapping[str, Sequence[Result]],
    reference: Reference,
    *,
    wanted: int,
    settings: Mapping[str, object],
) -> Table:
    """Return the table of the runs that are finished.

    Args:
        study: The study.
        results: The finished runs of each setting, by ascending seed.
        reference: What the rows are ranked against.
        wanted: How many seeds each row is to have.
        settings: All that decides the results, and what made them.
    """
    baseline = results[study.baseline]
    rows = []
    for name in study.settings:
        against = None if name == study.baseline else baseline
        means = {measure: estimate(list(_values(results[name], measure).values())) for measure in MEASURES}
        differences = {measure: _difference(results[name], against, measure) for measure in MEASURES}
        rows.append(Row(name, results[name], means, differences))
    return Table(study, reference, rows, wanted, settings)


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate | None:
    """Return the mean of values with Student's t interval; None of no values.

    Args:
        values: One for each seed.
        level: Confidence level, in (0, 1).
    """
    if not values:
        return None
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Estimate(n, mean, None, None, None)
    spread = float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * spread / math.sqrt(n)
    return Estimate(n, mean, spread, mean - half, mean + half)


def _values(results: Sequence[Result], measure: str) -> dict[int, float]:
    """Return the values of a measure by seed."""
    values = ((result.seed, result.values[measure]) for result in results)
    return {seed: value for seed, value in values if value is not None}


def _difference(results: Sequence[Result], baseline: Sequence[Result] | None, measure: str) -> Estimate | None:
    if baseline is None:
        return None
    own, others = _values(results, measure), _values(baseline, measure)
    return estimate([value - others[seed] for seed, value in own.items() if seed in others])
