"""The sandwich step against gradients that are written out arch by arch, and the losses against their definitions."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from helpers import plain_logits, random_archs, random_batch, randomize, subnet_slices, tiny_space, tiny_supernet

from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.strategies.losses import hard_cross_entropy, soft_cross_entropy
from nni_nas_consistency.strategies.steps import sandwich_step
from nni_nas_consistency.supernet.modules import SlimmableBatchNorm2d, make_supernet

STEPS = pytest.mark.parametrize("stacked", [False, True], ids=["sliced", "stacked"])
DISTILL = pytest.mark.parametrize("distill", [True, False], ids=["distill", "labels"])


def sandwich(n, seed=1):
    """Return the largest, the smallest, and n − 2 sampled archs."""
    space = tiny_space()
    return [space.largest, space.smallest, *random_archs(space.domain, n, seed)][:n]


def gradients_of(supernet):
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in supernet.named_parameters()}


def assert_close(actual, expected):
    assert actual.keys() == expected.keys()
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-10, atol=1e-10, msg=lambda t, n=name: n + t)


def written_out(supernet, images, labels, archs, *, distill):
    """Return losses, gradients and running statistics of a step: one arch after the other, in plain torch."""
    shared = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    trained = {name: shared[name].requires_grad_() for name, _ in supernet.named_parameters()}
    gradients = {name: torch.zeros_like(tensor) for name, tensor in trained.items()}
    losses, teacher = [], None
    for arch in archs:
        logits = plain_logits(subnet_slices(shared, arch, "projection"), images, "projection", training=True)
        log_probabilities = logits - logits.exp().sum(1, keepdim=True).log()
        if teacher is None or not distill:
            loss = -log_probabilities[range(len(labels)), labels].mean()
        else:
            loss = -(teacher * log_probabilities).sum(1).mean()
        if teacher is None:
            teacher = log_probabilities.detach().exp()
        own = torch.autograd.grad(loss, list(trained.values()))
        for name, gradient in zip(trained, own, strict=True):
            gradients[name] += gradient / len(archs)
        losses.append(loss.detach())
    statistics = {name: tensor for name, tensor in shared.items() if name.endswith(("running_mean", "running_var"))}
    return torch.stack(losses), gradients, statistics


@STEPS
@DISTILL
@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_step_sums_the_gradients_of_all_archs_divided_by_their_number(n, distill, stacked):
    supernet = tiny_supernet().train()
    images, labels = random_batch(7)
    losses, gradients, statistics = written_out(supernet, images, labels, sandwich(n), distill=distill)
    returned = sandwich_step(supernet, images, labels, sandwich(n), distill=distill, stacked=stacked)
    torch.testing.assert_close(returned, losses, rtol=1e-10, atol=1e-10)
    assert returned.shape == (n,)
    assert not returned.requires_grad
    assert_close(gradients_of(supernet), gradients)
    assert_close({name: supernet.get_buffer(name) for name in statistics}, statistics)


def test_a_sliced_step_of_coloured_images_runs_over_rows_and_agrees(monkeypatch):
    passes, of_rows = [], SlimmableBatchNorm2d._of_rows
    monkeypatch.setattr(SlimmableBatchNorm2d, "_of_rows", lambda self, x: passes.append(x) or of_rows(self, x))
    sliced, stacked = (make_supernet(ResNet20Space(10, 3, 8, width_unit=1)).double() for _ in range(2))
    for supernet in (sliced, stacked):
        randomize(supernet, seed=1)
        supernet.train()
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels, archs = random_batch(6)[1], sandwich(4)
    one = sandwich_step(sliced, images, labels, archs)
    assert len(passes) >= 28  # all of the largest; where one channel is left, both layouts are one
    other = sandwich_step(stacked, images, labels, archs, stacked=True)
    torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)
    assert_close(gradients_of(stacked), gradients_of(sliced))
    assert_close(dict(stacked.named_buffers()), dict(sliced.named_buffers()))


@DISTILL
def test_stacked_and_sliced_steps_agree(distill):
    sliced, stacked = tiny_supernet().train(), tiny_supernet().train()
    images, labels = random_batch(5)
    archs = sandwich(6)
    one = sandwich_step(sliced, images, labels, archs, distill=distill)
    other = sandwich_step(stacked, images, labels, archs, distill=distill, stacked=True)
    torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)
    assert_close(gradients_of(stacked), gradients_of(sliced))
    assert_close(dict(stacked.named_buffers()), dict(sliced.named_buffers()))


ON_THREADS = """
import sys, torch
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.strategies.steps import sandwich_step
from nni_nas_consistency.supernet.make import make_supernet

def gradients(threads, dtype):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    supernet = make_supernet(ResNet20Space(100)).to(dtype)
    images = torch.randn(128, 3, 32, 32).to(dtype)
    for _ in range(3):
        sandwich_step(supernet, images, torch.arange(128) % 100, [supernet.smallest], distill=False)
    return {name: p.grad.double() for name, p in supernet.named_parameters() if p.grad is not None}

