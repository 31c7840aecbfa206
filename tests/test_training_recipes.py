"""Schedules and averaged weights of training recipes."""

from dataclasses import replace

import pytest
import torch
from command import run
from helpers import keep_nni_in
from safetensors.torch import load_file

from nni_nas_consistency import jobs
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.systems import EMBEDDED_BENCHMARK
from nni_nas_consistency.training.lightning import training_evaluator
from nni_nas_consistency.training.recipes import EMBEDDED, Optimization
from nni_nas_consistency.training.run import TrainingRun

STEPS = 10
OPEN = Optimization(epochs=8, batch_size=32, lr=0.4, warmup_steps=5, weight_decay=0.0, decay_epochs=2)


@pytest.fixture(scope="module", autouse=True)
def nni_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        keep_nni_in(tmp_path_factory.mktemp("home"), patch)
        yield


def test_warm_up_constant_decay_is_constant_until_the_decay_and_ends_at_0():
    factors = [OPEN.lr_factor(step, STEPS) for step in range(80)]
    assert factors[:5] == [0, 0.2, 0.4, 0.6, 0.8]
    assert set(factors[5:61]) == {1.0}
    assert factors[70] == pytest.approx(0.5)
    assert factors[79] == pytest.approx(0.00616, abs=1e-5)  # ½ (1 + cos(0.95 π))


def test_a_constant_rate_does_not_depend_on_the_length():
    constant = replace(OPEN, decay_epochs=0)
    assert constant.for_epochs(80) == replace(constant, epochs=80)
    assert {constant.lr_factor(step, STEPS) for step in range(5, 80)} == {1.0}


def test_a_warm_up_in_epochs_that_is_as_long_as_the_training_is_refused_with_the_way_out():
    plan = Optimization(
        epochs=2, batch_size=30, lr=0.1, warmup_steps=0, warmup_epochs=2, weight_decay=0.0, drop_last=True
    )
    with pytest.raises(
        InputError, match="a warm-up of 6 steps is not shorter than .* 6 steps: .* --set warmup_epochs=0"
    ):
        plan.check_warm_up(100)
    replace(plan, warmup_epochs=1.9).check_warm_up(100)


def test_a_supernet_is_trained_on_whole_batches_at_a_rate_for_their_size(tmp_path):
    phase = EMBEDDED.phases[0]
    plan = replace(phase.optimization, epochs=1, warmup_steps=0, lr=0.5, lr_batch=16, drop_last=True)
    run_of = TrainingRun(tmp_path, accelerator="cpu", write=lambda line: None)
    images = digits(train=True).first(70)
    evaluator = training_evaluator(plan, images, phase.augmentation, images, seed=0, run=run_of)
    assert [len(labels) for _, labels in evaluator.train_dataloaders] == [32, 32]
    module = evaluator.module
    module.set_model(torch.nn.Linear(1, 1))
    assert module.configure_optimizers()["optimizer"].param_groups[0]["initial_lr"] == 1.0


AVERAGES = [{"ema": 0.7}, {"mean_epochs": 3}]


def short_run(out, **average):
    """Return a training of four epochs of one step each."""
    phase = EMBEDDED.phases[0]
    optimization = replace(phase.optimization, epochs=4, warmup_steps=1, decay_epochs=0)
    recipe = replace(EMBEDDED, phases=(replace(phase, n=3, optimization=optimization, **average),))
    few = {"train_images": 32, "val_images": 20, "device": "cpu", "keep_epochs": True}
    return jobs.TrainJob(EMBEDDED_BENCHMARK, EMBEDDED_BENCHMARK.data, recipe, out, **few)


@pytest.fixture(scope="module", params=AVERAGES, ids=str)
def averaging(request, tmp_path_factory):
    """Return the setting of an average, and the folder of a run with it."""
    folder = tmp_path_factory.mktemp("averaged")
    jobs.train(short_run(folder, **request.param))
    return request.param, folder


def test_the_supernet_of_an_averaging_recipe_holds_the_average_of_its_epochs(averaging):
    setting, averaged = averaging
    steps = [load_file(path) for path in sorted((averaged / "epochs").iterdir())]
    average = steps[0]
    for weights in steps[1:]:
        average = {name: 0.7 * average[name] + 0.3 * tensor for name, tensor in weights.items()}
    if "mean_epochs" in setting:
        average = {name: sum(weights[name] for weights in steps[1:]) / 3 for name in steps[0]}
    supernet = load_file(averaged / "supernet.safetensors")
    floating = [name for name, tensor in supernet.items() if tensor.is_floating_point()]
    assert floating
    for name in floating:
        torch.testing.assert_close(supernet[name], average[name], rtol=1e-5, atol=1e-6)
    assert not all(torch.equal(supernet[name], steps[-1][name]) for name in floating)


def test_an_average_goes_on_where_a_killed_run_left_it(averaging, tmp_path):
    setting, averaged = averaging

    class Killed(BaseException):
        pass

    def kill(line):
        if line.startswith("epoch 3/"):
            raise Killed

    with pytest.raises(Killed):
        jobs.train(short_run(tmp_path, **setting), write=kill)
    jobs.train(short_run(tmp_path, **setting))
    expected = load_file(averaged / "supernet.safetensors")
    got = load_file(tmp_path / "supernet.safetensors")
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())


def test_an_average_leaves_the_training_itself_alone(averaging, tmp_path):
    _, averaged = averaging
    jobs.train(short_run(tmp_path))
    for path in sorted((averaged / "epochs").iterdir()):
        plain = load_file(tmp_path / "epochs" / path.name)
        assert all(torch.equal(plain[name], tensor) for name, tensor in load_file(path).items())


@pytest.mark.parametrize(
    ("setting", "allowed"), [("ema=1", "below 1"), ("ema=x", "0.999"), ("decay_epochs=-1", "0 for a constant rate")]
)
def test_settings_of_average_and_decay_are_checked(setting, allowed, tmp_path):
    done = run("train", "--space", "digits", "--set", setting, "--out", tmp_path / "run", code=2)
    assert allowed in done.error
