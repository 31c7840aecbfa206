"""Batch norm taken apart, against its definition and against torch's own."""

import operator

import pytest
import torch
import torch.nn.functional as F
from chains import DescendingChain, NormChain
from helpers import randomize
from torch import nn

from nni_nas_consistency.supernet.active import Run
from nni_nas_consistency.supernet.batch_norm import (
    BatchNormOfRows,
    Normalised,
    Scaled,
    computed,
    group_statistics,
    scaled_sum,
)
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.statistics import OfEachBatch

SHAPES = pytest.mark.parametrize("shape", [(6, 5, 4, 4), (6, 16, 8, 8), (6, 1, 8, 8), (4, 3, 1, 1), (2, 20, 3, 5)])
DEVICES = pytest.mark.parametrize("device", ["cpu", *["cuda"] * torch.cuda.is_available()])


def features(*shape, seed=1, dtype=torch.float64, device="cpu"):
    return (3 + torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))).to(device)


def of_images(per_group, images):
    """Return numbers of groups, [groups, C], as numbers of images, [B, C, 1, 1]."""
    return per_group.repeat_interleave(images // len(per_group), 0)[:, :, None, None]


@DEVICES
@SHAPES
@pytest.mark.parametrize("groups", [1, 2])
def test_statistics_are_those_of_each_group_of_images(shape, groups, device):
    x = features(*shape, device=device)
    mean, var = group_statistics(x, groups)
    parts = x.view(groups, -1, *shape[1:])
    torch.testing.assert_close(mean, parts.mean((1, 3, 4)), rtol=1e-12, atol=0)
    torch.testing.assert_close(var, parts.var((1, 3, 4), correction=0), rtol=1e-10, atol=1e-14)


def test_statistics_of_features_far_from_zero_keep_their_digits():
    x = 1000 + features(64, 20, 8, 8, dtype=torch.float32)
    _, var = group_statistics(x, 1)
    torch.testing.assert_close(var[0].double(), x.double().var((0, 2, 3), correction=0), rtol=1e-4, atol=0)


@DEVICES
def test_statistics_of_half_precision_are_single(device):
    x = features(8, 20, 8, 8, device=device).bfloat16()
    mean, var = group_statistics(x, 2)
    assert mean.dtype == var.dtype == torch.float32
    exact = group_statistics(x.double(), 2)
    torch.testing.assert_close((mean.double(), var.double()), exact, rtol=1e-5, atol=1e-5)


@DEVICES
@SHAPES
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("groups", [(2, 2, 2), (1, 2, 1), (1, 1, 2), (1, 1, 1)])
def test_a_scaled_sum_is_each_groups_own(shape, relu, groups, device):
    x, other, kept = (features(*shape, seed=seed, device=device) for seed in range(3))
    first, second, shift = (features(n, shape[1], seed=10 + n, device=device) - 5 for n in groups)
    scales = [of_images(each, shape[0]) for each in (first, second, shift)]
    expected = scales[0] * x + scales[1] * other + kept + scales[2]
    before = kept.clone()
    got = scaled_sum([(x, first), (other, second), (kept, None)], shift, relu=relu)
    torch.testing.assert_close(got, expected.relu() if relu else expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(kept, before)


def test_half_precision_stays_half_and_is_rounded_once():
    x = features(4, 20, 8, 8).bfloat16()
    scale, shift = features(1, 20).float(), features(1, 20, seed=2).float()
    expected = (x.float() * scale[:, :, None, None] + shift[:, :, None, None]).relu().bfloat16()
    assert torch.equal(scaled_sum([(x, scale)], shift, relu=True), expected)


@DEVICES
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((6, 5, 4, 4), 1),
        ((6, 5, 4, 4), 2),
        ((6, 16, 8, 8), 3),
        ((6, 1, 8, 8), 2),
        ((4, 3, 1, 1), 1),
        ((2, 20, 3, 5), 2),
    ],
)
def test_batch_norm_of_rows_and_its_gradients_are_torchs_own_in_every_group(shape, groups, device):
    c = shape[1]
    leaves = [features(*shape, device=device), *(features(groups, c, seed=seed, device=device) for seed in (2, 3))]
    own, native = ([leaf.clone().requires_grad_() for leaf in leaves] for _ in range(2))
    y, mean, var = BatchNormOfRows.apply(*own, 1e-5)
    parts = zip(native[0].chunk(groups), native[1], native[2], strict=True)
    expected = torch.cat([F.batch_norm(x, None, None, w, b, training=True, eps=1e-5) for x, w, b in parts])
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((mean, var), group_statistics(leaves[0], groups))
    weights = features(*shape, seed=4, device=device).sin()
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, theirs in zip(own, native, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-10)


