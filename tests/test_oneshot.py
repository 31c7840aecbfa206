"""SandwichStrategy with the real NNI experiment and the real Lightning trainer."""

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import keep_nni_in
from nni.nas.evaluator.pytorch import Classification, DataLoader
from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

from nni_nas_consistency.images.augmentation import DIGITS_TRAIN
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.nni3.experiment import RetiariiExperiment
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.strategies.oneshot import NonFiniteLoss, SandwichStrategy
from nni_nas_consistency.strategies.sampling import PoolSampler, spread_archs
from nni_nas_consistency.supernet.active import active_subnet
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.training.lightning import TrainingRun, training_evaluator
from nni_nas_consistency.training.recipes import Optimization

SHORT = Optimization(epochs=2, batch_size=32, lr=0.1, warmup_steps=3, weight_decay=1e-4)
QUIET = {"write": lambda line: None, "accelerator": "cpu"}


@pytest.fixture(autouse=True)
def home_is_temporary(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)


def evaluator_for(folder, optimization=SHORT, images=96, **settings):
    run = TrainingRun(folder, **(QUIET | settings))
    train = digits(train=True).first(images)
    return training_evaluator(optimization, train, DIGITS_TRAIN, digits(train=False).first(40), seed=5, run=run)


def trained(folder, strategy, evaluator=None):
    torch.manual_seed(3)
    space = ResNet20Space(10, 1, 8, width_unit=1)
    RetiariiExperiment(space, evaluator or evaluator_for(folder), strategy).run()
    return strategy


