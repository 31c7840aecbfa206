"""`make docs-check`: every number in README and docs is in a committed result file. CI runs this beside the tests."""

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ASSETS = Path(str(files("nni_nas_consistency"))) / "assets"
README = (ROOT / "README.md").read_text()
MEASURED_PAGE = (ROOT / "docs" / "measured.md").read_text()
SPEED_PAGE = (ROOT / "docs" / "speed.md").read_text()
BENCHMARK_PAGE = (ROOT / "docs" / "benchmark.md").read_text()
HOW_TO_READ = (ROOT / "docs" / "tutorials" / "rank-report.md").read_text()
SHIPPED = json.loads((ASSETS / "resnet20-cifar100.json").read_text())
MEASURED = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "measured").glob("*.json"))}
BENCHMARKS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "benchmarks" / "results").glob("*.json")}
MEASURES = ("kendall", "pearson", "spearman")
PUBLISHED = {"0.975 [0.971, 0.978]"}
"""The submission of the first place."""


def cells(interval):
    """Return a correlation as the tables write it."""
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def trainings(about):
    """Return the training that `about` describes, and those that it started from, the last one first."""
    found = [about]
    while "trained_on_from" in found[-1]:
        found.append(found[-1]["trained_on_from"])
    return found


def minutes(seconds):
    return f"{seconds / 60:.0f} min"


@pytest.mark.parametrize("page", [README, HOW_TO_READ], ids=["README", "rank-report"])
def test_the_quickstart_table_is_the_committed_report(page):
    report = json.loads((ROOT / "docs" / "quickstart.json").read_text())
    for name in MEASURES:
        columns = [report["consistency"][name], *(baseline[name] for baseline in report["baselines"].values())]
        shown = [f"{column['value']:.4f} [{column['low']:.4f}, {column['high']:.4f}]" for column in columns]
        assert f"{name:<11}{'   '.join(shown)}\n" in page


def test_a_page_tells_how_the_embedded_benchmark_was_made():
    about = json.loads((ASSETS / "digits" / "about.json").read_text())
    assert about["command"] in BENCHMARK_PAGE
    assert f"{about['seeds']} seeds" in BENCHMARK_PAGE
    for page in (BENCHMARK_PAGE, HOW_TO_READ):
        assert f"{about['split_half_kendall_tau']:.2f}" in page


def test_the_table_of_results_is_the_report_of_the_shipped_supernet():
    for column in SHIPPED["consistency"].values():
        assert f"| {cells(column['pearson'])} | {cells(column['kendall'])} | 300 |" in MEASURED_PAGE
    trained = sum(about["seconds"] for about in trainings(SHIPPED["training"]))
    assert f"| {minutes(trained)} | {minutes(SHIPPED['scoring_seconds'])} |" in MEASURED_PAGE


def test_the_readme_has_the_figures_of_the_shipped_supernet_and_of_counting_parameters():
    text = " ".join(README.split())
    scores, params = (SHIPPED["consistency"][name] for name in ("scores", "params"))
    assert f"a Kendall tau of {cells(scores['kendall'])} and a Pearson of {cells(scores['pearson'])}" in text
    assert f"reaches {params['kendall']['value']:.3f} and {params['pearson']['value']:.3f}" in text
    seconds = sum(about["seconds"] for about in trainings(SHIPPED["training"]))
    assert f"trained for {seconds / 60:.0f} minutes" in text


def test_the_shipped_supernet_is_ahead_of_params_and_macs_by_all_three_correlations():
    scores, params, macs = (SHIPPED["consistency"][name] for name in ("scores", "params", "MACs"))
    assert scores["n"] == 300 and SHIPPED["scoring"]["images"] == 10_000
    for measure in MEASURES:
        assert scores[measure]["low"] > max(params[measure]["value"], macs[measure]["value"])


def test_the_first_half_of_the_shipped_supernet_is_on_the_page_too():
    first = MEASURED["short"]
    assert first["training"] == trainings(SHIPPED["training"])[-1]
    assert f"| {minutes(first['training']['seconds'])} | {minutes(first['scoring_seconds'])} |" in MEASURED_PAGE


@pytest.mark.parametrize("name", MEASURED)
def test_every_measurement_has_its_row(name):
    measured = MEASURED[name]
    (row,) = [line for line in MEASURED_PAGE.splitlines() if f"](measured/{name}.json)" in line]
    found = measured["consistency"]["scores"]
    assert f"| {cells(found['pearson'])} | {cells(found['kendall'])} |" in row
    seconds = re.search(r"\| (\d+) s \|$", row)
    if seconds:  # one of the ways to score the first half of the shipped supernet
        assert int(seconds[1]) == round(measured["scoring_seconds"])
        assert measured["scoring"]["weights"] == MEASURED["short"]["scoring"]["weights"]