right = gradients(1, torch.float64)
for name, gradient in gradients(int(sys.argv[1]), torch.float32).items():
    assert (gradient - right[name]).norm() <= 1e-3 * right[name].norm() + 1e-6, name
"""


@pytest.mark.parametrize("threads", [3, 6])
def test_a_step_on_a_number_of_threads_that_onednn_fails_on_is_right(threads):
    command = [sys.executable, "-c", ON_THREADS, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])


def test_no_convolution_is_of_the_kind_that_onednn_fails_on():
    for network in (ResNet20Space(100), make_supernet(ResNet20Space(100))):
        convs = [module for module in network.modules() if hasattr(module, "kernel_size")]
        assert len(convs) == 28
        assert not [conv for conv in convs if conv.kernel_size == (1, 1) and conv.stride != (1, 1)]


def test_the_defaults_are_distilled_and_sliced():
    supernet, twin = tiny_supernet().train(), tiny_supernet().train()
    images, labels = random_batch()
    sandwich_step(supernet, images, labels, sandwich(3))
    sandwich_step(twin, images, labels, sandwich(3), distill=True, stacked=False)
    assert all(
        torch.equal(a, b) for a, b in zip(gradients_of(supernet).values(), gradients_of(twin).values(), strict=True)
    )


@STEPS
def test_students_do_not_move_what_only_the_teacher_uses(stacked):
    supernet, alone = tiny_supernet().train(), tiny_supernet().train()
    images, labels = random_batch()
    space = tiny_space()
    sandwich_step(supernet, images, labels, [space.largest, space.smallest], stacked=stacked)
    sandwich_step(alone, images, labels, [space.largest])
    kernel, from_labels = (network.stages[1].conv.weight.grad for network in (supernet, alone))
    torch.testing.assert_close(kernel[1:], from_labels[1:] / 2, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(kernel[:1, :1], from_labels[:1, :1] / 2)


@STEPS
def test_gradients_are_added_to_those_that_are_there(stacked):
    supernet, twin = tiny_supernet().train(), tiny_supernet().train()
    images, labels = random_batch()
    sandwich_step(twin, images, labels, sandwich(3), stacked=stacked)
    for parameter in supernet.parameters():
        parameter.grad = torch.ones_like(parameter)
    sandwich_step(supernet, images, labels, sandwich(3), stacked=stacked)
    assert_close(gradients_of(supernet), {name: gradient + 1 for name, gradient in gradients_of(twin).items()})


@pytest.mark.parametrize(("stacked", "calls"), [(False, 4), (True, 2)])
def test_a_trainers_own_backward_gets_the_losses_divided_by_n(stacked, calls):
    supernet = tiny_supernet().train()
    images, labels = random_batch()
    seen = []
    losses = sandwich_step(supernet, images, labels, sandwich(4), stacked=stacked, backward=seen.append)
    assert len(seen) == calls
    assert all(loss.requires_grad for loss in seen)
    torch.testing.assert_close(sum(seen).detach(), losses.mean())
    assert all(parameter.grad is None for parameter in supernet.parameters())


@STEPS
def test_the_active_subnet_is_what_it_was_before_the_step(stacked):
    supernet = tiny_supernet().train()
    sandwich_step(supernet, *random_batch(), sandwich(3), stacked=stacked)
    assert supernet.active.widths == supernet.sample(supernet.largest)
    assert supernet.active.masks is None


def random_logits(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_soft_cross_entropy_is_the_mean_over_images_of_minus_p_log_q():
    logits, target = random_logits(3, 4), random_logits(3, 4, seed=2).softmax(1)
    q = logits.exp() / logits.exp().sum(1, keepdim=True)
    expected = sum(-target[b, k] * q[b, k].log() for b in range(3) for k in range(4)) / 3
    torch.testing.assert_close(soft_cross_entropy(logits, target), expected, rtol=1e-12, atol=0)


def test_against_one_hot_targets_soft_is_hard_cross_entropy():
    logits, labels = random_logits(5, 10), torch.tensor([3, 1, 9, 0, 3])
    soft = soft_cross_entropy(logits, F.one_hot(labels, 10).double())
    torch.testing.assert_close(soft, hard_cross_entropy(logits, labels), rtol=1e-12, atol=0)
    torch.testing.assert_close(soft, -logits.log_softmax(1)[range(5), labels].mean(), rtol=1e-12, atol=0)


def test_losses_of_several_archs_are_those_of_each():
    logits = random_logits(3, 5, 10)
    labels, target = torch.tensor([3, 1, 9, 0, 3]), random_logits(5, 10, seed=2).softmax(1)
    for loss, against in ((hard_cross_entropy, labels), (soft_cross_entropy, target)):
        expected = torch.stack([loss(own, against) for own in logits])
        torch.testing.assert_close(loss(logits, against), expected, rtol=1e-12, atol=0)


def test_soft_cross_entropy_of_huge_logits_is_finite():
    logits = torch.tensor([[1e4, 0.0], [-1e4, 0.0]])
    assert soft_cross_entropy(logits, torch.full((2, 2), 0.5)) == pytest.approx(5000)
