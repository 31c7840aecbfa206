"""Scoring a list of archs: cut into segments, dealt to shards, journalled by segment, merged into one score file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast

from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.codecs import Codec
from nni_nas_consistency.errors import Diverged, FileError, InputError
from nni_nas_consistency.files.arch_lists import write_released
from nni_nas_consistency.files.progress import Progress, ShowProgress, silent
from nni_nas_consistency.files.score_files import (
    ScoreFile,
    beside,
    journal_beside,
    read_scores,
    submission,
    write_scores,
)
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.scoring.journal import (
    Journal,
    SegmentScores,
    check_identity,
    check_segments,
    delete_journal,
    present_identity,
    read_journal,
    remove_journal,
)
from nni_nas_consistency.scoring.plain import score_one_by_one
from nni_nas_consistency.scoring.prefix import score_prefixes, shares_prefixes
from nni_nas_consistency.scoring.savings import saved_share
from nni_nas_consistency.scoring.scoring import METRICS, Metric, Score, Scorer, Scoring
from nni_nas_consistency.scoring.trie import keys_of, sortable
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.supernet.active import active_of
from nni_nas_consistency.supernet.checkpoint import sha256_of, weights_sha256

SEGMENT = 128
"""Most archs per segment: what a killed run may lose, and what shares prefixes. Without a limit, 3 % less time."""

Item = TypeVar("Item")

ScorerName = Literal["prefix", "plain"]

Segments: TypeAlias = "Sequence[tuple[int, Sequence[str]]]"
"""Index of each segment in the whole list, and the names of its archs."""


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a list: every `count`-th segment of archs, from the `index`-th on.

    Args:
        index: From 1 to `count`.
        count: How many parts there are.

    Raises:
        InputError: `index` is out of range.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InputError(f"shard {self.index}/{self.count} does not exist; N shards are numbered 1/N to N/N")

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Return this shard's part of a list."""
        return list(items)[self.index - 1 :: self.count]

    def journal(self, out: Path) -> Path:
        """Return the path of this shard's journal, beside the score file `out`."""
        return journal_beside(out, (self.index, self.count))


WHOLE = Shard(1, 1)


@dataclass(frozen=True)
class Scored:
    """The result of scoring a shard.

    Args:
        scores: Its scores by the metric that was asked for, name → score, in sorted order of the archs.
        files: The score file, the submission unless all scores are equal, and the score file of the other metric; while
            other shards are missing, the journal instead.
        saved_macs: The share of MACs that sharing prefixes saved against the plain scorer, in [0, 1]; None where none
            was computed here, or where links do not know their cost.
    """

    scores: dict[str, float]
    files: list[Path]
    saved_macs: float | None = field(default=None, compare=False)


def segments_of(archs: Mapping[str, Arch], space: ModelSpace | None = None) -> list[list[str]]:
    """Return the names of a list in segments of neighbours in sorted order; the same for every shard of the list.

    Scores of one segment are computed together, so the way a list is cut decides their last bits.

    Args:
        archs: The list, name → arch.
        space: The supernet; archs that share links are neighbours. By default sorted by choices, which is the same
            where these stand in the order of the links.
    """
    shared = space is not None and shares_prefixes(space)

    def order(name: str) -> tuple[Any, ...]:
        choices = sortable(tuple(archs[name].choices.values()))
        return (sortable(keys_of(cast("ChainSpace", space), archs[name])), choices) if shared else choices

    names = sorted(archs, key=order)
    size = min(SEGMENT, math.ceil(len(names) / 8))
    return [names[first : first + size] for first in range(0, len(names), size)]


