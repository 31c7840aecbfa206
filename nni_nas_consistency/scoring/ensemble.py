"""Scores of several supernets as one list: the mean of standardised scores, and a prior on capacity.

Supernets of other seeds, lengths or sharing err on other archs, so that their mean ranks better than each. Needs
neither torch nor NNI.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, pstdev

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.errors import InputError

Scores = Mapping[str, float]


def ensemble_scores(members: Mapping[str, Scores]) -> dict[str, float]:
    """Return the mean of the members' scores, each standardised over the list: mean 0, standard deviation 1.

    Args:
        members: Arch name → score of each member, by the name of the member; higher is better.

    Raises:
        InputError: The members have different archs, or all scores of one are equal.
    """
    first, *others = members
    for name in others:
        differing = members[first].keys() ^ members[name].keys()
        if differing:
            raise InputError(
                f"{name}: has other archs than {first}, such as {min(differing)}; score one list with every supernet"
            )
    columns = [standardized(member, members[member]) for member in members]
    return {arch: fmean(column[arch] for column in columns) for arch in members[first]}


def standardized(name: str, scores: Scores) -> dict[str, float]:
    """Return scores shifted and scaled to mean 0 and standard deviation 1 over the list.

    Args:
        name: What the error calls them.
        scores: Arch name → score.

    Raises:
        InputError: All scores are equal.
    """
    mean, spread = fmean(scores.values()), pstdev(scores.values())
    if spread == 0:
        raise InputError(f"{name}: all scores are equal, so that they cannot be standardised; leave the file out")
    return {arch: (score - mean) / spread for arch, score in scores.items()}


def with_capacity_prior(
    scores: Scores, archs: Mapping[str, Arch], weight: float, unused: frozenset[str]
) -> dict[str, float]:
    """Return standardised scores plus `weight` times the standardised mean log width of the archs.

    A supernet that is not trained to the end undervalues wide archs. The prior is no score of a supernet: report it
    beside the one without it.

    Args:
        scores: Arch name → score.
        archs: The archs, by name; their choices are widths.
        weight: Weight of the prior; 0 leaves the ranking as it is.
        unused: Labels of widths that no network reads.

    Raises:
        InputError: All scores, or all capacities, are equal.
    """
    capacity = {name: _mean_log_width(archs[name], unused) for name in scores}
    score, prior = standardized("the scores", scores), standardized("the mean log widths", capacity)
    return {name: score[name] + weight * prior[name] for name in scores}


def _mean_log_width(arch: Arch, unused: frozenset[str]) -> float:
    return fmean(math.log(int(str(width))) for label, width in arch.choices.items() if label not in unused)
