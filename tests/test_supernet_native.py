"""The native kernel of batch norm, addition and ReLU against torch's own layers in float64."""

import os

import pytest
import torch
import torch.nn.functional as F
from helpers import random_archs, randomize

from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.strategies.steps import sandwich_step
from nni_nas_consistency.supernet import native
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.native import BatchNormed

needs_compiler = pytest.mark.skipif(native.library() is None, reason="no C++ compiler on this machine")
pytestmark = needs_compiler

SHAPES = pytest.mark.parametrize("shape", [(6, 5, 4, 4), (6, 16, 16, 16), (6, 1, 8, 8), (12, 20, 9, 7), (2, 33, 1, 1)])
TERMS = pytest.mark.parametrize("plain", [(False,), (False, False), (False, True), (False, True, False, True)])
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 6e-3}


def features(shape, seed, dtype):
    x = 3 + 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def per_group(groups, c, seed):
    return torch.randn(groups, c, generator=torch.Generator().manual_seed(seed))


def leaves_of(shape, groups, plain, dtype):
    """Return features, weight and bias of each term; a plain term has features alone."""
    leaves = []
    for seed, is_plain in enumerate(plain):
        norm = [] if is_plain else [per_group(groups, shape[1], 10 + seed), per_group(groups, shape[1], 20 + seed)]
        leaves.append([features(shape, seed, dtype), *norm])
    return leaves


def native_sum(leaves, groups, relu):
    terms = []
    for x, *norm in leaves:
        terms.append(BatchNormed(x, *norm, *native.moments(x.detach(), groups), 1e-5) if norm else x)
    return native.sum_of_terms(terms, relu=relu)


def torch_sum(leaves, groups, relu):
    total = 0
    for x, *norm in leaves:
        parts = zip(x.chunk(groups), *norm, strict=True) if norm else []
        total = total + (torch.cat([F.batch_norm(part, None, None, w, b, True) for part, w, b in parts]) if norm else x)
    return total.relu() if relu else total


def with_gradients(leaves, add_up, groups, relu):
    leaves = [[leaf.clone().requires_grad_() for leaf in term] for term in leaves]
    y = add_up(leaves, groups, relu)
    direction = features(y.shape, 99, torch.float32).to(y.dtype)
    (y * direction).sum().backward()
    return y.detach(), [leaf.grad for term in leaves for leaf in term]


@SHAPES
@TERMS
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sum_and_gradients_are_those_of_torch_in_float64(shape, plain, groups, relu, dtype):
    if shape[0] // groups * shape[2] * shape[3] < 2:
        groups = 1
    leaves = leaves_of(shape, groups, plain, dtype)
    y, gradients = with_gradients(leaves, native_sum, groups, relu)
    exact, expected = with_gradients([[x.double() for x in term] for term in leaves], torch_sum, groups, relu)
    assert y.dtype == dtype
    assert (y - exact).norm() < TOLERANCE[dtype] * exact.norm()
    for got, wanted in zip(gradients, expected, strict=True):
        near_zero = 1e-4 * len(wanted.flatten()) ** 0.5  # over two values, gradients cancel to rounding errors
        assert (got - wanted).norm() < TOLERANCE[dtype] * 40 * wanted.norm() + near_zero * (shape[2] == 1)


def test_a_term_in_another_memory_layout_is_added_pixel_by_pixel():
    leaves = leaves_of((6, 5, 4, 4), 1, (False, True), torch.float32)
    leaves[1][0] = leaves[1][0].contiguous()
    y, gradients = with_gradients(leaves, native_sum, 1, True)
    exact, expected = with_gradients([[x.double() for x in term] for term in leaves], torch_sum, 1, True)
    torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients[-1].double(), expected[-1], rtol=1e-5, atol=1e-5)


def test_moments_of_features_far_from_zero_keep_their_digits():
    x = 1000 + features((64, 20, 8, 8), 0, torch.float32)
    mean, var = native.moments(x, 2)
    parts = x.double().view(2, -1, *x.shape[1:])
    torch.testing.assert_close(mean.double(), parts.mean((1, 3, 4)), rtol=1e-7, atol=0)
    torch.testing.assert_close(var.double(), parts.var((1, 3, 4), correction=0), rtol=1e-4, atol=0)


def test_the_number_of_threads_changes_no_bit():
    leaves = leaves_of((16, 12, 32, 32), 1, (False, False), torch.float32)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(with_gradients(leaves, native_sum, 1, True))
    finally:
        torch.set_num_threads(threads)
    for y, gradients in results[1:]:
        assert torch.equal(y, results[0][0])
        assert all(torch.equal(one, other) for one, other in zip(gradients, results[0][1], strict=True))


def test_a_nan_in_the_features_comes_out():
    for dtype in (torch.float32, torch.bfloat16):
        x = features((4, 3, 2, 2), 0, dtype)
        x[1, 2, 0, 0] = torch.nan
        y = native_sum([[x, per_group(1, 3, 1), per_group(1, 3, 2)]], 1, True)
        assert y[:, 2].isnan().all() and not y[:, :2].isnan().any()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_sandwich_step_has_the_same_gradients_without_the_kernel(precision, monkeypatch):
    supernet = make_supernet(ResNet20Space(10, 3, 8, width_unit=1))
    randomize(supernet, seed=0)
    supernet.float().train()
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    archs = [supernet.largest, supernet.smallest, *random_archs(supernet.domain, 3)]

    def gradients():
        supernet.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            losses = sandwich_step(supernet, images, torch.arange(16) % 10, archs)
        return losses, torch.cat([parameter.grad.flatten() for parameter in supernet.parameters()])

    used = []
    monkeypatch.setattr(native, "moments", lambda x, groups, own=native.moments: used.append(x) or own(x, groups))
    losses, fast = gradients()
    assert used
    monkeypatch.setattr(native, "library", lambda: None)
    calls = len(used)
    plain_losses, plain = gradients()
    assert len(used) == calls
    loose = 1e-4 if precision == torch.float32 else 0.2
    torch.testing.assert_close(losses, plain_losses, rtol=loose, atol=loose)
    assert (fast - plain).norm() < loose * plain.norm()


def test_a_folder_that_others_can_write_to_holds_no_kernel(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    native.library.cache_clear()
    (tmp_path / "nni-nas-consistency").mkdir()
    os.chmod(tmp_path / "nni-nas-consistency", 0o777)
    try:
        assert native.library() is not None
        assert not list((tmp_path / "nni-nas-consistency").iterdir())
        assert len(list((tmp_path / "temporary").rglob("*.so"))) == 1
    finally:
        native.library.cache_clear()


def test_without_a_compiler_there_is_no_kernel(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    native.library.cache_clear()
    try:
        assert native.library() is None
        assert not native.supports(features((4, 3, 2, 2), 0, torch.float32))
    finally:
        native.library.cache_clear()


def test_moments_are_single_precision_whatever_the_default_type():
    x = features((4, 3, 2, 2), 0, torch.bfloat16)
    expected = native.moments(x, 1)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)  # as Lightning does for bf16-true
        found = native.moments(x, 1)
    finally:
        torch.set_default_dtype(before)
    assert all(tensor.dtype == torch.float32 for tensor in found)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
