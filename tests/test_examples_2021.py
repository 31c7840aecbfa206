"""The examples of the competition entries of 2021, run to the end at toy size on digits, in this process."""

import json
import re
import runpy
import shlex
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import nni
import pytest
import torch
import typer
import yaml
from command import run
from helpers import keep_nni_in, random_archs
from nni import trial as nni_trial
from nni.runtime.trial_command_channel import (
    TrialCommandChannel,
    get_default_trial_command_channel,
    set_default_trial_command_channel,
)
from safetensors.torch import load_file

from nni_nas_consistency import jobs
from nni_nas_consistency.archs.codecs import DIGITS_CODEC
from nni_nas_consistency.archs.domains import DIGITS
from nni_nas_consistency.cli.main import app
from nni_nas_consistency.files.arch_lists import Entry, read_released, write_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.systems import DIGITS_8, EMBEDDED_BENCHMARK
from nni_nas_consistency.training.recipes import ANS, ANS_DIGITS, EMBEDDED

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TOY = ("--epochs", 1, "--n", 2, "--images", 160)


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def archs(tmp_path):
    archs = {f"arch{index}": arch for index, arch in enumerate(random_archs(DIGITS, 4), 1)}
    write_released(tmp_path / "list.json", {name: Entry(arch, 0) for name, arch in archs.items()})
    return archs


@pytest.mark.parametrize("page", ["ans", "nazarick"])
def test_every_command_of_the_pages_has_words_that_the_command_line_takes(page):
    lines = [line for line in (EXAMPLES / page / "README.md").read_text().splitlines() if " --out " in line]
    commands = [shlex.split(line) for line in lines if line.startswith(("nni-consistency ", "python "))]
    assert len(commands) >= 3
    for program, *words in commands:
        if program == "python":
            options = (EXAMPLES.parent / words[0]).read_text()
            assert all(f'"{word}"' in options for word in words if word.startswith("--"))
            continue
        command = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        command.make_context(command.name, list(words))


def test_the_page_of_ans_has_the_phases_of_the_recipe():
    page = (EXAMPLES / "ans" / "README.md").read_text()
    for index, phase in enumerate(ANS.phases):
        plan = phase.optimization
        (row,) = re.findall(rf"^\| {index} \| (\d+) \| (\S+) → (\S+) \| (\S+) \|", page, re.MULTILINE)
        assert tuple(map(float, row)) == (plan.epochs, plan.lr, plan.end_lr, plan.weight_decay)


