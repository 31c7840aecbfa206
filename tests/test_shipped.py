"""The supernet that comes with the package: its file, that it scores as its report says, and how it is made anew."""

import json
import os
import shlex
import subprocess
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from codes import shared_data

from nni_nas_consistency.archs.codecs import RESNET20_CODEC
from nni_nas_consistency.cli.main import main
from nni_nas_consistency.errors import CheckpointError
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.supernet.checkpoint import load_supernet, weights_sha256
from nni_nas_consistency.supernet.make import make_supernet

ROOT = Path(__file__).resolve().parents[1]
NAME = "resnet20-cifar100"
ASSETS = Path(str(files("nni_nas_consistency"))) / "assets"
REPORT = json.loads((ASSETS / f"{NAME}.json").read_text())
WEIGHTS = "5e2f58fc334143a8277db48590ca563088be4eedf4137ffc83b830ed719b9f3b"


def test_the_supernet_is_loaded_by_its_name_and_is_the_one_of_the_report():
    supernet = make_supernet(ResNet20Space(100))
    assert load_supernet(Path(NAME), supernet) == REPORT["training"]
    assert weights_sha256(supernet) == REPORT["scoring"]["weights"] == WEIGHTS
    assert (ASSETS / f"{NAME}.safetensors").stat().st_size < 5_000_000


def test_a_file_of_that_name_comes_first_and_unknown_names_list_what_is_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"^missing: .* come with the package: {NAME}"):
        load_supernet(Path("missing"), make_supernet(ResNet20Space(100)))
    Path(NAME).write_text("no supernet")
    with pytest.raises(CheckpointError, match="^resnet20-cifar100: is not a supernet checkpoint; "):
        load_supernet(Path(NAME), make_supernet(ResNet20Space(100)))


def test_the_shipped_supernet_scores_the_real_list_as_its_report_says(tmp_path, cifar100_root):
    archs, out = shared_data("cvpr2021", "reference_accuracies_300.json"), tmp_path / "scores.json"
    words = ["score", "--checkpoint", NAME, "--data-root", cifar100_root, "--archs", archs, "--limit", 2, "--out", out]
    assert main(list(map(str, [*words, "--device", "cpu"]))) == 0
    written = read_scores(out, RESNET20_CODEC)
    scores = {name: score for name, (_, score) in written.scores.items()}
    assert list(scores) == ["arch1", "arch2"]
    assert scores == pytest.approx({name: REPORT["first_scores"][name] for name in scores}, rel=1e-6)
    assert written.provenance["checkpoint"] == REPORT["training"]
    of_the_whole_list = ("archs", "blocks", "scorer")  # of which two archs are scored here
    reported = {key: value for key, value in REPORT["scoring"].items() if key not in of_the_whole_list}
    assert reported.items() <= written.provenance.items()


def lineage():
    """Return what is reported of the trainings that made the shipped supernet, the last one first."""
    trainings = [REPORT["training"]]
    while "trained_on_from" in trainings[-1]:
        trainings.append(trainings[-1]["trained_on_from"])
    return trainings


def options(command):
    """Return the options of a command and their values, except where the data comes from and whether it resumes."""
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
