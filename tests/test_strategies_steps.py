"""Training steps against gradients that are written out arch by arch, and the losses against their definitions."""

import pytest
import torch
import torch.nn.functional as F
from helpers import plain_logits, random_archs, random_batch, randomize, subnet_slices, tiny_supernet

from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.strategies.losses import hard_cross_entropy, pairwise_rank_loss, soft_cross_entropy
from nni_nas_consistency.strategies.steps import (
    RankLoss,
    frozen_teacher_step,
    label_step,
    multi_path_step,
    sandwich_step,
)
from nni_nas_consistency.supernet.active import active_subnet
from nni_nas_consistency.supernet.make import make_supernet

STEPS = {"sandwich": sandwich_step, "multi-path": multi_path_step, "label": label_step}
EVERY_STEP = pytest.mark.parametrize("name", STEPS)
BUNDLED = pytest.mark.parametrize("bundled", ["one by one", "stacked"])


def training(channels=1):
    """Return a supernet of the tiny space in training mode, with random weights."""
    if channels == 1:
        return tiny_supernet().train()
    supernet = make_supernet(ResNet20Space(10, channels, 8, width_unit=1)).double()
    randomize(supernet, seed=1)
    return supernet.train()


def batch(channels=1, images=5):
    x, labels = random_batch(images)
    generator = torch.Generator().manual_seed(1)
    return (x if channels == 1 else torch.randn(images, channels, 8, 8, dtype=x.dtype, generator=generator)), labels


def sandwich(supernet, n):
    """Return the largest, the smallest, and n − 2 sampled archs."""
    return [supernet.largest, supernet.smallest, *random_archs(supernet.domain, n, 1)][:n]


def bundles(archs, bundled):
    """Return the archs one by one, or the first alone and the others as one stacked batch."""
    return archs if bundled == "one by one" or len(archs) == 1 else [archs[0], archs[1:]]


def gradients_of(supernet):
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in supernet.named_parameters()}


def running_statistics(tensors):
    return {name: tensor for name, tensor in tensors.items() if name.endswith(("running_mean", "running_var"))}


def assert_close(actual, expected):
    assert actual.keys() == expected.keys()
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-10, atol=1e-10, msg=lambda t, n=name: n + t)


def written_out(supernet, images, labels, archs, *, teacher_from, divided_by):
    """Return losses, gradients and running statistics of a step: one arch after the other, in plain torch.

    The first arch teaches those from index `teacher_from` on; the gradients are summed, divided by `divided_by`.
    """
    shared = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    trained = {name: shared[name].requires_grad_() for name, _ in supernet.named_parameters()}
    gradients = {name: torch.zeros_like(tensor) for name, tensor in trained.items()}
    losses, teacher = [], None
    for index, arch in enumerate(archs):
        logits = plain_logits(subnet_slices(shared, arch, "projection"), images, "projection", training=True)
        log_probabilities = logits - logits.exp().sum(1, keepdim=True).log()
        if index < teacher_from:
            loss = -log_probabilities[range(len(labels)), labels].mean()
        else:
            loss = -(teacher * log_probabilities).sum(1).mean()
        if teacher is None:
            teacher = log_probabilities.detach().exp()
        own = torch.autograd.grad(loss, list(trained.values()))
        for name, gradient in zip(trained, own, strict=True):
            gradients[name] += gradient / divided_by
        losses.append(loss.detach())
    return torch.stack(losses), gradients, running_statistics(shared)


@BUNDLED
@pytest.mark.parametrize(("n", "channels"), [(1, 1), (3, 3), (6, 1)])
@EVERY_STEP
def test_the_gradients_of_a_step_are_the_mean_or_the_sum_of_those_of_separate_archs(name, n, channels, bundled):
    supernet = training(channels)
    images, labels = batch(channels, 7)
    archs = sandwich(supernet, n)
    teacher_from = 1 if name == "sandwich" else n
    divided_by = 1 if name == "multi-path" else n  # ans: six paths have six times the gradients of their mean
    losses, gradients, statistics = written_out(
        supernet, images, labels, archs, teacher_from=teacher_from, divided_by=divided_by
    )
    returned = STEPS[name](supernet, images, labels, bundles(archs, bundled))
    torch.testing.assert_close(returned, losses, rtol=1e-10, atol=1e-10)
    assert returned.shape == (n,)
    assert not returned.requires_grad
    assert_close(gradients_of(supernet), gradients)
    assert_close({key: supernet.get_buffer(key) for key in statistics}, statistics)


@pytest.mark.parametrize("step", [multi_path_step, label_step])
def test_all_archs_may_run_as_one_stacked_batch_where_none_teaches(step):
    stacked, separate = training(), training()
    archs = random_archs(stacked.domain, 4)
    losses = step(stacked, *batch(), [archs])
    torch.testing.assert_close(losses, step(separate, *batch(), archs), rtol=1e-10, atol=1e-10)
    assert_close(gradients_of(stacked), gradients_of(separate))


def teacher_of(supernet, seed=5):
    """Return a network that is none of the supernet's."""
    network = supernet.freeze(supernet.sample(supernet.largest)).double().eval()
    randomize(network, seed)
    return network


