"""How reliable reference accuracies are, which bounds what a study can see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nni_nas_consistency.files.strict_json import file_errors, finite, json_value, read_object
from nni_nas_consistency.ranking.statistics import split_half


def reliability_of(reference: Path, names: Sequence[str]) -> tuple[int | None, float | None]:
    """Return how many seeds accuracies are means of, and how well two halves of them rank the archs.

    Args:
        reference: Reference accuracies; `about.json` beside them, as `nni-consistency standalone` writes it, has those
            of every seed.
        names: The archs that count.

    Returns:
        The number of seeds, and the mean Kendall tau between the halves; None of each where it is not known.

    Raises:
        FileError: That file is damaged.
    """
    about = reference.parent / "about.json"
    if not about.is_file():
        return None, None
    with file_errors(about):
        content: Any = {name: json_value(value, name) for name, value in read_object(about).items()}
        accuracies = content.get("accuracies")
        if not isinstance(accuracies, dict) or any(name not in accuracies for name in names):
            return None, None
        if not all(isinstance(accuracies[name], list) for name in names):
            raise ValueError("its accuracies are no lists with a number for each seed; copy the file again")
        table = [[finite(value, name) for value in accuracies[name]] for name in names]
    seeds = len(table[0])
    try:
        return seeds, split_half(table)
    except ValueError:  # one seed or arch, or all archs tie
        return seeds, None
