"""Scoring a list: cut into segments, dealt to shards, journalled segment by segment, merged into one score file."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast

from nni.nas.nn.pytorch import ModelSpace
from torch import nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.codecs import Codec
from nni_nas_consistency.errors import FileError, InputError
from nni_nas_consistency.files.arch_lists import write_released
from nni_nas_consistency.files.score_files import ScoreFile, read_scores, submission, write_scores
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.scoring.journal import Journal, SegmentScores, check_identity, read_journal
from nni_nas_consistency.scoring.plain import score_one_by_one
from nni_nas_consistency.scoring.prefix import score_prefixes, shares_prefixes
from nni_nas_consistency.scoring.scoring import METRICS, Metric, Progress, Score, Scorer, Scoring
from nni_nas_consistency.supernet.active import active_of
from nni_nas_consistency.supernet.checkpoint import sha256_of, weights_sha256

SEGMENT = 128
"""Most archs of a segment: what a kill may cost, and what shares prefixes. Without a limit, 3 % less time."""

Item = TypeVar("Item")

ScorerName = Literal["prefix", "plain"]

ShowProgress = Callable[[int, str], AbstractContextManager[Progress]]
"""Given a number of pieces of work and their name, returns a progress callback that shows how many are done."""


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
            raise InputError(f"shard {self.index}/{self.count} does not exist; allowed are 1/{self.count} and up")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard of a text like `2/8`.

        Raises:
            InputError: The text is none, or out of range.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if match is None:
            raise InputError(f"shard {text!r} is not of the form I/N, such as 2/8")
        return cls(int(match[1]), int(match[2]))

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Return this shard's part of a list."""
        return list(items)[self.index - 1 :: self.count]

    def journal(self, out: Path) -> Path:
        """Return where the journal of this shard of the score file `out` is."""
        part = "" if self.count == 1 else f".shard{self.index}of{self.count}"
        return out.with_name(f"{out.stem}{part}.journal")


WHOLE = Shard(1, 1)


@dataclass(frozen=True)
class Scored:
    """What scoring a shard has led to.

    Args:
        scores: Its scores by name, in sorted order of the archs, by the metric that was asked for.
        files: Score file, submission and the score file of the other metric; the journal instead, while other shards
            are missing.
    """

    scores: dict[str, float]
    files: list[Path]


def segments_of(archs: Mapping[str, Arch]) -> list[list[str]]:
    """Return the names of a list in segments of neighbours in sorted order; the same for every shard of the list.

    Scores of one segment are computed together, so that how a list is cut decides their last bits.
    """
    names = sorted(archs, key=lambda name: [(type(choice).__name__, choice) for choice in archs[name].choices.values()])
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
    progress: ShowProgress = lambda total, what: nullcontext(lambda done: None),
) -> Scored:
    """Score a list, or a shard of it; the last of several shards to finish merges all into one score file.

    Every finished segment of archs is on disk at once, in a journal beside `out`: a run that was killed goes on when it
    is started again, and ends with the same bytes (on a CPU, with as many threads). The journals are deleted when the
    score file is there; a list that is scored already is left as it is.

    Args:
        supernet: A space after `make_supernet`.
        archs: The whole list, name → arch.
        scoring: How.
        out: The score file; a submission is written beside it, and a score file of the other metric.
        provenance: What the scores come from, plain JSON values; a journal of another provenance is refused.
        shard: Which part to score.
        scorer: `prefix`, which falls back to `plain` for a space that is no chain; or `plain`.
        progress: Shows the progress.

    Raises:
        FileError: A file cannot be written, or a journal was begun with other settings or is in use.
        InputError: There are more shards than segments.
        RuntimeError: A score is not finite.
    """
    segments = segments_of(archs)
    if shard.count > len(segments):
        raise InputError(
            f"{len(archs)} archs make {len(segments)} segments; give at most as many shards, not {shard.count}"
        )
    score_segments: Scorer = score_one_by_one
    if scorer == "prefix" and shares_prefixes(supernet):
        score_segments = score_prefixes
    made_from = {**provenance, **_fingerprints(supernet, archs, scoring)}
    made_from |= {"segments": len(segments), "scorer": scorer}
    identity: dict[str, Json] = json.loads(json.dumps(made_from))  # as it reads back
    mine = shard.of(list(enumerate(segments)))
    codec = active_of(supernet).codec
    finished = _finished(out, identity, codec)
    if finished is not None:
        shard.journal(out).unlink(missing_ok=True)
        return Scored(
            {name: finished.scores[name][1] for _, names in mine for name in names}, _files(out, scoring.metric)
        )
    with Journal(shard.journal(out), identity) as journal:
        left = [(index, names) for index, names in mine if index not in journal.segments]
        with progress(sum(len(names) for _, names in left), "archs") as advance:
            todo = [[archs[name] for name in names] for _, names in left]
            scored = score_segments(supernet, todo, scoring, progress=advance)
            for (index, names), scores in zip(left, scored, strict=True):
                _check_finite(names, scores)
                journal.add(index, {metric: [score.of(metric) for score in scores] for metric in METRICS})
        own = _by_name(mine, journal.segments, scoring.metric)
    merged = merge_shards(out, shard.count, archs, identity) or _finished(out, identity, codec) is not None
    return Scored(own, _files(out, scoring.metric) if merged else [shard.journal(out)])


