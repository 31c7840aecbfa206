"""The supernet: its active subnet, the extracted one and plain torch with copied weights are the same network."""

import copy
import statistics
import time

import nni
import pytest
import torch
from helpers import (
    BOTH_SHORTCUTS,
    plain_logits,
    random_archs,
    random_batch,
    randomize,
    subnet_slices,
    tiny_space,
    tiny_supernet,
)
from nni.nas.nn.pytorch import LayerChoice, MutableBatchNorm2d, MutableConv2d, MutableLinear
from torch import nn

from nni_nas_consistency.archs.arch import WidthForm
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.supernet.active import logits_of, active_subnet, stack, unstack
from nni_nas_consistency.supernet.extract import copy_into, sub_state_dict
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.statistics import batch_statistics

EQUAL_WIDTHS = "2-1-2-3-2-4-4-1-4-5-4-6-7-9-7-3-7-2-7-1"
"""An arch with identity shortcuts by the standalone rule, and with projections that are not first in their stage."""


def archs_of(supernet, n=4, seed=1):
    """Return the largest, the smallest, one with identities, and random archs."""
    chosen = [supernet.largest, supernet.smallest, supernet.domain.parse(EQUAL_WIDTHS)]
    return chosen + random_archs(supernet.domain, n, seed)


def copied(tensors):
    """Return copies; the trainable ones require gradients."""
    fixed = ("running_mean", "running_var", "num_batches_tracked")
    return {name: t.detach().clone().requires_grad_(not name.endswith(fixed)) for name, t in tensors.items()}


def padded(gradients, shared):
    """Return the gradients of slices as gradients of the shared weights: zero outside, and where there is no slice."""
    wide = {name: torch.zeros_like(tensor) for name, tensor in shared.items()}
    for name, gradient in gradients.items():
        wide[name][tuple(slice(size) for size in gradient.shape)] = gradient
    return wide


def gradients_of(network):
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in network.named_parameters()}


def buffers_of(network):
    return {name: tensor.clone() for name, tensor in network.named_buffers()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    assert not [name for name in left if not torch.equal(left[name], right[name])]


def assert_close(left, right):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], rtol=1e-10, atol=1e-10, msg=lambda text, name=name: name + text
        )


@BOTH_SHORTCUTS
def test_in_evaluation_active_subnet_extracted_subnet_and_plain_torch_agree_exactly(shortcut):
    supernet = tiny_supernet(shortcut=shortcut).eval()
    images, _ = random_batch()
    for arch in archs_of(supernet):
        with active_subnet(supernet, arch):
            active = supernet(images)
        frozen = supernet.freeze(supernet.sample(arch))
        fresh = tiny_space(shortcut).freeze(supernet.sample(arch)).double().eval()
        fresh.load_state_dict(sub_state_dict(supernet, arch), strict=True)
        by_hand = copied(subnet_slices(supernet.state_dict(), arch, shortcut))
        assert torch.equal(active, plain_logits(by_hand, images, shortcut)), arch.code
        assert torch.equal(active, frozen(images)), arch.code
        assert torch.equal(active, fresh(images)), arch.code


@BOTH_SHORTCUTS
def test_in_training_outputs_gradients_and_running_statistics_agree_exactly(shortcut):
    images, labels = random_batch()
    for arch in archs_of(tiny_space(shortcut)):
        supernet = tiny_supernet(shortcut=shortcut).train()
        untouched = buffers_of(supernet)
        frozen = supernet.freeze(supernet.sample(arch))
        by_hand = copied(subnet_slices(supernet.state_dict(), arch, shortcut))
        with active_subnet(supernet, arch):
            active = supernet(images)
        alone, plain = frozen(images), plain_logits(by_hand, images, shortcut, training=True)
        for logits in (active, alone, plain):
            nn.functional.cross_entropy(logits, labels).backward()

        assert torch.equal(active, alone), arch.code
        assert torch.equal(active, plain), arch.code
        shared = dict(supernet.named_parameters())
        assert_same(gradients_of(supernet), padded(gradients_of(frozen), shared))
        assert_same(
            gradients_of(supernet),
            padded({name: tensor.grad for name, tensor in by_hand.items() if tensor.requires_grad}, shared),
        )
        for name, buffer in frozen.named_buffers():
            inside = tuple(slice(size) for size in buffer.shape)
            assert torch.equal(supernet.get_buffer(name)[inside], buffer), name
            if not name.endswith("num_batches_tracked"):
                assert torch.equal(by_hand[name], buffer), name
                untouched[name][inside] = buffer
            else:
                assert buffer == 8
                untouched[name] = buffer
        assert_same(buffers_of(supernet), untouched)


