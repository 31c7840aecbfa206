"""Reordering the channels inside residual blocks: the largest arch stays the same function, narrower ones do not."""

import pytest
import torch
from chains import DescendingChain
from helpers import random_batch, randomize, tiny_space

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.spaces.reorder import reorder_inner_channels
from nni_nas_consistency.spaces.resnet48 import ResNet48Space
from nni_nas_consistency.supernet.active import logits_of
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.sharing import Sharing
from nni_nas_consistency.supernet.statistics import batch_statistics

SPACES = {
    "resnet48": lambda: ResNet48Space(10, 1, 8, width_divisor=8),
    "resnet48-prelu": lambda: ResNet48Space(10, 1, 8, activation="prelu", width_divisor=8),
    "resnet20": tiny_space,
}
every_space = pytest.mark.parametrize("make", SPACES.values(), ids=SPACES)


def supernet_of(make):
    supernet = make_supernet(make()).double().eval()
    randomize(supernet, seed=3)
    return supernet


@every_space
def test_the_function_of_the_full_network_stays_the_same_and_that_of_a_narrower_one_does_not(make):
    supernet, (images, _) = supernet_of(make), random_batch(16)
    with batch_statistics(supernet):
        of_batch = logits_of(supernet, images, supernet.largest)
    before = {arch: logits_of(supernet, images, arch) for arch in (supernet.largest, supernet.smallest)}
    reorder_inner_channels(supernet)
    after = {arch: logits_of(supernet, images, arch) for arch in before}
    torch.testing.assert_close(after[supernet.largest], before[supernet.largest], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(after[supernet.smallest], before[supernet.smallest], rtol=1e-3)
    with batch_statistics(supernet):
        again = logits_of(supernet, images, supernet.largest)
    torch.testing.assert_close(again, of_batch, rtol=1e-9, atol=1e-9)


@every_space
def test_each_block_has_its_channels_in_the_order_of_the_weights_that_read_them(make):
    supernet = supernet_of(make)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    reorder_inner_channels(supernet)
    after = supernet.state_dict()
    seconds = [name for name in before if name.endswith("conv2.conv.weight")]
    firsts = [name for name in before if name.endswith("conv1.conv.weight")]
    assert len(seconds) == len(firsts) == (9 if make is tiny_space else 23)
    moved = set()
    for first, second in zip(firsts, seconds, strict=True):
        importance = [float(before[second][:, channel].abs().sum()) for channel in range(before[second].shape[1])]
        order = sorted(range(len(importance)), key=lambda channel: -importance[channel])
        assert torch.equal(after[second], before[second][:, order])
        for name in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"):
            name = first.replace("conv.weight", name)
            assert torch.equal(after[name], before[name][order])
            moved.add(name)
        moved.add(second)
        assert order != list(range(len(order))) or len(order) < 3
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name not in moved)


@every_space
def test_reordering_twice_changes_nothing_more(make):
    supernet = supernet_of(make)
    reorder_inner_channels(supernet)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    reorder_inner_channels(supernet)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_a_space_without_residual_blocks_is_refused():
    with pytest.raises(
        InputError, match="^DescendingChain has no residual blocks, whose inner channels could be reord"
    ):
        reorder_inner_channels(DescendingChain())


def test_convolutions_with_several_kernels_are_refused():
    supernet = make_supernet(tiny_space(), sharing=Sharing(conv="end"))
    with pytest.raises(InputError, match="reordered where all archs share one kernel; do it before unsharing$"):
        reorder_inner_channels(supernet)