def merge_shards(out: Path, count: int, archs: Mapping[str, Arch], identity: Mapping[str, Json]) -> bool:
    """Merge the shards' journals into the score files, in the list's order, and delete them, if all are complete.

    Whoever finishes last finds all of them complete; of two who finish at once, both write the same bytes.

    Args:
        out: The score file.
        count: How many shards there are.
        archs: The whole list, name → arch.
        identity: What was scored and how.

    Returns:
        Whether the score file is written; not if shards are missing or unfinished.

    Raises:
        FileError: A shard was scored with other settings, or the score file cannot be written.
    """
    journals = [Shard(index, count).journal(out) for index in range(1, count + 1)]
    segments = segments_of(archs)
    done: dict[int, SegmentScores] = {}
    for path in journals:
        written = read_journal(path)
        if written.identity is None or not written.segments:
            return False
        check_identity(path, written.identity, identity)
        done |= written.segments
    if len(done) < len(segments):
        return False
    _write(out, archs, list(enumerate(segments)), done, identity)
    for path in journals:
        path.unlink(missing_ok=True)
    return True


def _write(
    out: Path,
    archs: Mapping[str, Arch],
    segments: Sequence[tuple[int, Sequence[str]]],
    done: Mapping[int, SegmentScores],
    identity: Mapping[str, Json],
) -> None:
    """Write the score file last, since it is what says that all is done."""
    wanted = cast("Metric", identity["metric"])
    for metric in METRICS:
        if metric != wanted and all(metric in scores for scores in done.values()):  # journals of version 0.1 have one
            scores = _by_name(segments, done, metric)
            table = {name: (arch, scores[name]) for name, arch in archs.items()}
            write_scores(_beside(out, metric), ScoreFile(table, {**identity, "metric": metric}))
    scores = _by_name(segments, done, wanted)
    score_file = ScoreFile({name: (arch, scores[name]) for name, arch in archs.items()}, identity)
    write_released(_beside(out, "submission"), submission(score_file))
    write_scores(out, score_file)


def _by_name(
    segments: Sequence[tuple[int, Sequence[str]]], done: Mapping[int, SegmentScores], metric: Metric
) -> dict[str, float]:
    scores: dict[str, float] = {}
    for index, names in segments:
        scores |= dict(zip(names, done[index][metric], strict=True))
    return scores


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f"{out.stem}.{what}{out.suffix}")


def _files(out: Path, metric: Metric) -> list[Path]:
    """Return the files that are there: score file, submission, and the score file of the other metric."""
    others = [_beside(out, other) for other in METRICS if other != metric]
    return [out, _beside(out, "submission"), *(path for path in others if path.is_file())]


def _finished(out: Path, identity: Mapping[str, Json], codec: Codec) -> ScoreFile | None:
    """Return the scores if they are all there already, made with these settings."""
    if not (out.is_file() and _beside(out, "submission").is_file()):
        return None
    try:
        scores = read_scores(out, codec)
    except FileError:  # something else, which the score file will replace
        return None
    return scores if scores.provenance == identity else None


def _fingerprints(supernet: ModelSpace, archs: Mapping[str, Arch], scoring: Scoring) -> dict[str, Json]:
    """Return what tells one scoring from another: of weights, list and images their SHA-256."""
    source = scoring.calibration
    return {
        "weights": weights_sha256(supernet),
        "archs": hashlib.sha256("\n".join(f"{name} {arch.code}" for name, arch in archs.items()).encode()).hexdigest(),
        "scored_images": sha256_of(tensor for batch in scoring.test() for tensor in batch),
        "calibration": None if source is None else sha256_of(tensor for batch in source() for tensor in batch),
        "metric": scoring.metric,
        "bn": scoring.bn,
        "device": next(cast("nn.Module", supernet).parameters()).device.type,
    }


def _check_finite(names: Sequence[str], scores: Sequence[Score]) -> None:
    for name, score in zip(names, scores, strict=True):
        if not (math.isfinite(score.loss) and math.isfinite(score.acc)):
            raise RuntimeError(f"the score of {name} is {score}; the supernet has diverged: take an earlier checkpoint")
