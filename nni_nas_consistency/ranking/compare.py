"""Compare scores with reference accuracies: a report on how well they rank, next to parameters and MACs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from numpy.typing import ArrayLike

from nni_nas_consistency.files.arch_lists import Entry
from nni_nas_consistency.ranking.matching import match
from nni_nas_consistency.ranking.report import Report
from nni_nas_consistency.ranking.statistics import rank_consistency
from nni_nas_consistency.spaces.chain import ChainSpace


def compare(
    scores: Mapping[str, Entry],
    reference: Mapping[str, Entry],
    space: ChainSpace,
    *,
    title: str,
    settings: Mapping[str, object] | None = None,
    provenance: Mapping[str, object] | None = None,
    common: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    absolute_pearson: bool = False,
) -> Report:
    """Return the report of one ranking.

    Args:
        scores: Name → arch and score.
        reference: Name → arch and reference accuracy.
        space: Counts the parameters and MACs of the baselines.
        title: Heading of the report.
        settings: What the scores depend on, for the report.
        provenance: Where everything comes from, for the report.
        common: Whether archs that only one side has are left out; otherwise they are an error.
        seed: Of the bootstrap.
        resamples: Of the bootstrap.
        absolute_pearson: Report |r| instead of r.

    Raises:
        MatchError: The two sides have different archs.
    """
    names, values, accuracies = match(scores, reference, common=common)
    costs = [space.complexity(reference[name].arch) for name in names]
    rivals: dict[str, ArrayLike] = {
        "params": [cost.params for cost in costs],
        "MACs": [cost.macs for cost in costs],
    }
    # All columns draw the same archs, so their intervals can be compared.
    measure = partial(
        rank_consistency, reference=accuracies, seed=seed, resamples=resamples, absolute_pearson=absolute_pearson
    )
    return Report(
        title=title,
        settings=settings or {},
        provenance=provenance or {},
        names=names,
        codes=[reference[name].arch.code for name in names],
        scores=values.tolist(),
        reference=accuracies.tolist(),
        consistency=measure(values),
        baselines={name: measure(rival) for name, rival in rivals.items()},
    )
