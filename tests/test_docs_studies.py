"""The page of the studies: every number in it is that of a committed result file, or of a published one."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from nni_nas_consistency.studies.settings_file import published_studies, read_settings

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "studies.md").read_text()
RESULTS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "studies").glob("*.json"))}
PUBLISHED = {"0.975", "0.96"}
"""Pearson of first and fourth place."""


def section(name):
    """Return what the page says of a study: its part, up to the next heading."""
    part = PAGE[: PAGE.index(f"<!-- {name} -->")].rindex("\n## ")
    return PAGE[part:].split("\n## ")[1]


def numbers_of(study):
    """Return all numbers of a result file as the page writes them, to three digits."""
    numbers = {f"{study['reference']['split_half']:.2f}"}
    for baseline in study["reference"]["baselines"].values():
        numbers |= {f"{value:.3f}" for value in baseline.values()}
    for row in study["rows"]:
        for measure in ("kendall", "pearson", "spearman"):
            for found in (row[measure]["mean"], row[measure]["difference"]):
                values = [] if found is None else [found[key] for key in ("mean", "spread", "low", "high")]
                numbers |= {f"{value:.3f}" for value in values}
            numbers |= {f"{run[measure]:.3f}" for run in row["runs"] if run[measure] is not None}
            numbers |= {f"{difference:.3f}" for difference in differences(study, row, measure)}
        numbers |= set(re.findall(r"\d+\.\d+", row["setting"]))
    return numbers | {number.lstrip("-") for number in numbers}


def differences(study, row, measure):
    """Return the differences of the runs of a row from those of the baseline with the same seed."""
    (baseline,) = [each for each in study["rows"] if each["setting"] == study["baseline"]]
    pairs = zip(row["runs"], baseline["runs"], strict=True)
    return [own[measure] - other[measure] for own, other in pairs if None not in (own[measure], other[measure])]


def test_the_tables_are_those_of_the_result_files(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    assert import_module("studies").with_tables(PAGE) == PAGE


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_every_number_about_a_study_is_in_its_result_file(name):
    written = set(re.findall(r"(?<![\d.e-])\d+\.\d{2,}(?!\d)", section(name)))
    unknown = written - numbers_of(RESULTS[name]) - PUBLISHED
    assert written and not unknown


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_a_result_has_the_settings_of_the_study_and_five_seeds_a_row(name):
    study = read_settings(published_studies()[name])
    found = RESULTS[name]
    assert (found["study"], found["baseline"], found["published"]) == (name, study.baseline, study.published)
    assert [row["setting"] for row in found["rows"]] == list(study.settings)
    assert all([run["seed"] for run in row["runs"]] == [0, 1, 2, 3, 4] for row in found["rows"])
    assert (ROOT / "docs" / "studies" / f"{name}.png").is_file()


def test_what_bounds_all_studies_is_told_as_it_was_measured():
    for found in RESULTS.values():
        reference = found["reference"]
        assert f"a Kendall tau of {reference['split_half']:.2f}" in PAGE
        assert f"at a Kendall of {reference['baselines']['params']['kendall']:.3f}" in PAGE
        assert (reference["archs"], reference["seeds"]) == (64, 16)
    quickstart = json.loads((ROOT / "docs" / "quickstart.json").read_text())
    assert f"ranks them at {quickstart['consistency']['kendall']['value']:.3f}" in PAGE.replace("\n  ", " ")
