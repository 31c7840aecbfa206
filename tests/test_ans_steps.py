"""The step of pool distillation against the loss as it was published, and what the strategy does with it."""

import pytest
import torch
import torch.nn.functional as F
from helpers import keep_nni_in, plain_logits, random_archs, random_batch, randomize, subnet_slices, tiny_supernet
from test_strategies_oneshot import Operators, evaluator_for, refusal, refusal_of_run, small_batch, tiny, trained

from nni_nas_consistency.archs.domains import DIGITS
from nni_nas_consistency.strategies.oneshot import SandwichStrategy
from nni_nas_consistency.strategies.sampling import PoolSampler
from nni_nas_consistency.strategies.steps import pool_distillation_step
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.sharing import Sharing

INDEPENDENT = Sharing("independent", "independent", "independent")


@pytest.fixture(autouse=True)
def home_is_temporary(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)


def published(supernet, images, labels, largest, paths):
    """Return the losses of all paths and their summed gradients, with the largest run anew for each path."""
    weights = dict(supernet.state_dict())
    trained_ones = {name: weights[name].clone().requires_grad_() for name, _ in supernet.named_parameters()}
    losses, total = [], torch.zeros((), dtype=torch.float64)
    for arch in paths:
        student, teacher = (
            plain_logits(subnet_slices(weights | trained_ones, each, "projection"), images, "projection", training=True)
            for each in (arch, largest)
        )
        soft = -(teacher.detach().softmax(1) * student.log_softmax(1)).sum(1).mean()
        by_labels, of_teacher = F.cross_entropy(student, labels), F.cross_entropy(teacher, labels)
        total = total + 0.5 * (by_labels + of_teacher) + 2 * soft
        losses.append((0.5 * by_labels + 2 * soft).item())
    total.backward()
    return [of_teacher.item(), *losses], {name: tensor.grad for name, tensor in trained_ones.items()}


@pytest.mark.parametrize("bundled", ["one by one", "stacked"])
@pytest.mark.parametrize("paths", [1, 6])
def test_the_gradients_are_those_of_the_published_loss_summed_over_the_paths(paths, bundled):
    supernet, (images, labels) = tiny_supernet().train(), random_batch(7)
    archs = random_archs(DIGITS, paths)
    losses, gradients = published(supernet, images, labels, DIGITS.largest, archs)
    bundles = archs if bundled == "one by one" else [archs]
    returned = pool_distillation_step(supernet, images, labels, [DIGITS.largest, *bundles])
    assert returned.tolist() == pytest.approx(losses, rel=1e-9) and not returned.requires_grad
    for name, parameter in supernet.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("always", [None, [DIGITS.smallest]], ids=["the largest", "another"])
def test_the_strategy_runs_a_teacher_besides_the_n_archs_of_the_pool(always):
    twin, archs, (x, y) = make_supernet(tiny()).double().train(), random_archs(DIGITS, 3), small_batch()
    pool_distillation_step(twin, x.double(), y, [DIGITS.largest if always is None else DIGITS.smallest, *archs])
    expected = {name: p - 0.1 * (0 if p.grad is None else p.grad) for name, p in twin.named_parameters()}
    sampler = PoolSampler(archs, torch.Generator())
    strategy = SandwichStrategy(3, rule="pool-distillation", always=always, sampler=sampler, grad_clip=None)
    trained(strategy, evaluator_for(x.double(), y, lr=0.1, precision="64-true"))
    for name, parameter in strategy.supernet.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-10, atol=1e-12)


def test_a_teacher_is_one_arch_and_there_must_be_one():
    two = {"rule": "pool-distillation", "always": random_archs(DIGITS, 2)}
    assert refusal(**two) == "always has 2 archs; rule 'pool-distillation' has one teacher: name it alone"
    assert refusal_of_run(SandwichStrategy(2, rule="pool-distillation"), space=Operators()) == (
        "Operators has no largest arch to teach; name the teacher with SandwichStrategy(always=[sample])"
    )


# Sharing


def test_the_strategy_makes_a_supernet_of_the_sharing_that_is_asked_for():
    supernet = trained(SandwichStrategy(2, sharing=INDEPENDENT)).supernet
    assert supernet.active.sharing == INDEPENDENT
    assert supernet.links[1].conv1.conv.get_submodule("in4_out3").weight.shape[:2] == (3, 4)


def test_a_supernet_of_another_sharing_is_refused():
    full = make_supernet(tiny())
    assert refusal_of_run(SandwichStrategy(2, sharing=INDEPENDENT), space=full) == (
        "the supernet shares weights by conv=full,bn=full,fc=full, not "
        "conv=independent,bn=independent,fc=independent; see unshare"
    )
    trained(SandwichStrategy(2), space=full)  # without a word on sharing, as it is


@pytest.mark.parametrize("sharing", [Sharing(), INDEPENDENT])
def test_clipping_is_that_of_all_gradients_together(sharing):
    twin, archs, (x, y) = (
        make_supernet(tiny(), sharing=sharing).double().train(),
        random_archs(DIGITS, 2),
        small_batch(),
    )
    randomize(twin, seed=1)
    pool_distillation_step(twin, x.double(), y, [DIGITS.largest, *archs])
    gradients = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
    before = {name: p.detach().clone() for name, p in twin.named_parameters()}
    twin.zero_grad()
    settings = {"rule": "pool-distillation", "sampler": PoolSampler(archs, torch.Generator()), "grad_clip": 0.01}
    evaluator = evaluator_for(x.double(), y, lr=0.1, precision="64-true")
    supernet = trained(SandwichStrategy(2, **settings), evaluator, twin).supernet
    assert norm > 0.1
    for name, parameter in supernet.named_parameters():
        step = 0.1 * 0.01 / norm * gradients[name] if name in gradients else 0.0
        torch.testing.assert_close(parameter, before[name] - step, rtol=0, atol=1e-8)
