"""Compare scores with reference accuracies: a report on how well they rank, next to parameters and MACs."""

from __future__ import annotations

from collections.abc import Mapping

from nni_nas_consistency.files.lists import Entry
from nni_nas_consistency.ranking.report import Report
from nni_nas_consistency.ranking.statistics import match, rank_consistency
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

    Raises:
        MatchError: The two sides have different archs.
    """
    sides = [
        {name: (entry.arch.code, float(entry.acc)) for name, entry in side.items()} for side in (scores, reference)
    ]
    names, values, accuracies = match(sides[0], sides[1], common=common)
    costs = [space.complexity(reference[name].arch) for name in names]
    rivals = {"params": [cost.params for cost in costs], "MACs": [cost.macs for cost in costs]}
    return Report(
        title=title,
        settings=settings or {},
        provenance=provenance or {},
        names=names,
        codes=[reference[name].arch.code for name in names],
        scores=values.tolist(),
        reference=accuracies.tolist(),
        consistency=rank_consistency(values, accuracies, seed=seed, resamples=resamples),
        baselines={
            name: rank_consistency(rival, accuracies, seed=seed, resamples=resamples) for name, rival in rivals.items()
        },
    )
