"""Scoring a list in shards: which archs a shard has, and its file merged with the others' into one score file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nni_nas_consistency.arch import Arch, ArchForm, InputError
from nni_nas_consistency.released import (
    FileError,
    Json,
    ScoreFile,
    read_scores,
    submission,
    write_released,
    write_scores,
)
from nni_nas_consistency.scoring.subnet import Scoring, score_archs
from nni_nas_consistency.supernet.active import Space

Value = TypeVar("Value")


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a list: every `count`-th arch, from the `index`-th on.

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

    def of(self, archs: Mapping[str, Value]) -> dict[str, Value]:
        """Return this shard's part of a list."""
        return dict(list(archs.items())[self.index - 1 :: self.count])

    def path(self, out: Path) -> Path:
        """Return where this shard of the score file `out` goes."""
        return out.with_name(f"{out.stem}.shard{self.index}of{self.count}{out.suffix}")


WHOLE = Shard(1, 1)


def score_list(
    supernet: Space,
    archs: Mapping[str, Arch],
    scoring: Scoring,
    *,
    out: Path,
    provenance: Mapping[str, Json],
    shard: Shard = WHOLE,
    advance: Callable[[float], None] = lambda score: None,
) -> list[Path]:
    """Score a list, or a shard of it, and write the scores; the last of several shards to finish merges all.

    Args:
        supernet: A chain space after `make_supernet`.
        archs: The whole list, name → arch.
        scoring: How.
        out: The score file; a submission is written beside it.
        provenance: What the scores depend on; the same for all shards of a list.
        shard: Which part to score.
        advance: Is told every score.

    Returns:
        The files written.

    Raises:
        FileError: A file cannot be written, or shards do not belong together.
    """
    part = shard.of(archs)
    scores = {}
    for (name, arch), score in zip(part.items(), score_archs(supernet, part.values(), scoring), strict=True):
        scores[name] = (arch, score)
        advance(score)
    if shard.count == 1:
        return [out, write_with_submission(out, ScoreFile(scores, provenance))]
    write_scores(shard.path(out), ScoreFile(scores, provenance))
    merged = merge_shards(out, shard.count, archs, supernet.form)
    return [shard.path(out), out] if merged else [shard.path(out)]


def write_with_submission(out: Path, scores: ScoreFile) -> Path:
    """Write a score file and, beside it, the submission; return the submission's path."""
    write_scores(out, scores)
    beside = out.with_name(f"{out.stem}.submission{out.suffix}")
    write_released(beside, submission(scores))
    return beside


def merge_shards(out: Path, count: int, archs: Mapping[str, Arch], form: ArchForm) -> bool:
    """Merge the shards' files into `out` and its submission, in the list's order, if all are there.

    Whoever finishes last finds all of them; two who finish at once write the same bytes.

    Args:
        out: The score file.
        count: How many shards there are.
        archs: The whole list, name → arch.
        form: The archs' form.

    Returns:
        Whether all shards were there, so that `out` is written.

    Raises:
        FileError: A shard was scored in another way than the first, or lacks archs or has others than the list.
    """
    paths = [Shard(index, count).path(out) for index in range(1, count + 1)]
    if not all(path.is_file() for path in paths):
        return False
    parts = [read_scores(path, form) for path in paths]
    scores = {name: score for part in parts for name, score in part.scores.items()}
    for path, part in zip(paths, parts, strict=True):
        if part.provenance != parts[0].provenance:
            raise FileError(f"{path}: was scored in another way than {paths[0]}; score both with the same settings")
    missing = [name for name, arch in archs.items() if name not in scores or scores[name][0] != arch]
    if missing:
        raise FileError(
            f"{out}: the shards lack {len(missing)} archs of the list, such as {missing[0]}; score them again"
        )
    write_with_submission(out, ScoreFile({name: scores[name] for name in archs}, parts[0].provenance))
    return True
