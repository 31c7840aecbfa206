"""The quickstart and the embedded benchmark."""

import json
from importlib.resources import files

import pytest
from helpers import keep_nni_in, tiny_space

from nni_nas_consistency.archs.codecs import DIGITS_CODEC
from nni_nas_consistency.cli.main import main
from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.ranking.statistics import kendall_tau, split_half

DIGITS = files("nni_nas_consistency") / "assets" / "digits"


@pytest.fixture(scope="module")
def reference():
    return read_released(str(DIGITS / "reference.json"), DIGITS_CODEC)


def test_a_short_quickstart_ends_with_the_three_correlations_and_the_page(tmp_path, monkeypatch, capsys, reference):
    keep_nni_in(tmp_path, monkeypatch)
    out = tmp_path / "out"
    assert main(["quickstart", "--epochs", "1", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    for word in ("kendall", "pearson", "spearman", "params", "MACs"):
        assert word in shown
    assert shown.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert (out / "supernet.safetensors").is_file() and (out / "report.html").is_file()
    report = json.loads((out / "report.json").read_text())
    scores = read_scores(out / "scores.json", DIGITS_CODEC).scores
    tau = kendall_tau([scores[name][1] for name in reference], [float(entry.acc) for entry in reference.values()])
    assert report["consistency"]["kendall"]["value"] == tau
    assert report["provenance"]["command"] == f"nni-consistency quickstart --epochs 1 --out {out}"


def test_the_benchmark_spreads_over_capacity_and_params_alone_do_not_rank_it(reference):
    space = tiny_space()
    params = [space.complexity(entry.arch).params for entry in reference.values()]
    accuracies = [float(entry.acc) for entry in reference.values()]
    assert len(reference) >= 64 and max(params) > 10 * min(params) and max(accuracies) > 0.95
    assert abs(kendall_tau(params, accuracies)) < 0.8


def test_the_stated_reliability_follows_from_the_shipped_accuracies(reference):
    about = json.loads((DIGITS / "about.json").read_text())
    table = list(about["accuracies"].values())
    assert len(table[0]) == about["seeds"] >= 4
    assert about["split_half_kendall_tau"] == split_half(table) >= 0.85
    means = {name: sum(row) / len(row) for name, row in about["accuracies"].items()}
    assert {name: float(entry.acc) for name, entry in reference.items()} == pytest.approx(means, abs=1e-12)