def weights_of(strategy):
    return {name: tensor.clone() for name, tensor in strategy.supernet.state_dict().items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    differing = [name for name in left if not torch.equal(left[name], right[name])]
    assert not differing


def test_two_runs_with_one_seed_agree_bit_for_bit_and_another_seed_differs(tmp_path):
    first, second = (trained(tmp_path / name, SandwichStrategy(4, seed=1)) for name in "ab")
    assert_same(weights_of(first), weights_of(second))
    other = weights_of(trained(tmp_path / "c", SandwichStrategy(4, seed=2)))
    assert any(not torch.equal(other[name], tensor) for name, tensor in weights_of(first).items())


def test_a_trained_supernet_is_trained_on(tmp_path):
    strategy = trained(tmp_path / "first", SandwichStrategy(n=3))
    before = weights_of(strategy)
    again = SandwichStrategy(n=3)
    frozen = dataclasses.replace(SHORT, lr=0.0)
    RetiariiExperiment(strategy.supernet, evaluator_for(tmp_path / "second", frozen), again).run()
    after = weights_of(again)
    parameters = [name for name, _ in again.supernet.named_parameters()]
    assert_same({name: before[name] for name in parameters}, {name: after[name] for name in parameters})


def test_training_lowers_the_loss_of_all_watched_archs(tmp_path):
    long = dataclasses.replace(SHORT, epochs=6, lr=0.2)
    evaluator = evaluator_for(tmp_path, long, images=600)
    trained(tmp_path, SandwichStrategy(4), evaluator)
    metrics = evaluator.trainer.callback_metrics
    named = {name for name in metrics if name.startswith("val_acc/")}
    assert named == {f"val_acc/{name}" for name in ("largest", "smallest", "arch1", "arch2", "arch3", "arch4")}
    assert metrics["train_loss"] < 2.2
    assert metrics["val_acc/largest"] > 0.2


@pytest.mark.parametrize("step", ["stacked", "sliced"])
def test_both_ways_to_run_a_step_train_the_same_supernet(tmp_path, step):
    once = dataclasses.replace(SHORT, epochs=1)
    results = [
        weights_of(trained(tmp_path / way, SandwichStrategy(4, step=way), evaluator_for(tmp_path / way, once)))
        for way in ("auto", step)
    ]
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n", [1, 6])
def test_single_paths_and_accumulated_paths_are_arguments_of_the_same_strategy(tmp_path, n):
    torch.manual_seed(3)
    untrained = make_supernet(ResNet20Space(10, 1, 8, width_unit=1)).state_dict()
    strategy = trained(tmp_path, SandwichStrategy(n, sandwich=False, distill=False))
    assert strategy.oneshot_module.always == []
    assert not torch.equal(strategy.supernet.state_dict()["stages.0.conv.weight"], untrained["stages.0.conv.weight"])


def test_only_the_archs_of_the_given_sampler_are_trained(tmp_path):
    torch.manual_seed(3)
    untrained = make_supernet(ResNet20Space(10, 1, 8, width_unit=1)).state_dict()
    smallest = ResNet20Space(10, 1, 8, width_unit=1).smallest
    sampler = PoolSampler([smallest], torch.Generator())
    plan = dataclasses.replace(SHORT, weight_decay=0.0)
    strategy = SandwichStrategy(1, sampler=sampler, sandwich=False, distill=False)
    weights = weights_of(trained(tmp_path, strategy, evaluator_for(tmp_path, plan)))
    name = "stages.0.conv.weight"
    assert not torch.equal(weights[name][:1], untrained[name][:1])
    assert torch.equal(weights[name][1:], untrained[name][1:])


def test_bf16_mixed_precision_changes_the_arithmetic_and_keeps_float32_weights(tmp_path):
    one_step = dataclasses.replace(SHORT, epochs=1, batch_size=96)
    mixed, plain = (
        weights_of(trained(folder, SandwichStrategy(4), evaluator_for(folder, one_step, precision=precision)))
        for folder, precision in [(tmp_path / "mixed", "bf16-mixed"), (tmp_path / "plain", "32-true")]
    )
    convolutions = [name for name in plain if name.endswith("conv.weight")]
    assert {mixed[name].dtype for name in convolutions} == {torch.float32}
    assert any(not torch.equal(mixed[name], plain[name]) for name in convolutions)
    for name in convolutions:
        torch.testing.assert_close(mixed[name], plain[name], rtol=0.05, atol=0.01)


def test_clipping_bounds_every_update_and_the_trainers_setting_wins(tmp_path):
    one_step = Optimization(epochs=1, batch_size=96, lr=1.0, warmup_steps=0, weight_decay=0.0, momentum=0.0)
    torch.manual_seed(3)
    untrained = make_supernet(ResNet20Space(10, 1, 8, width_unit=1))
    before = [tensor.clone() for tensor in untrained.parameters()]
    for name, own, trainers, expected in [("own", 1e-3, None, 1e-3), ("trainer", 1e-3, 5e-4, 5e-4)]:
        evaluator = evaluator_for(tmp_path / name, one_step)
        evaluator.trainer.gradient_clip_val = trainers
        strategy = trained(tmp_path / name, SandwichStrategy(4, grad_clip=own), evaluator)
        moved = [now - then for now, then in zip(strategy.supernet.parameters(), before, strict=True)]
        assert float(torch.cat([change.flatten() for change in moved]).norm()) == pytest.approx(expected, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_with_step_arch_and_checkpoint_and_leaves_the_weights(tmp_path):
    evaluator = evaluator_for(tmp_path, checkpoint_steps=1)
    strategy = SandwichStrategy(3)
    poisoned = Poisoned(evaluator.train_dataloaders, at=2)
    evaluator.train_dataloaders = poisoned
    with pytest.raises(NonFiniteLoss) as caught:
        trained(tmp_path, strategy, evaluator)
    space = ResNet20Space(10, 1, 8, width_unit=1)
    assert f"the loss of arch {space.largest.code} is nan at step 2;" in str(caught.value)
    assert "last good checkpoint: " + str(tmp_path / "checkpoints" / "last.ckpt") in str(caught.value)
    assert all(torch.isfinite(tensor).all() for tensor in strategy.supernet.parameters())


class Poisoned:
    """Batches of which one has an image that is not a number."""

    def __init__(self, batches, at):
        self.batches, self.at = batches, at

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for index, (images, labels) in enumerate(self.batches):
            yield (images * float("nan") if index == self.at else images), labels


@pytest.mark.parametrize("often", [["--epochs", "3", "--checkpoint-steps", "1"], ["--epochs", "9"]])
def test_a_run_killed_at_a_random_moment_resumes_to_the_same_weights_and_counts_its_seconds_on(tmp_path, often):
    command = [sys.executable, "-m", "nni_nas_consistency", "train", "--recipe", "digits", "--data", "digits"]
    command += ["--n", "3", "--train-images", "320", "--val-images", "20", *often]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([*command, "--out", whole], check=True, capture_output=True, timeout=200)

    with subprocess.Popen([*command, "--out", broken], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        first = broken / "checkpoints" / "last.ckpt"
        deadline = time.monotonic() + 120
        while not first.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 1.0))
        assert run.poll() is None, "the run ended before it could be killed"
        run.send_signal(signal.SIGKILL)
    assert not (broken / "supernet.safetensors").exists()
    state = torch.load(first, weights_only=False)
    state["callbacks"]["Timer"]["time_elapsed"]["train"] += 1000
    torch.save(state, first)
    subprocess.run([*command, "--out", broken, "--resume"], check=True, capture_output=True, timeout=200)
    assert_same(load_file(whole / "supernet.safetensors"), load_file(broken / "supernet.safetensors"))
    assert 0 < seconds_of(whole) < 200 and 1000 < seconds_of(broken) < 1200
    assert [path.name for path in first.parent.iterdir()] == ["last.ckpt"]


def seconds_of(folder):
    with safe_open(folder / "supernet.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["about"])["seconds"]


def test_it_trains_under_nnis_own_classification_evaluator(tmp_path):
    data = digits(train=True).first(64)
    loader = DataLoader(TensorDataset(data.x.float() / 255, data.y), batch_size=16)
    evaluator = Classification(
        num_classes=10,
        learning_rate=0.01,
        train_dataloaders=loader,
        val_dataloaders=loader,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        accelerator="cpu",
    )
    trained(tmp_path, SandwichStrategy(3), evaluator)
    assert 0 <= evaluator.trainer.callback_metrics["val_acc"] <= 1
    assert "val_acc/smallest" in evaluator.trainer.callback_metrics


def test_the_strategy_hands_out_subnets_of_what_it_trained(tmp_path):
    strategy = trained(tmp_path, SandwichStrategy(3))
    supernet = strategy.supernet.eval()
    (arch,) = spread_archs(supernet.domain, 1, torch.Generator().manual_seed(1))
    fresh = ResNet20Space(10, 1, 8, width_unit=1).freeze(supernet.sample(arch)).eval()
    fresh.load_state_dict(strategy.sub_state_dict(arch), strict=True)
    images = torch.randn(4, 1, 8, 8)
    with active_subnet(supernet, arch):
        expected = supernet(images)
    torch.testing.assert_close(fresh(images), expected)
    torch.testing.assert_close(strategy.supernet.freeze(supernet.sample(arch))(images), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 1}, "n is 1; it must be at least 2 with sandwich=True"),
        ({"n": 0, "sandwich": False, "distill": False}, "n is 0; it must be at least 1 with sandwich=False"),
        ({"sandwich": False}, "distill=True needs sandwich=True: the largest arch is the teacher"),
        ({"step": "fast"}, "step is 'fast'; allowed are 'auto', 'stacked', 'sliced'"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(arguments, message):
    with pytest.raises(ValueError) as caught:
        SandwichStrategy(**arguments)
    assert str(caught.value) == message


def test_warm_up_is_linear_per_step_and_the_cosine_falls_per_epoch():
    plan = Optimization(epochs=4, batch_size=8, lr=0.1, warmup_steps=4, weight_decay=0.0)
    factors = [plan.lr_factor(step, steps_per_epoch=8) for step in range(32)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:8] == [1.0] * 4
    assert factors[8:16] == pytest.approx([0.8535534] * 8)
    assert factors[24:] == pytest.approx([0.1464466] * 8)
