"""The supernet that comes with the package: its file, the figures told of it, and that it scores as they say."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import shared_data

from nni_nas_consistency.archs.arch import RESNET20
from nni_nas_consistency.errors import CheckpointError
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.supernet.checkpoint import load_supernet, weights_sha256
from nni_nas_consistency.supernet.make import make_supernet

ROOT = Path(__file__).resolve().parents[1]
NAME = "resnet20-cifar100"
DATA = Path(str(files("nni_nas_consistency"))) / "assets"
TOLD = json.loads((DATA / f"{NAME}.json").read_text())
MEASURED = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "measured").glob("*.json"))}


def test_the_supernet_is_loaded_by_its_name_and_is_the_one_of_the_figures():
    supernet = make_supernet(ResNet20Space(100))
    assert load_supernet(Path(NAME), supernet) == TOLD["training"]
    assert weights_sha256(supernet) == TOLD["scoring"]["weights"]
    assert (DATA / f"{NAME}.safetensors").stat().st_size < 5_000_000


def test_a_file_of_that_name_comes_first_and_unknown_names_list_what_is_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"^missing: .* come with the package: {NAME}"):
        load_supernet(Path("missing"), make_supernet(ResNet20Space(100)))
    Path(NAME).write_text("no supernet")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_supernet(Path(NAME), make_supernet(ResNet20Space(100)))


def test_by_all_three_correlations_the_shipped_supernet_is_ahead_of_params_and_macs():
    scores, params, macs = (TOLD["consistency"][name] for name in ("scores", "params", "MACs"))
    assert scores["n"] == 300 and TOLD["scoring"]["images"] == 10_000
    for measure in ("kendall", "pearson", "spearman"):
        assert scores[measure]["low"] > max(params[measure]["value"], macs[measure]["value"])


def test_no_committed_figure_names_a_folder_of_the_machine():
    for told in (TOLD, *MEASURED.values()):
        assert not re.search(r"[\" ]/\w", json.dumps(told))


def test_the_shipped_supernet_scores_the_real_list_as_the_figures_say(tmp_path):
    archs = shared_data("cvpr2021", "reference_accuracies_300.json")
    build = shared_data("cifar100", "build.py")
    subprocess.run([sys.executable, build, tmp_path], check=True, timeout=120, cwd=build.parent, capture_output=True)
    words = ["score", "--checkpoint", NAME, "--data-root", tmp_path, "--archs", archs, "--limit", 3]
    command = [sys.executable, "-m", "nni_nas_consistency", *words, "--out", tmp_path / "scores.json"]
    subprocess.run(list(map(str, command)), check=True, timeout=500)
    written = read_scores(tmp_path / "scores.json", RESNET20)
    assert written.provenance["weights"] == TOLD["scoring"]["weights"]
    scores = {name: score for name, (_, score) in written.scores.items()}
    assert scores == pytest.approx(TOLD["first_scores"], rel=1e-4) and len(scores) == 3


def lineage():
    """Return what is told of the trainings that made the shipped supernet, the last one first."""
    trainings = [TOLD["training"]]
    while "trained_on_from" in trainings[-1]:
        trainings.append(trainings[-1]["trained_on_from"])
    return trainings


def options(command):
    """Return the options of a command and their values, but for where the data comes from and whether it goes on."""
    words = shlex.split(command.partition(" train ")[2])
    given = {(word, value) for word, value in pairwise([*words, ""]) if word.startswith("--")}
    return {(word, value) for word, value in given if word not in ("--data", "--download", "--resume")}


def test_make_reproduce_trains_what_is_shipped(tmp_path):
    (tmp_path / "reference.json").touch()
    command = ["make", "--dry-run", "--always-make", "reproduce", f"REFERENCE={tmp_path / 'reference.json'}"]
    environment = {"PATH": os.environ["PATH"]}  # not what a make around this test hands on
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment, timeout=60)
    trainings = [options(line) for line in done.stdout.splitlines() if " train " in line]
    assert trainings == [options(about["command"]) for about in reversed(lineage())]


def cells(interval):
    """Return a correlation as the tables write it."""
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


@pytest.mark.parametrize("page", ["README.md", "docs/measured.md"])
def test_the_table_of_results_is_what_the_shipped_figures_hold(page):
    text = (ROOT / page).read_text()
    for column in TOLD["consistency"].values():
        assert f"| {cells(column['pearson'])} | {cells(column['kendall'])} | 300 |" in text
    trained = sum(about["seconds"] for about in lineage())
    assert f"| {trained / 60:.0f} min | {TOLD['scoring_seconds'] / 60:.0f} min |" in text


def test_the_first_half_of_the_shipped_supernet_is_told_of_too():
    first = MEASURED["short"]
    assert first["training"] == lineage()[-1] == TOLD["training"]["trained_on_from"]
    minutes = f"| {first['training']['seconds'] / 60:.0f} min | {first['scoring_seconds'] / 60:.0f} min |"
    assert minutes in (ROOT / "docs" / "measured.md").read_text()


def test_every_figure_of_the_page_is_in_a_committed_file():
    text = (ROOT / "docs" / "measured.md").read_text()
    assert len(MEASURED) >= 5
    for name, told in MEASURED.items():
        (row,) = [line for line in text.splitlines() if f"](measured/{name}.json)" in line]
        found = told["consistency"]["scores"]
        assert f"| {cells(found['pearson'])} | {cells(found['kendall'])} |" in row
        if seconds := re.search(r"\| (\d+) s \|$", row):  # a way to score the first half of the shipped supernet
            assert int(seconds[1]) == round(told["scoring_seconds"])
            assert told["scoring"]["weights"] == MEASURED["short"]["scoring"]["weights"]
    quoted = set(re.findall(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", text))
    known = {
        cells(column[measure])
        for told in (TOLD, *MEASURED.values())
        for column in told["consistency"].values()
        for measure in ("kendall", "pearson", "spearman")
    }
    published = {"0.975 [0.971, 0.978]"}  # the 1st place's submission
    assert quoted <= known | published