def score_list(
    supernet: ModelSpace,
    archs: Mapping[str, Arch],
    scoring: Scoring,
    *,
    out: Path,
    provenance: Mapping[str, Json],
    shard: Shard = WHOLE,
    scorer: ScorerName = "prefix",
    overwrite: bool = False,
    progress: ShowProgress = silent,
) -> Scored:
    """Score a list, or a shard of it; the last of several shards to finish merges all into one score file.

    Every finished segment is on disk at once, in a journal beside `out`: a killed run resumes when it is started again
    and ends with the same bytes (on a CPU, with the same number of threads). The journals are deleted once the score
    file is written; a list that is already scored with the same settings is left alone.

    Args:
        supernet: A space after `make_supernet`.
        archs: The whole list, name → arch; at least one.
        scoring: How to score.
        out: The score file; beside it go a submission, unless all scores are equal, and scores of the other metric.
        provenance: Where the scores come from, plain JSON values; a journal with a different provenance is refused.
        shard: Which part to score.
        scorer: `prefix`, or `plain`, which also serves spaces that are no chain.
        overwrite: Whether scores of different settings, and the journal of this shard, are deleted first.
        progress: Shows the progress, counted in archs; before that, of hashing the images.

    Raises:
        FileError: A file cannot be written, is there already with different settings, or a journal is in use.
        InputError: There are more shards than segments.
        Diverged: A score is not finite.
    """
    segments = list(enumerate(segments_of(archs, supernet)))
    if shard.count > len(segments):
        raise InputError(
            f"{len(archs)} archs make {len(segments)} segments, too few for {shard.count} shards; use fewer"
        )
    if not shares_prefixes(supernet):
        scorer = "plain"
    made_from = {**provenance, **fingerprints(supernet, scoring, progress=progress), "archs": _fingerprint_of(archs)}
    made_from |= {"segments": len(segments), "scorer": scorer}
    identity: dict[str, Json] = json.loads(json.dumps(made_from))  # as it will be read back
    codec = active_of(supernet).codec
    mine = shard.of(segments)
    if overwrite:
        for path in _places(out):
            path.unlink(missing_ok=True)
        delete_journal(shard.journal(out))
    finished = _finished(out, identity, codec)
    if finished is not None:
        remove_journal(shard.journal(out), identity)
        scores = {name: finished.scores[name][1] for _, names in mine for name in names}
        return Scored(scores, _files(out, scoring.metric))
    if not overwrite:  # what cannot be merged at the end is refused before anything is scored
        for path in _journals(out, shard.count):
            _finished_segments(path, segments, identity)
    _refuse_other_files(out, shard.count, identity)
    with Journal(shard.journal(out), identity) as journal:
        check_segments(journal.path, journal.segments, _sizes(mine), scoring.metric)
        missing = [(index, names) for index, names in mine if index not in journal.segments]
        with progress(sum(len(names) for _, names in missing), "archs") as advance:
            _score_segments(supernet, archs, missing, scoring, scorer=scorer, journal=journal, progress=advance)
        scores = _by_name(mine, journal.segments, scoring.metric)
    merged = merge_shards(out, shard.count, archs, segments, identity)
    if not merged:  # unless a shard that finished at the same moment has merged all, and deleted the journals
        merged = _finished(out, identity, codec) is not None
        if merged:  # without locks, another one may have scored this shard too
            remove_journal(shard.journal(out), identity)
    saved = (
        saved_share(supernet, [[archs[name] for name in names] for _, names in mine]) if scorer == "prefix" else None
    )
    return Scored(scores, _files(out, scoring.metric) if merged else [shard.journal(out)], saved)


def _score_segments(
    supernet: ModelSpace,
    archs: Mapping[str, Arch],
    segments: Segments,
    scoring: Scoring,
    *,
    scorer: ScorerName,
    journal: Journal,
    progress: Progress,
) -> None:
    """Score segments and add each to the journal as soon as it is finished."""
    score: Scorer = score_prefixes if scorer == "prefix" else score_one_by_one
    todo = [[archs[name] for name in names] for _, names in segments]
    for (index, names), scores in zip(segments, score(supernet, todo, scoring, progress=progress), strict=True):
        check_finite(names, scores)
        journal.add(index, {metric: [score.of(metric) for score in scores] for metric in METRICS})


def merge_shards(
    out: Path, count: int, archs: Mapping[str, Arch], segments: Segments, identity: Mapping[str, Json]
) -> bool:
    """Merge the journals of all shards into the score files, in the order of the list, and delete the journals.

    Whoever finishes last finds all of them complete; of two who finish at once, both write the same bytes.

    Args:
        out: The score file.
        count: How many shards there are.
        archs: The whole list, name → arch.
        segments: Its segments.
        identity: What was scored and how.

    Returns:
        Whether the score file is written; False while shards are missing or unfinished.

    Raises:
        FileError: A shard was scored with different settings, or the score file cannot be written.
    """
    journals = _journals(out, count)
    done: dict[int, SegmentScores] = {}
    for path in journals:
        finished = _finished_segments(path, segments, identity)
        if not finished:
            return False
        done |= finished
    if len(done) < len(segments):
        return False
    _write(out, archs, segments, done, identity)
    for path in journals:
        delete_journal(path)
    return True


def _write(
    out: Path,
    archs: Mapping[str, Arch],
    segments: Segments,
    done: Mapping[int, SegmentScores],
    identity: Mapping[str, Json],
) -> None:
    """Write the score files; that of the wanted metric last, since it is what says that all is done."""
    score_file = _score_file(archs, segments, done, identity)
    for metric in METRICS:
        if metric == identity["metric"]:
            continue
        if all(metric in scores for scores in done.values()):
            write_scores(beside(out, metric), _score_file(archs, segments, done, {**identity, "metric": metric}))
        else:  # a journal of version 0.1 has one metric: what an earlier scoring left there is not of these scores
            beside(out, metric).unlink(missing_ok=True)
    if len({score for _, score in score_file.scores.values()}) > 1:  # equal scores have no form from 0 to 1
        write_released(beside(out, "submission"), submission(score_file))
    write_scores(out, score_file)