def test_the_extracted_weights_are_exactly_the_slices_taken_by_hand():
    for shortcut in ("projection", "standalone"):
        supernet = tiny_supernet(shortcut=shortcut)
        for arch in archs_of(supernet):
            by_hand = subnet_slices(supernet.state_dict(), arch, shortcut)
            assert_same(sub_state_dict(supernet, arch), by_hand)
            assert_same(dict(supernet.freeze(supernet.sample(arch)).state_dict()), by_hand)


def test_identity_shortcuts_are_left_out_of_the_extracted_weights():
    supernet = tiny_supernet(shortcut="standalone")
    names = sub_state_dict(supernet, supernet.domain.parse(EQUAL_WIDTHS))
    projections = {int(name.split(".")[1]) // 2 - 1 for name in names if ".shortcut." in name}
    assert projections == {0, 2, 3, 5, 6}


def test_extracted_weights_are_views_of_the_shared_ones():
    supernet = tiny_supernet()
    (arch,) = random_archs(supernet.domain, 1)
    shared = supernet.state_dict()
    for name, tensor in sub_state_dict(supernet, arch).items():
        assert tensor.untyped_storage().data_ptr() == shared[name].untyped_storage().data_ptr(), name
        assert not tensor.requires_grad
    sub_state_dict(supernet, arch)["stages.0.conv.weight"].fill_(3)
    assert (supernet.stages[0].conv.weight[: arch.choices[0]] == 3).all()


def test_changing_a_frozen_subnet_leaves_the_supernet_alone():
    supernet = tiny_supernet()
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    frozen = supernet.freeze(supernet.sample(supernet.largest))
    with torch.no_grad():
        for tensor in frozen.state_dict().values():
            tensor.fill_(5)
    assert_same(dict(supernet.state_dict()), before)


def test_freezing_a_subnet_does_not_move_torchs_generator():
    supernet = tiny_supernet()
    before = torch.get_rng_state()
    supernet.freeze(supernet.sample(supernet.largest))
    assert torch.equal(torch.get_rng_state(), before)


def test_copies_go_into_networks_that_have_all_their_names_only():
    supernet = tiny_supernet()
    small, large = (supernet.freeze(supernet.sample(arch)) for arch in (supernet.smallest, supernet.largest))
    weights = dict(large.state_dict())
    copy_into(small, weights)
    assert_same(dict(small.state_dict()), weights)
    with pytest.raises(KeyError, match="stages.20.weight"):
        copy_into(small, weights | {"stages.20.weight": torch.ones(1)})
    del weights["stages.19.linear.bias"]
    with pytest.raises(KeyError, match="stages.19.linear.bias"):
        copy_into(small, weights)


@pytest.mark.parametrize("training", [False, True])
def test_a_frozen_subnet_is_trainable_and_in_the_mode_of_its_supernet(training):
    supernet = tiny_supernet().train(training)
    frozen = supernet.freeze(supernet.sample(supernet.smallest))
    assert {module.training for module in frozen.modules()} == {training}
    assert all(parameter.requires_grad for parameter in frozen.parameters())
    assert frozen.frozen_arch == supernet.smallest
    assert frozen.active is None


def test_a_supernet_runs_as_its_largest_subnet_until_told_otherwise():
    supernet = tiny_supernet().eval()
    images, _ = random_batch()
    assert torch.equal(supernet(images), logits_of(supernet, images, supernet.largest))


def test_the_active_subnet_is_put_back_after_nesting_and_after_an_exception():
    supernet = tiny_supernet().train()
    small, other = supernet.smallest, random_archs(supernet.domain, 1)[0]
    assert supernet.active.widths == supernet.sample(supernet.largest)
    with active_subnet(supernet, small):
        with active_subnet(supernet, other):
            assert supernet.active.widths == supernet.sample(other)
            with pytest.raises(KeyError), active_subnet(supernet, [small, other]):
                assert supernet.active.masks["w14"].sum(1).tolist() == [1, other.choices[13]]
                raise KeyError
            assert supernet.active.widths == supernet.sample(other)
            assert supernet.active.masks is None
        assert supernet.active.widths == supernet.sample(small)
        assert supernet.stages[3].conv.export({}) == {"w3": 1, "w4": 1}
    assert supernet.active.widths == supernet.sample(supernet.largest)
    active_subnet(supernet, small)
    assert supernet.active.widths == supernet.sample(small)


def test_a_space_that_is_no_supernet_has_no_active_subnet_and_no_weights_to_extract():
    space = tiny_space()
    with pytest.raises(ValueError, match="the space is no supernet: train it with SandwichStrategy, or call make_sup"):
        active_subnet(space, space.largest)
    with pytest.raises(ValueError, match="the space is no supernet: train it with SandwichStrategy, or call make_sup"):
        sub_state_dict(space, space.largest)


def test_archs_with_different_modules_are_not_stacked():
    supernet = tiny_supernet(shortcut="standalone")
    with pytest.raises(ValueError, match="archs with identity shortcuts cannot be stacked; use one arch"):
        active_subnet(supernet, [supernet.largest, supernet.smallest])
    assert supernet.active.masks is None


@pytest.mark.parametrize(("n", "images"), [(1, 5), (3, 5), (6, 7), (4, 1)])
def test_a_stacked_batch_is_its_archs_one_by_one(n, images):
    batch, labels = random_batch(images)
    weights = torch.linspace(0.5, 1.5, n, dtype=torch.float64)  # so that swapped archs show in the gradients
    archs = [*random_archs(tiny_space().domain, n, seed=2)]
    archs[-1] = tiny_space().smallest
    one_by_one, stacked = tiny_supernet().train(), tiny_supernet().train()

    expected = torch.stack([logits_of(one_by_one, batch, arch) for arch in archs])
    logits = logits_of(stacked, batch, archs)
    for outputs in (expected, logits):
        losses = [nn.functional.cross_entropy(output, labels) for output in outputs]
        (torch.stack(losses) * weights).sum().backward()

    assert logits.shape == (n, images, 10)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    assert_close(gradients_of(stacked), gradients_of(one_by_one))
    assert_close(buffers_of(stacked), buffers_of(one_by_one))
    assert stacked.get_buffer("stages.4.bn.num_batches_tracked") == 7 + n


def test_stacking_puts_all_images_of_an_arch_side_by_side():
    x = torch.arange(6.0).view(3, 2, 1, 1)
    assert stack(x, 2).flatten(1).tolist() == [[0, 1], [2, 3], [4, 5]] * 2
    assert unstack(stack(x, 4).flatten(1), 4).tolist() == [[[0, 1], [2, 3], [4, 5]]] * 4


@pytest.mark.parametrize("momentum", [0.1, 0.0, None])
def test_batch_norm_of_channels_last_features_is_that_of_others(momentum):
    one, other = (tiny_supernet().train().stages[8].bn for _ in range(2))
    x = torch.randn(6, 5, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    inputs = [x.clone().requires_grad_(), x.contiguous(memory_format=torch.channels_last).requires_grad_()]
    for norm, features in zip((one, other), inputs, strict=True):
        norm.momentum = momentum
        norm(features).square().sin().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-9, atol=1e-10)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-12, atol=0)
    torch.testing.assert_close(other.weight.grad, one.weight.grad, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(other.bias.grad, one.bias.grad, rtol=1e-9, atol=1e-10)


def test_a_stacked_batch_leaves_running_statistics_alone_where_one_by_one_would():
    supernet = tiny_supernet().eval()
    before = buffers_of(supernet)
    images, _ = random_batch()
    archs = random_archs(supernet.domain, 3, seed=3)
    with batch_statistics(supernet):
        torch.testing.assert_close(
            logits_of(supernet, images, archs),
            torch.stack([logits_of(supernet, images, arch) for arch in archs]),
            rtol=1e-10,
            atol=1e-10,
        )
    assert_same(buffers_of(supernet), before)


def test_a_stacked_batch_is_refused_where_its_archs_have_no_statistics_of_their_own():
    supernet = tiny_supernet().eval()
    images, _ = random_batch()
    with pytest.raises(RuntimeError, match="put the batch norms into training mode"):
        logits_of(supernet, images, [supernet.smallest, supernet.largest])
    supernet.train()
    for norm in supernet.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
    with pytest.raises(RuntimeError, match="cumulative statistics are estimated for one arch at a time"):
        logits_of(supernet, images, [supernet.smallest, supernet.largest])


def test_a_copied_supernet_has_an_active_subnet_of_its_own():
    supernet = tiny_supernet().eval()
    twin = copy.deepcopy(supernet)
    images, _ = random_batch()
    expected = logits_of(supernet, images, supernet.smallest)
    largest = supernet(images)
    active_subnet(twin, twin.smallest)
    assert torch.equal(twin(images), expected)
    assert torch.equal(supernet(images), largest)


def test_a_supernet_is_made_once():
    supernet = tiny_supernet()
    with pytest.raises(ValueError, match="the space is a supernet already"):
        make_supernet(supernet)


def test_a_supernet_keeps_the_choices_and_names_of_its_space():
    space = tiny_space()
    names = list(space.state_dict())
    supernet = make_supernet(space)
    assert supernet is space
    assert list(supernet.state_dict()) == names
    assert supernet.simplify().keys() == tiny_space().simplify().keys()


class OneStageSpace(ChainSpace):
    """A space of one stage, made by a function from a choice of 2 or 3 channels, and a head."""

    def __init__(self, stage):
        super().__init__(WidthForm("one-stage", ((2, 3),)), 8)
        width = nni.choice("w1", [2, 3])
        self.stages = nn.ModuleList([stage(width), nn.Flatten(), MutableLinear(4 * 64, 10)])


def kernel_choice(width):
    return nn.Sequential(MutableConv2d(1, 4, nni.choice("k", [1, 3]), padding="same"))


def classifier_choice(width):
    return nn.Sequential(MutableLinear(64, nni.choice("k", [4, 8])))


def width_expression(width):
    return nn.Sequential(MutableConv2d(1, 2 * width, 3, padding=1))


def layer_choice(width):
    return LayerChoice([nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 3, padding=1)], label="layer")