@BUNDLED
@pytest.mark.parametrize("weights", [None, [0.25, 0.25, 1.0, 1.0]])
@pytest.mark.parametrize("rank_weight", [0.0, 0.7])
def test_archs_of_a_frozen_teacher_learn_from_labels_teacher_and_order_and_the_gradients_are_summed(
    weights, rank_weight, bundled
):
    supernet, twin = training(), training()
    images, labels = batch(images=7)
    archs, teacher = sandwich(supernet, 4), teacher_of(supernet)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}

    def macs(arch):
        return -supernet.complexity(arch).macs  # against the order that the losses have by chance

    rank = RankLoss(rank_weight, macs) if rank_weight else None
    how = {"teacher": teacher, "weights": weights, "rank": rank}
    losses = frozen_teacher_step(supernet, images, labels, bundles(archs, bundled), **how)

    target = teacher(images).softmax(1).detach()
    total, values = 0, []
    for arch, weight in zip(archs, weights or [1.0] * 4, strict=True):
        with active_subnet(twin, arch):
            logits = twin(images)
        loss = F.cross_entropy(logits, labels) + F.cross_entropy(logits, target)
        total += weight * loss
        for other, value in zip(archs, values, strict=False):
            sign = 1 if macs(arch) > macs(other) else -1
            total += rank_weight * max(0 * loss, sign * (loss - value))
        values.append(loss.item())
    total.backward()
    torch.testing.assert_close(losses.tolist(), values, rtol=1e-10, atol=0)
    assert_close(gradients_of(supernet), gradients_of(twin))
    assert not [name for name, tensor in teacher.state_dict().items() if not torch.equal(tensor, before[name])]
    assert all(parameter.grad is None for parameter in teacher.parameters())


@BUNDLED
def test_students_do_not_move_what_only_the_teacher_uses(bundled):
    supernet, alone = training(), training()
    sandwich_step(supernet, *batch(), bundles([supernet.largest, supernet.smallest], bundled))
    sandwich_step(alone, *batch(), [alone.largest])
    kernel, from_labels = (network.links[1].conv1.conv.weight.grad for network in (supernet, alone))
    torch.testing.assert_close(kernel[1:], from_labels[1:] / 2, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(kernel[:1, :1], from_labels[:1, :1] / 2)


@BUNDLED
@EVERY_STEP
def test_gradients_are_added_to_those_that_are_there(name, bundled):
    supernet, twin = training(), training()
    archs = bundles(sandwich(supernet, 3), bundled)
    STEPS[name](twin, *batch(), archs)
    for parameter in supernet.parameters():
        parameter.grad = torch.ones_like(parameter)
    STEPS[name](supernet, *batch(), archs)
    assert_close(gradients_of(supernet), {key: gradient + 1 for key, gradient in gradients_of(twin).items()})


@pytest.mark.parametrize(("bundled", "calls"), [("one by one", 4), ("stacked", 2)])
@EVERY_STEP
def test_a_trainers_own_backward_gets_the_losses_in_place_of_torchs(name, bundled, calls):
    supernet = training()
    seen = []
    archs = bundles(sandwich(supernet, 4), bundled)
    losses = STEPS[name](supernet, *batch(), archs, backward=seen.append)
    assert len(seen) == calls
    assert all(loss.requires_grad and loss.dim() == 0 for loss in seen)
    torch.testing.assert_close(sum(seen).detach(), losses.sum() if name == "multi-path" else losses.mean())
    assert all(parameter.grad is None for parameter in supernet.parameters())


@BUNDLED
@EVERY_STEP
def test_the_active_subnet_is_what_it_was_before_the_step(name, bundled):
    supernet = training()
    images, labels = batch()
    (arch,) = random_archs(supernet.domain, 1, seed=3)
    with active_subnet(supernet, arch):
        before = supernet(images)
        STEPS[name](supernet, images, labels, bundles(sandwich(supernet, 3), bundled))
        torch.testing.assert_close(supernet(images), before, rtol=1e-12, atol=0)


@pytest.mark.parametrize("threads", [3, 6])
def test_a_step_on_a_number_of_threads_that_onednn_fails_on_is_right(threads):
    def gradients(count, dtype):
        torch.set_num_threads(count)
        torch.manual_seed(0)
        supernet = make_supernet(ResNet20Space(100)).to(dtype)
        images = torch.randn(64, 3, 32, 32).to(dtype)
        for _ in range(3):
            label_step(supernet, images, torch.arange(64), [supernet.smallest])
        return {name: p.grad.double() for name, p in supernet.named_parameters() if p.grad is not None}

    before = torch.get_num_threads()
    try:
        right = gradients(1, torch.float64)
        for name, gradient in gradients(threads, torch.float32).items():
            assert (gradient - right[name]).norm() <= 1e-3 * right[name].norm() + 1e-6, name
    finally:
        torch.set_num_threads(before)


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


def test_the_rank_loss_is_the_sum_over_pairs_that_are_in_the_wrong_order():
    def by_definition(losses, macs, first):
        total = 0.0
        for j in range(first, len(losses)):
            for i in range(j):
                wrong = losses[j] - losses[i] if macs[j] > macs[i] else losses[i] - losses[j]
                total += max(0.0, wrong) if macs[i] != macs[j] else 0.0
        return total

    macs, losses = [5, 9, 2, 9, 7], [1.0, 2.5, 0.5, 1.5, 3.0]
    for first in range(5):
        own = torch.tensor(losses[first:], dtype=torch.float64, requires_grad=True)
        earlier = torch.tensor(losses[:first], dtype=torch.float64, requires_grad=True)
        loss = pairwise_rank_loss(own, macs[first:], earlier, macs[:first])
        assert loss.item() == pytest.approx(by_definition(losses, macs, first))
        loss.backward()
        assert earlier.grad is None  # the gradient flows into the later one of a pair
    assert own.grad.tolist() == [2]  # those of 5 and 2 MACs lose less than that of 7, against the order


def test_archs_in_the_order_of_their_macs_have_no_rank_loss():
    losses = torch.tensor([3.0, 2.0, 1.0], requires_grad=True)
    loss = pairwise_rank_loss(losses, [1, 2, 3], torch.tensor([4.0]), [0])
    loss.backward()
    assert loss.item() == 0 and not losses.grad.any()
