"""One arch, run in four ways, is one network: active in the supernet, frozen, rebuilt by NNI, and in plain torch."""

import pytest
import torch
import torch.nn.functional as F
from chains import covering_archs
from helpers import BOTH_SHORTCUTS, plain_logits, random_batch, randomize, subnet_slices, tiny_space, tiny_supernet
from nni.mutable import Mutable
from nni.nas.space import model_context

from nni_nas_consistency.supernet.active import active_subnet, logits_of
from nni_nas_consistency.supernet.extract import sub_state_dict
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.statistics import batch_statistics
from spaces import EVERY_SPACE

CHAINS = [case for case in EVERY_SPACE if case.is_chain]
ELASTIC = [case for case in CHAINS if case.name != "chain-mixed"]  # whose weights are views of the shared ones
every_chain = pytest.mark.parametrize("case", CHAINS, ids=str)
every_elastic_chain = pytest.mark.parametrize("case", ELASTIC, ids=str)

IDENTITIES = "2-1-2-3-2-4-4-1-4-5-4-6-7-9-7-3-7-2-7-1"
"""An arch with identity shortcuts by the standalone rule, and with projections that are not first in their stage."""


def supernet_of(case, seed=0):
    supernet = make_supernet(case.make()).double().eval()
    randomize(supernet, seed)
    return supernet


def archs_of(space):
    extremes = [arch for arch in (space.domain.largest, space.domain.smallest) if arch is not None]
    return list(dict.fromkeys([*extremes, *covering_archs(space.domain)]))


def rebuilt(case, supernet, arch):
    """Return the space as NNI builds it for a sample, with the weights of the subnet."""
    with model_context(supernet.sample(arch)):
        network = case.make().double()
    randomize(network, seed=9)
    network.load_state_dict(sub_state_dict(supernet, arch), strict=True)
    return network.eval()


def by_batch(network, images):
    with batch_statistics(network):
        return network(images)


def gradients_of(network):
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in network.named_parameters()}


def buffers_of(network):
    return {name: tensor.clone() for name, tensor in network.named_buffers()}


def written_into(wide, shared, places, values):
    """Write the values of a subnet into tensors like the shared ones, to where the slices of these are."""
    names = {tensor.untyped_storage().data_ptr(): name for name, tensor in shared.items()}
    for name, value in values.items():
        place = places[name]
        target = wide[names[place.untyped_storage().data_ptr()]]
        target.as_strided(place.size(), place.stride(), place.storage_offset()).copy_(value)
    return wide


def assert_same(left, right):
    assert left.keys() == right.keys()
    assert not [name for name in left if not torch.equal(left[name], right[name])]


@every_chain
def test_active_frozen_and_rebuilt_subnets_have_the_same_logits(case):
    supernet, images = supernet_of(case), case.images()
    seen = []
    for arch in archs_of(supernet):
        frozen, fresh = supernet.freeze(supernet.sample(arch)), rebuilt(case, supernet, arch)
        with active_subnet(supernet, arch):
            running, of_batch = supernet(images), by_batch(supernet, images)
        assert running.shape == (5, 10)
        assert torch.equal(frozen(images), running), arch.code
        assert torch.equal(fresh(images), running), arch.code
        assert torch.equal(by_batch(frozen, images), of_batch), arch.code
        assert torch.equal(by_batch(fresh, images), of_batch), arch.code
        seen.append(running)
    assert not [other for other in seen[1:] if torch.allclose(seen[0], other, atol=1e-3)]


@every_elastic_chain
def test_in_training_gradients_and_running_statistics_are_those_of_the_frozen_subnet(case):
    for arch in archs_of(case.make())[:8]:
        supernet, images = supernet_of(case).train(), case.images()
        frozen, places = supernet.freeze(supernet.sample(arch)), sub_state_dict(supernet, arch)
        parameters, buffers = dict(supernet.named_parameters()), dict(supernet.named_buffers())
        buffers_before = buffers_of(supernet)

        active, alone = logits_of(supernet, images, arch), frozen(images)
        for logits in (active, alone):
            F.cross_entropy(logits, torch.arange(5)).backward()

        assert torch.equal(active, alone)
        zeros = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        assert_same(gradients_of(supernet), written_into(zeros, parameters, places, gradients_of(frozen)))
        assert_same(buffers_of(supernet), written_into(buffers_before, buffers, places, buffers_of(frozen)))


@every_chain
def test_a_frozen_subnet_is_made_of_plain_torch_layers(case):
    supernet = supernet_of(case)
    for arch in archs_of(supernet):
        frozen = supernet.freeze(supernet.sample(arch))
        for module in frozen.modules():
            assert module is frozen or not isinstance(module, Mutable)
            tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            assert not tensors or type(module).__module__.startswith("torch.nn.modules"), type(module)


@BOTH_SHORTCUTS
def test_resnet20_is_the_network_written_out_with_slices_taken_by_hand(shortcut):
    images, labels = random_batch()
    codec = tiny_space(shortcut).codec
    for arch in [codec.parse(IDENTITIES), *covering_archs(tiny_space(shortcut).domain)[:6]]:
        supernet = tiny_supernet(shortcut=shortcut).eval()
        by_hand = copies(subnet_slices(supernet.state_dict(), arch, shortcut))
        assert_same(sub_state_dict(supernet, arch), by_hand)
        assert torch.equal(logits_of(supernet, images, arch), plain_logits(by_hand, images, shortcut)), arch.code

        logits = logits_of(supernet.train(), images, arch), plain_logits(by_hand, images, shortcut, training=True)
        for each in logits:
            F.cross_entropy(each, labels).backward()
        assert torch.equal(*logits), arch.code
        gradients = subnet_slices(gradients_of(supernet) | dict(supernet.named_buffers()), arch, shortcut)
        for name, tensor in by_hand.items():
            if tensor.requires_grad:
                assert torch.equal(gradients[name], tensor.grad), name
            elif not name.endswith("num_batches_tracked"):
                assert torch.equal(sub_state_dict(supernet, arch)[name], tensor), name


def copies(tensors):
    """Return copies of the tensors of a state dict; those that are trained require gradients."""
    fixed = ("running_mean", "running_var", "num_batches_tracked")
    return {name: t.detach().clone().requires_grad_(not name.endswith(fixed)) for name, t in tensors.items()}


def test_identity_shortcuts_have_no_weights_in_a_subnet():
    supernet = tiny_supernet(shortcut="standalone")
    names = sub_state_dict(supernet, supernet.codec.parse(IDENTITIES))
    projections = {int(name.split(".")[1]) // 2 - 1 for name in names if ".shortcut." in name}
    assert projections == {0, 2, 3, 5, 6}
