"""Training on two processes by Lightning's DDP: the same as one process that averages the halves; killed; ended."""

import csv
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed
from command import run
from helpers import free_port, random_archs, tiny_supernet, wait_for
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import one_hot

from nni_nas_consistency.archs.domains import DIGITS
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.run_folder import identity_of
from nni_nas_consistency.images.augmentation import DIGITS_TEST, DIGITS_TRAIN, Mixing
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.images.loader import EvaluationLoader, TrainingLoader
from nni_nas_consistency.strategies.processes import average_over_processes, gather_losses, shares_of_batch
from nni_nas_consistency.strategies.sampling import strict_fair_sampler
from nni_nas_consistency.strategies.steps import label_step, sandwich_step
from nni_nas_consistency.supernet.active import logits_of
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.statistics import batch_norms, batch_statistics
from nni_nas_consistency.systems import EMBEDDED_BENCHMARK
from nni_nas_consistency.training.initialise import initialise
from nni_nas_consistency.training.processes import OURS, process_group, rank_of
from nni_nas_consistency.training.recipes import EMBEDDED

EPOCHS, IMAGES, VAL, N = 3, 67, 21, 4
TRAINING = (
    *("train", "--recipe", "digits", "--device", "cpu", "--devices", "2", "--precision", "64-true", "--n", str(N)),
    *("--epochs", str(EPOCHS), "--train-images", str(IMAGES), "--val-images", str(VAL), "--set", "batch_size=32"),
    *(
        "--set",
        "warmup_steps=2",
        "--set",
        "distill_from=1",
        "--set",
        "lr=0.02",
        "--checkpoint-steps",
        "2",
        "--out",
        "run",
    ),
)


def started(folder, *more):
    """Start the training in a folder."""
    command = [sys.executable, "-m", "nni_nas_consistency", *TRAINING, *more]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which two processes have trained to the end, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    process = started(folder)
    out, err = process.communicate(timeout=420)
    assert process.returncode == 0, err
    return folder / "run", out, err


# The same as one process.


def reference():
    """Train in one process, which averages what the halves of each batch give: weights, and losses of each epoch."""
    recipe = EMBEDDED.for_epochs(EPOCHS)
    plan = recipe.phases[0].optimization
    torch.manual_seed(0)
    images, val = digits(train=True).first(IMAGES), digits(train=False).first(VAL)
    supernet = make_supernet(EMBEDDED_BENCHMARK.make_space(images.shape))
    initialise(supernet, recipe.init, torch.Generator().manual_seed(0))
    supernet.double().train()
    sampler = strict_fair_sampler(supernet.domain, torch.Generator().manual_seed(0))
    loader = TrainingLoader(images, DIGITS_TEST, batch_size=32, seed=0)
    plan = replace(plan, warmup_steps=2, lr=0.02)
    optimizer = torch.optim.SGD(
        supernet.parameters(), lr=plan.peak_lr, momentum=plan.momentum, weight_decay=plan.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: plan.lr_factor(step, len(loader)))
    losses, validated = [], []
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        for x, y in loader:
            archs = [supernet.largest, supernet.smallest, *sampler.draw(N - 2)]
            step = label_step if epoch < 1 else sandwich_step
            losses.append(averaged_halves(supernet, step, archs, x.double(), y))
            nn.utils.clip_grad_norm_(supernet.parameters(), 5.0)
            optimizer.step()
            schedule.step()
        validated.append(validation_loss(supernet, val))
    return supernet, losses, validated


