"""Batch-norm statistics for scoring: of each batch, or averaged over batches; what was there is put back."""

import pytest
import torch
from chains import covering_archs
from helpers import random_batch, randomize, tiny_supernet
from torch import nn
from torch.optim.swa_utils import update_bn

from nni_nas_consistency.supernet.active import active_subnet
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.statistics import batch_norms, batch_statistics, estimated_statistics
from spaces import EVERY_SPACE

every_chain = pytest.mark.parametrize("case", [case for case in EVERY_SPACE if case.is_chain], ids=str)


def batches(case):
    """Return several batches, the last one odd."""
    return [images * scale for scale, images in ((0.5, case.images()), (2, case.images()), (1, case.images()[:3]))]


def state_of(network):
    """Return all that a scorer may not change: tensors, modes and momenta."""
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return tensors, [(norm.training, norm.momentum) for norm in batch_norms(network)]


def assert_unchanged(network, before):
    tensors, modes = before
    now, modes_now = state_of(network)
    assert not [name for name in tensors if not torch.equal(tensors[name], now[name])]
    assert modes_now == modes


def subnets(case):
    """Yield supernets in evaluation mode with an active subnet, and the same subnet extracted."""
    supernet = make_supernet(case.make()).double().eval()
    randomize(supernet, seed=0)
    for arch in covering_archs(supernet.domain)[:4]:
        with active_subnet(supernet, arch):
            yield supernet, supernet.freeze(supernet.sample(arch))


@every_chain
def test_batch_statistics_are_those_of_training_mode_and_leave_the_running_ones_alone(case):
    images = case.images()
    for supernet, alone in subnets(case):
        expected = alone.train()(images)
        alone.eval()
        for network in (supernet, alone):
            before = state_of(network)
            with batch_statistics(network):
                assert torch.equal(network(images), expected)
                assert torch.equal(network(images), expected)
            assert_unchanged(network, before)


@every_chain
def test_estimated_statistics_are_those_of_torchs_update_bn_on_the_extracted_subnet(case):
    images = case.images()
    for supernet, alone in subnets(case):
        reference = supernet.freeze(supernet.sample(alone.frozen_arch))
        update_bn(batches(case), reference)
        expected = reference.eval()(images)
        for network in (supernet, alone):
            before, running = state_of(network), network(images)
            with estimated_statistics(network, network, batches(case)):
                assert torch.equal(network(images), expected)
            assert_unchanged(network, before)
            assert torch.equal(running, expected) == (not batch_norms(network))


def test_estimated_statistics_of_the_supernet_stay_within_the_active_channels():
    supernet = tiny_supernet().eval()
    alone = supernet.freeze(supernet.sample(supernet.smallest))
    images = [random_batch(seed=seed)[0] for seed in range(3)]
    with active_subnet(supernet, supernet.smallest), estimated_statistics(supernet, supernet, images):
        for norm, narrow in zip(batch_norms(supernet), batch_norms(alone), strict=True):
            inside, outside = norm.running_mean[: narrow.num_features], norm.running_mean[narrow.num_features :]
            assert inside.abs().min() > 0
            assert outside.abs().max() == 0
            assert norm.num_batches_tracked == 3


def test_both_put_back_what_they_found_also_after_an_exception():
    supernet = tiny_supernet().eval()
    batch_norms(supernet)[2].training = True
    batch_norms(supernet)[3].momentum = 0.3
    before = state_of(supernet)
    with pytest.raises(KeyError), batch_statistics(supernet):
        assert {(norm.training, norm.momentum) for norm in batch_norms(supernet)} == {(True, 0.0)}
        raise KeyError
    assert_unchanged(supernet, before)
    with pytest.raises(KeyError), estimated_statistics(supernet, supernet, [random_batch()[0]]):
        assert {norm.training for norm in batch_norms(supernet)} == {False}
        raise KeyError
    assert_unchanged(supernet, before)


def test_statistics_cannot_be_estimated_from_nothing():
    supernet = tiny_supernet().eval()
    before = state_of(supernet)
    message = "no images to estimate batch-norm statistics from"
    with pytest.raises(ValueError, match=message), estimated_statistics(supernet, supernet, iter([])):
        pytest.fail("there are no statistics")
    assert_unchanged(supernet, before)


def test_estimating_computes_no_gradients():
    supernet, modes = tiny_supernet().eval(), []

    def forward(images):
        modes.append(torch.is_grad_enabled())
        return supernet(images)

    with estimated_statistics(supernet, forward, [random_batch()[0]] * 3):
        assert torch.is_grad_enabled()
    assert modes == [False] * 3


def test_batch_norms_of_any_dimension_are_calibrated():
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.BatchNorm1d(32), nn.Linear(32, 3)).eval()
    images = torch.randn(6, 2, 4, 4)
    expected = network.train()(images)
    network.eval()
    with batch_statistics(network):
        assert torch.equal(network(images), expected)
    assert not torch.equal(network(images), expected)
