"""Shrinking records: which choices of a space were scored and dropped, round by round, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from nni_nas_consistency.archs.arch import Choice
from nni_nas_consistency.archs.domains import Domain
from nni_nas_consistency.files.atomic import write_text_atomically
from nni_nas_consistency.files.strict_json import (
    Json,
    fields_of,
    file_errors,
    finite,
    json_value,
    object_of,
    read_object,
    shown,
)

SHRINKING_FORMAT = "nni-nas-consistency shrinking 1"

Candidates: TypeAlias = "tuple[tuple[Choice, float | None], ...]"
"""Each candidate of a choice with its score; None where no arch with it is within the bound."""


@dataclass(frozen=True)
class Round:
    """One round: every choice was scored, and loses a candidate unless too few are left.

    Args:
        scores: Label of each choice → its candidates with their scores; higher is better.
        dropped: Label → the candidate that was dropped.
        provenance: What the scores come from.
    """

    scores: Mapping[str, Candidates]
    dropped: Mapping[str, Choice]
    provenance: Mapping[str, Json]


def shrunk_domain(domain: Domain, rounds: Sequence[Round]) -> Domain:
    """Return what is left of a domain after some rounds.

    Raises:
        ArchError: A dropped candidate is none of the domain, or the last one of its choice.
    """
    for each in rounds:
        for label, choice in each.dropped.items():
            domain = domain.without(label, choice)
    return domain


def write_shrinking(path: Path, space: str, rounds: Sequence[Round]) -> None:
    """Write a shrinking record atomically.

    Args:
        path: The file; an older one is replaced.
        space: Name of the search space, as its codec has it.
        rounds: All rounds so far.
    """
    written = [
        {
            "scores": {label: [list(scored) for scored in candidates] for label, candidates in each.scores.items()},
            "dropped": dict(each.dropped),
            "provenance": dict(each.provenance),
        }
        for each in rounds
    ]
    document = {"format": SHRINKING_FORMAT, "space": space, "rounds": written}
    write_text_atomically(path, json.dumps(document, indent=1) + "\n")


def read_shrinking(path: Path, domain: Domain) -> tuple[Round, ...]:
    """Return the rounds of a shrinking record.

    Args:
        path: The file.
        domain: The domain of the space before any round.

    Raises:
        FileError: The file is no shrinking record, or is for a different space.
    """
    with file_errors(path):
        kind, space, rounds = fields_of(read_object(path), "the file", ("format", "space", "rounds"))
        if kind != SHRINKING_FORMAT:
            raise ValueError(f"has the format {shown(kind)}, not {SHRINKING_FORMAT!r}; make one with `shrink`")
        if space != domain.codec.space:
            raise ValueError(f"is for space {shown(space)}, not {shown(domain.codec.space)}; shrink that space")
        if not isinstance(rounds, list) or not rounds:
            raise ValueError("holds no rounds; make one with `shrink`")
        read = tuple(_round(each, f"round {number}") for number, each in enumerate(rounds, 1))
        shrunk_domain(domain, read)
        return read


def _round(value: object, what: str) -> Round:
    scores, dropped, made_by = fields_of(object_of(value, what), what, ("scores", "dropped", "provenance"))
    candidates = {
        label: _candidates(scored, f"{what} {label}") for label, scored in object_of(scores, f"{what} scores").items()
    }
    choices = {
        label: _choice(choice, f"{what} {label}") for label, choice in object_of(dropped, f"{what} dropped").items()
    }
    for label, choice in choices.items():
        if choice not in [candidate for candidate, _ in candidates.get(label, ())]:
            raise ValueError(f"{what} drops {choice!r} of {label}, which it did not score; copy the record again")
    provenance = json_value(made_by, f"{what} provenance")
    if not isinstance(provenance, Mapping):
        raise ValueError(f"{what} provenance is {shown(made_by)}; expected an object in braces")
    return Round(candidates, choices, provenance)


def _candidates(value: object, what: str) -> Candidates:
    if not isinstance(value, list) or not all(isinstance(each, list) and len(each) == 2 for each in value):
        raise ValueError(f"{what} is {shown(value)}; expected a list of candidates with their scores")
    return tuple(
        (_choice(choice, what), None if score is None else float(finite(score, what))) for choice, score in value
    )


def _choice(value: object, what: str) -> Choice:
    if isinstance(value, list):
        return tuple(_scalar(each, what) for each in value)
    return _scalar(value, what)


def _scalar(value: object, what: str) -> int | float | str:
    return value if isinstance(value, str) else finite(value, what)