def _journals(out: Path, shards: int) -> list[Path]:
    return [Shard(index, shards).journal(out) for index in range(1, shards + 1)]


def _finished_segments(path: Path, segments: Segments, identity: Mapping[str, Json]) -> Mapping[int, SegmentScores]:
    """Return the finished segments of a journal; raise `FileError` if they are not those of this job."""
    written = read_journal(path)
    if written.identity is None or not written.segments:
        return {}
    check_identity(path, written.identity, identity)
    check_segments(path, written.segments, _sizes(segments), cast("Metric", identity["metric"]))
    return written.segments


def _refuse_other_files(out: Path, shards: int, identity: Mapping[str, Json]) -> None:
    """Refuse to replace files that this job did not make; those of a merge that was interrupted it did."""
    for journal in _journals(out, shards):
        written = read_journal(journal)
        if written.segments and written.identity == identity:
            return
    for path in _places(out):
        if path.exists():
            raise FileError(
                f"{path}: is there already, and is not of these settings; choose another --out, or --overwrite it"
            )


def _places(out: Path) -> list[Path]:
    """Return where the files of a score file are, whatever its metric."""
    return [out, beside(out, "submission"), *(beside(out, metric) for metric in METRICS)]


def _score_file(
    archs: Mapping[str, Arch],
    segments: Segments,
    done: Mapping[int, SegmentScores],
    identity: Mapping[str, Json],
) -> ScoreFile:
    scores = _by_name(segments, done, cast("Metric", identity["metric"]))
    return ScoreFile({name: (arch, scores[name]) for name, arch in archs.items()}, identity)


def _sizes(segments: Segments) -> dict[int, int]:
    return {index: len(names) for index, names in segments}


def _by_name(segments: Segments, done: Mapping[int, SegmentScores], metric: Metric) -> dict[str, float]:
    scores: dict[str, float] = {}
    for index, names in segments:
        scores |= dict(zip(names, done[index][metric], strict=True))
    return scores


def _files(out: Path, metric: Metric) -> list[Path]:
    """Return the score file, and those of submission and score file of the other metric that are there."""
    others = [beside(out, "submission"), *(beside(out, other) for other in METRICS if other != metric)]
    return [out, *(path for path in others if path.is_file())]


def _finished(out: Path, identity: Mapping[str, Json], codec: Codec) -> ScoreFile | None:
    """Return the score file if the whole list is already scored with these settings."""
    if not out.is_file():
        return None
    try:
        scores = read_scores(out, codec)
    except FileError:  # some other file
        return None
    return scores if present_identity(scores.provenance) == identity else None


def _fingerprint_of(archs: Mapping[str, Arch]) -> str:
    return hashlib.sha256("\n".join(f"{name} {arch.code}" for name, arch in archs.items()).encode()).hexdigest()


def fingerprints(supernet: ModelSpace, scoring: Scoring, *, progress: ShowProgress = silent) -> dict[str, Json]:
    """Return what identifies a scoring besides its archs: SHA-256 of weights and images, settings, device."""
    source = scoring.calibration
    return {
        "weights": weights_sha256(supernet),
        "scored_images": _sha256_of_batches(scoring.test(), progress),
        "calibration": None if source is None else _sha256_of_batches(source(), progress),
        "metric": scoring.metric,
        "bn": scoring.bn,
        "device": next(cast("nn.Module", supernet).parameters()).device.type,
    }


def _sha256_of_batches(batches: Iterable[tuple[Tensor, Tensor]], progress: ShowProgress) -> str:
    """Return the SHA-256 of images and labels; the progress is shown where it is known how many batches there are."""
    total = len(batches) if isinstance(batches, Sized) else 0
    with (progress if total else silent)(total, "batches hashed") as advance:
        return sha256_of(_tensors(batches, advance))


def _tensors(batches: Iterable[tuple[Tensor, Tensor]], advance: Progress) -> Iterator[Tensor]:
    for batch in batches:
        yield from batch
        advance(1)


def check_finite(names: Sequence[str], scores: Sequence[Score]) -> None:
    """See that all scores are finite.

    Raises:
        Diverged: One is not: the supernet has diverged.
    """
    for name, score in zip(names, scores, strict=True):
        if not math.isfinite(score.loss):  # the accuracy always is
            raise Diverged(
                f"the loss of {name} is {-score.loss}; the supernet has diverged: take an earlier checkpoint"
            )
