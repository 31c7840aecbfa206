"""Takes finished studies into docs/studies, and writes their tables into docs/studies.md.

    python benchmarks/studies.py runs/studies/*

copies `table.json` and `study.png` of every folder, and writes between `<!-- NAME -->` and `<!-- end -->` of the page
what the JSON holds, and the figure. Without folders it only writes the tables again.
"""

import json
import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "studies.md"
FOLDER = DOCS / "studies"


def main() -> None:
    for folder in map(Path, sys.argv[1:]):
        if not (folder / "table.json").is_file():
            continue
        shutil.copy(folder / "table.json", FOLDER / f"{folder.name}.json")
        shutil.copy(folder / "study.png", FOLDER / f"{folder.name}.png")
    PAGE.write_text(with_tables(PAGE.read_text()))


def with_tables(page: str) -> str:
    """Return the page with the tables of all studies that are there."""
    for path in sorted(FOLDER.glob("*.json")):
        table = markdown(json.loads(path.read_text()))
        begin = f"<!-- {path.stem} -->\n"
        page = re.sub(
            rf"{begin}.*?<!-- end -->", lambda _, b=begin, t=table: f"{b}{t}<!-- end -->", page, flags=re.DOTALL
        )
    return page


def markdown(study: dict) -> str:
    """Return the table of a study as Markdown, and its figure."""
    lines = [
        "| setting | seeds | Kendall | to baseline | | Pearson | to baseline | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in study["rows"]:
        failed = sum(run["failed"] is not None for run in row["runs"])
        cells = [row["setting"], f"{len(row['runs'])}" + (f", {failed} failed" if failed else "")]
        for measure in ("kendall", "pearson"):
            cells += [mean_of(row[measure]["mean"]), *difference_of(row, study["baseline"], measure)]
        lines.append(f"| {' | '.join(cells)} |")
    figure = f"![Kendall of each run, with the mean of each setting and its interval](studies/{study['study']}.png)"
    return "\n".join([*lines, "", figure]) + "\n"


def mean_of(mean: dict | None) -> str:
    return "none" if mean is None else f"{mean['mean']:.3f} ± {mean['spread']:.3f}"


def difference_of(row: dict, baseline: str, measure: str) -> tuple[str, str]:
    difference = row[measure]["difference"]
    if row["setting"] == baseline:
        return "baseline", ""
    if difference is None:
        return "none", ""
    shown = f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
    return shown, difference["verdict"]


if __name__ == "__main__":
    main()
