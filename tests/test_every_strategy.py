"""Every strategy of NNI on our spaces, as docs/strategies.md tells: what works runs, the rest is refused at once."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import nni
import pytest
import torch
from helpers import keep_nni_in, tiny_space
from nni.mutable import CategoricalMultiple
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.experiment import NasExperiment
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace
from nni.nas.strategy import (
    DARTS,
    ENAS,
    TPE,
    GridSearch,
    GumbelDARTS,
    PolicyBasedRL,
    Proxyless,
    Random,
    RandomOneShot,
    RegularizedEvolution,
)
from test_strategies_oneshot import evaluator_for, small_batch
from torch import nn

from nni_nas_consistency import RetiariiExeConfig, RetiariiExperiment, SandwichStrategy
from nni_nas_consistency.archs.autoformer import TOY
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.spaces.autoformer import autoformer_space
from nni_nas_consistency.spaces.efficient_cifar import EfficientCifarSpace
from nni_nas_consistency.spaces.resnet48 import ResNet48Space
from nni_nas_consistency.spaces.spos_cifar import SposCifarSpace

TESTS = Path(__file__).resolve().parent
TIANSHOU = os.environ.get("TIANSHOU", "")
"""A folder with tianshou 0.4.11, which is imported in a process of its own: its gym prints on every import."""

PAGE = (TESTS.parent / "docs" / "strategies.md").read_text()


@pytest.fixture(autouse=True)
def nni_writes_to_a_temporary_folder(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)


class Layers(ModelSpace):
    """Two choices between layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        kernels = [nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 5, padding=2)]
        self.first = LayerChoice(kernels, label="first")
        self.second = LayerChoice([nn.Conv2d(4, 4, 3, padding=1), nn.Identity()], label="second")
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.second(self.first(self.stem(x)).relu()).mean((2, 3)))


class Inputs(ModelSpace):
    """A choice of two out of three inputs."""

    def __init__(self):
        super().__init__()
        self.inputs = InputChoice(3, n_chosen=2, label="inputs")
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.inputs([x, x, x]).flatten(1))


def resnet48():
    return ResNet48Space(10, 1, 8, width_divisor=8)


SPACES = {
    "ResNet20Space": tiny_space,
    "ResNet48Space": resnet48,
    "spos-cifar": lambda: SposCifarSpace(10, 1, 8, 3, 4, 5, 6),
    "its blocks": lambda: SposCifarSpace(10, 1, 8, 3, 4, 5, 6, "blocks"),
    "efficient-cifar": lambda: EfficientCifarSpace(10, 1, 8),
    "AutoFormer": lambda: autoformer_space(TOY, (10, 1, 8)),
    "layers": Layers,
}
ONE_SHOT = {
    "RandomOneShot": RandomOneShot,
    "DARTS": DARTS,
    "GumbelDARTS": GumbelDARTS,
    "Proxyless": Proxyless,
    "ENAS": ENAS,
    "SandwichStrategy": lambda: SandwichStrategy(1, rule="multi-path"),
}
MULTI_TRIAL = {
    "Random": lambda: Random(seed=0),
    "GridSearch": lambda: GridSearch(seed=0),
    "RegularizedEvolution": lambda: RegularizedEvolution(population_size=2, sample_size=2, seed=0),
    "TPE": TPE,
}
VALUES = "Proxyless chooses between layers, and {} has choices of values"
REFUSED = {
    ("RandomOneShot", "ResNet48Space"): "cannot run ResNet48Space, in which whole blocks may be absent",
    ("Proxyless", "ResNet20Space"): VALUES.format("links.0.conv.conv of ResNet20Space"),
    ("Proxyless", "ResNet48Space"): VALUES.format("links.0.conv.conv of ResNet48Space"),
    ("Proxyless", "efficient-cifar"): VALUES.format("links.0.conv.conv of EfficientCifarSpace"),
    ("Proxyless", "AutoFormer"): VALUES.format("patch_embed of AutoFormer"),
    ("TPE", "its blocks"): "TPE draws one of several values, and skip of SposCifarSpace is a CategoricalMultiple: use",
} | {("ENAS", space): "ENAS of NNI 3.0 cannot load batches under Lightning 2.6" for space in SPACES}


def test_the_table_of_the_docs_is_what_is_tested():
    (head,) = [line for line in PAGE.splitlines() if line.startswith("| strategy |")]
    assert [cell.strip(" *") for cell in head.split("|")[2:-2]] == list(SPACES)
    for name in [*ONE_SHOT, *MULTI_TRIAL, "PolicyBasedRL"]:
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| {name} |")]
        cells = [cell.strip() for cell in row.split("|")[2:-2]]
        assert cells == ["refused" if (name, space) in REFUSED else "yes" for space in SPACES]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("strategy", ONE_SHOT)
