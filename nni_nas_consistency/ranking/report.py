"""A report: how well scores rank archs, with settings and provenance, as a page, as JSON and as plain lines.

It shows numbers that `ranking` made and computes none but the ranks themselves. The page stands alone: pictures
are inside it, it loads nothing and runs no script. Where the numbers come from is the caller's to say.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from nni_nas_consistency.files.lists import write_text_atomically
from nni_nas_consistency.ranking.plots import png, rank_plot, scatter_plot
from nni_nas_consistency.ranking.statistics import Consistency, Interval, ranks

CORRELATIONS = ("kendall", "pearson", "spearman")
WORST = 15


@dataclass(frozen=True)
class Report:
    """What one ranking of archs is and where it comes from.

    Args:
        title: Heading of the page.
        settings: What the scores depend on, name to printable value.
        provenance: Command, versions, date, seed: name to printable value.
        names: Names of the archs [N].
        codes: Their released codes [N].
        scores: Their scores [N], finite, higher is better.
        reference: Their reference accuracies [N], finite.
        consistency: How well `scores` rank the archs.
        baselines: The same for other scores of the same archs, such as `params` and `MACs`.
        score_label: What a score is, with its unit, as the axis says it.
        reference_label: What a reference accuracy is, with its unit.

    Raises:
        ValueError: Lists of other lengths, a number that is not finite, or a baseline over other archs, k or level.
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
    score_label: str = "supernet score"
    reference_label: str = "reference accuracy (fraction correct)"

    def __post_init__(self) -> None:
        lengths = [len(values) for values in (self.names, self.codes, self.scores, self.reference)]
        if lengths != [self.consistency.n] * 4:
            told = "{} names, {} codes, {} scores, {} reference accuracies".format(*lengths)
            raise ValueError(f"{told} do not fit a consistency over {self.consistency.n} archs")
        for name, score, accuracy in zip(self.names, self.scores, self.reference, strict=True):
            if not (math.isfinite(score) and math.isfinite(accuracy)):
                raise ValueError(f"{name} has score {score} and reference {accuracy}; both must be finite")
        for name, baseline in self.baselines.items():
            if _measure(baseline) != _measure(self.consistency):
                raise ValueError(
                    f"baseline {name} has (n, k, level) {_measure(baseline)}, the scores {_measure(self.consistency)}; "
                    "rank the same archs with the same settings"
                )


def write_report(report: Report, folder: Path) -> Path:
    """Write `report.json`, `scatter.png`, `ranks.png` and `report.html`; return the path of the page.

    Args:
        report: What to write.
        folder: Where to; made if it is missing, files of these names are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(report)
    for name in ("scatter", "ranks"):
        (folder / f"{name}.png").write_bytes(pictures[name])
    write_text_atomically(folder / "report.json", as_json(report))
    page = folder / "report.html"
    write_text_atomically(page, _page(report, pictures))
    return page


def lines(report: Report) -> list[str]:
    """Return the report as a table in plain text: a column for the scores and one a baseline."""
    columns = {"supernet": report.consistency, **report.baselines}
    rows = [["", *columns], *([name, *map(" ".join, cells)] for name, cells in _table(report))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    text = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [report.title, "", *text, "", f"{report.consistency.n:,} archs; {_explanation(report)}"]


def as_json(report: Report) -> str:
    """Return everything in the report as JSON text: keys in a fixed order, every number finite."""
    content = {
        "title": report.title,
        "settings": {name: _plain(value) for name, value in report.settings.items()},
        "provenance": {name: _plain(value) for name, value in report.provenance.items()},
        "score_label": report.score_label,
        "reference_label": report.reference_label,
        "consistency": asdict(report.consistency),
        "baselines": {name: asdict(baseline) for name, baseline in report.baselines.items()},
        "archs": _archs(report),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _page(report: Report, pictures: Mapping[str, bytes]) -> str:
    environment = Environment(
        loader=PackageLoader("nni_nas_consistency", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    archs = _archs(report)
    return environment.get_template("report.html.j2").render(
        report=report,
        columns=["supernet", *report.baselines],
        table=_table(report),
        explanation=_explanation(report),
        pictures={name: b64encode(content).decode("ascii") for name, content in pictures.items()},
        worst=[archs[index] for index in _worst(report)],
    )


def _pictures(report: Report) -> dict[str, bytes]:
    """Return PNG files: `scatter` and `ranks`, and `…_dark` of both."""
    note = " ".join(("Kendall", *_interval(report.consistency.kendall)))
    pictures: dict[str, bytes] = {}
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
            report.scores, report.reference, title=report.title, note=note, marked=_worst(report), dark=dark
        )
        pictures |= {f"scatter{suffix}": png(scatter), f"ranks{suffix}": png(by_rank)}
    return pictures


def _table(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return rows of text: the measure, then value and interval for the scores and for each baseline."""
    columns = [report.consistency, *report.baselines.values()]
    rows = [(name, [_interval(_correlations(column)[name]) for column in columns]) for name in CORRELATIONS]
    return rows + [(f"top-{k}", [(f"{column.top[k]:.4f}", "") for column in columns]) for k in report.consistency.top]


def _correlations(consistency: Consistency) -> dict[str, Interval]:
    return dict(zip(CORRELATIONS, (consistency.kendall, consistency.pearson, consistency.spearman), strict=True))


def _interval(interval: Interval) -> tuple[str, str]:
    return f"{interval.value:.4f}", f"[{interval.low:.4f}, {interval.high:.4f}]"


def _explanation(report: Report) -> str:
    level = f"{100 * report.consistency.level:g}"
    return f"[low, high] is a {level} % bootstrap interval; top-k is the share of the k best that the scores find"


def _measure(consistency: Consistency) -> tuple[int, list[int], float]:
    return consistency.n, list(consistency.top), consistency.level


def _archs(report: Report) -> list[dict[str, str | float]]:
    rows = zip(
        report.names,
        report.codes,
        map(float, report.scores),
        map(float, report.reference),
        ranks(report.scores).tolist(),
        ranks(report.reference).tolist(),
        strict=True,
    )
    keys = ("name", "code", "score", "reference", "rank_by_score", "rank_by_reference")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def _worst(report: Report) -> list[int]:
    """Return the indices of the archs whose two ranks differ most, the largest difference first."""
    away = abs(ranks(report.scores) - ranks(report.reference))
    return [int(index) for index in (-away).argsort(kind="stable")[:WORST]]


def _plain(value: object) -> object:
    """Return a value that JSON knows, as it is; any other, and a number that is not finite, as text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)