@DEVICES
def test_batch_norm_of_rows_in_half_precision_is_near(device):
    x, weights = (features(8, 20, 8, 8, seed=seed, device=device).bfloat16() for seed in (1, 4))
    weight, bias = (features(2, 20, seed=seed, device=device).float() for seed in (2, 3))
    results = []
    for dtype, exact in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        leaf = x.detach().to(dtype, copy=True).requires_grad_()
        y, _, _ = BatchNormOfRows.apply(leaf, weight.to(exact), bias.to(exact), 1e-5)
        assert y.dtype == dtype
        (y * weights).sum().backward()
        results.append((y.double(), leaf.grad.double()))
    torch.testing.assert_close(*results, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("momentum", [0.1, 0.0, None])
def test_elastic_batch_norm_of_channels_last_features_is_that_of_others(momentum):
    supernets = [make_supernet(DescendingChain()).double() for _ in range(2)]
    norms = [supernet.links[1].module[0].bn for supernet in supernets]
    x = features(6, 5, 4, 4)
    inputs = [x.clone().requires_grad_(), x.contiguous(memory_format=torch.channels_last).requires_grad_()]
    for norm, of_layout in zip(norms, inputs, strict=True):
        randomize(norm, seed=2)
        norm.momentum = momentum
        norm(of_layout).square().sin().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-9, atol=1e-10)
    for (name, tensor), other in zip(norms[0].state_dict().items(), norms[1].state_dict().values(), strict=True):
        torch.testing.assert_close(other, tensor, rtol=1e-12, atol=0, msg=name)
    for one, other in zip(norms[0].parameters(), norms[1].parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-9, atol=1e-10)


def normalised(seed=1, shape=(4, 3, 2, 2)):
    """Return features of two groups as a batch norm leaves them, and as a tensor."""
    x, scale, shift = (
        features(*size, seed=seed + i) - 3 for i, size in enumerate((shape, (2, shape[1]), (2, shape[1])))
    )
    exact = of_images(scale, shape[0]) * x + of_images(shift, shape[0])
    return Normalised(Scaled(x, scale, shift)), exact


