"""The two plots of a report, scores against reference accuracies and ranks against ranks; and scores against costs.

Matplotlib's object-oriented interface on the Agg canvas: no pyplot, no global state, no display. The colours are the
colour-blind safe palette of Okabe and Ito (2008); each plot has a light and a dark theme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import ArrayLike

from nni_nas_consistency.ranking.statistics import ranks


@dataclass(frozen=True)
class Theme:
    """The colours of a plot, as hexadecimal RGB."""

    background: str
    text: str
    muted: str
    grid: str
    points: str
    marked: str


LIGHT = Theme("#ffffff", "#1b1f24", "#667079", "#e6e9ec", "#0072b2", "#d55e00")
DARK = Theme("#171b21", "#e6e9ec", "#98a2ad", "#2b323b", "#56b4e9", "#e69f00")


def scatter_plot(
    scores: ArrayLike,
    reference: ArrayLike,
    *,
    title: str,
    note: str = "",
    score_label: str = "supernet score",
    reference_label: str = "reference accuracy (fraction correct)",
    dark: bool = False,
) -> Figure:
    """Return a scatter plot with one point per arch: reference accuracy on the x axis, score on the y axis.

    Args:
        scores: Scores [N].
        reference: Reference accuracies [N], paired with `scores`.
        title: Title of the plot.
        note: Text after the number of archs in the caption, such as a correlation.
        score_label: Label of the y axis, with its unit.
        reference_label: Label of the x axis, with its unit.
        dark: Use the dark theme.
    """
    theme = DARK if dark else LIGHT
    x, y = np.asarray(reference, np.float64), np.asarray(scores, np.float64)
    figure, axes = themed_axes(theme, title, _caption(len(x), note))
    _points(axes, x, y, theme.points)
    axes.set_xlabel(reference_label, color=theme.text, parse_math=False)
    axes.set_ylabel(score_label, color=theme.text, parse_math=False)
    return figure


def rank_plot(
    scores: ArrayLike,
    reference: ArrayLike,
    *,
    title: str,
    note: str = "",
    marked: Sequence[int] = (),
    dark: bool = False,
) -> Figure:
    """Return a plot of rank by score against rank by reference, with one point per arch, and the diagonal.

    Rank 1, the best, is at the top right, where the scatter plot has its best archs too.

    Args:
        scores: Scores [N].
        reference: Reference accuracies [N], paired with `scores`.
        title: Title of the plot.
        note: Text after the number of archs in the caption.
        marked: Indices of archs to highlight in another colour.
        dark: Use the dark theme.
    """
    theme = DARK if dark else LIGHT
    x, y = ranks(reference), ranks(scores)
    figure, axes = themed_axes(theme, title, _caption(len(x), note))
    axes.plot([1, len(x)], [1, len(x)], color=theme.muted, linewidth=1, dashes=(5, 4), zorder=2)
    unmarked = np.setdiff1d(np.arange(len(x)), np.asarray(marked, np.intp))
    _points(axes, x[unmarked], y[unmarked], theme.points)
    axes.scatter(x[list(marked)], y[list(marked)], s=26, color=theme.marked, linewidths=0)
    _rank_axes(axes, len(x))
    axes.set_xlabel("rank by reference accuracy (1 is best)", color=theme.text)
    axes.set_ylabel("rank by score (1 is best)", color=theme.text)
    return figure


def pareto_plot(
    costs: ArrayLike,
    scores: ArrayLike,
    chosen: Sequence[int],
    *,
    title: str,
    cost_label: str,
    score_label: str = "supernet score",
    dark: bool = False,
) -> Figure:
    """Return a plot of score against cost with one point per arch, and the Pareto set as steps in another colour.

    Args:
        costs: Costs [N].
        scores: Scores [N], paired with `costs`.
        chosen: Indices of the Pareto set, the cheapest first.
        title: Title of the plot.
        cost_label: Label of the x axis, with its unit.
        score_label: Label of the y axis, with its unit.
        dark: Use the dark theme.
    """
    theme = DARK if dark else LIGHT
    x, y = np.asarray(costs, np.float64), np.asarray(scores, np.float64)
    figure, axes = themed_axes(theme, title, _caption(len(x), f"{len(chosen):,} in the Pareto set"))
    _points(axes, x, y, theme.points)
    axes.step(x[list(chosen)], y[list(chosen)], where="post", color=theme.marked, linewidth=1.2, zorder=3)
    axes.scatter(x[list(chosen)], y[list(chosen)], s=26, color=theme.marked, linewidths=0, zorder=4)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_xlabel(cost_label, color=theme.text, parse_math=False)
    axes.set_ylabel(score_label, color=theme.text, parse_math=False)
    return figure


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file without date or version, so that the same figure gives the same bytes."""
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _caption(count: int, note: str) -> str:
    text = f"N = {count:,} archs"
    return f"{text} · {note}" if note else text


def themed_axes(
    theme: Theme, title: str, caption: str, *, size: tuple[float, float] = (5.4, 5.4), dpi: int = 180
) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes, in the style of all plots.

    Args:
        theme: Its colours.
        title: Above the plot.
        caption: Below the title.
        size: Width and height in inches.
        dpi: Pixels per inch.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.14)
    figure = Figure(figsize=size, dpi=dpi, layout=layout, facecolor=theme.background)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=theme.background)
    heading = axes.set_title(
        fill(title, round(46 * size[0] / 5.4)), loc="left", pad=24, color=theme.text, parse_math=False
    )
    heading.set(fontsize=11, fontweight="bold")
    below = axes.annotate(caption, (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points")
    below.set(fontsize=9, color=theme.muted, parse_math=False)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.grid)
    axes.tick_params(colors=theme.muted, length=0, pad=6)
    return figure, axes


def _points(axes: Axes, x: ArrayLike, y: ArrayLike, colour: str) -> None:
    # The more archs, the smaller and the more transparent the points, from 500 archs on.
    crowd = max(1.0, np.size(x) / 500)
    axes.scatter(x, y, s=max(3.0, 26 / crowd**0.5), alpha=max(0.12, 0.6 / crowd**0.4), color=colour, linewidths=0)


def _rank_axes(axes: Axes, count: int) -> None:
    round_ranks = MaxNLocator(6, integer=True).tick_values(1, count)
    ticks = [1, *(tick for tick in round_ranks if 1 < tick <= count)]
    margin = 0.03 * count + 0.2
    labels = [f"{tick:,.0f}" for tick in ticks]
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    axes.set_xlim(count + margin, 1 - margin)
    axes.set_ylim(count + margin, 1 - margin)
    axes.set_aspect("equal")
