"""Rank scores against reference accuracies; needs neither torch nor NNI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_nas_consistency.errors import MatchError
from nni_nas_consistency.files.arch_lists import Entry
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.files.score_files import (
    read_table,
    read_table_and_provenance,
)
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.jobs.inputs import costs_of
from nni_nas_consistency.systems import System

if TYPE_CHECKING:
    from nni_nas_consistency.archs.arch import Arch
    from nni_nas_consistency.ranking.report import Report
    from nni_nas_consistency.ranking.statistics import Array


@dataclass(frozen=True)
class RankJob:
    """Rank scores against reference accuracies.

    Args:
        system: The competition or benchmark.
        scores: Score file or submission.
        reference: Reference accuracies, in released form.
        common: Whether archs that only one side has are left out; otherwise they are an error.
        seed: Of the bootstrap.
        resamples: Bootstrap resamples for the intervals.
        title: Heading of the report; by default the names of the files.
        against: Score files of other supernets, that the scores are compared with.
        provenance: What was typed, and the machine and versions that run it.
    """

    system: System
    scores: Path
    reference: Path
    common: bool = False
    against: tuple[Path, ...] = ()
    seed: int = 0
    resamples: int = 1000
    title: str | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)


def rank(job: RankJob, *, progress: ShowProgress = silent) -> Report:
    """Return how well the scores rank the archs, next to parameters and MACs.

    Needs neither torch nor NNI.

    Args:
        job: What to rank.
        progress: Shows the progress, counted in bootstrap resamples.

    Raises:
        InputError: A file cannot be used, or the two sides have different archs.
    """
    scores, settings = read_table_and_provenance(job.scores, job.system.codec)
    reference = read_table(job.reference, job.system.codec)

    from nni_nas_consistency.ranking.matching import match
    from nni_nas_consistency.ranking.report import Report
    from nni_nas_consistency.ranking.statistics import paired_differences, rank_consistency

    names, values, accuracies = match(scores, reference, common=job.common)
    others = {str(path): _scores_of(path, job.system, reference, names) for path in job.against}
    archs = [reference[name].arch for name in names]
    columns: dict[str, Any] = {"scores": values, **cost_baselines(job.system, archs, _shape_of(job.system, settings))}
    consistency: dict[str, Any] = {}
    against = {}
    with progress(job.resamples * (len(columns) + len(others)), "resamples") as advance:
        for column, numbers in columns.items():
            consistency[column] = rank_consistency(
                numbers,
                accuracies,
                seed=job.seed,  # all columns draw the same archs, so that their intervals can be compared
                resamples=job.resamples,
                absolute_pearson=job.system.absolute_pearson,
                progress=advance,
            )
        for name, numbers in others.items():
            against[name] = paired_differences(
                values,
                numbers,
                accuracies,
                seed=job.seed,
                resamples=job.resamples,
                absolute_pearson=job.system.absolute_pearson,
                progress=advance,
            )
    return Report(
        title=job.title or f"{job.scores.name} against {job.reference.name}",
        settings=settings,
        provenance={**job.provenance, "seed": job.seed},
        names=names,
        codes=[arch.code for arch in archs],
        scores=values.tolist(),
        reference=accuracies.tolist(),
        consistency=consistency.pop("scores"),
        baselines=consistency,
        against=against,
    )


def _scores_of(path: Path, system: System, reference: Mapping[str, Entry], names: list[str]) -> Array:
    """Return the scores that another file gives to these archs, in this order."""
    from nni_nas_consistency.ranking.matching import match

    table = read_table(path, system.codec)
    missing = [name for name in names if name not in table]
    if missing:
        raise MatchError(f"{path}: lacks {len(missing)} of the archs that are ranked, such as {missing[0]}")
    return match(table, {name: reference[name] for name in names}, common=True)[1]


def cost_baselines(system: System, archs: list[Arch], shape: tuple[int, int, int]) -> dict[str, list[int]]:
    """Return what costs say of archs: any score has to beat it. Counted by the rule of the reference accuracies."""
    costs = list(map(costs_of(system, shape), archs))
    return {"params": [cost.params for cost in costs], "MACs": [cost.macs for cost in costs]}


def _shape_of(system: System, settings: Mapping[str, Json]) -> tuple[int, int, int]:
    """Return classes, channels and side of the images that archs were scored on, by default those of the system."""
    shape = settings.get("shape")
    if not isinstance(shape, list) or len(shape) != 3:
        return system.data.shape
    sizes = [size if type(size) is int and size > 0 else 1 for size in shape]
    return sizes[0], sizes[1], sizes[2]