FULL, PER_IMAGE = features(4, 3, 2, 2, seed=7) - 3, features(4, 3, 1, 1, seed=8) - 3
CONV = nn.Conv2d(3, 2, 1).double()
USES = {
    "relu": F.relu,
    "relu in place": lambda y: F.relu(y, inplace=True),
    "relu method": lambda y: y.relu(),
    "relu module": nn.ReLU(inplace=True),
    "plus": lambda y: y + FULL,
    "to plus": lambda y: FULL + y,
    "torch.add": lambda y: torch.add(y, FULL),
    "add with a factor": lambda y: torch.add(FULL, y, alpha=2),
    "plus and relu": lambda y: F.relu(y + FULL),
    "plus per image": lambda y: y + PER_IMAGE,
    "plus number": lambda y: 1 + y,
    "sum": lambda y: sum([y, FULL]),
    "plus itself": lambda y: y + y,
    "plus another type": lambda y: y + FULL.float(),
    "minus": lambda y: y - PER_IMAGE,
    "minus from": lambda y: 1 - y,
    "times": lambda y: y * PER_IMAGE,
    "times number": lambda y: 2 * y,
    "over": lambda y: y / 2,
    "under": lambda y: 1 / y,
    "power": lambda y: y**2,
    "negative": operator.neg,
    "absolute": abs,
    "greater": lambda y: y > 0,
    "less": lambda y: y <= FULL,
    "index": lambda y: y[:, :2],
    "cat": lambda y: torch.cat([y, FULL], 1),
    "mean": lambda y: y.mean((2, 3)),
    "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish,
    "pool": nn.MaxPool2d(2),
    "conv": CONV,
    "batch norm": lambda y: F.batch_norm(y, None, None, training=True),
    "type": lambda y: torch.ones(3, dtype=y.dtype),
    "gate": lambda y: y * y.mean((2, 3), keepdim=True).sigmoid(),
}


@pytest.mark.parametrize("use", USES)
def test_whatever_is_done_with_an_unfinished_batch_norm_is_done_with_its_tensor(use):
    unfinished, exact = normalised()
    full = FULL.clone()
    torch.testing.assert_close(computed(USES[use](unfinished)), USES[use](exact), rtol=1e-12, atol=1e-12)
    assert torch.equal(FULL, full)


def test_two_unfinished_batch_norms_are_added():
    (one, exact), (other, exact_other) = normalised(), normalised(seed=5)
    torch.testing.assert_close(F.relu(one + other), F.relu(exact + exact_other), rtol=1e-12, atol=1e-12)
    for first_computed in (0, 1):
        (one, exact), (other, exact_other) = normalised(), normalised(seed=5)
        (one, other)[first_computed].mean()
        torch.testing.assert_close(computed(one + other), exact + exact_other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("first", [F.relu, lambda y: y + FULL, lambda y: y + normalised(seed=5)[0]])
@pytest.mark.parametrize("again", [F.relu, lambda y: y + FULL, lambda y: y.mean(), computed])
def test_an_unfinished_batch_norm_is_not_used_again_after_its_addition_or_relu(first, again):
    unfinished, _ = normalised()
    first(unfinished)
    with pytest.raises(TypeError, match="again after its ReLU or addition.* score this space with the plain scorer"):
        again(unfinished)


@pytest.mark.parametrize("project", [True, False])
def test_batch_norm_addition_and_relu_of_a_residual_block_are_torchs(project):
    x, shortcut = features(6, 5, 4, 4), features(6, 5, 4, 4, seed=2)
    kept = shortcut.clone()
    weights, biases = ([features(5, seed=seed) for seed in seeds] for seeds in ((3, 4), (5, 6)))
    added = F.batch_norm(shortcut, None, None, weights[1], biases[1], training=True) if project else shortcut
    expected = F.relu(F.batch_norm(x, None, None, weights[0], biases[0], training=True) + added)

    def unfinished(x, weight, bias):
        mean, var = group_statistics(x, 1)
        scale = weight * (var + 1e-5).rsqrt()
        return Normalised(Scaled(x.clone(), scale, bias - mean * scale))

    other = unfinished(shortcut, weights[1], biases[1]) if project else shortcut
    torch.testing.assert_close(F.relu(unfinished(x, weights[0], biases[0]) + other), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(shortcut, kept)


def test_a_batch_norm_apart_from_its_conv_leaves_its_input_to_others():
    supernet = make_supernet(NormChain()).double()
    randomize(supernet, seed=0)
    norm = supernet.links[1].module[1]
    supernet.active.run = Run((supernet.largest,), OfEachBatch())
    x = features(6, 5, 4, 4)
    before = x.clone()
    expected = F.relu(F.batch_norm(x, None, None, training=True))
    torch.testing.assert_close(F.relu(norm(x)), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(x, before)