def averaged_halves(supernet, step, archs, x, y):
    """Leave the average of the gradients, and of the running statistics, that each half of a batch gives."""
    buffers = [each for norm in batch_norms(supernet) for each in (norm.running_mean, norm.running_var)]
    before = [each.clone() for each in buffers]
    gradients = [torch.zeros_like(each) for each in supernet.parameters()]
    statistics = [torch.zeros_like(each) for each in buffers]
    middle, loss = len(x) // 2, 0.0
    for half in (slice(None, middle), slice(middle, None)):
        supernet.zero_grad()
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        share = len(x[half]) / len(x)
        loss += share * float(step(supernet, x[half], y[half], archs, backward=torch.autograd.backward).mean())
        for total, each in zip(gradients, supernet.parameters(), strict=True):
            total += share * each.grad
        for total, each in zip(statistics, buffers, strict=True):
            total += share * each
    for buffer, value in zip(buffers, statistics, strict=True):
        buffer.copy_(value)
    for each, total in zip(supernet.parameters(), gradients, strict=True):
        each.grad = total
    return loss


def validation_loss(supernet, val):
    total = 0.0
    with torch.no_grad(), batch_statistics(supernet):
        for x, y in EvaluationLoader(val, DIGITS_TEST, VAL // 2):
            loss = nn.functional.cross_entropy(logits_of(supernet, x.double(), supernet.largest), y)
            total += len(y) * float(loss)
    return total / len(val)


def test_two_processes_at_half_the_batch_equal_one_that_averages_the_halves(trained):
    folder, _, _ = trained
    supernet, losses, validated = reference()
    weights, expected = load_file(folder / "supernet.safetensors"), supernet.state_dict()
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert weights[name].dtype == tensor.dtype
        if "num_batches_tracked" not in name:
            torch.testing.assert_close(weights[name], tensor, rtol=1e-8, atol=1e-9, msg=name)

    (metrics,) = (folder / "metrics").glob("version_0/metrics.csv")
    rows = list(csv.DictReader(metrics.open()))
    of_epochs = [float(row["val_loss/largest"]) for row in rows if row["val_loss/largest"]]
    assert of_epochs == pytest.approx(validated, rel=1e-5)
    assert losses[-1] != pytest.approx(losses[0], rel=1e-3)


def test_with_batch_norm_over_both_two_processes_equal_one_at_the_whole_batch(trained, tmp_path):
    process = started(tmp_path, "--sync-batch-norm")
    _, err = process.communicate(timeout=420)
    assert process.returncode == 0, err
    place = TRAINING.index("--devices")
    run(*TRAINING[:place], *TRAINING[place + 2 :], "--out", tmp_path / "alone")
    weights, expected = (load_file(tmp_path / name / "supernet.safetensors") for name in ("run", "alone"))
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-8, atol=1e-9, msg=name)
    own = load_file(trained[0] / "supernet.safetensors")
    assert any(not torch.allclose(weights[name], own[name], rtol=1e-3) for name in own if name.endswith("bn.weight"))


def test_the_first_process_alone_writes_and_prints(trained):
    folder, out, err = trained
    assert out == "run/supernet.safetensors\n"
    assert [line.split()[1] for line in err.splitlines()] == ["1/3", "2/3", "3/3"]
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written == {
        *("lock", "settings.json", "supernet.safetensors", "checkpoints/last.ckpt", "metrics/version_0/metrics.csv"),
    }


# Kills.


def stopped_when_a_checkpoint_is_there(folder, number):
    """Start the training, signal its first process once it has kept something; return it, when all are gone."""
    process = started(folder)
    try:
        wait_for((folder / "run" / "checkpoints" / "last.ckpt").exists, seconds=200)
        others = psutil.Process(process.pid).children(recursive=True)
        assert len(others) == 1
        process.send_signal(number)
        process.wait(60)
        _, left = psutil.wait_procs(others, timeout=20)
        assert not left
    finally:
        process.kill()
    return process


def test_a_training_of_two_processes_that_is_killed_goes_on_to_the_same_weights(trained, tmp_path):
    killed = stopped_when_a_checkpoint_is_there(tmp_path, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "supernet.safetensors").exists()
    process = started(tmp_path, "--resume")
    _, err = process.communicate(timeout=420)
    assert process.returncode == 0, err
    weights, expected = (load_file(path / "supernet.safetensors") for path in (tmp_path / "run", trained[0]))
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_training_of_two_processes_that_is_stopped_leaves_none_and_says_what_is_kept(tmp_path, number, code):
    process = stopped_when_a_checkpoint_is_there(tmp_path, number)
    assert process.returncode == code
    assert "run/checkpoints/last.ckpt is kept: give the same command again to go on" in process.stderr.read()