def script(name, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def job_of(recipe, out, **settings):
    few = {"train_images": 160, "val_images": 20, "device": "cpu"}
    return jobs.TrainJob(EMBEDDED_BENCHMARK, DIGITS_8, recipe, out, **(few | settings))


def same_weights(one, other):
    expected, actual = load_file(one), load_file(other)
    return expected.keys() == actual.keys() and all(torch.equal(actual[name], expected[name]) for name in expected)


def test_nazarick_trains_and_scores_by_nni_what_the_command_line_trains_and_scores(tmp_path, archs, monkeypatch):
    script("nazarick/experiment.py", monkeypatch, "--archs", "list.json", "--out", "nni", *TOY)
    recipe = replace(EMBEDDED, phases=(replace(EMBEDDED.phases[0].for_epochs(1), n=2),))
    trained = jobs.train(job_of(recipe, tmp_path / "cli"), write=lambda line: None)
    assert same_weights(trained, tmp_path / "nni" / "supernet.safetensors")
    run("score", "--checkpoint", trained, "--archs", "list.json", "--images", 160, "--out", "scores.json")
    expected = {name: score for name, (_, score) in read_scores(tmp_path / "scores.json", DIGITS_CODEC).scores.items()}
    scores = {name: entry.acc for name, entry in read_released(tmp_path / "nni" / "scores.json", DIGITS_CODEC).items()}
    assert scores == pytest.approx(expected, rel=1e-5) and len(set(scores.values())) == 4


def test_ans_trains_its_five_phases_by_nni_as_the_command_line_does(tmp_path, archs, monkeypatch):
    script("ans/experiment.py", monkeypatch, "--archs", "list.json", "--out", "nni", *TOY[:-1], 32)
    run("archs", "pool", "list.json", "--space", "digits", "--every", 1, "--out", "even.json")
    run("archs", "pool", "list.json", "--space", "digits", "--random", 4, "--out", "random.json")
    recipe = replace(ANS_DIGITS, phases=tuple(replace(phase.for_epochs(1), n=2) for phase in ANS_DIGITS.phases))
    pools = {"pool": tmp_path / "even.json", "phase_pools": {4: tmp_path / "random.json"}}
    trained = jobs.train(job_of(recipe, tmp_path / "cli", train_images=32, **pools), write=lambda line: None)
    assert same_weights(trained, tmp_path / "nni" / "supernet.safetensors")


def test_the_search_of_ans_has_a_trial_for_each_pool():
    config = yaml.safe_load((EXAMPLES / "ans" / "search.yml").read_text())
    pools = config["searchSpace"]["pool"]["_value"]
    assert config["maxTrialNumber"] == len(set(pools)) == 4 and config["tuner"] == {"name": "GridSearch"}
    assert config["trialCommand"].startswith("python examples/ans/trial.py --weights ")
    assert (EXAMPLES / "ans" / config["trialCodeDirectory"]).resolve() == EXAMPLES.parent


@pytest.mark.parametrize(("pool", "names"), [("every 3", {"arch1", "arch4"}), ("random 1", {"arch4"})])
def test_a_trial_of_ans_trains_on_its_pool_and_reports_epochs_and_the_mean_accuracy(
    tmp_path, archs, monkeypatch, pool, names
):
    run("train", "--recipe", "digits", "--epochs", 1, "--n", 2, "--train-images", 64, "--set", "warmup_steps=0")
    manager = Manager({"pool": pool})
    words = ("--weights", "runs/train/supernet.safetensors", "--archs", "list.json", "--out", "pools")
    with manager.at_work():
        script("ans/trial.py", monkeypatch, *words, "--phase", 2, "--epochs", 2, "--images", 64)
    out = tmp_path / "pools" / pool.replace(" ", "-")
    assert set(read_released(out / "pool.json", DIGITS_CODEC)) == names
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["rule"], settings["epochs"], len(settings["pool"])) == ("pool-distillation", 2, 64)
    scores = [score for _, score in read_scores(out / "scores.json", DIGITS_CODEC).scores.values()]
    epochs, final = manager.metrics[:-1], manager.metrics[-1]
    assert [(kind, sequence) for kind, sequence, _ in epochs] == [("PERIODICAL", 0), ("PERIODICAL", 1)]
    assert final == ("FINAL", 0, sum(scores) / 4)


class Manager(TrialCommandChannel):
    """Stands in for NNI's manager: gives a trial its parameters, and takes what it reports under their number."""

    def __init__(self, parameters):
        self.parameters = parameters
        self.metrics = []

    def receive_parameter(self):
        return {"parameter_id": 7, "parameters": self.parameters}

    def send_metric(self, type, parameter_id, trial_job_id, sequence, value):
        assert parameter_id == 7
        self.metrics.append((type, sequence, value))

    @contextmanager
    def at_work(self):
        before = get_default_trial_command_channel(), nni_trial._params, nni_trial._intermediate_seq
        set_default_trial_command_channel(self)
        try:
            yield
        finally:
            set_default_trial_command_channel(before[0])
            nni_trial._params, nni_trial._intermediate_seq = before[1:]


def test_a_trial_reports_under_its_own_parameters_after_a_training_inside_it(tmp_path):
    manager = Manager({"lr": 0.1})
    with manager.at_work():
        nni.get_next_parameter()
        nni.report_intermediate_result(1.0)
        jobs.train(job_of(replace(EMBEDDED, phases=(ANS_DIGITS.phases[0].for_epochs(1),)), tmp_path), write=str)
        nni.report_intermediate_result(2.0)
        nni.report_final_result(3.0)
    assert manager.metrics == [("PERIODICAL", 0, 1.0), ("PERIODICAL", 1, 2.0), ("FINAL", 0, 3.0)]