def test_every_correlation_of_the_page_is_in_a_committed_file():
    known = {
        cells(column[measure])
        for report in (SHIPPED, *MEASURED.values())
        for column in report["consistency"].values()
        for measure in MEASURES
    }
    quoted = set(re.findall(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", README + MEASURED_PAGE))
    assert quoted and quoted <= known | PUBLISHED


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_the_page_on_speed_quotes_the_speedups_of_the_benchmarks(name):
    speedups = {key: value for key, value in BENCHMARKS[name]["figures"].items() if key.startswith("speedup")}
    for key, value in speedups.items():
        assert re.search(rf"(?<![\d.]){value:.1f}×", SPEED_PAGE), key


@pytest.mark.parametrize("count", [256, 512, 1024, 2048, 4096])
def test_the_page_on_image_choice_quotes_its_benchmark(count):
    page = (ROOT / "docs" / "decisions" / "0019-image-choice.md").read_text()
    chosen, random = (
        BENCHMARKS["image-choice"]["figures"][f"kendall_{way}_of_{count}"] for way in ("chosen", "random")
    )
    assert f"| {count:,} | {chosen:.3f} | {random:.3f} |".replace("| 0.", "| .") in page


def test_the_page_on_the_capacity_prior_quotes_its_benchmark():
    page = (ROOT / "docs" / "decisions" / "0034-capacity-prior.md").read_text().replace("*", "")
    rows = re.findall(r"^\| ([\d.]+) \| (\.\d+) \| (?:\+(\.\d+) to \+(\.\d+))? ?\|", page, re.MULTILINE)
    assert len(rows) == 8
    for weight, kendall, low, high in rows:
        figures = BENCHMARKS["capacity-prior"]["figures"][weight]
        assert f"{figures['kendall']:.3f}" == f"0{kendall}"
        assert not low or [f"{end:.3f}" for end in figures["difference"]] == [f"0{low}", f"0{high}"]


@pytest.mark.parametrize(("column", "name"), [(1, "24-epochs"), (2, "36-epochs")])
def test_the_page_on_what_is_left_quotes_its_figures(column, name):
    figures = json.loads((ROOT / "docs" / "residuals" / f"{name}.json").read_text())
    page = (ROOT / "docs" / "residuals.md").read_text().replace("−", "-")
    rows = [[cell.strip() for cell in line.split("|")[1:]] for line in page.splitlines() if line.startswith("| ")]
    told = {row[0]: row[column] for row in rows}
    left, places = figures["residual"], figures["by accuracy"]
    widths = left["correlation with mean log width"]
    for row, stage in [("residual and mean log width of stage 1", "stage 1"), ("of stage 2", "stage 2")]:
        assert float(told[row]) == pytest.approx(widths[stage]["all layers"], abs=0.006)
    assert float(told["of stage 3"]) == pytest.approx(widths["stage 3"]["all layers"], abs=0.006)
    shares = {
        "share of the variance of accuracy that the score leaves": left["share of the variance of accuracy"],
        "of the residual, explained by the four mean log widths": left["share explained by the four mean log widths"],
        "by all 19 log widths": left["share explained by all 19 log widths"],
        "the 30 best found among the 30 best by score": places["overlap of the 30 best"]["scores"],
    }
    for row, share in shares.items():
        assert float(told[row].rstrip(" %")) == pytest.approx(100 * share, abs=0.5), row
    for third in ("worst", "middle", "best"):
        assert float(told[f"the {third} third"]) == pytest.approx(places[f"{third} third"]["kendall"], abs=0.001)


def test_the_page_of_legs_quotes_its_ranks():
    ranks = json.loads((ROOT / "docs" / "residuals" / "ranks.json").read_text())
    page = " ".join((ROOT / "docs" / "legs.md").read_text().replace("−", "-").split())

    def told(of: dict, sign: str = "") -> str:
        return f"{of['value']:{sign}.3f} [{of['low']:{sign}.3f}, {of['high']:{sign}.3f}]"

    for of in ranks.values():
        assert f"{told(of['scores']['kendall'])} | {told(of['scores']['pearson'])}" in page
    for name in ("moving average", "last weights"):
        assert told(ranks[name]["against"]["version 0.1"]["kendall"], "+") in page
    for measure in ("kendall", "pearson"):
        assert told(ranks["moving average"]["against"]["last weights"][measure], "+") in page


def test_no_committed_report_names_a_folder_of_the_machine():
    for report in (SHIPPED, *MEASURED.values(), *BENCHMARKS.values()):
        assert not re.search(r"[\" ]/\w", json.dumps(report))
