"""The benchmarks run as the README says, on little, and end with the figures that they promise."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAST = r"speedup_vs_plain [\d.e+]+\nspeedup_vs_nni [\d.e+]+\nmax_rel_diff [\d.e+-]+\n$"


def run(name, *options):
    command = [sys.executable, "-W", "ignore", ROOT / "benchmarks" / f"{name}.py", "--repeats", "2", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("scoring", ["--limit", "5", "--images", "16", "--random-images", "--bf16"]),
        ("training", ["--size", "digits", "--n", "4", "--images", "16", "--random-images"]),
        ("training", ["--size", "cifar100", "--n", "3", "--images", "4", "--random-images", "--step", "stacked"]),
    ],
)
def test_a_benchmark_compares_three_ways_that_agree(name, options, tmp_path):
    told = run(name, *options, "--device", "cpu", "--json", tmp_path / "times.json")
    assert re.search(LAST, told), told
    assert float(told.split()[-1]) < 1e-3
    written = json.loads((tmp_path / "times.json").read_text())
    assert {len(times) for times in written["seconds"].values()} == {2}
    assert {"plain", "nni"} < set(written["seconds"])
    for name in ("speedup_vs_plain", "speedup_vs_nni", "max_rel_diff"):
        assert f"{name} {written['figures'][name]:.4g}" in told
    assert written["machine"] and written["command"].startswith("python ") and re.match(r"\d{4}-", written["date"])


def test_overheads_are_told_for_this_project_and_for_nni():
    told = run("overheads", "--archs", "3", "--device", "cpu")
    figures = dict(line.split() for line in told.splitlines()[-6:])
    assert set(figures) == {f"{name}{way}_ms" for name in ("activate", "extract", "trial") for way in ("", "_nni")}
    for name in ("activate", "extract"):
        assert 0 < float(figures[f"{name}_ms"]) < float(figures[f"{name}_nni_ms"])


def test_consistency_scores_ranks_and_keeps_the_figures_but_no_reference_accuracy(tmp_path):
    train = ["train", "--recipe", "digits", "--data", "digits", "--epochs", "1", "--n", "3", "--train-images", "64"]
    nni_consistency(*train, "--out", tmp_path)
    reference = ROOT / "nni_nas_consistency" / "assets" / "digits" / "reference.json"
    where = ["--space", "digits", "--data", "digits", "--reference", reference, "--out", tmp_path / "found"]
    options = ["--checkpoint", tmp_path / "supernet.safetensors", *where, "--json", tmp_path / "found.json"]
    command = [sys.executable, "-W", "ignore", ROOT / "benchmarks" / "consistency.py", *options]
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "scores.json").write_text("of an earlier run")
    done = subprocess.run([*command, "--images", "50", "--flip"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "found.json").read_text())
    ranked = json.loads(
        nni_consistency("rank", tmp_path / "found/scores.json", reference, "--space", "digits", "--json")
    )
    assert written["consistency"] == ranked and ranked["scores"]["n"] == 64
    assert f"{ranked['scores']['kendall']['value']:.4f}" in done.stdout and "params" in done.stdout
    assert written["training"]["n"] == 3 and written["training"]["epochs"] == 1 and written["training"]["seconds"] > 0
    assert written["scoring"]["images"] == 50 and written["scoring"]["flip"] is True
    assert 0 < written["scoring_seconds"] < 300 and list(written["first_scores"]) == ["arch1", "arch2", "arch3"]
    accuracies = {str(arch["acc"]) for arch in json.loads(reference.read_text()).values()}
    assert not accuracies & set(re.findall(r"[\d.]+", (tmp_path / "found.json").read_text()))
    assert (tmp_path / "found" / "scatter.png").is_file()


def nni_consistency(*words):
    command = [sys.executable, "-m", "nni_nas_consistency", *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


def test_the_readme_quotes_the_committed_figures():
    readme = (ROOT / "README.md").read_text()
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        for name, value in json.loads(path.read_text())["figures"].items():
            if name.startswith("speedup"):
                assert re.search(rf"(?<![\d.]){value:.1f}×", readme), (path.name, name)
    assert len(list((ROOT / "benchmarks" / "results").glob("*.json"))) >= 4
