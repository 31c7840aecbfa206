"""Make one score file of several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nni_nas_consistency.archs.codecs import Codec, WidthCodec
from nni_nas_consistency.errors import FileError, InputError, MatchError
from nni_nas_consistency.files.arch_lists import write_released
from nni_nas_consistency.files.doors import check_output
from nni_nas_consistency.files.score_files import (
    ScoreFile,
    beside,
    read_scores,
    submission,
    write_scores,
)
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.systems import System

if TYPE_CHECKING:
    from nni_nas_consistency.archs.arch import Arch


@dataclass(frozen=True)
class EnsembleJob:
    """Make one score file of several: the mean of standardised scores.

    Args:
        system: The competition or benchmark.
        scores: Score files of one list, of one supernet each.
        out: The score file.
        capacity_prior: Weight of the standardised mean log width that is added; 0 for none.
        overwrite: Whether other scores at `out` are replaced.
    """

    system: System
    scores: tuple[Path, ...]
    out: Path
    capacity_prior: float = 0.0
    overwrite: bool = False


def ensemble(job: EnsembleJob) -> list[Path]:
    """Write the mean of several score files, and a submission beside it; return the paths of both.

    Needs neither torch nor NNI.

    Raises:
        InputError: A file cannot be used, they are of different archs, all scores of one are equal, or the archs have
            no widths for a prior.
    """
    from nni_nas_consistency.scoring.ensemble import ensemble_scores, with_capacity_prior

    files = [job.out, beside(job.out, "submission")]
    for path in files:
        check_output(path, job.scores)
    codec = job.system.codec
    members = {str(path): read_scores(path, codec) for path in job.scores}
    archs = _archs_of_all(members)
    scores = ensemble_scores({path: _numbers_of(member) for path, member in members.items()})
    made_from: dict[str, Json] = {"space": job.system.space}
    made_from["ensemble"] = {path: dict(member.provenance) for path, member in members.items()}
    if job.capacity_prior:
        if not isinstance(codec, WidthCodec):
            raise InputError(
                f"--capacity-prior {job.capacity_prior}: archs of {job.system.space} are no lists of widths"
            )
        scores = with_capacity_prior(scores, archs, job.capacity_prior, codec.unused)
        made_from["capacity_prior"] = job.capacity_prior
    mean = ScoreFile({name: (arch, scores[name]) for name, arch in archs.items()}, made_from)
    if job.out.exists() and not job.overwrite:
        if _scores_at(job.out, codec) != mean:
            raise FileError(f"{job.out}: is there already; choose another --out, or --overwrite it")
        return files
    write_released(files[1], submission(mean))
    write_scores(job.out, mean)
    return files


def _archs_of_all(members: Mapping[str, ScoreFile]) -> dict[str, Arch]:
    """Return the archs of several score files by name, in the order of the first; refuse a name of two archs."""
    first, *others = members
    archs = {name: arch for name, (arch, _) in members[first].scores.items()}
    for path in others:
        for name, (arch, _) in members[path].scores.items():
            if name in archs and arch.choices != archs[name].choices:
                raise MatchError(
                    f"{name} is {archs[name].code!r} in {first} but {arch.code!r} in {path}; "
                    "score one list with every supernet"
                )
    return archs


def _numbers_of(file: ScoreFile) -> dict[str, float]:
    return {name: score for name, (_, score) in file.scores.items()}


def _scores_at(path: Path, codec: Codec) -> ScoreFile | None:
    """Return the scores that a file holds; None if it holds something else."""
    try:
        return read_scores(path, codec)
    except FileError:
        return None
