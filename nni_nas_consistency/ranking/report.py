"""The report of a ranking, with settings and provenance: as an HTML page, as JSON and as lines for a terminal.

It shows what `statistics.py` computed and computes nothing but ranks. The page is self-contained: plots are embedded,
it loads nothing and runs no script.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nni_nas_consistency.files.atomic import write_bytes_atomically, write_text_atomically
from nni_nas_consistency.files.doors import make_folder
from nni_nas_consistency.ranking.page import flat, json_value, page_template
from nni_nas_consistency.ranking.statistics import Consistency, Differences, Interval, ranks

MOST_MISRANKED = 15
"""How many archs the page lists at most, and never more than a fifth of all."""


@dataclass(frozen=True)
class Report:
    """How well scores rank archs, and where scores and reference accuracies come from.

    Args:
        title: Heading of the page.
        settings: What the scores depend on, such as the provenance of a score file; values may be nested.
        provenance: Command, machine, versions, seed of the ranking; values may be nested.
        names: Names of the archs [N].
        codes: Their released codes [N].
        scores: Their scores [N], finite, higher is better.
        reference: Their reference accuracies [N], finite.
        consistency: How well `scores` rank the archs.
        baselines: The same for scores that need no training, such as `params` and `MACs`, over the same archs.
        against: How much better than other scores `scores` rank, by name; None where there is no correlation.
        score_label: Axis label of the scores, with their unit.
        reference_label: Axis label of the reference accuracies, with their unit.

    Raises:
        ValueError: The lists differ in length, a number is not finite, or a baseline was measured over other archs or
            with another k, confidence level or kind of Pearson.
    """

    title: str
    settings: Mapping[str, object]
    provenance: Mapping[str, object]
    names: list[str]
    codes: list[str]
    scores: list[float]
    reference: list[float]
    consistency: Consistency
    baselines: Mapping[str, Consistency]
    against: Mapping[str, Differences | None] = field(default_factory=dict)
    score_label: str = "supernet score"
    reference_label: str = "reference accuracy (fraction correct)"

    def __post_init__(self) -> None:
        lengths = [len(values) for values in (self.names, self.codes, self.scores, self.reference)]
        if lengths != [self.consistency.n] * 4:
            counts = "{} names, {} codes, {} scores, {} reference accuracies".format(*lengths)
            raise ValueError(f"{counts} do not fit a consistency over {self.consistency.n} archs")
        for name, score, accuracy in zip(self.names, self.scores, self.reference, strict=True):
            if not (math.isfinite(score) and math.isfinite(accuracy)):
                raise ValueError(f"{name} has score {score} and reference {accuracy}; both must be finite")
        for name, baseline in self.baselines.items():
            if _measure(baseline) != _measure(self.consistency):
                raise ValueError(
                    f"baseline {name} has {_measure(baseline)}, the scores have {_measure(self.consistency)}; "
                    "rank the same archs with the same arguments"
                )


def write_report(report: Report, folder: Path) -> Path:
    """Write `report.json`, `scatter.png`, `ranks.png` and `report.html`; return the path of the page.

    Args:
        report: What to write.
        folder: Where to; created if it is missing, files of these names are replaced.

    Raises:
        FileError: The folder cannot be made, or a file cannot be written.
    """
    make_folder(folder)
    plots = _plots(report)
    for name in ("scatter", "ranks"):
        write_bytes_atomically(folder / f"{name}.png", plots[name])
    write_text_atomically(folder / "report.json", as_json(report))
    page = folder / "report.html"
    write_text_atomically(page, _page(report, plots))
    return page


def lines(report: Report) -> list[str]:
    """Return the report as a table in plain text: a column for the scores and one for each baseline."""
    header = ["", "supernet", *report.baselines]
    rows = [header]
    for measure, cells in _table(report):
        rows.append([measure, *(" ".join(cell) for cell in cells)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    text = []
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        text.append("   ".join(padded).rstrip())
    differences = [f"{measure} against {name}: {text}" for name, measure, text in _against(report)]
    return [report.title, "", *text, "", *differences, f"{report.consistency.n:,} archs; {_explanation(report)}"]


def as_json(report: Report) -> str:
    """Return the whole report as JSON text, with the keys in a fixed order and no NaN or infinity."""
    content = {
        "title": report.title,
        "settings": json_value(report.settings),
        "provenance": json_value(report.provenance),
        "score_label": report.score_label,
        "reference_label": report.reference_label,
        "consistency": asdict(report.consistency),
        "baselines": {name: asdict(baseline) for name, baseline in report.baselines.items()},
        "against": {name: None if found is None else asdict(found) for name, found in report.against.items()},
        "archs": _rows(report),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _page(report: Report, plots: Mapping[str, bytes]) -> str:
    rows = _rows(report)
    return page_template("report.html.j2").render(
        report=report,
        columns=["supernet", *report.baselines],
        table=_table(report),
        against=_against(report),
        explanation=_explanation(report),
        plots={name: b64encode(content).decode("ascii") for name, content in plots.items()},
        misranked=[rows[index] for index in _most_misranked(report)],
        settings=list(flat(report.settings)),
        provenance=list(flat(report.provenance)),
    )


def _plots(report: Report) -> dict[str, bytes]:
    """Return PNG files: `scatter` and `ranks`, and `scatter_dark` and `ranks_dark`."""
    from nni_nas_consistency.ranking.plots import png, rank_plot, scatter_plot  # Matplotlib takes a second to import

    note = " ".join(("Kendall", *_correlation(report.consistency, report.consistency.kendall)))
    files: dict[str, bytes] = {}
    for suffix, dark in (("", False), ("_dark", True)):
        scatter = scatter_plot(
            report.scores,
            report.reference,
            title=report.title,
            note=note,
            score_label=report.score_label,
            reference_label=report.reference_label,
            dark=dark,
        )
        by_rank = rank_plot(
            report.scores, report.reference, title=report.title, note=note, marked=_most_misranked(report), dark=dark
        )
        files |= {f"scatter{suffix}": png(scatter), f"ranks{suffix}": png(by_rank)}
    return files


def _table(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return rows of text: the measure, then value and interval for the scores and for each baseline."""
    columns = [report.consistency, *report.baselines.values()]
    pearson = "|pearson|" if report.consistency.absolute_pearson else "pearson"
    rows = [
        ("kendall", [_correlation(column, column.kendall) for column in columns]),
        (pearson, [_correlation(column, column.pearson) for column in columns]),
        ("spearman", [_correlation(column, column.spearman) for column in columns]),
    ]
    for k in report.consistency.top:
        rows.append((f"top-{k}", [(_share(column.top[k]), "") for column in columns]))
    return rows


