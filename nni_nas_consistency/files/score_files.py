"""Score files: the scores that a supernet gave to a list of archs, and how they were made.

One arch a line between a head and a foot, so that two score files can be compared with `diff`. Scores read back
exactly.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.files.arch_lists import Entry, check_entries, entries_of_list, parse_entries
from nni_nas_consistency.files.atomic import FilePath, write_text_atomically
from nni_nas_consistency.files.strict_json import (
    Json,
    decode,
    fields_of,
    file_errors,
    finite,
    json_value,
    object_of,
    read_object,
    shown,
)

if TYPE_CHECKING:
    from nni_nas_consistency.archs.codecs import Codec

SCORE_FORMAT = "nni-nas-consistency scores 1"


@dataclass(frozen=True)
class ScoreFile:
    """The scores that one supernet gave to a list of archs.

    Args:
        scores: Arch and score by arch name, in the order of the list; higher is better.
        provenance: How the scores were made: checkpoint, data, settings, seeds, versions.
    """

    scores: dict[str, tuple[Arch, float]]
    provenance: Mapping[str, Json]


def read_scores(path: FilePath, codec: Codec) -> ScoreFile:
    """Return the scores that `write_scores` wrote, exactly.

    Args:
        path: A score file.
        codec: How the search space writes its archs.

    Raises:
        FileError: The file cannot be read or is not a score file; an arch is not allowed or appears twice.
    """
    with file_errors(path):
        return _score_file(read_object(path), codec)


def read_table(path: FilePath, codec: Codec) -> dict[str, Entry]:
    """Return the archs of an arch list or of a score file, by name; of the latter, `acc` is the score as it is.

    Args:
        path: Either file, told apart by its field `format`.
        codec: How the search space writes its archs.

    Raises:
        FileError: As `read_released` and `read_scores` raise it.
    """
    return read_table_and_provenance(path, codec)[0]


def read_table_and_provenance(path: FilePath, codec: Codec) -> tuple[dict[str, Entry], Mapping[str, Json]]:
    """Return what `read_table` returns, and how the scores were made; nothing is known about that of an arch list.

    Args:
        path: An arch list or a score file.
        codec: How the search space writes its archs.

    Raises:
        FileError: As `read_released` and `read_scores` raise it.
    """
    with file_errors(path):
        document = read_object(path)
        if not isinstance(document.get("format"), str):
            return entries_of_list(document, codec), {}
        score_file = _score_file(document, codec)
    return {name: Entry(arch, score) for name, (arch, score) in score_file.scores.items()}, score_file.provenance


def write_scores(path: FilePath, score_file: ScoreFile) -> None:
    """Write scores as JSON, one arch a line, with as many digits as it takes to read every float back exactly.

    Args:
        path: Where to; an older file is replaced at the end, or kept if anything fails.
        score_file: The scores and how they were made.

    Raises:
        FileError: A score is not finite, `read_scores` would refuse the file, or the file cannot be written.
        TypeError: The provenance holds a value that JSON cannot express.
    """
    provenance = json.dumps(dict(score_file.provenance), indent=1)
    entries = {name: Entry(arch, score) for name, (arch, score) in score_file.scores.items()}
    with file_errors(path):
        json_value(decode(provenance), "provenance")
        check_entries(entries, "score")
    lines = []
    for name, entry in entries.items():
        row = {"arch": entry.arch.code, "score": float(entry.acc)}
        lines.append(f"{json.dumps(name)}: {json.dumps(row)}")
    rows = ",\n".join(lines)
    text = f'{{"format": "{SCORE_FORMAT}",\n"provenance": {provenance},\n"scores": {{\n{rows}\n}}}}\n'
    write_text_atomically(path, text)


def beside(path: Path, what: str) -> Path:
    """Return where something is written beside a score file: the `submission`, or the scores of another metric."""
    return path.with_name(f"{path.stem}.{what}{path.suffix}")


def journal_beside(path: Path, shard: tuple[int, int] = (1, 1)) -> Path:
    """Return where the journal of a scoring is, beside its score file: of the i-th of n shards, (i, n)."""
    index, count = shard
    part = "" if count == 1 else f".shard{index}of{count}"
    return path.with_name(f"{path.stem}{part}.journal")


def submission(score_file: ScoreFile) -> dict[str, Entry]:
    """Return the list to submit: same names in the same order, `acc` = the scores scaled linearly to [0, 1].

    Args:
        score_file: The scores; the lowest becomes 0, the highest 1, and their order is kept up to rounding.

    Raises:
        ValueError: All scores are equal, one is not finite, there are none, or they span more than a float holds.
    """
    scores = [finite(score, f"score of {name}") for name, (_, score) in score_file.scores.items()]
    lowest, highest = min(scores, default=0.0), max(scores, default=0.0)
    span = highest - lowest
    if not 0 < span <= sys.float_info.max:
        raise ValueError(
            f"scores from {lowest!r} to {highest!r} cannot be scaled to [0, 1]; check checkpoint and metric"
        )
    return {name: Entry(arch, (score - lowest) / span) for name, (arch, score) in score_file.scores.items()}


def _score_file(document: Mapping[str, object], codec: Codec) -> ScoreFile:
    if document.get("format") != SCORE_FORMAT:
        raise ValueError(f"has format {shown(document.get('format'))}; give a score file of format {SCORE_FORMAT!r}")
    _, provenance, scores = fields_of(document, "the file", ("format", "provenance", "scores"))
    made_by = {
        key: json_value(value, f"provenance {key}") for key, value in object_of(provenance, "provenance").items()
    }
    entries = parse_entries(object_of(scores, "scores"), codec, "score")
    return ScoreFile({name: (entry.arch, float(entry.acc)) for name, entry in entries.items()}, made_by)
