"""Batch-norm statistics for scoring: of each batch, or averaged over batches, and the running ones put back."""

import pytest
import torch
from helpers import BOTH_SHORTCUTS, random_archs, random_batch, tiny_supernet
from torch import nn
from torch.optim.swa_utils import update_bn

from nni_nas_consistency.supernet.active import active_subnet
from nni_nas_consistency.supernet.statistics import batch_norms, batch_statistics, estimated_statistics


def batches(sizes=(6, 6, 5), seed=1):
    """Return several batches, the last one odd."""
    return [random_batch(size, seed + index)[0] for index, size in enumerate(sizes)]


def state_of(network):
    """Return all that a scorer may not change: tensors, modes and momenta."""
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return tensors, [(norm.training, norm.momentum) for norm in batch_norms(network)]


def assert_unchanged(network, before):
    tensors, modes = before
    now, modes_now = state_of(network)
    assert not [name for name in tensors if not torch.equal(tensors[name], now[name])]
    assert modes_now == modes


def subnets(shortcut="projection", seed=2):
    """Yield supernets in evaluation mode with an active subnet, and the same subnet extracted."""
    supernet = tiny_supernet(shortcut=shortcut).eval()
    for arch in [supernet.smallest, *random_archs(supernet.domain, 3, seed)]:
        with active_subnet(supernet, arch):
            yield supernet, supernet.freeze(supernet.sample(arch))


@BOTH_SHORTCUTS
def test_batch_statistics_are_those_of_training_mode_and_leave_the_running_ones_alone(shortcut):
    (images,) = batches([5])
    for supernet, alone in subnets(shortcut):
        expected = alone.train()(images)
        alone.eval()
        for network in (supernet, alone):
            before = state_of(network)
            with batch_statistics(network):
                actual = network(images)
                assert torch.equal(network(images), actual)
            assert torch.equal(actual, expected)
            assert_unchanged(network, before)


@BOTH_SHORTCUTS
def test_estimated_statistics_are_those_of_torchs_update_bn_on_the_extracted_subnet(shortcut):
    (images,) = batches([5], seed=9)
    for supernet, alone in subnets(shortcut):
        alike = state_of(supernet), state_of(alone)
        copied = supernet.freeze(supernet.sample(alone.frozen_arch))
        update_bn(batches(), copied)
        expected = copied.eval()(images)
        for network, before in zip((supernet, alone), alike, strict=True):
            with estimated_statistics(network, network, batches()):
                assert torch.equal(network(images), expected)
                assert torch.equal(network(images), expected)
            assert_unchanged(network, before)
            assert not torch.equal(network(images), expected)


def test_estimated_statistics_of_the_supernet_stay_within_the_active_channels():
    pairs = subnets()
    supernet, alone = next(pairs)
    with estimated_statistics(supernet, supernet, batches()):
        for norm, narrow in zip(batch_norms(supernet), batch_norms(alone), strict=True):
            width = narrow.num_features
            assert not torch.equal(norm.running_mean[:width], torch.zeros(width, dtype=torch.float64))
            assert torch.equal(norm.running_mean[width:], torch.zeros_like(norm.running_mean[width:]))
            assert norm.num_batches_tracked == 3


def test_both_put_back_what_they_found_also_after_an_exception():
    for supernet, _ in subnets():
        batch_norms(supernet)[2].training = True
        batch_norms(supernet)[3].momentum = 0.3
        before = state_of(supernet)
        with pytest.raises(KeyError), batch_statistics(supernet):
            assert {(norm.training, norm.momentum) for norm in batch_norms(supernet)} == {(True, 0.0)}
            raise KeyError
        assert_unchanged(supernet, before)
        with pytest.raises(KeyError), estimated_statistics(supernet, supernet, batches()):
            assert {norm.training for norm in batch_norms(supernet)} == {False}
            raise KeyError
        assert_unchanged(supernet, before)


def test_statistics_cannot_be_estimated_from_nothing():
    for supernet, _ in subnets():
        before = state_of(supernet)
        message = "no images to estimate batch-norm statistics from"
        with pytest.raises(ValueError, match=message), estimated_statistics(supernet, supernet, iter([])):
            pytest.fail("there are no statistics")
        assert_unchanged(supernet, before)


def test_estimating_computes_no_gradients():
    for supernet, _ in subnets():
        modes = []

        def forward(images, network=supernet, modes=modes):
            modes.append(torch.is_grad_enabled())
            return network(images)

        with estimated_statistics(supernet, forward, batches()):
            assert torch.is_grad_enabled()
        assert modes == [False] * 3


def test_all_batch_norms_of_supernets_and_of_plain_networks_are_found():
    supernet = tiny_supernet()
    assert len(batch_norms(supernet)) == 1 + 9 * 3
    assert len(batch_norms(nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.Sequential(nn.BatchNorm2d(2))))) == 2
