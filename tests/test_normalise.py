"""Batch norm taken apart, against its definition."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from helpers import tiny_supernet
from torch import nn

from nni_nas_consistency.supernet import normalise
from nni_nas_consistency.supernet.batch_norm import BatchNormOfRows, group_statistics, scaled_sum
from nni_nas_consistency.supernet.modules import relu_of_sum

SHAPES = pytest.mark.parametrize("shape", [(6, 5, 4, 4), (6, 16, 8, 8), (6, 1, 8, 8), (4, 3, 1, 1), (2, 20, 3, 5)])


def features(*shape, seed=1, dtype=torch.float64):
    return 3 + torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@SHAPES
@pytest.mark.parametrize("groups", [1, 2])
def test_statistics_are_those_of_each_group_of_images(shape, groups):
    x = features(*shape)
    mean, var = group_statistics(x, groups)
    parts = x.view(groups, -1, *shape[1:])
    torch.testing.assert_close(mean, parts.mean((1, 3, 4)), rtol=1e-12, atol=0)
    torch.testing.assert_close(var, parts.var((1, 3, 4), correction=0), rtol=1e-10, atol=1e-14)


def test_statistics_of_features_far_from_zero_keep_their_digits():
    x = 1000 + features(64, 20, 8, 8, dtype=torch.float32)
    _, var = group_statistics(x, 1)
    torch.testing.assert_close(var[0].double(), x.double().var((0, 2, 3), correction=0), rtol=1e-4, atol=0)


def test_statistics_of_half_precision_are_single():
    mean, var = group_statistics(features(8, 20, 8, 8).bfloat16(), 2)
    assert mean.dtype == var.dtype == torch.float32


@SHAPES
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("groups", [(2, 2, 2), (1, 2, 1), (1, 1, 2), (1, 1, 1)])
def test_a_scaled_sum_is_each_groups_own(shape, relu, groups):
    c = shape[1]
    x, other, kept = (features(*shape, seed=seed) for seed in range(3))
    first, second, shift = (features(n, c, seed=10 + n) - 5 for n in groups)

    def of_images(per_group):
        return per_group.repeat_interleave(shape[0] // len(per_group), 0)[:, :, None, None]

    expected = of_images(first) * x + of_images(second) * other + kept + of_images(shift)
    before = kept.clone()
    got = scaled_sum([(x, first), (other, second), (kept, None)], shift, relu=relu)
    torch.testing.assert_close(got, expected.relu() if relu else expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(kept, before)


def test_half_precision_stays_half_and_is_rounded_once():
    x = features(4, 20, 8, 8).bfloat16()
    scale, shift = features(1, 20).float(), features(1, 20, seed=2).float()
    expected = (x.float() * scale[:, :, None, None] + shift[:, :, None, None]).relu().bfloat16()
    assert torch.equal(scaled_sum([(x, scale)], shift, relu=True), expected)


@SHAPES
@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_of_rows_and_its_gradients_are_torchs_own_in_every_group(shape, groups):
    if shape[0] // groups * shape[2] * shape[3] < 3:
        pytest.skip("of two values each is one standard deviation off: no gradient is left")
    c = shape[1]
    leaves = [features(*shape), features(groups, c, seed=2), features(groups, c, seed=3)]
    own, native = ([leaf.clone().requires_grad_() for leaf in leaves] for _ in range(2))
    y, mean, var = BatchNormOfRows.apply(*own, 1e-5)
    parts = zip(native[0].chunk(groups), native[1], native[2], strict=True)
    expected = torch.cat([F.batch_norm(x, None, None, w, b, training=True, eps=1e-5) for x, w, b in parts])
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((mean, var), group_statistics(leaves[0], groups))
    weights = features(*shape, seed=4).sin()
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, theirs in zip(own, native, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-10)


def test_batch_norm_of_rows_in_half_precision_is_near():
    x, weights = features(8, 20, 8, 8).bfloat16(), features(8, 20, 8, 8, seed=4).bfloat16()
    weight, bias = features(2, 20, seed=2).float(), features(2, 20, seed=3).float()
    results = []
    for dtype, exact in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        leaf = x.detach().to(dtype, copy=True).requires_grad_()
        y, _, _ = BatchNormOfRows.apply(leaf, weight.to(exact), bias.to(exact), 1e-5)
        assert y.dtype == dtype
        (y * weights).sum().backward()
        results.append((y.double(), leaf.grad.double()))
    torch.testing.assert_close(*results, rtol=0.02, atol=0.02)


def test_gradients_by_passes_are_those_in_one_kernel():
    rows, of_y = features(2, 12, 5), features(2, 12, 5, seed=2)
    weight, mean, inverse = features(2, 5), features(2, 5, seed=3), features(2, 5, seed=4)
    one = normalise._gradients(rows, of_y, weight, mean, inverse)
    torch.testing.assert_close(
        normalise._gradients_by_passes(rows, of_y, weight, mean, inverse), one, rtol=1e-9, atol=1e-9
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_one_kernel_sums_and_statistics_are_the_same(dtype):
    rows, others = features(2, 64, 20, dtype=torch.float32).to(dtype), features(2, 64, 20, seed=2).to(dtype)
    scale, shift = features(2, 20).float(), features(2, 20, seed=3).float()
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.01, "atol": 0.05}
    for terms in ([(rows, scale)], [(rows, scale), (others, scale)], [(rows, scale), (others, None)]):
        one = normalise._compile(normalise._in_one_kernel)(terms, shift, True)
        torch.testing.assert_close(one, normalise._in_one_kernel(terms, shift, True), **tolerance)
    compiled, plain = normalise._compile(normalise._moments)(rows), normalise._moments(rows)
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-5)
    arguments = rows, others, scale, shift, scale
    gradients = normalise._compile(normalise._gradients)(*arguments), normalise._gradients(*arguments)
    torch.testing.assert_close(*gradients, rtol=0.01, atol=0.01 if dtype == torch.float32 else 0.5)


def test_where_nothing_compiles_functions_run_as_they_are(monkeypatch):
    def broken(*args, **settings):
        raise RuntimeError("no compiler")

    normalise._compiler_works.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert normalise._compiler_works("cpu")
    normalise._compiler_works.cache_clear()
    monkeypatch.setattr(torch, "compile", broken)
    assert not normalise._compiler_works("cpu")
    normalise._compiler_works.cache_clear()
    assert normalise._compiled(normalise._moments, torch.ones(1)) is normalise._moments


def test_statistics_in_one_kernel_are_as_exact_as_their_features():
    rows = features(2, 64, 20)
    mean, var = normalise._moments(rows)
    torch.testing.assert_close(mean, rows.mean(1), rtol=1e-14, atol=0)
    torch.testing.assert_close(var, rows.var(1, correction=0), rtol=1e-13, atol=0)
    assert normalise._moments(rows.bfloat16())[1].dtype == torch.float32


@pytest.mark.parametrize("project", [True, False])
def test_relu_of_a_sum_is_batch_norm_addition_and_relu(project):
    norms = [nn.BatchNorm2d(5).double() for _ in range(2)]
    x, shortcut = features(6, 5, 4, 4), features(6, 5, 4, 4, seed=2)
    kept = shortcut.clone()
    added = F.batch_norm(shortcut, None, None, training=True) if project else shortcut
    expected = F.relu(F.batch_norm(x, None, None, training=True) + added)
    got = relu_of_sum((norms[0], x), (norms[1] if project else None, shortcut))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(shortcut, kept)


def test_a_batch_norm_used_alone_leaves_its_input_to_others():
    norm = tiny_supernet().stages[3].bn
    x = features(6, 3, 4, 4)
    before = x.clone()
    norm.active.scales = lambda norm, x: (torch.full((1, 3), 2.0).double(), torch.full((1, 3), -7.0).double())
    torch.testing.assert_close(norm(x), 2 * before - 7)
    assert torch.equal(x, before)
