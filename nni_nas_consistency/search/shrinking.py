"""Shrinking: score every candidate of every choice by sampled archs, and drop the worst of each. A rule of ours.

The score of a candidate is the mean score of archs that have it and are otherwise uniform. The candidates of a choice
stand in the same archs, so that they differ in nothing else; with a bound on costs, only archs within it count. Single
path one-shot search announced a shrinking and published no rule (docs/decisions/0029-shrinking.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from nni_nas_consistency.archs.arch import Arch, Choice
from nni_nas_consistency.archs.domains import Domain, Variable
from nni_nas_consistency.errors import FileError, InputError
from nni_nas_consistency.files.progress import Progress, ShowProgress, silent
from nni_nas_consistency.files.score_files import journal_beside
from nni_nas_consistency.files.shrinkings import Candidates, Round, read_shrinking, write_shrinking
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.scoring.arch_list import check_finite, fingerprints
from nni_nas_consistency.scoring.journal import Journal, check_segments, delete_journal, remove_journal
from nni_nas_consistency.scoring.plain import score_one_by_one
from nni_nas_consistency.scoring.prefix import score_prefixes, shares_prefixes
from nni_nas_consistency.scoring.scoring import METRICS, Scorer, Scoring
from nni_nas_consistency.spaces.chain import ChainSpace

TRIES = 1000
"""Draws, beyond those that are needed, before a candidate counts as beyond the bound."""


def archs_by_candidate(
    domain: Domain, variable: Variable, count: int, dice: np.random.RandomState, allows: Callable[[Arch], bool]
) -> dict[Choice, list[Arch]]:
    """Return archs for each candidate of a choice: the same ones but for that choice, as far as they are allowed.

    Args:
        domain: What is drawn from.
        variable: The choice.
        count: Archs for each candidate.
        dice: Source of randomness.
        allows: Returns whether an arch counts.

    Returns:
        Candidate → `count` archs; none where 1000 more draws did not give as many.
    """
    found: dict[Choice, list[Arch]] = {choice: [] for choice in variable.choices}
    for _ in range(count + TRIES):
        missing = [choice for choice, archs in found.items() if len(archs) < count]
        if not missing:
            break
        picks = {each.name: each.choices[dice.randint(len(each.choices))] for each in domain.variables}
        for choice in missing:
            arch = domain.arch({**picks, variable.name: choice})
            if allows(arch):
                found[choice].append(arch)
    return {choice: archs if len(archs) == count else [] for choice, archs in found.items()}


def shrink(
    supernet: ChainSpace,
    scoring: Scoring,
    base: Domain,
    *,
    out: Path,
    earlier: tuple[Round, ...] = (),
    archs_per_candidate: int,
    keep: int,
    seed: int,
    provenance: Mapping[str, Json],
    allows: Callable[[Arch], bool] = lambda arch: True,
    overwrite: bool = False,
    progress: ShowProgress = silent,
) -> Round:
    """Score all candidates of a supernet's domain, drop the worst of each choice, write the record, return the round.

    Scores are kept in a journal beside `out`, choice by choice; the same call goes on after an interruption, and does
    nothing where the record is written.

    Args:
        supernet: The trained supernet, whose domain is what earlier rounds left.
        scoring: How to score.
        base: The domain before any round.
        out: The record: earlier rounds and this one.
        earlier: The rounds before.
        archs_per_candidate: Archs that a candidate is scored by.
        keep: A choice with as few candidates is not shrunk.
        seed: Of the archs.
        provenance: Where the scores come from; all of it but `made_by` decides them.
        allows: Returns whether an arch is within the bound.
        overwrite: Whether what `out` and its journal hold is deleted first.
        progress: Shows the progress, counted in archs.

    Raises:
        InputError: The space has constraints, or no choice has more candidates than are kept, or no arch is allowed.
        FileError: `out` or its journal holds something else, or cannot be written.
    """
    variables = [variable for variable in supernet.domain.variables if len(variable.choices) > keep]
    _check(supernet.domain, variables, keep)
    settings = {key: value for key, value in provenance.items() if key != "made_by"}
    own = {"archs_per_candidate": archs_per_candidate, "keep": keep, "seed": seed}
    identity = json.loads(json.dumps({**settings, **fingerprints(supernet, scoring), **own, "rounds": len(earlier)}))
    if overwrite:
        out.unlink(missing_ok=True)
        delete_journal(journal_beside(out))
    if out.exists():
        return _finished(out, identity, base, earlier)
    drawn = [
        archs_by_candidate(supernet.domain, variable, archs_per_candidate, np.random.RandomState([seed, place]), allows)
        for place, variable in enumerate(variables)
    ]
    _check_drawn(variables, drawn)
    with Journal(journal_beside(out), identity) as journal:
        sizes = {place: sum(map(len, groups.values())) for place, groups in enumerate(drawn)}
        check_segments(journal.path, journal.segments, sizes, scoring.metric)
        left = sum(size for place, size in sizes.items() if place not in journal.segments)
        with progress(left, "archs") as advance:
            _score(supernet, scoring, drawn, journal, advance)
        scores = {
            variable.name: _means(groups, journal.segments[place][scoring.metric])
            for place, (variable, groups) in enumerate(zip(variables, drawn, strict=True))
        }
    this = Round(
        scores, {label: worst_of(candidates) for label, candidates in scores.items()}, {**identity, **provenance}
    )
    write_shrinking(out, supernet.codec.space, [*earlier, this])
    delete_journal(journal_beside(out))
    return this


def worst_of(candidates: Candidates) -> Choice:
    """Return the candidate to drop: one without an arch within the bound, else that of the lowest score."""
    return min(candidates, key=lambda scored: -np.inf if scored[1] is None else scored[1])[0]


def _check(domain: Domain, variables: list[Variable], keep: int) -> None:
    if domain.constraints:
        raise InputError(f"{domain.codec.space} has constraints, which shrinking cannot honour choice by choice")
    if not variables:
        raise InputError(f"no choice of {domain.codec.space} has more than {keep} candidate(s) left; lower --keep")


def _check_drawn(variables: list[Variable], drawn: list[dict[Choice, list[Arch]]]) -> None:
    for variable, groups in zip(variables, drawn, strict=True):
        if not any(groups.values()):
            raise InputError(
                f"{TRIES} draws gave too few archs within the bound for any candidate of {variable.name}; give a "
                "larger bound, or fewer --archs-per-candidate"
            )


def _score(
    supernet: ChainSpace,
    scoring: Scoring,
    drawn: list[dict[Choice, list[Arch]]],
    journal: Journal,
    progress: Progress,
) -> None:
    """Score the archs of each choice that the journal has no scores of."""
    score: Scorer = score_prefixes if shares_prefixes(supernet) else score_one_by_one
    missing = [place for place in range(len(drawn)) if place not in journal.segments]
    todo = [[arch for archs in drawn[place].values() for arch in archs] for place in missing]
    for place, scores in zip(missing, score(supernet, todo, scoring, progress=progress), strict=True):
        check_finite([f"arch {number} of choice {place + 1}" for number in range(1, len(scores) + 1)], scores)
        journal.add(place, {metric: [each.of(metric) for each in scores] for metric in METRICS})


def _means(groups: Mapping[Choice, list[Arch]], scores: list[float]) -> Candidates:
    """Return each candidate with the mean of its scores, which follow one another."""
    candidates, first = [], 0
    for choice, archs in groups.items():
        own = scores[first : first + len(archs)]
        candidates.append((choice, float(np.mean(own)) if own else None))
        first += len(archs)
    return tuple(candidates)


def _finished(out: Path, identity: Mapping[str, Json], base: Domain, earlier: tuple[Round, ...]) -> Round:
    """Return the round of this shrinking, which is done already."""
    *before, this = read_shrinking(out, base)
    written = {key: value for key, value in this.provenance.items() if key != "made_by"}
    if written != dict(identity) or tuple(before) != earlier:
        raise FileError(f"{out}: holds something else than this shrinking; choose another --out, or --overwrite it")
    remove_journal(journal_beside(out), identity)
    return this
