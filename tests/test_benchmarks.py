"""The benchmarks run at toy size and end with the figures that they promise; that they are right is for the README."""

import json
import os
import re
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import pytest
from helpers import keep_nni_in, random_archs

from nni_nas_consistency.archs.codecs import DIGITS_CODEC
from nni_nas_consistency.archs.domains import RESNET20
from nni_nas_consistency.cli.main import main
from nni_nas_consistency.files.arch_lists import Entry, read_released, write_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.ranking.statistics import kendall_tau

ROOT = Path(__file__).resolve().parents[1]
LAST_LINES = r"speedup_vs_plain [\d.e+-]+\nspeedup_vs_nni [\d.e+-]+\nmax_rel_diff [\d.e+-]+\n$"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a benchmark in this process and return what it printed."""
    keep_nni_in(tmp_path / "home", monkeypatch)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def run(name, *options):
        monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", *map(str, options)])
        capsys.readouterr()
        import_module(name).main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("scoring", ["--archs", "{archs}", "--limit", "4", "--images", "8", "--bf16", "--same-process"]),
        ("training", ["--size", "digits", "--n", "4", "--images", "16"]),
        ("training", ["--size", "cifar100", "--n", "3", "--images", "4", "--step", "stacked"]),
        ("training", ["--size", "digits", "--n", "4", "--images", "16", "--step", "threads"]),
    ],
)
def test_a_benchmark_compares_three_ways_that_agree(name, options, tmp_path, run):
    archs = {f"arch{i}": Entry(arch, 0) for i, arch in enumerate(random_archs(RESNET20, 9), 1)}
    write_released(tmp_path / "list.json", archs)
    options = [option.format(archs=tmp_path / "list.json") for option in options]
    path = tmp_path / "times.json"
    shown = run(name, *options, "--random-images", "--repeats", 2, "--device", "cpu", "--json", path)
    assert re.search(LAST_LINES, shown), shown
    assert float(shown.split()[-1]) < 1e-3
    written = json.loads(path.read_text())
    assert {len(times) for times in written["seconds"].values()} == {2}
    assert {"plain", "nni"} < set(written["seconds"])
    for figure in ("speedup_vs_plain", "speedup_vs_nni", "max_rel_diff"):
        assert f"{figure} {written['figures'][figure]:.4g}" in shown
    assert written["machine"] and written["command"].startswith("python ") and re.match(r"\d{4}-", written["date"])


def test_overheads_are_measured_for_this_project_and_for_nni(run):
    shown = run("overheads", "--archs", 2, "--repeats", 1, "--device", "cpu")
    figures = dict(line.split() for line in shown.splitlines()[-6:])
    assert set(figures) == {f"{name}{way}_ms" for name in ("activate", "extract", "trial") for way in ("", "_nni")}


def test_variants_in_processes_take_turns_and_return_their_results(tmp_path, monkeypatch, capsys):
    module = "import os\n\ndef prepare(name, options):\n    return lambda: (name, os.getpid())\n"
    (tmp_path / "two_variants.py").write_text(module)  # of its own, so that its processes need not load torch
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    prepare, interleaved_processes = (
        import_module("two_variants").prepare,
        import_module("timing").interleaved_processes,
    )
    seconds, results = interleaved_processes(prepare, ["one", "two"], Namespace(repeats=2, device="cpu"))
    assert {name: len(times) for name, times in seconds.items()} == {"one": 2, "two": 2}
    assert {name for name, _ in results.values()} == {"one", "two"} == set(results)
    assert len({os.getpid(), *(pid for _, pid in results.values())}) == 3
    turns = [line.split()[2] for line in capsys.readouterr().err.splitlines()]
    assert turns == ["one", "two", "one", "two"]


def test_consistency_scores_ranks_and_keeps_the_figures_but_no_reference_accuracy(tmp_path, run):
    training = [
        "train",
        "--recipe",
        "digits",
        "--epochs",
        "1",
        "--n",
        "3",
        "--train-images",
        "64",
        "--set",
        "warmup_steps=0",
    ]
    assert main([*training, "--val-images", "20", "--out", str(tmp_path)]) == 0
    path = ROOT / "nni_nas_consistency" / "assets" / "digits" / "reference.json"
    out = tmp_path / "found"
    out.mkdir()
    (out / "scores.json").write_text("of an earlier run")
    options = ["--checkpoint", tmp_path / "supernet.safetensors", "--reference", path, "--out", out]
    shown = run("consistency", *options, "--images", 50, "--flip", "--json", tmp_path / "found.json")

    written = json.loads((tmp_path / "found.json").read_text())
    reference = read_released(path, DIGITS_CODEC)
    scores = {name: score for name, (_, score) in read_scores(out / "scores.json", DIGITS_CODEC).scores.items()}
    tau = kendall_tau([scores[name] for name in reference], [float(entry.acc) for entry in reference.values()])
    assert written["consistency"]["scores"]["kendall"]["value"] == tau and f"{tau:.4f}" in shown
    assert set(written["consistency"]) == {"scores", "params", "MACs"}
    assert written["consistency"]["scores"]["n"] == 64
    assert written["training"]["n"] == 3 and written["training"]["epochs"] == 1 and written["training"]["seconds"] > 0
    assert written["scoring"]["images"] == 50 and written["scoring"]["flip"] is True
    assert written["scoring_seconds"] > 0
    assert written["first_scores"] == {name: scores[name] for name in ("arch1", "arch2", "arch3")}
    accuracies = {str(entry.acc) for entry in reference.values()}
    assert not accuracies & set(re.findall(r"[\d.]+", (tmp_path / "found.json").read_text()))
    assert (out / "scatter.png").is_file()
