"""Pair scores with reference accuracies by arch name, and refuse two lists that are not about the same archs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nni_nas_consistency.errors import MatchError
from nni_nas_consistency.files.arch_lists import Entry
from nni_nas_consistency.ranking.statistics import Array


def match(
    scores: Mapping[str, Entry], reference: Mapping[str, Entry], *, common: bool = False
) -> tuple[list[str], Array, Array]:
    """Return the arch names that both sides have, in the order of the reference, with their scores and accuracies.

    Args:
        scores: Arch and score by name.
        reference: Arch and reference accuracy by name.
        common: Rank the archs that both sides have; otherwise an arch that only one side has is an error.

    Returns:
        Names [N], scores [N] and reference accuracies [N], N at least 1.

    Raises:
        MatchError: A name stands for two archs; the names differ and `common` is false; none are shared.
    """
    names = [name for name in reference if name in scores]
    _refuse_other_archs(scores, reference, names)
    if not common:
        _refuse_one_sided(scores, reference, len(names))
    if not names:
        raise MatchError("scores and reference share no arch; give a reference for the archs that were scored")
    return names, _numbers(scores, names), _numbers(reference, names)


def _numbers(entries: Mapping[str, Entry], names: Sequence[str]) -> Array:
    return np.array([entries[name].acc for name in names], np.float64)


def _refuse_other_archs(scores: Mapping[str, Entry], reference: Mapping[str, Entry], names: Sequence[str]) -> None:
    # By choices, because one arch may have several spellings.
    differing = [name for name in names if scores[name].arch.choices != reference[name].arch.choices]
    if not differing:
        return
    name = differing[0]
    others = f" ({len(differing)} archs differ like this)" if len(differing) > 1 else ""
    raise MatchError(
        f"{name} is {scores[name].arch.code!r} in the scores but {reference[name].arch.code!r} in the reference"
        f"{others}; give a reference for the archs that were scored"
    )


def _refuse_one_sided(scores: Mapping[str, Entry], reference: Mapping[str, Entry], shared: int) -> None:
    missing = [name for name in reference if name not in scores]
    extra = [name for name in scores if name not in reference]
    flaws = []
    if missing:
        flaws.append(f"the scores lack {_count(len(missing))} of the reference: {_first_few(missing)}")
    if extra:
        flaws.append(f"the reference lacks {_count(len(extra))} of the scores: {_first_few(extra)}")
    if not flaws:
        return
    remedy = "give a reference for the archs that were scored"
    if shared >= 2:
        remedy = f"--common ranks the {shared} that both have"
    raise MatchError(f"{'; '.join(flaws)}; {remedy}")


def _count(archs: int) -> str:
    return "1 arch" if archs == 1 else f"{archs} archs"


def _first_few(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    if len(names) <= most:
        return shown
    return f"{shown} and {len(names) - most} more"
