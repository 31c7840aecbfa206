"""Where a supernet ranks wrongly: what the scores leave of the reference accuracies, by width and by place.

    python benchmarks/residuals.py --reference reference_accuracies.json runs/long/scores.json [OTHER_SCORES …]

The residual of an arch is its reference accuracy minus the least-squares line of accuracy on score. Where it rises with
a width, the supernet undervalues that width. Nothing that is found here goes into a score. Writes figures as JSON and a
plot of the residual's correlation with the width of each layer. With several score files, the residuals of the first
one are compared with those of the others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from side_by_side import machine

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.codecs import RESNET20_CODEC
from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.files.score_files import read_table
from nni_nas_consistency.ranking.plots import LIGHT, png, themed_axes
from nni_nas_consistency.ranking.statistics import kendall_tau, pearson, top_overlap
from nni_nas_consistency.spaces.resnet20 import ResNet20Space

Array = NDArray[np.float64]

STAGES = {"stem": range(1, 2), "stage 1": range(2, 8), "stage 2": range(8, 14), "stage 3": range(14, 20)}
"""The layers of each stage, from 1; the first of each pair is inside a residual block, the second is its output."""


def main() -> None:
    options = read_options()
    reference = read_released(options.reference, RESNET20_CODEC)
    archs = {name: entry.arch for name, entry in reference.items()}
    accuracies = np.array([entry.acc for entry in reference.values()])
    scores = [scores_of(path, archs) for path in options.scores]
    document = {
        "machine": machine("cpu"),
        "archs": len(archs),
        "scores": [path.name for path in options.scores],
        "residual": correlations(scores[0], accuracies, archs),
        "by accuracy": by_accuracy(scores[0], accuracies, archs),
        "between supernets": [agreement(scores[0], other, accuracies) for other in scores[1:]],
    }
    print(json.dumps(document, indent=1))
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    options.json.with_suffix(".png").write_bytes(png(plot(scores[0], accuracies, archs)))


def scores_of(path: Path, archs: Mapping[str, Arch]) -> Array:
    """Return the scores of a file in the order of the archs."""
    listed = read_table(path, RESNET20_CODEC)
    return np.array([listed[name].acc for name in archs])


def residual(scores: Array, accuracies: Array) -> Array:
    """Return what the least-squares line on the score leaves of the accuracies, in standard deviations of accuracy."""
    x, y = standardized(scores), standardized(accuracies)
    return y - float(np.mean(x * y)) * x


def standardized(values: Array) -> Array:
    z: Array = (values - values.mean()) / values.std()
    return z


def log_widths(archs: Mapping[str, Arch]) -> Array:
    """Return the logarithm of the width of each layer: [archs, 19]."""
    return np.log([[float(str(arch.choices[f"w{layer}"])) for layer in range(1, 20)] for arch in archs.values()])


def correlations(scores: Array, accuracies: Array, archs: Mapping[str, Arch]) -> dict[str, object]:
    """Return how the residual goes with widths and capacity, and how much of it widths explain at all."""
    left, widths, space = residual(scores, accuracies), log_widths(archs), ResNet20Space(100)
    costs = [space.complexity(arch) for arch in archs.values()]
    by_stage = {}
    for stage, layers in STAGES.items():
        columns = widths[:, [layer - 1 for layer in layers]]
        by_stage[stage] = {"all layers": pearson(columns.mean(1), left)}
        if stage != "stem":
            by_stage[stage] |= {
                "inside the blocks": pearson(columns[:, ::2].mean(1), left),
                "their outputs": pearson(columns[:, 1::2].mean(1), left),
            }
    stage_means = np.stack([widths[:, [layer - 1 for layer in layers]].mean(1) for layers in STAGES.values()], 1)
    return {
        "share of the variance of accuracy": float(left.var()),
        "correlation with mean log width": by_stage,
        "correlation with log params": pearson(np.log([cost.params for cost in costs]), left),
        "correlation with log MACs": pearson(np.log([cost.macs for cost in costs]), left),
        "share explained by the four mean log widths": explained(stage_means, left),
        "share explained by all 19 log widths": explained(widths, left),
    }


def explained(columns: Array, values: Array) -> float:
    """Return the share of variance that a linear fit explains, adjusted for its number of columns."""
    design = np.column_stack([np.ones(len(values)), columns])
    fit, *_ = np.linalg.lstsq(design, values, rcond=None)
    unexplained = np.sum((values - design @ fit) ** 2) / np.sum((values - values.mean()) ** 2)
    n, p = columns.shape
    return float(1 - unexplained * (n - 1) / (n - p - 1))


def by_accuracy(scores: Array, accuracies: Array, archs: Mapping[str, Arch]) -> dict[str, object]:
    """Return how well the worst, middle and best third rank within themselves, and the overlap of the best."""
    space = ResNet20Space(100)
    params = np.array([float(space.complexity(arch).params) for arch in archs.values()])
    order, found = np.argsort(accuracies), {}
    for name, part in zip(("worst third", "middle third", "best third"), np.array_split(order, 3), strict=True):
        found[name] = {
            "kendall": kendall_tau(scores[part], accuracies[part]),
            "kendall of params": kendall_tau(params[part], accuracies[part]),
        }
    best = len(accuracies) // 10
    overlap = {"scores": top_overlap(scores, accuracies, best), "params": top_overlap(params, accuracies, best)}
    return {**found, f"overlap of the {best} best": overlap}


def agreement(scores: Array, other: Array, accuracies: Array) -> dict[str, float]:
    """Return how two supernets agree, and how their mean ranks."""
    mean = standardized(scores) + standardized(other)
    return {
        "kendall of the other": kendall_tau(other, accuracies),
        "kendall between them": kendall_tau(scores, other),
        "correlation of residuals": pearson(residual(scores, accuracies), residual(other, accuracies)),
        "kendall of their mean": kendall_tau(mean, accuracies),
    }


def plot(scores: Array, accuracies: Array, archs: Mapping[str, Arch]) -> Figure:
    """Draw the correlation of the residual with the log width of each layer."""
    left, widths = residual(scores, accuracies), log_widths(archs)
    values = [pearson(widths[:, layer], left) for layer in range(19)]
    noise = 1.96 / np.sqrt(len(left))
    figure, axes = themed_axes(
        LIGHT, "What the score leaves unexplained", f"n = {len(left)}; band: 95 % of no correlation"
    )
    axes.axhspan(-noise, noise, color=LIGHT.grid, zorder=1)
    axes.bar(range(1, 20), values, color=[LIGHT.points if layer % 2 else LIGHT.marked for layer in range(19)], zorder=2)
    axes.set_xticks(range(1, 20))
    axes.set_xlabel("layer; blue inside a block, orange its output")
    axes.set_ylabel("correlation of residual and log width")
    return figure


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="+", help="score files of the same archs, the first one analysed")
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--json", type=Path, default=Path("residuals.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