@pytest.mark.slow
def test_a_training_of_two_processes_that_diverges_ends_all_and_says_so_once(tmp_path):
    process = started(tmp_path, "--set", "lr=1e300", "--set", "grad_clip=none")
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (1, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: the loss of arch ")


# What the processes agree on.


def in_two_processes(work: Callable[[int], None], folder: Path) -> list[str]:
    """Run a function in two forked processes that are a process group; return what went wrong in each."""
    context = multiprocessing.get_context("fork")
    port = free_port()

    def member(rank: int) -> None:
        torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
        try:
            work(rank)
        except BaseException:
            (folder / f"{rank}").write_text(traceback.format_exc())

    members = [context.Process(target=member, args=(rank,)) for rank in (0, 1)]
    for each in members:
        each.start()
    for each in members:
        each.join(60)
        assert each.exitcode == 0
    return [(folder / f"{rank}").read_text() if (folder / f"{rank}").exists() else "" for rank in (0, 1)]


def test_a_loss_that_is_not_finite_in_one_process_is_known_to_all(tmp_path):
    archs, place = random_archs(DIGITS, 2), torch.device("cpu")

    def work(rank):
        shares = shares_of_batch(archs, 3 - 2 * rank, place)
        everyones = gather_losses(torch.tensor([1.0, math.nan if rank else 2.0]))
        assert everyones[0].tolist() == [1.0, 2.0] and math.isnan(everyones[1, 1])
        assert shares.tolist() == [0.75, 0.25]

    assert in_two_processes(work, tmp_path) == ["", ""]


def test_processes_that_draw_different_archs_are_refused_in_all(tmp_path):
    def work(rank):
        shares_of_batch(random_archs(DIGITS, 2, seed=rank), 1, torch.device("cpu"))

    for error in in_two_processes(work, tmp_path):
        assert "RuntimeError: the processes draw different archs; give every process a sampler with the same" in error


def test_layers_that_only_some_archs_of_a_step_use_are_averaged_too(tmp_path):
    supernet = tiny_supernet()
    first, second, *others = supernet.parameters()

    def work(rank):
        first.grad = torch.full_like(first, 1.0 + rank)
        average_over_processes(supernet, torch.tensor([0.25, 0.75])[rank])
        assert torch.equal(first.grad, torch.full_like(first, 1.75))
        assert second.grad is None and all(each.grad is None for each in others)
        for norm in batch_norms(supernet):
            norm.running_mean.fill_(rank)
        average_over_processes(supernet, torch.tensor([0.25, 0.75])[rank])
        assert all(bool((norm.running_mean == 0.75).all()) for norm in batch_norms(supernet))

    assert in_two_processes(work, tmp_path) == ["", ""]


# Parts of the data.


def test_parts_of_a_batch_are_those_of_the_whole_one_and_small_ones_are_left_out():
    images = digits(train=True).first(67)
    whole = list(TrainingLoader(images, DIGITS_TRAIN, batch_size=32, seed=1))
    parts = [list(TrainingLoader(images, DIGITS_TRAIN, batch_size=32, seed=1, part=(i, 2))) for i in (0, 1)]
    assert [len(y) for _, y in parts[0]] == [16, 16, 1] and [len(y) for _, y in parts[1]] == [16, 16, 2]
    for (x, y), (x0, y0), (x1, y1) in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([x0, x1]), x) and torch.equal(torch.cat([y0, y1]), y)
    loader = TrainingLoader(images, DIGITS_TRAIN, batch_size=33, seed=1, part=(1, 2))
    assert len(loader) == len(list(loader)) == 2
    with pytest.raises(InputError, match="part 2 of 2 of batches of 32 images does not exist"):
        TrainingLoader(images, DIGITS_TRAIN, batch_size=32, seed=1, part=(2, 2))