def _against(report: Report) -> list[tuple[str, str, str]]:
    """Return rows of text: the other scores, the measure, and by how much ours rank better, with its interval."""
    rows = []
    for name, found in report.against.items():
        if found is None:
            rows.append((name, "difference", "undefined"))
            continue
        for measure, interval in (("kendall", found.kendall), ("pearson", found.pearson), ("spearman", found.spearman)):
            rows.append((name, measure, f"{interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"))
    return rows


def _correlation(consistency: Consistency, interval: Interval | None) -> tuple[str, str]:
    if interval is None:
        return "undefined", f"({consistency.undefined})"
    return f"{interval.value:.4f}", f"[{interval.low:.4f}, {interval.high:.4f}]"


def _share(share: float | None) -> str:
    return "undefined" if share is None else f"{share:.4f}"


def _explanation(report: Report) -> str:
    level = f"{100 * report.consistency.level:g}"
    return f"[low, high] is a {level} % bootstrap interval; top-k is the share of the k best that the scores find"


def _measure(consistency: Consistency) -> str:
    """Return what two columns of one table must have in common."""
    ks = ", ".join(map(str, consistency.top))
    pearson = "|pearson|" if consistency.absolute_pearson else "pearson"
    return f"n = {consistency.n}, k = {ks}, level {consistency.level}, {pearson}"


def _rows(report: Report) -> list[dict[str, str | float]]:
    """Return all that is known about each arch, in the order of the report."""
    rank_by_score, rank_by_reference = ranks(report.scores), ranks(report.reference)
    rows: list[dict[str, str | float]] = []
    for index, name in enumerate(report.names):
        row: dict[str, str | float] = {
            "name": name,
            "code": report.codes[index],
            "score": float(report.scores[index]),
            "reference": float(report.reference[index]),
            "rank_by_score": float(rank_by_score[index]),
            "rank_by_reference": float(rank_by_reference[index]),
        }
        rows.append(row)
    return rows


def _most_misranked(report: Report) -> list[int]:
    """Return the indices of the archs whose two ranks differ most, the largest difference first."""
    differences = abs(ranks(report.scores) - ranks(report.reference))
    count = min(MOST_MISRANKED, len(differences) // 5)
    return [int(index) for index in (-differences).argsort(kind="stable")[:count]]
