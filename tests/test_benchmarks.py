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


def test_the_readme_quotes_the_committed_figures():
    readme = (ROOT / "README.md").read_text()
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        for name, value in json.loads(path.read_text())["figures"].items():
            if name.startswith("speedup"):
                assert re.search(rf"(?<![\d.]){value:.1f}×", readme), (path.name, name)
    assert len(list((ROOT / "benchmarks" / "results").glob("*.json"))) >= 4
