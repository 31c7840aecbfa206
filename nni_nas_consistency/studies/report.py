"""The report of a study: as an HTML page, as JSON and as lines for a terminal. It shows what `table.py` computed."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from nni_nas_consistency.files.atomic import write_bytes_atomically, write_text_atomically
from nni_nas_consistency.files.doors import make_folder
from nni_nas_consistency.ranking.page import flat, json_value, page_template
from nni_nas_consistency.studies.results import MEASURES
from nni_nas_consistency.studies.table import LEVEL, Estimate, Row, Table


def write_report(table: Table, folder: Path) -> Path:
    """Write `table.json`, `study.png` and `study.html`; return the path of the page.

    Args:
        table: What to write.
        folder: Where to; created if it is missing, files of these names are replaced.

    Raises:
        FileError: The folder cannot be made, or a file cannot be written.
    """
    from nni_nas_consistency.ranking.plots import png  # Matplotlib takes a second to import
    from nni_nas_consistency.studies.plots import study_plot

    make_folder(folder)
    plots = {"light": png(study_plot(table)), "dark": png(study_plot(table, dark=True))}
    write_text_atomically(folder / "table.json", as_json(table))
    write_bytes_atomically(folder / "study.png", plots["light"])
    page = folder / "study.html"
    write_text_atomically(page, _page(table, plots))
    return page


def lines(table: Table) -> list[str]:
    """Return the table as plain text, with what bounds it."""
    cells = [header(), *(cells_of(row, row.setting == table.study.baseline) for row in table.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    text = []
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        text.append("   ".join(padded).rstrip())
    return [table.study.title, "", *text, "", *notes(table)]


def header() -> list[str]:
    """Return the headings of the columns."""
    return ["setting", "seeds", "kendall", "to baseline", "", "pearson", "to baseline", "", "s a run"]


def cells_of(row: Row, is_baseline: bool) -> list[str]:
    """Return the texts of a row."""
    failed = f", {len(row.failed)} failed" if row.failed else ""
    cells = [row.setting, f"{len(row.results)}{failed}"]
    for measure in ("kendall", "pearson"):
        difference = row.differences[measure]
        shown = "baseline" if is_baseline else _difference(difference)
        cells += [_mean(row.means[measure]), shown, "" if difference is None else difference.verdict]
    return [*cells, "" if row.seconds is None else f"{row.seconds:.1f}"]


def notes(table: Table) -> list[str]:
    """Return what has to be known to read the table, one sentence a line."""
    compared = len(table.rows) - 1
    level = f"{100 * LEVEL:g}"
    text = [
        f"mean ± standard deviation over seeds; [low, high] is the {level} % interval (Student's t) of the difference "
        "from the baseline with the same seed; where it holds 0, rows are called equal.",
        f"Of {compared} such intervals {compared * (1 - LEVEL):.2g} would miss 0 by chance if all rows were the same.",
        _reliability(table),
    ]
    if table.study.published:
        text.append(f"Published: {table.study.published}")
    finished = sum(len(row.results) for row in table.rows)
    if finished < table.wanted * len(table.rows):
        text.append(f"Not finished: {finished} of {table.wanted * len(table.rows)} runs.")
    return text


def _reliability(table: Table) -> str:
    reference = table.reference
    baselines = []
    for name, values in reference.baselines.items():
        baselines.append(f"{name} {_number(values['kendall'])}")
    known = "how reliable they are is not known"
    if reference.split_half is not None:
        known = (
            f"two halves of their {reference.seeds} seeds agree at a Kendall tau of {reference.split_half:.2f}, and no "
            "score can be expected to agree much better with their mean"
        )
    return (
        f"{reference.archs} archs with reference accuracies: {known}. Kendall without training: {', '.join(baselines)}."
    )


def as_json(table: Table) -> str:
    """Return the whole table as JSON text, with the keys in a fixed order and no NaN or infinity."""
    content = {
        "study": table.study.name,
        "title": table.study.title,
        "published": table.study.published,
        "baseline": table.study.baseline,
        "level": LEVEL,
        "seeds": table.wanted,
        "reference": asdict(table.reference),
        "rows": [_row(row) for row in table.rows],
        "settings": json_value(table.settings),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _row(row: Row) -> dict[str, object]:
    runs = []
    for result in row.results:
        runs.append({"seed": result.seed, **result.values, "seconds": dict(result.seconds), "failed": result.failed})
    found: dict[str, object] = {"setting": row.setting}
    for measure in MEASURES:
        mean, difference = row.means[measure], row.differences[measure]
        found[measure] = {
            "mean": None if mean is None else asdict(mean),
            "difference": None if difference is None else {**asdict(difference), "verdict": difference.verdict},
        }
    return {**found, "runs": runs}


def _page(table: Table, plots: Mapping[str, bytes]) -> str:
    rows = [cells_of(row, row.setting == table.study.baseline) for row in table.rows]
    return page_template("study.html.j2").render(
        table=table,
        header=header(),
        rows=rows,
        notes=notes(table),
        plots={name: b64encode(content).decode("ascii") for name, content in plots.items()},
        settings=list(flat(table.settings)),
    )


def _mean(mean: Estimate | None) -> str:
    if mean is None:
        return "none"
    return f"{mean.mean:.4f}" if mean.spread is None else f"{mean.mean:.4f} ± {mean.spread:.4f}"


def _difference(difference: Estimate | None) -> str:
    if difference is None:
        return "none"
    if difference.low is None or difference.high is None:
        return f"{difference.mean:+.4f}"
    return f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
