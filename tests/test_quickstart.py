"""The quickstart and the embedded benchmark."""

import json

from helpers import keep_nni_in

from nni_nas_consistency.archs.arch import DIGITS
from nni_nas_consistency.cli.quickstart import digits_reference, run_quickstart
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.ranking.statistics import kendall_tau, split_half
from nni_nas_consistency.spaces.resnet20 import ResNet20Space


def test_a_short_quickstart_ends_with_the_three_correlations_and_the_page(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    told = run_quickstart(tmp_path / "out", epochs=1)
    text = "\n".join(told)
    for word in ("kendall", "pearson", "spearman", "params", "MACs"):
        assert word in text
    assert told[-1] == f"report: {tmp_path / 'out' / 'report.html'}"
    assert (tmp_path / "out" / "supernet.safetensors").is_file()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    scores = read_scores(tmp_path / "out" / "scores.json", DIGITS).scores
    reference = digits_reference()
    names = list(reference)
    tau = kendall_tau([scores[name][1] for name in names], [float(reference[name].acc) for name in names])
    assert report["consistency"]["kendall"]["value"] == tau


def test_the_benchmark_spreads_over_capacity_and_is_reliable():
    reference = digits_reference()
    space = ResNet20Space(10, 1, 8, width_unit=1)
    params = [space.complexity(entry.arch).params for entry in reference.values()]
    assert len(reference) >= 64
    assert max(params) > 10 * min(params)
    assert max(float(entry.acc) for entry in reference.values()) > 0.95
    assert abs(kendall_tau(params, [float(entry.acc) for entry in reference.values()])) < 0.8


def test_the_stated_reliability_follows_from_the_shipped_accuracies():
    from importlib.resources import files

    about = json.loads((files("nni_nas_consistency") / "assets" / "digits" / "about.json").read_text())
    table = list(about["accuracies"].values())
    assert len(table[0]) == about["seeds"] >= 4
    assert about["split_half_kendall_tau"] == split_half(table) >= 0.85
    means = {name: sum(row) / len(row) for name, row in about["accuracies"].items()}
    for name, entry in digits_reference().items():
        assert abs(float(entry.acc) - means[name]) < 1e-12
