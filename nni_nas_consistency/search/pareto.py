"""The Pareto set of score against cost: archs that no other beats in one without losing in the other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.files.atomic import write_text_atomically
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.search.constraints import CostName

PARETO_FORMAT = "nni-nas-consistency pareto 1"


@dataclass(frozen=True)
class Candidate:
    """An arch that was scored.

    Args:
        name: Its name in the score file.
        arch: The arch.
        score: Higher is better.
        costs: MACs for one image, parameters, and where it was measured the latency in milliseconds.
    """

    name: str
    arch: Arch
    score: float
    costs: Mapping[CostName, float]


def pareto_set(candidates: Sequence[Candidate], cost: CostName) -> list[Candidate]:
    """Return the candidates that no other dominates, the cheapest first.

    One dominates another if it costs no more, scores no less, and is better in one of the two. Candidates that are
    equal in both are all returned.

    Args:
        candidates: Archs with their scores and costs.
        cost: The cost that counts.
    """
    best: Candidate | None = None
    chosen = []
    for candidate in sorted(candidates, key=lambda each: (each.costs[cost], -each.score)):
        better = best is None or candidate.score > best.score
        if better or _as_good_as(candidate, best, cost):
            chosen.append(candidate)
            best = candidate
    return chosen


def _as_good_as(candidate: Candidate, best: Candidate | None, cost: CostName) -> bool:
    return best is not None and (candidate.costs[cost], candidate.score) == (best.costs[cost], best.score)


def pareto_lines(chosen: Sequence[Candidate]) -> list[str]:
    """Return a Pareto set as a table in plain text, one arch a line; nothing for an empty one."""
    if not chosen:
        return []
    has_latency = any("latency" in each.costs for each in chosen)
    rows = [["name", "score", "MACs", "params", *(["ms"] if has_latency else []), "arch"]]
    for each in chosen:
        latency = [f"{each.costs['latency']:.3g}"] if has_latency else []
        counts = [f"{each.costs['macs']:,.0f}", f"{each.costs['params']:,.0f}"]
        rows.append([each.name, f"{each.score:.6g}", *counts, *latency, each.arch.code])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    text = []
    for row in rows:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:], strict=True)]
        text.append("  ".join([row[0].ljust(widths[0]), *numbers, row[-1]]))
    return text


def write_pareto(path: Path, chosen: Sequence[Candidate], cost: CostName, provenance: Mapping[str, Json]) -> None:
    """Write a Pareto set as JSON, the cheapest arch first.

    Args:
        path: The file; an older one is replaced.
        chosen: The Pareto set.
        cost: The cost that counts.
        provenance: How archs were scored, and their costs counted or measured.

    Raises:
        FileError: The file cannot be written.
    """
    archs = {each.name: {"arch": each.arch.code, "score": each.score, **each.costs} for each in chosen}
    document = {"format": PARETO_FORMAT, "cost": cost, "archs": archs, "provenance": dict(provenance)}
    write_text_atomically(path, json.dumps(document, indent=1) + "\n")
