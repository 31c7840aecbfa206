"""The supernet that comes with the package: its file, and that it scores as its report says.

What README and docs say of it: tests/docs_check.py.
"""

import json
import os
import runpy
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
DATA = Path(str(files("nni_nas_consistency"))) / "assets"
TOLD = json.loads((DATA / f"{NAME}.json").read_text())


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
    with pytest.raises(CheckpointError, match=f"^{NAME}: is no supernet checkpoint"):
        load_supernet(Path(NAME), make_supernet(ResNet20Space(100)))


def test_the_shipped_supernet_scores_the_real_list_as_the_figures_say(tmp_path):
    archs = shared_data("cvpr2021", "reference_accuracies_300.json")
    runpy.run_path(str(shared_data("cifar100", "build.py")))["main"](str(tmp_path))
    words = ["score", "--checkpoint", NAME, "--data-root", tmp_path, "--archs", archs, "--limit", 2]
    assert main([*map(str, words), "--out", str(tmp_path / "scores.json")]) == 0
    written = read_scores(tmp_path / "scores.json", RESNET20_CODEC)
    assert written.provenance["weights"] == TOLD["scoring"]["weights"]
    for name in ("arch1", "arch2"):
        assert written.scores[name][1] == pytest.approx(TOLD["first_scores"][name], rel=1e-4)


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