def test_parts_of_a_batch_are_mixed_alike_each_with_images_of_its_own():
    images, mixing = digits(train=True).first(64), Mixing(mixup=0.8, cutmix=1.0, label_smoothing=0.1)
    whole = list(TrainingLoader(images, DIGITS_TRAIN, batch_size=32, seed=1))
    parts = [TrainingLoader(images, DIGITS_TRAIN, batch_size=32, seed=1, part=(i, 2), mixing=mixing) for i in (0, 1)]
    for (x, y), *mixed in zip(whole, *parts, strict=True):
        shares = []
        for (seen, labels), own in zip(mixed, (slice(16), slice(16, None)), strict=True):
            hot = one_hot(y[own], 10).float()
            other = hot.roll(1, 0) - hot
            at = int(other.abs().sum(1).argmax())  # an image whose partner is of another class
            shares.append(float(((labels[at] - 0.01) / 0.9 - hot[at])[other[at] == 1]))
            soft = (1 - shares[-1]) * hot + shares[-1] * hot.roll(1, 0)
            torch.testing.assert_close(labels, 0.9 * soft + 0.01)
            partner = x[own].roll(1, 0)
            cut = bool(((seen == x[own]) | (seen == partner)).all())
            assert cut or torch.allclose(seen, (1 - shares[-1]) * x[own] + shares[-1] * partner, atol=1e-5)
        assert shares[0] == pytest.approx(shares[1], abs=1e-5)


def test_every_process_validates_on_its_own_batches():
    images = digits(train=False).first(21)
    whole = list(EvaluationLoader(images, DIGITS_TRAIN, 10))
    loaders = [EvaluationLoader(images, DIGITS_TRAIN, 10, (i, 2)) for i in (0, 1)]
    assert [len(loader) for loader in loaders] == [2, 1]
    first, second = (list(loader) for loader in loaders)
    for (x, _), (mine, _) in zip(whole, [first[0], second[0], first[1]], strict=True):
        assert torch.equal(x, mine)


# What is refused.


def test_devices_that_cannot_be_served_are_refused(tmp_path):
    words = ("train", "--recipe", "digits", "--devices", 3, "--out", tmp_path / "run")
    assert "--devices 3: batch_size is 2; every device needs at least one image" in (
        run(*words, "--set", "batch_size=2", code=2).error
    )
    assert "--devices 3: val_images is 2; every device needs" in run(*words, "--val-images", 2, code=2).error
    assert run(*words, code=2).error == (
        "error: --devices 3 starts this program once more for each device: run it by its command line"
    )
    assert not (tmp_path / "run").exists()


def test_processes_that_something_else_started_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv(OURS, raising=False)
    assert rank_of(1) == 0
    with pytest.raises(InputError, match="LOCAL_RANK is '1' already: .*start it once, without torchrun or srun"):
        rank_of(2)
    monkeypatch.setenv(OURS, "2")
    assert rank_of(2) == 1


def test_a_process_group_leaves_no_variable_behind(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(KeyError), process_group(2):
        assert rank_of(2) == 0
        monkeypatch.setenv("LOCAL_RANK", "0")
        raise KeyError
    assert "LOCAL_RANK" not in os.environ and OURS not in os.environ


def test_the_number_of_devices_is_part_of_what_a_run_is():
    from nni_nas_consistency.jobs import TrainJob

    one = TrainJob(EMBEDDED_BENCHMARK, EMBEDDED_BENCHMARK.data, EMBEDDED, Path("run"))
    two = TrainJob(EMBEDDED_BENCHMARK, EMBEDDED_BENCHMARK.data, EMBEDDED, Path("run"), devices=2)
    assert "devices" not in one.settings() and two.settings()["devices"] == 2
    assert identity_of(one.settings()) != identity_of(two.settings())
