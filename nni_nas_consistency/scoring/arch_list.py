"""Scoring a list: cut into blocks, dealt out to shards, journalled block by block, merged into one score file."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, cast

from torch import nn

from nni_nas_consistency.archs.arch import Arch, ArchForm
from nni_nas_consistency.errors import FileError, InputError
from nni_nas_consistency.files.arch_lists import submission, write_released
from nni_nas_consistency.files.score_files import ScoreFile, read_scores, write_scores
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.scoring.journal import Journal, check_identity, read_journal
from nni_nas_consistency.scoring.plain import Scoring, calibration_source
from nni_nas_consistency.scoring.prefix import score_prefixes
from nni_nas_consistency.supernet.active import Space
from nni_nas_consistency.supernet.checkpoint import sha256_of, weights_sha256

BLOCK = 128
"""Most archs of a block, which is what a kill may cost, and what shares prefixes: at 64, 5 % more time, at 128, 3 %."""

Item = TypeVar("Item")


class Scorer(Protocol):
    """What scores blocks of archs: `prefix.score_prefixes`, or `subnet.score_one_by_one`, the reference."""

    __name__: str

    def __call__(
        self, supernet: Space, blocks: Iterable[Sequence[Arch]], scoring: Scoring, *, advance: Callable[[float], None]
    ) -> Iterator[list[float]]:
        """Yield the scores of each block; tell `advance` of archs, or parts of one, that are done."""


Progress = Callable[[int, str], AbstractContextManager[Callable[[float], None]]]
"""Given a number of pieces of work and their name, shows how many of them it is told are done."""


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a list: every `count`-th block of archs, from the `index`-th on.

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
        match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
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
    """What a shard has come to.

    Args:
        scores: Its scores by name, in sorted order of the archs.
        files: Score file and submission; the journal instead, while other shards are missing.
    """

    scores: dict[str, float]
    files: list[Path]


def blocks_of(archs: Mapping[str, Arch]) -> list[list[str]]:
    """Return the names of a list in blocks of neighbours in sorted order; the same for every shard of the list.

    Scores of one block are computed together, so that how a list is cut decides their last bits.
    """
    names = sorted(archs, key=lambda name: archs[name].choices)
    size = min(BLOCK, math.ceil(len(names) / 8))
    return [names[first : first + size] for first in range(0, len(names), size)]


def score_list(
    supernet: Space,
    archs: Mapping[str, Arch],
    scoring: Scoring,
    *,
    out: Path,
    provenance: Mapping[str, Json],
    shard: Shard = WHOLE,
    scorer: Scorer = score_prefixes,
    progress: Progress = lambda total, what: nullcontext(lambda done: None),
) -> Scored:
    """Score a list, or a shard of it; the last of several shards to finish merges all into one score file.

    Every finished block of archs is on disk at once, in a journal beside `out`: a run that was killed goes on when it
    is started again, and ends with the same bytes (on a CPU, with as many threads). The journals are deleted when the
    score file is there; a list that is scored already is left as it is.

    Args:
        supernet: A chain space after `make_supernet`.
        archs: The whole list, name → arch.
        scoring: How.
        out: The score file; a submission is written beside it.
        provenance: What the scores come from, plain JSON values; a journal of another provenance is refused.
        shard: Which part to score.
        scorer: What scores.
        progress: Shows how far it is.

    Raises:
        FileError: A file cannot be written, or a journal is of another scoring or in use.
        InputError: There are more shards than blocks.
        RuntimeError: A score is not finite.
    """
    blocks = blocks_of(archs)
    if shard.count > len(blocks):
        raise InputError(
            f"{len(archs)} archs make {len(blocks)} blocks; give at most as many shards, not {shard.count}"
        )
    made_from = {**provenance, **_fingerprints(supernet, archs, scoring)}
    made_from |= {"blocks": len(blocks), "scorer": scorer.__name__}
    identity: dict[str, Json] = json.loads(json.dumps(made_from))  # as it reads back
    mine = shard.of(list(enumerate(blocks)))
    finished = _finished(out, identity, supernet.form)
    if finished is not None:
        shard.journal(out).unlink(missing_ok=True)
        return Scored({name: finished.scores[name][1] for _, names in mine for name in names}, _files(out))
    with Journal(shard.journal(out), identity) as journal:
        left = [(index, names) for index, names in mine if index not in journal.blocks]
        with progress(sum(len(names) for _, names in left), "archs") as advance:
            todo = [[archs[name] for name in names] for _, names in left]
            scored = scorer(supernet, todo, scoring, advance=advance)
            for (index, names), scores in zip(left, scored, strict=True):
                _check_finite(names, scores)
                journal.add(index, scores)
        own = {name: score for index, names in mine for name, score in zip(names, journal.blocks[index], strict=True)}
    merged = merge_shards(out, shard.count, archs, identity) or _finished(out, identity, supernet.form) is not None
    return Scored(own, _files(out) if merged else [shard.journal(out)])


def merge_shards(out: Path, count: int, archs: Mapping[str, Arch], identity: Mapping[str, Json]) -> bool:
    """Merge the shards' journals into `out` and its submission, in the list's order, and delete them, if all are whole.

    Whoever finishes last finds all of them whole; of two who finish at once, both write the same bytes.

    Args:
        out: The score file.
        count: How many shards there are.
        archs: The whole list, name → arch.
        identity: What was scored and how.

    Returns:
        Whether the score file is written; not if shards are missing or unfinished.

    Raises:
        FileError: A shard was scored in another way, or the score file cannot be written.
    """
    journals = [Shard(index, count).journal(out) for index in range(1, count + 1)]
    blocks = blocks_of(archs)
    done: dict[int, list[float]] = {}
    for path in journals:
        written = read_journal(path)
        if written.identity is None or not written.blocks:
            return False
        check_identity(path, written.identity, identity)
        done |= written.blocks
    if len(done) < len(blocks):
        return False
    score_of = {
        name: score for index, names in enumerate(blocks) for name, score in zip(names, done[index], strict=True)
    }
    scores = ScoreFile({name: (arch, score_of[name]) for name, arch in archs.items()}, identity)
    _, beside = _files(out)
    write_released(beside, submission(scores))
    write_scores(out, scores)
    for path in journals:
        path.unlink(missing_ok=True)
    return True


def _files(out: Path) -> list[Path]:
    """Return where score file and submission are."""
    return [out, out.with_name(f"{out.stem}.submission{out.suffix}")]


def _finished(out: Path, identity: Mapping[str, Json], form: ArchForm) -> ScoreFile | None:
    """Return the scores if they are all there already, made in this way."""
    if not all(path.is_file() for path in _files(out)):
        return None
    try:
        scores = read_scores(out, form)
    except FileError:  # something else, which the score file will replace
        return None
    return scores if scores.provenance == identity else None


def _fingerprints(supernet: Space, archs: Mapping[str, Arch], scoring: Scoring) -> dict[str, Json]:
    """Return what tells one scoring from another: of weights, list and images their SHA-256."""
    source = calibration_source(scoring)
    return {
        "weights": weights_sha256(supernet),
        "archs": hashlib.sha256("\n".join(f"{name} {arch.code}" for name, arch in archs.items()).encode()).hexdigest(),
        "scored_images": sha256_of(tensor for batch in scoring.test() for tensor in batch),
        "calibration": None if source is None else sha256_of(tensor for batch in source() for tensor in batch),
        "metric": scoring.metric,
        "bn": scoring.bn,
        "device": next(cast("nn.Module", supernet).parameters()).device.type,
    }


def _check_finite(names: Sequence[str], scores: Sequence[float]) -> None:
    for name, score in zip(names, scores, strict=True):
        if not math.isfinite(score):
            raise RuntimeError(f"the score of {name} is {score}; the supernet has diverged: take an earlier checkpoint")
