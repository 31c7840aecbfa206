"""The figure of a study: for each setting its runs, their mean with its interval, and the mean of the baseline."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nni_nas_consistency.ranking.plots import DARK, LIGHT, Theme, themed_axes
from nni_nas_consistency.studies.table import Row, Table

MARKS = {"higher": "higher", "lower": "lower", "equal": "equal", "unknown": ""}


def study_plot(table: Table, *, dark: bool = False) -> Figure:
    """Return a figure with one line per setting, in the order of the table from the top.

    Args:
        table: What the study found.
        dark: Use the dark theme.
    """
    theme = DARK if dark else LIGHT
    reference = table.reference
    caption = f"N = {reference.archs:,} archs · one point a seed · mean with 95 % interval · dashed: baseline"
    size = (7.2, 1.7 + 0.3 * len(table.rows))
    figure, axes = themed_axes(theme, table.study.title, caption, size=size, dpi=110)
    for place, row in enumerate(table.rows):
        _row(axes, theme, place, row, row.setting == table.study.baseline)
    axes.set_yticks(range(len(table.rows)), [row.setting for row in table.rows])
    axes.set_ylim(len(table.rows) - 0.4, -0.6)
    axes.tick_params(axis="y", labelcolor=theme.text)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("Kendall of scores and reference accuracies", color=theme.text)
    return figure


def _row(axes: Axes, theme: Theme, place: int, row: Row, is_baseline: bool) -> None:
    values = [value for result in row.results if (value := result.values["kendall"]) is not None]
    axes.scatter(values, [place] * len(values), s=16, alpha=0.6, color=theme.points, linewidths=0, zorder=4)
    mean = row.means["kendall"]
    if mean is None:
        return
    if is_baseline:
        axes.axvline(mean.mean, color=theme.muted, linewidth=1, dashes=(5, 4), zorder=1)
    if mean.low is not None and mean.high is not None:
        axes.plot([mean.low, mean.high], [place, place], color=theme.marked, linewidth=1.6)
    axes.scatter([mean.mean], [place], s=34, color=theme.marked, linewidths=0, zorder=3)
    difference = row.differences["kendall"]
    mark = "baseline" if is_baseline else "" if difference is None else MARKS[difference.verdict]
    note = axes.annotate(mark, (1, place), (6, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points")
    note.set(fontsize=8, color=theme.muted, va="center")