def fixed_batch_norm(width):
    return nn.Sequential(
        MutableConv2d(1, width, 3, padding=1),
        MutableBatchNorm2d(width),
        MutableConv2d(width, 4, 3, padding=1),
        MutableBatchNorm2d(4),
    )


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (kernel_choice, r"stages\.0\.0: no slimmable module serves a choice of kernel_size"),
        (classifier_choice, r"stages\.0\.0: no slimmable module serves a choice of out_features"),
        (width_expression, r"stages\.0\.0: no slimmable module serves a choice of out_channels"),
        (layer_choice, r"stages\.0: no slimmable module serves the choices of a LayerChoice"),
    ],
)
def test_choices_that_no_slimmable_module_serves_are_refused(stage, message):
    with pytest.raises(TypeError, match=message):
        make_supernet(OneStageSpace(stage))


def test_a_batch_norm_of_fixed_width_is_normalised_arch_by_arch_too():
    supernet = make_supernet(OneStageSpace(fixed_batch_norm)).double().train()
    randomize(supernet, seed=1)
    twin = copy.deepcopy(supernet)
    images, _ = random_batch()
    archs = [supernet.smallest, supernet.largest]
    expected = torch.stack([logits_of(twin, images, arch) for arch in archs])
    torch.testing.assert_close(logits_of(supernet, images, archs), expected, rtol=1e-10, atol=1e-10)
    assert_close(buffers_of(supernet), buffers_of(twin))


def fastest_median(action, arguments):
    """Return the least of 5 medians over all arguments, in ms, which other work on the machine can only raise."""
    medians = []
    for _ in range(5):
        times = []
        for argument in arguments:
            start = time.perf_counter()
            action(argument)
            times.append(time.perf_counter() - start)
        medians.append(statistics.median(times))
    return 1000 * min(medians)


def test_on_the_released_space_setting_and_extracting_a_subnet_take_a_fraction_of_a_step():
    supernet = make_supernet(ResNet20Space())
    archs = random_archs(supernet.domain, 50)
    assert fastest_median(lambda arch: active_subnet(supernet, arch), archs) <= 0.2
    assert fastest_median(lambda arch: sub_state_dict(supernet, arch), archs) <= 2


def test_one_arch_after_several_runs_alone_and_unmasked():
    supernet = tiny_supernet().eval()
    first, second = random_archs(supernet.domain, 2)
    images, _ = random_batch()
    with active_subnet(supernet, first):
        expected = supernet(images)
    active_subnet(supernet, [first, second])
    active_subnet(supernet, first)
    assert supernet.active.masks is None
    assert torch.equal(supernet(images), expected)
