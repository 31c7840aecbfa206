"""SandwichStrategy with the real NNI experiment and the real Lightning trainer, on every kind of space."""

import functools
import os
import signal
import subprocess
import sys

import nni
import pytest
import pytorch_lightning as pl
import torch
from helpers import keep_nni_in, random_archs, tiny_space
from nni.mutable import ExpressionConstraint
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.hub.pytorch.utils.nn import DropPath
from nni.nas.nn.pytorch import MutableLinear
from nni.nas.strategy import RegularizedEvolution
from pytorch_lightning.plugins import MixedPrecision
from torch import nn
from torch.utils.data import TensorDataset

from nni_nas_consistency.archs.codecs import WidthCodec
from nni_nas_consistency.archs.domains import DIGITS, RESNET20, widths_domain
from nni_nas_consistency.errors import ArchError, InputError
from nni_nas_consistency.images.augmentation import DIGITS_TRAIN
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.nni3.experiment import RetiariiExeConfig, RetiariiExperiment
from nni_nas_consistency.scoring.plain import score_archs, score_network
from nni_nas_consistency.scoring.scoring import Scoring
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.spaces.hub import domain_of
from nni_nas_consistency.strategies.losses import hard_cross_entropy, soft_cross_entropy
from nni_nas_consistency.strategies.oneshot import FrozenTeacher, NonFiniteLoss, SandwichStrategy
from nni_nas_consistency.strategies.sampling import PoolSampler, UniformSampler, strict_fair_sampler
from nni_nas_consistency.strategies.steps import RankLoss, frozen_teacher_step, multi_path_step, sandwich_step
from nni_nas_consistency.supernet.active import logits_of
from nni_nas_consistency.supernet.extract import sub_state_dict
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.modules import ConvBN
from nni_nas_consistency.supernet.nni_modules import frozen_subnet
from nni_nas_consistency.supernet.statistics import batch_statistics
from nni_nas_consistency.training.lightning import training_evaluator
from nni_nas_consistency.training.recipes import Optimization
from nni_nas_consistency.training.run import TrainingRun
from spaces import EVERY_SPACE, Constrained, Kernels, Operators

every_space = pytest.mark.parametrize("case", EVERY_SPACE, ids=str)


@pytest.fixture(autouse=True)
def home_is_temporary(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)


class Losses(pl.Callback):
    """Notes what every step logs."""

    def __init__(self):
        self.mean, self.first = [], []

    def on_train_batch_end(self, trainer, *arguments):
        self.mean.append(float(trainer.callback_metrics["train_loss"]))
        self.first.append(float(trainer.callback_metrics["train_loss_first"]))


def small_batch(images=8, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, channels, 8, 8, generator=generator)
    return x, torch.randint(10, (images,), generator=generator)