def test_one_shot_strategies_train_or_are_refused_before_anything_is_changed(strategy, space):
    torch.manual_seed(0)
    model_space = SPACES[space]()
    before = [name for name, _ in model_space.named_parameters()]
    weights = {name: value.clone() for name, value in model_space.state_dict().items()}
    experiment = RetiariiExperiment(model_space, evaluator_for(*small_batch(), lr=0.1), ONE_SHOT[strategy]())
    if (strategy, space) in REFUSED:
        with pytest.raises(InputError, match=REFUSED[strategy, space]) as refusal:
            experiment.run()
        assert "\n" not in str(refusal.value)
        assert [name for name, _ in model_space.named_parameters()] == before
        assert all(torch.equal(model_space.state_dict()[name], value) for name, value in weights.items())
        return
    assert experiment.run()
    if strategy != "SandwichStrategy":
        (best,) = experiment.export_top_models(formatter="dict")
        assert set(best) == set(SPACES[space]().simplify())


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("strategy", MULTI_TRIAL)
def test_multi_trial_strategies_submit_archs_of_the_space(strategy, space, tmp_path):
    seen = []

    def evaluate(model):
        seen.append(model)
        nni.report_final_result(float(len(seen)))

    config = in_this_process(trials=3)
    exploring = MULTI_TRIAL[strategy]()
    experiment = RetiariiExperiment(SPACES[space](), FunctionalEvaluator(evaluate), exploring, config)
    if (strategy, space) in REFUSED:
        with pytest.raises(InputError, match=REFUSED[strategy, space]):
            experiment.run()
        return
    assert experiment.run()
    assert len(seen) == 3
    assert len({str(model.sample) for model in exploring.list_models()}) > 1
    (best,) = experiment.export_top_models(formatter="dict")
    assert set(best) == set(SPACES[space]().simplify())


def test_nnis_grid_search_submits_one_sample_again_and_again(tmp_path):
    samples = []
    for kind in (NasExperiment, RetiariiExperiment):
        strategy = GridSearch(seed=0)
        config = in_this_process(trials=3).canonical_copy()
        config.experiment_working_directory = tmp_path
        experiment = kind(tiny_space(), FunctionalEvaluator(report_one), strategy, config)
        assert experiment.run()
        experiment.stop()
        samples.append({str(model.sample) for model in strategy.list_models(sort=False)})
    theirs, ours = samples
    assert (len(theirs), len(ours)) == (1, 3)


def report_one(model):
    nni.report_final_result(1.0)


def test_choices_of_several_are_refused_where_a_strategy_draws_one():
    space = Inputs()
    assert isinstance(space.simplify()["inputs"], CategoricalMultiple)
    with pytest.raises(InputError, match="TPE draws one of several values, and inputs of Inputs is a CategoricalMult"):
        RetiariiExperiment(space, FunctionalEvaluator(print), TPE(), in_this_process()).run()


def in_this_process(trials=1):
    return RetiariiExeConfig(execution_engine="sequential", model_format="raw", max_trial_number=trials)


@pytest.mark.skipif(not TIANSHOU, reason="TIANSHOU names no folder of tianshou 0.4.11: .ci/run makes one")
def test_reinforcement_learning_submits_archs_of_every_space_and_learns_from_their_results(tmp_path):
    path = os.pathsep.join([TIANSHOU, str(TESTS), str(TESTS.parent)])
    environment = os.environ | {"PYTHONPATH": path, "HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", TESTS / "reinforcement.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        space: {"trials": 4, "labels": True, "the policy has learned": True} for space in SPACES
    }


@pytest.mark.skipif(importlib.util.find_spec("tianshou") is not None, reason="tianshou is installed")
def test_reinforcement_learning_says_what_is_missing_and_the_docs_say_which_version():
    with pytest.raises(ImportError, match='`tianshou` is required .* "pip install tianshou"'):
        PolicyBasedRL()
    assert "pip install --no-deps tianshou==0.4.11" in PAGE


def test_trials_that_ask_for_a_gpu_which_is_not_there_are_refused_before_nnis_manager_starts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = RetiariiExeConfig("local", trial_gpu_number=1, max_trial_number=1)
    config.training_service.use_active_gpu = True
    experiment = RetiariiExperiment(tiny_space(), FunctionalEvaluator(print), Random(), config)
    with pytest.raises(InputError, match="trial_gpu_number is 1, and this machine has no GPU: trials would wait for"):
        experiment.run(port=1)