def evaluator_for(x, y, *, lr=0.0, batch_size=None, num_classes=10, val=None, **trainer):
    """Return NNI's own evaluator with plain SGD; the images come in order, all at once unless batches are asked for."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Classification(
        num_classes=num_classes,
        learning_rate=lr,
        optimizer=torch.optim.SGD,
        train_dataloaders=DataLoader(TensorDataset(x, y), batch_size=batch_size or len(x)),
        val_dataloaders=DataLoader(TensorDataset(*(val or (x, y))), batch_size=5),
        **(quiet | {"accelerator": "cpu", "num_sanity_val_steps": 0, "max_epochs": 1} | trainer),
    )


def tiny(seed=3):
    torch.manual_seed(seed)
    return tiny_space()


def trained(strategy, evaluator=None, space=None):
    """Return the strategy after a run."""
    RetiariiExperiment(space or tiny(), evaluator or evaluator_for(*small_batch(), lr=0.1), strategy).run()
    return strategy


def weights_of(strategy):
    return {name: tensor.clone() for name, tensor in strategy.supernet.state_dict().items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    assert not [name for name in left if not torch.equal(left[name], right[name])]


def refusal(*arguments, **settings):
    """Return why a strategy is refused; it must be one line."""
    with pytest.raises(InputError) as error:
        SandwichStrategy(*arguments, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def refusal_of_run(strategy, evaluator=None, space=None):
    """Return why a run is refused; it must be one line."""
    with pytest.raises(InputError) as error:
        trained(strategy, evaluator, space)
    assert "\n" not in str(error.value)
    return str(error.value)


# What a step does


def pool(n, domain=DIGITS, seed=1):
    return random_archs(domain, n, seed)


def in_turn(archs):
    """Return a sampler that draws from these archs, each once a step."""
    return PoolSampler(archs, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rule", ["sandwich", "multi-path"])
@pytest.mark.parametrize("sampler", ["given", "default"])
def test_a_step_moves_the_weights_by_the_gradients_of_its_rule(rule, sampler):
    twin, archs, (x, y) = make_supernet(tiny()).double().train(), pool(4), small_batch()
    if sampler == "default":
        archs = strict_fair_sampler(DIGITS, torch.Generator().manual_seed(7)).draw(4)
    x = x.double()
    if rule == "sandwich":
        sandwich_step(twin, x, y, [twin.largest, twin.smallest, *archs])
    else:
        multi_path_step(twin, x, y, archs)
    expected = {name: p - 0.1 * (0 if p.grad is None else p.grad) for name, p in twin.named_parameters()}
    settings = {"rule": rule, "sampler": in_turn(archs) if sampler == "given" else None, "grad_clip": None, "seed": 7}
    strategy = SandwichStrategy(6 if rule == "sandwich" else 4, **settings)
    trained(strategy, evaluator_for(x, y, lr=0.1, precision="64-true"))
    for name, parameter in strategy.supernet.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("distill_from", "epochs"), [(0, "dd"), (1, "ld"), (2, "ll"), (None, "ll")])
def test_the_first_arch_teaches_from_the_given_epoch_on(distill_from, epochs):
    twin, losses, (x, y) = make_supernet(tiny()).train(), Losses(), small_batch()
    first, second = (logits_of(twin, x, arch) for arch in (twin.largest, twin.smallest))
    labels = hard_cross_entropy(first, y).item()
    by_epoch = {"l": hard_cross_entropy(second, y).item(), "d": soft_cross_entropy(second, first.softmax(-1)).item()}
    trained(SandwichStrategy(2, distill_from=distill_from), evaluator_for(x, y, max_epochs=2, callbacks=[losses]))
    assert losses.first == pytest.approx([labels] * 2, rel=1e-4)
    assert losses.mean == pytest.approx([(labels + by_epoch[epoch]) / 2 for epoch in epochs], rel=1e-4)
    assert by_epoch["l"] != pytest.approx(by_epoch["d"], rel=1e-2)


def random_teacher():
    torch.manual_seed(9)
    return tiny_space().freeze(tiny_space().sample(DIGITS.largest)).eval()


@pytest.mark.parametrize(
    "ramps", [{}, {"sandwich_ramp": 2}, {"rank_weight": 3.0, "rank_ramp": 2}, {"sandwich_ramp": 0}]
)
@pytest.mark.parametrize("stacking", ["sliced", "stacked"])
def test_with_a_frozen_teacher_sandwich_and_rank_loss_come_in_by_their_ramps(ramps, stacking):
    twin, teacher, (x, y) = make_supernet(tiny()).double().train(), random_teacher(), small_batch()
    archs, x = pool(2), x.double()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    macs = {arch.code: twin.complexity(arch).macs for arch in [*archs, twin.largest, twin.smallest]}
    for share in (0, 1 / 2, 1, 1):
        beside, rank = [], None
        if "sandwich_ramp" in ramps:
            weight = share if ramps["sandwich_ramp"] else 1
            beside = [(twin.largest, weight), (twin.smallest, weight)] if weight else []
        if "rank_weight" in ramps and share:
            rank = RankLoss(3.0 * share, lambda arch: macs[arch.code])
        optimizer.zero_grad()
        weights = [weight for _, weight in beside] + [1.0, 1.0]
        drawn = [arch for arch, _ in beside] + archs
        how = {"teacher": teacher.double(), "weights": weights, "rank": rank}
        frozen_teacher_step(twin, x, y, drawn, **how)
        optimizer.step()
    settings = {"rule": "frozen-teacher", "sampler": SameOrder(archs), "grad_clip": None, "stacking": stacking}
    strategy = SandwichStrategy(2, teacher=FrozenTeacher(teacher.float(), **ramps), **settings)
    trained(strategy, evaluator_for(x, y, lr=0.1, precision="64-true", max_epochs=4))
    assert not any("teacher" in name for name in strategy.supernet.state_dict())
    for name, parameter in dict(twin.named_parameters()).items():
        actual = strategy.supernet.get_parameter(name)
        torch.testing.assert_close(actual, parameter, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: name + text)


class SameOrder:
    """A sampler that draws the same archs in the same order at every step."""

    def __init__(self, archs):
        self.archs = archs

    def draw(self, n):
        assert n == len(self.archs)
        return list(self.archs)

    def state_dict(self):
        return {}


class Descending(ChainSpace):
    """Widths listed in descending and in mixed order."""

    def __init__(self):
        super().__init__(widths_domain(WidthCodec("descending", ((8, 4, 2), (4, 8, 6)))), 8)
        first, second = self.choice("w1"), self.choice("w2")
        self.add_mutable(ExpressionConstraint(self.limit(first + second), label="budget"))
        pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.links = nn.ModuleList([ConvBN(1, first, 3), ConvBN(first, second, 3), *pooled, MutableLinear(second, 10)])

    def limit(self, width):
        return width <= 16


class Narrow(Descending):
    """The largest arch is forbidden."""

    def limit(self, width):
        return width <= 12


def test_the_widest_arch_teaches_whatever_the_order_of_the_choices():
    torch.manual_seed(3)
    twin, losses, (x, y) = make_supernet(Descending()).train(), Losses(), small_batch()
    widest, narrowest = (logits_of(twin, x, {"w1": w1, "w2": w2}) for w1, w2 in ((8, 8), (2, 4)))
    labels, soft = hard_cross_entropy(widest, y).item(), soft_cross_entropy(narrowest, widest.softmax(-1)).item()
    torch.manual_seed(3)
    trained(SandwichStrategy(2), evaluator_for(x, y, callbacks=[losses]), Descending())
    assert losses.first == pytest.approx([labels], rel=1e-4)
    assert losses.mean == pytest.approx([(labels + soft) / 2], rel=1e-4)


@pytest.mark.parametrize("stacking", ["stacked", "sliced"])
def test_both_ways_to_run_a_step_train_the_same_supernet(stacking):
    x, y = small_batch()
    results = [
        weights_of(trained(SandwichStrategy(4, stacking=way), evaluator_for(x.double(), y, lr=0.1, **sixtyfour)))
        for way, sixtyfour in (("auto", {"precision": "64-true"}), (stacking, {"precision": "64-true"}))
    ]
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=1e-8, atol=1e-10)


def test_clipping_bounds_every_update_and_the_trainers_setting_wins():
    before = dict(make_supernet(tiny()).named_parameters())
    for own, trainers, expected in [(1e-3, None, 1e-3), (1e-3, 5e-4, 5e-4), (None, 2e-3, 2e-3)]:
        evaluator = evaluator_for(*small_batch(), lr=1.0, gradient_clip_val=trainers)
        strategy = trained(SandwichStrategy(4, grad_clip=own), evaluator)
        moved = [(now - before[name]).flatten() for name, now in strategy.supernet.named_parameters()]
        assert torch.cat(moved).norm().item() == pytest.approx(expected, rel=1e-3)


def test_bf16_mixed_precision_changes_the_arithmetic_and_keeps_float32_weights():
    losses = {"bf16-mixed": Losses(), "32-true": Losses()}
    for precision, noted in losses.items():
        evaluator = evaluator_for(*small_batch(), lr=0.1, precision=precision, callbacks=[noted])
        supernet = trained(SandwichStrategy(4), evaluator).supernet
        assert {parameter.dtype for parameter in supernet.parameters()} == {torch.float32}
    mixed, plain = (noted.mean[0] for noted in losses.values())
    assert mixed != pytest.approx(plain, rel=1e-6)
    assert mixed == pytest.approx(plain, rel=0.02)


# What a run keeps


def test_two_runs_with_one_seed_agree_bit_for_bit_and_another_seed_differs():
    x, y = small_batch()
    first, second, other = (
        weights_of(trained(SandwichStrategy(4, seed=seed), evaluator_for(x, y, lr=0.1, batch_size=4)))
        for seed in (1, 1, 2)
    )
    assert_same(first, second)
    assert any(not torch.equal(other[name], tensor) for name, tensor in first.items())


def test_a_trained_supernet_is_trained_on():
    strategy = trained(SandwichStrategy(3))
    supernet, before = strategy.supernet, weights_of(strategy)
    again = trained(SandwichStrategy(3), evaluator_for(*small_batch(), lr=0.0), supernet)
    assert again.supernet is supernet
    assert_same(
        {name: before[name] for name, _ in supernet.named_parameters()},
        {name: tensor.detach() for name, tensor in supernet.named_parameters()},
    )


class Interrupted:
    """Batches of which one is replaced: by images that are no numbers, or by the end of the process."""

    def __init__(self, batches, at, replacement):
        self.batches, self.at, self.replacement, self.taken = batches, at, replacement, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for images, labels in self.batches:
            yield (self.replacement(images) if self.taken == self.at else images), labels
            self.taken += 1

    def state_dict(self):
        return self.batches.state_dict()

    def load_state_dict(self, state):
        self.batches.load_state_dict(state)


def digits_evaluator(folder, *, resume=False):
    """Return an evaluator with shuffled batches that writes a checkpoint after every step: 2 epochs of 4 steps."""
    run = TrainingRun(folder, resume=resume, checkpoint_steps=1, accelerator="cpu", write=lambda line: None)
    optimization = Optimization(epochs=2, batch_size=8, lr=0.1, warmup_steps=3, weight_decay=1e-4)
    train, val = digits(train=True).first(32), digits(train=False).first(10)
    return training_evaluator(optimization, train, DIGITS_TRAIN, val, seed=5, run=run)


def train_digits(folder, *, resume=False, at=None):
    """Train on digits; where a step is given, kill this process before it."""
    evaluator = digits_evaluator(folder, resume=resume)
    if at is not None:
        die = functools.partial(os.kill, os.getpid(), signal.SIGKILL)
        evaluator.train_dataloaders = Interrupted(evaluator.train_dataloaders, at, lambda images: die())
    return trained(SandwichStrategy(4), evaluator)


def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(tmp_path):
    whole = weights_of(train_digits(tmp_path / "whole"))
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import test_strategies_oneshot as tests; "
        "tests.train_digits(pathlib.Path(sys.argv[2]), at=6)"
    )
    command = [sys.executable, "-c", script, os.path.dirname(__file__), str(tmp_path / "broken")]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert_same(weights_of(train_digits(tmp_path / "broken", resume=True)), whole)


def test_nni_resumes_from_the_newest_checkpoint(tmp_path):
    strategy = SandwichStrategy(2)
    assert strategy.state_dict() == {}
    trained(strategy, digits_evaluator(tmp_path))
    assert strategy.state_dict() == {"ckpt_path": str(tmp_path / "checkpoints" / "last.ckpt")}


def test_a_loss_that_is_not_finite_stops_with_step_arch_and_checkpoint_and_leaves_the_weights(tmp_path):
    evaluator = digits_evaluator(tmp_path)
    evaluator.train_dataloaders = Interrupted(evaluator.train_dataloaders, 2, lambda images: images * float("nan"))
    strategy = SandwichStrategy(3)
    with pytest.raises(NonFiniteLoss) as caught:
        trained(strategy, evaluator)
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    assert str(caught.value) == (
        f"the loss of arch {DIGITS.largest.code} is nan at step 2; last good checkpoint: {checkpoint}. "
        "Lower the learning rate or lengthen the warm-up."
    )
    saved = torch.load(checkpoint, weights_only=False)["state_dict"]
    names = {name: next(key for key in saved if key.endswith(name)) for name, _ in strategy.supernet.named_parameters()}
    assert all(torch.equal(saved[names[name]], p) for name, p in strategy.supernet.named_parameters())


# What a run reports


def test_validation_follows_largest_smallest_and_sampled_archs_with_the_statistics_of_each_batch():
    x, y = small_batch()
    evaluator = evaluator_for(x, y, val=small_batch(12, seed=1))
    supernet = trained(SandwichStrategy(2, watched=2), evaluator).supernet
    metrics = {name: float(value) for name, value in evaluator.trainer.callback_metrics.items()}
    sampled = UniformSampler(DIGITS, torch.Generator().manual_seed(0)).draw(2)
    archs = {"largest": DIGITS.largest, "smallest": DIGITS.smallest, "arch1": sampled[0], "arch2": sampled[1]}
    assert {name for name in metrics if "/" in name} == {f"val_{m}/{arch}" for m in ("loss", "acc") for arch in archs}
    images, labels = small_batch(12, seed=1)
    for name, arch in archs.items():
        losses, right = [], 0
        with batch_statistics(supernet), torch.no_grad():
            for start in (0, 5, 10):
                logits, target = logits_of(supernet, images[start : start + 5], arch), labels[start : start + 5]
                losses += nn.functional.cross_entropy(logits, target, reduction="none").tolist()
                right += int((logits.argmax(1) == target).sum())
        assert metrics[f"val_loss/{name}"] == pytest.approx(sum(losses) / 12, rel=1e-5)
        assert metrics[f"val_acc/{name}"] == pytest.approx(right / 12)
    assert metrics["val_acc"] == pytest.approx(metrics["val_acc/largest"])  # the evaluator's own, of the largest


def test_validation_follows_the_archs_that_were_named():
    archs, evaluator = pool(2), evaluator_for(*small_batch())
    trained(SandwichStrategy(3, always=archs, watched=1), evaluator)
    named = {name.split("/")[1] for name in evaluator.trainer.callback_metrics if "/" in name}
    assert named == {"always0", "always1", "arch1"}


def test_validation_leaves_the_running_statistics_alone():
    def statistics(val):
        supernet = trained(SandwichStrategy(2), evaluator_for(*small_batch(), val=val)).supernet
        return {name: buffer for name, buffer in supernet.named_buffers() if "running" in name}

    assert_same(statistics(small_batch()), statistics(small_batch(9, seed=2)))


def test_the_exported_model_is_the_first_watched_arch_with_its_weights():
    space = tiny()
    strategy = SandwichStrategy(2)
    experiment = RetiariiExperiment(space, evaluator_for(*small_batch(), lr=0.1), strategy)
    experiment.run()
    (sample,) = experiment.export_top_models(formatter="dict")
    assert sample == space.sample(space.largest)
    (model,) = experiment.export_top_models(formatter="instance")
    x, _ = small_batch()
    torch.testing.assert_close(model.eval()(x), logits_of(strategy.supernet.eval(), x, space.largest))


def exported(space, strategy):
    experiment = RetiariiExperiment(space, evaluator_for(*small_batch(channels=3)), strategy)
    experiment.run()
    (sample,) = experiment.export_top_models(formatter="dict")
    return sample


def test_the_exported_sample_is_one_that_nni_takes_and_there_is_one_even_where_none_is_watched():
    assert exported(Kernels(), SandwichStrategy(2)) == {"width": 8, "ratio": 2, "kernel": 7, "size": (3, 3)}
    space = Operators()
    first = {variable.name: variable.choices[0] for variable in domain_of(space).variables}
    expected = domain_of(space).arch(first).sample
    assert exported(space, SandwichStrategy(1, rule="multi-path", watched=0)) == expected


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 1}, "n is 1; rule 'sandwich' needs at least 2 archs per step"),
        ({"n": 2, "always": pool(3)}, "n is 2; rule 'sandwich' needs at least 3 archs per step"),
        ({"n": 0, "rule": "multi-path"}, "n is 0; rule 'multi-path' needs at least 1 archs per step"),
        (
            {"rule": "slimmable"},
            "rule is 'slimmable'; allowed are 'sandwich', 'sampled-teacher', 'multi-path', 'pool-distillation', "
            "'frozen-teacher'",
        ),
        (
            {"rule": "frozen-teacher"},
            "rule='frozen-teacher' and teacher=FrozenTeacher(…) go together; give both or neither",
        ),
        (
            {"teacher": FrozenTeacher(torch.nn.Identity())},
            "rule='frozen-teacher' and teacher=FrozenTeacher(…) go together; give both or neither",
        ),
        (
            {"rule": "multi-path", "always": pool(1)},
            "always belongs to rule='sandwich' and 'pool-distillation'; leave it out, or change the rule",
        ),
        ({"always": []}, "always is empty; name at least one arch, which is the teacher"),
        ({"stacking": "fast"}, "stacking is 'fast'; allowed are 'auto', 'stacked', 'sliced', 'threads'"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(settings, message):
    assert refusal(**settings) == message


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (
            {"plugins": MixedPrecision("16-mixed", "cpu")},
            "precision is '16-mixed'; float16 needs scaled gradients, whose norm would be clipped wrongly: "
            "use 'bf16-mixed' or '32-true'",
        ),
        (
            {"devices": 2, "strategy": "ddp_spawn"},
            "Trainer asks for 2 processes in another way than by subprocesses: set strategy='ddp', or devices=1",
        ),
        (
            {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"},
            "SandwichStrategy clips by norm, not by value; use Trainer(gradient_clip_algorithm='norm')",
        ),
    ],
    ids=["float16", "spawned processes", "clipping by value"],
)
def test_trainers_that_would_train_a_wrong_supernet_are_refused(trainer, message):
    assert refusal_of_run(SandwichStrategy(2), evaluator_for(*small_batch(), **trainer)) == message


def test_the_sandwich_is_refused_on_a_space_without_a_largest_arch_with_the_way_out():
    space = Operators()
    modules = dict(space.named_modules())
    assert refusal_of_run(SandwichStrategy(3), space=space) == (
        "Operators has no largest and smallest arch for the sandwich rule; name the archs that run at every step, "
        "teacher first, with SandwichStrategy(always=[sample, …]), or use rule='multi-path'"
    )
    assert dict(space.named_modules()) == modules


def test_archs_that_always_run_must_belong_to_the_space_and_meet_its_constraints():
    other = SandwichStrategy(2, always=[DIGITS.largest, RESNET20.largest])
    with pytest.raises(
        ArchError, match=r"^layer 1 of always\[1\] '16-16-.* asks for width 16; digits allows 1, 2, 3, 4$"
    ):
        trained(other)
    missing = {"first": 8}
    assert refusal_of_run(SandwichStrategy(2, always=[missing]), space=Constrained()) == (
        "always[0] has no choice for second; Constrained needs first, second"
    )
    forbidden = {"first": 8, "second": 4}
    assert refusal_of_run(SandwichStrategy(2, always=[forbidden]), space=Constrained()) == (
        "always[0] breaks a constraint of Constrained ((first + second) <= 10 is not satisfied); "
        "name others with always=[…]"
    )
    assert refusal_of_run(SandwichStrategy(2), space=Narrow()) == (
        "the largest arch breaks a constraint of descending ((w1 + w2) <= 12 is not satisfied); "
        "name others with always=[…]"
    )
    trained(SandwichStrategy(3, always=[{"w1": 8, "w2": 4}]), space=Narrow())


@pytest.mark.parametrize("setting", ["sandwich_ramp", "rank_weight", "rank_ramp"])
def test_a_negative_setting_of_a_frozen_teacher_is_refused(setting):
    with pytest.raises(InputError, match=f"^{setting} is -1; it must be at least 0$"):
        FrozenTeacher(torch.nn.Identity(), **{setting: -1})


def test_a_rank_loss_is_refused_where_nobody_knows_the_macs():
    teacher = FrozenTeacher(random_teacher(), rank_weight=1.0)
    strategy = SandwichStrategy(2, rule="frozen-teacher", teacher=teacher)
    assert refusal_of_run(strategy, space=Descending()) == (
        "rank_weight needs MACs, which Descending does not know: set it to 0"
    )


def test_archs_that_cannot_be_stacked_are_refused_where_stacking_is_asked_for():
    torch.manual_seed(3)
    space = tiny_space("standalone")
    assert refusal_of_run(SandwichStrategy(6, stacking="stacked"), space=space) == (
        "the archs of a step use different modules and cannot be stacked; use stacking='sliced'"
    )


# Every space


def always_running(domain):
    """Return what to name in a space: nothing where it has a largest arch, else two samples."""
    if domain.largest is not None:
        return None
    archs = UniformSampler(domain, torch.Generator().manual_seed(1)).draw(6)
    return [arch.sample for arch in dict.fromkeys(archs)][:2]


def made(case):
    """Return a space that does not draw at random in training mode."""
    space = case.make()
    for module in space.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return space


def frozen_space(case, arch):
    """Return a frozen space with weights of its own."""
    space = made(case)
    return space.freeze(space.sample(arch)) if case.is_chain else frozen_subnet(make_supernet(space), arch.sample)


@every_space
def test_every_space_is_trained_extracted_and_scored(case):
    torch.manual_seed(0)
    twin = make_supernet(made(case)).double().train()
    domain = domain_of(twin)
    always = always_running(domain)
    archs = [domain.largest, domain.smallest] if always is None else [domain.codec.arch(sample) for sample in always]
    x = case.images()
    y = torch.arange(len(x)) % case.num_classes
    logits = [logits_of(twin, x, arch) for arch in archs]
    first = hard_cross_entropy(logits[0], y).item()
    students = [soft_cross_entropy(each, logits[0].softmax(-1)).item() for each in logits[1:]]

    torch.manual_seed(0)
    losses = Losses()
    settings = {"max_epochs": 3, "callbacks": [losses], "precision": "64-true"}
    evaluator = evaluator_for(x, y, lr=0.05, num_classes=case.num_classes, **settings)
    strategy = SandwichStrategy(len(archs), always=always, watched=1)
    trained(strategy, evaluator, made(case))
    supernet = strategy.supernet
    assert losses.first[0] == pytest.approx(first, rel=1e-5)
    assert losses.mean[0] == pytest.approx((first + sum(students)) / len(archs), rel=1e-5)
    assert len(losses.mean) == 3
    assert torch.isfinite(torch.tensor(losses.mean)).all()
    for arch in archs:
        before, after = sub_state_dict(twin, arch), strategy.sub_state_dict(arch.sample)
        assert any(not torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))

    sampled = UniformSampler(domain, torch.Generator().manual_seed(2)).draw(2)
    for arch in sampled:
        frozen = frozen_space(case, arch).double()
        frozen.load_state_dict(strategy.sub_state_dict(arch.sample), strict=True)
        torch.testing.assert_close(frozen.train()(x), logits_of(supernet.train(), x, arch), rtol=1e-8, atol=1e-8)
    scoring = Scoring("loss", "batch", lambda: [(x, y)])
    scores = list(score_archs(supernet, [sampled[0], sampled[1].sample], scoring))
    with torch.no_grad(), batch_statistics(supernet.eval()):
        expected = [-hard_cross_entropy(logits_of(supernet, x, arch), y).item() for arch in sampled]
    assert [score.loss for score in scores] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", [case for case in EVERY_SPACE if case.name in ("autoformer", "nested")], ids=str)
def test_evolution_of_nni_searches_the_supernet_that_was_trained_in_the_same_script(case):
    x = case.images().float()
    y = torch.arange(len(x)) % case.num_classes
    space = case.make()
    always = always_running(domain_of(space))
    evaluator = evaluator_for(x, y, lr=0.05, num_classes=case.num_classes, max_epochs=2)
    supernet = trained(SandwichStrategy(3, always=always, watched=1), evaluator, space).supernet
    scoring = Scoring("loss", "batch", lambda: [(x, y)])

    def evaluate(subnet):
        nni.report_final_result(score_network(subnet, scoring).loss)

    evolution = RegularizedEvolution(population_size=4, sample_size=2, seed=1)
    config = RetiariiExeConfig(execution_engine="sequential", model_format="raw", max_trial_number=8)
    experiment = RetiariiExperiment(supernet, FunctionalEvaluator(evaluate), evolution, config)
    assert experiment.run()
    (best,) = experiment.export_top_models(formatter="dict")
    models = list(evolution.list_models(sort=False))
    assert len(models) == 8
    scores = [score.loss for score in score_archs(supernet, [model.sample for model in models], scoring)]
    assert [float(model.metric) for model in models] == pytest.approx(scores, rel=1e-5)
    assert best == models[scores.index(max(scores))].sample
